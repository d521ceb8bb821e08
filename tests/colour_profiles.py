"""ICC profiles made of primaries and a gamma, and what their colours are in sRGB."""

from __future__ import annotations

import struct

import numpy as np

SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71187, 0.0), (0.03134, 0.00009, 0.82491))
"""XYZ of red, green and blue, relative to D50."""
Primaries = tuple[tuple[float, ...], ...]


def profile(primaries: Primaries | None, gamma: float) -> bytes:
    """An ICC profile of version 2; None: for grey images."""
    xyz = lambda *values: b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(65536 * v)) for v in values)  # noqa: E731
    curve = b"curv" + struct.pack(">IIHxx", 0, 1, round(256 * gamma))
    tags = {b"wtpt": xyz(0.9642, 1.0, 0.8249)}
    for name, values in zip("rgb", primaries or ()):
        tags |= {f"{name}XYZ".encode(): xyz(*values), f"{name}TRC".encode(): curve}
    tags |= {} if primaries else {b"kTRC": curve}
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name, 128 + 4 + 12 * len(tags) + len(data), len(body))
        data += body
    length = 128 + len(table) + len(data)
    space = b"RGB " if primaries else b"GRAY"
    header = struct.pack(">I4xI4s4s4s12x4s", length, 0x02100000, b"mntr", space, b"XYZ ", b"acsp")
    header = header.ljust(68, b"\0") + xyz(0.9642, 1.0, 0.8249)[8:]
    return header.ljust(128, b"\0") + table + data


def in_srgb(pixels: np.ndarray, primaries: Primaries, gamma: float) -> np.ndarray:
    """uint8 [...,3] in that colour space -> float64 [...,3], 0 to 255, in sRGB."""
    linear = (pixels / 255) ** gamma @ np.array(primaries) @ np.linalg.inv(np.array(SRGB))
    linear = linear.clip(0, 1)
    return 255 * np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
