"""Explicit colours of Gaussians that turn with their bones.

Explicit colours hold light and surface in one function, which only the head separates. Of ASGs, the frames
turn with the bones; the lights of the lobes stay in the world, and a lobe grows with the cosine between its
light and the normal, as in the head. The smooth part, and harmonics and Spherical Betas as a whole, turn with
the bones: most of what they hold is the surface's own. docs/motion.md has what that costs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.colors import Asgs, Colors, SphericalBetas
from specularip.colors.betas import angles_of
from specularip.colors.harmonics import harmonics_3
from specularip.motion.quaternions import conjugate, matrices, multiply, rotate
from specularip.specular.head import fibonacci_directions

GRAZING, BRIGHTEST = 0.1, 2.0
"""Lower limit of the cosines between light and normal, and upper limit of their ratio: the fit of a lobe that
grazes the surface at rest says little of how it looks from above."""
SAMPLES = 32
"""Directions in which harmonics are evaluated to turn them; 16 would do, more are better conditioned."""


def posed_colors(colors: Colors, turns: Tensor) -> Colors:
    """The colours of Gaussians that `turns` [N,4] wxyz rotates from their rest pose."""
    if isinstance(colors, Asgs):
        back = multiply(multiply(conjugate(colors.quats), conjugate(turns)), colors.quats)
        lights = rotate(back[:, None], colors.lights)
        now, before = (light[..., 2:].abs().clamp_min(GRAZING) for light in (lights, colors.lights))
        return replace(
            colors,
            quats=multiply(turns, colors.quats),
            lights=lights,
            amplitudes=colors.amplitudes * (now / before).clamp_max(BRIGHTEST),
        )
    if isinstance(colors, SphericalBetas):
        angles = angles_of(rotate(turns[:, None], colors.directions))
        lobes = torch.cat([colors.lobes[..., :3], angles, colors.lobes[..., 5:]], -1)
        width = colors.coefficients.shape[1]
        full = F.pad(colors.coefficients, (0, 0, 0, 16 - width))
        return SphericalBetas(turned_harmonics(full, turns)[:, :width], lobes)
    return replace(colors, coefficients=turned_harmonics(colors.coefficients, turns))


def turned_harmonics(coefficients: Tensor, turns: Tensor) -> Tensor:
    """Coefficients [N,16,C] of `harmonics_3` after the rotations `turns` [N,4].

    Exact: f(R⁻¹ d) is a sum of the same harmonics, and is determined by its values in a few directions d.
    """
    directions = fibonacci_directions(SAMPLES).to(coefficients)
    values = harmonics_3(directions @ matrices(turns)) @ coefficients  # rows times R are R⁻¹ d
    return torch.linalg.pinv(harmonics_3(directions)) @ values
