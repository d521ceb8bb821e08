"""Refining the lobes of ASGs on the CPU: `asg.refine_asgs` in numba, sixteen samples at a time.

One Gaussian after the other, so that all it needs stays in the caches. The columns of its least-squares problem
are the smooth basis, the lobes, their derivatives by five parameters each, and the three channels of the aim. Their
Gram matrix is summed in float32, in tiles of 4x4 columns. Eliminating the linear columns from it, in float64,
leaves the Gauss-Newton matrix of the others.
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
from specularip.baking.asg import LOBES, SMOOTH, START_SHARPNESS, STEPS, TRIAL_STEPS, Asgs
from specularip.gaussians import rotation_matrices
from specularip.kernels.compiling import announce_compilation
from specularip.kernels.simd import choose, exp2, fill, fold1, fold2, fold4, fold8, keep_above, load, maximum, sqrt, store
from specularip.kernels.threads import share_out
from specularip.specular.shading import SHOULDER as _SHOULDER_64

announce_compilation()

LANES = 16
CHUNK = 16
"""Gaussians per work item."""

_f32 = np.float32
_LOG2E = _f32(math.log2(math.e))
_NEAREST = _f32(asg.NEAREST)
_SHOULDER = _f32(_SHOULDER_64)
_RIDGE = asg.RIDGE
_LONGEST_STEP = asg.LONGEST_STEP
_SHARPEST = asg.SHARPEST
_LOG_BLUNTEST, _LOG_SHARPEST = math.log(asg.BLUNTEST), math.log(asg.SHARPEST)

# Rows of a Gaussian's samples: direction in its frame, square root of the weight, colour, smooth basis.
_ROOT, _TARGET, _BASIS = 3, 4, 7
_SAMPLE_ROWS = _BASIS + SMOOTH
# Rows of a state: aim, slope of the shoulder, weighted residual.
_STEEP, _LEFT = 3, 4
_STATE_ROWS = 7
# Sets of lobes: the present one, the next step, the one to drop a lobe from, and the best of those without.
_NOW, _TRIAL, _WHOLE, _BEST = range(4)


@njit(error_model="numpy", forceinline=True)
def _prepare(directions, targets, weights, turn, length, samples):
    """Fill `samples` from a Gaussian's directions [M,3], targets [M,3], weights [M] and rotation `turn` [3,3], whose
    columns are the frame's axes. Rows are padded to `length` by samples of weight 0."""
    count = len(weights)
    total = 0.0
    for m in range(count):
        total += weights[m]
    scale = 1.0 / max(total, 1e-30)
    for m in range(length):
        at = min(m, count - 1)
        x, y, z = directions[at, 0], directions[at, 1], directions[at, 2]
        for axis in range(3):
            samples[axis * length + m] = turn[0, axis] * x + turn[1, axis] * y + turn[2, axis] * z
            samples[(_TARGET + axis) * length + m] = targets[at, axis]
        samples[_ROOT * length + m] = math.sqrt(weights[m] * scale + 1e-12) if m < count else 0.0
    one = fill(_f32(1))
    for at in range(0, length, LANES):
        x, y, z = load(samples, at), load(samples, length + at), load(samples, 2 * length + at)
        rim = one - maximum(z, fill(_f32(0)) - z)
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


@njit(error_model="numpy", forceinline=True)
def _write_columns(samples, length, lobes, frames, shapes, state, columns):
    """Columns in the order: smooth basis, lobes, derivatives by the two rotations, log a, q and log b of each lobe,
    aim; all times root weight and shoulder slope."""
    linear = SMOOTH + lobes
    half, one = fill(_f32(0.5)), fill(_f32(1))
    for at in range(0, length, LANES):
        root = load(samples, _ROOT * length + at) * load(state, _STEEP * length + at)
        for j in range(SMOOTH):
            store(columns, j * length + at, root * load(samples, (_BASIS + j) * length + at))
        last = (linear + 5 * lobes) * length + at
        for c in range(3):
            store(columns, last + c * length, root * load(state, c * length + at))
    for k in range(lobes):
        a, q, b = _f32(math.exp(shapes[k, 0])), _f32(shapes[k, 1]), _f32(math.exp(shapes[k, 2]))
        f = frames[k]
        for at in range(0, length, LANES):
            root = load(samples, _ROOT * length + at) * load(state, _STEEP * length + at)
            dx, dy, dz = load(samples, at), load(samples, length + at), load(samples, 2 * length + at)
            turn_0 = fill(f[0, 0]) * dx + fill(f[0, 1]) * dy + fill(f[0, 2]) * dz
            turn_1 = fill(f[1, 0]) * dx + fill(f[1, 1]) * dy + fill(f[1, 2]) * dz
            turn_2 = fill(f[2, 0]) * dx + fill(f[2, 1]) * dy + fill(f[2, 2]) * dz
            raw = half + half * turn_2
            inverse = one / maximum(raw, fill(_NEAREST))
            over = half * sqrt(inverse)
            x, y = over * (dx + fill(f[2, 0])), over * (dy + fill(f[2, 1]))
            u, v = fill(a) * x + fill(q) * y, fill(b) * y
            square = u * u + v * v
            bell = exp2(square * fill(-_LOG2E)) * inverse * root
            bell = keep_above(bell, dz * fill(f[2, 2]), fill(_f32(0)))
            store(columns, (SMOOTH + k) * length + at, bell)
            twice = bell * fill(_f32(-2))
            along, across = twice * u, twice * v
            narrowing = keep_above((square - one) * bell * inverse * half, raw, fill(_NEAREST))
            row = (linear + 5 * k) * length + at
            store(columns, row,
                  over * (fill(a * f[0, 0] + q * f[0, 1]) * along + fill(b * f[0, 1]) * across) + narrowing * turn_0)
            store(columns, row + length,
                  over * (fill(a * f[1, 0] + q * f[1, 1]) * along + fill(b * f[1, 1]) * across) + narrowing * turn_1)
            store(columns, row + 2 * length, along * fill(a) * x)
            store(columns, row + 3 * length, along * y)
            store(columns, row + 4 * length, across * v)


@njit(error_model="numpy", forceinline=True)
def _tile(columns, length, i, j):
    """The sixteen products of columns i .. i+3 with columns j .. j+3."""
    zero = fill(_f32(0))
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
    low = fold2(fold4(fold8(s0, s1), fold8(s2, s3)), fold4(fold8(s4, s5), fold8(s6, s7)))
    high = fold2(fold4(fold8(s8, s9), fold8(s10, s11)), fold4(fold8(s12, s13), fold8(s14, s15)))
    return fold1(low, high)


@njit(error_model="numpy")
def _write_gram(columns, length, count, tile, gram):
    """The upper triangle of the Gram matrix of `count` columns, a multiple of four."""
    for i in range(0, count, 4):
        for j in range(i, count, 4):
            store(tile, 0, _tile(columns, length, i, j))
            for k in range(16):
                gram[i + k // 4, j + k % 4] = tile[k]


@njit(error_model="numpy")
def _eliminate(gram, linear, count, pivot_row):
    """Gauss' elimination of the first `linear` of `count` columns, in the upper triangle."""
    for k in range(linear):
        pivot_row[k:count] = gram[k, k:count]
        inverse = 1.0 / max(pivot_row[k], 1e-12)
        for i in range(k + 1, min(count, len(gram))):
            factor = pivot_row[i] * inverse
            row = gram[i]
            for j in range(i, count):
                row[j] -= factor * pivot_row[j]


@njit(error_model="numpy", forceinline=True)
def _sum(vector, tile):
    store(tile, 0, vector)
    total = 0.0
    for lane in range(LANES):
        total += tile[lane]
    return total


@njit(error_model="numpy", forceinline=True)
def _channel(columns, length, at, linear, best, c):
    value = fill(_f32(0))
    for j in range(linear):
        value = value + fill(best[c, j]) * load(columns, j * length + at)
    return value


@njit(error_model="numpy", forceinline=True)
def _write_residual(samples, length, linear, columns, best, state, tile):
    """The weighted squared error; aim, slope and residual of the new state. Keeps the old slope's reciprocal in
    the first column's place."""
    one, shoulder, zero = fill(_f32(1)), fill(_SHOULDER), fill(_f32(0))
    total = zero
    for at in range(0, length, LANES):
        root = load(samples, _ROOT * length + at)
        old = root * load(state, _STEEP * length + at)
        inverse = keep_above(one / old, old, zero)
        steepest = fill(_SHOULDER)
        for c in range(3):
            value = inverse * _channel(columns, length, at, linear, best, c)
            shown = choose(value, one, one + shoulder * (value - one), value)
            tone = choose(value, one, shoulder, one)
            missing = load(samples, (_TARGET + c) * length + at) - shown
            store(state, c * length + at, value)
            left = root * missing
            total = total + left * left
            store(state, (_LEFT + c) * length + at, left * tone)
            steepest = maximum(steepest, tone)
        over = one / (steepest * steepest)
        for c in range(3):
            value = load(state, c * length + at)
            shown = choose(value, one, one + shoulder * (value - one), value)
            tone = choose(value, one, shoulder, one)
            missing = load(samples, (_TARGET + c) * length + at) - shown
            store(state, c * length + at, value + missing * tone * over)
        store(columns, at, root * inverse)  # 1 / the old slope
        store(state, _STEEP * length + at, steepest)
    return _sum(total, tile)


@njit(error_model="numpy", forceinline=True)
def _write_descent(columns, length, lobes, best, state, tile, descent):
    linear = SMOOTH + lobes
    zero = fill(_f32(0))
    for k in range(lobes):
        red, green, blue = fill(best[0, SMOOTH + k]), fill(best[1, SMOOTH + k]), fill(best[2, SMOOTH + k])
        s0, s1, s2, s3, s4 = zero, zero, zero, zero, zero
        for at in range(0, length, LANES):
            left = red * load(state, _LEFT * length + at) + green * load(state, (_LEFT + 1) * length + at)
            left = (left + blue * load(state, (_LEFT + 2) * length + at)) * load(columns, at)
            row = (linear + 5 * k) * length + at
            s0 = s0 + left * load(columns, row)
            s1 = s1 + left * load(columns, row + length)
            s2 = s2 + left * load(columns, row + 2 * length)
            s3 = s3 + left * load(columns, row + 3 * length)
            s4 = s4 + left * load(columns, row + 4 * length)
        descent[5 * k] = _sum(s0, tile)
        descent[5 * k + 1] = _sum(s1, tile)
        descent[5 * k + 2] = _sum(s2, tile)
        descent[5 * k + 3] = _sum(s3, tile)
        descent[5 * k + 4] = _sum(s4, tile)


class _States(NamedTuple):
    """Sets of lobes of one Gaussian and what follows from them, as `asg._State`; the first index is the set's."""

    frames: np.ndarray  # [S,K,3,3]
    shapes: np.ndarray  # [S,K,3]
    error: np.ndarray  # [S]
    linear: np.ndarray  # [S,10+K,3]
    rows: np.ndarray  # [S,_STATE_ROWS M]
    hessian: np.ndarray  # [S,5K,5K], upper triangle
    descent: np.ndarray  # [S,5K]


class _Scratch(NamedTuple):
    columns: np.ndarray
    gram: np.ndarray
    row: np.ndarray
    best: np.ndarray  # [3,10+K] float32
    step: np.ndarray
    tile: np.ndarray


@njit(error_model="numpy")
def _evaluate(samples, length, lobes, states, s, scratch):
    """Complete set `s`, of which frames, shapes and the linearisation (aim and slope in `rows`) are given."""
    columns, gram, best = scratch.columns, scratch.gram, scratch.best
    linear, rows = states.linear[s], states.rows[s]
    solved = SMOOTH + lobes
    count = solved + 5 * lobes + 3
    padded = -(-count // 4) * 4
    _write_columns(samples, length, lobes, states.frames[s], states.shapes[s], rows, columns)
    columns[count * length : padded * length] = _f32(0)
    _write_gram(columns, length, padded, scratch.tile, gram)
    for k in range(solved):
        gram[k, k] += _RIDGE if k else 1e-3 * _RIDGE
    _eliminate(gram, solved, count, scratch.row)
    error = 0.0
    for k in range(solved - 1, -1, -1):
        for c in range(3):
            total = gram[k, count - 3 + c]
            for j in range(k + 1, solved):
                total -= gram[k, j] * linear[j, c]
            total /= max(gram[k, k], 1e-12)
            linear[k, c] = best[c, k] = total
            error += (_RIDGE if k else 1e-3 * _RIDGE) * total * total
    error += _write_residual(samples, length, solved, columns, best, rows, scratch.tile)
    states.error[s] = error if error == error else np.inf
    _write_descent(columns, length, lobes, best, rows, scratch.tile, states.descent[s])
    hessian = states.hessian[s]
    for i in range(5 * lobes):
        a = SMOOTH + i // 5
        for j in range(i, 5 * lobes):
            b = SMOOTH + j // 5
            dot = linear[a, 0] * linear[b, 0] + linear[a, 1] * linear[b, 1] + linear[a, 2] * linear[b, 2]
            hessian[i, j] = gram[solved + i, solved + j] * dot


@njit(error_model="numpy", forceinline=True)
def _over_length(x, y, z):
    return 1.0 / math.sqrt(x * x + y * y + z * z)


@njit(error_model="numpy")
def _move(lobes, damping, states, s, to, scratch):
    """Write frames and shapes of set `s` after one damped Gauss-Newton step into set `to`."""
    matrix, step, hessian = scratch.gram, scratch.step, states.hessian[s]
    size = 5 * lobes
    largest = 0.0
    for i in range(size):
        largest = max(largest, hessian[i, i])
    for i in range(size):
        for j in range(i, size):
            matrix[i, j] = hessian[i, j]
        matrix[i, i] += damping * (max(hessian[i, i], 0.0) + 1e-3 * largest) + 1e-12
        matrix[i, size] = states.descent[s, i]
    _eliminate(matrix, size, size + 1, scratch.row)
    for i in range(size - 1, -1, -1):
        total = matrix[i, size]
        for j in range(i + 1, size):
            total -= matrix[i, j] * step[j]
        step[i] = total / max(matrix[i, i], 1e-12)
    for i in range(size):
        step[i] = min(max(step[i], -_LONGEST_STEP), _LONGEST_STEP) if step[i] == step[i] else 0.0
    for k in range(lobes):
        f, t, turn = states.frames[s, k], states.frames[to, k], step[5 * k : 5 * k + 5]
        x = f[2, 0] + turn[0] * f[0, 0] + turn[1] * f[1, 0]
        y = f[2, 1] + turn[0] * f[0, 1] + turn[1] * f[1, 1]
        z = f[2, 2] + turn[0] * f[0, 2] + turn[1] * f[1, 2]
        over = _over_length(x, y, z)
        x, y, z = x * over, y * over, z * over
        along = f[0, 0] * x + f[0, 1] * y + f[0, 2] * z
        p, q, r = f[0, 0] - along * x, f[0, 1] - along * y, f[0, 2] - along * z
        over = _over_length(p, q, r)
        p, q, r = p * over, q * over, r * over
        t[0, 0], t[0, 1], t[0, 2] = p, q, r
        t[1, 0], t[1, 1], t[1, 2] = y * r - z * q, z * p - x * r, x * q - y * p
        t[2, 0], t[2, 1], t[2, 2] = x, y, z
        old, new = states.shapes[s, k], states.shapes[to, k]
        new[0] = min(max(old[0] + turn[2], _LOG_BLUNTEST), _LOG_SHARPEST)
        new[1] = min(max(old[1] + turn[3], -_SHARPEST), _SHARPEST)
        new[2] = min(max(old[2] + turn[4], _LOG_BLUNTEST), _LOG_SHARPEST)


@njit(error_model="numpy")
def _copy(states, s, to):
    states.frames[to], states.shapes[to], states.error[to] = states.frames[s], states.shapes[s], states.error[s]
    states.linear[to], states.rows[to] = states.linear[s], states.rows[s]
    states.hessian[to], states.descent[to] = states.hessian[s], states.descent[s]


@njit(error_model="numpy")
def _refine(samples, length, lobes, states, steps, scratch):
    """`steps` of Levenberg-Marquardt on set _NOW; steps that raise the error are rejected."""
    damping = 1e-2
    for _ in range(steps):
        _move(lobes, damping, states, _NOW, _TRIAL, scratch)
        states.rows[_TRIAL, : _LEFT * length] = states.rows[_NOW, : _LEFT * length]
        _evaluate(samples, length, lobes, states, _TRIAL, scratch)
        if states.error[_TRIAL] < states.error[_NOW]:
            _copy(states, _TRIAL, _NOW)
            damping = max(0.3 * damping, 1e-6)
        else:
            damping = min(4.0 * damping, 1e4)


@njit(error_model="numpy")
def _add_lobe(samples, length, lobes, states, scratch):
    """Write one lobe more into set _NOW, which has `lobes`: isotropic, mirrored at the largest residual, of the
    candidate width that reduces it most."""
    rows, peak, most = states.rows[_NOW], 0, _f32(-1)
    for m in range(length):
        red, green, blue = rows[_LEFT * length + m], rows[(_LEFT + 1) * length + m], rows[(_LEFT + 2) * length + m]
        square = red * red + green * green + blue * blue
        if square > most:
            peak, most = m, square
    x, y, z = -samples[peak], -samples[length + peak], samples[2 * length + peak]
    frame = states.frames[_NOW, lobes]
    if z > -1 + 1e-6:  # turned from the z axis by the smallest angle
        over = _f32(1) / (1 + z)
        frame[0, 0], frame[0, 1], frame[0, 2] = 1 - x * x * over, -x * y * over, -x
        frame[1, 0], frame[1, 1], frame[1, 2] = -x * y * over, 1 - y * y * over, -y
    else:
        frame[0, 0], frame[0, 1], frame[0, 2] = 1, 0, 0
        frame[1, 0], frame[1, 1], frame[1, 2] = 0, -1, 0
    frame[2, 0], frame[2, 1], frame[2, 2] = x, y, z
    best = -1.0
    for sharpness in START_SHARPNESS:
        red, green, blue, size = _gains(samples, length, frame[2], _f32(sharpness), rows, scratch.tile)
        gain = (red * red + green * green + blue * blue) / max(size, 1e-12)
        if gain > best:
            best = gain
            width = 0.5 * math.log(sharpness)
            states.shapes[_NOW, lobes, 0], states.shapes[_NOW, lobes, 2] = width, width
    states.shapes[_NOW, lobes, 1] = 0


@njit(error_model="numpy")
def _gains(samples, length, light, sharpness, rows, tile):
    """An isotropic lobe's products with the residual's channels, and with itself."""
    half, zero = fill(_f32(0.5)), fill(_f32(0))
    r, g, b, s = zero, zero, zero, zero
    for at in range(0, length, LANES):
        dx, dy, dz = load(samples, at), load(samples, length + at), load(samples, 2 * length + at)
        x, y, z = half * (dx + fill(light[0])), half * (dy + fill(light[1])), half * (dz + fill(light[2]))
        flat = x * x + y * y
        inverse = fill(_f32(1)) / maximum(flat + z * z, fill(_NEAREST))
        lobe = exp2(flat * inverse * fill(-_LOG2E * sharpness)) * inverse * load(samples, _ROOT * length + at)
        lobe = keep_above(lobe, dz * fill(light[2]), zero)
        r = r + lobe * load(rows, _LEFT * length + at)
        g = g + lobe * load(rows, (_LEFT + 1) * length + at)
        b = b + lobe * load(rows, (_LEFT + 2) * length + at)
        s = s + lobe * lobe
    return _sum(r, tile), _sum(g, tile), _sum(b, tile), _sum(s, tile)


@njit(error_model="numpy")
def _fit_one(samples, length, lobes, states, scratch):
    """The greedy fit of `asg.fit_asgs`; the result is set _NOW."""
    states.rows[_NOW, : _STEEP * length] = samples[_TARGET * length : _BASIS * length]
    states.rows[_NOW, _STEEP * length : _LEFT * length] = _f32(1)
    _evaluate(samples, length, 0, states, _NOW, scratch)
    for k in range(lobes + 1):
        _add_lobe(samples, length, k, states, scratch)
        _evaluate(samples, length, k + 1, states, _NOW, scratch)
        _refine(samples, length, k + 1, states, STEPS, scratch)
    _copy(states, _NOW, _WHOLE)
    states.error[_BEST] = np.inf
    for gone in range(lobes + 1):
        for k in range(lobes):
            states.frames[_NOW, k] = states.frames[_WHOLE, k + int(k >= gone)]
            states.shapes[_NOW, k] = states.shapes[_WHOLE, k + int(k >= gone)]
        states.rows[_NOW] = states.rows[_WHOLE]
        _evaluate(samples, length, lobes, states, _NOW, scratch)
        _refine(samples, length, lobes, states, TRIAL_STEPS, scratch)
        if gone == 0 or states.error[_NOW] < states.error[_BEST]:
            _copy(states, _NOW, _BEST)
    _copy(states, _BEST, _NOW)
    _refine(samples, length, lobes, states, STEPS, scratch)


@njit(nogil=True, cache=True, error_model="numpy")
def _fit(share, shares, directions, targets, weights, turns, smooth, lights, shapes, amplitudes):
    """directions and targets [n,M,3], weights [n,M], turns [n,3,3]; the other arrays, float32, are filled."""
    n, lobes = shapes.shape[:2]
    length = -(-weights.shape[1] // LANES) * LANES
    solved, turning = SMOOTH + lobes + 1, 5 * (lobes + 1)
    count = -(-(solved + turning + 3) // 4) * 4
    samples = np.empty(_SAMPLE_ROWS * length, np.float32)
    states = _States(
        np.zeros((4, lobes + 1, 3, 3), np.float32), np.zeros((4, lobes + 1, 3), np.float32), np.zeros(4),
        np.zeros((4, solved, 3)), np.zeros((4, _STATE_ROWS * length), np.float32),
        np.zeros((4, turning, turning)), np.zeros((4, turning)),
    )  # fmt: skip
    scratch = _Scratch(
        np.zeros(count * length, np.float32), np.zeros((count, count)), np.zeros(count),
        np.zeros((3, solved), np.float32), np.zeros(turning), np.zeros(LANES, np.float32),
    )  # fmt: skip
    for chunk in range(share, (n + CHUNK - 1) // CHUNK, shares):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            _prepare(directions[i], targets[i], weights[i], turns[i], length, samples)
            _fit_one(samples, length, lobes, states, scratch)
            for c in range(3):
                for j in range(SMOOTH):
                    smooth[i, j, c] = states.linear[_NOW, j, c]
                for k in range(lobes):
                    amplitudes[i, k, c] = states.linear[_NOW, SMOOTH + k, c]
                    lights[i, k, c] = states.frames[_NOW, k, 2, c]
            for k in range(lobes):
                shapes[i, k, 0] = math.exp(states.shapes[_NOW, k, 0])
                shapes[i, k, 1] = states.shapes[_NOW, k, 1]
                shapes[i, k, 2] = math.exp(states.shapes[_NOW, k, 2])


def fit_asgs_numba(directions: Tensor, targets: Tensor, weights: Tensor, quats: Tensor, lobes: int = LOBES) -> Asgs:
    """`asg.fit_asgs` for float32 CPU tensors. The same bits for any number of threads."""
    n = len(weights)
    found = [np.empty((n, *shape), np.float32) for shape in ((SMOOTH, 3), (lobes, 3), (lobes, 3), (lobes, 3))]
    tensors = (directions, targets, weights, rotation_matrices(quats))
    share_out(_fit, *(tensor.detach().contiguous().numpy() for tensor in tensors), *found, most=-(-n // CHUNK))
    return Asgs(quats, *map(torch.from_numpy, found))
