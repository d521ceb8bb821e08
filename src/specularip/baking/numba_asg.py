"""Fitting ASGs on the CPU: the greedy fit of `asg.fit_asgs` in numba, one Gaussian after the other.

All that a Gaussian needs stays in the caches. The columns of its least-squares problem are the smooth basis,
the lobes, the three channels of the aim, and the lobes' derivatives by five parameters each. Sixteen samples
are one vector; the Gram matrix is summed in tiles of 4x4 columns. Gauss' elimination of the linear columns
gives the linear part and leaves the Gauss-Newton matrix of the lobes' parameters. Most of the work is in the
derivatives, so they are computed only for steps that were accepted and are followed by another.

A *set* is the lobes of one Gaussian with what follows from them, as `asg._State`, but float32 throughout.
"""
# numba's stubs show the intrinsics of simd.py with the typing context, which numba supplies.
# mypy: disable-error-code="call-arg, operator, assignment, var-annotated, no-untyped-def"

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from specularip.baking import asg
from specularip.baking.asg import LAST_STEPS, LOBES, START_SHARPNESS, STEPS, TRIAL_STEPS
from specularip.colors.asgs import NEAREST, SMOOTH, Asgs
from specularip.gaussians import rotation_matrices
from specularip.kernels.compiling import cached
from specularip.kernels.simd import (
    choose,
    exp2,
    fill,
    fold1,
    fold2,
    fold4,
    fold8,
    keep_above,
    load,
    maximum,
    store,
)
from specularip.kernels.threads import share_out
from specularip.specular import shading

LANES = 16
CHUNK = 16
"""Gaussians per work item."""

_f32 = np.float32
_ZERO, _HALF, _ONE = _f32(0), _f32(0.5), _f32(1)
_LOG2E = _f32(math.log2(math.e))
_NEAREST, _SHOULDER = _f32(NEAREST), _f32(shading.SHOULDER)
_RIDGE, _RIDGE_CONSTANT = _f32(asg.RIDGE), _f32(1e-3 * asg.RIDGE)
_LONGEST_STEP, _SHARPEST = _f32(asg.LONGEST_STEP), _f32(asg.SHARPEST)
_LOG_BLUNTEST, _LOG_SHARPEST = _f32(math.log(asg.BLUNTEST)), _f32(math.log(asg.SHARPEST))
_SMALLEST_PIVOT = _f32(1e-12)
_FAINTEST = _f32(-32)
"""Logarithm to base 2 of the smallest lobe. Less would give products below float32's normal numbers, with
which processors by Intel compute twenty times as slowly."""

# Rows of a Gaussian's samples: direction in its frame, square root of the weight, colour, smooth basis.
_ROOT, _TARGET, _BASIS = 3, 4, 7
_SAMPLE_ROWS = _BASIS + SMOOTH
# Rows of a set: aim, slope of the shoulder, weighted residual.
_STEEP, _LEFT = 3, 4
_SET_ROWS = 7
# A lobe's numbers: two tangent directions of its light, the light, log a, q, log b.
_LIGHT, _SHAPE = 6, 9
_LOBE = 12
# The present set, the next step, the one to drop a lobe from, and the best of those without.
_NOW, _TRIAL, _WHOLE, _BEST = range(4)


class _Sets(NamedTuple):
    """float32, the first index is the set's."""

    error: np.ndarray
    """[S]: weighted squared error, with the ridge."""
    lobes: np.ndarray
    """[S, K _LOBE]"""
    linear: np.ndarray
    """[S, 3 (10+K)]: the best smooth part and amplitudes, channel by channel."""
    rows: np.ndarray
    """[S, _SET_ROWS M]"""


class _Scratch(NamedTuple):
    """columns, and matrix, their Gram matrix: first the smooth basis, the lobes and the aim, then, from a
    multiple of LANES on, the lobes' derivatives. system [5K stride]: the upper triangle of the Gauss-Newton
    matrix of set _NOW, with the negative gradient as last column; damped, a copy."""

    columns: np.ndarray
    matrix: np.ndarray
    system: np.ndarray
    damped: np.ndarray
    step: np.ndarray
    tile: np.ndarray


@njit(error_model="numpy", forceinline=True)
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(error_model="numpy", forceinline=True)
def _fill_triple(array, at):
    return fill(array[at]), fill(array[at + 1]), fill(array[at + 2])


@njit(error_model="numpy", forceinline=True)
def _directions(samples, length, at):
    return load(samples, at), load(samples, length + at), load(samples, 2 * length + at)


@njit(error_model="numpy")
def _sum(tile):
    total = _ZERO
    for lane in range(LANES):
        total += tile[lane]
    return total


@njit(error_model="numpy")
def _prepare(directions, targets, weights, turns, i, length, samples):
    """Fill the samples of Gaussian i. Rows are padded to `length` by samples of weight 0."""
    count = weights.shape[1]
    total = 0.0
    for m in range(count):
        total += weights[i, m]
    scale = 1.0 / max(total, 1e-30)
    for m in range(length):
        at = min(m, count - 1)
        x, y, z = directions[i, at, 0], directions[i, at, 1], directions[i, at, 2]
        for axis in range(3):
            turned = turns[i, 0, axis] * x + turns[i, 1, axis] * y + turns[i, 2, axis] * z
            samples[axis * length + m] = turned
            samples[(_TARGET + axis) * length + m] = targets[i, at, axis]
        samples[_ROOT * length + m] = math.sqrt(weights[i, m] * scale + 1e-12) if m < count else 0.0
    one, zero = fill(_ONE), fill(_ZERO)
    for at in range(0, length, LANES):
        x, y, z = _directions(samples, length, at)
        rim = one - maximum(z, zero - z)
        square = rim * rim
        row = _BASIS * length + at
        store(samples, row, one)
        store(samples, row + length, x)
        store(samples, row + 2 * length, y)
        store(samples, row + 3 * length, z)
        store(samples, row + 4 * length, x * y)
        store(samples, row + 5 * length, y * z)
        store(samples, row + 6 * length, z * x)
        store(samples, row + 7 * length, x * x - y * y)
        store(samples, row + 8 * length, z * z)
        store(samples, row + 9 * length, square * square * rim)


@njit(error_model="numpy")
def _write_columns(samples, length, count, lobes, rows, columns):
    """The smooth basis, `count` lobes and the aim, times root weight and slope of the shoulder."""
    half, one, zero = fill(_HALF), fill(_ONE), fill(_ZERO)
    for at in range(0, length, LANES):
        root = load(samples, _ROOT * length + at) * load(rows, _STEEP * length + at)
        for j in range(SMOOTH):
            store(columns, j * length + at, root * load(samples, (_BASIS + j) * length + at))
        for c in range(3):
            store(columns, (SMOOTH + count + c) * length + at, root * load(rows, c * length + at))
    for k in range(count):
        a, q, b = _shape(lobes, k)
        light = _fill_triple(lobes, k * _LOBE + _LIGHT)
        for at in range(0, length, LANES):
            d = _directions(samples, length, at)
            inverse = one / maximum(half + half * _dot(light, d), fill(_NEAREST))
            x, y = half * (d[0] + light[0]), half * (d[1] + light[1])
            u, v = fill(a) * x + fill(q) * y, fill(b) * y
            power = maximum((u * u + v * v) * inverse * fill(-_LOG2E), fill(_FAINTEST))
            lobe = exp2(power) * inverse * load(columns, at)
            store(columns, (SMOOTH + k) * length + at, keep_above(lobe, d[2] * light[2], zero))


@njit(error_model="numpy")
def _write_slopes(samples, length, count, lobes, columns, first):
    """From column `first` on, the lobes' derivatives by the two rotations, log a, q and log b."""
    half, one = fill(_HALF), fill(_ONE)
    for k in range(count):
        start = k * _LOBE
        a, q, b = _shape(lobes, k)
        turn_0, turn_1 = _fill_triple(lobes, start), _fill_triple(lobes, start + 3)
        light = _fill_triple(lobes, start + _LIGHT)
        u_0, v_0 = fill(a * lobes[start] + q * lobes[start + 1]), fill(b * lobes[start + 1])
        u_1, v_1 = fill(a * lobes[start + 3] + q * lobes[start + 4]), fill(b * lobes[start + 4])
        for at in range(0, length, LANES):
            d = _directions(samples, length, at)
            near = half + half * _dot(light, d)
            inverse = one / maximum(near, fill(_NEAREST))
            x, y = half * (d[0] + light[0]), half * (d[1] + light[1])
            u, v = fill(a) * x + fill(q) * y, fill(b) * y
            lobe = load(columns, (SMOOTH + k) * length + at) * inverse
            # By m·m, which grows with the rotation.
            narrowing = keep_above(lobe * half * ((u * u + v * v) * inverse - one), near, fill(_NEAREST))
            u, v = lobe * u * fill(-_ONE), lobe * v * fill(-_ONE)
            row = (first + 5 * k) * length + at
            store(columns, row, u_0 * u + v_0 * v + narrowing * _dot(turn_0, d))
            store(columns, row + length, u_1 * u + v_1 * v + narrowing * _dot(turn_1, d))
            u, v = u + u, v + v
            store(columns, row + 2 * length, u * fill(a) * x)
            store(columns, row + 3 * length, u * y)
            store(columns, row + 4 * length, v * fill(b) * y)


@njit(error_model="numpy", forceinline=True)
def _shape(lobes, k):
    at = k * _LOBE + _SHAPE
    return _f32(math.exp(lobes[at])), lobes[at + 1], _f32(math.exp(lobes[at + 2]))


@njit(error_model="numpy")
def _write_gram(columns, length, low, high, first, end, tile, matrix, stride):
    """The upper triangle of the Gram matrix: rows low .. high, columns first .. end, in tiles of 4x4."""
    for i in range(low, high, 4):
        for j in range(max(i, first), end, 4):
            zero = fill(_ZERO)
            s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
            s8, s9, s10, s11, s12, s13, s14, s15 = zero, zero, zero, zero, zero, zero, zero, zero
            left, right = i * length, j * length
            for at in range(0, length, LANES):
                b0, b1 = load(columns, right + at), load(columns, right + length + at)
                b2, b3 = load(columns, right + 2 * length + at), load(columns, right + 3 * length + at)
                a = load(columns, left + at)
                s0, s1, s2, s3 = s0 + a * b0, s1 + a * b1, s2 + a * b2, s3 + a * b3
                a = load(columns, left + length + at)
                s4, s5, s6, s7 = s4 + a * b0, s5 + a * b1, s6 + a * b2, s7 + a * b3
                a = load(columns, left + 2 * length + at)
                s8, s9, s10, s11 = s8 + a * b0, s9 + a * b1, s10 + a * b2, s11 + a * b3
                a = load(columns, left + 3 * length + at)
                s12, s13, s14, s15 = s12 + a * b0, s13 + a * b1, s14 + a * b2, s15 + a * b3
            upper = fold2(fold4(fold8(s0, s1), fold8(s2, s3)), fold4(fold8(s4, s5), fold8(s6, s7)))
            lower = fold2(fold4(fold8(s8, s9), fold8(s10, s11)), fold4(fold8(s12, s13), fold8(s14, s15)))
            store(tile, 0, fold1(upper, lower))
            for k in range(LANES):
                matrix[(i + k // 4) * stride + j + k % 4] = tile[k]


@njit(error_model="numpy")
def _eliminate(matrix, stride, solved, first, end):
    """Gauss' elimination in the upper triangle of a symmetric matrix of `solved` unknowns, with more columns
    on the right: in columns first .. end, in whole vectors."""
    for k in range(solved):
        pivot = k * stride
        inverse = -_ONE / max(matrix[pivot + k], _SMALLEST_PIVOT)
        for i in range(k + 1, solved):
            _subtract(matrix, matrix[pivot + i] * inverse, pivot, i * stride, max(i, first) & -LANES, end)


@njit(error_model="numpy")
def _complement(matrix, stride, solved, first, end):
    """Schur's complement of the first `solved` unknowns, which are eliminated: rows and columns first ..
    end."""
    for k in range(solved):
        pivot = k * stride
        inverse = -_ONE / max(matrix[pivot + k], _SMALLEST_PIVOT)
        for i in range(first, end):
            _subtract(matrix, matrix[pivot + i] * inverse, pivot, i * stride, i & -LANES, end)


@njit(error_model="numpy", forceinline=True)
def _subtract(matrix, factor, pivot, row, first, end):
    for at in range(first, end, LANES):
        store(matrix, row + at, load(matrix, row + at) + fill(factor) * load(matrix, pivot + at))


@njit(error_model="numpy", forceinline=True)
def _shown(value):
    """`asg._shown`."""
    one, shoulder = fill(_ONE), fill(_SHOULDER)
    return choose(value, one, one + shoulder * (value - one), value), choose(value, one, shoulder, one)


@njit(error_model="numpy")
def _write_residual(samples, length, solved, columns, linear, rows, tile):
    """Write aim, slope and residual of the next linearisation into `rows`, which has the previous. Returns
    the weighted squared error."""
    one, zero = fill(_ONE), fill(_ZERO)
    total = zero
    for at in range(0, length, LANES):
        root = load(samples, _ROOT * length + at)
        scaled = root * load(rows, _STEEP * length + at)
        inverse = keep_above(one / scaled, scaled, zero)
        steepest = fill(_SHOULDER)
        for c in range(3):
            value = zero
            for j in range(solved):
                value = value + fill(linear[c * solved + j]) * load(columns, j * length + at)
            value = value * inverse
            shown, tone = _shown(value)
            left = root * (load(samples, (_TARGET + c) * length + at) - shown)
            total = total + left * left
            steepest = maximum(steepest, tone)
            store(rows, c * length + at, value)
            store(rows, (_LEFT + c) * length + at, left * tone)
        store(rows, _STEEP * length + at, steepest)
        # One Gram matrix serves all three channels: it uses the steepest slope, and flatter channels a nearer
        # aim.
        nearer = keep_above(one / (root * steepest * steepest), root, zero)
        for c in range(3):
            left = load(rows, (_LEFT + c) * length + at)
            store(rows, c * length + at, load(rows, c * length + at) + nearer * left)
    store(tile, 0, total)
    return _sum(tile)


@njit(error_model="numpy")
def _solve(samples, length, count, sets, s, scratch):
    """Complete set s, of which `count` lobes and the linearisation (aim and slope in `rows`) are given."""
    columns, matrix, linear, rows = scratch.columns, scratch.matrix, sets.linear[s], sets.rows[s]
    solved = SMOOTH + count
    stride = _stride(_stride(solved + 3) + 5 * count)
    _write_columns(samples, length, count, sets.lobes[s], rows, columns)
    _write_gram(columns, length, 0, solved, 0, solved + 3, scratch.tile, matrix, stride)
    for k in range(solved):
        matrix[k * stride + k] += _RIDGE if k else _RIDGE_CONSTANT
    _eliminate(matrix, stride, solved, 0, solved + 3)
    error = _ZERO
    for k in range(solved - 1, -1, -1):
        pivot = k * stride
        for c in range(3):
            total = matrix[pivot + solved + c]
            for j in range(k + 1, solved):
                total -= matrix[pivot + j] * linear[c * solved + j]
            total /= max(matrix[pivot + k], _SMALLEST_PIVOT)
            linear[c * solved + k] = total
            error += (_RIDGE if k else _RIDGE_CONSTANT) * total * total
    error += _write_residual(samples, length, solved, columns, linear, rows, scratch.tile)
    sets.error[s] = error if error == error else _f32(np.inf)


@njit(error_model="numpy")
def _differentiate(samples, length, count, sets, scratch):
    """Write the `system` of set _NOW, which was solved last."""
    columns, matrix, system, tile = scratch.columns, scratch.matrix, scratch.system, scratch.tile
    linear, rows = sets.linear[_NOW], sets.rows[_NOW]
    solved, turning = SMOOTH + count, 5 * count
    first = _stride(solved + 3)
    end = first + turning
    stride, system_stride = _stride(end), _stride(turning + 1)
    _write_slopes(samples, length, count, sets.lobes[_NOW], columns, first)
    _write_gram(columns, length, 0, solved, first, end, tile, matrix, stride)
    _write_gram(columns, length, first, end, first, end, tile, matrix, stride)
    _eliminate(matrix, stride, solved, first, end)
    _complement(matrix, stride, solved, first, end)
    for i in range(turning):
        a = SMOOTH + i // 5
        for j in range(i, turning):
            b = SMOOTH + j // 5
            dot = linear[a] * linear[b] + linear[solved + a] * linear[solved + b]
            dot += linear[2 * solved + a] * linear[2 * solved + b]
            system[i * system_stride + j] = matrix[(first + i) * stride + first + j] * dot
        red, green, blue = fill(linear[a]), fill(linear[solved + a]), fill(linear[2 * solved + a])
        total = fill(_ZERO)
        for at in range(0, length, LANES):
            left = red * load(rows, _LEFT * length + at) + green * load(rows, (_LEFT + 1) * length + at)
            left = left + blue * load(rows, (_LEFT + 2) * length + at)
            scaled = load(columns, at)  # the first column is 1 times root and slope of the last linearisation
            left = left * keep_above(load(samples, _ROOT * length + at) / scaled, scaled, fill(_ZERO))
            total = total + left * load(columns, (first + i) * length + at)
        store(tile, 0, total)
        system[i * system_stride + turning] = _sum(tile)


@njit(error_model="numpy", forceinline=True)
def _stride(count):
    """Of a matrix with `count` columns: whole vectors."""
    return (count + LANES - 1) & -LANES


@njit(error_model="numpy", forceinline=True)
def _unit(x, y, z):
    over = _ONE / math.sqrt(x * x + y * y + z * z)
    return x * over, y * over, z * over


@njit(error_model="numpy")
def _move(count, damping, sets, scratch):
    """Write the lobes of set _NOW after one damped Gauss-Newton step into set _TRIAL."""
    matrix, step, system = scratch.damped, scratch.step, scratch.system
    size, stride = 5 * count, _stride(5 * count + 1)
    largest = _ZERO
    for i in range(size):
        largest = max(largest, system[i * stride + i])
    for at in range(size * stride):
        matrix[at] = system[at]
    for i in range(size):
        matrix[i * stride + i] += (
            damping * (max(system[i * stride + i], _ZERO) + _f32(1e-3) * largest) + _SMALLEST_PIVOT
        )
    _eliminate(matrix, stride, size, 0, size + 1)
    for i in range(size - 1, -1, -1):
        total = matrix[i * stride + size]
        for j in range(i + 1, size):
            total -= matrix[i * stride + j] * step[j]
        step[i] = total / max(matrix[i * stride + i], _SMALLEST_PIVOT)
    for i in range(size):
        step[i] = min(max(step[i], -_LONGEST_STEP), _LONGEST_STEP) if step[i] == step[i] else _ZERO
    for k in range(count):
        f, t = sets.lobes[_NOW, k * _LOBE : (k + 1) * _LOBE], sets.lobes[_TRIAL, k * _LOBE : (k + 1) * _LOBE]
        turn = step[5 * k : 5 * k + 5]
        x, y, z = _unit(
            f[6] + turn[0] * f[0] + turn[1] * f[3],
            f[7] + turn[0] * f[1] + turn[1] * f[4],
            f[8] + turn[0] * f[2] + turn[1] * f[5],
        )
        along = f[0] * x + f[1] * y + f[2] * z
        t[0], t[1], t[2] = _unit(f[0] - along * x, f[1] - along * y, f[2] - along * z)
        t[3], t[4], t[5] = y * t[2] - z * t[1], z * t[0] - x * t[2], x * t[1] - y * t[0]
        t[6], t[7], t[8] = x, y, z
        t[9] = min(max(f[9] + turn[2], _LOG_BLUNTEST), _LOG_SHARPEST)
        t[10] = min(max(f[10] + turn[3], -_SHARPEST), _SHARPEST)
        t[11] = min(max(f[11] + turn[4], _LOG_BLUNTEST), _LOG_SHARPEST)


@njit(error_model="numpy")
def _copy_row(array, s, to):
    for at in range(array.shape[1]):
        array[to, at] = array[s, at]


@njit(error_model="numpy")
def _copy(sets, s, to):
    sets.error[to] = sets.error[s]
    _copy_row(sets.lobes, s, to)
    _copy_row(sets.linear, s, to)
    _copy_row(sets.rows, s, to)


@njit(error_model="numpy")
def _refine(samples, length, count, sets, steps, scratch):
    """`steps` of Levenberg-Marquardt on set _NOW, which was solved last; steps that raise the error are
    rejected."""
    damping, moved = _f32(1e-2), True
    for _ in range(steps):
        if moved:
            _differentiate(samples, length, count, sets, scratch)
        _move(count, damping, sets, scratch)
        _copy_row(sets.rows, _NOW, _TRIAL)
        _solve(samples, length, count, sets, _TRIAL, scratch)
        moved = sets.error[_TRIAL] < sets.error[_NOW]
        if moved:
            _copy(sets, _TRIAL, _NOW)
            damping = max(_f32(0.3) * damping, _f32(1e-6))
        else:
            damping = min(_f32(4) * damping, _f32(1e4))


@njit(error_model="numpy")
def _gain(samples, length, light, sharpness, rows, tile):
    """How much an isotropic lobe, a² = b² = sharpness, would reduce the squared error."""
    half, zero = fill(_HALF), fill(_ZERO)
    light = _fill_triple(light, 0)
    red, green, blue, size = zero, zero, zero, zero
    for at in range(0, length, LANES):
        d = _directions(samples, length, at)
        inverse = fill(_ONE) / maximum(half + half * _dot(light, d), fill(_NEAREST))
        x, y = half * (d[0] + light[0]), half * (d[1] + light[1])
        power = maximum((x * x + y * y) * inverse * fill(-_LOG2E * sharpness), fill(_FAINTEST))
        lobe = exp2(power) * inverse
        lobe = keep_above(lobe * load(samples, _ROOT * length + at), d[2] * light[2], zero)
        red = red + lobe * load(rows, _LEFT * length + at)
        green = green + lobe * load(rows, (_LEFT + 1) * length + at)
        blue = blue + lobe * load(rows, (_LEFT + 2) * length + at)
        size = size + lobe * lobe
    low = fold4(fold8(red, green), fold8(blue, size))
    store(tile, 0, fold1(fold2(low, low), fold2(low, low)))
    return (tile[0] * tile[0] + tile[1] * tile[1] + tile[2] * tile[2]) / max(tile[3], _SMALLEST_PIVOT)


@njit(error_model="numpy")
def _add_lobe(samples, length, count, sets, scratch):
    """Append a lobe to the `count` of set _NOW: isotropic, mirrored at the largest residual, of the candidate
    width that reduces it most."""
    rows, lobe = sets.rows[_NOW], sets.lobes[_NOW, count * _LOBE : (count + 1) * _LOBE]
    peak, most = 0, -_ONE
    for m in range(length):
        square = _ZERO
        for c in range(3):
            left = rows[(_LEFT + c) * length + m]
            square += left * left
        if square > most:
            peak, most = m, square
    x, y, z = -samples[peak], -samples[length + peak], samples[2 * length + peak]
    # The z axis is turned to the light by the smallest angle; from the far side it does not matter how.
    over = _ONE / max(_ONE + z, _f32(1e-3))
    lobe[0], lobe[1], lobe[2] = _unit(_ONE - x * x * over, -x * y * over, -x)
    lobe[3], lobe[4], lobe[5] = (
        y * lobe[2] - z * lobe[1],
        z * lobe[0] - x * lobe[2],
        x * lobe[1] - y * lobe[0],
    )
    lobe[6], lobe[7], lobe[8] = x, y, z
    best = -_ONE
    for sharpness in START_SHARPNESS:
        gain = _gain(samples, length, lobe[_LIGHT:], _f32(sharpness), rows, scratch.tile)
        if gain > best:
            best = gain
            lobe[9] = lobe[11] = _f32(0.5 * math.log(sharpness))
    lobe[10] = _ZERO


@njit(error_model="numpy")
def _fit_one(samples, length, lobes, sets, scratch):
    """The greedy fit of `asg.fit_asgs`; the result is set _NOW."""
    for at in range(3 * length):
        sets.rows[_NOW, at] = samples[_TARGET * length + at]
    for at in range(_STEEP * length, _LEFT * length):
        sets.rows[_NOW, at] = _ONE
    _solve(samples, length, 0, sets, _NOW, scratch)
    for count in range(lobes + 1):
        _add_lobe(samples, length, count, sets, scratch)
        _solve(samples, length, count + 1, sets, _NOW, scratch)
        _refine(samples, length, count + 1, sets, STEPS, scratch)
    _copy(sets, _NOW, _WHOLE)
    for gone in range(lobes + 1):
        _copy_row(sets.rows, _WHOLE, _NOW)
        for at in range(lobes * _LOBE):
            sets.lobes[_NOW, at] = sets.lobes[_WHOLE, at + (_LOBE if at >= gone * _LOBE else 0)]
        _solve(samples, length, lobes, sets, _NOW, scratch)
        _refine(samples, length, lobes, sets, TRIAL_STEPS, scratch)
        if gone == 0 or sets.error[_NOW] < sets.error[_BEST]:
            _copy(sets, _NOW, _BEST)
    _copy(sets, _BEST, _NOW)
    _solve(samples, length, lobes, sets, _NOW, scratch)
    _refine(samples, length, lobes, sets, LAST_STEPS, scratch)


@cached
@njit(nogil=True, error_model="numpy")
def _fit(share, shares, directions, targets, weights, turns, linear, found):
    """directions and targets [n,M,3], weights [n,M], turns [n,3,3], from the Gaussians' frames; linear
    [n, 3 (10+K)] and found [n, K _LOBE] are filled."""
    n, lobes = len(weights), found.shape[1] // _LOBE
    length = _stride(weights.shape[1])
    solved, turning = SMOOTH + lobes + 1, 5 * (lobes + 1)
    count = _stride(solved + 3) + turning
    samples = np.zeros(_SAMPLE_ROWS * length, np.float32)
    sets = _Sets(
        np.zeros(4, np.float32),
        np.zeros((4, (lobes + 1) * _LOBE), np.float32),
        np.zeros((4, 3 * solved), np.float32),
        np.zeros((4, _SET_ROWS * length), np.float32),
    )
    size = turning * _stride(turning + 1)
    scratch = _Scratch(
        np.zeros((count + 3) * length, np.float32),
        np.zeros((count + 3) * _stride(count), np.float32),
        np.zeros(size, np.float32),
        np.zeros(size, np.float32),
        np.zeros(turning, np.float32),
        np.zeros(LANES, np.float32),
    )
    for chunk in range(share, (n + CHUNK - 1) // CHUNK, shares):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            _prepare(directions, targets, weights, turns, i, length, samples)
            _fit_one(samples, length, lobes, sets, scratch)
            for at in range(linear.shape[1]):
                linear[i, at] = sets.linear[_NOW, at]
            for at in range(found.shape[1]):
                found[i, at] = sets.lobes[_NOW, at]


def fit_asgs_numba(
    directions: Tensor, targets: Tensor, weights: Tensor, quats: Tensor, lobes: int = LOBES
) -> Asgs:
    """`asg.fit_asgs` for float32 CPU tensors. The same bits for any number of threads."""
    n = len(weights)
    found = np.empty((n, lobes * _LOBE), np.float32)
    linear = np.empty((n, 3 * (SMOOTH + lobes)), np.float32)
    inputs = (
        t.detach().contiguous().numpy() for t in (directions, targets, weights, rotation_matrices(quats))
    )
    share_out(_fit, *inputs, linear, found, most=-(-n // CHUNK))
    factors = torch.from_numpy(linear).unflatten(1, (3, -1)).mT
    lobe = torch.from_numpy(found).unflatten(1, (lobes, _LOBE))
    log_a, q, log_b = lobe[:, :, _SHAPE:].unbind(-1)
    return Asgs(
        quats=quats,
        smooth=factors[:, :SMOOTH].contiguous(),
        lights=lobe[:, :, _LIGHT:_SHAPE].contiguous(),
        shapes=torch.stack([log_a.exp(), q, log_b.exp()], -1),
        amplitudes=factors[:, SMOOTH:].contiguous(),
    )
