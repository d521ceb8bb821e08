"""Stage 2, SCR: Specular-Consistency Refinement.

Renders of an orbit are refined by the same prior with little noise, where mutual self-attention ties each
group of views to its key views (`diffusion.refine`). The refined views are then fixed targets: a photometric
and a perceptual loss fit the Gaussians *and* the specular head to all of them at once. The specular head has
to explain what diffuse colours cannot: differences between views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.cameras import HEAD, LOWER, UPPER, Cameras, Framing, orbit_views
from specularip.diffusion.refine import refine
from specularip.kernels.async_transfer import StepMetrics, copy_async
from specularip.kernels.cuda_graphs import GraphedFunction
from specularip.stages.detail import detail_weights
from specularip.stages.guide import Guide, as_images, draw
from specularip.stages.initial_state import AvatarState, adam_rates
from specularip.stages.perceptual import Perceptual, UnetFeatures
from specularip.stages.seid import specular_penalty
from specularip.stages.settings import ScrConfig
from specularip.stages.views import full_body
from specularip.training.optimizer import set_initial_rates, set_rates
from specularip.training.parallel import SINGLE_RANK, Ranks
from specularip.training.step import take_step

RATE_DECAY = 0.9
"""Learning rates fall linearly by this share over the fit."""


@dataclass(frozen=True)
class Targets:
    """Refined views: viewmats [V,4,4] and Ks [V,3,3] for renders of width x height pixels, and images
    [V,C,h,w] in 0..1 of the same views, at the size at which they are compared. weights [V,1,h,w] of their
    pixels in the photometric loss; None: all alike."""

    viewmats: Tensor
    Ks: Tensor
    images: Tensor
    width: int
    height: int
    weights: Tensor | None = None

    def cameras(self, rows: Tensor) -> Cameras:
        """The cameras of the views at the indices `rows` [n]."""
        return Cameras(self.viewmats[rows], self.Ks[rows], self.width, self.height)

    def pack(self) -> dict[str, Any]:
        """The fields as a dict, for a checkpoint."""
        return dict(vars(self))

    @staticmethod
    def unpack(packed: dict[str, Any], device: torch.device | str = "cpu") -> Targets:
        """The inverse of `pack`, on `device`."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in packed.items()}
        return Targets(**moved)


def orbits(config: ScrConfig) -> list[tuple[Framing, int]]:
    """The orbits of the stage and their numbers of views: full body, and fewer of each closer framing (at
    least 8, so that each orbit has its own key views)."""
    count = config.orbit_views
    whole = (full_body(config.distance, config.fov_y_deg), count)
    if not config.close_ups:
        return [whole]
    closer = max(count // 2, 8)
    return [whole, (UPPER, closer), (LOWER, closer), (HEAD, max(3 * count // 4, 8))]


@torch.no_grad()
def make_targets(state: AvatarState, guide: Guide, after_step: Callable[[int, int], None]) -> Targets:
    """Render the orbits and refine them. after_step(done, total) is called after every denoising step."""
    config = guide.config.scr
    guidance = config.guidance or guide.config.guidance
    groups = orbits(config)
    total, done = config.refine_steps * len(groups), 0
    viewmats, Ks, images = [], [], []
    orbit_cameras, depths, solid = [], [], []

    def count(step: int, steps: int) -> None:
        after_step(done + step, total)

    for framing, views_count in groups:
        views = orbit_views(
            views_count,
            framing,
            size=config.render_size or guide.config.seid.render_size,
            body_height=guide.body.height,
            elevation_deg=config.elevation_deg,
        )
        # In batches: the rasteriser's sorting buffers for all large renders at once would not fit in memory.
        renders = []
        for rows in torch.arange(views_count).split(config.refine_batch):
            raster, _ = draw(
                state.gaussians,
                state.shared,
                views.cameras[rows],
                guide.config.background,
                depth=guide.prior.shows_depth,
            )
            renders.append(as_images(raster, guide.prior.image_channels, views.distances[rows]))
            if guide.prior.shows_depth:
                depths.append(raster.depth.squeeze(-1))
                solid.append(raster.alpha.squeeze(-1) > 0.5)
        refined = refine(
            guide.prior,
            torch.cat(renders).clamp(0, 1),
            guide.condition(views, guidance, config.refine_size or None),
            views.azimuth_deg,
            refine_steps=config.refine_steps,
            ddim_steps=config.ddim_steps,
            scale=guidance.scale,
            rescale=guidance.rescale,
            generator=state.generator,
            size=config.refine_size or None,
            own_share=config.own_share,
            together=config.refine_together,
            batch=config.refine_batch,
            vae_batch=config.vae_batch,
            progress=count,
        )
        if guide.photo is not None:
            refined = guide.photo.over(refined, views.cameras, views.distances)
        done += config.refine_steps
        cameras, refined = cropped(views.cameras, refined[:, :4], config)  # depth is not fitted again
        orbit_cameras.append(views.cameras)
        viewmats.append(cameras.viewmats)
        Ks.append(cameras.Ks)
        images.append(refined)
    weights = None
    if guide.prior.shows_depth:
        weights = detail_weights(torch.cat(depths), torch.cat(solid), Cameras.joined(orbit_cameras))
        refined_size = (config.refine_size or guide.prior.image_size,) * 2
        weights = F.interpolate(weights[:, None], refined_size)
        weights = cropped(views.cameras, weights, config)[1]
    targets = Targets(
        torch.cat(viewmats), torch.cat(Ks), torch.cat(images), cameras.width, cameras.height, weights
    )
    return Targets.unpack(targets.pack(), guide.prior.device)


def cropped(cameras: Cameras, images: Tensor, config: ScrConfig) -> tuple[Cameras, Tensor]:
    """Cameras of the part `config.crop` of each view, and that part of `images` [V,C,S,S], downsampled by
    `config.shrink`."""
    top, bottom, left, right = (round(share * cameras.width) for share in config.crop)
    Ks = cameras.Ks.clone()
    Ks[:, 0, 2] -= left
    Ks[:, 1, 2] -= top
    cropped_cameras = Cameras(cameras.viewmats, Ks, right - left, bottom - top)
    scale = images.shape[-1] / cameras.width
    top, bottom, left, right = (round(edge * scale) for edge in (top, bottom, left, right))
    part = images[:, :, top:bottom, left:right]
    return cropped_cameras, resized(
        part, (round(part.shape[2] * config.shrink), round(part.shape[3] * config.shrink))
    )


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B,C,H,W] downsampled to `size` (height, width) by averaging areas."""
    return images if images.shape[-2:] == size else F.adaptive_avg_pool2d(images, size)


def fit_targets(
    state: AvatarState,
    guide: Guide,
    targets: Targets,
    perceptual: Perceptual | None,
    first_step: int,
    after_step: Callable[[int, StepMetrics], None],
    ranks: Ranks = SINGLE_RANK,
) -> None:
    """Fit Gaussians and head to the targets from `first_step` on, changing `state` in place.

    perceptual None: the photometric loss alone. after_step and ranks: as for `seid`.
    """
    config, specular_weight = guide.config.scr, guide.config.seid.specular_weight
    background = guide.config.background
    local = ranks.local_slice(config.views_per_step)
    compare = comparison(targets, perceptual)
    set_initial_rates(state.optimizer, adam_rates(config.rates))
    for step in range(first_step, config.fit_steps):
        set_rates(state.optimizer, 1.0 - RATE_DECAY * step / config.fit_steps)
        drawn = torch.randperm(len(targets.images), generator=state.generator)[: config.views_per_step]
        rows = copy_async(drawn.sort().values[local], targets.images.device)
        raster, specular = draw(state.gaussians, state.shared, targets.cameras(rows), background)
        photometric, perceived = compare(as_images(raster, targets.images.shape[1]), rows)
        loss = config.l1_weight * photometric + config.perceptual_weight * perceived
        if specular_weight:
            loss = loss + specular_weight * specular_penalty(specular, state.ties["regions"])
        take_step(state, loss, ranks)
        metrics = StepMetrics(
            {
                "loss": loss,
                "l1": photometric,
                "perceptual": perceived,
                "skipped": state.skipped,
            },
            points=len(state),
        )
        after_step(step + 1, metrics)


Comparison = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def comparison(targets: Targets, perceptual: Perceptual | None) -> Comparison:
    """A function of renders [B,C,H,W] and the indices [B] of their targets, which returns the mean absolute
    difference and the perceptual distance (0 without `perceptual`).

    On a GPU it is captured in a CUDA graph with its gradient: launching its hundreds of kernels one by one
    takes longer than running them.
    """
    size = (targets.images.shape[2], targets.images.shape[3])
    target_features = [] if perceptual is None else features_of(perceptual, targets.images)

    def compare(renders: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        images = resized(renders, size)
        difference = (images - targets.images[rows]).abs()
        photometric = (difference if targets.weights is None else targets.weights[rows] * difference).mean()
        if perceptual is None:
            return photometric, torch.zeros_like(photometric)
        wanted = [feature[rows] for feature in target_features]
        return photometric, perceptual.distance(perceptual.features(images), wanted)

    # UnetFeatures is not captured: the fast autoencoder that it calls replays CUDA graphs of its own.
    return compare if isinstance(perceptual, UnetFeatures) else GraphedFunction(compare)


@torch.no_grad()
def features_of(perceptual: Perceptual, images: Tensor) -> list[Tensor]:
    """The perceptual features of all targets, kept for every step; on a GPU computed in batches of 4."""
    if not images.is_cuda:
        return perceptual.features(images)
    parts = [perceptual.features(some) for some in images.split(4)]
    return [torch.cat(layer) for layer in zip(*parts)]
