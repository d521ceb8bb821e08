"""The phases of `generate` in which there are checkpoints, and what these hold."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from specularip.body.regions import NAMES
from specularip.diffusion.sample import sampling_timesteps
from specularip.gaussians import PARAMETERS, field_specs
from specularip.specular import LATENTS
from specularip.stages.guide import Guide
from specularip.stages.initial_state import new_head
from specularip.stages.scr import orbits
from specularip.stages.settings import Config
from specularip.stages.view_start import start_views
from specularip.training.schema import Maybe, Number, Schema, TensorOf
from specularip.training.session import Phase
from specularip.training.state import TrainState
from specularip.training.step import FIXED

MAX_SIDE = 2**16
"""Of a render, in pixels."""


def checkpoint_phases(guide: Guide) -> Mapping[str, Phase]:
    """By name, in their order: "views" has the views that the prior is drawing, as latents, "start" the drawn
    ones, "seid" and "refine" the Gaussians, "fit" the refined views, too."""
    config, prior = guide.config, guide.prior
    size = prior.image_size
    drawn = (len(start_views(guide.body.height, size).framings), prior.image_channels, size, size)
    latents = (drawn[0], prior.latent_channels, prior.latent_size, prior.latent_size)
    denoising = len(sampling_timesteps(prior, config.start.ddim_steps, config.start.last_timesteps))
    state = avatar_state(config, len(guide.body.joint_names))
    return {
        "views": Phase(denoising, {"latents": TensorOf(latents, None)}),
        "start": Phase(0, {"views": TensorOf(drawn, None)}),
        "seid": Phase(config.seid.steps, {"state": state}),
        "refine": Phase(0, {"state": state}),
        "fit": Phase(
            config.scr.fit_steps, {"state": state, "targets": targets(config, prior.image_channels)}
        ),
    }


def avatar_state(config: Config, joints: int) -> Schema:
    """Of an `AvatarState`, for a body of so many joints."""
    specs = {name: TensorOf(("N", *spec.shape), spec.dtype) for name, spec in field_specs(LATENTS).items()}
    params = {name: specs.pop(name) for name in PARAMETERS}
    ties = {
        **specs,
        "regions": TensorOf(("N",), torch.int64, low=0, below=len(NAMES)),
        "bind_joints": TensorOf(("N", 4), torch.int64, low=0, below=joints),
        "anchors": TensorOf(("N", 3)),
        FIXED: TensorOf(("N",), low=0),
    }
    return TrainState.schema(params, ties, new_head(config.seid, config.seed))


def targets(config: Config, channels: int) -> Schema:
    """Of `scr.Targets`, from a prior of images of so many channels."""
    views, side = sum(count for _, count in orbits(config.scr)), Number(1, MAX_SIDE, whole=True)
    return {
        "viewmats": TensorOf((views, 4, 4)),
        "Ks": TensorOf((views, 3, 3)),
        "images": TensorOf((views, min(4, channels), "h", "w"), None),
        "width": side,
        "height": side,
        "weights": Maybe(TensorOf((views, 1, "h", "w"), None)),
    }
