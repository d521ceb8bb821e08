"""The binary PLY of 3DGS (Kerbl et al., 2023), which splat viewers read.

Properties in the order of the reference implementation: x y z nx ny nz f_dc_0..2 opacity scale_0..2 rot_0..3,
all float32, with f_dc = (rgb − 0.5) / 0.28209479177387814, opacity as a logit, scale as a logarithm, rot
wxyz. Spherical harmonics of degree 1 to 3 are stored between f_dc and opacity as f_rest_0..44: fifteen of
red, then of green, then of blue. Spherical Betas (see `colors.betas`) are stored as sb_params_*, as their
authors' code does: r of all lobes, then g, b, θ, φ and β. Axes are those of the world, z up.
"""

from __future__ import annotations

import os
import warnings
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
REQUIRED = ("x", "y", "z", "opacity", "scale_0", "scale_1", "rot_0", "rot_1", "rot_2", "rot_3")
BASE = ("f_dc_0", "f_dc_1", "f_dc_2")
RGB = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
"""Names of a plain colour."""
WHITE = {"u1": 255, "i2": 255, "i4": 255, "u4": 255, "u2": 65535}
"""The largest value of a plain colour by its type; 1 for the others."""
PREFIX = "scalar_"
"""What CloudCompare writes before the names of columns that it does not know."""


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
    """Read a 3DGS PLY, or a compressed one of SuperSplat, in binary or text. Other tables and columns are
    ignored, as are CloudCompare's prefixes of names.

    Colours may be red, green, blue instead of f_dc_*. Without scale_2, as 2DGS writes them, Gaussians are
    flat. Raises UserError if the file is missing, damaged or not a PLY of such a layout, if the number of
    f_rest_* or sb_params_* matches no degree up to 4 or number of lobes, or if no Gaussian is finite.
    """
    path = Path(path)
    elements = read_elements(path, ("vertex", "chunk", "sh"))
    try:
        return read_compressed(elements) if is_compressed(elements) else _read_splats(elements)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


@torch.no_grad()
def read_points(path: str | os.PathLike[str]) -> tuple[Tensor, Tensor | None]:
    """Points [N,3] float64 and colours [N,3] in 0..1 of any PLY with x, y, z; colours from red, green, blue
    or from f_dc_0..2, else None.

    Points with NaN or infinite numbers are left out, and a warning counts them. Raises UserError if the file
    is missing, damaged or not such a PLY, or if no point is finite.
    """
    path = Path(path)
    elements = read_elements(path, ("vertex",))
    try:
        vertices = _Vertices(elements, ("x", "y", "z"), "a point cloud")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    points, colors = vertices.exactly("x", "y", "z"), vertices.rgb()
    sound = points.abs().amax(1) < torch.inf
    if colors is not None:
        sound &= colors.isfinite().all(1)
    left = int(sound.sum())
    if left == 0:
        raise UserError(f"{path}: every point has NaN or infinite values: export it again")
    if left < len(points):
        warnings.warn(
            f"{path}: {len(points) - left} of {len(points)} points left out: NaN or infinite", stacklevel=2
        )
        points, colors = points[sound], None if colors is None else colors[sound]
    return points, None if colors is None else colors.clamp(0, 1)


def _read_splats(elements: dict[str, np.ndarray]) -> Splats:
    vertices = _Vertices(elements, REQUIRED, "a 3DGS point cloud")
    rest, lobes = vertices.numbered("f_rest_"), vertices.numbered("sb_params_")
    if rest is None or len(rest) not in (0, 9, 24, REST, 72):
        raise UserError("its f_rest_* are harmonics of no degree up to 4")
    if lobes is None or len(lobes) % LOBE or len(lobes) > LOBE * MAX_LOBES:
        raise UserError(f"its sb_params_* are not {LOBE} for each of up to {MAX_LOBES} lobes")
    rgb = vertices.rgb()
    if rgb is None:
        raise UserError(f"it is not a 3DGS point cloud: it has no {', '.join(BASE)}")
    coefficients = ((rgb - 0.5) / SH_0)[:, None]
    if all(name in vertices for name in BASE):
        coefficients = vertices(*BASE)[:, None]
    if rest:
        coefficients = torch.cat([coefficients, vertices(*rest).unflatten(1, (3, -1)).mT], 1)
    log_scales = torch.full((len(rgb), 3), -torch.inf)
    axes = [name for name in ("scale_0", "scale_1", "scale_2") if name in vertices]
    log_scales[:, : len(axes)] = vertices(*axes)
    return splats_from(
        vertices.exactly("x", "y", "z"),
        vertices("rot_0", "rot_1", "rot_2", "rot_3"),
        log_scales,
        vertices("opacity")[:, 0],
        coefficients,
        vertices(*lobes).unflatten(1, (LOBE, -1)).mT if lobes else None,
    )


class _Vertices:
    """The columns of a PLY's vertices by name, without CloudCompare's prefixes."""

    def __init__(self, elements: dict[str, np.ndarray], required: tuple[str, ...], what: str) -> None:
        """Raises UserError without vertices, or without a `required` column."""
        self.rows = elements.get("vertex", np.empty(0))
        if len(self.rows) == 0:
            raise UserError("it has no vertices")
        names = self.rows.dtype.names or ()
        self.columns = {_without_prefix(name): name for name in reversed(names)}
        self.columns |= {name: name for name in names}
        if missing := [name for name in required if name not in self.columns]:
            raise UserError(f"it is not {what}: it has no {', '.join(missing)}")

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __call__(self, *names: str) -> Tensor:
        """The columns of these names, float32 [N,K]."""
        return self._stacked(names, np.float32)

    def exactly(self, *names: str) -> Tensor:
        """The same in float64."""
        return self._stacked(names, np.float64)

    def rgb(self) -> Tensor | None:
        """Colours [N,3], 0..1 where they are valid; None if there are none."""
        if all(name in self.columns for name in BASE):
            return self(*BASE) * SH_0 + 0.5
        for names in RGB:
            if all(name in self.columns for name in names):
                white = WHITE.get(self.rows.dtype[self.columns[names[0]]].str[1:], 1)
                return self(*names) / white
        return None

    def numbered(self, prefix: str) -> list[str] | None:
        """The names with this prefix, by number from 0; None if one is left out."""
        expected = [f"{prefix}{k}" for k in range(sum(name.startswith(prefix) for name in self.columns))]
        return expected if set(expected) <= set(self.columns) else None

    def _stacked(self, names: tuple[str, ...], dtype: type[np.floating]) -> Tensor:
        found = np.empty((len(self.rows), len(names)), dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            for index, name in enumerate(names):
                found[:, index] = self.rows[self.columns[name]]
        return torch.from_numpy(found)


def _without_prefix(name: str) -> str:
    while name.startswith(PREFIX):
        name = name.removeprefix(PREFIX)
    return name
