"""Where a fit starts: points on the mesh, on a given cloud, or anywhere in the silhouettes; their colours."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.fitting.worn import Worn, worn_things
from specularip.gaussians import turned_to
from specularip.posed_images import PosedImages, load_body_mesh, load_points, random_points
from specularip.raster import rasterize

FLATNESS = (0.7, 0.7, 0.15)
"""Scales of a Gaussian on a surface with a known normal, in spacings."""
OPACITY_LOGIT = 2.0
WORN_RAYS = 40_000
"""Points of the mesh followed outwards to find what is worn, about."""
WORN_DENSITY, WORN_SHARE, WORN_OPACITY_LOGIT = 2.5, 0.3, 0.0
"""How much closer points lie there than on the mesh, for thin round things mirror all of the room within
millimetres; of all points, how many at most. They start half transparent, for the hull of the silhouettes is
too wide where the body is hollow."""
DEPTH_TOLERANCE = 3.0
"""How far behind the rendered depth, in spacings, a point still counts as seen: clothes lie on the mesh."""


@dataclass
class Start:
    """N points on the way to Gaussians, on one device.

    points [N,3]; normals [N,3] unit, or None where nothing tells; spacing: metres between neighbours; quats
    [N,4], the third axis along the normal; log_scales [N,3]; opacity_logits [N]; source: "mesh", "points" or
    "random".
    """

    points: Tensor
    normals: Tensor | None
    spacing: float
    quats: Tensor
    log_scales: Tensor
    opacity_logits: Tensor
    source: str

    def __len__(self) -> int:
        return len(self.points)

    def fields(self) -> dict[str, Tensor]:
        """Copies, by their names in `Gaussians`."""
        return {
            "means": self.points.clone(),
            "quats": self.quats.clone(),
            "log_scales": self.log_scales.clone(),
            "opacity_logits": self.opacity_logits.clone(),
        }


def make_start(
    folder: str | os.PathLike[str], posed: PosedImages, count: int, generator: torch.Generator
) -> Start:
    """`count` points: even over the surface of body.npz, else of points3d.ply (repeated or thinned to fit),
    else even inside the silhouettes. On the CPU. Raises UserError as the loaders do."""
    mesh = load_body_mesh(folder)
    if mesh is not None:
        points, normals, area = sample_mesh(*mesh, count, generator)
        stride = max(1, count // WORN_RAYS)  # points lie in the order of the faces
        worn = worn_things(points[::stride], normals[::stride], posed)
        dense = WORN_DENSITY / math.sqrt(area / count)
        extra = min(int(len(worn) * (dense * worn.spacing) ** 2), int(WORN_SHARE * count))
        if extra:
            points, normals, _ = sample_mesh(*mesh, count - extra, generator)
        body = _on_surface(points, normals, math.sqrt(area / len(points)), "mesh")
        return _joined(body, _on_worn(worn, extra, generator)) if extra else body
    given = load_points(folder)
    if given is not None:
        own = len(given[0])
        order = torch.randperm(own, generator=generator)[torch.arange(count) % own]
        apart = torch.from_numpy(neighbour_distances(given[0].numpy())).float()
        # Copies share the room of one: their own distances would be 0.
        local = apart[order] * min(1.0, own / count) ** 0.5
        repeated = torch.arange(count) >= own
        shift = 0.5 * apart[order][:, None] * torch.randn(count, 3, generator=generator)
        points = given[0][order] + repeated[:, None] * shift  # twins must part, or they stay twins
    else:
        points = random_points(posed.cameras, count, generator, posed.alphas)
        local = torch.from_numpy(neighbour_distances(points.numpy())).float()
    spacing = float(local.median())
    size = local.clamp(0.3 * spacing, 3 * spacing)
    log_scales = torch.log(0.6 * size)[:, None].repeat(1, 3)
    quats = F.normalize(torch.randn(count, 4, generator=generator), dim=-1)
    source = "random" if given is None else "points"
    return Start(points, None, spacing, quats, log_scales, _opacities(count), source)


def _on_surface(points: Tensor, normals: Tensor, spacing: float, source: str) -> Start:
    log_scales = torch.log(torch.tensor(FLATNESS) * spacing).repeat(len(points), 1)
    quats, opacities = turned_to(normals), _opacities(len(points))
    return Start(points, normals, spacing, quats, log_scales, opacities, source)


def _on_worn(worn: Worn, count: int, generator: torch.Generator) -> Start:
    """`count` points on what is worn, repeated with a shift in the surface where that has fewer."""
    chosen = torch.randperm(max(count, len(worn)), generator=generator)[:count] % len(worn)
    spacing = worn.spacing * math.sqrt(len(worn) / count)
    normals = worn.normals[chosen]
    shift = 0.5 * spacing * torch.randn(count, 3, generator=generator)
    points = worn.points[chosen] + shift - (shift * normals).sum(-1, keepdim=True) * normals
    start = _on_surface(points, normals, spacing, "mesh")
    longer = 0.5 * worn.stretch[chosen].log()
    start.log_scales += torch.stack([longer, -longer, torch.zeros_like(longer)], -1)
    start.quats, start.opacity_logits[:] = turned_to(normals, worn.axes[chosen]), WORN_OPACITY_LOGIT
    return start


def _joined(a: Start, b: Start) -> Start:
    """Both, with the spacing and the source of the first."""
    if a.normals is None or b.normals is None:
        raise ValueError("points with normals only")
    return Start(
        points=torch.cat([a.points, b.points]),
        normals=torch.cat([a.normals, b.normals]),
        spacing=a.spacing,
        quats=torch.cat([a.quats, b.quats]),
        log_scales=torch.cat([a.log_scales, b.log_scales]),
        opacity_logits=torch.cat([a.opacity_logits, b.opacity_logits]),
        source=a.source,
    )


def sample_mesh(
    vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """Points [count,3], evenly spread by area, smooth unit normals [count,3], outwards whichever way the
    triangles turn, and the area of the mesh.

    vertices [V,3] float32, faces [F,3] int64.
    """
    corners = vertices.double()[faces]
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = cross.norm(dim=-1) / 2
    middles = corners.mean(1)
    middle = (areas[:, None] * middles).sum(0) / areas.sum()
    if float(((middles - middle) * cross).sum()) < 0:  # six times the volume
        cross = -cross
    vertex_normals = torch.zeros_like(vertices, dtype=torch.float64)
    for corner in range(3):
        vertex_normals.index_add_(0, faces[:, corner], cross)
    vertex_normals = F.normalize(vertex_normals, dim=-1)
    total = float(areas.sum())
    # One point in each of `count` equal stretches of the summed area: even, without clumps.
    at = (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) / count * total
    face = torch.searchsorted(areas.cumsum(0), at).clamp_max(len(faces) - 1)
    a, b = torch.rand(2, count, 1, generator=generator, dtype=torch.float64)
    a = a.sqrt()
    weights = torch.cat([1 - a, a * (1 - b), a * b], 1)
    points = (corners[face] * weights[..., None]).sum(1)
    normals = F.normalize((vertex_normals[faces[face]] * weights[..., None]).sum(1), dim=-1)
    return points.float(), normals.float(), total


def neighbour_distances(points: np.ndarray, count: int = 3) -> np.ndarray:
    """Mean distance of each point [N,3] to its `count` nearest others, [N]."""
    count = min(count, len(points) - 1)
    if count < 1:
        return np.full(len(points), 0.01)
    return cKDTree(points).query(points, count + 1, workers=-1)[0][:, 1:].mean(1).clip(1e-6)


def neighbours(points: Tensor, count: int) -> Tensor:
    """Indices [N,count] of each point's nearest others; points [N,3] on any device, NaN-free."""
    array = points.detach().cpu().double().numpy()
    count = min(count, len(array) - 1)
    found = cKDTree(array).query(array, count + 1, workers=-1)[1][:, 1:]
    return torch.from_numpy(found).to(points.device)


@dataclass
class Sightings:
    """What the training images show where each point should be: colors [V,N,3] float16, as in the images;
    seen [V,N] bool, whether the point lies in view and in front."""

    colors: Tensor
    seen: Tensor


@torch.no_grad()
def look_up(
    cloud: Mapping[str, Tensor],
    spacing: float,
    images: Tensor,
    cameras: Cameras,
    alphas: Tensor | None = None,
) -> Sightings:
    """The pixels of all Gaussians' centres in all images; hidden ones are found by the rendered depth.

    cloud: means, quats, log_scales and opacity_logits, as in `Gaussians`. images [V,H,W,3], alphas [V,H,W,1]:
    on any device, cameras on the cloud's. Pixels count if they are opaque, by alpha or else as drawn.
    """
    means, quats = cloud["means"].detach(), cloud["quats"].detach()
    scales, opacities = cloud["log_scales"].detach().exp(), cloud["opacity_logits"].detach().sigmoid()
    device, count = means.device, len(means)
    colors = torch.zeros(len(images), count, 3, dtype=torch.float16, device=device)
    seen = torch.zeros(len(images), count, dtype=torch.bool, device=device)
    white = torch.ones(count, 1, device=device)
    width, height = cameras.width, cameras.height
    for view in range(len(images)):
        camera = cameras[view]
        drawn = rasterize(
            means, quats, scales, opacities, white, camera.viewmats, camera.Ks, width, height,
            antialiased=True,
        )  # fmt: skip
        pixels, depth = camera.project(means)
        column, row = pixels[0].clamp(-1, 1e6).floor().long().unbind(-1)
        inside = (depth[0] > 1e-3) & (column >= 0) & (row >= 0) & (column < width) & (row < height)
        index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        surface = drawn.depth.reshape(-1)[index]
        alpha = drawn.alpha if alphas is None else alphas[view].to(device)
        seen[view] = inside & (alpha.reshape(-1)[index] > 0.95)
        seen[view] &= depth[0] < surface + DEPTH_TOLERANCE * spacing
        colors[view] = images[view].to(device).reshape(-1, 3)[index].half()
    return Sightings(colors, seen)


@torch.no_grad()
def quantile_colors(sightings: Sightings, share: float, points: Tensor) -> Tensor:
    """The colour [N,3] that a `share` of a point's sightings stay below, each channel for itself; a point
    that no image shows gets that of the nearest one that some shows (grey where none is)."""
    counts = sightings.seen.sum(0)
    rank = (share * (counts - 1).clamp_min(0)).round().long()
    channels = []
    for channel in range(3):
        values = torch.where(sightings.seen, sightings.colors[..., channel], torch.inf)
        channels.append(values.sort(0).values.gather(0, rank[None])[0].float())
    colors = torch.stack(channels, -1)
    known = counts > 0
    if not bool(known.any()):
        return torch.full_like(colors, 0.5)
    if bool(known.all()):
        return colors
    places = points.detach().cpu().numpy()
    mask = known.cpu().numpy()
    nearest = cKDTree(places[mask]).query(places[~mask], workers=-1)[1]
    colors[~known] = colors[known][torch.from_numpy(nearest).to(colors.device)]
    return colors


def _opacities(count: int) -> Tensor:
    return torch.full((count,), OPACITY_LOGIT)
