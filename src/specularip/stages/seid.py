"""Stage 1, SEID: Specular-Enhanced Identity Distillation.

Gaussians that start on the body's skin are optimised by score distillation from a prior conditioned on text,
face and pose, with density control. Each step renders a few views (full body, close-ups of the upper body,
the legs and the head) and backpropagates the loss of `diffusion.sds`. Timesteps fall over the stage with the
bounds of AHDS. The specular branch is on from the start if that shows highlights already; else it is switched
on early with a rising gain, so that view-dependent appearance is not baked into the diffuse colours.
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
from specularip.stages.guide import Guide, as_images, draw
from specularip.stages.initial_state import AvatarState
from specularip.stages.settings import SeidConfig
from specularip.stages.views import select_views, step_views
from specularip.training.densify import DensityConfig, densify_and_prune, prune
from specularip.training.optimizer import SHARED, set_rates
from specularip.training.parallel import SINGLE_RANK, Ranks
from specularip.training.step import take_step

SKIN_FACTOR = 25.0
"""Factor of the specular penalty on head, neck and hands (skin and hair), where highlights would mostly
absorb differences between the photo and the prior."""
RATE_DECAY = 0.67
"""Learning rates fall linearly by this share over the stage; that of the specular head is constant."""


def seid(
    state: AvatarState,
    guide: Guide,
    first_step: int,
    after_step: Callable[[int, StepMetrics], None],
    ranks: Ranks = SINGLE_RANK,
) -> None:
    """Run the steps from `first_step` on, changing `state` in place.

    after_step(done, metrics) is called after every step; it may save `state`, or raise to end the stage. Each
    of `ranks` renders its share of the views.

    On a GPU, the rasteriser is the only host synchronisation: it reads the number of Gaussian-tile pairs. By
    then the conditioning and the shading of this step have been launched.
    """
    config, body, prior = guide.config.seid, guide.body, guide.prior
    background = guide.config.background
    rows = ranks.local_slice(config.views_per_step)
    bounds = ahds_bounds(config.steps, top=config.top_timestep, bottom=config.bottom_timestep).tolist()
    for step in range(first_step, config.steps):
        share = step / config.steps
        gain = specular_gain(share, config.specular_from)
        set_rates(state.optimizer, 1.0 - RATE_DECAY * share, {SHARED: 1.0})
        inputs = sds_inputs(guide, step, bounds[step], rows, state.generator)
        raster, specular = draw(
            state.gaussians, state.shared, inputs.cameras, background, gain, prior.shows_depth
        )
        raster.means2d.retain_grad()
        distilled = sds(
            prior,
            as_images(raster, prior.image_channels, inputs.distances),
            inputs.condition,
            inputs.timesteps,
            inputs.noise,
            guide.config.guidance,
            guide.config.guidance.rescale,
            at_once=config.views_at_once,
        )
        loss = config.sds_weight * distilled.loss + _regularise(state, raster, share, config)
        if config.specular_weight and gain > 0:
            loss = loss + config.specular_weight * specular_penalty(specular, state.ties["regions"])
        finite = take_step(state, loss, ranks)
        metrics = StepMetrics(
            {
                "loss": loss,
                "sds": distilled.loss,
                "gradient": distilled.grad_norm,
                "skipped": state.skipped,
            },
            points=len(state),
        )
        if raster.means2d.grad is not None:
            radii = raster.radii * finite  # a step that is not finite does not count
            size = (config.render_size, config.render_size)
            state.screen_gradients.accumulate(raster.means2d.grad, radii, size, ranks)
        control_density(state, config, step, body.vertices)
        after_step(step + 1, metrics)


@dataclass(frozen=True)
class SdsInputs:
    """The inputs of score distillation, apart from the renders, for the V views of one rank.

    distances [V] of the cameras from the points they look at, and timesteps [V] int64, both on the CPU; all
    else on the prior's device, noise [V,c,h,w].
    """

    cameras: Cameras
    distances: Tensor
    condition: Condition
    timesteps: Tensor
    noise: Tensor


def sds_inputs(guide: Guide, step: int, bound: int, rows: slice, generator: torch.Generator) -> SdsInputs:
    """Draw views, timesteps and noise for all ranks; keep those of `rows` and make their conditioning.

    bound: the upper bound of the timesteps by AHDS.
    """
    config, prior = guide.config.seid, guide.prior
    views = step_views(config, step, guide.body.height, generator)
    lowest, highest = timestep_range(config, step / config.steps, bound)
    timesteps = sample_timesteps(highest, len(views.framings), generator, minimum=lowest)
    if prior.views_together:
        timesteps = timesteps[:1].expand(len(timesteps))
    shape = (prior.latent_channels, prior.latent_size, prior.latent_size)
    noise = torch.randn(len(views.framings), *shape, generator=generator)
    chosen, device = torch.arange(len(timesteps))[rows], prior.device
    if guide.config.guidance.kind == "anpg":  # the noisiest first: see `sds`
        chosen = chosen[timesteps[chosen].argsort(descending=True)]
    local = select_views(views, chosen)
    cameras, condition = local.cameras, guide.condition(local)
    viewmats, Ks = copy_async(cameras.viewmats, device), copy_async(cameras.Ks, device)
    return SdsInputs(
        Cameras(viewmats, Ks, cameras.width, cameras.height),
        local.distances,
        replace(condition, pose=prior.encode_pose(condition.pose)),
        timesteps[chosen],
        copy_async(noise[chosen], device),
    )


def timestep_range(config: SeidConfig, share: float, bound: int) -> tuple[int, int]:
    """The lowest and the highest timestep at `share` (0..1) of the stage. bound: that of AHDS."""
    for window in config.timestep_windows:
        if share < window.until:
            return window.lowest, bound + config.timestep_slack if window.highest is None else window.highest
    return min(20 + int(0.25 * bound), 250), bound


def specular_penalty(specular: Tensor, regions: Tensor) -> Tensor:
    """Mean magnitude of the specular colours [B,N,3], weighted by the body region [N] of each Gaussian; a
    scalar."""
    skin = (regions == HEAD_REGION) | (regions == NECK) | (regions == HAND)
    weight = torch.where(skin, SKIN_FACTOR, 1.0)
    return (specular.abs().mean((0, 2)) * weight).mean()


def specular_gain(share: float, start: float | None) -> float:
    """0 before `start` (a share of the steps), then rising linearly to 1 over a fifth of the stage; None:
    1."""
    return 1.0 if start is None else min(1.0, max(0.0, (share - start) / 0.2))


def _regularise(state: AvatarState, raster: Raster, share: float, config: SeidConfig) -> Tensor:
    params = state.params
    loss = config.size_weight * (params["log_scales"].exp().amax(-1) - config.size_free).clamp_min(0).mean()
    if config.anchor_weight:
        drift = (params["means"] - state.ties["anchors"]).square().sum(-1)
        loss = loss + config.anchor_weight * drift.mean()
    if config.sparsity_weight:
        loss = loss + config.sparsity_weight * (raster.alpha.square() + 0.01).sqrt().mean()
    if config.opacity_weight and share > 0.66:
        opacities = params["opacity_logits"].sigmoid()
        loss = loss + config.opacity_weight * (opacities * (1 - opacities)).mean()
    return loss


def control_density(state: AvatarState, config: SeidConfig, step: int, surface: Tensor) -> None:
    """The schedule of density control: densify and prune, later only prune, then nothing."""
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
        densify_and_prune(state, density, surface)
    elif config.densify_until <= share < config.prune_until and (step + 1) % config.prune_every == 0:
        prune(state, density, surface)
