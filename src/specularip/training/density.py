"""Density control: where the optimisation strains, Gaussians multiply; where they are useless, they go.

A strategy beside the cloud, not methods on it: `accumulate` watches the screen-space gradients,
`densify_and_prune` clones small strained Gaussians, splits large ones and prunes, `prune` only prunes. Adam's
moments follow their Gaussians. Kerbl et al. 2023, section 5.2; the opacity of copies follows Rota Bulò et al.
2024 (1 − √(1 − α)), so that two in one place cover what one did.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from specularip.errors import UserError
from specularip.gaussians import PARAMETERS, Gaussians


@dataclass(frozen=True)
class DensityConfig:
    """When Gaussians multiply and when they go. Lengths in metres."""

    max_points: int = 24_000
    grad_threshold: float = 0.0
    """Mean screen gradient (in half images, as 3DGS counts) above which a Gaussian may multiply."""
    grow_share: float = 0.08
    """At most this share of the cloud multiplies at once, the most strained first. Score distillation has no
    natural size of gradient, so this share is what rules there."""
    split_scale: float = 0.012
    """Gaussians whose longest axis is above this split in two; the others are cloned."""
    min_opacity: float = 0.02
    max_scale: float = 0.08
    distance_limit: float = 0.25
    """A Gaussian farther than this from every start point of the surface is stray."""
    isolation_limit: float = 0.05
    """A Gaussian whose fourth neighbour is farther than this is stray."""


@dataclass
class DensityStats:
    """Screen gradients since the last change: their sum [N] and the number of views that saw each Gaussian
    [N]."""

    grad_sum: Tensor
    views: Tensor

    @classmethod
    def zeros(cls, count: int, device: torch.device | str = "cpu") -> DensityStats:
        return cls(torch.zeros(count, device=device), torch.zeros(count, device=device))

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint; `DensityStats(**tensors)` restores them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Change:
    """What a call did. parents [N_new]: which old Gaussian each new one comes from, so that the caller's own
    per-Gaussian tensors can follow (`anchors = anchors[change.parents]`)."""

    parents: Tensor
    cloned: int
    split: int
    pruned: int


@torch.no_grad()
def accumulate(stats: DensityStats, means2d_grad: Tensor, radii: Tensor, size: tuple[int, int]) -> None:
    """Add one step's screen gradients to `stats`, in place.

    means2d_grad [B,N,2]: dL/d(pixel position), the `.grad` of `Raster.means2d`. radii [B,N]: 0 = not drawn.
    size: (width, height) of the render. Gradients count per half image, so that sizes compare.
    """
    count = len(stats.grad_sum)
    if means2d_grad.ndim != 3 or means2d_grad.shape[1:] != (count, 2):
        raise ValueError(f"means2d_grad must be [B,{count},2], got {list(means2d_grad.shape)}")
    if radii.shape != means2d_grad.shape[:2]:
        raise ValueError(f"radii must be {list(means2d_grad.shape[:2])}, got {list(radii.shape)}")
    # Not times a tensor of `size`: copying that to a GPU would wait for all that is under way there.
    x, y = (part * side for part, side in zip(means2d_grad.unbind(-1), size))
    length = (torch.stack([x, y], -1) / 2).norm(dim=-1)
    seen = (radii > 0) & length.isfinite()
    stats.grad_sum += torch.where(seen, length, 0.0).sum(0)
    stats.views += seen.sum(0)


@torch.no_grad()
def densify_and_prune(
    gaussians: Gaussians,
    optimizer: torch.optim.Optimizer,
    stats: DensityStats,
    config: DensityConfig,
    generator: torch.Generator,
    surface: Tensor | None = None,
) -> Change:
    """Prune, then clone and split the most strained of the rest; changes `gaussians`, `optimizer` and `stats`
    in place.

    The optimizer has one group per optimised field, named after it (`{"params": [g.means], "name":
    "means"}`). Survivors keep their Adam moments, new Gaussians start with none, and `stats` starts again at
    zero. New points are drawn with `generator` (a CPU one), so that a seed fixes them. surface [M,3]: start
    points for `distance_limit`. Never exceeds `max_points`. Raises UserError when no Gaussian would be left.
    """
    keep = _useful(gaussians, config, surface)
    strain = torch.where(keep, stats.grad_sum / stats.views.clamp_min(1), 0.0)
    kept = int(keep.sum())
    budget = min(
        int(config.grow_share * len(keep)),
        config.max_points - kept,
        int((strain > config.grad_threshold).sum()),
    )
    # A stable sort: ties are broken by position, on every machine alike.
    grow = torch.argsort(strain, descending=True, stable=True)[: max(budget, 0)].sort().values
    large = gaussians.scales[grow].amax(-1) > config.split_scale
    clone, split = grow[~large], grow[large]
    keep[split] = False  # its two halves replace it
    survivors = keep.nonzero()[:, 0]
    parents = torch.cat([survivors, clone, split, split])
    fresh = torch.zeros(len(parents), dtype=torch.bool, device=parents.device)
    fresh[len(survivors) :] = True
    born = parents[fresh]

    noise = torch.randn(len(born), 3, generator=generator).to(parents.device)
    noise[: len(clone)] *= 0.5  # a clone lies closer to its original than halves lie to each other's middle
    means, log_scales = gaussians.means.clone(), gaussians.log_scales.clone()
    offsets = (gaussians.rotations[born] @ (gaussians.scales[born] * noise)[..., None])[..., 0]
    thinner = gaussians.opacity_logits.clone()
    thinner[grow] = torch.logit(1 - (1 - gaussians.opacities[grow]).clamp_min(1e-6).sqrt(), eps=1e-6)
    log_scales[split] -= torch.log(log_scales.new_tensor(1.6))
    new = {"means": means[parents], "log_scales": log_scales[parents], "opacity_logits": thinner[parents]}
    new["means"][fresh] += offsets
    _rebuild(gaussians, optimizer, stats, parents, fresh, new)
    return Change(parents, len(clone), len(split), len(keep) - kept)


@torch.no_grad()
def prune(
    gaussians: Gaussians,
    optimizer: torch.optim.Optimizer,
    stats: DensityStats,
    config: DensityConfig,
    surface: Tensor | None = None,
) -> Change:
    """Only remove; as `densify_and_prune` otherwise."""
    parents = _useful(gaussians, config, surface).nonzero()[:, 0]
    before = len(gaussians)
    _rebuild(gaussians, optimizer, stats, parents, torch.zeros_like(parents, dtype=torch.bool), {})
    return Change(parents, 0, 0, before - len(parents))


def _useful(gaussians: Gaussians, config: DensityConfig, surface: Tensor | None) -> Tensor:
    """Which Gaussians stay, [N] bool: finite, opaque enough, small enough, and near to the body and to
    others."""
    finite = torch.stack(
        [t.reshape(len(gaussians), -1).isfinite().all(-1) for t in gaussians.parameters().values()]
    )
    keep = finite.all(0) & (gaussians.opacities >= config.min_opacity)
    keep &= gaussians.scales.amax(-1) <= config.max_scale
    points = gaussians.means.detach().cpu().double().numpy()

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
            "every Gaussian faded, burst or drifted away; restart with another seed or a lower guidance"
        )
    return keep


def _rebuild(
    gaussians: Gaussians,
    optimizer: torch.optim.Optimizer,
    stats: DensityStats,
    parents: Tensor,
    fresh: Tensor,
    new: dict[str, Tensor],
) -> None:
    """Put rows `parents` (or the tensors of `new`) in place of every field, with their optimiser state."""
    groups = {group.get("name"): group for group in optimizer.param_groups}
    before = len(gaussians)
    for name, old in gaussians.tensors().items():
        tensor = new.get(name, old.detach()[parents]).detach().clone()
        setattr(gaussians, name, tensor)
        if name not in PARAMETERS:
            continue
        tensor.requires_grad_(old.requires_grad)
        if (group := groups.get(name)) is None:
            continue
        if len(group["params"]) != 1 or group["params"][0] is not old:
            raise ValueError(f"optimizer group {name!r} must hold gaussians.{name} and nothing else")
        group["params"] = [tensor]
        state = optimizer.state.pop(old, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.ndim and len(value) == before:
                state[key] = value[parents].clone()
                state[key][fresh] = 0
        if state:
            optimizer.state[tensor] = state
    zeros = DensityStats.zeros(len(parents), stats.grad_sum.device)
    stats.grad_sum, stats.views = zeros.grad_sum, zeros.views
