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

from ..cameras import FULL, HEAD, LOWER, UPPER, Cameras, Framing, orbit_views
from ..diffusion.refine import refine
from ..losses import Perceptual
from .guide import Guide, PhotoAnchor, as_images, draw
from .seid import PHOTO_WEIGHT, specular_penalty
from .state import HEAD_RATE, RATES, State, take_step

SLOWED = {
    **dict.fromkeys(("means", "quats", "log_scales", "opacity_logits"), 0.25),
    **dict.fromkeys(("latents", "normal_residuals", "head"), 0.5),
}
"""How much slower than in SEID things move. Geometry: the targets are sharper, not different. The specular
branch: few views tempt the latents to memorise them."""


@dataclass(frozen=True)
class Targets:
    """Refined views: viewmats [V,4,4], Ks [V,3,3] for `size`², images [V,C,S,S] in 0..1."""

    viewmats: Tensor
    Ks: Tensor
    images: Tensor
    size: int

    def cameras(self, rows: Tensor) -> Cameras:
        return Cameras(self.viewmats[rows], self.Ks[rows], self.size, self.size)

    def pack(self) -> dict[str, Any]:
        return {"viewmats": self.viewmats, "Ks": self.Ks, "images": self.images, "size": self.size}


def orbits(count: int) -> list[tuple[Framing, int]]:
    """The orbits of the stage: `count` full-body views, half as many of each closer framing (at least 8, so
    that each orbit has its own key views)."""
    closer = max(count // 2, 8)
    return [(FULL, count), (UPPER, closer), (LOWER, closer), (HEAD, max(3 * count // 4, 8))]


@torch.no_grad()
def make_targets(state: State, guide: Guide, after_step: Callable[[int, int], None]) -> Targets:
    """Render the orbits and refine them. after_step(done, total) is called after every denoising step."""
    config = guide.config.scr
    size = guide.config.seid.render_size
    groups = orbits(config.orbit_views)
    total, done = config.refine_steps * len(groups), 0
    viewmats, Ks, images = [], [], []

    def count(step: int, steps: int) -> None:
        after_step(done + step, total)

    for framing, views_count in groups:
        views = orbit_views(
            views_count, framing, size=size, body_height=guide.body.height, elevation_deg=config.elevation_deg
        )
        raster, _ = draw(state.gaussians, state.head, views.cameras, guide.config.background)
        refined = refine(
            guide.prior,
            as_images(raster, guide.prior.image_channels).clamp(0, 1),
            guide.condition(views),
            views.azimuth_deg,
            refine_steps=config.refine_steps,
            ddim_steps=config.ddim_steps,
            scale=guide.config.guidance.scale,
            rescale=guide.config.guidance.rescale,
            generator=state.generator,
            progress=count,
        )
        done += config.refine_steps
        viewmats.append(views.cameras.viewmats)
        Ks.append(views.cameras.Ks)
        images.append(refined)
    return Targets(torch.cat(viewmats), torch.cat(Ks), torch.cat(images), size)


def fit(
    state: State,
    guide: Guide,
    photo: PhotoAnchor | None,
    targets: Targets,
    perceptual: Perceptual,
    first_step: int,
    after_step: Callable[[int, dict[str, float]], None],
) -> None:
    """Fit Gaussians and head to the targets from `first_step` on, changing `state` in place."""
    config = guide.config.scr
    wanted = perceptual.features(targets.images)
    for step in range(first_step, config.fit_steps):
        factor = 1.0 - 0.9 * step / config.fit_steps
        for group in state.optimizer.param_groups:
            rate = RATES.get(group["name"], HEAD_RATE)
            group["lr"] = rate * factor * SLOWED.get(group["name"], 1.0)
        rows = (
            torch.randperm(len(targets.images), generator=state.generator)[: config.views_per_step]
            .sort()
            .values
        )
        raster, specular = draw(state.gaussians, state.head, targets.cameras(rows), guide.config.background)
        images = torch.nn.functional.adaptive_avg_pool2d(
            as_images(raster, targets.images.shape[1]), targets.images.shape[-1]
        )
        photometric = (images - targets.images[rows]).abs().mean()
        likeness = perceptual.distance(perceptual.features(images), [feature[rows] for feature in wanted])
        loss = config.l1_weight * photometric + config.perceptual_weight * likeness
        loss = loss + specular_penalty(specular, state.gaussians.regions)
        log = {"l1": float(photometric.detach()), "perceptual": float(likeness.detach())}
        face = ownership = None
        if photo is not None:
            ownership = photo.ownership(state.gaussians)
            face = PHOTO_WEIGHT * photo.loss(state.gaussians, state.head, ownership, guide.config.background)
            log["photo"] = float(face.detach())
        take_step(state, loss, face, ownership)
        after_step(step + 1, {"loss": float(loss.detach()), **log})
