"""How many images show points as the subject, and how many as empty, in numba."""
# numba types the scalars, not the annotations of math, min and max.
# mypy: disable-error-code="operator, assignment"

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from specularip.cameras import Cameras
from specularip.captures.views import View
from specularip.kernels.compiling import cached
from specularip.kernels.threads import share_out

HALF = 127.5
"""Masks below this, of 255, are empty."""
NEAREST = 1e-3
"""Depth from which on points are in the picture."""


@dataclass(frozen=True)
class Silhouette:
    """A mask and its camera. mask [h,w,C] uint8, of any size and the camera's aspect; its last channel
    counts."""

    camera: Cameras
    mask: np.ndarray

    @staticmethod
    def of(view: View) -> Silhouette:
        """That of a view; shares the pixels where they are bytes."""
        pixels = view.pixels
        if pixels.dtype != torch.uint8:
            pixels = (255 * pixels[..., 3:]).round().to(torch.uint8)
        return Silhouette(view.camera, pixels.cpu().contiguous().numpy())


def count_views(
    points: Tensor, silhouettes: Sequence[Silhouette], *, until_empty: bool = False
) -> tuple[Tensor, Tensor]:
    """How many of the silhouettes have each of points [P,3] float32, on the CPU, in the picture, and how many
    of these show it as empty: both int32 [P]. Masks are interpolated.

    until_empty: a point counts no further after the first that shows it as empty, which is much faster.
    """
    seen, empty = np.zeros(len(points), np.int32), np.zeros(len(points), np.int32)
    places = points.contiguous().numpy()
    for one in silhouettes:
        camera = one.camera
        to_pixels = (camera.Ks[0].double() @ camera.viewmats[0, :3].double()).float().numpy()
        size = np.array([camera.width, camera.height], np.float32)
        share_out(_count, places, to_pixels, size, one.mask, until_empty, seen, empty)
    return torch.from_numpy(seen), torch.from_numpy(empty)


def warm_up() -> None:
    """Compile the kernel."""
    camera = Cameras.orbit(0.0, width=2, height=2)
    count_views(torch.zeros(1, 3), [Silhouette(camera, np.zeros((2, 2, 4), np.uint8))])


@cached
@njit(error_model="numpy", nogil=True)
def _count(share, shares, points, to_pixels, size, mask, until_empty, seen, empty):
    """Add what one mask shows. to_pixels [3,4]: homogeneous pixels of world points; size: width and
    height."""
    height, width, channels = mask.shape
    right, bottom = np.float32(width - 1), np.float32(height - 1)
    scale_x, scale_y = np.float32(width) / size[0], np.float32(height) / size[1]
    half = np.float32(0.5)
    for at in range(len(points) * share // shares, len(points) * (share + 1) // shares):
        if until_empty and empty[at]:
            continue
        a, b, c = points[at, 0], points[at, 1], points[at, 2]
        depth = to_pixels[2, 0] * a + to_pixels[2, 1] * b + to_pixels[2, 2] * c + to_pixels[2, 3]
        if not depth > np.float32(NEAREST):
            continue
        x = (to_pixels[0, 0] * a + to_pixels[0, 1] * b + to_pixels[0, 2] * c + to_pixels[0, 3]) / depth
        y = (to_pixels[1, 0] * a + to_pixels[1, 1] * b + to_pixels[1, 2] * c + to_pixels[1, 3]) / depth
        if not (x > 0 and y > 0 and x < size[0] and y < size[1]):
            continue
        seen[at] += 1
        x = min(max(x * scale_x - half, np.float32(0)), right)
        y = min(max(y * scale_y - half, np.float32(0)), bottom)
        left, top = math.floor(x), math.floor(y)
        next_x, next_y = min(left + 1, width - 1), min(top + 1, height - 1)
        x, y = x - np.float32(left), y - np.float32(top)
        upper = (1 - x) * mask[top, left, channels - 1] + x * mask[top, next_x, channels - 1]
        lower = (1 - x) * mask[next_y, left, channels - 1] + x * mask[next_y, next_x, channels - 1]
        if (1 - y) * upper + y * lower < HALF:
            empty[at] += 1
