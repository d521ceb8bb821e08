"""Stage 2, SCR: Specular-Consistency Refinement.

Orbit views of the avatar are refined by the same prior with little noise, each group of views looking at its
key views through mutual self-attention (`diffusion.refine`), and then serve as fixed targets: a photometric
and a perceptual loss fit the Gaussians *and* the specular head to all of them at once. What no single set of
colours can explain from all sides, the specular head must.
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
from specularip.stages.guide import Guide, PhotoAnchor, as_images, draw
from specularip.stages.perceptual import Perceptual, UnetFeatures
from specularip.stages.seid import PHOTO_WEIGHT, specular_penalty
from specularip.stages.settings import ScrConfig
from specularip.stages.views import full_body
from specularip.training.parallel import ALONE, Team
from specularip.training.state import State, set_rates, take_step

SLOWED = {
    **dict.fromkeys(("means", "quats", "log_scales", "opacity_logits"), 0.25),
    **dict.fromkeys(("latents", "normal_residuals", "head"), 0.5),
}
"""How much slower than in SEID things move. Geometry: the targets are sharper, not different. The specular
branch: few views tempt the latents to memorise them."""
RATES_FALL = 0.9
"""Learning rates fall by this share over the fit."""


@dataclass(frozen=True)
class Targets:
    """Refined views: viewmats [V,4,4], Ks [V,3,3] for renders of width x height pixels, images [V,C,h,w] in
    0..1, of the same views at the size at which they are compared."""

    viewmats: Tensor
    Ks: Tensor
    images: Tensor
    width: int
    height: int

    def cameras(self, rows: Tensor) -> Cameras:
        return Cameras(self.viewmats[rows], self.Ks[rows], self.width, self.height)

    def pack(self) -> dict[str, Any]:
        return dict(vars(self))

    @staticmethod
    def unpack(packed: dict[str, Any], device: torch.device | str = "cpu") -> Targets:
        """The inverse of `pack`, on `device`."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in packed.items()}
        return Targets(**moved)


def orbits(config: ScrConfig) -> list[tuple[Framing, int]]:
    """The orbits of the stage: full-body views, and half as many of each closer framing (at least 8, so that
    each orbit has its own key views)."""
    count = config.orbit_views
    whole = (full_body(config.distance, config.fov_y_deg), count)
    if not config.close_ups:
        return [whole]
    closer = max(count // 2, 8)
    return [whole, (UPPER, closer), (LOWER, closer), (HEAD, max(3 * count // 4, 8))]


@torch.no_grad()
def make_targets(state: State, guide: Guide, after_step: Callable[[int, int], None]) -> Targets:
    """Render the orbits and refine them. after_step(done, total) is called after every denoising step."""
    config = guide.config.scr
    guidance = config.guidance or guide.config.guidance
    groups = orbits(config)
    total, done = config.refine_steps * len(groups), 0
    viewmats, Ks, images = [], [], []

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
        # A few at a time: of large renders, all that the rasteriser sorts would not fit beside each other.
        renders = [
            as_images(
                draw(state.gaussians, state.head, views.cameras[rows], guide.config.background)[0],
                guide.prior.image_channels,
            )
            for rows in torch.arange(views_count).split(config.refine_batch)
        ]
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
            batch=config.refine_batch,
            vae_batch=config.vae_batch,
            progress=count,
        )
        done += config.refine_steps
        cameras, refined = cropped(views.cameras, refined, config)
        viewmats.append(cameras.viewmats)
        Ks.append(cameras.Ks)
        images.append(refined)
    targets = Targets(torch.cat(viewmats), torch.cat(Ks), torch.cat(images), cameras.width, cameras.height)
    return Targets.unpack(targets.pack(), guide.prior.device)


def cropped(cameras: Cameras, images: Tensor, config: ScrConfig) -> tuple[Cameras, Tensor]:
    """Cameras that see the part `config.crop` of each view, and that part of `images` [V,C,S,S], shrunk by
    `config.shrink`."""
    top, bottom, left, right = (round(share * cameras.width) for share in config.crop)
    Ks = cameras.Ks.clone()
    Ks[:, 0, 2] -= left
    Ks[:, 1, 2] -= top
    looking = Cameras(cameras.viewmats, Ks, right - left, bottom - top)
    scale = images.shape[-1] / cameras.width
    top, bottom, left, right = (round(edge * scale) for edge in (top, bottom, left, right))
    part = images[:, :, top:bottom, left:right]
    return looking, resized(
        part, (round(part.shape[2] * config.shrink), round(part.shape[3] * config.shrink))
    )


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B,C,H,W] averaged over areas to `size` (height, width)."""
    return images if images.shape[-2:] == size else F.adaptive_avg_pool2d(images, size)


def fit(
    state: State,
    guide: Guide,
    photo: PhotoAnchor | None,
    targets: Targets,
    perceptual: Perceptual | None,
    first_step: int,
    after_step: Callable[[int, StepMetrics], None],
    team: Team = ALONE,
) -> None:
    """Fit Gaussians and head to the targets from `first_step` on, changing `state` in place.

    perceptual None: only colours are compared. With a `team`, each process takes its share of the views.
    """
    config, regularise = guide.config.scr, guide.config.seid
    mine = team.share(config.views_per_step)
    compare = comparison(targets, perceptual)
    for step in range(first_step, config.fit_steps):
        factor = 1.0 - RATES_FALL * step / config.fit_steps
        set_rates(state.optimizer.param_groups, regularise.rates, factor, SLOWED)
        drawn = torch.randperm(len(targets.images), generator=state.generator)[: config.views_per_step]
        rows = copy_async(drawn.sort().values[mine], targets.images.device)
        raster, specular = draw(state.gaussians, state.head, targets.cameras(rows), guide.config.background)
        photometric, likeness = compare(as_images(raster, targets.images.shape[1]), rows)
        loss = config.l1_weight * photometric + config.perceptual_weight * likeness
        loss = loss + regularise.specular_weight * specular_penalty(specular, state.gaussians.regions)
        face = ownership = None
        if photo is not None:
            ownership = photo.ownership(state.gaussians)
            face = PHOTO_WEIGHT * photo.loss(state.gaussians, state.head, ownership, guide.config.background)
        take_step(state, loss, face, ownership, team)
        log = StepMetrics(
            {
                "loss": loss,
                "l1": photometric,
                "perceptual": likeness,
                "photo": face,
                "skipped": state.skipped,
            }
        )
        after_step(step + 1, log)


Comparison = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def comparison(targets: Targets, perceptual: Perceptual | None) -> Comparison:
    """A function of renders [B,C,H,W] of B targets and of these targets' numbers [B]: the mean absolute
    difference and the perceptual distance (0 without `perceptual`).

    On a GPU its kernels and those of its gradient are recorded once: there are hundreds of them, and it takes
    longer to start them one by one than to run them.
    """
    size = (targets.images.shape[2], targets.images.shape[3])
    wanted = [] if perceptual is None else features_of(perceptual, targets.images)

    def compare(renders: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        images = resized(renders, size)
        photometric = (images - targets.images[rows]).abs().mean()
        if perceptual is None:
            return photometric, torch.zeros_like(photometric)
        near = [feature[rows] for feature in wanted]
        return photometric, perceptual.distance(perceptual.features(images), near)

    # A prior's own features come from recordings already.
    return compare if isinstance(perceptual, UnetFeatures) else GraphedFunction(compare)


@torch.no_grad()
def features_of(perceptual: Perceptual, images: Tensor) -> list[Tensor]:
    """The perceptual features of all targets, kept for every step; on a GPU made a few at a time."""
    if not images.is_cuda:
        return perceptual.features(images)
    parts = [perceptual.features(some) for some in images.split(4)]
    return [torch.cat(layer) for layer in zip(*parts)]
