"""Stage 1, SEID: Specular-Enhanced Identity Distillation.

Gaussians that start on the body's skin are moved by score distillation from a prior that knows the text, the
face and the pose, while they densify and prune. Each step draws a few views (whole body, close-ups of the
upper body, the legs and the head), renders them, and lets the prior say where the pictures should go
(`diffusion.sds`). How much noise it looks through falls as AHDS says. The specular branch joins early with a
growing gain, so that what changes with the view has somewhere to go but into the diffuse colours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from specularip.body.regions import HAND, NECK
from specularip.body.regions import HEAD as HEAD_REGION
from specularip.cameras import Cameras
from specularip.diffusion.conditioning import Condition
from specularip.diffusion.sds import sds
from specularip.diffusion.timesteps import ahds_bounds, sample_timesteps
from specularip.kernels.async_transfer import StepMetrics, copy_async
from specularip.raster import Raster
from specularip.stages.guide import Guide, PhotoAnchor, as_images, draw
from specularip.stages.settings import SeidConfig
from specularip.stages.views import part, step_views
from specularip.training.density import DensityConfig, DensityStats, accumulate, densify_and_prune, prune
from specularip.training.parallel import ALONE, Team
from specularip.training.state import State, set_rates, take_step

PHOTO_WEIGHT = 2.0
SKIN_FACTOR = 25.0
"""The pull of the specular colours to zero is this much stronger on head, neck and hands, which are skin and
hair: there a highlight would only be the easiest way out where the photo and the prior disagree."""
RATES_FALL = 0.67
"""Learning rates fall by this share over the stage."""


def seid(
    state: State,
    guide: Guide,
    photo: PhotoAnchor | None,
    first_step: int,
    after_step: Callable[[int, StepMetrics], None],
    team: Team = ALONE,
) -> None:
    """Run the steps from `first_step` on, changing `state` in place.

    after_step(done, log) is called after every step; it may save `state`, or raise to stop the stage. With a
    `team`, each process takes its share of the views.

    On a GPU, only the rasteriser waits for the step before, to know how many pairs of splats and tiles there
    are. By then all that this step asks is there, and its Gaussians are shaded.
    """
    config, body, prior = guide.config.seid, guide.body, guide.prior
    rows = team.share(config.views_per_step)
    bounds = ahds_bounds(config.steps, top=config.top_timestep, bottom=config.bottom_timestep).tolist()
    for step in range(first_step, config.steps):
        share = step / config.steps
        gain = specular_gain(share, config.specular_from)
        set_rates(state.optimizer.param_groups, config.rates, 1.0 - RATES_FALL * share, steady=("head",))
        ask = question(guide, step, bounds[step], rows, state.generator)
        raster, specular = draw(state.gaussians, state.head, ask.cameras, guide.config.background, gain)
        raster.means2d.retain_grad()
        distilled = sds(
            prior,
            as_images(raster, prior.image_channels),
            ask.condition,
            ask.timesteps,
            ask.noise,
            guide.config.guidance,
            guide.config.guidance.rescale,
            at_once=config.views_at_once,
        )
        loss = config.sds_weight * distilled.loss + _regularise(state, raster, share, config)
        if gain > 0:
            loss = loss + config.specular_weight * specular_penalty(specular, state.gaussians.regions)
        likeness = ownership = None
        if photo is not None:
            ownership = photo.ownership(state.gaussians)
            likeness = PHOTO_WEIGHT * photo.loss(
                state.gaussians, state.head, ownership, guide.config.background
            )
        finite = take_step(state, loss, likeness, ownership, team)
        log = StepMetrics(
            {
                "loss": loss,
                "sds": distilled.loss,
                "gradient": distilled.grad_norm,
                "photo": likeness,
                "skipped": state.skipped,
            },
            points=len(state.gaussians),
        )
        watch_strain(state, raster, finite, config.render_size, team)
        control_density(state, config, step, body.vertices)
        after_step(step + 1, log)


@dataclass(frozen=True)
class Question:
    """What a step asks the prior, but for the renders: V views of one process.

    timesteps [V] int64 on the CPU; all else on the prior's device, noise [V,c,h,w].
    """

    cameras: Cameras
    condition: Condition
    timesteps: Tensor
    noise: Tensor


def question(guide: Guide, step: int, bound: int, rows: slice, generator: torch.Generator) -> Question:
    """Draw a step's views, timesteps and noise; keep those of `rows`, with their condition. bound: AHDS's."""
    config, prior = guide.config.seid, guide.prior
    views = step_views(config, step, guide.body.height, generator)
    lowest, highest = timestep_range(config, step / config.steps, bound)
    timesteps = sample_timesteps(highest, len(views.framings), generator, minimum=lowest)
    shape = (prior.latent_channels, prior.latent_size, prior.latent_size)
    noise = torch.randn(len(views.framings), *shape, generator=generator)
    chosen, device = torch.arange(len(timesteps))[rows], prior.device
    if guide.config.guidance.kind == "anpg":  # the noisiest first: see `sds`
        chosen = chosen[timesteps[chosen].argsort(descending=True)]
    mine = part(views, chosen)
    looks, condition = mine.cameras, guide.condition(mine)
    return Question(
        Cameras(copy_async(looks.viewmats, device), copy_async(looks.Ks, device), looks.width, looks.height),
        replace(condition, pose=prior.encode_pose(condition.pose)),
        timesteps[chosen],
        copy_async(noise[chosen], device),
    )


def timestep_range(config: SeidConfig, share: float, bound: int) -> tuple[int, int]:
    """The lowest and the highest timestep at `share` of the stage, where AHDS's bound is `bound`."""
    for window in config.timestep_windows:
        if share < window.until:
            return window.lowest, bound + config.timestep_slack if window.highest is None else window.highest
    return min(20 + int(0.25 * bound), 250), bound


def specular_penalty(specular: Tensor, regions: Tensor) -> Tensor:
    """How strong the specular colours [B,N,3] are, by the body region [N] of each Gaussian; a scalar."""
    skin = (regions == HEAD_REGION) | (regions == NECK) | (regions == HAND)
    weight = torch.where(skin, SKIN_FACTOR, 1.0)
    return (specular.abs().mean((0, 2)) * weight).mean()


def specular_gain(share: float, start: float) -> float:
    """0 before `start` (a share of the steps), then rising to 1 over a fifth of the stage."""
    return min(1.0, max(0.0, (share - start) / 0.2))


def _regularise(state: State, raster: Raster, share: float, config: SeidConfig) -> Tensor:
    cloud = state.gaussians
    loss = config.size_weight * (cloud.scales.amax(-1) - config.size_free).clamp_min(0).mean()
    if config.anchor_weight:
        loss = loss + config.anchor_weight * (cloud.means - state.anchors).square().sum(-1).mean()
    if config.sparsity_weight:
        loss = loss + config.sparsity_weight * (raster.alpha.square() + 0.01).sqrt().mean()
    if config.opacity_weight and share > 0.66:
        opacities = cloud.opacities
        loss = loss + config.opacity_weight * (opacities * (1 - opacities)).mean()
    return loss


def watch_strain(state: State, raster: Raster, finite: Tensor, size: int, team: Team) -> None:
    """Add the screen gradients of all processes' views to the statistics that density control reads, but not
    those of a step that was not `finite`, see `take_step`."""
    if raster.means2d.grad is None:
        return
    radii = raster.radii * finite  # 0: not drawn, so not counted
    if team.size == 1:
        accumulate(state.stats, raster.means2d.grad, radii, (size, size))
        return
    seen = DensityStats.zeros(len(state.gaussians), radii.device)
    # A process' loss is the mean over its own views, the joint one over all.
    accumulate(seen, raster.means2d.grad / team.size, radii, (size, size))
    team.average([seen.grad_sum, seen.views])
    state.stats.grad_sum += seen.grad_sum * team.size
    state.stats.views += seen.views * team.size


def control_density(state: State, config: SeidConfig, step: int, surface: Tensor) -> None:
    """Densify and prune alternate with the steps; later only pruning, then nothing."""
    share = step / config.steps
    density = DensityConfig(
        max_points=config.max_points,
        grad_threshold=config.grad_threshold,
        grow_share=config.grow_share,
        split_scale=config.split_scale,
        min_opacity=config.min_opacity,
        max_scale=config.max_scale,
    )
    if config.densify_from <= share < config.densify_until and (step + 1) % config.densify_every == 0:
        change = densify_and_prune(
            state.gaussians, state.optimizer, state.stats, density, state.generator, surface
        )
    elif config.densify_until <= share < config.prune_until and (step + 1) % config.prune_every == 0:
        change = prune(state.gaussians, state.optimizer, state.stats, density, surface)
    else:
        return
    state.anchors = state.anchors[change.parents]
