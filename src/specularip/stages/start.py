"""The start of SEID for a prior that shows depth: views are sampled, and Gaussians are fitted to them.

The shading formula is fitted first, to the colours in which the views show each Gaussian: what changes with
the view becomes material and light, before a photometric fit can paint highlights onto the cloth.

Score distillation then refines a person who is already there, instead of growing one from bare skin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from specularip.diffusion.sample import sample
from specularip.fitting.initial_shading import fit_initial_shading
from specularip.fitting.observations import Observations
from specularip.kernels.async_transfer import StepMetrics
from specularip.specular.head import shading_normals
from specularip.stages.fixed_face import fix_face
from specularip.stages.fusion import DepthViews, depth_views
from specularip.stages.guide import Guide
from specularip.stages.initial_state import AvatarState, adam_rates, state_of
from specularip.stages.photo_join import joined
from specularip.stages.settings import Config
from specularip.stages.view_colors import observe
from specularip.stages.view_fit import fit_views, view_targets
from specularip.stages.view_start import gaussians_from_views, start_views
from specularip.training.optimizer import set_initial_rates
from specularip.training.parallel import SINGLE_RANK, Ranks


@torch.no_grad()
def sample_start(
    guide: Guide,
    after_step: Callable[[int, int], None],
    begun: tuple[int, Tensor] | None = None,
    keep: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Images [V,5,S,S] of the person from the sides of `start_views`, all sampled together.

    after_step(done, total) is called after every denoising step. begun, keep: see `sample`.
    """
    config, prior = guide.config.start, guide.prior
    views = start_views(guide.body.height, prior.image_size)
    return sample(
        prior,
        guide.condition(views),
        steps=config.ddim_steps,
        scale=config.scale,
        rescale=config.rescale,
        last=config.last_timesteps,
        generator=torch.Generator().manual_seed(guide.config.seed),
        batch=len(views.framings),
        progress=after_step,
        begun=begun,
        keep=keep,
    )


def start_from(
    images: Tensor,
    guide: Guide,
    device: torch.device,
    after_step: Callable[[int, StepMetrics], None],
    ranks: Ranks = SINGLE_RANK,
) -> AvatarState:
    """The state before SEID's first step: Gaussians on the surface that the sampled views agree on, fitted to
    them. after_step and ranks: as for `seid`."""
    config, seed = guide.config, guide.config.seed
    views = start_views(guide.body.height, images.shape[-1])
    # Sums over tensors of another memory layout, as the autoencoder returns them, differ in the last bits.
    images = images.cpu().contiguous()
    fusion = config.start.fusion
    decoded = depth_views(images, views.cameras, views.targets, config.background, fusion)
    photo = guide.photo
    if photo is not None:
        photo, images = joined(photo, images, decoded, guide.body, guide.text, fusion)
        decoded = depth_views(images, views.cameras, views.targets, config.background, fusion)
    gaussians = gaussians_from_views(decoded, guide.body, config.seid.points, seed, fusion, photo)
    generator = torch.Generator().manual_seed(seed)
    state = state_of(gaussians, replace(config.seid, rates=config.start.fit.rates), seed, generator, device)
    split_colors(state, decoded, config, ranks)
    if photo is not None:
        fix_face(state, photo)
    targets = view_targets(images, decoded, device)
    fit_views(
        state, targets, config.start.fit, config.background, config.seid.max_points, after_step, ranks=ranks
    )
    set_initial_rates(state.optimizer, adam_rates(config.seid.rates))
    return state


def split_colors(state: AvatarState, views: DepthViews, config: Config, ranks: Ranks) -> None:
    """Split the colours of the views into diffuse colours, materials and the light of `state`."""
    positions = state.params["means"].detach().cpu()
    normals = shading_normals(state.gaussians).detach().cpu()
    colors, squareness = observe(views, positions, normals, config.start.fusion)
    observations = Observations(colors.half().to(state.device), (squareness > 0).to(state.device))
    split_observations(state, observations, views.cameras.positions, config, ranks)


def split_observations(
    state: AvatarState, observations: Observations, cameras: Tensor, config: Config, ranks: Ranks
) -> None:
    """Split colours that were observed, on the device of `state`, into diffuse colours, materials and its
    light. cameras [V,3]: positions of the observations' cameras."""
    params = state.params
    color_logits = params["color_logits"].detach().clone()
    latents = fit_initial_shading(
        state.shared,
        params["means"].detach(),
        shading_normals(state.gaussians).detach(),
        observations,
        cameras.to(state.device),
        color_logits,
        config.start.shading_steps,
        torch.Generator().manual_seed(config.seed),
    )
    with torch.no_grad():
        params["color_logits"].copy_(color_logits)
        params["latents"].copy_(latents)
        for tensor in (params["color_logits"], params["latents"], *state.shared.parameters()):
            ranks.broadcast(tensor)
