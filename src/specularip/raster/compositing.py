"""Alpha compositing of sorted splats, tile by tile, and its gradient: the inner loops.

A tile is 16x16 pixels, stored as 16 blocks of 4x4 pixels; a block is one 16-lane vector, so a small splat
leaves few lanes idle. Front to back, with gsplat's rules: alpha = min(0.999, peak exp(-sigma)), skipped below
1/255, and a pixel stops before the splat that would bring its transmittance to 1e-4 or less.

A *feature* is a colour channel or, the last one, depth. A tile's scratch holds one row of 256 pixels per
feature, block by block, and one more for alpha. A splat's *record* holds everything that compositing reads of
it in as few cache lines as possible: 6 numbers of geometry, then its features.
"""
# numba's stubs show the intrinsics of simd.py with the typing context, which numba supplies.
# mypy: disable-error-code="call-arg, var-annotated"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from specularip.kernels.compiling import cached
from specularip.kernels.simd import (
    any_above,
    columns,
    exp2,
    fill,
    fold1,
    fold2,
    fold4,
    fold8,
    keep_above,
    load,
    lowest_bit,
    minimum,
    prefetch,
    prefetch_write,
    rows,
    store,
)
from specularip.raster.projection import ALPHA_MIN, CHUNK, TILE

LANES = 16
PIXELS = TILE * TILE
GEOMETRY = 6
"""Numbers before the features. In a record: x, y, the three terms of log2(alpha), log2(peak). In a gradient:
the sums of q, q dx, q dy, q dx dx, q dx dy, q dy dy with q = alpha dL/dalpha; the rest follows from them."""

_f32 = np.float32
_ZERO, _ONE, _HALF = _f32(0), _f32(1), _f32(0.5)
_ALPHA_MAX = _f32(0.999)
_DONE = _f32(1e-4)
_LOG2E = _f32(math.log2(math.e))
_LOG2_PEAK_MAX = _f32(64)
_BELOW_ALPHA_MIN = np.nextafter(ALPHA_MIN, _ZERO)
_ABOVE_ALPHA_MAX = np.nextafter(_ALPHA_MAX, _ONE)
_AHEAD = 6


def record_size(channels):
    """Floats of a record, and of a slot's gradient: geometry, colours and depth, padded to whole vectors."""
    return -(-(GEOMETRY + channels + 1) // LANES) * LANES


def aligned(count):
    """An uninitialised float32 array aligned to a cache line."""
    raw = np.empty(count + LANES, np.float32)
    shift = -raw.ctypes.data // 4 % LANES
    return raw[shift : shift + count]


@cached
@njit(nogil=True, error_model="numpy")
def pack(share, shares, means2d, conics, peaks, depths, radii, colors, records):
    """Fill records [B N record_size] from [B,N,2], [B,N,3], [B,N], [B,N], [B,N] and colors [1 or B,N,C]."""
    count, n, channels = len(peaks), peaks.shape[1], colors.shape[2]
    size = len(records) // (count * n)
    for chunk in range(share, (n + CHUNK - 1) // CHUNK, shares):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for b in range(count):
                if radii[b, i] <= 0:
                    continue
                at = (b * n + i) * size
                records[at], records[at + 1] = means2d[b, i, 0] - _HALF, means2d[b, i, 1] - _HALF
                records[at + 2] = conics[b, i, 0] * (_HALF * _LOG2E)
                records[at + 3] = conics[b, i, 1] * _LOG2E
                records[at + 4] = conics[b, i, 2] * (_HALF * _LOG2E)
                records[at + 5] = min(_f32(math.log2(peaks[b, i])), _LOG2_PEAK_MAX)
                for k in range(channels):
                    records[at + GEOMETRY + k] = colors[min(b, len(colors) - 1), i, k]
                records[at + GEOMETRY + channels] = depths[b, i]


@njit(error_model="numpy", forceinline=True)
def _offsets(x, y, block):
    """Pixel minus splat centre for a block, with the centre (x, y) in tile coordinates."""
    dx = columns() + fill(_f32((block & 3) * 4) - x)
    dy = rows() + fill(_f32((block >> 2) * 4) - y)
    return dx, dy


@njit(error_model="numpy", forceinline=True)
def _alpha(records, at, dx, dy):
    """Alpha before it is clamped or skipped."""
    tilt = fill(records[at + 2]) * dx + fill(records[at + 3]) * dy
    return exp2(fill(records[at + 5]) - dx * tilt - fill(records[at + 4]) * dy * dy)


@cached
@njit(error_model="numpy")
def _tile_forward(records, size, features, slots, splats, masks, first, end, left, top, live, through, sums):
    """Composite one tile's list into `sums`; `through` is the transmittance, 0 once a pixel has stopped.

    Clears the mask bits of blocks that turn out untouched, for the backward pass. Returns the position after
    the last slot that touched a pixel.
    """
    floor, cap, done, zero = fill(_BELOW_ALPHA_MIN), fill(_ALPHA_MAX), fill(_DONE), fill(_ZERO)
    useful = first
    for position in range(first, end):
        slot = np.uint64(slots[position])
        bits = np.int64(masks[slot]) & live
        touched = np.int64(0)
        prefetch(records, np.int64(splats[min(position + _AHEAD, end - 1)]) * size)
        at = np.uint64(splats[position]) * np.uint64(size)
        x, y = records[at] - left, records[at + np.uint64(1)] - top
        while bits != 0:
            block = lowest_bit(bits)
            bits &= bits - 1
            dx, dy = _offsets(x, y, block)
            alpha = minimum(_alpha(records, at, dx, dy), cap)
            alpha = keep_above(alpha, alpha, floor)
            before = load(through, block * LANES)
            weight = alpha * before
            if not any_above(weight, zero):
                continue
            # Also where the splat only stops pixels: the backward pass must stop them too.
            touched |= np.int64(1) << block
            after = before - weight
            weight = keep_above(weight, after, done)
            after = keep_above(after, after, done)
            store(through, block * LANES, after)
            if not any_above(after, zero):
                live &= ~(np.int64(1) << block)
            row = block * LANES
            for k in range(features):
                value = fill(records[at + np.uint64(GEOMETRY) + np.uint64(k)])
                store(sums, row, load(sums, row) + weight * value)
                row += PIXELS
            store(sums, row, load(sums, row) + weight)
        masks[slot] = np.uint16(touched)
        if touched != 0:
            useful = position + 1
    return useful


@njit(error_model="numpy", forceinline=True)
def _start(width, height, left, top, through):
    """Transmittance 1 inside the image, 0 outside. Returns the mask of blocks that overlap the image."""
    live = np.int64(0)
    for at in range(PIXELS):
        block, lane = at // LANES, at % LANES
        inside = left + block % 4 * 4 + lane % 4 < width and top + block // 4 * 4 + lane // 4 < height
        through[at] = _ONE if inside else _ZERO
        if inside:
            live |= np.int64(1) << block
    return live


@njit(error_model="numpy", forceinline=True)
def _place(x, y):
    """Index of a tile's pixel (x, y) in a row of the scratch."""
    return ((y // 4) * 4 + x // 4) * LANES + y % 4 * 4 + x % 4


@cached
@njit(nogil=True, error_model="numpy")
def composite(share, shares, records, size, background, slots, splats, masks, tiles, starts, ends,
                     image, alpha, depth):  # fmt: skip
    """Composite the listed `tiles` (numbered camera by camera, row by row).

    background [B,C]; slots and splats [pairs], of which tile t owns starts[t] to ends[t]; image [B,H,W,C],
    alpha and depth [B,H,W,1]. Trims masks and ends to what contributed, for `composite_backward`.
    """
    _, height, width, channels = image.shape
    tiles_x, tiles_y = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    through = np.empty(PIXELS, np.float32)
    sums = np.empty((channels + 2) * PIXELS, np.float32)
    for entry in range(share, len(tiles), shares):
        tile = tiles[entry]
        b = tile // (tiles_x * tiles_y)
        top = (tile // tiles_x) % tiles_y * TILE
        left = tile % tiles_x * TILE
        if starts[tile] == ends[tile]:
            for y in range(top, min(top + TILE, height)):
                for x in range(left, min(left + TILE, width)):
                    for k in range(channels):
                        image[b, y, x, k] = background[b, k]
                    alpha[b, y, x, 0] = depth[b, y, x, 0] = _ZERO
            continue
        live = _start(width, height, left, top, through)
        sums[:] = _ZERO
        ends[tile] = _tile_forward(
            records, size, channels + 1, slots, splats, masks, starts[tile], ends[tile],
            _f32(left), _f32(top), live, through, sums,
        )  # fmt: skip
        for y in range(top, min(top + TILE, height)):
            for x in range(left, min(left + TILE, width)):
                at = _place(x - left, y - top)
                covered = sums[(channels + 1) * PIXELS + at]
                for k in range(channels):
                    image[b, y, x, k] = sums[k * PIXELS + at] + (_ONE - covered) * background[b, k]
                alpha[b, y, x, 0] = covered
                depth[b, y, x, 0] = sums[channels * PIXELS + at] / max(covered, _f32(1e-10))


@njit(error_model="numpy", forceinline=True)
def _half_tree(partial, at):
    """Half of the pairwise reduction of 16 rows of 16 lanes to one vector of row sums."""
    a = fold8(load(partial, at), load(partial, at + 16))
    b = fold8(load(partial, at + 32), load(partial, at + 48))
    c = fold8(load(partial, at + 64), load(partial, at + 80))
    d = fold8(load(partial, at + 96), load(partial, at + 112))
    return fold2(fold4(a, b), fold4(c, d))


@cached
@njit(error_model="numpy")
def _tile_backward(
    records,
    size,
    features,
    slots,
    splats,
    masks,
    first,
    end,
    left,
    top,
    through,
    upstream,
    behind,
    partial,
    gradients,
):
    """Traverse one tile's list again, near to far, and write each slot's sums to `gradients`.

    upstream: d loss / d (sum of weight times feature), one row per feature, then the same for alpha. behind:
    the sum of weight times (upstream . features) over the splats behind the current one. It starts as the sum
    over all splats, which follows from the image, so that a single front-to-back pass is enough.
    """
    floor, cap, done = fill(_BELOW_ALPHA_MIN), fill(_ALPHA_MAX), fill(_DONE)
    over_cap, zero, one = fill(_ABOVE_ALPHA_MAX), fill(_ZERO), fill(_ONE)
    for position in range(first, end):
        slot = np.uint64(slots[position])
        bits = np.int64(masks[slot])
        ahead = min(position + _AHEAD, end - 1)
        prefetch(records, np.int64(splats[ahead]) * size)
        prefetch_write(gradients, np.int64(slots[ahead]) * size)
        if bits == 0:
            continue
        at = np.uint64(splats[position]) * np.uint64(size)
        x, y = records[at] - left, records[at + np.uint64(1)] - top
        m0, m1, m2, m3, m4, m5 = zero, zero, zero, zero, zero, zero
        for k in range(features):
            store(partial, (GEOMETRY + k) * LANES, zero)
        while bits != 0:
            block = lowest_bit(bits)
            bits &= bits - 1
            dx, dy = _offsets(x, y, block)
            raw = _alpha(records, at, dx, dy)
            alpha = minimum(raw, cap)
            alpha = keep_above(alpha, alpha, floor)
            before = load(through, block * LANES)
            weight = alpha * before
            after = before - weight
            weight = keep_above(weight, after, done)
            store(through, block * LANES, keep_above(after, after, done))
            row, line = block * LANES, GEOMETRY * LANES
            slope = load(upstream, features * PIXELS + row)
            for k in range(features):
                wanted = load(upstream, row)
                slope = slope + wanted * fill(records[at + np.uint64(GEOMETRY) + np.uint64(k)])
                store(partial, line, load(partial, line) + weight * wanted)
                row += PIXELS
                line += LANES
            rest = load(behind, block * LANES) - weight * slope
            store(behind, block * LANES, rest)
            # q = alpha dL/dalpha, 0 where the splat was skipped or its alpha clamped.
            q = weight * slope - alpha * rest / (one - alpha)
            q = keep_above(keep_above(q, weight, zero), over_cap, raw)
            qx, qy = q * dx, q * dy
            m0, m1, m2 = m0 + q, m1 + qx, m2 + qy
            m3, m4, m5 = m3 + qx * dx, m4 + qx * dy, m5 + qy * dy
        store(partial, 0, m0)
        store(partial, LANES, m1)
        store(partial, 2 * LANES, m2)
        store(partial, 3 * LANES, m3)
        store(partial, 4 * LANES, m4)
        store(partial, 5 * LANES, m5)
        for part in range(0, size, LANES):
            sums = fold1(_half_tree(partial, part * LANES), _half_tree(partial, (part + 8) * LANES))
            store(gradients, np.int64(slot) * size + part, sums)


@cached
@njit(nogil=True, error_model="numpy")
def composite_backward(share, shares, records, size, background, slots, splats, masks, tiles, starts, ends,
                              image, alpha, depth, g_image, g_alpha, g_depth, gradients):  # fmt: skip
    """Fill gradients [slots size] where the slot's mask is not 0: GEOMETRY sums, then d loss / d features."""
    _, height, width, channels = image.shape
    tiles_x, tiles_y = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    through = np.empty(PIXELS, np.float32)
    behind = np.empty(PIXELS, np.float32)
    upstream = np.empty((channels + 2) * PIXELS, np.float32)
    partial = np.zeros(size * LANES, np.float32)
    for entry in range(share, len(tiles), shares):
        tile = tiles[entry]
        b = tile // (tiles_x * tiles_y)
        top = (tile // tiles_x) % tiles_y * TILE
        left = tile % tiles_x * TILE
        if starts[tile] == ends[tile]:
            continue
        _start(width, height, left, top, through)
        behind[:] = _ZERO
        upstream[:] = _ZERO
        for y in range(top, min(top + TILE, height)):
            for x in range(left, min(left + TILE, width)):
                at = _place(x - left, y - top)
                covered = alpha[b, y, x, 0]
                # image = sum + (1 - alpha) background and depth = sum / alpha. In the total of weight times
                # slope, depth cancels: scaling all weights together does not change it.
                g_covered = g_alpha[b, y, x, 0]
                total = g_covered * covered
                for k in range(channels):
                    g = g_image[b, y, x, k]
                    upstream[k * PIXELS + at] = g
                    g_covered -= g * background[b, k]
                    total += g * (image[b, y, x, k] - background[b, k])
                g_sum = g_depth[b, y, x, 0] / max(covered, _f32(1e-10))
                upstream[channels * PIXELS + at] = g_sum
                upstream[(channels + 1) * PIXELS + at] = g_covered - g_sum * depth[b, y, x, 0]
                behind[at] = total
        _tile_backward(records, size, channels + 1, slots, splats, masks, starts[tile], ends[tile],
                       _f32(left), _f32(top), through, upstream, behind, partial, gradients)  # fmt: skip


@cached
@njit(nogil=True, error_model="numpy")
def gather(share, shares, conics, peaks, starts, masks, gradients, size,
                  g_means2d, g_conics, g_peaks, g_depths, g_colors):  # fmt: skip
    """Sum each splat's slots, in a fixed order, into the gradients of the inputs of `pack`."""
    count, n, channels = len(peaks), peaks.shape[1], g_colors.shape[2]
    sums = np.empty(size, np.float32)
    for chunk in range(share, (n + CHUNK - 1) // CHUNK, shares):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for k in range(channels):
                for b in range(len(g_colors)):
                    g_colors[b, i, k] = _ZERO
            for b in range(count):
                sums[:] = _ZERO
                for slot in range(starts[b * n + i], starts[b * n + i + 1]):
                    if masks[slot] != 0:
                        for k in range(0, size, LANES):
                            store(sums, k, load(sums, k) + load(gradients, slot * size + k))
                a, h, c = conics[b, i, 0], conics[b, i, 1], conics[b, i, 2]
                g_means2d[b, i, 0] = a * sums[1] + h * sums[2]
                g_means2d[b, i, 1] = h * sums[1] + c * sums[2]
                g_conics[b, i, 0] = -_HALF * sums[3]
                g_conics[b, i, 1] = -sums[4]
                g_conics[b, i, 2] = -_HALF * sums[5]
                g_peaks[b, i] = sums[0] / peaks[b, i] if peaks[b, i] > _ZERO else _ZERO
                for k in range(channels):
                    g_colors[min(b, len(g_colors) - 1), i, k] += sums[GEOMETRY + k]
                g_depths[b, i] = sums[GEOMETRY + channels]
