"""Posing Gaussians: what of them moves with the bones. In plain tensors, the reference for the kernels that
`dispatch.pose` chooses from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.gaussians import Gaussians
from specularip.motion.appearance import ANGLE, turned_latents
from specularip.motion.quaternions import multiply, rotate
from specularip.motion.skinning import Blend, skin_points
from specularip.specular import LATENTS, shading_normals
from specularip.specular.shading import tangent_frames


@dataclass(frozen=True)
class Rest:
    """N Gaussians in rest pose: all that moves with the bones. Contiguous, without gradients.

    means, normals and tangents [N,3]; quats [N,4] wxyz, unit; latents [N,34], or [N,0] where there is no
    head; bind_joints [N,4] int32; bind_weights [N,4] with rows that sum to 1.
    """

    means: Tensor
    quats: Tensor
    normals: Tensor
    tangents: Tensor
    latents: Tensor
    bind_joints: Tensor
    bind_weights: Tensor

    @staticmethod
    def of(gaussians: Gaussians, latents: Tensor) -> Rest:
        """latents: those to shade with, which mutual attention may have changed, or [N,0]."""
        normals = shading_normals(gaussians).detach()
        angles = latents[:, ANGLE : ANGLE + 1] if latents.shape[1] == LATENTS else torch.zeros_like(normals)
        weights = gaussians.bind_weights
        return Rest(
            means=gaussians.means.detach().contiguous(),
            quats=F.normalize(gaussians.quats.detach(), dim=-1),
            normals=normals.contiguous(),
            tangents=tangent_frames(normals, angles.detach())[0].contiguous(),
            latents=latents.detach().contiguous(),
            bind_joints=gaussians.bind_joints.int().contiguous(),
            bind_weights=(weights / weights.sum(1, keepdim=True)).contiguous(),
        )


class Posed(NamedTuple):
    """As in `Rest`, after posing; turns [N,4] wxyz: the rotation of each Gaussian from rest."""

    means: Tensor
    turns: Tensor
    quats: Tensor
    normals: Tensor
    latents: Tensor


def pose_reference(rest: Rest, transforms: Tensor, blend: Blend, means: Tensor) -> Posed:
    """See `dispatch.pose`; plain tensors of any dtype."""
    means, turns = skin_points(means, rest.bind_joints.long(), rest.bind_weights, transforms, blend)
    latents = rest.latents
    if latents.shape[1] == LATENTS:
        latents = turned_latents(latents, rest.normals, turns)
    return Posed(means, turns, multiply(turns, rest.quats), rotate(turns, rest.normals), latents)
