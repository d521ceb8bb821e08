"""Chooses the implementation of posing: Triton on CUDA, numba on the CPU, plain tensors for other dtypes."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.errors import UserError
from specularip.motion.posing import Posed, Rest, pose_reference
from specularip.motion.skinning import Blend, dual_parts, joint_quats


def pose(rest: Rest, transforms: Tensor, blend: Blend = "linear", means: Tensor | None = None) -> Posed:
    """The Gaussians posed by the skin matrices `transforms` [J,4,4].

    means [N,3]: rest positions instead of rest.means, such as those of a facial expression. Raises UserError
    for CUDA tensors where Triton is missing.
    """
    means = rest.means if means is None else means.contiguous()
    if any(tensor.dtype != torch.float32 for tensor in (means, rest.quats, rest.latents, transforms)):
        return pose_reference(rest, transforms, blend, means)
    bones = bone_table(transforms)
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


def bone_table(transforms: Tensor) -> Tensor:
    """What the kernels read of skin matrices [J,4,4], [J,20]: three rows, quaternion, dual part."""
    quats = joint_quats(transforms)
    return torch.cat([transforms[:, :3].flatten(1), quats, dual_parts(transforms, quats)], 1).contiguous()
