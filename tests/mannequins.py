"""A small avatar that can move, make faces and look: the body, coloured by place, under a head's light."""

from __future__ import annotations

import torch

from specularip.avatar import Avatar
from specularip.body import anny_body
from specularip.body.facial_actions import bind_expressions
from specularip.gaussians import Binding
from specularip.stages.initial_state import initial_state
from specularip.stages.settings import SeidConfig


def mannequin(points: int = 3000, seed: int = 0) -> Avatar:
    body = anny_body()
    state = initial_state(body, SeidConfig(points=points), seed)
    gaussians = state.gaussians.select(torch.arange(points))
    gaussians.color_logits = (4 * gaussians.means + torch.tensor([0.6, -0.2, -0.6])).clamp(-2, 2)
    gaussians.latents[:, :2] -= 2.0  # smoother than at the start of a run
    binding = Binding(list(body.joint_names), list(body.joint_parents), body.joints.detach().clone())
    head = state.shared.requires_grad_(False)
    with torch.no_grad():
        head.raw_colors += 0.6
    expressions = bind_expressions(gaussians.means, gaussians.regions, body)
    return Avatar(gaussians, head, {"text": "A mannequin"}, binding, expressions=expressions)
