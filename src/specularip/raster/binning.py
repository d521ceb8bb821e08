"""Binning: for each tile its splats in depth order, and for each the 4x4 blocks of pixels that it may touch.

A *slot* is one (splat, tile) pair. Slots are numbered camera by camera, splat by splat, so that the gradients
that a splat gathers from its tiles are contiguous. A tile's list holds slots from near to far. A slot's mask
has one bit for each of the tile's 16 blocks that the ellipse alpha >= 1/255 can reach.

The lists come from two counting sorts, parallel over *chunks* of splats: first the splats by depth, then, in
that order, their slots by tile. Each chunk counts its own keys; a prefix sum over chunks gives it its own
output range. No two threads write to the same place, and the order does not depend on the number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from specularip.kernels.compiling import cached
from specularip.kernels.threads import share_out
from specularip.raster.projection import CHUNK, TILE

DIGIT = 12
"""Bits of the depth per radix sort pass: its 4,096 counters fit the L1 cache."""
SORT_CHUNK = 8192

_f32 = np.float32


@dataclass(frozen=True)
class TileLists:
    """starts [B N + 1] int64: splat s owns the slots starts[s] to starts[s + 1]. masks [slots] uint16.

    slots and splats [pairs] int32, splats numbered b N + i; tile t, numbered camera by camera and row by row,
    owns the pairs firsts[t] to ends[t], int64, near to far. tiles: all tiles, the longest list first.
    """

    starts: np.ndarray
    masks: np.ndarray
    slots: np.ndarray
    splats: np.ndarray
    firsts: np.ndarray
    ends: np.ndarray
    tiles: np.ndarray


def list_tiles(means2d, conics, depths, extents, boxes, width: int, height: int) -> TileLists:
    """Sort the output of `projection.project` into tiles. Raises ValueError for more slots than int32 can
    count."""
    count, n = depths.shape
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    flat = [array.reshape(count * n, -1) for array in (means2d, conics, extents, boxes)]
    starts = np.empty(count * n + 1, np.int64)
    _count_slots(flat[3], starts)
    if starts[-1] >= 2**31:
        raise ValueError(
            "scales are so large that the splats cover more than 2^31 tiles; render fewer cameras"
        )
    masks, owners = np.empty(starts[-1], np.uint16), np.empty(starts[-1], np.int32)
    share_out(_cover, *flat, starts, width, height, masks, owners)
    order, chunks = _near_to_far(depths, starts, tiles_x * tiles_y)
    listing = (order, chunks.bounds, starts, owners)
    counts = np.empty((len(chunks), tiles_x * tiles_y), np.int32)
    share_out(_count_tiles, *listing, counts, most=len(chunks))
    firsts, ends = (np.empty(count * tiles_x * tiles_y, np.int64) for _ in range(2))
    _to_offsets(counts, chunks.cameras, firsts, ends)
    slots, splats = np.empty(ends[-1], np.int32), np.empty(ends[-1], np.int32)
    share_out(_fill_tiles, *listing, n, counts, firsts, slots, splats, most=len(chunks))
    # Distributed round-robin, longest first, the shares of compositing take about equally long.
    tiles = np.argsort(firsts - ends, kind="stable")
    return TileLists(starts, masks, slots, splats, firsts, ends, tiles)


@cached
@njit(error_model="numpy")
def _count_slots(boxes, starts):
    """boxes [M,4] -> starts [M+1] int64, the first slot of each splat."""
    starts[0] = 0
    for s in range(len(boxes)):
        across, down = boxes[s, 1] - boxes[s, 0], boxes[s, 3] - boxes[s, 2]
        starts[s + 1] = starts[s] + np.int64(across) * np.int64(down)


@cached
@njit(nogil=True, error_model="numpy")
def _cover(share, shares, means2d, conics, extents, boxes, starts, width, height, masks, owners):
    """Fill masks [slots] uint16 and owners [slots] int32, the tile within its camera, -1 where the mask is 0.

    The first four arrays are [M,2], [M,3], [M,2] and [M,4].
    """
    tiles_x = (width + TILE - 1) // TILE
    for chunk in range(share, (len(boxes) + CHUNK - 1) // CHUNK, shares):
        for s in range(chunk * CHUNK, min(len(boxes), (chunk + 1) * CHUNK)):
            first, end = starts[s], starts[s + 1]
            if first == end:
                continue
            for slot in range(first, end):
                masks[slot] = 0
            x, y, rx, ry = means2d[s, 0], means2d[s, 1], extents[s, 0], extents[s, 1]
            x0, x1, y0, y1 = boxes[s, 0], boxes[s, 1], boxes[s, 2], boxes[s, 3]
            # As a function of y, the ellipse's right edge is concave with its maximum at y = widest; so over
            # a band of rows it is furthest right at `widest` clamped to the band. The left edge mirrors it.
            slope = -conics[s, 1] / conics[s, 0]
            widest = slope * ry * ry / rx
            core = math.sqrt(max(rx * rx - slope * slope * ry * ry, _f32(0)))
            slack = _f32(1e-3) * rx + _f32(0.01)
            per_ry = _f32(1) / ry
            row_first = int(max(np.ceil(y - ry - _f32(0.5)), _f32(y0 * TILE)))
            row_last = int(min(np.floor(y + ry - _f32(0.5)), _f32(min(y1 * TILE, height) - 1)))
            for band in range(row_first // 4, row_last // 4 + 1):
                top = max(_f32(max(band * 4, row_first)) + _f32(0.5) - y, -ry)
                bottom = min(_f32(min(band * 4 + 3, row_last)) + _f32(0.5) - y, ry)
                right_at = min(max(widest, top), bottom)
                left_at = min(max(-widest, top), bottom)
                right_half = core * math.sqrt(max(_f32(1) - (right_at * per_ry) ** 2, _f32(0)))
                left_half = core * math.sqrt(max(_f32(1) - (left_at * per_ry) ** 2, _f32(0)))
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
            slot = first
            for ty in range(y0, y1):
                for tx in range(x0, x1):
                    owners[slot] = ty * tiles_x + tx if masks[slot] != 0 else -1
                    slot += 1


@dataclass(frozen=True)
class _Chunks:
    """Runs of splats, each one work item; none contains splats of two cameras.

    bounds [chunks+1] int64; the chunks of camera b are cameras[b] to cameras[b + 1], int64.
    """

    bounds: np.ndarray
    cameras: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1


def _chunks_of(firsts: np.ndarray, length: int) -> _Chunks:
    """Split the runs that begin at firsts [B+1] into chunks of at most `length`."""
    pieces = -(-np.diff(firsts) // length)
    cameras = np.concatenate(([0], np.cumsum(pieces)))
    bounds = [np.minimum(first + length * np.arange(count), end)
              for first, end, count in zip(firsts, firsts[1:], pieces)]  # fmt: skip
    return _Chunks(np.concatenate([*bounds, firsts[-1:]]), cameras)


def _near_to_far(depths: np.ndarray, starts: np.ndarray, tiles: int) -> tuple[np.ndarray, _Chunks]:
    """The splats that have slots, camera by camera, by depth, ties by index: numbers [M] int32, and chunks.

    depths [B,N]; starts [B N + 1] from `_count_slots`. A radix sort of the float's bits: depths are positive,
    and positive floats sort like their bits.
    """
    count, n = depths.shape
    splats = np.flatnonzero(starts[1:] != starts[:-1]).astype(np.int32)
    # The count table has a row per chunk and a column per tile: chunks no shorter than a row keep it linear.
    chunks = _chunks_of(np.searchsorted(splats, n * np.arange(count + 1)), max(SORT_CHUNK, tiles))
    if not len(splats):
        return splats, chunks
    keys = depths.reshape(-1).view(np.uint32)[splats]
    keys -= keys.min()
    other_splats, other_keys = np.empty_like(splats), np.empty_like(keys)
    places = np.empty((len(chunks), 1 << DIGIT), np.int32)
    for shift in range(0, int(keys.max()).bit_length(), DIGIT):
        share_out(_count_digits, keys, shift, chunks.bounds, places, most=len(chunks))
        _to_places(places, chunks.bounds, chunks.cameras)
        share_out(
            _move, splats, keys, shift, chunks.bounds, places, other_splats, other_keys, most=len(chunks)
        )
        splats, other_splats = other_splats, splats
        keys, other_keys = other_keys, keys
    return splats, chunks


@cached
@njit(nogil=True, error_model="numpy")
def _count_digits(share, shares, keys, shift, bounds, counts):
    for chunk in range(share, len(counts), shares):
        counts[chunk] = 0
        for j in range(bounds[chunk], bounds[chunk + 1]):
            counts[chunk, (keys[j] >> np.uint32(shift)) & np.uint32((1 << DIGIT) - 1)] += 1


@cached
@njit(error_model="numpy")
def _to_places(counts, bounds, cameras):
    """Turn counts [chunks, digits] into the position where each chunk writes its first splat of each
    digit."""
    for b in range(len(cameras) - 1):
        place = bounds[cameras[b]]
        for digit in range(counts.shape[1]):
            for chunk in range(cameras[b], cameras[b + 1]):
                place, counts[chunk, digit] = place + counts[chunk, digit], place


@cached
@njit(nogil=True, error_model="numpy")
def _move(share, shares, splats, keys, shift, bounds, places, to_splats, to_keys):
    for chunk in range(share, len(places), shares):
        for j in range(bounds[chunk], bounds[chunk + 1]):
            digit = (keys[j] >> np.uint32(shift)) & np.uint32((1 << DIGIT) - 1)
            at = places[chunk, digit]
            places[chunk, digit] = at + 1
            to_splats[at], to_keys[at] = splats[j], keys[j]


@cached
@njit(nogil=True, error_model="numpy")
def _count_tiles(share, shares, order, bounds, starts, owners, counts):
    """counts [chunks,tiles] int32: how many slots each chunk of `order` adds to each tile."""
    for chunk in range(share, len(counts), shares):
        counts[chunk] = 0
        for position in range(bounds[chunk], bounds[chunk + 1]):
            s = order[position]
            for slot in range(starts[s], starts[s + 1]):
                if owners[slot] >= 0:
                    counts[chunk, owners[slot]] += 1


@cached
@njit(error_model="numpy")
def _to_offsets(counts, cameras, firsts, ends):
    """Prefix sums: firsts and ends [B tiles] int64 of the tiles' lists, and each chunk's offset within them.

    counts [chunks,tiles] becomes the number of slots that earlier chunks add to that tile.
    """
    tiles = counts.shape[1]
    total = 0
    for b in range(len(cameras) - 1):
        lengths = ends[b * tiles : (b + 1) * tiles]
        lengths[:] = 0
        for chunk in range(cameras[b], cameras[b + 1]):
            for tile in range(tiles):
                before = lengths[tile]
                lengths[tile] = before + counts[chunk, tile]
                counts[chunk, tile] = before
        for tile in range(tiles):
            firsts[b * tiles + tile] = total
            total += lengths[tile]
            lengths[tile] = total


@cached
@njit(nogil=True, error_model="numpy")
def _fill_tiles(share, shares, order, bounds, starts, owners, per_camera, counts, firsts, slots, splats):
    """Write each tile's list, near to far: slots and splats [pairs] int32. Overwrites `counts` of
    `_to_offsets`.

    per_camera: splats per camera.
    """
    tiles = counts.shape[1]
    for chunk in range(share, len(counts), shares):
        camera = order[bounds[chunk]] // per_camera
        for position in range(bounds[chunk], bounds[chunk + 1]):
            s = order[position]
            for slot in range(starts[s], starts[s + 1]):
                tile = owners[slot]
                if tile >= 0:
                    at = firsts[camera * tiles + tile] + counts[chunk, tile]
                    counts[chunk, tile] += 1
                    slots[at], splats[at] = slot, s
