"""The binary PLY of 3DGS (Kerbl et al., 2023), which splat viewers read.

Properties in the order of the reference implementation: x y z nx ny nz f_dc_0..2 opacity scale_0..2 rot_0..3,
all float32, with f_dc = (rgb − 0.5) / 0.28209479177387814, opacity as a logit, scale as a logarithm, rot
wxyz. The format cannot hold the specular head: callers add the mean of its highlights to `colors`, and
optionally their view dependence into spherical harmonics of degree 1 to 3 (`baking.bake`). These are stored
between f_dc and opacity as f_rest_0..44: fifteen of red, then of green, then of blue.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.errors import UserError
from specularip.files import atomic_path
from specularip.gaussians import Gaussians

SH_0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2√π)."""

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
DARKEST = 1 / 512
"""Colours are clamped this far from 0 and 1, whose logits are infinite."""


@torch.no_grad()
def write_ply(
    path: str | os.PathLike[str],
    gaussians: Gaussians,
    colors: Tensor | None = None,
    harmonics: Tensor | None = None,
) -> None:
    """Write Gaussians as a 3DGS PLY, atomically. colors [N,3] in 0..1; default: the diffuse colour.
    harmonics [N,15,3]: coefficients of degree 1 to 3, in 3DGS's order and signs; default: none.

    Raises UserError if the file cannot be written.
    """
    colors = gaussians.diffuse if colors is None else colors
    if colors.shape != (len(gaussians), 3):
        raise ValueError(f"colors must be [{len(gaussians)},3], got {list(colors.shape)}")
    if harmonics is not None and harmonics.shape != (len(gaussians), REST // 3, 3):
        raise ValueError(f"harmonics must be [{len(gaussians)},15,3], got {list(harmonics.shape)}")
    shortest = gaussians.log_scales.argmin(-1)
    normals = gaussians.rotations.gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0]
    columns = [
        gaussians.means,
        normals,
        (colors - 0.5) / SH_0,
        *([] if harmonics is None else [harmonics.mT.flatten(1)]),
        gaussians.opacity_logits[:, None],
        gaussians.log_scales,
        F.normalize(gaussians.quats, dim=-1),
    ]
    rows = torch.cat([c.detach().float().cpu() for c in columns], 1).numpy().astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    names = list(FIELDS)
    if harmonics is not None:
        names[names.index("opacity") : names.index("opacity")] = [f"f_rest_{k}" for k in range(REST)]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    with atomic_path(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + rows.tobytes())


def read_ply(path: str | os.PathLike[str], latents: int = 0) -> Gaussians:
    """Read a 3DGS PLY. Other properties (f_rest_*, …) are ignored; colours are clipped to 0..1.

    The Gaussians are bound to joint 0 with weight 1 in region 0; their `latents` latent values are 0.
    Raises UserError if the file is missing, not a PLY of this layout, truncated, or contains NaN or
    infinity.
    """
    path = Path(path)
    vertices = _read_vertices(path, REQUIRED, "a 3DGS point cloud")

    def columns(*names: str) -> Tensor:
        return torch.from_numpy(np.stack([vertices[name].astype(np.float32) for name in names], -1))

    values = columns(*REQUIRED)
    if not bool(values.isfinite().all()):
        raise UserError(f"{path} holds NaN or infinite values: it cannot be rendered")
    means, sh, opacity, log_scales, quats = values.split([3, 3, 1, 3, 4], -1)
    if bool((quats.norm(dim=-1) < 1e-8).any()):
        raise UserError(f"{path} holds rotations of length zero: it is not a 3DGS file")
    count = len(vertices)
    weights = torch.zeros(count, 4)
    weights[:, 0] = 1
    return Gaussians(
        means=means.contiguous(),
        quats=quats.contiguous(),
        log_scales=log_scales.contiguous(),
        opacity_logits=opacity[:, 0].contiguous(),
        color_logits=torch.logit((sh * SH_0 + 0.5).clamp(DARKEST, 1 - DARKEST)),
        latents=torch.zeros(count, latents),
        normal_residuals=torch.zeros(count, 3),
        regions=torch.zeros(count, dtype=torch.int64),
        bind_joints=torch.zeros(count, 4, dtype=torch.int64),
        bind_weights=weights,
    )


@torch.no_grad()
def read_harmonics(path: str | os.PathLike[str]) -> Tensor:
    """Spherical harmonics [N,16,3] of a 3DGS PLY, f_dc first; degrees missing from the file are 0.

    Raises UserError as `read_ply` does, and if the number of f_rest_* matches no degree up to 3.
    """
    path = Path(path)
    vertices = _read_vertices(path, REQUIRED, "a 3DGS point cloud")
    names = vertices.dtype.names or ()
    rest = [f"f_rest_{k}" for k in range(sum(name.startswith("f_rest_") for name in names))]
    if len(rest) not in (0, 9, 24, REST) or not set(rest) <= set(names):
        raise UserError(f"{path} holds harmonics of no degree up to 3: {len(rest)} f_rest_*")
    columns = [vertices[name].astype(np.float32) for name in ("f_dc_0", "f_dc_1", "f_dc_2", *rest)]
    values = torch.from_numpy(np.stack(columns, -1))
    if not bool(values.isfinite().all()):
        raise UserError(f"{path} holds NaN or infinite values: it cannot be rendered")
    base, higher = values[:, None, :3], values[:, 3:].unflatten(1, (3, -1)).mT
    return F.pad(torch.cat([base, higher], 1), (0, 0, 0, 15 - higher.shape[1]))


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
