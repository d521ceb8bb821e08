"""Chooses the implementation of posing: Triton on CUDA, numba on the CPU, plain tensors for other dtypes."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.errors import UserError
from specularip.motion.posing import Posed, Rest, pose_reference
from specularip.motion.skinning import Blend


def pose(rest: Rest, bones: Tensor, blend: Blend = "linear", means: Tensor | None = None) -> Posed:
    """The Gaussians posed by `bones` [J,20], see `skinning.bone_table`.

    means [N,3]: rest positions instead of rest.means, such as those of a facial expression. Raises UserError
    for CUDA tensors where Triton is missing.
    """
    means = rest.means if means is None else means.contiguous()
    if any(tensor.dtype != torch.float32 for tensor in (means, rest.quats, rest.latents, bones)):
        return pose_reference(rest, bones, blend, means)
    bones = bones.contiguous()
    if means.is_cuda:
        try:
            from specularip.motion.triton_posing import pose_triton
        except ImportError as error:
            raise UserError(
                "Posing on a GPU needs Triton: pip install triton, or move everything to the CPU."
            ) from error
        return pose_triton(rest, means, bones, blend)
    if means.device.type != "cpu":
        return pose_reference(rest, bones, blend, means)
    from specularip.motion.numba_posing import pose_numba

    return pose_numba(rest, means, bones, blend)
