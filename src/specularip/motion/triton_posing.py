"""`dispatch.pose` on CUDA as one kernel: each lane poses one Gaussian. Importing this module needs Triton."""
# In kernels, tl's operators determine the types, not the annotations.
# mypy: disable-error-code="operator, assignment, no-untyped-def"

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from specularip.kernels.launch import launch
from specularip.motion.appearance import ANGLE, LEANING
from specularip.motion.posing import Posed, Rest
from specularip.motion.skinning import Blend
from specularip.specular import shading

BLOCK = 64
"""Gaussians per program, which is one warp."""

_BONE, _QUAT, _DUAL = tl.constexpr(20), tl.constexpr(12), tl.constexpr(16)
_ANGLE, _LEANING = tl.constexpr(ANGLE), tl.constexpr(LEANING.start)
_RESIDUAL, _POLE = tl.constexpr(shading.RESIDUAL), tl.constexpr(shading.POLE)
_POLAR, _FROM_POLAR = tl.constexpr(1 / math.sqrt(3)), tl.constexpr(math.sqrt(0.75))
_PI, _HALF_PI = tl.constexpr(math.pi), tl.constexpr(math.pi / 2)


def pose_triton(rest: Rest, means: Tensor, bones: Tensor, blend: Blend) -> Posed:
    """bones [J,20]: see `dispatch.bone_table`. float32 tensors on one CUDA device."""
    count, width = rest.latents.shape
    sizes = (3, 4, 4, 3, width)
    results = [means.new_empty(count, size) for size in sizes]
    bound, fixed = (rest.bind_joints, rest.bind_weights), (rest.quats, rest.normals, rest.tangents)
    inputs = (*bound, bones, means, *fixed, rest.latents)
    if count:
        constants = (blend == "dual", rest.bind_joints.shape[1], width, BLOCK)
        launch(_pose, (-(-count // BLOCK), 1, 1), (*inputs, *results, count), constants)
    return Posed(*results)


@triton.jit
def _triple(pointer, mask):
    x = tl.load(pointer, mask=mask, other=0.0)
    y = tl.load(pointer + 1, mask=mask, other=0.0)
    return x, y, tl.load(pointer + 2, mask=mask, other=0.0)


@triton.jit
def _store_triple(pointer, x, y, z, mask):
    tl.store(pointer, x, mask=mask)
    tl.store(pointer + 1, y, mask=mask)
    tl.store(pointer + 2, z, mask=mask)


@triton.jit
def _quadruple(pointer, mask):
    w = tl.load(pointer, mask=mask, other=0.0)
    x = tl.load(pointer + 1, mask=mask, other=0.0)
    y = tl.load(pointer + 2, mask=mask, other=0.0)
    return w, x, y, tl.load(pointer + 3, mask=mask, other=0.0)


@triton.jit
def _store_quadruple(pointer, w, x, y, z, mask):
    tl.store(pointer, w, mask=mask)
    _store_triple(pointer + 1, x, y, z, mask)


@triton.jit
def _product(aw, ax, ay, az, bw, bx, by, bz):
    """Quaternions: the rotation b followed by a."""
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


@triton.jit
def _rotate(w, x, y, z, a, b, c):
    """A vector (a, b, c), rotated by a unit quaternion."""
    u, v, t = 2 * (y * c - z * b), 2 * (z * a - x * c), 2 * (x * b - y * a)
    return a + w * u + y * t - z * v, b + w * v + z * u - x * t, c + w * t + x * v - y * u


@triton.jit
def _atan2(y, x):
    """By a polynomial (Abramowitz and Stegun 4.4.49), to 2e-8 radians before rounding."""
    ax, ay = tl.abs(x), tl.abs(y)
    r = tl.minimum(ax, ay) / tl.maximum(tl.maximum(ax, ay), 1e-30)
    s = r * r
    p = -0.0161657367 + s * 0.0028662257
    p = -0.0752896400 + s * (0.0429096138 + s * p)
    p = -0.1420889944 + s * (0.1065626393 + s * p)
    p = r * (1 + s * (-0.3333314528 + s * (0.1999355085 + s * p)))
    p = tl.where(ay > ax, _HALF_PI - p, p)
    p = tl.where(x < 0, _PI - p, p)
    return tl.where(y < 0, -p, p)


@triton.jit
def _turn_quadratic(source, target, w, x, y, z, mask):
    """See `appearance.turned_quadratic`: five numbers."""
    xy = tl.load(source, mask=mask, other=0.0)
    yz = tl.load(source + 1, mask=mask, other=0.0)
    polar = tl.load(source + 2, mask=mask, other=0.0) * _POLAR
    xz = tl.load(source + 3, mask=mask, other=0.0)
    plane = tl.load(source + 4, mask=mask, other=0.0)
    # R M, column by column, then its rows times Rᵀ.
    a, d, g = _rotate(w, x, y, z, plane - polar, xy, xz)
    b, e, h = _rotate(w, x, y, z, xy, -plane - polar, yz)
    c, f, k = _rotate(w, x, y, z, xz, yz, 2 * polar)
    xx, xy, xz = _rotate(w, x, y, z, a, b, c)
    _, yy, yz = _rotate(w, x, y, z, d, e, f)
    _, _, zz = _rotate(w, x, y, z, g, h, k)
    tl.store(target, xy, mask=mask)
    tl.store(target + 1, yz, mask=mask)
    tl.store(target + 2, _FROM_POLAR * zz, mask=mask)
    tl.store(target + 3, xz, mask=mask)
    tl.store(target + 4, 0.5 * (xx - yy), mask=mask)


@triton.jit(do_not_specialize=list(range(14)))
def _pose(
    joints, weights, bones, means, quats, normals, tangents, latents,
    out_means, out_turns, out_quats, out_normals, out_latents, count,
    DUAL: tl.constexpr, INFLUENCES: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    largest = tl.load(weights + i * INFLUENCES, mask=inside, other=0.0)
    heaviest = tl.load(joints + i * INFLUENCES, mask=inside, other=0)
    for k in tl.static_range(1, INFLUENCES):
        weight = tl.load(weights + i * INFLUENCES + k, mask=inside, other=0.0)
        joint = tl.load(joints + i * INFLUENCES + k, mask=inside, other=0)
        heaviest = tl.where(weight > largest, joint, heaviest)
        largest = tl.maximum(largest, weight)
    hw, hx, hy, hz = _quadruple(bones + heaviest * _BONE + _QUAT, inside)
    x, y, z = _triple(means + i * 3, inside)
    zero = x * 0.0
    qw, qx, qy, qz = zero, zero, zero, zero
    dw, dx, dy, dz = zero, zero, zero, zero
    px, py, pz = zero, zero, zero
    for k in tl.static_range(INFLUENCES):
        weight = tl.load(weights + i * INFLUENCES + k, mask=inside, other=0.0)
        bone = bones + tl.load(joints + i * INFLUENCES + k, mask=inside, other=0) * _BONE
        bw, bx, by, bz = _quadruple(bone + _QUAT, inside)
        signed = tl.where(bw * hw + bx * hx + by * hy + bz * hz >= 0, weight, -weight)
        qw, qx, qy, qz = qw + signed * bw, qx + signed * bx, qy + signed * by, qz + signed * bz
        if DUAL:
            bw, bx, by, bz = _quadruple(bone + _DUAL, inside)
            dw, dx, dy, dz = dw + signed * bw, dx + signed * bx, dy + signed * by, dz + signed * bz
        else:
            a, b, c, d = _quadruple(bone, inside)
            px += weight * (a * x + b * y + c * z + d)
            a, b, c, d = _quadruple(bone + 4, inside)
            py += weight * (a * x + b * y + c * z + d)
            a, b, c, d = _quadruple(bone + 8, inside)
            pz += weight * (a * x + b * y + c * z + d)
    scale = 1 / tl.sqrt(tl.maximum(qw * qw + qx * qx + qy * qy + qz * qz, 1e-24))
    qw, qx, qy, qz = qw * scale, qx * scale, qy * scale, qz * scale
    if DUAL:
        _, sx, sy, sz = _product(dw, dx, dy, dz, qw, -qx, -qy, -qz)
        px, py, pz = _rotate(qw, qx, qy, qz, x, y, z)
        px, py, pz = px + 2 * scale * sx, py + 2 * scale * sy, pz + 2 * scale * sz
    _store_triple(out_means + i * 3, px, py, pz, inside)
    _store_quadruple(out_turns + i * 4, qw, qx, qy, qz, inside)
    rw, rx, ry, rz = _quadruple(quats + i * 4, inside)
    rw, rx, ry, rz = _product(qw, qx, qy, qz, rw, rx, ry, rz)
    _store_quadruple(out_quats + i * 4, rw, rx, ry, rz, inside)
    nx, ny, nz = _triple(normals + i * 3, inside)
    nx, ny, nz = _rotate(qw, qx, qy, qz, nx, ny, nz)
    _store_triple(out_normals + i * 3, nx, ny, nz, inside)
    if WIDTH > 0:
        own, turned = latents + i * WIDTH, out_latents + i * WIDTH
        for k in tl.static_range(_LEANING):
            if k != _ANGLE:
                tl.store(turned + k, tl.load(own + k, mask=inside, other=0.0), mask=inside)
        tx, ty, tz = _triple(tangents + i * 3, inside)
        tx, ty, tz = _rotate(qw, qx, qy, qz, tx, ty, tz)
        # See `appearance.tangent_angles`.
        along = _POLE * ny
        lx, ly, lz = -ny - along * nx, nx + _POLE - along * ny, -along * nz
        ux, uy, uz = ny * lz - nz * ly, nz * lx - nx * lz, nx * ly - ny * lx
        angle = _atan2(tx * ux + ty * uy + tz * uz, tx * lx + ty * ly + tz * lz)
        tl.store(turned + _ANGLE, angle, mask=inside)
        a, b, c = _triple(own + _LEANING, inside)
        a, b, c = _rotate(qw, qx, qy, qz, a, b, c)
        _store_triple(turned + _LEANING, a, b, c, inside)
        for channel in tl.static_range(3):
            at = _RESIDUAL + 8 * channel
            a, b, c = _triple(own + at, inside)
            a, b, c = _rotate(qw, qx, qy, qz, a, b, c)
            _store_triple(turned + at, a, b, c, inside)
            _turn_quadratic(own + at + 3, turned + at + 3, qw, qx, qy, qz, inside)
