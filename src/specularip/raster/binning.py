"""Which splats touch which tile, in depth order, down to the 4x4 blocks of pixels inside the tile.

A *slot* is one (splat, tile) pair; slots are numbered camera by camera, splat by splat, so that everything a
splat gathers from its tiles lies side by side. A tile's list holds slots from near to far. A slot's mask has
one bit for each of the tile's 16 blocks that the ellipse alpha >= 1/255 can reach.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from specularip.raster.projection import CHUNK, TILE

_f32 = np.float32


@njit(cache=True, error_model="numpy")
def count_slots(boxes, starts):
    """boxes [M,4] -> starts [M+1] int64, the first slot of each splat."""
    starts[0] = 0
    for s in range(len(boxes)):
        across, down = boxes[s, 1] - boxes[s, 0], boxes[s, 3] - boxes[s, 2]
        starts[s + 1] = starts[s] + np.int64(across) * np.int64(down)


@njit(nogil=True, cache=True, error_model="numpy")
def cover(share, shares, means2d, conics, extents, boxes, starts, width, height, masks):
    """Fill masks [slots] uint16. The first four arrays are [M,2], [M,3], [M,2] and [M,4]."""
    for chunk in range(share, (len(boxes) + CHUNK - 1) // CHUNK, shares):
        for s in range(chunk * CHUNK, min(len(boxes), (chunk + 1) * CHUNK)):
            first, end = starts[s], starts[s + 1]
            if first == end:
                continue
            for slot in range(first, end):
                masks[slot] = 0
            x, y, rx, ry = means2d[s, 0], means2d[s, 1], extents[s, 0], extents[s, 1]
            x0, x1, y0, y1 = boxes[s, 0], boxes[s, 1], boxes[s, 2], boxes[s, 3]
            # Seen along y, the ellipse's right rim is a concave curve with its peak at y = widest; so over a
            # band of rows it reaches furthest where `widest` clips to the band. The left rim mirrors it.
            slope = -conics[s, 1] / conics[s, 0]
            widest = slope * ry * ry / rx
            core = math.sqrt(max(rx * rx - slope * slope * ry * ry, _f32(0)))
            slack = _f32(1e-3) * rx + _f32(0.01)
            row_first = int(max(np.ceil(y - ry - _f32(0.5)), _f32(y0 * TILE)))
            row_last = int(min(np.floor(y + ry - _f32(0.5)), _f32(min(y1 * TILE, height) - 1)))
            for band in range(row_first // 4, row_last // 4 + 1):
                top = max(_f32(max(band * 4, row_first)) + _f32(0.5) - y, -ry)
                bottom = min(_f32(min(band * 4 + 3, row_last)) + _f32(0.5) - y, ry)
                right_at = min(max(widest, top), bottom)
                left_at = min(max(-widest, top), bottom)
                right_half = core * math.sqrt(max(_f32(1) - (right_at / ry) ** 2, _f32(0)))
                left_half = core * math.sqrt(max(_f32(1) - (left_at / ry) ** 2, _f32(0)))
                right = min(x + slope * right_at + right_half + slack - _f32(0.5), _f32(x1 * TILE - 1))
                left = max(x + slope * left_at - left_half - slack - _f32(0.5), _f32(x0 * TILE))
                if not left <= right:
                    continue
                column_first, column_last = int(np.ceil(left)), min(int(np.floor(right)), width - 1)
                if column_first > column_last:
                    continue
                block_first, block_last = column_first // 4, column_last // 4
                slot = first + (band // 4 - y0) * (x1 - x0)
                for tile in range(block_first // 4, block_last // 4 + 1):
                    low, high = max(block_first - tile * 4, 0), min(block_last - tile * 4, 3)
                    bits = ((1 << (high + 1)) - (1 << low)) << ((band % 4) * 4)
                    masks[slot + tile - x0] |= np.uint16(bits)


@njit(nogil=True, cache=True, error_model="numpy")
def count_tiles(share, shares, boxes, starts, masks, tiles_x, counts):
    """boxes [B,N,4] -> counts [B,tiles] int64, the length of each tile's list."""
    n = boxes.shape[1]
    for b in range(share, len(boxes), shares):
        for i in range(n):
            slot = starts[b * n + i]
            if slot == starts[b * n + i + 1]:
                continue
            for ty in range(boxes[b, i, 2], boxes[b, i, 3]):
                for tx in range(boxes[b, i, 0], boxes[b, i, 1]):
                    if masks[slot] != 0:
                        counts[b, ty * tiles_x + tx] += 1
                    slot += 1


@njit(nogil=True, cache=True, error_model="numpy")
def fill_tiles(share, shares, depths, boxes, starts, masks, tiles_x, cursors, slots, splats):
    """Write each tile's list, near to far: slots and splats [pairs] int32; cursors [B,tiles] is used up."""
    n = boxes.shape[1]
    for b in range(share, len(boxes), shares):
        order = _near_to_far(depths[b], starts[b * n : (b + 1) * n + 1])
        for position in range(len(order)):
            i = order[position]
            slot = starts[b * n + i]
            for ty in range(boxes[b, i, 2], boxes[b, i, 3]):
                for tx in range(boxes[b, i, 0], boxes[b, i, 1]):
                    if masks[slot] != 0:
                        at = cursors[b, ty * tiles_x + tx]
                        slots[at], splats[at] = slot, b * n + i
                        cursors[b, ty * tiles_x + tx] = at + 1
                    slot += 1


@njit(cache=True, error_model="numpy")
def _near_to_far(depths, starts):
    """Indices of the splats that have slots, by depth, ties by index: a radix sort of the float's bits.

    Depths are positive, and positive floats sort like their bits.
    """
    used = 0
    order = np.empty(len(depths), np.int32)
    for i in range(len(depths)):
        if starts[i] != starts[i + 1]:
            order[used] = i
            used += 1
    order = order[:used]
    keys, other = depths.view(np.uint32)[order], np.empty(used, np.int32)
    other_keys = np.empty(used, np.uint32)
    for shift in (0, 11, 22):
        histogram = np.zeros(2049, np.int64)
        for j in range(used):
            histogram[((keys[j] >> np.uint32(shift)) & np.uint32(2047)) + 1] += 1
        for j in range(2048):
            histogram[j + 1] += histogram[j]
        for j in range(used):
            digit = (keys[j] >> np.uint32(shift)) & np.uint32(2047)
            at = histogram[digit]
            histogram[digit] = at + 1
            other[at], other_keys[at] = order[j], keys[j]
        order, other = other, order
        keys, other_keys = other_keys, keys
    return order
