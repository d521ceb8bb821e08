"""The fit of SEID's start to the sampled views: photometric, with outlines and a little depth.

Unlike score distillation it has fixed targets, so a hundred steps are enough. Materials and light have been
fitted to the views before, and go on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.body.regions import HAND
from specularip.cameras import Cameras
from specularip.fitting.point_init import neighbours
from specularip.kernels.async_transfer import StepMetrics, copy_async
from specularip.raster import Raster
from specularip.stages.detail import detail_weights
from specularip.stages.fusion import DEPTH_GAIN, DepthViews
from specularip.stages.guide import draw
from specularip.stages.initial_state import AvatarState
from specularip.stages.settings import ViewFitConfig
from specularip.training.densify import DensityConfig, densify_and_prune
from specularip.training.optimizer import SHARED, set_rates
from specularip.training.parallel import SINGLE_RANK, Ranks
from specularip.training.step import take_step

EMPTY = 0.02
"""Alpha below which a pixel is background."""
NEIGHBOURS = 6
"""How many neighbours a Gaussian moves along with."""
EXPOSURE = 1.06
"""Largest factor between the exposures of the views."""
RATE_DECAY = 0.8
"""Learning rates fall linearly by this share over the fit; that of the specular head is constant."""


@dataclass(frozen=True)
class ViewTargets:
    """V views as targets, on the device of the Gaussians: cameras; images [V,S,S,4], RGB over the background
    and alpha; depths [V,S,S,1] in metres, which count where `measured` [V,S,S,1] is 1; distances [V] of the
    cameras from their targets; weights [V,S,S,1] of the pixels, and of their colours alone."""

    cameras: Cameras
    images: Tensor
    depths: Tensor
    measured: Tensor
    distances: Tensor
    weights: Tensor
    color_weights: Tensor


def view_targets(images: Tensor, views: DepthViews, device: torch.device | str = "cpu") -> ViewTargets:
    """Sampled images [V,5,S,S] as targets; views: the same, decoded.

    Colours do not count at outlines: what is drawn softly there would become streaks on the surface, seen
    from the side.
    """
    weights = detail_weights(views.depths, views.solid, views.cameras)
    mixed = ~(views.surface | (views.alphas < EMPTY))
    mixed = F.max_pool2d(mixed.float()[:, None], 3, 1, 1)[:, 0]
    return ViewTargets(
        views.cameras.to(device),
        images[:, :4].permute(0, 2, 3, 1).contiguous().to(device),
        views.depths[..., None].to(device),
        views.surface[..., None].float().to(device),
        views.distances.to(device),
        weights[..., None].to(device),
        (weights * (1 - mixed))[..., None].to(device),
    )


def fit_views(
    state: AvatarState,
    targets: ViewTargets,
    config: ViewFitConfig,
    background: float,
    max_points: int,
    after_step: Callable[[int, StepMetrics], None],
    first_step: int = 0,
    ranks: Ranks = SINGLE_RANK,
) -> None:
    """Fit Gaussians and specular head to the views, from `first_step` on, changing `state` in place.

    after_step and ranks: as for `seid`.
    """
    targets = with_equal_exposure(targets, state, background)
    graph = neighbours(state.params["means"], NEIGHBOURS)
    density = DensityConfig(max_points=max_points, grow_share=config.grow_share, min_opacity=0.05)
    densify_after = {round(share * config.steps) for share in config.densify_at}
    local = ranks.local_slice(config.views_per_step)
    device = targets.images.device
    size = (targets.cameras.width, targets.cameras.height)
    for step in range(first_step, config.steps):
        share = step / config.steps
        set_rates(state.optimizer, 1.0 - RATE_DECAY * share, {SHARED: 1.0})
        rows = copy_async(step_rows(step, config.views_per_step, len(targets.images))[local], device)
        raster = _draw(state, targets.cameras[rows], background)
        raster.means2d.retain_grad()
        color, alpha, depth = _differences(raster, targets, rows)
        loss = config.color_weight * color + config.alpha_weight * alpha + config.depth_weight * depth
        loss = loss + _regularise(state, graph, share, config)
        finite = take_step(state, loss, ranks)
        if raster.means2d.grad is not None:
            state.screen_gradients.accumulate(raster.means2d.grad, raster.radii * finite, size, ranks)
        if step + 1 in densify_after:
            _densify(state, density)
            graph = neighbours(state.params["means"], NEIGHBOURS)
        after_step(
            step + 1,
            StepMetrics(
                {"loss": loss, "l1": color, "alpha": alpha, "depth": depth, "skipped": state.skipped},
                points=len(state),
            ),
        )


@torch.no_grad()
def with_equal_exposure(targets: ViewTargets, state: AvatarState, background: float) -> ViewTargets:
    """The targets with colours scaled, in each view and channel, to the mean of the renders of `state`, by
    EXPOSURE at most: sampled views differ slightly in exposure and tint, which is no reflection. The views'
    mean exposure stays."""
    ratios = []
    for view in range(len(targets.images)):
        raster = _draw(state, targets.cameras[view], background)
        color, alpha = targets.images[view].split([3, 1], -1)
        both = (raster.alpha[0] > 0.5) & (alpha > 0.5)
        ratios.append((raster.image[0] * both).sum((0, 1)) / (color * both).sum((0, 1)).clamp_min(1e-6))
    log_ratio = torch.stack(ratios).clamp(1 / EXPOSURE, EXPOSURE).log()
    factor = (log_ratio - log_ratio.mean(0)).exp()[:, None, None]
    color, alpha = targets.images.split([3, 1], -1)
    empty = background * (1 - alpha)
    return replace(targets, images=torch.cat([empty + factor * (color - empty), alpha], -1))


def step_rows(step: int, count: int, views: int) -> Tensor:
    """The views of a step, `count` of `views`: all views in random order, again and again."""
    at = torch.arange(step * count, (step + 1) * count)
    orders = [
        torch.randperm(views, generator=torch.Generator().manual_seed(epoch))
        for epoch in range(int(at[0]) // views, int(at[-1]) // views + 1)
    ]
    return torch.cat(orders)[at - int(at[0]) // views * views]


def _densify(state: AvatarState, density: DensityConfig) -> None:
    """Density control, after which new Gaussians are as far from their anchors as their parents were."""
    before = state.params["means"].detach()
    change = densify_and_prune(state, density)
    state.ties["anchors"] = state.ties["anchors"] + state.params["means"].detach() - before[change.parents]


def _draw(state: AvatarState, cameras: Cameras, background: float) -> Raster:
    return draw(state.gaussians, state.shared, cameras, background, depth=True)[0]


def _differences(raster: Raster, targets: ViewTargets, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted absolute differences of colour, alpha and encoded depth from the targets of the views
    `rows`."""
    color, alpha = targets.images[rows].split([3, 1], -1)
    weights, color_weights = targets.weights[rows], targets.color_weights[rows]
    scale = DEPTH_GAIN / targets.distances[rows][:, None, None, None]
    measured = targets.measured[rows] * (raster.alpha.detach() > 0.5)
    depth = (raster.depth - targets.depths[rows]).abs() * scale * measured
    color = (color_weights * (raster.image - color).abs()).mean()
    alpha = (weights * (raster.alpha - alpha).abs()).mean()
    return color, alpha, (weights * depth).mean()


def _regularise(state: AvatarState, graph: Tensor, share: float, config: ViewFitConfig) -> Tensor:
    params = state.params
    axes = params["log_scales"].sort(-1, descending=True).values
    loss = config.size_weight * (axes[:, 0].exp() - config.size_free).clamp_min(0).mean()
    stretch = (axes[:, 0] - axes[:, 1] - torch.log(axes.new_tensor(config.stretch_free))).clamp_min(0)
    loss = loss + config.needle_weight * stretch.mean()
    drift = params["means"] - state.ties["anchors"]
    # Towards where the neighbours are: their own gradients come from their own rows, in a fixed order.
    apart = drift - drift.detach()[graph].mean(1)
    stiffness = torch.where(state.ties["regions"] == HAND, config.hand_stiffness, 1.0)
    loss = loss + config.anchor_weight * (stiffness * drift.square().sum(-1)).mean()
    loss = loss + config.smooth_weight * apart.square().sum(-1).mean()
    if share > 0.5:
        opacities = params["opacity_logits"].sigmoid()
        loss = loss + config.opacity_weight * (opacities * (1 - opacities)).mean()
    return loss
