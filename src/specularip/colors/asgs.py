"""Anisotropic spherical Gaussians (ASGs) as an explicit function of the view direction.

    colour(v) = shown(Σ_j smooth_j · c_j(v) + Σ_k amplitude_k · lobe_k(v))
    c(v) = 1, x, y, z, xy, yz, zx, x² − y², z², (1 − |z|)⁵
    lobe_k(v) = exp(−((a_k m_x + q_k m_y)² + (b_k m_y)²) / s) / s    where v_z · light_kz > 0, else 0
    m = (v + light_k) / 2,  s = max(m·m, NEAREST),  shown(c) = c up to 1, above it 1 + SHOULDER · (c − 1)

with v the unit direction to the camera in the Gaussian's frame, whose z is the normal. m / √s is the half
vector, so that a lobe is an ASG over half vectors with 1/|h|² as masking term, as in the head (see
`shading`): the reflection of one light direction. Unlike an ASG over view directions, it bends and stretches
towards grazing angles. Colours are in sRGB, with the head's shoulder above 1; amplitudes may be negative.
ASG: Xu et al., "Anisotropic Spherical Gaussians", SIGGRAPH Asia 2013.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from specularip.gaussians import rotation_matrices
from specularip.specular.shading import SHOULDER

SMOOTH = 10
"""Number of smooth basis functions: polynomials to degree 2, and a rim term."""
NEAREST = 0.02
"""Lower limit of m·m, which is 0 where view and light are opposite."""


@dataclass(frozen=True)
class Asgs:
    """N colours as functions of the view direction, K lobes each, in sRGB.

    quats [N,4] wxyz, unit: each Gaussian's frame, in which all else is expressed. smooth [N,10,3];
    lights [N,K,3], unit; shapes [N,K,3]: a, q and b; amplitudes [N,K,3].
    """

    quats: Tensor
    smooth: Tensor
    lights: Tensor
    shapes: Tensor
    amplitudes: Tensor

    def __call__(self, view_dirs: Tensor) -> Tensor:
        """Colours [B,N,3] seen along view_dirs [B,N,3], unit, from surface to camera. Not clamped."""
        view = torch.einsum("bni,nij->bnj", view_dirs, rotation_matrices(self.quats))
        x, y, z = (0.5 * (view[:, :, None] + self.lights)).unbind(-1)
        near = (x * x + y * y + z * z).clamp_min(NEAREST)
        a, q, b = self.shapes.unbind(-1)
        lobe = torch.exp(-((a * x + q * y).square() + (b * y).square()) / near) / near
        lobe = lobe * (view[..., 2:] * self.lights[..., 2] > 0)
        columns = torch.cat([smooth_basis(view), lobe], -1)
        factors = torch.cat([self.smooth, self.amplitudes], 1)
        return shown(torch.einsum("bnk,nkc->bnc", columns, factors))[0]

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str) -> Asgs:
        return Asgs(**{name: tensor.to(device) for name, tensor in self.tensors().items()})


def smooth_basis(view: Tensor) -> Tensor:
    """The smooth basis functions, [...,10], of view directions [...,3]."""
    x, y, z = view.unbind(-1)
    rim = (1 - z.abs()) ** 5
    return torch.stack([torch.ones_like(x), x, y, z, x * y, y * z, z * x, x * x - y * y, z * z, rim], -1)


def shown(value: Tensor) -> tuple[Tensor, Tensor]:
    """Values with the shoulder above 1 applied, and its slope."""
    bright = value > 1
    return torch.where(bright, 1 + SHOULDER * (value - 1), value), torch.where(bright, SHOULDER, 1.0)
