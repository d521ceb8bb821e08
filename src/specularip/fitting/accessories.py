"""Accessories such as necklaces and belts, which the body mesh lacks: carved from the silhouettes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.captures.views import PosedImages
from specularip.fitting.silhouettes import Silhouette, count_views
from specularip.gaussians import turned_to
from specularip.progress import Report, unheard
from specularip.raster import rasterize

NEAR, FAR, STEPS = 0.013, 0.05, 14
"""Range of distances from the mesh that is searched, in units of the body's radius, and its samples."""
MIN_VIEWS = 2
"""A point counts only if this many images show it beside the mesh. A few silhouettes leave a wide hull in
front of the body and behind it, which would fill with Gaussians otherwise."""
VOXEL = 0.0025
"""Edge of the carved voxels, in units of the body's radius: some 2 mm."""
MAX_VOXELS = 4_000_000
"""Voxels grow until there are at most about this many."""
INNER, SURFACE = 64, 24
"""Neighbours for estimates of normals (voxels inside) and curvature (surface points), within about 7 mm."""
MAX_STRETCH = 3.0
MIN_SEEDS = 32
"""With fewer seeds, they are treated as noise and no accessories are added."""
BARE_SIZE = 400
"""Largest side in pixels of the masks of the mesh alone."""


@dataclass(frozen=True)
class Accessories:
    """M points on the surface of accessories.

    points [M,3]; normals [M,3] unit, outwards; axes [M,3] unit, the tangents of least curvature; stretch [M]
    at least 1: the aspect ratio of a splat that follows the surface; spacing: metres between points.
    """

    points: Tensor
    normals: Tensor
    axes: Tensor
    stretch: Tensor
    spacing: float

    def __len__(self) -> int:
        return len(self.points)


def find_accessories(
    points: Tensor, normals: Tensor, posed: PosedImages, report: Report = unheard
) -> Accessories:
    """The surface of the visual hull where it reaches farther from the mesh than clothes do, and where enough
    images show it beside the mesh rather than in front of it or behind it.

    points and normals [N,3] float32, of the mesh, on the CPU. Images without an empty pixel are ignored.
    """
    radius = float((points - points.mean(0)).norm(dim=-1).max())
    tree = cKDTree(points.numpy())
    outlines = [Silhouette.of(view) for view in posed if float(view.alpha.min()) < 0.5]
    bare = _render_mesh(points, normals, [one.camera for one in outlines], tree, report)
    seeds = _seeds(points, normals, outlines, bare, radius, tree)
    report(0.8)
    if len(seeds) < MIN_SEEDS:
        return _none()
    size = VOXEL * radius
    cells = _cells_around(seeds, size)
    while 64 * len(cells) > MAX_VOXELS:
        size *= 2
        cells = _cells_around(seeds, size)
    surface, outward = _carve(cells, outlines, size)
    report(0.95)
    away = torch.from_numpy(tree.query(surface.numpy(), workers=-1)[0]) > 0.9 * NEAR * radius
    surface, outward = surface[away], outward[away]
    beside = _beside_mesh(surface, bare)
    surface, outward = surface[beside], outward[beside]
    if len(surface) < SURFACE:
        return _none()
    near = torch.from_numpy(cKDTree(surface.numpy()).query(surface.numpy(), SURFACE, workers=-1)[1])
    # The covariance of normals around a point: little along a tube, much across it. The best length of a
    # splat goes with the root of the radius of curvature, and that with the inverse root of the covariance.
    spread, directions = torch.linalg.eigh((outward[near].mT @ outward[near]) / SURFACE)
    stretch = ((spread[:, 1] + 0.01) / (spread[:, 0] + 0.01)) ** 0.25
    axes = directions[..., 0] - (directions[..., 0] * outward).sum(-1, keepdim=True) * outward
    # Surface voxels per area of a tilted surface: their spacing is sqrt(2/3) of the edge on average.
    return Accessories(
        surface, outward, F.normalize(axes, dim=-1), stretch.clamp(1, MAX_STRETCH), (2 / 3) ** 0.5 * size
    )


def _none() -> Accessories:
    none = torch.zeros(0, 3)
    return Accessories(none, none, none, none[:, 0], 1.0)


def _render_mesh(
    points: Tensor, normals: Tensor, cameras: Sequence[Cameras], tree: cKDTree, report: Report
) -> list[Silhouette]:
    """The mesh alone, at reduced size, as each camera sees it."""
    spacing = float(np.median(tree.query(points.numpy(), 4, workers=-1)[0][:, 1:]))
    flat = (spacing * torch.tensor([1.0, 1.0, 0.1])).expand(len(points), 3)
    ones, quats = torch.ones(len(points)), turned_to(normals)
    drawn = []
    for index, camera in enumerate(cameras):
        scale = min(1.0, BARE_SIZE / max(camera.width, camera.height))
        width, height = (max(1, round(side * scale)) for side in (camera.width, camera.height))
        small = camera.resized(width, height)
        alpha = rasterize(
            points, quats, flat, ones, ones[:, None], small.viewmats, small.Ks, width, height, depth=False
        ).alpha[0]
        drawn.append(Silhouette(camera, (255 * alpha).round().to(torch.uint8).numpy()))
        report(0.6 * (index + 1) / len(cameras))
    return drawn


def _seeds(
    points: Tensor,
    normals: Tensor,
    outlines: Sequence[Silhouette],
    bare: Sequence[Silhouette],
    radius: float,
    tree: cKDTree,
) -> Tensor:
    """Points [M,3] on accessories: for each mesh point, the farthest one along its normal that images show as
    occupied, away from the mesh and beside it."""
    seeds, found = torch.zeros_like(points), torch.zeros(len(points), dtype=torch.bool)
    for distance in (torch.linspace(NEAR, FAR, STEPS) * radius).tolist():
        candidates = points + distance * normals
        apart = torch.from_numpy(tree.query(candidates.numpy(), workers=-1)[0])
        index = (apart > max(0.75 * distance, 0.9 * NEAR * radius)).nonzero()[:, 0]
        index = index[_occupancy(candidates[index], outlines)[0]]
        index = index[_beside_mesh(candidates[index], bare)]
        seeds[index], found[index] = candidates[index], True
    return seeds[found]


def _occupancy(points: Tensor, silhouettes: Sequence[Silhouette]) -> tuple[Tensor, Tensor]:
    """Which of points [M,3] are occupied (at least MIN_VIEWS images show them, none as empty), and which are
    empty (an image shows them so), both bool [M]; the others are unknown."""
    seen, empty = count_views(points, silhouettes, until_empty=True)
    return (empty == 0) & (seen >= MIN_VIEWS), empty > 0


def _beside_mesh(points: Tensor, mesh_silhouettes: Sequence[Silhouette]) -> Tensor:
    """Which of points [M,3], none of them empty, at least MIN_VIEWS images show beside the mesh, bool [M]: in
    front of the mesh or behind it every pixel is opaque, with accessories or without."""
    return count_views(points, mesh_silhouettes)[1] >= MIN_VIEWS


def _cells_around(seeds: Tensor, size: float) -> Tensor:
    """Integer coordinates [M,3] of the cells, four voxels wide, within two cells of a seed."""
    cells = torch.unique((seeds / (4 * size)).floor().long(), dim=0)
    for axis in torch.eye(3, dtype=torch.long):
        steps = torch.arange(-2, 3)[:, None] * axis
        cells = torch.unique((cells[:, None] + steps).reshape(-1, 3), dim=0)
    return cells


def _carve(cells: Tensor, outlines: Sequence[Silhouette], size: float) -> tuple[Tensor, Tensor]:
    """Surface points [M,3] of the visual hull within `cells`, and their outward unit normals.

    Voxels of edge `size` are carved where an image shows them empty; the occupied ones next to carved ones
    are the surface. Normals point away from the centroid of the occupied voxels around.
    """
    within = torch.cartesian_prod(*[torch.arange(4)] * 3)
    voxels = (4 * cells[:, None] + within).reshape(-1, 3)
    centres = (voxels.float() + 0.5) * size
    occupied, empty = _occupancy(centres, outlines)
    low = voxels.amin(0) - 1
    high = voxels.amax(0) - low + 2

    def linear_index(at: Tensor) -> Tensor:
        x, y, z = (at - low).unbind(-1)
        return (x * high[1] + y) * high[2] + z

    carved = np.sort(linear_index(voxels[empty]).numpy())
    kept, points = voxels[occupied], centres[occupied]
    on_surface = torch.zeros(len(kept), dtype=torch.bool)
    if len(carved) and len(kept) >= INNER:
        for step in torch.cat([torch.eye(3), -torch.eye(3)]).long():
            wanted = linear_index(kept + step).numpy()
            at = np.searchsorted(carved, wanted).clip(max=len(carved) - 1)
            on_surface |= torch.from_numpy(carved[at] == wanted)
    surface = points[on_surface]
    if not len(surface):
        return surface, surface
    near = cKDTree(points.numpy()).query(surface.numpy(), INNER, workers=-1)[1]
    return surface, F.normalize(surface - points[torch.from_numpy(near)].mean(1), dim=-1)
