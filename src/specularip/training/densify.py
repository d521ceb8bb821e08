"""Density control: clone and split Gaussians with large screen-space gradients, prune useless ones.

Kerbl et al. 2023, section 5.2. The opacity of copies follows Rota Bulò et al. 2024, 1 - sqrt(1 - alpha), so
that two copies in one place composite to the opacity of the original.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from specularip.errors import UserError
from specularip.gaussians import rotation_matrices
from specularip.training.gradients import ScreenGradients
from specularip.training.optimizer import select_rows
from specularip.training.state import TrainState
from specularip.training.step import FIXED

SPLIT_SHRINK = 1.6
"""Factor by which the axes of a split Gaussian's halves are shorter than its own."""


@dataclass(frozen=True)
class DensityConfig:
    """Thresholds of density control. Lengths in metres."""

    max_points: int = 24_000
    grad_threshold: float = 0.0
    """Mean screen-space gradient (per half image, as in 3DGS) above which a Gaussian may densify."""
    grow_share: float = 0.08
    """At most this share of all Gaussians densifies at once, the largest gradients first. The gradients of
    score distillation have no natural scale: there, this share is the effective limit."""
    split_scale: float = 0.012
    """Gaussians whose longest axis exceeds this are split in two; the others are cloned."""
    min_opacity: float = 0.02
    max_scale: float = 0.08
    distance_limit: float = 0.25
    """Gaussians farther than this from every point of the surface are pruned."""
    isolation_limit: float = 0.05
    """Gaussians whose fourth nearest neighbour is farther than this are pruned."""


@dataclass(frozen=True)
class Change:
    """What a call did. parents [M]: for each Gaussian, the index before the call of the one it comes from."""

    parents: Tensor
    cloned: int
    split: int
    pruned: int


@torch.no_grad()
def densify_and_prune(state: TrainState[Any], config: DensityConfig, surface: Tensor | None = None) -> Change:
    """Prune, then clone and split the remaining Gaussians with the largest screen-space gradients, changing
    `state` in place.

    Survivors keep their Adam moments, new Gaussians start with none, and the screen-space gradients are
    reset to zero. New positions are drawn with the state's generator. surface [S,3]: points for
    `distance_limit`. Never exceeds `max_points` by densifying. Raises UserError if no Gaussian would be left.
    """
    params = state.params
    keep = _useful(state, config, surface)
    gradient = torch.where(keep, state.screen_gradients.mean(), 0.0)
    if FIXED in state.ties:
        gradient = gradient * (state.ties[FIXED] < 0.5)
    kept = int(keep.sum())
    budget = min(
        int(config.grow_share * len(keep)),
        config.max_points - kept,
        int((gradient > config.grad_threshold).sum()),
    )
    # A stable sort breaks ties by index, on every machine alike.
    grow = torch.argsort(gradient, descending=True, stable=True)[: max(budget, 0)].sort().values
    scales, opacities = params["log_scales"].exp(), params["opacity_logits"].sigmoid()
    large = scales[grow].amax(-1) > config.split_scale
    clone, split = grow[~large], grow[large]
    keep[split] = False  # its two halves replace it
    survivors = keep.nonzero()[:, 0]
    parents = torch.cat([survivors, clone, split, split])
    fresh = torch.zeros(len(parents), dtype=torch.bool, device=parents.device)
    fresh[len(survivors) :] = True
    born = parents[fresh]

    noise = torch.randn(len(born), 3, generator=state.generator).to(parents.device)
    noise[: len(clone)] *= 0.5  # a clone stays closer to its original than the halves to their parent
    means, log_scales = params["means"].clone(), params["log_scales"].clone()
    offsets = (rotation_matrices(params["quats"])[born] @ (scales[born] * noise)[..., None])[..., 0]
    thinner = params["opacity_logits"].clone()
    thinner[grow] = torch.logit(1 - (1 - opacities[grow]).clamp_min(1e-6).sqrt(), eps=1e-6)
    log_scales[split] -= torch.log(log_scales.new_tensor(SPLIT_SHRINK))
    new = {"means": means[parents], "log_scales": log_scales[parents], "opacity_logits": thinner[parents]}
    new["means"][fresh] += offsets
    _select(state, parents, fresh, new)
    return Change(parents, len(clone), len(split), len(keep) - kept)


@torch.no_grad()
def prune(state: TrainState[Any], config: DensityConfig, surface: Tensor | None = None) -> Change:
    """Prune without adding Gaussians; otherwise as `densify_and_prune`."""
    before = len(state)
    parents = _useful(state, config, surface).nonzero()[:, 0]
    _select(state, parents, torch.zeros_like(parents, dtype=torch.bool), {})
    return Change(parents, 0, 0, before - len(parents))


def _select(state: TrainState[Any], parents: Tensor, fresh: Tensor, new: dict[str, Tensor]) -> None:
    select_rows(state.params, state.optimizer, parents, fresh, new)
    state.ties = {name: tensor[parents] for name, tensor in state.ties.items()}
    state.screen_gradients = ScreenGradients.zeros(len(parents), parents.device)


def _useful(state: TrainState[Any], config: DensityConfig, surface: Tensor | None) -> Tensor:
    """The Gaussians to keep, [N] bool: finite, opaque and small enough, near the surface, not isolated.

    Raises UserError if there are none."""
    params = state.params
    finite = torch.stack([t.reshape(len(state), -1).isfinite().all(-1) for t in params.values()])
    keep = finite.all(0) & (params["opacity_logits"].sigmoid() >= config.min_opacity)
    keep &= params["log_scales"].exp().amax(-1) <= config.max_scale
    points = params["means"].detach().cpu().double().numpy()

    def drop_far(far: np.ndarray, tested: Tensor) -> None:
        keep[tested] = torch.from_numpy(~far).to(keep.device)

    if surface is not None:
        tested = keep.nonzero()[:, 0]
        tree = cKDTree(surface.detach().cpu().double().numpy())
        distance, _ = tree.query(points[tested.cpu().numpy()], distance_upper_bound=config.distance_limit)
        drop_far(~np.isfinite(distance), tested)
    tested = keep.nonzero()[:, 0]
    if len(tested) > 4:
        near = points[tested.cpu().numpy()]
        distance, _ = cKDTree(near).query(near, k=[5], distance_upper_bound=config.isolation_limit)
        drop_far(~np.isfinite(distance[:, 0]), tested)
    if not bool(keep.any()):
        raise UserError(
            "pruning left no Gaussians (all transparent, oversized or stray): "
            "use another --seed or a lower guidance scale"
        )
    return keep
