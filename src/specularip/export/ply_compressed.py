"""The compressed PLY of PlayCanvas and SuperSplat: 16 bytes a Gaussian.

The element `chunk` has a row for every 256 Gaussians, with the limits of their positions, logarithms of
scales and, in newer files, colours. `vertex` has four uint32 a Gaussian: position and scale between those
limits (11, 10 and 11 bits), rotation (two bits for the largest of w, x, y, z, and ten for each other one,
between ±√½), colour and opacity (8 bits each). `sh`, if there is one, has a byte for each f_rest.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from specularip.colors.harmonics import SH_0
from specularip.errors import UserError
from specularip.export.splats import Splats, splats_from

CHUNK = 256
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
HARMONICS_RANGE = 8.0
"""Width of the interval around 0 that a byte of `sh` covers."""


def is_compressed(elements: dict[str, np.ndarray]) -> bool:
    """Whether these tables of a PLY (see `read_elements`) are of this layout."""
    vertices = elements.get("vertex")
    return "chunk" in elements and vertices is not None and PACKED[0] in (vertices.dtype.names or ())


def read_compressed(elements: dict[str, np.ndarray]) -> Splats:
    """The Gaussians of such tables. Raises UserError for tables that contradict each other."""
    vertices, chunks = elements["vertex"], elements["chunk"]
    count = len(vertices)
    missing = [name for name in PACKED if name not in (vertices.dtype.names or ())]
    missing += [name for name in _limits("", "scale_") if name not in (chunks.dtype.names or ())]
    if missing:
        raise UserError(f"it is no compressed PLY: it has no {', '.join(missing)}")
    if count < 1 or len(chunks) != -(-count // CHUNK):
        raise UserError(f"it has {len(chunks)} chunks for {count} Gaussians, and needs one for every {CHUNK}")
    position, rotation, scale, color = (
        vertices[name].astype(np.uint32) if vertices.dtype[name].kind == "u" else _refuse(name)
        for name in PACKED
    )
    chunk = np.arange(count) // CHUNK

    def between(prefix: str, parts: np.ndarray, axes: str = "xyz") -> Tensor:
        low, high = (
            np.stack([chunks[f"{side}_{prefix}{axis}"].astype(np.float32) for axis in axes], -1)[chunk]
            for side in ("min", "max")
        )
        with np.errstate(all="ignore"):  # NaN and infinity are left out later
            return torch.from_numpy(low * (1 - parts) + high * parts)

    rgba = _fields(color, (24, 16, 8, 0), (8, 8, 8, 8))
    rgb = torch.from_numpy(np.ascontiguousarray(rgba[:, :3]))
    if "min_r" in (chunks.dtype.names or ()):
        if missing := [name for name in _limits("", axes="rgb") if name not in (chunks.dtype.names or ())]:
            raise UserError(f"it is no compressed PLY: it has no {', '.join(missing)}")
        rgb = between("", rgba[:, :3], "rgb")
    coefficients = ((rgb - 0.5) / SH_0)[:, None]
    if "sh" in elements:
        coefficients = torch.cat([coefficients, _harmonics(elements["sh"], count)], 1)
    return splats_from(
        between("", _fields(position, (21, 11, 0), (11, 10, 11))),
        _quats(rotation),
        between("scale_", _fields(scale, (21, 11, 0), (11, 10, 11))),
        torch.logit(torch.from_numpy(np.ascontiguousarray(rgba[:, 3])), eps=1e-3),
        coefficients,
    )


def _limits(*prefixes: str, axes: str = "xyz") -> list[str]:
    return [f"{side}_{prefix}{axis}" for prefix in prefixes for side in ("min", "max") for axis in axes]


def _refuse(name: str) -> np.ndarray:
    raise UserError(f"it is no compressed PLY: {name} is not of an unsigned type")


def _fields(packed: np.ndarray, shifts: tuple[int, ...], bits: tuple[int, ...]) -> np.ndarray:
    """Numbers in 0..1, float32 [N,K], from the bits of uint32 [N]."""
    parts = [
        (packed >> shift & (1 << width) - 1) / np.float32((1 << width) - 1)
        for shift, width in zip(shifts, bits)
    ]
    return np.stack(parts, -1).astype(np.float32)


def _quats(packed: np.ndarray) -> Tensor:
    """Unit quaternions [N,4] wxyz."""
    others = (_fields(packed, (20, 10, 0), (10, 10, 10)) - 0.5) * np.float32(2**0.5)
    largest = np.sqrt(np.clip(1 - np.square(others).sum(1), 0, None))
    which = (packed >> 30).astype(np.int64)
    quats = np.empty((len(packed), 4), np.float32)
    for axis in range(4):
        before = others[np.arange(len(packed)), np.clip(axis - (which < axis), 0, 2)]
        quats[:, axis] = np.where(which == axis, largest, before)
    return torch.from_numpy(quats)


def _harmonics(table: np.ndarray, count: int) -> Tensor:
    """Coefficients above degree 0, [N,K,3]."""
    names = [f"f_rest_{k}" for k in range(len(table.dtype.names or ()))]
    if len(names) not in (9, 24, 45, 72) or set(names) != set(table.dtype.names or ()) or len(table) != count:
        raise UserError("its harmonics are of no degree up to 4, or not of every Gaussian")
    bytes_ = np.stack([table[name] for name in names], -1).astype(np.float32)
    # The ends of the interval are exact; other bytes stand for the middles of its 256 parts.
    values = np.where(bytes_ == 0, 0, np.where(bytes_ == 255, 1, (bytes_ + 0.5) / 256)).astype(np.float32)
    return torch.from_numpy((values - 0.5) * HARMONICS_RANGE).unflatten(1, (3, -1)).mT
