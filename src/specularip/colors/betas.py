"""Colours as Spherical Betas: lobes over view directions that only add light, beside harmonics.

    colour(d) = max(harmonics(d) + 1/2, 0) + Σ_k softplus(rgb_k) · max(d · l_k, 0)^(4 exp(β_k))
    l = (sin θ cos φ, sin θ sin φ, cos θ),  softplus(x) = log(1 + exp(s x)) / s,  s = 10 log 2

with d the direction from the camera to the Gaussian, as in 3DGS' harmonics. Liu et al., "Deformable Beta
Splatting", SIGGRAPH 2025; sharpness s of softplus as in the authors' code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.colors.harmonics import harmonics_3

SHARPNESS = 10 * math.log(2)
"""Of softplus."""
DIMMEST = 1e-4
"""Amplitudes that `lobes_of` stores are at least this: those of 0 have no finite parameter."""


@dataclass(frozen=True)
class SphericalBetas:
    """N colours, K lobes each. coefficients [N,L,3]: harmonics as in `HarmonicColors`, L 1, 4, 9 or 16.
    lobes [N,K,6]: r, g, b, θ, φ, β."""

    coefficients: Tensor
    lobes: Tensor

    def __call__(self, view_dirs: Tensor) -> Tensor:
        """Colours [B,N,3] seen along view_dirs [B,N,3], unit, from surface to camera. Not clamped above."""
        basis = harmonics_3(-view_dirs)[..., : self.coefficients.shape[1]]
        base = torch.einsum("bnl,nlc->bnc", basis, self.coefficients) + 0.5
        cosines = torch.einsum("bni,nki->bnk", -view_dirs, self.directions)
        lobes = cosines.clamp_min(0) ** (4 * self.lobes[..., 5].exp())
        return base.clamp_min(0) + torch.einsum("bnk,nkc->bnc", lobes, self.amplitudes)

    @property
    def amplitudes(self) -> Tensor:
        """[N,K,3], positive."""
        return F.softplus(self.lobes[..., :3], beta=SHARPNESS)

    @property
    def directions(self) -> Tensor:
        """l, [N,K,3], unit: a lobe is brightest where the camera looks along it."""
        theta, phi = self.lobes[..., 3], self.lobes[..., 4]
        return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], -1)

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str) -> SphericalBetas:
        return SphericalBetas(self.coefficients.to(device), self.lobes.to(device))


def lobes_of(amplitudes: Tensor, directions: Tensor, betas: Tensor) -> Tensor:
    """The lobes [N,K,6] of `SphericalBetas` with these amplitudes [N,K,3], directions [N,K,3], unit, and β
    [N,K]."""
    scaled = SHARPNESS * amplitudes.clamp_min(DIMMEST)
    raw = (scaled + torch.log(-torch.expm1(-scaled))) / SHARPNESS
    return torch.cat([raw, angles_of(directions), betas[..., None]], -1)


def angles_of(directions: Tensor) -> Tensor:
    """θ and φ, [...,2], of unit directions [...,3]."""
    x, y, z = directions.unbind(-1)
    return torch.stack([torch.atan2(torch.hypot(x, y), z), torch.atan2(y, x)], -1)
