"""Locating the eyes in a detected face."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from specularip.faces.alignment import CROP_PER_BOX, EYE_SPACING, FaceBox, sample_square

# Where the eyes are in the detector's square, in units of its side.
BOX_EYE_Y = 0.36
BOX_EYE_SPACING = CROP_PER_BOX * EYE_SPACING


def refine_eyes(image: np.ndarray, face: FaceBox) -> FaceBox:
    """Move the eyes to the best pair of dark round blobs near their usual place in the box, if there is one.

    A pair counts only if it is level to within 17°, has the usual spacing of eyes and is clearly dark.
    """
    from scipy.ndimage import gaussian_filter, maximum_filter

    n = 64
    corner = face.point(-face.side / 2, -face.side / 2)
    right = face.point(face.side / 2, -face.side / 2)
    patch = sample_square(image, corner, (right[0] - corner[0], right[1] - corner[1]), n)
    grey = patch @ np.array([0.299, 0.587, 0.114])
    # Normalise the illumination.
    grey = (grey - gaussian_filter(grey, n / 4)) / (gaussian_filter(grey, n / 4) + 0.05)
    # Darker than its surroundings at the scale of an eye; the taller surroundings suppress brows.
    blob = gaussian_filter(grey, (5.0, 5.5)) - gaussian_filter(grey, 2.0)
    y, x = np.mgrid[:n, :n] / n + 0.5 / n
    candidates = []
    for expected in (0.5 - BOX_EYE_SPACING / 2, 0.5 + BOX_EYE_SPACING / 2):
        near = np.exp(-(((x - expected) / 0.12) ** 2) - ((y - BOX_EYE_Y - 0.01) / 0.11) ** 2)
        score = np.where((blob == maximum_filter(blob, 5)) & (blob > 0), blob * near, 0.0)
        best = np.argsort(score, axis=None)[-4:]
        candidates.append([(float(score.flat[i]), *_subpixel(blob, int(i) // n, int(i) % n)) for i in best])
    best_pair, best_score = None, 0.0
    for left_score, left_y, left_x in candidates[0]:
        for right_score, right_y, right_x in candidates[1]:
            across, down = (right_x - left_x) / n, (right_y - left_y) / n
            if not (0.30 < across < 0.58 and abs(down) < 0.31 * across):
                continue
            # Both blobs must match, and level heads are likelier than tilted ones.
            score = np.sqrt(left_score * right_score) * np.exp(-((down / across / 0.36) ** 2))
            if score > best_score:
                best_pair, best_score = ((left_x, left_y), (right_x, right_y)), score
    if best_pair is None or best_score < 0.015:
        return face
    left_eye, right_eye = (
        face.point(((x + 0.5) / n - 0.5) * face.side, ((y + 0.5) / n - 0.5) * face.side) for x, y in best_pair
    )
    return replace(face, eyes=(left_eye, right_eye), eyes_found=True)


def _subpixel(values: np.ndarray, row: int, column: int) -> tuple[float, float]:
    """The peak of a parabola through a maximum and its neighbours, per axis."""
    if not (0 < row < values.shape[0] - 1 and 0 < column < values.shape[1] - 1):
        return float(row), float(column)

    def offset(before: float, at: float, after: float) -> float:
        bend = before - 2 * at + after
        return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0

    return (
        row + offset(*values[row - 1 : row + 2, column]),
        column + offset(*values[row, column - 1 : column + 2]),
    )
