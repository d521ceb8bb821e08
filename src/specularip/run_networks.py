"""The networks of a run: the prior, the face recogniser and LPIPS. Runs in one process can share them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import torch

from specularip.diffusion.fast.accelerate import accelerate, supports
from specularip.diffusion.loading import folder as prior_folder
from specularip.diffusion.loading.sd15 import load_sd15
from specularip.diffusion.loading.settings import PriorConfig
from specularip.diffusion.loading.weights import pick_dtype
from specularip.diffusion.prior import Prior
from specularip.errors import MissingWeights, UserError
from specularip.faces.insightface import InsightFace
from specularip.lpips import NO_LPIPS, Lpips, find_lpips
from specularip.stages.settings import Config


@dataclass(frozen=True)
class Networks:
    """faces: None for a prior that takes no face embedding, and where the models are absent. lpips: None for
    a run that does without. notes: lines for the user about what is absent."""

    prior: Prior
    faces: InsightFace | None
    lpips: Lpips | None
    notes: tuple[str, ...] = ()


class KeptNetworks:
    """Keeps the networks of the last run, for the next one that needs the same."""

    def __init__(self) -> None:
        self._key: object = None
        self._networks: Networks | None = None

    def get(self, config: Config, device: torch.device) -> Networks:
        """Those of `config`. Raises UserError as `load_networks` does."""
        key = config.prior, device, _needs_lpips(config)
        if self._networks is None or key != self._key:
            self._networks = None  # before the others are loaded: two sets may not fit into memory
            self._networks = load_networks(config, device)
            self._key = key
        return self._networks


def load_networks(config: Config, device: torch.device) -> Networks:
    """What `config` needs, on `device`. Raises UserError for weights that are absent, and damaged ones."""
    lpips: Lpips | None = None
    if _needs_lpips(config):
        lpips = find_lpips(device)
        if lpips is None:
            raise UserError(f"{NO_LPIPS}; --set scr.perceptual_weight=0 does without")
    # Before the prior, which takes longer to load, so that damaged models are reported early.
    sd15 = config.prior.path == "sd15"
    faces, notes = _find_insightface(config.prior, device) if sd15 else (None, ())
    prior = load_prior(config.prior, device)
    if prior.wants_face_embedding and not sd15:
        faces, notes = _find_insightface(config.prior, device)
    return Networks(prior, faces, lpips, notes)


def load_prior(config: PriorConfig, device: torch.device | str = "cpu") -> Prior:
    """The prior that the configuration names, frozen, on `device`."""
    dtype = pick_dtype(config.dtype, device)
    if config.path == "sd15":
        try:
            prior = load_sd15(config.sources, device=device, dtype=dtype)
        except MissingWeights as error:
            raise UserError(f"{error}: `specularip models fetch --preset sd15` downloads it") from error
    else:
        shipped = str(files("specularip") / "assets" / "compact")
        path = shipped if config.path == "compact" else config.path
        prior = prior_folder.load_prior(path, device=device, dtype=dtype)
    return accelerate(prior) if config.fast and prior.device.type == "cuda" and supports(prior) else prior


def _needs_lpips(config: Config) -> bool:
    return config.scr.perceptual == "lpips" and bool(config.scr.perceptual_weight)


def _find_insightface(
    config: PriorConfig, device: torch.device
) -> tuple[InsightFace | None, tuple[str, ...]]:
    """insightface's models; None where they are absent, and a line about what that costs."""
    try:
        return InsightFace.load(config.faces, device), ()
    except MissingWeights as error:
        cost = "Until then the face is read from its landmarks alone, at a loss of likeness"
        return None, (f"{error}. {cost}",)
