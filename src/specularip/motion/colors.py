"""Explicit colours of Gaussians that turn with their bones.

Explicit colours hold light and surface in one function, and only the head separates them. Of ASGs, the frames
turn with the bones and the lights of the lobes stay in the world; the smooth part and harmonics turn with the
bones, as if most of them were the surface's own. docs/motion.md has what that costs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from specularip.colors import Asgs, Colors, HarmonicColors
from specularip.colors.harmonics import harmonics_3
from specularip.motion.quaternions import conjugate, matrices, multiply, rotate
from specularip.specular.head import fibonacci_directions

SAMPLES = 32
"""Directions in which harmonics are evaluated to turn them; 16 would do, more are better conditioned."""


def posed_colors(colors: Colors, turns: Tensor) -> Colors:
    """The colours of Gaussians that `turns` [N,4] wxyz rotates from their rest pose."""
    if isinstance(colors, Asgs):
        quats = multiply(turns, colors.quats)
        back = multiply(conjugate(quats), colors.quats)  # from the frame at rest to the posed one
        return replace(colors, quats=quats, lights=rotate(back[:, None], colors.lights))
    return HarmonicColors(turned_harmonics(colors.coefficients, turns))


def turned_harmonics(coefficients: Tensor, turns: Tensor) -> Tensor:
    """Coefficients [N,16,C] of `harmonics_3` after the rotations `turns` [N,4].

    Exact: f(R⁻¹ d) is a sum of the same harmonics, and is determined by its values in a few directions d.
    """
    directions = fibonacci_directions(SAMPLES).to(coefficients)
    values = harmonics_3(directions @ matrices(turns)) @ coefficients  # rows times R are R⁻¹ d
    return torch.linalg.pinv(harmonics_3(directions)) @ values
