"""Gaussians moved from the avatar's world to that of the capture that it was fitted to."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TypeVar

import torch
from torch.nn import functional as F

from specularip.colors import HarmonicColors, SphericalBetas
from specularip.gaussians import Gaussians
from specularip.motion.colors import posed_colors
from specularip.motion.quaternions import from_matrices, multiply, rotate
from specularip.placement import Placement

COARSEST = 1e-3
"""Metres of the avatar that float32 must tell apart in the capture's world, or the loss is said."""


Explicit = TypeVar("Explicit", HarmonicColors | None, HarmonicColors | SphericalBetas | None)


@torch.no_grad()
def placed(gaussians: Gaussians, colors: Explicit, placement: Placement | None) -> tuple[Gaussians, Explicit]:
    """Gaussians and their explicit colours as `placement` moves them: positions, rotations, scales, and the
    directions that colours depend on. Latents stay: the head's light is in the avatar's world.

    Warns where they get so far from the origin that float32 rounds their positions.
    """
    if placement is None or placement.is_identity:
        return gaussians, colors
    means = placement.points(gaussians.means)
    steps = float(means.abs().max()) * 2**-24 / placement.scale
    if steps > COARSEST:
        warnings.warn(
            f"so far from the capture's origin, the file's numbers round positions to {1e3 * steps:.2g} mm: "
            "move the capture nearer to it",
            stacklevel=3,
        )
    turn = from_matrices(placement.rotation).to(gaussians.quats)
    moved = replace(
        gaussians,
        means=means.float(),
        quats=multiply(turn, F.normalize(gaussians.quats, dim=-1)),
        log_scales=gaussians.log_scales + math.log(placement.scale),
        normal_residuals=rotate(turn, gaussians.normal_residuals),
    )
    if colors is None:
        return moved, colors
    turned = posed_colors(colors, turn.expand(len(means), 4))
    assert isinstance(turned, type(colors))
    return moved, turned
