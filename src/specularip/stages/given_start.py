"""The state before SCR from a person who is given, instead of one whom the prior's sampled views show.

Where the file's colours depend on the view, they are split into diffuse colours, materials and a light. Where
they do not, light and materials are those in which the prior, which reads the text, shows the same body: what
they add on average is taken off the file's colours, so that these stay as they are and get highlights.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from specularip.body.regions import HEAD
from specularip.fitting.observations import observe
from specularip.fitting.point_init import neighbour_distances
from specularip.gaussians import Gaussians
from specularip.registration.splats import RegisteredSplats, cameras_around, views_of
from specularip.specular import LATENTS, SpecularHead, shading_normals
from specularip.stages.fusion import depth_views
from specularip.stages.guide import Guide
from specularip.stages.initial_state import AvatarState, state_of
from specularip.stages.start import split_colors, split_observations
from specularip.stages.view_start import start_views
from specularip.training.parallel import SINGLE_RANK, Ranks
from specularip.training.step import FIXED

REFLECTANCES, MATT = slice(3, 6), -5.0
"""Latents of the reflectance (`shading.LATENTS`), and their value for a surface that reflects next to
nothing."""


def start_from_splats(
    splats: RegisteredSplats,
    guide: Guide,
    images: Tensor | None,
    device: torch.device | str = "cpu",
    ranks: Ranks = SINGLE_RANK,
) -> AvatarState:
    """The given Gaussians as the state before the first step, on `device`. images: as for `start_from`, views
    of the same body; None: the file's colours alone tell light and materials.

    The head stays as it is given: a prior of few pixels would blur a face that is sharp.
    """
    config, count = guide.config, len(splats.avatar.gaussians)
    cloud = splats.avatar.gaussians.select(torch.arange(count))  # a copy: the state changes in place
    cloud = replace(cloud, latents=torch.zeros(count, LATENTS))
    generator = torch.Generator().manual_seed(config.seed)
    state = state_of(cloud, config.seid, config.seed, generator, device)
    head = state.ties["regions"] == HEAD
    if splats.avatar.colors is not None:
        _split_own_colors(state, splats, guide, ranks)
    elif images is not None:
        views = start_views(guide.body.height, images.shape[-1])
        images, fusion = images.cpu().contiguous(), config.start.fusion
        decoded = depth_views(images, views.cameras, views.targets, config.background, fusion)
        split_colors(state, decoded, config, ranks)
        _take_off(state, splats)
    state.ties[FIXED] = head.to(state.params["means"])
    return state


def _split_own_colors(state: AvatarState, splats: RegisteredSplats, guide: Guide, ranks: Ranks) -> None:
    views = views_of(splats.avatar).to(state.device, pixels=False)
    spacing = float(torch.from_numpy(neighbour_distances(splats.avatar.gaussians.means.numpy())).median())
    observations = observe(state.params, spacing, views.views)
    split_observations(state, observations, views.positions, guide.config, ranks)


@torch.no_grad()
def _take_off(state: AvatarState, splats: RegisteredSplats) -> None:
    """Give the Gaussians the colours of the file, less what their highlights add in the mean over the views
    that face them."""
    gaussians, colors = state.gaussians, splats.avatar.gaussians.diffuse.to(state.device)
    normals, positions = shading_normals(gaussians), cameras_around(splats.avatar).positions.to(colors)
    prepared = state.shared.prepare(gaussians.latents, colors)
    added = state.shared.shade(prepared, normals, gaussians.means, positions)
    towards = positions[:, None] - gaussians.means
    facing = ((towards * normals).sum(-1, keepdim=True) > 0).to(added)
    mean = (facing * added).sum(0) / facing.sum(0).clamp_min(1)
    state.params["color_logits"].copy_(torch.logit((colors - mean).clamp(0.002, 0.998)))


@torch.no_grad()
def with_given_head(
    gaussians: Gaussians, head: SpecularHead, splats: RegisteredSplats
) -> tuple[Gaussians, SpecularHead]:
    """The finished Gaussians with the head's colours as they were given, and without highlights on it: the
    light and the attention have changed since, and would shine on a face that stayed.

    The materials of the others are those that attention makes of theirs; the head has none any more.
    """
    latents = head.prepare(gaussians.latents, gaussians.diffuse).latents.clone()
    colors = gaussians.color_logits.clone()
    own = gaussians.regions == HEAD
    latents[own] = 0.0
    latents[own, REFLECTANCES] = MATT
    colors[own] = splats.avatar.gaussians.color_logits.to(colors)[own]
    return replace(gaussians, latents=latents, color_logits=colors), head.without_attention()
