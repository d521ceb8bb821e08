"""What files of 3D Gaussians hold, whatever their format."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.colors import Colors, HarmonicColors
from specularip.colors.harmonics import SH_0
from specularip.errors import UserError
from specularip.gaussians import Gaussians

DARKEST = 1 / 512
"""Diffuse colours are clamped this far from 0 and 1, whose logits are infinite."""


@dataclass(frozen=True)
class Splats:
    """The contents of a file. gaussians: with the diffuse colour, without latents, bound to joint 0. colors:
    explicit colours; None where all views are alike. antialiased: see `rasterize`. notes: what the user
    should know, such as rows that were left out."""

    gaussians: Gaussians
    colors: Colors | None = None
    antialiased: bool = False
    notes: tuple[str, ...] = ()


def splats_from(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    coefficients: Tensor,
    *,
    antialiased: bool = False,
) -> Splats:
    """Splats from means [N,3], quats [N,4] wxyz, log_scales [N,3], opacity_logits [N] and spherical harmonics
    coefficients [N,K,3], K 1, 4, 9 or 16, as in `HarmonicColors`.

    Gaussians with NaN or infinite values, or a rotation of length zero, are left out, with a note. Raises
    UserError where none is left.
    """
    count = len(means)
    columns = (means, quats, log_scales, opacity_logits, coefficients)
    sound = quats.norm(dim=-1) > 1e-8
    for column in columns:
        sound &= column.reshape(count, -1).isfinite().all(1)
    notes: tuple[str, ...] = ()
    if not bool(sound.all()):
        left = int(sound.sum())
        if left == 0:
            raise UserError("every Gaussian has NaN or infinite values, or a rotation of length zero")
        means, quats, log_scales, opacity_logits, coefficients = (column[sound] for column in columns)
        notes = (f"{count - left} of {count} Gaussians left out: NaN, infinite, or no rotation",)
        count = left
    weights = torch.zeros(count, 4)
    weights[:, 0] = 1
    gaussians = Gaussians(
        means=means.contiguous(),
        quats=F.normalize(quats, dim=-1),
        log_scales=log_scales.contiguous(),
        opacity_logits=opacity_logits.contiguous(),
        color_logits=torch.logit((coefficients[:, 0] * SH_0 + 0.5).clamp(DARKEST, 1 - DARKEST)),
        latents=torch.zeros(count, 0),
        normal_residuals=torch.zeros(count, 3),
        regions=torch.zeros(count, dtype=torch.int64),
        bind_joints=torch.zeros(count, 4, dtype=torch.int64),
        bind_weights=weights,
    )
    colors = None
    if bool(coefficients[:, 1:].any()):
        colors = HarmonicColors(F.pad(coefficients, (0, 0, 0, 16 - coefficients.shape[1])))
    return Splats(gaussians, colors, antialiased, notes)
