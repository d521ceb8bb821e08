"""The binary PLY of 3DGS (Kerbl et al., 2023), which splat viewers read.

Properties in the order of the reference implementation: x y z nx ny nz f_dc_0..2 opacity scale_0..2 rot_0..3,
all float32, with f_dc = (rgb − 0.5) / 0.28209479177387814, opacity as a logit, scale as a logarithm, rot
wxyz. Spherical harmonics of degree 1 to 3 are stored between f_dc and opacity as f_rest_0..44: fifteen of
red, then of green, then of blue.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.colors.harmonics import SH_0, HarmonicColors
from specularip.errors import UserError
from specularip.export.splats import Splats, splats_from
from specularip.files import atomic_path
from specularip.gaussians import Gaussians

FIELDS = (
    *("x", "y", "z", "nx", "ny", "nz"),
    *("f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
REST = 45
REQUIRED = tuple(name for name in FIELDS if name not in ("nx", "ny", "nz"))
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"},
}
MAX_HEADER = 1 << 16


@torch.no_grad()
def write_ply(
    path: str | os.PathLike[str], gaussians: Gaussians, colors: HarmonicColors | None = None
) -> None:
    """Write Gaussians as a 3DGS PLY, atomically: with their diffuse colour, or with spherical harmonics.

    Raises UserError if the file cannot be written.
    """
    shortest = gaussians.log_scales.argmin(-1)
    normals = gaussians.rotations.gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0]
    if colors is None:
        base, rest = (gaussians.diffuse - 0.5) / SH_0, []
    else:
        base, rest = colors.coefficients[:, 0], [colors.coefficients[:, 1:].mT.flatten(1)]
    columns = [
        gaussians.means,
        normals,
        base,
        *rest,
        gaussians.opacity_logits[:, None],
        gaussians.log_scales,
        F.normalize(gaussians.quats, dim=-1),
    ]
    rows = torch.cat([c.detach().float().cpu() for c in columns], 1).numpy().astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    names = list(FIELDS)
    if rest:
        names[names.index("opacity") : names.index("opacity")] = [f"f_rest_{k}" for k in range(REST)]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    with atomic_path(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + rows.tobytes())


@torch.no_grad()
def read_ply(path: str | os.PathLike[str]) -> Splats:
    """Read a 3DGS PLY. Properties that are not of 3DGS are ignored.

    Raises UserError if the file is missing, not a PLY of this layout or truncated, if the number of f_rest_*
    matches no degree up to 3, or if no Gaussian is finite.
    """
    path = Path(path)
    vertices = _read_vertices(path, REQUIRED, "a 3DGS point cloud")
    names = vertices.dtype.names or ()
    rest = [f"f_rest_{k}" for k in range(sum(name.startswith("f_rest_") for name in names))]
    if len(rest) not in (0, 9, 24, REST) or not set(rest) <= set(names):
        raise UserError(f"{path} holds harmonics of no degree up to 3: {len(rest)} f_rest_*")

    def columns(*names: str) -> Tensor:
        with np.errstate(over="ignore"):
            return torch.from_numpy(np.stack([vertices[name].astype(np.float32) for name in names], -1))

    coefficients = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if rest:
        coefficients = torch.cat([coefficients, columns(*rest).unflatten(1, (3, -1)).mT], 1)
    try:
        return splats_from(
            columns("x", "y", "z"),
            columns("rot_0", "rot_1", "rot_2", "rot_3"),
            columns("scale_0", "scale_1", "scale_2"),
            columns("opacity")[:, 0],
            coefficients,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


@torch.no_grad()
def read_points(path: str | os.PathLike[str]) -> tuple[Tensor, Tensor | None]:
    """Points [N,3] and colours [N,3] in 0..1 of any binary PLY with x, y, z; colours from red, green, blue
    (0..255 if they are integers) or from f_dc_0..2, else None.

    Raises UserError if the file is missing, not such a PLY, truncated, or contains NaN or infinity.
    """
    path = Path(path)
    vertices = _read_vertices(path, ("x", "y", "z"), "a point cloud")
    names = vertices.dtype.names or ()

    def columns(*names: str) -> Tensor:
        with np.errstate(over="ignore"):
            return torch.from_numpy(np.stack([vertices[name].astype(np.float32) for name in names], -1))

    points, colors = columns("x", "y", "z"), None
    if {"red", "green", "blue"} <= set(names):
        colors = columns("red", "green", "blue") / (255 if vertices.dtype["red"].kind in "iu" else 1)
    elif {"f_dc_0", "f_dc_1", "f_dc_2"} <= set(names):
        colors = columns("f_dc_0", "f_dc_1", "f_dc_2") * SH_0 + 0.5
    if not bool(points.isfinite().all()) or (colors is not None and not bool(colors.isfinite().all())):
        raise UserError(f"{path} holds NaN or infinite values: export it again")
    return points, None if colors is None else colors.clamp(0, 1)


def _read_vertices(path: Path, required: tuple[str, ...], what: str) -> np.ndarray:
    """The vertex records of a binary PLY that has at least the `required` properties."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a regular file")
        with path.open("rb") as file:
            dtype, count = _read_header(file, path, required, what)
            left = os.fstat(file.fileno()).st_size - file.tell()
            data = file.read(min(dtype.itemsize * count, left))  # the header may claim too many
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) < dtype.itemsize * count:
        found = len(data) // dtype.itemsize
        raise UserError(f"{path} is cut short: it has {found} of {count} vertices")
    return np.frombuffer(data, dtype)


def _read_header(file: BinaryIO, path: Path, required: tuple[str, ...], what: str) -> tuple[np.dtype, int]:
    """The record type and the number of vertices; leaves the file position at the first vertex."""
    if file.readline(8).strip() != b"ply":
        raise UserError(f"{path} is not a PLY file")
    order, count, vertex_is_first = "", -1, False
    properties: list[tuple[str, str]] = []
    element = ""
    while True:
        line = file.readline(MAX_HEADER)
        if not line.endswith(b"\n") or file.tell() > MAX_HEADER:
            raise UserError(f"{path}: the PLY header has no end: the file is cut short or damaged")
        words = line.decode("ascii", "replace").split()
        match words:
            case ["end_header"]:
                break
            case ["format", "binary_little_endian", _]:
                order = "<"
            case ["format", "binary_big_endian", _]:
                order = ">"
            case ["element", name, number]:
                vertex_is_first = vertex_is_first or (element == "" and name == "vertex")
                element = name
                if name == "vertex":
                    count = int(number) if number.isdigit() and len(number) < 12 else -1
            case ["property", kind, name] if element == "vertex" and kind in TYPES:
                properties.append((name, kind))
            case ["property", *_] if element == "vertex":
                raise UserError(f"{path}: cannot read the vertex property {' '.join(words[1:])!r}")
    if not order:
        raise UserError(f"{path}: ASCII PLY is not supported: convert the file to binary")
    if not vertex_is_first or count < 1:
        raise UserError(f"{path}: the PLY must begin with at least one vertex")
    names = [name for name, _ in properties]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: a vertex property appears twice")
    if missing := [name for name in required if name not in names]:
        raise UserError(f"{path} is not {what}: it has no {', '.join(missing)}")
    return np.dtype([(name, order + TYPES[kind]) for name, kind in properties]), count
