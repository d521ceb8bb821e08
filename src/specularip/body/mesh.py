"""Body: a posed mesh with skeleton, regions and skinning weights, independent of the body model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from specularip.body.regions import NAMES

CANDIDATES = 12
"""How many of the nearest sixteenths of triangles are searched for the nearest place."""


@dataclass(frozen=True)
class HeadEllipsoid:
    """The head as axis-aligned ellipsoids, for occlusion tests of joints.

    centre: [B,3], half_axes: [B,3], metres.
    """

    centre: Tensor
    half_axes: Tensor

    def to(self, device: torch.device | str) -> HeadEllipsoid:
        return HeadEllipsoid(self.centre.to(device), self.half_axes.to(device))


def fit_head(head_vertices: Tensor) -> HeadEllipsoid:
    """Ellipsoids of head vertices [B,V,3], from the box between the 1st and 99th percentile of each axis."""
    low, high = (torch.quantile(head_vertices.float(), q, dim=1) for q in (0.01, 0.99))
    return HeadEllipsoid((low + high) / 2, (high - low) / 2)


@dataclass(frozen=True)
class SurfaceSamples:
    """n samples on the surface.

    points [n,3]; normals [n,3], unit, outward; regions [n] int64; bind_joints [n,4] int64 and bind_weights
    [n,4] (rows sum to 1) for linear blend skinning; spacing [n], the side of a square of the area that one
    sample represents; faces [n] int64 and barycentric [n,3], its position on the mesh.
    """

    points: Tensor
    normals: Tensor
    regions: Tensor
    bind_joints: Tensor
    bind_weights: Tensor
    spacing: Tensor
    faces: Tensor
    barycentric: Tensor

    def select(self, index: Tensor) -> SurfaceSamples:
        """The samples at `index` (bool mask or indices)."""
        return SurfaceSamples(*(getattr(self, field.name)[index] for field in fields(self)))


@dataclass(frozen=True)
class Body:
    """A body in A-pose, z up, facing -y, mid-height at z = 0, metres.

    vertices [V,3]; faces [F,3] int64, counter-clockwise from outside; vertex_normals [V,3]; regions [V]
    int64, see `regions.NAMES`; joints [J,3] with joint_names and joint_parents (-1 for the root); skin_joints
    [V,K] int64 and skin_weights [V,K]; keypoints [18,3] in OpenPose's COCO order; head, the ellipsoid for
    occlusion tests (batch of one); height in metres; template [V,3], the position of each vertex on the
    default adult (None for models other than Anny).
    """

    vertices: Tensor
    faces: Tensor
    vertex_normals: Tensor
    regions: Tensor
    joints: Tensor
    joint_names: tuple[str, ...]
    joint_parents: tuple[int, ...]
    skin_joints: Tensor
    skin_weights: Tensor
    keypoints: Tensor
    head: HeadEllipsoid
    height: float
    template: Tensor | None = None

    def to(self, device: torch.device | str) -> Body:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor | HeadEllipsoid)}
        return Body(**{**values, **moved})

    def nearest_regions(self, points: Tensor) -> Tensor:
        """The region [N] of the skin nearest to each of points [N,3]. On the CPU."""
        triangles, barycentric, _ = nearest_places(points.detach(), self.vertices, self.faces)
        corners = self.faces[triangles]
        return self.regions[corners[torch.arange(len(points)), barycentric.argmax(1)]]

    def sample_surface(
        self,
        n: int,
        generator: torch.Generator | None = None,
        region_weights: Mapping[str, float] | Sequence[float] | Tensor | None = None,
    ) -> SurfaceSamples:
        """n samples with density proportional to `region_weights` (by name with default 1, or all ten in
        order).

        Stratified along the cumulative area, so that samples are even. The same generator
        state gives the same samples. Raises ValueError for n < 1 or weights that leave no surface.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        multipliers = _region_multipliers(region_weights)
        # On the CPU for any device, so that a seed gives the same samples everywhere.
        vertices, faces = self.vertices.double().cpu(), self.faces.cpu()
        corners = vertices[faces]
        face_normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area = face_normals.norm(dim=-1) / 2
        corner_regions = self.regions.cpu()[faces]
        weight = area * multipliers[corner_regions].mean(1)
        total = weight.sum()
        if not float(total) > 0:
            raise ValueError("region_weights leave no surface to sample")
        device = generator.device if generator is not None else torch.device("cpu")
        draw = torch.rand(n, 3, generator=generator, device=device, dtype=torch.float64).cpu()
        position = (torch.arange(n, dtype=torch.float64) + draw[:, 0]) / n * total
        picked = torch.searchsorted(weight.cumsum(0), position, right=True).clamp_max(len(faces) - 1)
        root = draw[:, 1].sqrt()
        barycentric = torch.stack([1 - root, root * (1 - draw[:, 2]), root * draw[:, 2]], -1)
        nearest = barycentric.argmax(1)
        chosen = faces[picked]
        normals = (barycentric[..., None] * self.vertex_normals.double().cpu()[chosen]).sum(1)
        bind_joints, bind_weights = _blend_skinning(
            self.skin_joints.cpu()[chosen], self.skin_weights.double().cpu()[chosen] * barycentric[..., None]
        )
        # The sample density here is n * (weight / area) / total.
        spacing = (total * area[picked] / (n * weight[picked])).sqrt()
        rows = torch.arange(n)
        samples = SurfaceSamples(
            points=(barycentric[..., None] * corners[picked]).sum(1).float(),
            normals=torch.nn.functional.normalize(normals, dim=-1).float(),
            regions=corner_regions[picked][rows, nearest],
            bind_joints=bind_joints,
            bind_weights=bind_weights.float(),
            spacing=spacing.float(),
            faces=picked,
            barycentric=barycentric.float(),
        )
        device = self.vertices.device
        return SurfaceSamples(**{f.name: getattr(samples, f.name).to(device) for f in fields(samples)})


def interpolate(values: Tensor, samples: SurfaceSamples, faces: Tensor) -> Tensor:
    """Per-vertex values [V,C] at surface samples, [n,C]; faces [F,3] are the body's."""
    return (values[faces[samples.faces]] * samples.barycentric[..., None]).sum(1)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals [...,V,3] of vertices [...,V,3] with faces [F,3]."""
    a, b, c = (vertices[..., faces[:, k], :] for k in range(3))
    face_normals = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(vertices)
    for k in range(3):
        normals.index_add_(-2, faces[:, k], face_normals)
    return torch.nn.functional.normalize(normals, dim=-1)


def centred(vertices: Tensor) -> tuple[Tensor, Tensor]:
    """The offset [...,1,3] that moves the mid-height of vertices [...,V,3] to z = 0, and the heights
    [...]."""
    top, bottom = vertices[..., 2].amax(-1), vertices[..., 2].amin(-1)
    offset = torch.zeros_like(vertices[..., :1, :])
    offset[..., 0, 2] = -(top + bottom) / 2
    return offset, top - bottom


def nearest_places(points: Tensor, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The places of a mesh nearest to points [n,3]: triangles [n], barycentric [n,3] and distances [n].

    vertices [V,3]; faces [F,3]. Exact among the triangles of which a sixteenth lies near. On the CPU.
    """
    parts = _sixteenths()
    middles = torch.einsum("pk,fkd->fpd", parts, vertices[faces]).flatten(0, 1)
    tree = cKDTree(middles.double().numpy())
    found = tree.query(points.double().numpy(), min(CANDIDATES, len(middles)), workers=-1)[1]
    triangles = torch.from_numpy(found) // len(parts)  # [n,CANDIDATES]
    corners = vertices[faces[triangles]]
    barycentric = closest_barycentric(points[:, None], corners)
    distances = ((barycentric[..., None] * corners).sum(-2) - points[:, None]).norm(dim=-1)
    distance, best = distances.min(1)
    rows = torch.arange(len(points))
    return triangles[rows, best], barycentric[rows, best], distance


def closest_barycentric(points: Tensor, corners: Tensor) -> Tensor:
    """Barycentric coordinates [...,3] of the point of each triangle [...,3,3] that is closest to points
    [...,3]: the foot of the perpendicular if it is within, else the closest on the three sides."""
    a, b, c = corners.unbind(-2)
    u, v, w = b - a, c - a, points - a
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    wu, wv = (w * u).sum(-1), (w * v).sum(-1)
    area = (uu * vv - uv * uv).clamp_min(1e-20)
    s, t = (vv * wu - uv * wv) / area, (uu * wv - uv * wu) / area
    inside = torch.stack([1 - s - t, s, t], -1)

    def on_side(k: int) -> Tensor:
        first, second = corners[..., k, :], corners[..., (k + 1) % 3, :]
        along = second - first
        share = ((points - first) * along).sum(-1) / (along * along).sum(-1).clamp_min(1e-20)
        result = torch.zeros_like(inside)
        result[..., (k + 1) % 3] = share.clamp(0, 1)
        result[..., k] = 1 - result[..., (k + 1) % 3]
        return result

    sides = torch.stack([on_side(k) for k in range(3)], -2)
    gaps = ((sides[..., None] * corners[..., None, :, :]).sum(-2) - points[..., None, :]).norm(dim=-1)
    best = gaps.argmin(-1)[..., None, None].expand(*gaps.shape[:-1], 1, 3)
    nearest_side = sides.gather(-2, best).squeeze(-2)
    return torch.where((inside >= 0).all(-1, keepdim=True), inside, nearest_side)


def _sixteenths() -> Tensor:
    """Barycentric coordinates [16,3] of the middles of the sixteen small triangles of a triangle."""
    upright = [(i, j, 3 - i - j) for i in range(4) for j in range(4 - i)]
    inverted = [(i, j, 2 - i - j) for i in range(3) for j in range(3 - i)]
    middles = [[(k + 1 / 3) / 4 for k in part] for part in upright]
    middles += [[(k + 2 / 3) / 4 for k in part] for part in inverted]
    return torch.tensor(middles)


def _region_multipliers(weights: Mapping[str, float] | Sequence[float] | Tensor | None) -> Tensor:
    if weights is None:
        return torch.ones(len(NAMES), dtype=torch.float64)
    if isinstance(weights, Mapping):
        unknown = sorted(set(weights) - set(NAMES))
        if unknown:
            raise ValueError(f"region_weights names unknown regions {unknown}; known: {', '.join(NAMES)}")
        weights = [weights.get(name, 1.0) for name in NAMES]
    result = torch.as_tensor(weights, dtype=torch.float64).cpu()
    if result.shape != (len(NAMES),) or bool((result < 0).any()):
        raise ValueError(f"region_weights must be {len(NAMES)} numbers >= 0, got {result.tolist()}")
    return result


def _blend_skinning(joints: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The four largest skinning weights of three corners: joints and weights [n,3,4] -> [n,4] and [n,4]."""
    dense = torch.zeros(len(joints), int(joints.max()) + 1, dtype=weights.dtype)
    dense.scatter_add_(1, joints.reshape(len(joints), -1), weights.reshape(len(joints), -1))
    top = dense.topk(4, dim=1)
    return top.indices, top.values / top.values.sum(1, keepdim=True)
