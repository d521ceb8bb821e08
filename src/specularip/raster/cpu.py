"""The CPU path: two autograd functions around the numba kernels.

Projection and compositing are separate so that the pixel positions between them are a tensor of the autograd
graph: density control reads its gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from specularip.kernels.threads import share_out
from specularip.raster import binning, compositing, projection
from specularip.raster.types import Raster, Scene


def rasterize_numba(scene: Scene) -> Raster:
    """See `rasterize`."""
    colors, background = scene.colors, scene.background
    means2d, conics, peaks, depths, radii, extents, boxes = _Project.apply(
        scene.means, scene.quats, scene.scales, scene.opacities, scene.viewmats, scene.Ks.detach(),
        colors.detach(), scene.width, scene.height, scene.antialiased,
    )  # fmt: skip
    if background is None:
        background = colors.new_zeros(len(scene.viewmats), colors.shape[-1])
    image, alpha, depth = _Composite.apply(
        means2d, conics, peaks, depths, colors, background, radii, extents, boxes, scene.width, scene.height
    )
    return Raster(image, alpha, depth[..., : int(scene.depth)], means2d, radii)


class _Project(torch.autograd.Function):
    """means, quats, scales, opacities, viewmats -> means2d, conics, peaks, depths; radii, extents, boxes."""

    @staticmethod
    def forward(ctx: Any, means, quats, scales, opacities, viewmats, Ks, colors, width, height, antialiased):
        shape = (len(viewmats), len(means))
        means2d, conics, extents = (np.zeros((*shape, size), np.float32) for size in (2, 3, 2))
        peaks, depths = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        radii, boxes = np.zeros(shape, np.int32), np.zeros((*shape, 4), np.int32)
        cameras = projection.camera_table(_array(viewmats), _array(Ks), width, height)
        ctx.set_materialize_grads(False)
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
        shapes = ((count, n, 2), (count, n, 3), (count, n), (count, n))
        upstream = [
            _gradient(tensor, shape)
            for tensor, shape in zip((g_means2d, g_conics, g_peaks, g_depths), shapes)
        ]
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
        count, channels = len(peaks), colors.shape[-1]
        splats = [_array(tensor) for tensor in (means2d, conics, peaks, depths, radii)]
        lists = binning.list_tiles(
            splats[0], splats[1], splats[3], _array(extents), _array(boxes), width, height
        )
        size = compositing.record_size(channels)
        records = compositing.aligned(peaks.numel() * size)
        share_out(compositing.pack, *splats, _per_camera(colors), records)
        behind = _array(background).copy()  # the caller may change theirs before the backward pass
        image = np.empty((count, height, width, channels), np.float32)
        alpha, depth = (np.empty((count, height, width, 1), np.float32) for _ in range(2))
        ctx.plan = (
            *(records, size, behind),
            *(lists.slots, lists.splats, lists.masks, lists.tiles, lists.firsts, lists.ends),
        )
        share_out(compositing.composite, *ctx.plan, image, alpha, depth)
        ctx.splats = (splats[1], splats[2], lists.starts, lists.masks)
        ctx.color_shape = colors.shape
        ctx.set_materialize_grads(False)
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
        layers = [_array(tensor) for tensor in ctx.saved_tensors]
        for tensor, layer in zip((g_image, g_alpha, g_depth), layers[:3]):
            layers.append(_gradient(tensor, layer.shape))
        g_colors = results[-1] if len(ctx.color_shape) == 3 else results[-1][None]
        share_out(compositing.composite_backward, *ctx.plan, *layers, per_slot)
        share_out(compositing.gather, *ctx.splats, per_slot, size, *results[:4], g_colors)
        g_background = None
        if ctx.needs_input_grad[5] and g_image is not None:
            g_background = (g_image * (1 - alpha)).sum((1, 2))
        return *map(torch.from_numpy, results), g_background, None, None, None, None, None


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _gradient(tensor: Tensor | None, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of an output, zeros where it is None because nothing uses that output."""
    return np.zeros(shape, np.float32) if tensor is None else _array(tensor)


def _per_camera(colors: Tensor) -> np.ndarray:
    """[N,C] or [B,N,C] -> [1 or B,N,C]."""
    return _array(colors if colors.ndim == 3 else colors[None])
