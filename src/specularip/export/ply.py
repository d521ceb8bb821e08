"""The binary PLY of 3DGS (Kerbl et al., 2023), which splat viewers read.

Properties in the order of the reference implementation: x y z nx ny nz f_dc_0..2 opacity scale_0..2 rot_0..3,
all float32, with f_dc = (rgb − 0.5) / 0.28209479177387814, opacity as a logit, scale as a logarithm, rot
wxyz. Spherical harmonics of degree 1 to 3 are stored between f_dc and opacity as f_rest_0..44: fifteen of
red, then of green, then of blue. Spherical Betas (see `colors.betas`) are stored as sb_params_*, as their
authors' code does: r of all lobes, then g, b, θ, φ and β. Axes are those of the world, z up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.colors import HarmonicColors, SphericalBetas
from specularip.colors.harmonics import SH_0
from specularip.errors import UserError
from specularip.export.ply_compressed import is_compressed, read_compressed
from specularip.export.ply_elements import read_elements
from specularip.export.splats import Splats, splats_from
from specularip.files import atomic_path
from specularip.gaussians import Gaussians

FIELDS = (
    *("x", "y", "z", "nx", "ny", "nz"),
    *("f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
REST = 45
LOBE = 6
"""Numbers of a Spherical Beta."""
MAX_LOBES = 16
REQUIRED = tuple(name for name in FIELDS if name not in ("nx", "ny", "nz"))


@torch.no_grad()
def write_ply(
    path: str | os.PathLike[str],
    gaussians: Gaussians,
    colors: HarmonicColors | SphericalBetas | None = None,
) -> None:
    """Write Gaussians as a 3DGS PLY, atomically: with their diffuse colour, with spherical harmonics, or with
    Spherical Betas.

    Raises UserError if the file cannot be written.
    """
    shortest = gaussians.log_scales.argmin(-1)
    normals = gaussians.rotations.gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0]
    base, extra, names = (gaussians.diffuse - 0.5) / SH_0, [], []
    if colors is not None:
        base, rest = colors.coefficients[:, 0], colors.coefficients[:, 1:].mT.flatten(1)
        extra, names = [rest], [f"f_rest_{k}" for k in range(rest.shape[1])]
    if isinstance(colors, SphericalBetas):
        extra.append(colors.lobes.mT.flatten(1))
        names += [f"sb_params_{k}" for k in range(extra[-1].shape[1])]
    columns = [
        gaussians.means,
        normals,
        base,
        *extra,
        gaussians.opacity_logits[:, None],
        gaussians.log_scales,
        F.normalize(gaussians.quats, dim=-1),
    ]
    rows = torch.cat([c.detach().float().cpu() for c in columns], 1).numpy().astype("<f4", copy=False)
    place = FIELDS.index("opacity")
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    header += [f"property float {name}" for name in (*FIELDS[:place], *names, *FIELDS[place:])]
    start = "\n".join([*header, "end_header", ""]).encode()
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(start)
        rows.tofile(file)


@torch.no_grad()
def read_ply(path: str | os.PathLike[str]) -> Splats:
    """Read a 3DGS PLY, or a compressed one of SuperSplat. Properties of other kinds are ignored.

    Raises UserError if the file is missing, not a PLY of such a layout or truncated, if the number of
    f_rest_* or sb_params_* matches no degree up to 3 or number of lobes, or if no Gaussian is finite.
    """
    path = Path(path)
    elements = read_elements(path)
    try:
        return read_compressed(elements) if is_compressed(elements) else _read_splats(elements)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


@torch.no_grad()
def read_points(path: str | os.PathLike[str]) -> tuple[Tensor, Tensor | None]:
    """Points [N,3] float64 and colours [N,3] in 0..1 of any binary PLY with x, y, z; colours from red, green,
    blue (0..255 if they are integers) or from f_dc_0..2, else None.

    Raises UserError if the file is missing, not such a PLY, truncated, or contains NaN or infinity.
    """
    path = Path(path)
    try:
        vertices = _vertices(read_elements(path), ("x", "y", "z"), "a point cloud")
    except UserError as error:
        raise UserError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
    columns, names = _columns(vertices), vertices.dtype.names or ()
    points = torch.from_numpy(np.stack([vertices[name].astype(np.float64) for name in "xyz"], 1))
    colors = None
    if {"red", "green", "blue"} <= set(names):
        colors = columns("red", "green", "blue") / (255 if vertices.dtype["red"].kind in "iu" else 1)
    elif {"f_dc_0", "f_dc_1", "f_dc_2"} <= set(names):
        colors = columns("f_dc_0", "f_dc_1", "f_dc_2") * SH_0 + 0.5
    if not bool(points.isfinite().all()) or (colors is not None and not bool(colors.isfinite().all())):
        raise UserError(f"{path} holds NaN or infinite values: export it again")
    return points, None if colors is None else colors.clamp(0, 1)


def _read_splats(elements: dict[str, np.ndarray]) -> Splats:
    vertices = _vertices(elements, REQUIRED, "a 3DGS point cloud")
    columns, names = _columns(vertices), vertices.dtype.names or ()
    rest, lobes = (_numbered(names, prefix) for prefix in ("f_rest_", "sb_params_"))
    if rest is None or len(rest) not in (0, 9, 24, REST):
        raise UserError("its f_rest_* are harmonics of no degree up to 3")
    if lobes is None or len(lobes) % LOBE or len(lobes) > LOBE * MAX_LOBES:
        raise UserError(f"its sb_params_* are not {LOBE} for each of up to {MAX_LOBES} lobes")
    coefficients = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if rest:
        coefficients = torch.cat([coefficients, columns(*rest).unflatten(1, (3, -1)).mT], 1)
    return splats_from(
        columns("x", "y", "z"),
        columns("rot_0", "rot_1", "rot_2", "rot_3"),
        columns("scale_0", "scale_1", "scale_2"),
        columns("opacity")[:, 0],
        coefficients,
        columns(*lobes).unflatten(1, (LOBE, -1)).mT if lobes else None,
    )


def _vertices(elements: dict[str, np.ndarray], required: tuple[str, ...], what: str) -> np.ndarray:
    """The vertex records, which have at least the `required` properties. Raises UserError otherwise."""
    vertices = elements.get("vertex")
    if vertices is None or len(vertices) == 0:
        raise UserError("it has no vertices, or lists before them")
    if missing := [name for name in required if name not in (vertices.dtype.names or ())]:
        raise UserError(f"it is not {what}: it has no {', '.join(missing)}")
    return vertices


def _columns(vertices: np.ndarray) -> Callable[..., Tensor]:
    """A function that gives the properties of these names as float32 [N,K]."""

    def columns(*names: str) -> Tensor:
        found = np.empty((len(vertices), len(names)), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for index, name in enumerate(names):
                found[:, index] = vertices[name]
        return torch.from_numpy(found)

    return columns


def _numbered(names: tuple[str, ...], prefix: str) -> list[str] | None:
    """The names with this prefix, by number from 0; None if one is left out."""
    expected = [f"{prefix}{k}" for k in range(sum(name.startswith(prefix) for name in names))]
    return expected if set(expected) <= set(names) else None
