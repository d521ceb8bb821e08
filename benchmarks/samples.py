"""Pictures drawn from a prior alone, as the package would condition it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from specularip.cameras import Views
from specularip.diffusion.conditioning import condition_views, face_weight
from specularip.diffusion.denoiser import BODY_MAP_CHANNELS
from specularip.diffusion.loading.folder import load_prior
from specularip.diffusion.prior import Prior
from specularip.diffusion.prompts import PromptBook
from specularip.diffusion.sample import sample
from specularip.presets import preset_config

SHIPPED = Path(__file__).resolve().parents[1] / "src/specularip/assets/compact"


START = preset_config("compact").start


@dataclass(frozen=True)
class Sampling:
    """How to draw from a prior: as `generate` draws its first views, unless said otherwise. DDIM steps, scale
    of the guidance, and images at once."""

    steps: int = START.ddim_steps
    scale: float = START.scale
    batch: int = 16


@dataclass
class Asked:
    """One person to be drawn in V views: the sentence, body maps [V,4,M,M], and face crop [3,F,F] in 0..1."""

    text: str
    views: Views
    maps: Tensor
    face: Tensor


def load(folder: Path, device: str) -> Prior:
    """In the precision in which the package runs it. Exits if it is not of the kind of tools/compact."""
    prior = load_prior(folder, device=torch.device(device), dtype="auto")
    if not (prior.shows_depth and prior.pose_channels == BODY_MAP_CHANNELS):
        raise SystemExit(
            f"{folder} is not a prior of today's tools/compact, with depth and body maps: name one by --prior"
        )
    return prior


@torch.no_grad()
def draw_samples(prior: Prior, asked: Asked, seed: int, sampling: Sampling) -> Tensor:
    """The prior's images [V,5,S,S] of one person, on the CPU."""
    guidance = preset_config("compact").guidance
    scale = face_weight(asked.views.azimuth_deg, guidance.identity_weight, guidance.identity_hidden)
    condition = condition_views(
        PromptBook(prior), asked.text, "", asked.views, asked.maps, prior.encode_face(asked.face[None]), scale
    )
    generator = torch.Generator().manual_seed(seed)
    drawn = sample(
        prior,
        condition,
        steps=sampling.steps,
        scale=sampling.scale,
        rescale=START.rescale,
        last=START.last_timesteps,
        generator=generator,
        batch=sampling.batch,
    )
    return drawn.float().cpu()
