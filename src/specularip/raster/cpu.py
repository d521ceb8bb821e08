"""The CPU path: two autograd functions around the numba kernels.

Projection and compositing are apart so that the pixel positions between them are a tensor of the graph, whose
gradient density control reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from specularip.raster import binning, compositing, projection
from specularip.raster.threads import share_out


def rasterize_numba(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    background: Tensor | None,
    antialiased: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Image, alpha, depth, means2d and radii, as `rasterize` documents them; background is [B,C] or None."""
    means2d, conics, peaks, depths, radii, extents, boxes = _Project.apply(
        means, quats, scales, opacities, viewmats, Ks.detach(), colors.detach(), width, height, antialiased
    )
    if background is None:
        background = colors.new_zeros(len(viewmats), colors.shape[-1])
    image, alpha, depth = _Composite.apply(
        means2d, conics, peaks, depths, colors, background, radii, extents, boxes, width, height
    )
    return image, alpha, depth, means2d, radii


class _Project(torch.autograd.Function):
    """means, quats, scales, opacities, viewmats -> means2d, conics, peaks, depths; radii, extents, boxes."""

    @staticmethod
    def forward(ctx: Any, means, quats, scales, opacities, viewmats, Ks, colors, width, height, antialiased):
        shape = (len(viewmats), len(means))
        means2d, conics, extents = (np.zeros((*shape, size), np.float32) for size in (2, 3, 2))
        peaks, depths = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        radii, boxes = np.zeros(shape, np.int32), np.zeros((*shape, 4), np.int32)
        cameras = projection.camera_table(_array(viewmats), _array(Ks), width, height)
        ctx.inputs = (*map(_array, (means, quats, scales, opacities)), cameras)
        ctx.results = (antialiased, conics, peaks, radii)
        outputs = (means2d, conics, peaks, depths, radii, extents, boxes)
        share_out(
            projection.project,
            *ctx.inputs[:4], _per_camera(colors), cameras, width, height, antialiased, *outputs,
        )  # fmt: skip
        ctx.save_for_backward(means, quats, scales, opacities)
        tensors = tuple(map(torch.from_numpy, outputs))
        ctx.mark_non_differentiable(*tensors[4:])
        return tensors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_means2d, g_conics, g_peaks, g_depths, *_):
        ctx.saved_tensors  # noqa: B018  (raises if an input was changed in place since the forward pass)
        count, n = ctx.results[-1].shape
        gradients = [np.empty_like(array) for array in ctx.inputs[:4]]
        chunks = -(-n // projection.CHUNK) if ctx.needs_input_grad[4] else 0
        g_viewmats = np.zeros((chunks, count, 12))
        upstream = [_array(tensor) for tensor in (g_means2d, g_conics, g_peaks, g_depths)]
        share_out(projection.project_backward, *ctx.inputs, *ctx.results, *upstream, *gradients, g_viewmats)
        poses = None
        if ctx.needs_input_grad[4]:
            poses = torch.zeros(count, 4, 4)
            poses[:, :3] = torch.from_numpy(g_viewmats.sum(0)).reshape(count, 3, 4)
        return *map(torch.from_numpy, gradients), poses, None, None, None, None, None


class _Composite(torch.autograd.Function):
    """means2d, conics, peaks, depths, colors, background -> image, alpha, depth."""

    @staticmethod
    def forward(
        ctx: Any, means2d, conics, peaks, depths, colors, background, radii, extents, boxes, width, height
    ):
        count, n = peaks.shape
        channels = colors.shape[-1]
        across, down = -(-width // projection.TILE), -(-height // projection.TILE)
        size = compositing.record_size(channels)
        records = compositing.aligned(count * n * size)
        splats = [_array(tensor) for tensor in (means2d, conics, peaks, depths, radii)]
        shade, frames = _array(background), _array(boxes)
        image = np.empty((count, height, width, channels), np.float32)
        image[:] = shade[:, None, None]
        alpha, depth = (np.zeros((count, height, width, 1), np.float32) for _ in range(2))
        starts = np.empty(count * n + 1, np.int64)
        lengths = np.zeros((count, across * down), np.int64)
        binning.count_slots(frames.reshape(-1, 4), starts)
        if starts[-1] >= 2**31:
            raise ValueError("scales are so large that the splats meet more than 2^31 tiles")
        masks = np.empty(starts[-1], np.uint16)
        flat = (array.reshape(count * n, -1) for array in (splats[0], splats[1], _array(extents), frames))
        share_out(binning.cover, *flat, starts, width, height, masks)
        share_out(binning.count_tiles, frames, starts, masks, across, lengths, most=count)
        ends = np.cumsum(lengths.reshape(-1))
        firsts = ends - lengths.reshape(-1)
        slots, owners = np.empty(ends[-1], np.int32), np.empty(ends[-1], np.int32)
        cursors = firsts.reshape(lengths.shape).copy()
        share_out(
            binning.fill_tiles, splats[3], frames, starts, masks, across, cursors, slots, owners, most=count
        )
        share_out(compositing.pack, *splats, _per_camera(colors), records)
        # Long lists first, dealt out in turn, so that all shares weigh about the same.
        tiles = np.argsort(-lengths.reshape(-1), kind="stable")[: np.count_nonzero(lengths)]
        ctx.plan = (records, size, shade, slots, owners, masks, tiles, firsts, ends)
        share_out(compositing.composite, *ctx.plan, image, alpha, depth)
        ctx.splats = (splats[1], splats[2], starts, masks)
        ctx.color_shape = colors.shape
        outputs = tuple(map(torch.from_numpy, (image, alpha, depth)))
        ctx.save_for_backward(*outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_image, g_alpha, g_depth):
        _, alpha, _ = ctx.saved_tensors
        _, peaks, starts, _ = ctx.splats
        size = ctx.plan[1]
        per_slot = compositing.aligned(int(starts[-1]) * size)
        shapes = [(*peaks.shape, 2), (*peaks.shape, 3), peaks.shape, peaks.shape]
        results = [np.empty(shape, np.float32) for shape in (*shapes, ctx.color_shape)]
        pictures = [_array(tensor) for tensor in (*ctx.saved_tensors, g_image, g_alpha, g_depth)]
        g_colors = results[-1] if len(ctx.color_shape) == 3 else results[-1][None]
        share_out(compositing.composite_backward, *ctx.plan, *pictures, per_slot)
        share_out(compositing.gather, *ctx.splats, per_slot, size, *results[:4], g_colors)
        g_background = (g_image * (1 - alpha)).sum((1, 2)) if ctx.needs_input_grad[5] else None
        return *map(torch.from_numpy, results), g_background, None, None, None, None, None


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _per_camera(colors: Tensor) -> np.ndarray:
    """[N,C] or [B,N,C] -> [1 or B,N,C]."""
    return _array(colors if colors.ndim == 3 else colors[None])
