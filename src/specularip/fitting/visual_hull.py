"""Random initial points in the common field of view, within the visual hull of the silhouettes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from specularip.cameras import Cameras
from specularip.captures.scene import common_view, view_radius
from specularip.captures.views import View, as_float
from specularip.errors import UserError


def random_points(views: Sequence[View], count: int, generator: torch.Generator) -> Tensor:
    """`count` points [count,3], uniform over the space that at least half of the views (and at least two)
    see. Points that project to an empty pixel of any image are rejected, so that the rest fills the visual
    hull of the silhouettes. All on the CPU.

    Raises UserError if there is no such space, as with cameras that face away from each other.
    """
    center, radius = _field_of_view([view.camera for view in views])
    low, high = center - radius, center + radius
    needed = max(2, math.ceil(len(views) / 2))

    def draw(low: Tensor, high: Tensor, number: int) -> Tensor:
        points = low + (high - low) * torch.rand(number, 3, generator=generator)
        return points[_seen(points, views, needed)]

    scout = draw(low, high, 1 << 17)
    if len(scout) >= 100:
        # Sample the bounding box of the accepted points from now on, with a margin.
        margin = 0.1 * (scout.amax(0) - scout.amin(0)) + 1e-4 * radius
        low, high = torch.maximum(low, scout.amin(0) - margin), torch.minimum(high, scout.amax(0) + margin)
    found: list[Tensor] = []
    have, drawn, batch = 0, 0, max(1 << 16, min(2 * count, 1 << 18))
    while have < count and (have or drawn < 1 << 19) and drawn < 300 * count + 16 * batch:
        found.append(draw(low, high, batch))
        have, drawn = have + len(found[-1]), drawn + batch
    if have < count:
        raise UserError(
            "the cameras see no common object in their images: check the transforms, "
            "or add a body.npz or points3d.ply to initialise from"
        )
    return torch.cat(found)[:count]


def _field_of_view(cameras: Sequence[Cameras]) -> tuple[Tensor, Tensor]:
    """The point [3] that the cameras look at, and the radius that the widest view of those covers there."""
    center, _, inliers = common_view(cameras)
    reach = [view_radius(cameras[index], center) for index in inliers]
    return center.float(), torch.tensor(max(1e-3, *reach))


def _seen(points: Tensor, views: Sequence[View], needed: int) -> Tensor:
    """Indices of points [P,3] that at least `needed` cameras see and that project to no empty pixel."""
    kept = torch.arange(len(points))
    times = torch.zeros(len(points), dtype=torch.int64)
    for index, view in enumerate(views):
        camera = view.camera
        pixels, depth = camera.project(points[kept])
        x, y = pixels[0].floor().long().unbind(-1)
        inside = (depth[0] > 1e-3) & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
        times[kept] += inside
        keep = times[kept] + len(views) - 1 - index >= needed
        mask = view.pixels[y.clamp(0, camera.height - 1), x.clamp(0, camera.width - 1), 3:]
        keep &= ~inside | (as_float(mask)[:, 0] > 0.1)
        kept = kept[keep]
    return kept
