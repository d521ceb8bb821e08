"""A z-buffer for triangle meshes: the nearest triangle at each pixel, and attributes averaged over samples.

Vertices are snapped to 1/256 pixel and edge functions are integers, so triangles that share an edge leave no
crack (as on GPUs: Direct3D 11 functional specification, section 3.4). Between the corners, 1/z is linear in
the image, and so is any attribute divided by z. There is no culling and no clipping: the nearest surface wins
whichever way it faces, and triangles with a corner behind the near plane are left out.
"""
# numba types the scalars, not the annotations of math, min and max.
# mypy: disable-error-code="operator, assignment"

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from specularip.cameras import Cameras
from specularip.kernels.compiling import cached
from specularip.kernels.threads import share_out

NEAR = 0.01
"""Metres in front of the camera."""
SUBPIXELS = 256
FARTHEST_PIXEL = 1e6
"""Pixel positions are clamped to this, so that edge functions fit 64 bits."""
BAND = 256
"""Rows of samples per work item: its z-buffer stays in the cache."""

_f32 = np.float32
_HALF = SUBPIXELS // 2


@dataclass(frozen=True)
class MeshRaster:
    """What B cameras see of a mesh at their pixel centres.

    triangles [B,H,W] int32, -1 where there is none; barycentrics [B,H,W,2], perspective-correct weights of
    the first and the second corner; depth [B,H,W], the camera's z in metres. Both are 0 where there is none.
    """

    triangles: Tensor
    barycentrics: Tensor
    depth: Tensor


def rasterize_mesh(vertices: Tensor, faces: Tensor, cameras: Cameras) -> MeshRaster:
    """The nearest triangle at each pixel of vertices [V,3] with faces [F,3], in numba, float32."""
    shape = (len(cameras), cameras.height, cameras.width)
    triangles = np.empty(shape, np.int32)
    barycentrics, depth = np.empty((*shape, 2), np.float32), np.empty(shape, np.float32)
    share_out(_rasterize, *_arrays(vertices, faces, cameras), triangles, barycentrics, depth)
    return MeshRaster(*map(torch.from_numpy, (triangles, barycentrics, depth)))


def render_attributes(
    vertices: Tensor, faces: Tensor, attributes: Tensor, cameras: Cameras, supersample: int
) -> tuple[Tensor, Tensor]:
    """Attributes [V,C] over vertices [V,3] as images [B,C,H,W], and the mesh's coverage [B,H,W].

    Each pixel is the mean of supersample^2 samples, 0 where the mesh is not.
    """
    samples = cameras.resized(cameras.width * supersample, cameras.height * supersample)
    values = attributes.detach().cpu().float().contiguous().numpy()
    shape = (cameras.height, cameras.width)
    images = np.empty((len(cameras), values.shape[1], *shape), np.float32)
    coverage = np.empty((len(cameras), *shape), np.float32)
    share_out(_average, *_arrays(vertices, faces, samples), values, supersample, images, coverage)
    return torch.from_numpy(images), torch.from_numpy(coverage)


def screen_points(vertices: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Where cameras see vertices [V,3], on their device.

    Positions [B,V,2] int32 in 1/256 pixel; 1/z [B,V], 0 behind the near plane.
    """
    pixels, depth = cameras.to(vertices.device).project(vertices.detach().float())
    nearness = torch.where(depth > NEAR, 1 / depth.clamp_min(NEAR), torch.zeros_like(depth))
    snapped = (pixels.clamp(-FARTHEST_PIXEL, FARTHEST_PIXEL) * SUBPIXELS + 0.5).floor().int()
    return snapped, nearness


def _arrays(vertices: Tensor, faces: Tensor, cameras: Cameras) -> tuple[np.ndarray, ...]:
    """What the kernels read of a scene: positions, 1/z and faces."""
    points, nearness = screen_points(vertices.cpu(), cameras)
    return points.numpy(), nearness.numpy(), faces.cpu().int().contiguous().numpy()


@njit(error_model="numpy", forceinline=True)
def edge(ax, ay, bx, by, px, py):
    """Twice the signed area of the triangle a, b, p."""
    return (bx - ax) * (py - ay) - (by - ay) * (px - ax)


@cached
@njit(error_model="numpy", nogil=True)
def fill(points, nearness, faces, top, triangles, nearest):
    """Draw faces [F,3] of points [V,2] (1/256 pixel) with 1/z [V] into the rows from `top` of a z-buffer.

    triangles [rows,W] int32 and nearest [rows,W], the largest 1/z so far; of equally near triangles the first
    one stays.
    """
    rows, width = triangles.shape
    for face in range(len(faces)):
        i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
        xi, yi, wi = points[i, 0], points[i, 1], nearness[i]
        xj, yj, wj = points[j, 0], points[j, 1], nearness[j]
        xk, yk, wk = points[k, 0], points[k, 1], nearness[k]
        first = max((min(yi, yj, yk) + _HALF - 1) // SUBPIXELS, top)
        last = min((max(yi, yj, yk) - _HALF) // SUBPIXELS, top + rows - 1)
        left = max((min(xi, xj, xk) + _HALF - 1) // SUBPIXELS, 0)
        right = min((max(xi, xj, xk) - _HALF) // SUBPIXELS, width - 1)
        area = edge(xi, yi, xj, yj, xk, yk)
        if first > last or left > right or area == 0 or min(wi, wj, wk) <= 0:
            continue
        if area < 0:
            area, xj, yj, wj, xk, yk, wk = -area, xk, yk, wk, xj, yj, wj
        slope_j, slope_k = (wj - wi) / _f32(area), (wk - wi) / _f32(area)
        px = left * SUBPIXELS + _HALF
        for y in range(first, last + 1):
            py = y * SUBPIXELS + _HALF
            ei, ej = edge(xj, yj, xk, yk, px, py), edge(xk, yk, xi, yi, px, py)
            ek = area - ei - ej
            inside = False
            for x in range(left, right + 1):
                if (ei | ej | ek) >= 0:
                    inside = True
                    near = wi + _f32(ej) * slope_j + _f32(ek) * slope_k
                    if near > nearest[y - top, x]:
                        nearest[y - top, x] = near
                        triangles[y - top, x] = face
                elif inside:
                    break
                ei -= (yk - yj) * SUBPIXELS
                ej -= (yi - yk) * SUBPIXELS
                ek -= (yj - yi) * SUBPIXELS


@njit(error_model="numpy", forceinline=True)
def _shares(points, nearness, faces, face, x, y):
    """The corners' shares of 1/z at the centre of pixel (x, y), times the face's area, and their steps to
    x + 1, and the area."""
    i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
    px, py = x * SUBPIXELS + _HALF, y * SUBPIXELS + _HALF
    xi, yi, wi = points[i, 0], points[i, 1], nearness[i]
    xj, yj, wj = points[j, 0], points[j, 1], nearness[j]
    xk, yk, wk = points[k, 0], points[k, 1], nearness[k]
    return (
        _f32(edge(xj, yj, xk, yk, px, py)) * wi,
        _f32(edge(xk, yk, xi, yi, px, py)) * wj,
        _f32(edge(xi, yi, xj, yj, px, py)) * wk,
        _f32((yj - yk) * SUBPIXELS) * wi,
        _f32((yk - yi) * SUBPIXELS) * wj,
        _f32((yi - yj) * SUBPIXELS) * wk,
        _f32(edge(xi, yi, xj, yj, xk, yk)),
    )


@cached
@njit(error_model="numpy", nogil=True)
def _rasterize(share, shares, points, nearness, faces, triangles, barycentrics, depth):
    """Work items are bands of rows of each view."""
    count, height, width = triangles.shape
    bands = -(-height // BAND)
    for item in range(share, count * bands, shares):
        view, top = item // bands, item % bands * BAND
        bottom = min(top + BAND, height)
        found, corners, near = triangles[view, top:bottom], points[view], nearness[view]
        found[:] = -1
        fill(corners, near, faces, top, found, np.zeros(found.shape, np.float32))
        barycentrics[view, top:bottom] = 0
        depth[view, top:bottom] = 0
        for row in range(len(found)):
            y = top + row
            for x in range(width):
                face = found[row, x]
                if face >= 0:
                    a, b, c, _, _, _, area = _shares(corners, near, faces, face, x, y)
                    scale = 1 / (a + b + c)
                    barycentrics[view, y, x, 0] = a * scale
                    barycentrics[view, y, x, 1] = b * scale
                    depth[view, y, x] = area * scale


@cached
@njit(error_model="numpy", nogil=True)
def _average(share, shares, points, nearness, faces, values, supersample, images, coverage):
    """Work items are bands of rows of each view; each pixel has several samples."""
    count, channels, height, width = images.shape
    band = max(BAND // supersample, 1)
    bands = -(-height // band)
    part = _f32(1 / supersample**2)
    for item in range(share, count * bands, shares):
        view, top = item // bands, item % bands * band
        bottom = min(top + band, height)
        first, columns = top * supersample, width * supersample
        corners, near = points[view], nearness[view]
        found = np.full(((bottom - top) * supersample, columns), np.int32(-1))
        fill(corners, near, faces, first, found, np.zeros(found.shape, np.float32))
        images[view, :, top:bottom] = 0
        coverage[view, top:bottom] = 0
        for row in range(len(found)):
            y = (first + row) // supersample
            last = -1
            for column in range(columns):
                face = found[row, column]
                if face >= 0:
                    if face != last:
                        a, b, c, da, db, dc, _ = _shares(corners, near, faces, face, column, first + row)
                        i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
                    else:
                        a, b, c = a + da, b + db, c + dc
                    x = column // supersample
                    scale = part / (a + b + c)
                    coverage[view, y, x] += part
                    for channel in range(channels):
                        value = a * values[i, channel] + b * values[j, channel] + c * values[k, channel]
                        images[view, channel, y, x] += value * scale
                last = face
