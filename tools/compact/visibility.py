"""Shadows and ambient occlusion at the vertices of a person: depth maps from the lights and the sky.

Each direction gets one parallel depth map of the whole person. A vertex is compared with several of its
texels, so that shadows have soft edges (percentage-closer filtering, Reeves et al. 1987).
"""

from __future__ import annotations

import math

import torch
from studio import STUDIO, Lighting
from torch import Tensor
from zbuffer import Cutouts, draw

from specularip.raster.mesh import SUBPIXELS

MAP_SIZE = 768
SKY_DIRECTIONS = 24
OFFSET, BIAS = 0.004, 0.003
"""Metres that a vertex is lifted along its normal, and by which a surface must be in front to cast shadow."""
FAR = 100.0


def visibility(
    vertices: Tensor, normals: Tensor, faces: Tensor, cutouts: Cutouts, lighting: Lighting = STUDIO
) -> tuple[Tensor, Tensor]:
    """How much of each light, [n,L], and which cosine-weighted share of the sky, [n], vertices [n,3] see.

    normals [n,3] outward; faces [M,3] int32.
    """
    lights = [direction for direction, _, _ in lighting.lights]
    directions = torch.cat([vertices.new_tensor(lights), sphere(SKY_DIRECTIONS).to(vertices)])
    sizes = [max(size, 0.08) for _, _, size in lighting.lights] + [0.06] * SKY_DIRECTIONS
    open_ = _open(vertices, normals, faces, cutouts, directions, vertices.new_tensor(sizes))
    weights = (normals @ directions[len(lights) :].T).clamp_min(0) + 1e-4
    sky = (open_[:, len(lights) :] * weights).sum(1) / weights.sum(1)
    return open_[:, : len(lights)], sky


def sphere(count: int) -> Tensor:
    """Even unit directions [count,3]: a Fibonacci spiral."""
    index = torch.arange(count) + 0.5
    z, angle = 1 - 2 * index / count, index * math.pi * (3 - math.sqrt(5))
    radius = (1 - z**2).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], 1)


def _open(
    vertices: Tensor, normals: Tensor, faces: Tensor, cutouts: Cutouts, directions: Tensor, sizes: Tensor
) -> Tensor:
    """The unshadowed share [n,D] of lights in directions [D,3] whose sizes [D] set the filter's width."""
    center = (vertices.amax(0) + vertices.amin(0)) / 2
    radius = (vertices - center).norm(dim=1).max() + 0.02
    helper = torch.where(
        directions[:, 2:].abs() < 0.9, vertices.new_tensor([0, 0, 1.0]), vertices.new_tensor([1.0, 0, 0])
    )
    right = torch.nn.functional.normalize(torch.linalg.cross(helper, directions), dim=1)
    down = torch.linalg.cross(right, directions)
    frame = torch.stack([right, down], 1) * (0.5 * MAP_SIZE / radius)

    def project(points: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [D,n,2] in texels and nearness [D,n] in metres."""
        local = points - center
        position = torch.einsum("nk,dak->dna", local, frame) + 0.5 * MAP_SIZE
        return position, FAR + directions @ local.T

    position, nearness = project(vertices)
    points = (position * SUBPIXELS + 0.5).floor().int()
    _, nearest = draw(points, nearness, faces, cutouts, MAP_SIZE)
    position, nearness = project(vertices + OFFSET * normals)
    # The filter's radius, in texels: the penumbra of a blocker 15 cm away.
    spread = (sizes * 0.15 * 0.5 * MAP_SIZE / radius)[:, None]
    maps = nearest.flatten(1)
    open_ = torch.zeros_like(nearness)
    taps = [(0.0, 0.0), *((math.cos(a) * r, math.sin(a) * r) for a, r in _ring())]
    for dx, dy in taps:
        x = (position[..., 0] + dx * spread).long().clamp(0, MAP_SIZE - 1)
        y = (position[..., 1] + dy * spread).long().clamp(0, MAP_SIZE - 1)
        distance = math.hypot(dx, dy) * spread * (2 * radius / MAP_SIZE)
        blocked = maps.gather(1, y * MAP_SIZE + x) > nearness + BIAS + 0.6 * distance
        open_ += (~blocked).float()
    return (open_ / len(taps)).T


def _ring() -> list[tuple[float, float]]:
    """Angles and radii of 12 taps in the unit disk."""
    golden = math.pi * (3 - math.sqrt(5))
    return [(i * golden, math.sqrt((i + 0.5) / 12)) for i in range(12)]
