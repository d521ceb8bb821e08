"""What about a photo of a face spoils the likeness."""

from __future__ import annotations

import numpy as np

from specularip.faces.landmarks import Landmarks

GREY_SATURATION = 0.06
"""Median over the face of (largest - smallest channel) / largest. Skin of all tones has 0.2 to 0.6, that of
a colour photo faded to a quarter 0.08, a black-and-white photo 0 to 0.01."""


def is_grey(pixels: np.ndarray, face: Landmarks) -> bool:
    """Whether the face has hardly any colour: a black-and-white photo, a drawing or a statue.

    pixels: uint8 [H,W,3]. Photos toned brown have colour.
    """
    low = np.clip(face.points[:, :2].min(0).astype(int), 0, np.array(pixels.shape[1::-1]) - 1)
    high = face.points[:, :2].max(0).astype(int) + 1
    crop = pixels[low[1] : max(high[1], low[1] + 1), low[0] : max(high[0], low[0] + 1)].astype(np.float32)
    brightest = np.maximum(crop.max(-1), 16)  # the noise of black pixels is no colour
    return float(np.median(np.ptp(crop, axis=-1) / brightest)) < GREY_SATURATION
