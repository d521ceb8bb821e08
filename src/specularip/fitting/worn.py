"""What is worn away from the body, necklaces and belts: found in the silhouettes, as the mesh lacks it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.gaussians import turned_to
from specularip.posed_images import PosedImages
from specularip.raster import rasterize

NEAR, FAR, STEPS = 0.013, 0.05, 14
"""Distances from the mesh, as shares of the body's largest radius, between which things may be worn."""
VIEWS = 2
"""Images that must show a place beside the mesh before it counts. Few silhouettes leave much room open in
front of the body and behind it; without this, splats would start all over there."""
VOXEL = 0.0025
"""Edge of the voxels that are carved there, as a share of the body's radius: some 2 mm."""
MAX_VOXELS = 4_000_000
"""Where more room than that is open, voxels are larger."""
INNER, SURFACE = 64, 24
"""Neighbours that tell the normal (voxels inside) and the curvature (on the surface): about 7 mm around."""
MAX_STRETCH = 3.0
MIN_SEEDS = 32
"""Fewer are chance."""
BARE_SIZE = 400
"""Pixels a side of the pictures of the mesh alone."""
CHUNK = 1 << 15
"""Places looked up at a time: what is worked out for them stays in the processor's cache."""


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
    """The surface of the visual hull where it reaches farther from the mesh than clothes do, and where images
    show that: beside the mesh, not in front of it or behind.

    points and normals [N,3] float32, of the mesh, on the CPU. Images without an empty pixel say nothing.
    """
    radius = float((points - points.mean(0)).norm(dim=-1).max())
    tree = cKDTree(points.numpy())
    telling = [view for view in range(len(posed)) if float(posed.alphas[view].min()) < 0.5]
    bare = _bare(points, normals, posed.cameras, telling, tree)
    seeds = _seeds(points, normals, posed, telling, bare, radius, tree)
    if len(seeds) < MIN_SEEDS:
        return _nothing()
    size = VOXEL * radius
    cells = _cells_around(seeds, size)
    while 64 * len(cells) > MAX_VOXELS:
        size *= 2
        cells = _cells_around(seeds, size)
    surface, outward = _carve(cells, posed, telling, size)
    apart = torch.from_numpy(tree.query(surface.numpy(), workers=-1)[0]) > 0.9 * NEAR * radius
    surface, outward = surface[apart], outward[apart]
    told = _told(surface, posed, telling, bare)
    surface, outward = surface[told], outward[told]
    if len(surface) < SURFACE:
        return _nothing()
    near = torch.from_numpy(cKDTree(surface.numpy()).query(surface.numpy(), SURFACE, workers=-1)[1])
    # How normals spread around a point: not at all along a tube, much across it. A splat's best length goes
    # with the root of the radius of curvature, and that radius is as one over the root of the spread.
    spread, directions = torch.linalg.eigh((outward[near].mT @ outward[near]) / SURFACE)
    stretch = ((spread[:, 1] + 0.01) / (spread[:, 0] + 0.01)) ** 0.25
    axes = directions[..., 0] - (directions[..., 0] * outward).sum(-1, keepdim=True) * outward
    # A voxel has more faces than the surface has area: two thirds of its square on average.
    return Worn(
        surface, outward, F.normalize(axes, dim=-1), stretch.clamp(1, MAX_STRETCH), (2 / 3) ** 0.5 * size
    )


def _nothing() -> Worn:
    none = torch.zeros(0, 3)
    return Worn(none, none, none, none[:, 0], 1.0)


def _bare(points: Tensor, normals: Tensor, cameras: Cameras, telling: list[int], tree: cKDTree) -> Tensor:
    """What the mesh alone covers, [T,1,h,w] in 0..1, small, for each of the T telling cameras."""
    spacing = float(np.median(tree.query(points.numpy(), 4, workers=-1)[0][:, 1:]))
    scale = min(1.0, BARE_SIZE / max(cameras.width, cameras.height))
    width, height = (max(1, round(side * scale)) for side in (cameras.width, cameras.height))
    flat = (spacing * torch.tensor([1.0, 1.0, 0.1])).expand(len(points), 3)
    ones, quats, cameras = torch.ones(len(points)), turned_to(normals), cameras.resized(width, height)
    alphas = torch.zeros(len(telling), 1, height, width)
    for row, camera in zip(alphas, (cameras[view] for view in telling)):
        drawn = rasterize(points, quats, flat, ones, ones[:, None], camera.viewmats, camera.Ks, width, height)
        row[0] = drawn.alpha[0, ..., 0]
    return alphas


def _seeds(
    points: Tensor,
    normals: Tensor,
    posed: PosedImages,
    telling: list[int],
    bare: Tensor,
    radius: float,
    tree: cKDTree,
) -> Tensor:
    """Places [M,3] away from the mesh where something is: mesh points are followed outwards, the farthest
    such place counts."""
    found, there = torch.zeros_like(points), torch.zeros(len(points), dtype=torch.bool)
    for distance in (torch.linspace(NEAR, FAR, STEPS) * radius).tolist():
        tried = points + distance * normals
        apart = torch.from_numpy(tree.query(tried.numpy(), workers=-1)[0])
        index = (apart > max(0.75 * distance, 0.9 * NEAR * radius)).nonzero()[:, 0]
        index = index[_shown(tried[index], posed, telling)[0]]
        index = index[_told(tried[index], posed, telling, bare)]
        found[index], there[index] = tried[index], True
    return found[there]


def _look(places: Tensor, camera: Cameras, alphas: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a camera sees places [M,3], and what alphas [1,h,w] has there, between its pixels; both [M]."""
    pixels, depth = camera.project(places)
    grid = pixels[0] / torch.tensor([camera.width, camera.height]) * 2 - 1
    inside = (depth[0] > 1e-3) & (grid.abs() < 1).all(-1)
    alpha = F.grid_sample(alphas[None], grid[None, None], padding_mode="border", align_corners=False)
    return inside, alpha[0, 0, 0]


def _shown(places: Tensor, posed: PosedImages, telling: list[int]) -> tuple[Tensor, Tensor]:
    """Which of places [M,3] at least VIEWS images show and none shows empty, and which some image shows
    empty, both bool [M]; the others are unknown."""
    empty, looks = torch.zeros(len(places), dtype=torch.bool), torch.zeros(len(places), dtype=torch.int32)
    for left in torch.arange(len(places)).split(CHUNK):
        for view in telling:
            inside, alpha = _look(places[left], posed.cameras[view], posed.alphas[view].permute(2, 0, 1))
            looks[left] += inside
            here = inside & (alpha < 0.5)
            empty[left[here]] = True
            left = left[~here]
    return ~empty & (looks >= VIEWS), empty


def _told(places: Tensor, posed: PosedImages, telling: list[int], bare: Tensor) -> Tensor:
    """Which of places [M,3], of those that no image shows empty, at least VIEWS images show beside the mesh,
    bool [M]: before or behind the mesh every pixel is full, whether something is worn or not."""
    times = torch.zeros(len(places), dtype=torch.int32)
    for view, alone in zip(telling, bare):
        inside, alpha = _look(places, posed.cameras[view], alone)
        times += inside & (alpha < 0.5)
    return times >= VIEWS


def _cells_around(seeds: Tensor, size: float) -> Tensor:
    """Whole numbers [M,3] of the cells, four voxels wide, with a seed in them or at most two cells away."""
    cells = torch.unique((seeds / (4 * size)).floor().long(), dim=0)
    for axis in torch.eye(3, dtype=torch.long):
        steps = torch.arange(-2, 3)[:, None] * axis
        cells = torch.unique((cells[:, None] + steps).reshape(-1, 3), dim=0)
    return cells


def _carve(cells: Tensor, posed: PosedImages, telling: list[int], size: float) -> tuple[Tensor, Tensor]:
    """Surface points [M,3] of the visual hull within `cells`, and their outward unit normals.

    Voxels of edge `size` fall where an image shows them empty; those beside them are the surface. Their
    normals point away from the middle of the full ones around them.
    """
    within = torch.cartesian_prod(*[torch.arange(4)] * 3)
    voxels = (4 * cells[:, None] + within).reshape(-1, 3)
    centres = (voxels.float() + 0.5) * size
    full, empty = _shown(centres, posed, telling)
    low = voxels.amin(0) - 1
    high = voxels.amax(0) - low + 2

    def number(at: Tensor) -> Tensor:
        x, y, z = (at - low).unbind(-1)
        return (x * high[1] + y) * high[2] + z

    carved = np.sort(number(voxels[empty]).numpy())
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
