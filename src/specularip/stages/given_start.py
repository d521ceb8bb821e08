"""The state before SCR from an avatar that is given, instead of from views that the prior samples.

Its view-dependent colours are split into diffuse colours, materials and a light, as far as it has any; what
it lacks is up to the views that SCR refines.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from specularip.fitting.initial_shading import fit_initial_shading
from specularip.fitting.observations import observe
from specularip.fitting.point_init import neighbour_distances
from specularip.gaussians import Gaussians
from specularip.registration.splats import RegisteredSplats, views_of
from specularip.specular import LATENTS, shading_normals
from specularip.stages.initial_state import AvatarState, state_of
from specularip.stages.settings import Config


def start_from_splats(
    splats: RegisteredSplats, config: Config, device: torch.device | str = "cpu"
) -> AvatarState:
    """The given Gaussians as the state before the first step, on `device`."""
    seed = config.seed
    cloud = splats.avatar.gaussians
    cloud = replace(cloud, latents=cloud.means.new_zeros(len(cloud), LATENTS))
    state = state_of(cloud, config.seid, seed, torch.Generator().manual_seed(seed), device)
    if splats.avatar.colors is not None:
        _split_colors(state, splats, cloud, config)
    return state


def _split_colors(state: AvatarState, splats: RegisteredSplats, cloud: Gaussians, config: Config) -> None:
    views = views_of(splats.avatar).to(state.device, pixels=False)
    spacing = float(torch.from_numpy(neighbour_distances(cloud.means.numpy())).median())
    params = state.params
    observations = observe(params, spacing, views.views)
    color_logits = params["color_logits"].detach().clone()
    latents = fit_initial_shading(
        state.shared,
        params["means"].detach(),
        shading_normals(state.gaussians).detach(),
        observations,
        views.positions,
        color_logits,
        config.start.shading_steps,
        torch.Generator().manual_seed(config.seed),
    )
    with torch.no_grad():
        params["color_logits"].copy_(color_logits)
        params["latents"].copy_(latents)
