"""Vector quantisation for files: numbers as indices of a codebook, rows as indices of a palette."""

from __future__ import annotations

import numpy as np

CODES = 256
"""Numbers in a codebook: an index is a byte."""
LLOYD_STEPS = 15
BLOCK = 2**22
"""Distances that are in memory at the same time."""


def codebook(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CODES float32 numbers that stand for values [...], ascending, and the nearest one's index [...], uint8.

    One-dimensional k-means (Lloyd, 1982). It starts from quantiles on one half and even steps on the other,
    so that rare extreme values are not lost among many small ones.
    """
    ordered = np.sort(values.reshape(-1).astype(np.float64))
    quantiles = ordered[np.linspace(0, len(ordered) - 1, CODES // 2).round().astype(int)]
    codes = np.sort(np.concatenate([quantiles, np.linspace(ordered[0], ordered[-1], CODES // 2)]))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(LLOYD_STEPS):
        ends = np.searchsorted(ordered, (codes[1:] + codes[:-1]) / 2)
        ends = np.concatenate([[0], ends, [len(ordered)]])
        sizes = np.diff(ends)
        codes = np.sort(np.where(sizes > 0, np.diff(sums[ends]) / np.maximum(sizes, 1), codes))
    codes = codes.astype(np.float32)
    middles = (codes[1:] + codes[:-1]) / 2
    return codes, np.searchsorted(middles, values.astype(np.float32)).astype(np.uint8)


def palette(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `count` rows [K,D] that stand for rows [N,D], float32, and the index [N] of each, int64.

    Cells are divided, those with the largest squared error first, at their mean along the axis in which they
    vary most; axes are the principal ones of all rows. Deterministic, and of the order of N·D·log K.
    """
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    axes = np.linalg.eigh(centred.T @ centred)[1]
    turned = centred @ axes
    squared = np.square(turned)
    labels = np.zeros(len(rows), np.int64)
    cells = 1
    while True:
        sizes = np.bincount(labels, minlength=cells)
        means = _sums(labels, turned, cells) / sizes[:, None]
        errors = np.maximum(_sums(labels, squared, cells) - sizes[:, None] * np.square(means), 0)
        total = errors.sum(1)
        largest = np.argsort(-total, kind="stable")[: min(count - cells, cells // 2 + 1)]
        largest = largest[total[largest] > 1e-9 * (1e-9 + squared[:, -1].max())]
        new = np.full(cells, -1)
        new[largest] = cells + np.arange(len(largest))
        axis = errors.argmax(1)
        upper = turned[np.arange(len(rows)), axis[labels]] > means[labels, axis[labels]]
        moved = upper & (new[labels] >= 0)
        found = np.unique(labels[moved])  # cells whose rows differ by rounding alone do not divide
        if len(found) == 0:
            break
        new[found] = cells + np.arange(len(found))
        labels[moved] = new[labels[moved]]
        cells += len(found)
    entries = _sums(labels, rows.astype(np.float64), cells) / np.bincount(labels)[:, None]
    return entries.astype(np.float32), labels


def _sums(labels: np.ndarray, rows: np.ndarray, cells: int) -> np.ndarray:
    """The sum of each cell's rows, [cells,D]."""
    return np.stack([np.bincount(labels, column, cells) for column in rows.T], 1)
