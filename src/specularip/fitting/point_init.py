"""Initial points of a fit: on a mesh and its accessories, on a point cloud, or inside the silhouettes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from specularip.captures.views import PosedImages
from specularip.fitting.accessories import Accessories, find_accessories
from specularip.fitting.visual_hull import random_points
from specularip.gaussians import turned_to
from specularip.progress import Report, unheard

FLATNESS = (0.7, 0.7, 0.15)
"""Scales of a Gaussian on a surface with a known normal, in units of the spacing."""
OPACITY_LOGIT = 2.0
ACCESSORY_RAYS = 40_000
"""Approximate number of mesh points from which accessories are searched, along the normals."""
ACCESSORY_DENSITY, ACCESSORY_SHARE, ACCESSORY_OPACITY_LOGIT = 2.5, 0.3, 0.0
"""Points on accessories: how many times closer they lie than on the mesh, because thin round shapes reflect
the whole environment within millimetres; their largest share of all points; and their initial opacity, 0.5,
because the visual hull is too wide where the body is concave."""


@dataclass
class PointInit:
    """N points that become Gaussians, on one device.

    points [N,3]; normals [N,3] unit, or None where unknown; spacing: typical distance of neighbours in
    metres; quats [N,4] wxyz, the third axis along the normal; log_scales [N,3]; opacity_logits [N]; source:
    "mesh", "points", "random", or "init" for Gaussians of another program.
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

    def params(self) -> dict[str, Tensor]:
        """Copies, by their names in `Gaussians`."""
        return {
            "means": self.points.clone(),
            "quats": self.quats.clone(),
            "log_scales": self.log_scales.clone(),
            "opacity_logits": self.opacity_logits.clone(),
        }

    def to(self, device: torch.device | str) -> PointInit:
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def init_points(
    posed: PosedImages,
    count: int,
    generator: torch.Generator,
    mesh: tuple[Tensor, Tensor] | None = None,
    cloud: Tensor | None = None,
    report: Report = unheard,
) -> PointInit:
    """`count` points, on the CPU, in the world of the views: even over the surface of `mesh` and of
    accessories, else of `cloud` (repeated or subsampled), else even inside the silhouettes.

    mesh: vertices [V,3] float32 and faces [F,3] of the person in the images; cloud [P,3] float32; both in
    the world of the views. Raises UserError where the views see no common object.
    """
    if mesh is not None:
        points, normals, area = sample_mesh(*mesh, count, generator)
        stride = max(1, count // ACCESSORY_RAYS)  # points lie in the order of the faces
        found = find_accessories(points[::stride], normals[::stride], posed, report)
        dense = ACCESSORY_DENSITY / math.sqrt(area / count)
        extra = min(int(len(found) * (dense * found.spacing) ** 2), int(ACCESSORY_SHARE * count))
        if extra:
            points, normals, _ = sample_mesh(*mesh, count - extra, generator)
        bare = _on_surface(points, normals, math.sqrt(area / len(points)), "mesh")
        return _joined(bare, _on_accessories(found, extra, generator)) if extra else bare
    if cloud is not None:
        own = len(cloud)
        order = torch.randperm(own, generator=generator)[torch.arange(count) % own]
        distances = torch.from_numpy(neighbour_distances(cloud.numpy())).float()
        # Copies share the area of one point: the distance between them would be 0.
        local = distances[order] * min(1.0, own / count) ** 0.5
        repeated = torch.arange(count) >= own
        shift = 0.5 * distances[order][:, None] * torch.randn(count, 3, generator=generator)
        # Copies at one position have equal gradients and would never separate.
        points = cloud[order] + repeated[:, None] * shift
    else:
        points = random_points(posed.views, count, generator)
        local = torch.from_numpy(neighbour_distances(points.numpy())).float()
    spacing = float(local.median())
    size = local.clamp(0.3 * spacing, 3 * spacing)
    log_scales = torch.log(0.6 * size)[:, None].repeat(1, 3)
    quats = F.normalize(torch.randn(count, 4, generator=generator), dim=-1)
    source = "random" if cloud is None else "points"
    return PointInit(points, None, spacing, quats, log_scales, _opacities(count), source)


def _on_surface(points: Tensor, normals: Tensor, spacing: float, source: str) -> PointInit:
    log_scales = torch.log(torch.tensor(FLATNESS) * spacing).repeat(len(points), 1)
    quats, opacities = turned_to(normals), _opacities(len(points))
    return PointInit(points, normals, spacing, quats, log_scales, opacities, source)


def _on_accessories(found: Accessories, count: int, generator: torch.Generator) -> PointInit:
    """`count` points on accessories; those beyond len(found) are copies, shifted within the surface."""
    chosen = torch.randperm(max(count, len(found)), generator=generator)[:count] % len(found)
    spacing = found.spacing * math.sqrt(len(found) / count)
    normals = found.normals[chosen]
    shift = 0.5 * spacing * torch.randn(count, 3, generator=generator)
    points = found.points[chosen] + shift - (shift * normals).sum(-1, keepdim=True) * normals
    init = _on_surface(points, normals, spacing, "mesh")
    longer = 0.5 * found.stretch[chosen].log()
    init.log_scales += torch.stack([longer, -longer, torch.zeros_like(longer)], -1)
    init.quats = turned_to(normals, found.axes[chosen])
    init.opacity_logits[:] = ACCESSORY_OPACITY_LOGIT
    return init


def _joined(a: PointInit, b: PointInit) -> PointInit:
    """Both, with the spacing and the source of the first."""
    if a.normals is None or b.normals is None:
        raise ValueError("only points with normals can be joined")
    return PointInit(
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
    """Points [count,3], evenly spread by area, smooth unit normals [count,3], outwards whatever the winding
    of the triangles, and the area of the mesh.

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


def _opacities(count: int) -> Tensor:
    return torch.full((count,), OPACITY_LOGIT)
