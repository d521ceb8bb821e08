"""Where the face's features lie on Anny: soft masks to paint by, as functions of place on the template.

Anny's topology is fixed, so a point of any body (face index and barycentric weights) has its place on the
template, the default adult of `AnnyModel.template`. There the outlines below were measured, in millimetres.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

FACE_MASKS = ("scalp", "ear", "nostril", "lip", "mouth_line", "brow", "eye_white", "iris", "pupil", "lash")
"""Columns of face_masks(), in painting order: a later one covers an earlier one."""

# Hairline: (y from the forehead at -170 to the nape, z) of its corners.
_HAIRLINE = ((-170, 822), (-135, 820), (-112, 800), (-84, 765), (-75, 742), (-62, 742), (-58, 762),
             (-40, 762), (-30, 725), (0, 690), (60, 676))  # fmt: skip
_EYE = (31.6, 751.0)  # centre of the opening: |x|, z
_EYE_HALF = (12.0, 4.3, 4.0)  # half width, height above and below the centre
_BROW = ((11, 764.5, 3.4), (20, 768.5, 3.6), (33, 771.5, 3.0), (43, 770.5, 2.2), (52, 765, 1.0))
"""(|x|, z, half thickness) along the brow."""
_LIP = ((0, 688.6, 682.4, 671.0), (4, 690.2, 682.6, 671.0), (11, 688.0, 683.0, 672.5),
        (18, 685.0, 682.4, 676.0), (24.5, 681.0, 680.8, 680.4))  # fmt: skip
"""(|x|, top, where the lips meet, bottom) along the mouth."""


def face_masks(places: Tensor) -> Tensor:
    """Masks in 0..1, [N,len(FACE_MASKS)], at template points `places` [N,3] metres (of head vertices)."""
    x, y, z = (1e3 * places).unbind(-1)
    x = x.abs()
    # Everything but hair and ears lies on the front; the mask keeps it off the back of the skull.
    front = _step(-95 - y, 8)
    scalp = _step(z - _curve(y, _HAIRLINE, 1), 4)
    ear = _step(x - 73.5, 1.5) * _step(759 - z, 2) * _step(z - 695, 2)
    nostril = front * _step(1 - torch.hypot((x - 8.5) / 5.0, (z - 709.5) / 2.6), 0.3)

    top, meet, bottom = (_curve(x, _LIP, column) for column in (1, 2, 3))
    mouth = front * _step(24.5 - x, 1.5)
    lip = mouth * _step(top - z, 1.2) * _step(z - bottom, 1.2)
    mouth_line = mouth * torch.exp(-(((z - meet) / 1.4) ** 2))

    middle, half = _curve(x, _BROW, 1), _curve(x, _BROW, 2)
    brow = front * _step(x - 11, 3) * _step(53 - x, 3) * _step(half - (z - middle).abs(), 1.2)

    dx, dz = x - _EYE[0], z - _EYE[1]
    height = torch.where(dz > 0, _EYE_HALF[1], _EYE_HALF[2])
    # An almond: two parabolas that meet in the corners.
    rim = height * (1 - (dx / _EYE_HALF[0]) ** 2)
    opening = front * _step(rim - dz.abs(), 0.6) * (dx.abs() < _EYE_HALF[0])
    radius = torch.hypot(dx, dz)
    iris, pupil = opening * _step(5.4 - radius, 0.8), opening * _step(2.3 - radius, 0.8)
    upper = front * (dx.abs() < _EYE_HALF[0] + 1.5) * (dz > -1)
    lash = upper * torch.exp(-((dz - rim.clamp_min(0)) ** 2))
    return torch.stack([scalp, ear, nostril, lip, mouth_line, brow, opening, iris, pupil, lash], -1)


def _step(distance: Tensor, softness: float) -> Tensor:
    """0 below 0, 1 above, linear over `softness` millimetres around."""
    return (distance / softness + 0.5).clamp(0, 1)


def _curve(position: Tensor, corners: tuple[tuple[float, ...], ...], column: int) -> Tensor:
    """Piecewise-linear through (corners[i][0], corners[i][column]), constant beyond the ends."""
    result = torch.full_like(position, corners[0][column])
    for left, right in pairwise(corners):
        slope = (right[column] - left[column]) / (right[0] - left[0])
        result = result + slope * (position.clamp(left[0], right[0]) - left[0])
    return result
