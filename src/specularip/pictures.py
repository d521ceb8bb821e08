"""Pictures of an avatar for people: one layer of a rendering, on a background, as bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from specularip.avatar import Frame, Prepared
from specularip.cameras import Cameras
from specularip.files import to_uint8
from specularip.options import Layer

FAINTEST = 1 / 255
"""A picture whose alpha is nowhere this much shows nothing."""


def without_highlights(prepared: Prepared) -> Prepared:
    """The same avatar in its diffuse colours."""
    return replace(prepared, head=None, shading=None, colors=None)


def draw(
    prepared: Prepared, camera: Cameras, layer: Layer, background: tuple[float, float, float] | None
) -> np.ndarray:
    """One picture, uint8 [H,W,3], or [H,W,4] with straight alpha where the background is None.

    final and diffuse are colours; specular is what the highlights add, on black; normal is 0.5 + 0.5 n;
    alpha is a grey; depth is white at the nearest and dark at the farthest point.
    """
    if layer == "diffuse":
        prepared = without_highlights(prepared)
    if layer in ("final", "diffuse") and background is not None:
        return to_uint8(prepared.image(camera, background)[0])
    frame = prepared.render(camera, 0.0)
    alpha, colors = frame.alpha[0], _colors(frame, layer)
    if layer in ("alpha", "specular"):  # which have no background of their own
        shown = torch.cat([colors, alpha], -1) if background is None else colors
    elif background is None:
        shown = torch.cat([colors / alpha.clamp_min(1 / 255), alpha], -1)
    else:
        shown = colors + (1 - alpha) * colors.new_tensor(background)
    return to_uint8(shown)


def shows_something(prepared: Prepared, camera: Cameras) -> bool:
    """Whether any pixel of a picture shows the avatar."""
    return float(without_highlights(prepared).render(camera, 0.0).alpha.max()) >= FAINTEST


def grid(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """A contact sheet of pictures of one size, in rows, about twice as wide as high, with few empty places,
    which are like the first picture's corner."""
    height, width = pictures[0].shape[:2]

    def cost(columns: int) -> float:
        rows = -(-len(pictures) // columns)
        shape = columns * width / (rows * height)
        return abs(math.log(shape / 2)) + rows * columns / len(pictures)

    columns = min(range(1, len(pictures) + 1), key=cost)
    rows = -(-len(pictures) // columns)
    sheet = np.empty((rows * height, columns * width, pictures[0].shape[2]), np.uint8)
    sheet[:] = pictures[0][0, 0]
    for index, picture in enumerate(pictures):
        top, left = height * (index // columns), width * (index % columns)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def _colors(frame: Frame, layer: Layer) -> Tensor:
    """The layer's colours [H,W,3], premultiplied."""
    alpha = frame.alpha[0]
    if layer == "specular":
        return frame.specular[0].clamp(0, 1)
    if layer == "normal":
        return (0.5 + 0.5 * frame.normal[0]) * alpha
    if layer == "alpha":
        return alpha.expand(-1, -1, 3)
    if layer == "depth":
        depth, inside = frame.depth[0], alpha > 0.5
        if not bool(inside.any()):
            return torch.zeros_like(frame.image[0])
        near, far = depth[inside].min(), depth[inside].max()
        share = ((depth - near) / (far - near).clamp_min(1e-6)).clamp(0, 1)
        return (1 - 0.85 * share).expand(-1, -1, 3) * alpha
    return frame.image[0]
