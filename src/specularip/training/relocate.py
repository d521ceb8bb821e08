"""Relocation: useless Gaussians move to where screen-space gradients are largest; N stays constant.

As in 3DGS-MCMC (Kheradmand et al. 2024, section 4), with targets drawn by screen-space gradient instead of
opacity.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from specularip.gaussians import rotation_matrices
from specularip.training.gradients import ScreenGradients
from specularip.training.optimizer import zero_rows
from specularip.training.state import TrainState

DEAD_OPACITY = 0.02
"""Gaussians of less opacity always move."""
MOVED_SHARE = 0.02
"""At most this share of the Gaussians moves at once, unless more are dead."""
SHRINK = (1.25, 1.25, 1.12)
"""Factors by which a Gaussian's axes shrink when a second one joins it."""
GRADIENT_POWER = 1.5


@torch.no_grad()
def relocate(state: TrainState[Any]) -> Tensor:
    """Move dead and useless Gaussians onto others, changing `state` in place; returns the indices that moved.

    A moved Gaussian becomes a copy of its target, and both together are as opaque as the target was alone.
    Targets are drawn in proportion to their mean screen-space gradient to the power of GRADIENT_POWER; the
    moved ones are dead, or have the least product of gradient and opacity. Adam's moments of moved rows start
    at zero, and so do the screen-space gradients.
    """
    params, device = state.params, state.device
    gradient = state.screen_gradients.mean().cpu()
    opacities = params["opacity_logits"].sigmoid()
    opacity, views = opacities.cpu(), state.screen_gradients.views.cpu()
    dead = opacity < DEAD_OPACITY
    count = max(min(int(MOVED_SHARE * len(state)), int((gradient > 0).sum())), int(dead.sum()))
    usefulness = torch.where(dead, -1.0, torch.where(views > 0, gradient * opacity, torch.inf))
    moved = usefulness.argsort(stable=True)[:count]
    moved = moved[usefulness[moved] < torch.inf]
    weights = gradient.clamp_min(0) ** GRADIENT_POWER
    weights[moved] = 0
    moved = moved[: int((weights > 0).sum())]
    state.screen_gradients = ScreenGradients.zeros(len(state), device)
    if len(moved) == 0:
        return moved.to(device)
    target = torch.multinomial(weights, len(moved), replacement=False, generator=state.generator).to(device)
    noise = torch.randn(len(moved), 3, generator=state.generator).to(device)
    moved = moved.to(device)

    rotations = rotation_matrices(params["quats"][target])
    offset = (rotations @ (params["log_scales"].exp()[target] * noise)[..., None])[..., 0]
    half = 1 - (1 - opacities[target].clamp_max(0.999)).sqrt()
    params["opacity_logits"][target] = torch.logit(half.clamp(0.005, 0.995))
    params["log_scales"][target] -= noise.new_tensor([math.log(s) for s in SHRINK])
    for tensor in (*params.values(), *state.ties.values()):
        tensor[moved] = tensor[target]
    zero_rows(params, state.optimizer, moved)
    params["means"][moved] += offset
    params["means"][target] -= 0.5 * offset
    return moved
