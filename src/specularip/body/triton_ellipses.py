"""Draws antialiased ellipses over each other in one kernel. Importing this module needs Triton."""
# In kernels, tl's operators determine the types, not the annotations.
# mypy: disable-error-code="operator, assignment, no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from specularip.kernels.launch import launch

BLOCK = 128


def draw_ellipses(shapes: Tensor, size: int) -> Tensor:
    """Drawings [B,3,size,size] on black of the ellipses [B,M,10] of `skeleton._shapes`, the last on top."""
    shapes = shapes.contiguous()
    canvas = shapes.new_empty(len(shapes), 3, size, size)
    if len(shapes):
        grid = (triton.cdiv(size * size, BLOCK), len(shapes), 1)
        launch(_ellipses, grid, (shapes, canvas, shapes.shape[1], size), (BLOCK,))
    return canvas


@triton.jit(do_not_specialize=list(range(4)))
def _ellipses(shapes, canvas, count, size, BLOCK: tl.constexpr):
    b = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size * size
    px, py = (i % size).to(tl.float32) + 0.5, (i // size).to(tl.float32) + 0.5
    red, green, blue = tl.zeros_like(px), tl.zeros_like(px), tl.zeros_like(px)
    for k in range(count):
        shape = shapes + (b * count + k) * 10
        dx, dy = px - tl.load(shape), py - tl.load(shape + 1)
        cos, sin = tl.load(shape + 2), tl.load(shape + 3)
        long, wide = tl.load(shape + 4), tl.load(shape + 5)
        # As in `skeleton._ellipse`.
        u, v = (dx * cos + dy * sin) / long, (dy * cos - dx * sin) / wide
        level = tl.sqrt(u * u + v * v)
        u, v = u / long, v / wide
        gradient = tl.sqrt(u * u + v * v) / tl.maximum(level, 1e-6)
        cover = 0.5 - (level - 1.0) / tl.maximum(gradient, 1e-6)
        cover = tl.minimum(tl.maximum(cover, 0.0), 1.0)
        cover = tl.where(tl.load(shape + 6) > 0.0, cover, 0.0)
        red += cover * (tl.load(shape + 7) - red)
        green += cover * (tl.load(shape + 8) - green)
        blue += cover * (tl.load(shape + 9) - blue)
    pixel, plane = canvas + b * 3 * size * size + i, size * size
    tl.store(pixel, red, mask=inside)
    tl.store(pixel + plane, green, mask=inside)
    tl.store(pixel + 2 * plane, blue, mask=inside)
