"""What files of 3D Gaussians hold, whatever their format."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.colors import Colors, HarmonicColors, SphericalBetas
from specularip.colors.harmonics import SH_0
from specularip.errors import UserError
from specularip.gaussians import Binding, Gaussians

DARKEST = 1 / 512
"""Diffuse colours are clamped this far from 0 and 1, whose logits are infinite."""


@dataclass(frozen=True)
class Splats:
    """The contents of a file. gaussians: with the diffuse colour, without latents, bound to joint 0 where
    there is no binding. colors: explicit colours; None where all views are alike. antialiased: see
    `rasterize`. notes: what the user should know, such as rows that were left out. binding: the skeleton."""

    gaussians: Gaussians
    colors: Colors | None = None
    antialiased: bool = False
    notes: tuple[str, ...] = ()
    binding: Binding | None = None


def sound_rows(quats: Tensor, *columns: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Which of N Gaussians have only finite values in quats [N,4] and the columns [N,...], and a rotation: a
    mask [N], and a note where some have not. Raises UserError where none has."""
    count = len(quats)
    sound = quats.norm(dim=-1) > 1e-8
    for column in (quats, *columns):
        sound &= column.reshape(count, -1).isfinite().all(1)
    left = int(sound.sum())
    if left == 0:
        raise UserError("every Gaussian has NaN or infinite values, or a rotation of length zero")
    if left == count:
        return sound, ()
    return sound, (f"{count - left} of {count} Gaussians left out: NaN, infinite, or no rotation",)


def splats_from(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    coefficients: Tensor,
    lobes: Tensor | None = None,
    *,
    antialiased: bool = False,
) -> Splats:
    """Splats from means [N,3], quats [N,4] wxyz, log_scales [N,3], opacity_logits [N] and spherical harmonics
    coefficients [N,K,3], K 1, 4, 9 or 16, as in `HarmonicColors`; lobes [N,L,6] as in `SphericalBetas`.

    Gaussians with NaN or infinite values, or a rotation of length zero, are left out, with a note. Raises
    UserError where none is left.
    """
    columns = (means, log_scales, opacity_logits, coefficients, *(() if lobes is None else (lobes,)))
    sound, notes = sound_rows(quats, *columns)
    if notes:
        quats, means, log_scales = quats[sound], means[sound], log_scales[sound]
        opacity_logits, coefficients = opacity_logits[sound], coefficients[sound]
        lobes = None if lobes is None else lobes[sound]
    count = len(means)
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
    colors: Colors | None = None
    if lobes is not None:
        colors = SphericalBetas(coefficients.contiguous(), lobes.contiguous())
    elif bool(coefficients[:, 1:].any()):
        colors = HarmonicColors(F.pad(coefficients, (0, 0, 0, 16 - coefficients.shape[1])))
    return Splats(gaussians, colors, antialiased, notes)
