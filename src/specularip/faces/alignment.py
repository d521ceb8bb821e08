"""Cutting a face out of a photo, upright and framed the same way for every photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

# The canonical crop, in units of its side.
EYE_LINE = 0.42
CROP_PER_BOX = 1.70
"""Crop side over that of `FaceBox`: puts the chin near 0.88, makes the face about 0.6 wide and most people's
eyes 0.25 apart."""


@dataclass(frozen=True)
class FaceBox:
    """Where the face of a photo is. Pixel coordinates, x to the right and y down.

    center, side: a square as tilted as the face, about brow to chin and ear to ear. eyes: (x, y) of the
    person's right eye, then of the left one; in an upright photo, the right one is at the left.
    """

    center: tuple[float, float]
    side: float
    eyes: tuple[tuple[float, float], tuple[float, float]]


def align_face(image: np.ndarray, face: FaceBox, size: int = 96) -> Tensor:
    """The face, upright and in the canonical framing: float32 [3,size,size] in 0..1.

    The eye line lies at 42 % of the height, the chin near 88 %, the face is about 60 % wide. Beyond the
    border, the photo is mirrored.
    """
    import torch

    right, left = np.array(face.eyes)
    side = CROP_PER_BOX * face.side
    across = (left - right) / np.hypot(*(left - right))
    down = np.array([-across[1], across[0]])
    corner = (right + left) / 2 - 0.5 * side * across - EYE_LINE * side * down
    crop = sample_square(image, tuple(corner), tuple(side * across), size)
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1), dtype=np.float32))


def face_mask(size: int = 96) -> Tensor:
    """Soft ellipse over the face of an `align_face` crop, brow to chin: float32 [1,size,size] in 0..1."""
    import torch

    at = (torch.arange(size) + 0.5) / size
    radius = torch.hypot((at[None, :] - 0.5) / 0.29, (at[:, None] - 0.57) / 0.34)
    return torch.clamp((1.12 - radius) / 0.34, 0.0, 1.0).square()[None]


HAIR_TONE = 0.7
"""Brightness and saturation of the hair's stand-in relative to the photo. Hair in photos is lit from close by
and shines; the compact prior reads such tones as those of a hat."""


def framed_by_hair(crop: Tensor, hair: Tensor | None = None) -> Tensor:
    """`align_face` crops [...,3,S,S] of which only the face is left; around it is the colour of the hair.

    For a prior whose identity encoder has seen rendered faces only: what surrounds a face in a photo (a
    background, a collar, waves of hair) resembles hats and scarves of the training more than its hair. The
    colour is `hair` [3], or if None the median over the hair above the forehead, toned down by `HAIR_TONE`;
    that of a bald head is its skin's.
    """
    import torch

    at = torch.linspace(-1, 1, crop.shape[-1], device=crop.device)
    x, y = at[None, :], at[:, None]
    if hair is None:
        above = (torch.hypot(x / 0.6, (y + 0.05) / 0.8) < 1) & (y < -0.5)
        seen = crop[..., above].median(-1).values
        grey = seen.mean(-1, keepdim=True)
        hair = HAIR_TONE * (grey + HAIR_TONE * (seen - grey))
    outside = (6 * (torch.hypot(x / 0.55, (y - 0.15) / 0.72) - 1)).clamp(0, 1)
    return crop + outside * (hair[..., None, None] - crop)


def sample_square(
    image: np.ndarray, corner: tuple[float, float], edge: tuple[float, float], size: int
) -> np.ndarray:
    """Resample a tilted square of an image with antialiasing: uint8 [H,W,3] -> float64 [size,size,3] in 0..1.

    corner: (x, y) of the square's upper left; edge: (x, y) from there to its upper right.
    """
    from scipy.ndimage import map_coordinates

    side = float(np.hypot(*edge))
    shrink = max(1, int(side / size / 2))  # average whole blocks first, which is cheap; then supersample
    ends = np.array([[0.0, 0.0], edge, [-edge[1], edge[0]], [edge[0] - edge[1], edge[0] + edge[1]]]) + corner
    left, right = _needed(ends[:, 0], image.shape[1], shrink)
    top, bottom = _needed(ends[:, 1], image.shape[0], shrink)
    near = image[top:bottom, left:right]
    small = np.asarray(Image.fromarray(near).reduce(shrink)) if shrink > 1 else near
    per_pixel = max(1, round(side / shrink / size + 0.4))
    at = (np.arange(size * per_pixel) + 0.5) / (size * per_pixel)
    x = corner[0] - left + edge[0] * at[None, :] - edge[1] * at[:, None]
    y = corner[1] - top + edge[1] * at[None, :] + edge[0] * at[:, None]
    where = np.stack([y, x]) / shrink - 0.5
    channels = [
        map_coordinates(small[..., c].astype(np.float32), where, order=1, mode="reflect") for c in range(3)
    ]
    blocks = np.stack(channels, -1).reshape(size, per_pixel, size, per_pixel, 3)
    return blocks.mean((1, 3)) / 255.0


def _needed(ends: np.ndarray, extent: int, shrink: int) -> tuple[int, int]:
    """Which pixels, out of `extent`, a square needs that lies between these coordinates: with what is
    mirrored beyond the borders, and in whole blocks of `shrink` from the first one."""
    low, high = float(ends.min()) - 2 * shrink, float(ends.max()) + 2 * shrink
    first = min(low, 2 * extent - high) if high > extent else low
    last = max(high, -low) if low < 0 else high
    if last <= 0 or first >= extent:
        return 0, extent
    return max(0, int(first) // shrink * shrink), min(extent, -(-int(last + 1) // shrink) * shrink)
