"""Nearest triangles with cut-out textures: a CUDA kernel, and its twin in numba for machines without a GPU.

Both follow `specularip.raster.mesh`: positions snapped to 1/256 pixel, integer edge functions, the largest
`nearness` wins and the first of equal ones. Nearness is whatever is linear in the image and grows towards the
camera: 1/z for a perspective camera, a distance for parallel light.

Hair is drawn as cards with alpha. A sample is a hole where the texture's alpha is below a threshold that
takes all levels over the samples of one pixel, in an order that depends on pixel and face: averaged, edges
are soft, and cards behind each other show independently (Enderton et al. 2010, "Stochastic Transparency").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from specularip.kernels.threads import share_out
from specularip.raster.mesh import SUBPIXELS, edge

_HALF = SUBPIXELS // 2
_f32 = np.float32


@dataclass(frozen=True)
class Cutouts:
    """The alpha of M faces: uv [M,3,2] (v up), texture [M] int32 (-1: opaque), and the alpha pyramids
    [T,texels] uint8 of textures of `size`^2 texels, finest level first (`texturing.Pyramid`)."""

    uv: Tensor
    texture: Tensor
    alpha: Tensor
    size: int


def draw(
    points: Tensor, nearness: Tensor, faces: Tensor, cutouts: Cutouts, size: int, supersample: int = 1
) -> tuple[Tensor, Tensor]:
    """The nearest face [B,S,S] int32 (-1: none) and its nearness [B,S,S] at the samples of B views.

    points [B,n,2] int32 in 1/256 sample; nearness [B,n], triangles with a corner <= 0 are left out; faces
    [M,3] int32. A pixel is supersample^2 samples.
    """
    arrays = (points, nearness, faces, cutouts.uv, cutouts.texture, cutouts.alpha)
    arrays = tuple(array.contiguous() for array in arrays)
    shape = (len(points), size, size)
    if points.is_cuda:
        keys = torch.full(shape, -1, dtype=torch.int64, device=points.device)
        _extension().draw(*arrays, cutouts.size, supersample, keys)
        words = keys.view(torch.int32).view(*shape, 2)
        found = words[..., 0].contiguous()
        return found, torch.where(found < 0, 0.0, (~words[..., 1]).view(torch.float32))
    found, nearest = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    share_out(_draw, *(array.numpy() for array in arrays), cutouts.size, supersample, found, nearest)
    return torch.from_numpy(found), torch.from_numpy(nearest)


CUDA = r"""
#include <c10/cuda/CUDAStream.h>

__device__ __forceinline__ long long edge(int ax, int ay, int bx, int by, int px, int py) {
    return (long long)(bx - ax) * (py - ay) - (long long)(by - ay) * (px - ax);
}

__device__ __forceinline__ unsigned scramble(unsigned x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

// One warp for each triangle of each view: its lanes share the samples of the bounding box.
__global__ void draw_kernel(const int* points, const float* nearness, const int* faces, const float* uv,
                            const int* textures, const unsigned char* alpha, int texture_size,
                            long long texels, int vertices, int count, int size, int supersample,
                            unsigned long long* keys) {
    const int face = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (face >= count) return;
    const int lane = threadIdx.x % 32, view = blockIdx.y;
    points += (long long)view * vertices * 2;
    nearness += (long long)view * vertices;
    keys += (long long)view * size * size;

    int x[3], y[3];
    float w[3], u[3], v[3];
    for (int c = 0; c < 3; c++) {
        const int i = faces[face * 3 + c];
        x[c] = points[i * 2], y[c] = points[i * 2 + 1], w[c] = nearness[i];
        u[c] = uv[(face * 3 + c) * 2], v[c] = uv[(face * 3 + c) * 2 + 1];
    }
    long long area = edge(x[0], y[0], x[1], y[1], x[2], y[2]);
    if (area == 0 || fminf(w[0], fminf(w[1], w[2])) <= 0.0f) return;
    const bool turned = area < 0;
    const int j = turned ? 2 : 1, k = turned ? 1 : 2;
    if (turned) area = -area;
    // >> 8 rounds down, for negative numbers too.
    const int left = max((min(x[0], min(x[1], x[2])) + 127) >> 8, 0);
    const int right = min((max(x[0], max(x[1], x[2])) - 128) >> 8, size - 1);
    const int top = max((min(y[0], min(y[1], y[2])) + 127) >> 8, 0);
    const int bottom = min((max(y[0], max(y[1], y[2])) - 128) >> 8, size - 1);
    if (left > right || top > bottom) return;

    const int texture = textures[face];
    int level_size = texture_size;
    const unsigned char* level = alpha;
    if (texture >= 0) {
        level += texture * texels;
        const float ratio = fabsf((u[1] - u[0]) * (v[2] - v[0]) - (v[1] - v[0]) * (u[2] - u[0]))
                            * texture_size * texture_size * 65536.0f / (float)area;
        for (float step = 2.0f; ratio > step && level_size > 1; step *= 4.0f) {
            level += (long long)level_size * level_size;
            level_size /= 2;
        }
    }
    const float slope_j = (w[j] - w[0]) / (float)area, slope_k = (w[k] - w[0]) / (float)area;
    const int columns = right - left + 1, samples = columns * (bottom - top + 1);
    for (int sample = lane; sample < samples; sample += 32) {
        const int column = left + sample % columns, row = top + sample / columns;
        const int px = column * 256 + 128, py = row * 256 + 128;
        const long long ei = edge(x[j], y[j], x[k], y[k], px, py);
        const long long ej = edge(x[k], y[k], x[0], y[0], px, py);
        const long long ek = area - ei - ej;
        if ((ei | ej | ek) < 0) continue;
        const float near = w[0] + (float)ej * slope_j + (float)ek * slope_k;
        if (texture >= 0) {
            const float a = (float)ei * w[0], b = (float)ej * w[j], c = (float)ek * w[k];
            const float s = (a * u[0] + b * u[j] + c * u[k]) / (a + b + c);
            const float t = (a * v[0] + b * v[j] + c * v[k]) / (a + b + c);
            const int tx = (int)floorf(s * level_size) & (level_size - 1);
            const int ty = (int)floorf((1.0f - t) * level_size) & (level_size - 1);
            const int pixel_x = column / supersample, pixel_y = row / supersample;
            const unsigned h = scramble(pixel_x + 4096u * pixel_y + 0x9e3779b9u * (unsigned)face);
            const int levels = supersample * supersample;
            const unsigned order = (column % supersample) * supersample + row % supersample;
            const float threshold = ((order + (h >> 8)) % levels + (h & 255u) / 256.0f) / levels;
            if (level[ty * level_size + tx] <= threshold * 255.0f) continue;
        }
        const unsigned long long key = ((unsigned long long)(~__float_as_uint(near)) << 32) | (unsigned)face;
        unsigned long long* place = keys + row * size + column;
        if (key < *place) atomicMin(place, key);
    }
}

void draw(torch::Tensor points, torch::Tensor nearness, torch::Tensor faces, torch::Tensor uv,
          torch::Tensor textures, torch::Tensor alpha, int64_t texture_size, int64_t supersample,
          torch::Tensor keys) {
    const int count = faces.size(0);
    if (count == 0 || points.size(0) == 0) return;
    const dim3 blocks((count + 7) / 8, points.size(0));
    draw_kernel<<<blocks, 256, 0, c10::cuda::getCurrentCUDAStream()>>>(
        points.data_ptr<int>(), nearness.data_ptr<float>(), faces.data_ptr<int>(), uv.data_ptr<float>(),
        textures.data_ptr<int>(), alpha.data_ptr<unsigned char>(), texture_size, alpha.size(1),
        points.size(1), count, keys.size(1), supersample,
        reinterpret_cast<unsigned long long*>(keys.data_ptr<int64_t>()));
    TORCH_CHECK(cudaGetLastError() == cudaSuccess, "the z-buffer kernel did not start");
}
"""

DECLARATION = """
void draw(torch::Tensor points, torch::Tensor nearness, torch::Tensor faces, torch::Tensor uv,
          torch::Tensor textures, torch::Tensor alpha, int64_t texture_size, int64_t supersample,
          torch::Tensor keys);
"""


@cache
def _extension() -> Any:
    """The kernel, compiled once on a machine (about a minute; needs nvcc and ninja)."""
    from torch.utils.cpp_extension import load_inline

    return load_inline("specularip_zbuffer", cpp_sources=DECLARATION, cuda_sources=CUDA, functions=["draw"])


@njit(error_model="numpy", forceinline=True)
def _scramble(x):
    """32 bits to 32 well-mixed bits (Wellons, "Hash Function Prospector")."""
    mask = 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & mask
    x = ((x ^ (x >> 15)) * 0x846CA68B) & mask
    return x ^ (x >> 16)


@njit(error_model="numpy", nogil=True, cache=True)
def _draw(
    share, shares, points, nearness, faces, uv, textures, alpha, texture_size, supersample, found, nearest
):
    """Work items are views; every line as in the CUDA kernel."""
    count, size, _ = found.shape
    levels = supersample * supersample
    for view in range(share, count, shares):
        p, n = points[view], nearness[view]
        for face in range(len(faces)):
            i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
            cj, ck = 1, 2
            area = edge(p[i, 0], p[i, 1], p[j, 0], p[j, 1], p[k, 0], p[k, 1])
            if area == 0 or min(n[i], n[j], n[k]) <= 0:
                continue
            if area < 0:
                area, j, k, cj, ck = -area, k, j, ck, cj
            xi, yi, wi, xj, yj, wj = p[i, 0], p[i, 1], n[i], p[j, 0], p[j, 1], n[j]
            xk, yk, wk = p[k, 0], p[k, 1], n[k]
            left = max((min(xi, xj, xk) + _HALF - 1) // SUBPIXELS, 0)
            right = min((max(xi, xj, xk) - _HALF) // SUBPIXELS, size - 1)
            top = max((min(yi, yj, yk) + _HALF - 1) // SUBPIXELS, 0)
            bottom = min((max(yi, yj, yk) - _HALF) // SUBPIXELS, size - 1)
            if left > right or top > bottom:
                continue
            texture, level_size, level = textures[face], texture_size, 0
            ui, vi, uj, vj = uv[face, 0, 0], uv[face, 0, 1], uv[face, cj, 0], uv[face, cj, 1]
            uk, vk = uv[face, ck, 0], uv[face, ck, 1]
            if texture >= 0:
                ratio = abs((uj - ui) * (vk - vi) - (vj - vi) * (uk - ui)) * _f32(texture_size**2 * 65536.0)
                ratio /= _f32(area)
                step = _f32(2)
                while ratio > step and level_size > 1:
                    level += level_size * level_size
                    level_size //= 2
                    step *= _f32(4)
            slope_j, slope_k = (wj - wi) / _f32(area), (wk - wi) / _f32(area)
            for y in range(top, bottom + 1):
                for x in range(left, right + 1):
                    px, py = x * SUBPIXELS + _HALF, y * SUBPIXELS + _HALF
                    ei, ej = edge(xj, yj, xk, yk, px, py), edge(xk, yk, xi, yi, px, py)
                    ek = area - ei - ej
                    if (ei | ej | ek) < 0:
                        continue
                    near = wi + _f32(ej) * slope_j + _f32(ek) * slope_k
                    if near <= nearest[view, y, x]:
                        continue
                    if texture >= 0:
                        a, b, c = _f32(ei) * wi, _f32(ej) * wj, _f32(ek) * wk
                        s = (a * ui + b * uj + c * uk) / (a + b + c)
                        t = (a * vi + b * vj + c * vk) / (a + b + c)
                        tx = math.floor(s * _f32(level_size)) & (level_size - 1)
                        ty = math.floor((_f32(1) - t) * _f32(level_size)) & (level_size - 1)
                        seed = x // supersample + 4096 * (y // supersample) + 0x9E3779B9 * face
                        h = _scramble(seed & 0xFFFFFFFF)
                        order = (x % supersample) * supersample + y % supersample
                        threshold = ((order + (h >> 8)) % levels + (h & 255) / 256) / levels
                        if alpha[texture, level + ty * level_size + tx] <= threshold * 255:
                            continue
                    nearest[view, y, x] = near
                    found[view, y, x] = face
