"""An avatar in another place, of another size and turned, with its colours."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from specularip.avatar import Avatar
from specularip.motion.colors import posed_colors
from specularip.motion.quaternions import from_matrices, multiply


@torch.no_grad()
def moved(
    avatar: Avatar, *, scale: float = 1.0, rotation: Tensor | None = None, translation: Tensor | None = None
) -> Avatar:
    """The avatar at scale * rotation @ x + translation of its points x. rotation [3,3], translation [3].

    Its explicit colours turn with it; avatars with a head, whose light belongs to the world, cannot be
    turned: bake them first.
    """
    cloud = avatar.gaussians
    turn = torch.eye(3) if rotation is None else rotation.to(cloud.means)
    shift = torch.zeros(3) if translation is None else translation.to(cloud.means)
    quats = from_matrices(turn)[None].expand(len(cloud), 4)
    gaussians = replace(
        cloud,
        means=scale * cloud.means.detach() @ turn.T + shift,
        quats=multiply(quats, cloud.quats.detach()),
        log_scales=cloud.log_scales.detach() + float(torch.tensor(scale).log()),
        normal_residuals=cloud.normal_residuals.detach() @ turn.T,
    )
    colors = None if avatar.colors is None else posed_colors(avatar.colors, quats)
    return replace(avatar, gaussians=gaussians, colors=colors, binding=None, expressions=None)
