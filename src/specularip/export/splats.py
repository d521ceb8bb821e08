"""What files of 3D Gaussians hold, whatever their format."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.colors import Colors, HarmonicColors, SphericalBetas
from specularip.colors.harmonics import SH_0
from specularip.errors import UserError
from specularip.gaussians import Binding, Gaussians
from specularip.placement import SCALES, Placement

DARKEST = 1 / 512
"""Diffuse colours are clamped this far from 0 and 1, whose logits are infinite."""
OPAQUE = 16.0
"""The logit of opacities that files give as infinite: 1 − 1e-7. Minus this, they are transparent."""
FLAT = math.log(1000.0)
"""A scale of zero, whose logarithm is −∞, becomes the Gaussian's largest one by a thousand."""
SMALLEST, LARGEST = -40.0, 40.0
"""Logarithms of scales. Squares of smaller ones are no float32; larger ones count as infinite."""
BEYOND = 1e15
"""Larger numbers count as infinite: products of them are no float32."""
FAINTEST = 1 / 255
"""Rasterisers leave out what is more transparent."""
TERMS = 16
"""Harmonics of a colour, to degree 3."""
SIZES, HUMAN = (0.05, 100.0), 1.8
"""Subjects that are smaller or larger, in metres if that is the file's unit, are scaled to that of a person:
rasterisers and viewers leave out what is a centimetre away, and format and cameras have their limits."""
FAR = 1000.0
"""Subjects farther from the origin than so many times their size are moved: float32 has seven digits."""
OUTER, SPREAD = 0.05, 6.0
"""A subject's size is that of all but this share of its Gaussians on each side; or so many standard
deviations of its usual Gaussian, if that is more."""
SAMPLES = 100_000
"""Gaussians whose positions are sorted."""
ABOVE_3 = "its harmonics above degree 3 are left out"


@dataclass(frozen=True)
class Splats:
    """The contents of a file. gaussians: with the diffuse colour, without latents, bound to joint 0 where
    there is no binding. colors: explicit colours; None where all views are alike. antialiased: see
    `rasterize`. notes: what the user should know, such as rows that were left out. binding: the skeleton.
    placement: leads back to the world of the file; None: they are in it."""

    gaussians: Gaussians
    colors: Colors | None = None
    antialiased: bool = False
    notes: tuple[str, ...] = ()
    binding: Binding | None = None
    placement: Placement | None = None


def sound_rows(quats: Tensor, log_scales: Tensor, *columns: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Which of N Gaussians have only finite values in quats [N,4], log_scales [N,3] and the columns [N,...],
    and a rotation: a mask [N], and a note where some have not. Raises UserError where none has."""
    count = len(quats)
    sound = (quats.norm(dim=-1) > 1e-8) & (log_scales <= LARGEST).all(1)
    for column in (quats, log_scales, *columns):
        sound &= (column.reshape(count, -1).abs() <= BEYOND).all(1)
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
    movable: bool = True,
) -> Splats:
    """Splats from means [N,3], quats [N,4] wxyz, log_scales [N,3], opacity_logits [N] and spherical harmonics
    coefficients [N,K,3], K a square, as in `HarmonicColors`; lobes [N,L,6] as in `SphericalBetas`.

    An opacity of +∞ is opaque, of −∞ transparent, a scale of −∞ flat: these are kept. Gaussians with NaN or
    other infinite values, or a rotation of length zero, are left out. Harmonics are cut to degree 3. Notes
    say what was lost, and that all is transparent. movable: a subject far from the origin, or of another size
    than people, is brought there and to that of a person. Raises UserError where no Gaussian is left.
    """
    infinite = opacity_logits.isinf()
    opacity_logits = torch.where(infinite, OPAQUE * opacity_logits.sign(), opacity_logits)
    thin = log_scales.amax(1, keepdim=True) - FLAT
    log_scales = torch.where(log_scales.isneginf(), thin, log_scales).clamp_min(SMALLEST)
    notes: tuple[str, ...] = ()
    if coefficients.shape[1] > TERMS:
        notes = (ABOVE_3,)
        coefficients = coefficients[:, :TERMS]
    columns = (means, opacity_logits, coefficients, *(() if lobes is None else (lobes,)))
    sound, dropped = sound_rows(quats, log_scales, *columns)
    if dropped:
        quats, means, log_scales = quats[sound], means[sound], log_scales[sound]
        opacity_logits, coefficients = opacity_logits[sound], coefficients[sound]
        lobes = None if lobes is None else lobes[sound]
        notes += dropped
    if float(opacity_logits.max().sigmoid()) < FAINTEST:
        notes += ("every Gaussian is transparent: nothing can be seen of them",)
    placement = None
    if movable:
        placement, note = _placement(means, log_scales, opacity_logits)
        notes += note
    if placement is not None:
        means, log_scales = placement.inverse().points(means), log_scales - math.log(placement.scale)
    count = len(means)
    weights = torch.zeros(count, 4)
    weights[:, 0] = 1
    gaussians = Gaussians(
        means=means.float().contiguous(),
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
        colors = HarmonicColors(F.pad(coefficients, (0, 0, 0, TERMS - coefficients.shape[1])))
    return Splats(gaussians, colors, antialiased, notes, placement=placement)


def _placement(
    means: Tensor, log_scales: Tensor, opacity_logits: Tensor
) -> tuple[Placement | None, tuple[str, ...]]:
    """From a world in which the subject has the size of a person and is about the origin to that of its means
    [N,3], with log_scales [N,3] and opacity_logits [N]; None where they are one. And a note, where not."""
    visible = opacity_logits.sigmoid() >= FAINTEST
    if bool(visible.any()):
        means, log_scales = means[visible], log_scales[visible]
    some = means[:: max(1, len(means) // SAMPLES)].double()
    first, middle, last = torch.quantile(some, torch.tensor([OUTER, 0.5, 1 - OUTER]).double(), dim=0)
    size = max(float((last - first).max()), SPREAD * float(log_scales.amax(1).median().exp()))
    fits = SIZES[0] <= size <= SIZES[1]
    near = float(middle.abs().max()) <= FAR * size
    if (fits and near) or not SCALES[0] < size / HUMAN < SCALES[1]:
        return None, ()
    where = ", ".join(f"{value:.3g}" for value in middle.tolist())
    note = f"its subject, {size:.2g} large at ({where}), is shown about the origin"
    if not fits:
        note += f" and {HUMAN} m large"
    placement = Placement(1.0 if fits else size / HUMAN, torch.eye(3), middle)
    return placement, (f"{note}; files that are made of it have it where it is",)
