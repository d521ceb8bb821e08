"""What is worn away from the body, necklaces and belts: found in the silhouettes, as the mesh lacks it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from ..posed_images import PosedImages

NEAR, FAR, STEPS = 0.013, 0.05, 14
"""Distances from the mesh, as shares of the body's largest radius, between which things may be worn."""
VIEWS = 2
"""Images that must show a place before it counts: what none shows is not worn but unknown."""
VOXEL = 0.0025
"""Edge of the voxels that are carved there, as a share of the body's radius: some 2 mm."""
MAX_VOXELS = 4_000_000
"""Where few images leave more room than that open, voxels are larger."""
INNER, SURFACE = 64, 24
"""Neighbours that tell the normal (voxels inside) and the curvature (on the surface): about 7 mm around."""
MAX_STRETCH = 3.0


@dataclass(frozen=True)
class Worn:
    """M points on the surface of what is worn.

    points [M,3]; normals [M,3] unit, outwards; axes [M,3] unit, in the surface, along which it bends least;
    stretch [M] ≥ 1: how much longer than wide a splat should be to follow it; spacing: metres between points.
    """

    points: Tensor
    normals: Tensor
    axes: Tensor
    stretch: Tensor
    spacing: float

    def __len__(self) -> int:
        return len(self.points)


def worn_things(points: Tensor, normals: Tensor, posed: PosedImages) -> Worn:
    """The surface of the visual hull where it reaches farther from the mesh than clothes do.

    points and normals [N,3], of the mesh. Images without an empty pixel say nothing.
    """
    radius = float((points - points.mean(0)).norm(dim=-1).max())
    tree = cKDTree(points.numpy())
    telling = (posed.alphas[..., 0] < 0.5).flatten(1).any(1).nonzero()[:, 0].tolist()
    seeds = _seeds(points, normals, posed, telling, radius, tree)
    if len(seeds) < 32:
        nothing = seeds[:0]
        return Worn(nothing, nothing, nothing, nothing[:, 0], 1.0)
    size = VOXEL * radius
    cells = _cells_around(seeds, size)
    while 64 * len(cells) > MAX_VOXELS:
        size *= 2
        cells = _cells_around(seeds, size)
    surface, outward = _carve(cells, posed, telling, size)
    apart = torch.from_numpy(tree.query(surface.numpy(), workers=-1)[0]) > 0.9 * NEAR * radius
    surface, outward = surface[apart], outward[apart]
    if len(surface) < SURFACE:
        nothing = surface[:0]
        return Worn(nothing, nothing, nothing, nothing[:, 0], 1.0)
    near = torch.from_numpy(cKDTree(surface.numpy()).query(surface.numpy(), SURFACE, workers=-1)[1])
    # How normals spread around a point: not at all along a tube, much across it. A splat's best length goes
    # with the root of the radius of curvature, that radius with the root of the spread's eigenvalue.
    spread, directions = torch.linalg.eigh((outward[near].mT @ outward[near]) / SURFACE)
    stretch = ((spread[:, 1] + 0.01) / (spread[:, 0] + 0.01)) ** 0.25
    axes = directions[..., 0] - (directions[..., 0] * outward).sum(-1, keepdim=True) * outward
    # A voxel has more faces than the surface has area: two thirds of its square on average.
    return Worn(
        surface, outward, F.normalize(axes, dim=-1), stretch.clamp(1, MAX_STRETCH), (2 / 3) ** 0.5 * size
    )


def _seeds(
    points: Tensor, normals: Tensor, posed: PosedImages, telling: list[int], radius: float, tree: cKDTree
) -> Tensor:
    """Places [M,3] away from the mesh that no image shows empty: mesh points are followed outwards, the
    farthest such place counts."""
    masks = (posed.alphas[..., 0] > 0.5).flatten(1)
    cameras = posed.cameras
    found, there = torch.zeros_like(points), torch.zeros(len(points), dtype=torch.bool)
    for distance in torch.linspace(NEAR, FAR, STEPS) * radius:
        tried = points + distance * normals
        apart = torch.from_numpy(tree.query(tried.numpy(), workers=-1)[0]) > max(
            0.75 * float(distance), 0.9 * NEAR * radius
        )
        index = apart.nonzero()[:, 0]
        looks = torch.zeros(len(points), dtype=torch.long)
        for view in telling:
            if not len(index):
                break
            pixels, depth = cameras[view].project(tried[index])
            x, y = pixels[0].clamp(-1, 1e6).floor().long().unbind(-1)
            inside = (depth[0] > 1e-3) & (x >= 0) & (y >= 0) & (x < cameras.width) & (y < cameras.height)
            full = masks[view][(y * cameras.width + x).clamp(0, masks.shape[1] - 1)]
            looks[index[inside]] += 1
            index = index[~inside | full]
        index = index[looks[index] >= VIEWS]
        found[index], there[index] = tried[index], True
    return found[there]


def _cells_around(seeds: Tensor, size: float) -> Tensor:
    """Whole numbers [M,3] of the cells, four voxels wide, that hold seeds or are at most two away from one."""
    cells = torch.unique((seeds / (4 * size)).floor().long(), dim=0)
    around = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3)
    return torch.unique((cells[:, None] + around).reshape(-1, 3), dim=0)


def _carve(cells: Tensor, posed: PosedImages, telling: list[int], size: float) -> tuple[Tensor, Tensor]:
    """Surface points [M,3] of the visual hull within `cells`, and their outward unit normals.

    Voxels of edge `size` fall where an image shows them empty, by alpha between pixels. A surface voxel's
    normal points away from the middle of the full ones around it.
    """
    within = torch.cartesian_prod(*[torch.arange(4)] * 3)
    voxels = (4 * cells[:, None] + within).reshape(-1, 3)
    centres = (voxels.float() + 0.5) * size
    full, looks = torch.ones(len(voxels), dtype=torch.bool), torch.zeros(len(voxels), dtype=torch.int16)
    left = torch.arange(len(voxels))
    cameras = posed.cameras
    extent = torch.tensor([cameras.width, cameras.height])
    for view in telling:
        pixels, depth = cameras[view].project(centres[left])
        grid = pixels[0] / extent * 2 - 1
        inside = (depth[0] > 1e-3) & (grid.abs() < 1).all(-1)
        alpha = F.grid_sample(
            posed.alphas[view].permute(2, 0, 1)[None], grid[None, None], align_corners=False
        )[0, 0, 0]
        looks[left[inside]] += 1
        empty = inside & (alpha < 0.5)
        full[left[empty]] = False
        left = left[~empty]
    full &= looks >= VIEWS
    low = voxels.amin(0) - 1
    high = voxels.amax(0) - low + 2

    def number(at: Tensor) -> Tensor:
        x, y, z = (at - low).unbind(-1)
        return (x * high[1] + y) * high[2] + z

    carved = np.sort(number(voxels[~full]).numpy())
    kept, places = voxels[full], centres[full]
    on_surface = torch.zeros(len(kept), dtype=torch.bool)
    if len(carved) and len(kept) >= INNER:
        for step in torch.cat([torch.eye(3), -torch.eye(3)]).long():
            wanted = number(kept + step).numpy()
            at = np.searchsorted(carved, wanted).clip(max=len(carved) - 1)
            on_surface |= torch.from_numpy(carved[at] == wanted)
    surface = places[on_surface]
    if not len(surface):
        return surface, surface
    near = cKDTree(places.numpy()).query(surface.numpy(), INNER, workers=-1)[1]
    return surface, F.normalize(surface - places[torch.from_numpy(near)].mean(1), dim=-1)
