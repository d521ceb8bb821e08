"""From the world's axes (z up, the body faces −y) to those of glTF and SPZ (y up, it faces +z)."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.colors.harmonics import harmonics_turn
from specularip.motion.quaternions import from_matrices, multiply

Y_UP = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
"""Turns our axes into theirs; its transpose turns back."""


def turned(
    means: Tensor, quats: Tensor, coefficients: Tensor, rotation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """means [N,3], quats [N,4] wxyz and coefficients [N,K,3] of harmonics (K 1, 4, 9 or 16), on the CPU,
    turned by a rotation [3,3]."""
    means, quats, coefficients = (one.detach().cpu().float() for one in (means, quats, coefficients))
    count = coefficients.shape[1]
    turn = harmonics_turn(rotation)[:count, :count].float()
    return (
        means @ rotation.float().T,
        multiply(from_matrices(rotation).float(), quats),
        torch.einsum("ij,njc->nic", turn, coefficients),
    )
