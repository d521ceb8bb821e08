"""Stage 1, SEID: Specular-Enhanced Identity Distillation.

Gaussians that start on the body's skin are moved by score distillation from a prior that knows the text, the
face and the pose, while they densify and prune. Each step draws a few views (whole body, close-ups of the
upper body, the legs and the head), renders them, and lets the prior say where the pictures should go
(`diffusion.sds`). How much noise it looks through falls as AHDS says. The specular branch joins early with a
growing gain, so that what changes with the view has somewhere to go but into the diffuse colours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..body.regions import HAND, NECK
from ..body.regions import HEAD as HEAD_REGION
from ..cameras import sample_views
from ..density import DensityConfig, accumulate, densify_and_prune, prune
from ..diffusion.sds import sds
from ..diffusion.timesteps import ahds_bounds, sample_timesteps
from .guide import Guide, PhotoAnchor, as_images, draw
from .state import RATES, State, take_step

SDS_WEIGHT = 0.02
"""Puts the distillation loss, a sum over pixels, on the scale of the regularisers below."""
PHOTO_WEIGHT = 2.0
SIZE_WEIGHT, SIZE_FREE = 2.0, 0.012
"""Pull on the longest axis of Gaussians above SIZE_FREE metres: large soft ones make fuzzy silhouettes."""
ANCHOR_WEIGHT = 18.0
"""Pull of each Gaussian to where it started, per squared metre: cloth may leave the skin, dust may not."""
OPACITY_WEIGHT = 0.02
"""Towards fully there or not at all, over the last third."""
SPECULAR_WEIGHT = 0.4
"""Highlights are few: a mild pull of the specular colours to zero."""
SKIN_FACTOR = 25.0
"""The same pull is this much stronger on head, neck and hands, which are skin and hair: there a highlight
would only be the easiest way out where the photo and the prior disagree."""


def seid(
    state: State,
    guide: Guide,
    photo: PhotoAnchor | None,
    first_step: int,
    after_step: Callable[[int, dict[str, float]], None],
) -> None:
    """Run the steps from `first_step` on, changing `state` in place.

    after_step(done, log) is called after every step; it may save `state`, or raise to stop the stage.
    """
    config, body = guide.config.seid, guide.body
    channels, shape = (
        guide.prior.image_channels,
        (guide.prior.latent_channels, *[guide.prior.latent_size] * 2),
    )
    bounds = ahds_bounds(config.steps, top=config.top_timestep, bottom=config.bottom_timestep).tolist()
    density = DensityConfig(max_points=config.max_points)
    for step in range(first_step, config.steps):
        share = step / config.steps
        gain = specular_gain(share, config.specular_from)
        set_rates(state, share)
        views = sample_views(
            config.views_per_step,
            size=config.render_size,
            body_height=body.height,
            weights=config.framing_weights,
            generator=state.generator,
        )
        timesteps = sample_timesteps(
            bounds[step],
            len(views.framings),
            state.generator,
            minimum=min(20 + int(0.25 * bounds[step]), 250),
        )
        noise = torch.randn(len(views.framings), *shape, generator=state.generator)
        raster, specular = draw(state.gaussians, state.head, views.cameras, guide.config.background, gain)
        raster.means2d.retain_grad()
        distilled = sds(
            guide.prior,
            as_images(raster, channels),
            guide.condition(views),
            timesteps,
            noise,
            guide.config.guidance,
            guide.config.guidance.rescale,
        )
        loss = SDS_WEIGHT * distilled.loss + _regularise(state, share)
        if gain > 0:
            loss = loss + specular_penalty(specular, state.gaussians.regions)
        log = {
            "sds": float(distilled.loss.detach()),
            "gradient": float(distilled.grad_norm),
            "points": len(state.gaussians),
        }
        likeness = ownership = None
        if photo is not None:
            ownership = photo.ownership(state.gaussians)
            likeness = PHOTO_WEIGHT * photo.loss(
                state.gaussians, state.head, ownership, guide.config.background
            )
            log["photo"] = float(likeness.detach())
        stepped = take_step(state, loss, likeness, ownership)
        if stepped and raster.means2d.grad is not None:
            accumulate(state.stats, raster.means2d.grad, raster.radii, (config.render_size,) * 2)
        _control_density(state, density, step, guide)
        after_step(step + 1, {"loss": float(loss.detach()), **log})


def specular_penalty(specular: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """Pull of the specular colours [B,N,3] to zero, by the body region [N] of each Gaussian."""
    skin = (regions == HEAD_REGION) | (regions == NECK) | (regions == HAND)
    weight = torch.where(skin, SKIN_FACTOR, 1.0)
    return SPECULAR_WEIGHT * (specular.abs().mean((0, 2)) * weight).mean()


def specular_gain(share: float, start: float) -> float:
    """0 before `start` (a share of the steps), then rising to 1 over a fifth of the stage."""
    return min(1.0, max(0.0, (share - start) / 0.2))


def set_rates(state: State, share: float) -> None:
    """Learning rates fall to a third over the stage."""
    factor = 1.0 - 0.67 * share
    for group in state.optimizer.param_groups:
        if group["name"] in RATES:
            group["lr"] = RATES[group["name"]] * factor


def _regularise(state: State, share: float) -> torch.Tensor:
    cloud = state.gaussians
    loss = SIZE_WEIGHT * (cloud.scales.amax(-1) - SIZE_FREE).clamp_min(0).mean() * 50
    loss = loss + ANCHOR_WEIGHT * (cloud.means - state.anchors).square().sum(-1).mean()
    if share > 0.66:
        opacities = cloud.opacities
        loss = loss + OPACITY_WEIGHT * (opacities * (1 - opacities)).mean() * 4
    return loss


def _control_density(state: State, density: DensityConfig, step: int, guide: Guide) -> None:
    """Densify and prune alternate with the steps; later only pruning, then nothing."""
    config = guide.config.seid
    share = step / config.steps
    if (step + 1) % config.densify_every or share < config.densify_from or share >= config.prune_until:
        return
    surface = guide.body.vertices
    if share < config.densify_until:
        change = densify_and_prune(
            state.gaussians, state.optimizer, state.stats, density, state.generator, surface
        )
    else:
        change = prune(state.gaussians, state.optimizer, state.stats, density, surface)
    state.anchors = state.anchors[change.parents]
