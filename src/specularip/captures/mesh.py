"""What a capture's folder has to initialise Gaussians on: a triangle mesh or a point cloud."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from specularip.captures.frames import PointCloud
from specularip.captures.layout import read_capture
from specularip.errors import UserError
from specularip.export.ply import read_points
from specularip.npz import read_arrays

MAX_VERTICES, MAX_FACES = 1_000_000, 2_000_000
"""Of a body mesh: 24 and 48 MB. Scans have half a million vertices, body models some ten thousand."""
BLOCK = 100_000
"""Triangles whose areas are computed at once."""
MAX_DISTANCE = 1e7
"""Larger coordinates, in whatever unit the capture has, are treated as errors."""


def load_body_mesh(folder: str | os.PathLike[str]) -> tuple[Tensor, Tensor] | None:
    """Vertices [V,3] float64 and triangles [F,3] int64 of body.npz (keys v and f, or vertices and faces).

    None if there is no such file. Raises UserError if it is not a valid mesh.
    """
    path = Path(folder) / "body.npz"
    if not path.exists():
        return None
    hint = "save it with numpy.savez(..., v=vertices, f=faces), or remove it"
    try:
        arrays = read_arrays(path, ("v", "f", "vertices", "faces"))
    except UserError as error:
        raise UserError(f"{error}: {hint}") from None
    v_key, f_key = ("v", "f") if "v" in arrays else ("vertices", "faces")
    if v_key not in arrays or f_key not in arrays:
        raise UserError(f"{path} has no arrays v and f (or vertices and faces) of numbers: {hint}")
    vertices, faces = arrays[v_key], arrays[f_key]
    if vertices.ndim != 2 or vertices.shape[1] != 3 or vertices.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: {v_key} must be numbers [V,3], got {vertices.dtype} {list(vertices.shape)}: {hint}"
        )
    if faces.ndim != 2 or faces.shape[1] != 3 or len(faces) < 1 or faces.dtype.kind not in "iu":
        raise UserError(
            f"{path}: {f_key} must be integers [F,3], triangles, "
            f"got {faces.dtype} {list(faces.shape)}: {hint}"
        )
    if len(vertices) > MAX_VERTICES or len(faces) > MAX_FACES:
        raise UserError(
            f"{path} has {len(vertices):,} vertices and {len(faces):,} triangles, and {MAX_VERTICES:,} and "
            f"{MAX_FACES:,} are read: simplify the mesh"
        )
    with np.errstate(all="ignore"):
        vertices = vertices.astype(np.float64, copy=False)
        if not (np.abs(vertices) <= MAX_DISTANCE).all():
            raise UserError(f"{path}: {v_key} holds NaN or coordinates beyond {MAX_DISTANCE:g}: {hint}")
    if int(faces.min()) < 0 or int(faces.max()) >= len(vertices):
        raise UserError(
            f"{path}: {f_key} must index the {len(vertices)} vertices from 0, "
            f"got {faces.min()} to {faces.max()}: {hint}"
        )
    faces = faces.astype(np.int64, copy=False)
    area = 0.0
    for start in range(0, len(faces), BLOCK):
        a, b, c = (vertices[faces[start : start + BLOCK, k]] for k in range(3))
        area += float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum())
    if not area > 1e-9:
        raise UserError(f"{path}: its triangles have zero area: {hint}")
    return torch.from_numpy(vertices), torch.from_numpy(faces)


def load_points(folder: str | os.PathLike[str]) -> tuple[Tensor, Tensor | None] | None:
    """Points [N,3] float64 and colours [N,3] in 0..1 (None if it has none) of the capture's cloud; None
    without one.

    Raises UserError if it is not a point cloud (see `export.ply.read_points`), or the folder no capture.
    """
    path = read_capture(Path(folder), "train").points
    if path is None:
        return None
    if isinstance(path, PointCloud):
        return torch.from_numpy(path.positions), torch.from_numpy(path.colors) / 255
    points, colors = read_points(path)
    if float(points.abs().max()) > MAX_DISTANCE:
        raise UserError(f"{path} holds coordinates beyond {MAX_DISTANCE:g}: export it again or remove it")
    return points, colors


def points_inside(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Which of points [P,3] lie inside the mesh (vertices [V,3], faces [F,3]), bool [P].

    Uses the generalised winding number (Jacobson et al. 2013): the solid angle of all triangles over 4π is 1
    inside and 0 outside, and close to these for a mesh with small holes. The sum is exact (Van Oosterom and
    Strackee 1983). Works for either orientation of the triangles.
    """
    inside = np.zeros(len(points), dtype=bool)
    used = vertices[np.unique(faces)]
    boxed = ((points > used.min(0)) & (points < used.max(0))).all(1)
    for index in np.flatnonzero(boxed):
        corners = (vertices - points[index])[faces]  # [F,3,3]
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        la, lb, lc = (np.linalg.norm(corner, axis=1) for corner in (a, b, c))
        volume = np.einsum("ij,ij->i", a, np.cross(b, c))
        dots = [np.einsum("ij,ij->i", p, q) for p, q in ((a, b), (b, c), (c, a))]
        solid = 2 * np.arctan2(volume, la * lb * lc + dots[0] * lc + dots[1] * la + dots[2] * lb)
        inside[index] = abs(solid.sum()) > 2 * np.pi  # a winding number above 1/2
    return inside
