"""`dispatch.pose` on the CPU: one pass over the Gaussians, in numba."""
# numba's stubs do not know that these functions are compiled.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from specularip.kernels.compiling import cached
from specularip.kernels.threads import share_out
from specularip.motion.appearance import ANGLE, LEANING
from specularip.motion.posing import Posed, Rest
from specularip.motion.skinning import Blend
from specularip.specular import shading

CHUNK = 512
"""Gaussians per work item."""

_f32 = np.float32
_ZERO, _HALF, _ONE, _TWO = _f32(0), _f32(0.5), _f32(1), _f32(2)
_POLAR, _POLE = _f32(1 / math.sqrt(3)), _f32(shading.POLE)
_FROM_POLAR = _f32(math.sqrt(0.75))
_ANGLE, _LEANING, _RESIDUAL = ANGLE, LEANING.start, shading.RESIDUAL
_QUAT, _DUAL = 12, 16
"""Where a bone has its quaternion, and its dual part; before them the rows of its skin matrix."""


def pose_numba(rest: Rest, means: Tensor, bones: Tensor, blend: Blend) -> Posed:
    """bones [J,20]: see `skinning.bone_table`. float32 CPU tensors."""
    count = len(means)
    sizes = (3, 4, 4, 3, rest.latents.shape[1])
    results = [np.empty((count, size), np.float32) for size in sizes]
    fixed = (rest.quats, rest.normals, rest.tangents, rest.latents)
    arrays = [tensor.numpy() for tensor in (rest.bind_joints, rest.bind_weights, bones, means, *fixed)]
    share_out(_pose, blend == "dual", *arrays, *results, most=-(-count // CHUNK))
    return Posed(*map(torch.from_numpy, results))


@njit(error_model="numpy", inline="always")
def _times(r, x, y, z):
    """A matrix, nine numbers, times a vector."""
    return r[0] * x + r[1] * y + r[2] * z, r[3] * x + r[4] * y + r[5] * z, r[6] * x + r[7] * y + r[8] * z


@njit(error_model="numpy", inline="always")
def _product(a, b):
    """Quaternions: the rotation b followed by a."""
    return (
        a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
        a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
        a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1],
        a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0],
    )


@njit(error_model="numpy", inline="always")
def _matrix(w, x, y, z):
    return (
        _ONE - _TWO * (y * y + z * z), _TWO * (x * y - w * z), _TWO * (x * z + w * y),
        _TWO * (x * y + w * z), _ONE - _TWO * (x * x + z * z), _TWO * (y * z - w * x),
        _TWO * (x * z - w * y), _TWO * (y * z + w * x), _ONE - _TWO * (x * x + y * y),
    )  # fmt: skip


@njit(error_model="numpy", inline="always")
def _angle(nx, ny, nz, tx, ty, tz):
    """See `appearance.tangent_angles`."""
    ahead = nx + _POLE
    along = ahead * ny - ny * nx
    lx, ly, lz = -ny - along * nx, ahead - along * ny, -along * nz
    ux, uy, uz = ny * lz - nz * ly, nz * lx - nx * lz, nx * ly - ny * lx
    return _f32(math.atan2(tx * ux + ty * uy + tz * uz, tx * lx + ty * ly + tz * lz))


@njit(error_model="numpy", inline="always")
def _quadratic(r, source, target, i, at):
    """See `appearance.turned_quadratic`: five numbers from column `at` on."""
    xy, yz, xz, plane = source[i, at], source[i, at + 1], source[i, at + 3], source[i, at + 4]
    polar = source[i, at + 2] * _POLAR
    xx, yy, zz = plane - polar, -plane - polar, _TWO * polar
    a, b, c = _times(r, xx, xy, xz)  # columns of R M
    d, e, f = _times(r, xy, yy, yz)
    g, h, k = _times(r, xz, yz, zz)
    xx, yy = a * r[0] + d * r[1] + g * r[2], b * r[3] + e * r[4] + h * r[5]
    target[i, at] = a * r[3] + d * r[4] + g * r[5]
    target[i, at + 1] = b * r[6] + e * r[7] + h * r[8]
    target[i, at + 2] = _FROM_POLAR * (c * r[6] + f * r[7] + k * r[8])
    target[i, at + 3] = a * r[6] + d * r[7] + g * r[8]
    target[i, at + 4] = _HALF * (xx - yy)


@cached
@njit(nogil=True, error_model="numpy")
def _pose(
    share, shares, dual, joints, weights, bones, means, quats, normals, tangents, latents,
    out_means, out_turns, out_quats, out_normals, out_latents,
):  # fmt: skip
    count, width = latents.shape
    for chunk in range(share, (count + CHUNK - 1) // CHUNK, shares):
        for i in range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK)):
            first = 0
            for k in range(1, joints.shape[1]):
                if weights[i, k] > weights[i, first]:
                    first = k
            heaviest = bones[joints[i, first]]
            hw, hx, hy, hz = heaviest[_QUAT], heaviest[_QUAT + 1], heaviest[_QUAT + 2], heaviest[_QUAT + 3]
            x, y, z = means[i, 0], means[i, 1], means[i, 2]
            qw, qx, qy, qz = _ZERO, _ZERO, _ZERO, _ZERO
            dw, dx, dy, dz = _ZERO, _ZERO, _ZERO, _ZERO
            px, py, pz = _ZERO, _ZERO, _ZERO
            for k in range(joints.shape[1]):
                w = weights[i, k]
                if w == _ZERO:
                    continue
                j = joints[i, k]
                bone = bones[j]
                bw, bx, by, bz = bone[_QUAT], bone[_QUAT + 1], bone[_QUAT + 2], bone[_QUAT + 3]
                s = w if bw * hw + bx * hx + by * hy + bz * hz >= _ZERO else -w
                qw += s * bw
                qx += s * bx
                qy += s * by
                qz += s * bz
                if dual:
                    dw += s * bone[_DUAL]
                    dx += s * bone[_DUAL + 1]
                    dy += s * bone[_DUAL + 2]
                    dz += s * bone[_DUAL + 3]
                else:
                    px += w * (bone[0] * x + bone[1] * y + bone[2] * z + bone[3])
                    py += w * (bone[4] * x + bone[5] * y + bone[6] * z + bone[7])
                    pz += w * (bone[8] * x + bone[9] * y + bone[10] * z + bone[11])
            scale = _ONE / _f32(math.sqrt(max(qw * qw + qx * qx + qy * qy + qz * qz, _f32(1e-24))))
            qw, qx, qy, qz = qw * scale, qx * scale, qy * scale, qz * scale
            turn = (qw, qx, qy, qz)
            r = _matrix(qw, qx, qy, qz)
            if dual:
                _, sx, sy, sz = _product((dw, dx, dy, dz), (qw, -qx, -qy, -qz))
                px, py, pz = _times(r, x, y, z)
                px, py, pz = px + _TWO * scale * sx, py + _TWO * scale * sy, pz + _TWO * scale * sz
            out_means[i, 0], out_means[i, 1], out_means[i, 2] = px, py, pz
            whole = _product(turn, (quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]))
            for k in range(4):
                out_turns[i, k] = turn[k]
                out_quats[i, k] = whole[k]
            nx, ny, nz = _times(r, normals[i, 0], normals[i, 1], normals[i, 2])
            out_normals[i, 0], out_normals[i, 1], out_normals[i, 2] = nx, ny, nz
            if width == 0:
                continue
            for k in range(_LEANING):
                out_latents[i, k] = latents[i, k]
            tx, ty, tz = _times(r, tangents[i, 0], tangents[i, 1], tangents[i, 2])
            out_latents[i, _ANGLE] = _angle(nx, ny, nz, tx, ty, tz)
            for at in (_LEANING, _RESIDUAL, _RESIDUAL + 8, _RESIDUAL + 16):
                a, b, c = _times(r, latents[i, at], latents[i, at + 1], latents[i, at + 2])
                out_latents[i, at], out_latents[i, at + 1], out_latents[i, at + 2] = a, b, c
            for at in (_RESIDUAL + 3, _RESIDUAL + 11, _RESIDUAL + 19):
                _quadratic(r, latents, out_latents, i, at)
