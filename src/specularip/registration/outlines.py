"""Outlines of a person in images: their points with normals, and how far a pixel is from the person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from skimage.measure import find_contours
from torch import Tensor
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.captures.views import PosedImages, View
from specularip.errors import UserError

MASK_SIZE = 224
"""Longest side in pixels of the box around the person, to which images are reduced."""
MARGIN = 0.15
"""What is kept around that box, as a share of its longest side."""
MOST_VIEWS = 48
LEAST_VIEWS = 3
OCCUPIED = 0.5
LEAST_PIXELS = 64
"""Fewer are no outline of a person."""
EMPTY_SHARE = 0.02
"""Of an image with an outline, at least this share of the pixels is empty."""


@dataclass(frozen=True)
class Outline:
    """The person's outline in one image, around which the image is cut out and reduced.

    camera: of the cut-out; mask [h,w] bool. points [n,2] in its pixels, and normals [n,2], unit, outwards:
    ends of images are no outlines. outside [h,w]: the distance in pixels to the person, 0 within.
    view: the image's number.
    """

    camera: Cameras
    mask: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    outside: np.ndarray
    view: int


def outlines_of(views: PosedImages) -> list[Outline]:
    """The outlines in at most MOST_VIEWS of the images, evenly chosen among those that have one.

    Raises UserError where fewer than LEAST_VIEWS images tell the person from the background.
    """
    usable = [number for number in range(len(views)) if _has_outline(views[number].alpha)]
    if len(usable) < LEAST_VIEWS:
        raise UserError(
            f"{len(usable)} of {len(views)} images tell the person from the background, and a body needs "
            f"{LEAST_VIEWS}: give images with alpha or masks"
        )
    chosen = usable if len(usable) <= MOST_VIEWS else usable[:: -(-len(usable) // MOST_VIEWS)]
    return [_outline(views[number], number) for number in chosen]


def _has_outline(alpha: Tensor) -> bool:
    occupied = int((alpha > OCCUPIED).sum())
    return LEAST_PIXELS <= occupied <= (1 - EMPTY_SHARE) * alpha.numel()


def _outline(view: View, number: int) -> Outline:
    alpha, camera = view.alpha[..., 0].cpu(), view.camera.to("cpu")
    rows, columns = (torch.nonzero(alpha.amax(axis) > OCCUPIED)[:, 0] for axis in (1, 0))
    top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    margin = max(4, round(MARGIN * max(bottom - top, right - left)))
    top, left = max(0, top - margin), max(0, left - margin)
    bottom, right = min(len(alpha), bottom + margin), min(alpha.shape[1], right + margin)
    part = alpha[top:bottom, left:right]
    scale = min(1.0, MASK_SIZE / max(part.shape))
    height, width = (max(1, round(scale * side)) for side in part.shape)
    if scale < 1:
        part = F.interpolate(part[None, None], (height, width), mode="area")[0, 0]
    K = camera.Ks.clone()
    K[:, :2, 2] -= K.new_tensor([left, top])
    cut = Cameras(camera.viewmats, K, right - left, bottom - top).resized(width, height)
    mask = (part > OCCUPIED).numpy()
    points, normals = _traced(part.numpy())
    return Outline(cut, mask, points, normals, distance_transform_edt(~mask).astype(np.float32), number)


def _traced(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [n,2] (x, y) of the outline, a pixel apart, and its normals [n,2], outwards."""
    points, normals = [np.zeros((0, 2))], [np.zeros((0, 2))]
    for line in find_contours(alpha, OCCUPIED):
        xy = line[:, ::-1] + 0.5  # pixel centres
        steps = np.linalg.norm(np.diff(xy, axis=0), axis=1)
        at = np.concatenate([[0], np.cumsum(steps)])
        if at[-1] < 12:
            continue
        even = np.arange(0, at[-1], 1.0)
        resampled = np.stack([np.interp(even, at, xy[:, axis]) for axis in (0, 1)], 1)
        closed = np.allclose(line[0], line[-1])
        padded = np.pad(resampled, ((3, 3), (0, 0)), "wrap" if closed else "edge")
        along = padded[6:] - padded[:-6]
        # skimage keeps the larger values at the left of the line, in rows and columns.
        normal = np.stack([along[:, 1], -along[:, 0]], 1)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        points.append(resampled)
        normals.append(normal)
    return np.concatenate(points), np.concatenate(normals)
