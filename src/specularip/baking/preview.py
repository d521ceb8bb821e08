"""The head's colours as spherical harmonics in a second, for avatars that still grow or wait to be baked.

All view directions weigh the same, also those from which a Gaussian is hidden; `bake` fits to those that
show it, which takes far longer.
"""

from __future__ import annotations

import torch

from specularip.colors import HarmonicColors
from specularip.colors.harmonics import harmonics_3
from specularip.gaussians import Gaussians
from specularip.specular import SpecularHead
from specularip.specular.head import fibonacci_directions, shading_normals

DIRECTIONS = 64
"""View directions that are sampled, four a coefficient."""
CHUNK = 8192
ROUGH = 1e-3
"""Pull of a harmonic of degree l towards 0, times l (l + 1): narrow highlights ring less."""


@torch.no_grad()
def preview_harmonics(gaussians: Gaussians, head: SpecularHead) -> HarmonicColors:
    """Least-squares fit of spherical harmonics to the colours of N Gaussians. Deterministic; changes neither
    them nor the head."""
    directions = fibonacci_directions(DIRECTIONS).to(gaussians.means.device)
    basis = harmonics_3(-directions).double()
    degree = torch.tensor([l for l in range(4) for _ in range(2 * l + 1)], device=basis.device)
    pull = torch.diag(ROUGH * DIRECTIONS * degree * (degree + 1.0))
    fit = torch.linalg.solve(basis.T @ basis + pull, basis.T).float()  # [16,D]
    diffuse, normals = gaussians.diffuse, shading_normals(gaussians)
    parts = []
    for index in torch.arange(len(gaussians), device=basis.device).split(CHUNK):
        prepared = head.prepare(gaussians.latents[index], diffuse[index])
        # Only directions matter: all Gaussians at the origin, cameras on the unit sphere.
        specular = head.shade(prepared, normals[index], torch.zeros_like(normals[index]), directions)
        colors = diffuse[index] + specular - 0.5
        parts.append(torch.einsum("jd,dnc->njc", fit, colors))
    return HarmonicColors(torch.cat(parts))
