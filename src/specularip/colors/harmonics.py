"""Colours as spherical harmonics to degree 3, which every viewer of 3DGS files evaluates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SH_0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2√π)."""


@dataclass(frozen=True)
class HarmonicColors:
    """N colours as spherical harmonics to degree 3, with the order, signs and offset of 3DGS: coefficients
    [N,16,3]."""

    coefficients: Tensor

    def __call__(self, view_dirs: Tensor) -> Tensor:
        """Colours [B,N,3] seen along view_dirs [B,N,3], unit, from surface to camera. Clamped at 0, as in
        3DGS renderers."""
        return (torch.einsum("bnj,njc->bnc", harmonics_3(-view_dirs), self.coefficients) + 0.5).clamp_min(0)

    def tensors(self) -> dict[str, Tensor]:
        return {"coefficients": self.coefficients}

    def to(self, device: torch.device | str) -> HarmonicColors:
        return HarmonicColors(self.coefficients.to(device))


def harmonics_3(directions: Tensor) -> Tensor:
    """Real spherical harmonics to degree 3, [...,16], of unit directions [...,3], with the order and signs of
    3DGS and gsplat, which evaluate them at the direction from the camera to the Gaussian."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack(
        [
            torch.full_like(x, SH_0),
            -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x,
            1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (3 * zz - 1),
            -1.0925484305920792 * x * z, 0.5462742152960396 * (xx - yy),
            -0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (5 * zz - 1), 0.3731763325901154 * z * (5 * zz - 3),
            -0.4570457994644658 * x * (5 * zz - 1), 1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ],
        -1,
    )  # fmt: skip
