"""Loops over the triangles and vertices of a mesh, compiled: on tens of thousands of them many times faster
than array operations. All tensors are on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals [n,3] of a mesh: vertices [n,3], faces [m,3]."""
    return torch.from_numpy(unit_normals(vertices.contiguous().numpy(), faces.contiguous().numpy()))


@njit(cache=True)
def unit_normals(vertices: Array, faces: Array) -> Array:
    """`vertex_normals` of arrays."""
    total = np.zeros_like(vertices)
    for m in range(len(faces)):
        a, b, c = vertices[faces[m, 0]], vertices[faces[m, 1]], vertices[faces[m, 2]]
        ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
        vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for k in range(3):
            i = faces[m, k]
            total[i, 0] += x
            total[i, 1] += y
            total[i, 2] += z
    _normalise(total)
    return total


@njit(cache=True)
def _normalise(vectors: Array) -> None:
    """Vectors [n,3] to length 1, in place."""
    for i in range(len(vectors)):
        x, y, z = vectors[i]
        size = max(np.sqrt(x * x + y * y + z * z), np.float32(1e-12))
        vectors[i, 0], vectors[i, 1], vectors[i, 2] = x / size, y / size, z / size


def grown(values: Tensor, faces: Tensor) -> Tensor:
    """Values [n] of vertices, each replaced by the largest of its neighbours."""
    return torch.from_numpy(_grown(values.numpy(), faces.numpy()))


@njit(cache=True)
def _grown(values: Array, faces: Array) -> Array:
    result = values.copy()
    for m in range(len(faces)):
        i, j, k = faces[m]
        most = max(values[i], values[j], values[k])
        result[i] = max(result[i], most)
        result[j] = max(result[j], most)
        result[k] = max(result[k], most)
    return result


def filled(values: Tensor, faces: Tensor, rings: int, empty: float) -> Tensor:
    """Values [n] of which those at or below `empty` are unknown: `rings` times, they take the largest of
    their neighbours."""
    return torch.from_numpy(_filled(values.numpy(), faces.numpy(), rings, empty))


@njit(cache=True)
def _filled(values: Array, faces: Array, rings: int, empty: float) -> Array:
    for _ in range(rings):
        wider = _grown(values, faces)
        for i in range(len(values)):
            if values[i] > empty:
                wider[i] = values[i]
        values = wider
    return values


def smoothed(values: Tensor, faces: Tensor, rounds: int) -> Tensor:
    """Values [n] averaged over the triangles around each vertex, `rounds` times."""
    return torch.from_numpy(_smoothed(values.numpy(), faces.numpy(), rounds))


@njit(cache=True)
def _smoothed(values: Array, faces: Array, rounds: int) -> Array:
    count = np.zeros_like(values)
    for corner in faces.ravel():
        count[corner] += 1
    for _ in range(rounds):
        total = np.zeros_like(values)
        for m in range(len(faces)):
            i, j, k = faces[m]
            mean = (values[i] + values[j] + values[k]) / np.float32(3)
            total[i] += mean
            total[j] += mean
            total[k] += mean
        for i in range(len(total)):
            total[i] /= max(count[i], np.float32(1))
        values = total
    return values


def interior(marked: Tensor, faces: Tensor) -> Tensor:
    """Those of the marked vertices [n] all of whose neighbours are marked."""
    return torch.from_numpy(_interior(marked.numpy(), faces.numpy()))


@njit(cache=True)
def _interior(marked: Array, faces: Array) -> Array:
    result = marked.copy()
    for m in range(len(faces)):
        i, j, k = faces[m]
        if not (marked[i] and marked[j] and marked[k]):
            result[i] = result[j] = result[k] = False
    return result


def shown(faces: Tensor, near: Tensor, hidden: Tensor) -> Tensor:
    """Which faces [m] have a corner whose vertex near[i] of the skin is not hidden [B]."""
    return torch.from_numpy(_shown(faces.numpy(), near.numpy(), hidden.numpy()))


@njit(cache=True)
def _shown(faces: Array, near: Array, hidden: Array) -> Array:
    result = np.empty(len(faces), np.bool_)
    for m in range(len(faces)):
        i, j, k = faces[m]
        result[m] = not (hidden[near[i]] and hidden[near[j]] and hidden[near[k]])
    return result


@njit(cache=True)
def unwrapped_uv(uv: Array, girth: Array, faces: Array) -> Array:
    """Texture coordinates of the corners of faces, [m,3,2]; u of uv [n,2] starts anew after `girth` [n], but
    not within a face."""
    result = np.empty((len(faces), 3, 2), np.float32)
    for m in range(len(faces)):
        i, j, k = faces[m]
        most, around = max(uv[i, 0], uv[j, 0], uv[k, 0]), girth[i]
        for corner in range(3):
            u, v = uv[faces[m, corner]]
            result[m, corner, 0] = u + around if most - u > around / 2 else u
            result[m, corner, 1] = v
    return result


def compacted(faces: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The vertices in use [u], out of `count`, and the faces with those numbered anew."""
    used, renumbered = _compacted(faces.contiguous().numpy(), count)
    return torch.from_numpy(used), torch.from_numpy(renumbered)


@njit(cache=True)
def _compacted(faces: Array, count: int) -> tuple[Array, Array]:
    number = np.full(count, -1)
    for corner in faces.ravel():
        number[corner] = 0
    used = np.flatnonzero(number == 0)
    number[used] = np.arange(len(used))
    result = np.empty_like(faces)
    for m in range(len(faces)):
        for k in range(3):
            result[m, k] = number[faces[m, k]]
    return used, result


def strand_directions(vertices: Tensor, faces: Tensor, uv: Tensor) -> Tensor:
    """Unit directions [n,3] of falling v: textures of hair are painted with their strands upright."""
    arrays = (x.contiguous().numpy() for x in (vertices, faces, uv))
    return torch.from_numpy(_strand_directions(*arrays))


@njit(cache=True)
def _strand_directions(vertices: Array, faces: Array, uv: Array) -> Array:
    total = np.full_like(vertices, 1e-6)
    way = np.empty((1, 3), np.float32)
    for m in range(len(faces)):
        a, b, c = vertices[faces[m, 0]], vertices[faces[m, 1]], vertices[faces[m, 2]]
        u1, v1 = uv[m, 1, 0] - uv[m, 0, 0], uv[m, 1, 1] - uv[m, 0, 1]
        u2, v2 = uv[m, 2, 0] - uv[m, 0, 0], uv[m, 2, 1] - uv[m, 0, 1]
        sign = np.sign(u1 * v2 - u2 * v1)
        for k in range(3):
            way[0, k] = (u2 * (b[k] - a[k]) - u1 * (c[k] - a[k])) * sign
        _normalise(way)
        for corner in faces[m]:
            for k in range(3):
                total[corner, k] += way[0, k]
    _normalise(total)
    return total


def blended(values: Tensor, base: Tensor, share: Tensor) -> Tensor:
    """Sums [n,...] of the rows base [n,k] of values [B,...] by shares [n,k]."""
    flat = values.flatten(1).contiguous().numpy()
    total = _blended(flat, base.contiguous().numpy(), share.contiguous().numpy())
    return torch.from_numpy(total).unflatten(1, values.shape[1:])


@njit(cache=True)
def _blended(values: Array, base: Array, share: Array) -> Array:
    total = np.zeros((len(base), values.shape[1]), np.float32)
    for i in range(len(base)):
        for k in range(base.shape[1]):
            row, weight = base[i, k], share[i, k]
            if weight != 0:
                for c in range(values.shape[1]):
                    total[i, c] += weight * values[row, c]
    return total


def moved(points: Tensor, transforms: Tensor) -> Tensor:
    """Points [n,3] under their own transforms [n,3,4]."""
    return torch.from_numpy(_moved(points.contiguous().numpy(), transforms.contiguous().numpy(), False))


def turned(ways: Tensor, transforms: Tensor) -> Tensor:
    """Directions [n,3] under the linear parts of their own transforms [n,3,4], as unit vectors."""
    return torch.from_numpy(_moved(ways.contiguous().numpy(), transforms.contiguous().numpy(), True))


@njit(cache=True)
def _moved(points: Array, transforms: Array, directions: bool) -> Array:
    result = np.empty_like(points)
    for i in range(len(points)):
        t, (x, y, z) = transforms[i], points[i]
        for k in range(3):
            result[i, k] = t[k, 0] * x + t[k, 1] * y + t[k, 2] * z
            if not directions:
                result[i, k] += t[k, 3]
    if directions:
        _normalise(result)
    return result
