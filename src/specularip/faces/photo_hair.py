"""The photo's hair, for a text that says nothing about it: its colour, and how long it is."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.body import AnnyModel
from specularip.body.dense_head import DenseHead
from specularip.body.mesh import vertex_normals
from specularip.faces.hair import COLORS, names_hair
from specularip.faces.head_fit import FittedHead
from specularip.faces.projection import FaceAreas, luminance
from specularip.sentences import affirmed

HIDDEN = re.compile(r"\b(?:hijab|headscarf|turban|hood|helmet)\b")
ABOVE_FACE, UP, THICKNESS = (0.02, 0.055), 0.03, 0.008
"""Where hair is looked for: metres from the oval of the landmarks, above the mouth, and from the scalp."""
HANGING = (("bob", 0.0), ("long", -0.065))
"""Styles, and the heights in metres above the mouth down to which such hair hangs."""
BESIDE_HEAD, SPREAD = 0.01, 0.008
"""How far beside the head that is looked for, and in which surroundings, in metres."""
AWAY = 0.17
"""Metres from the middle of the face where a photo shows its background."""
SAME, ALIKE = 0.12, 0.25
"""Distances of `_features`: of a bald head from its face, and of long hair from the hair above the face."""
YELLOWER = 0.05
"""By how much less is the share of blue in the palest hair than in its skin."""


@dataclass(frozen=True)
class PhotoHair:
    """words: such as "short brown hair", "a blonde bob" or "a bald head"; color [3]: sRGB in 0..1."""

    words: str
    color: Tensor


def photo_hair(text: str, pixels: np.ndarray, head: FittedHead, photo: int) -> PhotoHair | None:
    """What a photo shows of the hair; None if it does not, or if `text` speaks of it.

    pixels: uint8 [H,W,3]; photo: its number in `head`.
    """
    if names_hair(text) or HIDDEN.search(affirmed(text)):
        return None
    dense, areas, vertices = DenseHead.load(), FaceAreas.load(), head.vertices(photo)
    places = dense.at(vertices)
    normals = F.normalize(dense.at(vertex_normals(vertices, AnnyModel.load().faces)), dim=-1)

    def seen(points: Tensor) -> Tensor:
        """Median colour [3] of the photo at points [n,3]; NaN outside of it."""
        at = head.cameras[photo].project(points)[0][0].floor().long()
        inside = ((at >= 0) & (at < at.new_tensor(pixels.shape[1::-1]))).all(1)
        if 2 * int(inside.sum()) < len(points):
            return torch.full((3,), torch.nan)
        colors = torch.from_numpy(pixels[at[inside, 1], at[inside, 0]]).float() / 255
        return colors.median(0).values

    above = (areas.outside > ABOVE_FACE[0]) & (areas.outside < ABOVE_FACE[1]) & (areas.height > UP)
    above &= normals[:, 1] < -0.3
    skin = (areas.core == 1) & (areas.features == 0) & (normals[:, 1] < -0.8)
    found = seen(places[above] + THICKNESS * normals[above])
    if bool(found.isnan().any()):
        return None
    hair = _features(found)
    offset = hair - _features(seen(places[skin]))
    if float(offset.norm()) < SAME and float(offset[2]) > -YELLOWER:
        return PhotoHair("a bald head", found)
    words, _ = min(COLORS, key=lambda entry: float((hair - _features(hair.new_tensor(entry[1]))).norm()))
    color = words.split()[0]
    level = places[(areas.height.abs() < 0.003) & (areas.outside < 0), 2].mean()
    depth = places[:, 1].median()  # about that of the ears
    around = torch.cartesian_prod(*[torch.linspace(-SPREAD, SPREAD, 5)] * 2)

    def beside(x: Tensor, up: float) -> Tensor:
        points = torch.stack([x + around[:, 0], depth.expand(len(around)), level + up + around[:, 1]], 1)
        return _features(seen(points))

    length = "short"
    ends = places[:, 0].min() - BESIDE_HEAD, places[:, 0].max() + BESIDE_HEAD
    for side, x in zip((-1, 1), ends):
        background = beside(places[:, 0].mean() + side * AWAY, 0.06)
        for style, up in HANGING:
            off = float((beside(x, up) - hair).norm())
            if not off < min(ALIKE, 0.5 * float((background - hair).norm().nan_to_num(9.0))):
                break
            length = max(length, style, key=["short", "bob", "long"].index)
    return PhotoHair(f"a {color} bob" if length == "bob" else f"{length} {color} hair", found)


def _features(color: Tensor) -> Tensor:
    """Half the logarithm of the luminance of a colour [3], which depends on the light most, and its shares of
    red and blue."""
    grey = luminance(color).clamp_min(0.03)
    return color.new_tensor([0.5 * float(grey.log()), float(color[0] / grey), float(color[2] / grey)])
