"""The state before the first step: flat grey Gaussians on the body surface, and a dim light."""

from __future__ import annotations

from dataclasses import asdict, fields

import torch

from specularip.body import Body
from specularip.gaussians import PARAMETERS, Gaussians, turned_to
from specularip.specular import LATENTS, SpecularConfig, SpecularHead
from specularip.stages.settings import RateConfig, SeidConfig
from specularip.training.optimizer import SHARED
from specularip.training.state import TrainState
from specularip.training.step import FIXED

REGION_WEIGHTS = {"head": 6.0, "neck": 1.6, "hand": 1.3, "foot": 1.2}
"""Samples per area, relative to the rest of the body: close-up views show the head."""
RADIANCE = 0.1
"""Initial radiance of the light (`SpecularConfig.radiance`). With a bright light, SEID fits highlights before
the diffuse colours."""


AvatarState = TrainState[SpecularHead]
"""What both stages optimise."""


def initial_state(
    body: Body, config: SeidConfig, seed: int, device: torch.device | str = "cpu"
) -> AvatarState:
    """`config.points` Gaussians, and a specular head of `config.lights` lobes as the shared module.

    The ties are the other fields of `Gaussians`; "anchors" [N,3]: the initial position of each Gaussian or,
    for a copy, of its ancestor; and "fixed" [N]: see `training.step`.
    """
    generator = torch.Generator().manual_seed(seed)
    points = config.points
    samples = body.to("cpu").sample_surface(points, generator, REGION_WEIGHTS)
    gaussians = Gaussians(
        means=samples.points.clone(),
        quats=turned_to(samples.normals),
        log_scales=torch.log(samples.spacing[:, None] * torch.tensor([0.85, 0.85, 0.3])),
        opacity_logits=torch.full((points,), 2.0),
        color_logits=torch.zeros(points, 3),
        latents=torch.zeros(points, LATENTS),
        normal_residuals=torch.zeros(points, 3),
        regions=samples.regions,
        bind_joints=samples.bind_joints,
        bind_weights=samples.bind_weights,
    )
    return state_of(gaussians, config, seed, generator, device)


def state_of(
    gaussians: Gaussians,
    config: SeidConfig,
    seed: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> AvatarState:
    """These Gaussians as the state before the first step, with a new specular head. See `initial_state`."""
    gaussians = gaussians.to(device)
    ties = {f.name: getattr(gaussians, f.name) for f in fields(Gaussians) if f.name not in PARAMETERS}
    ties["anchors"] = gaussians.means.clone()
    ties[FIXED] = torch.zeros_like(gaussians.opacity_logits)
    rates = adam_rates(config.rates)
    head = new_head(config, seed).to(device)
    return TrainState.create(gaussians.parameters(), ties, head, rates, generator, (0.9, 0.99), 1e-12)


def adam_rates(config: RateConfig) -> dict[str, float]:
    """The learning rates by the names of the optimizer's groups."""
    rates = asdict(config)
    rates[SHARED] = rates.pop("head")
    return rates


def new_head(config: SeidConfig, seed: int) -> SpecularHead:
    """The specular head before the first step, on the CPU."""
    return SpecularHead(SpecularConfig(config.lights, attention=True, radiance=RADIANCE), seed)
