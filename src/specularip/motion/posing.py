"""Posing Gaussians: what of them moves with the bones, by one kernel per frame.

`pose_reference` is the definition, in plain tensors. `pose` gives the same by a numba kernel on the CPU and a
Triton kernel on CUDA, for float32; other dtypes take the plain path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.errors import UserError
from specularip.gaussians import Gaussians
from specularip.motion.appearance import ANGLE, turned_latents
from specularip.motion.quaternions import multiply, rotate
from specularip.motion.skinning import Blend, dual_parts, joint_quats, skin_points
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


def pose(rest: Rest, transforms: Tensor, blend: Blend = "linear", means: Tensor | None = None) -> Posed:
    """The Gaussians posed by the skin matrices `transforms` [J,4,4].

    means [N,3]: rest positions instead of rest.means, such as those of a facial expression. Raises UserError
    for CUDA tensors where Triton is missing.
    """
    means = rest.means if means is None else means.contiguous()
    if any(tensor.dtype != torch.float32 for tensor in (means, rest.quats, rest.latents, transforms)):
        return pose_reference(rest, transforms, blend, means)
    quats = joint_quats(transforms)
    bones = torch.cat([transforms[:, :3].flatten(1), quats, dual_parts(transforms, quats)], 1).contiguous()
    if means.is_cuda:
        try:
            from specularip.motion.triton_posing import pose_triton
        except ImportError as error:
            raise UserError(
                "Posing on a GPU needs Triton: pip install triton, or move everything to the CPU."
            ) from error
        return pose_triton(rest, means, bones, blend)
    if means.device.type != "cpu":
        return pose_reference(rest, transforms, blend, means)
    try:
        from specularip.motion.numba_posing import pose_numba
    except RuntimeError as error:
        from specularip.kernels.compiling import cache_folder_error

        raise cache_folder_error(error) from error
    return pose_numba(rest, means, bones, blend)


def pose_reference(rest: Rest, transforms: Tensor, blend: Blend, means: Tensor) -> Posed:
    """See `pose`; plain tensors of any dtype."""
    means, turns = skin_points(means, rest.bind_joints.long(), rest.bind_weights, transforms, blend)
    latents = rest.latents
    if latents.shape[1] == LATENTS:
        latents = turned_latents(latents, rest.normals, turns)
    return Posed(means, turns, multiply(turns, rest.quats), rotate(turns, rest.normals), latents)
