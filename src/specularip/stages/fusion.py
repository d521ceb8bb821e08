"""Surface points from views with depth: unprojection, agreement between the views, one layer from many.

Views that a diffusion model drew agree only roughly: depths differ by centimetres and outlines by a pixel. A
pixel becomes a point; a point stays if it lies within the silhouettes of the other views and they do not see
past it; and points that face the same way are moved along their normals onto their local weighted mean
(moving least squares of degree 0: Alexa et al., "Point Set Surfaces", 2001), which merges the views' layers
but never the two sides of a thin part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.errors import UserError
from specularip.stages.settings import FusionConfig

DEPTH_GAIN = 1.25
"""The depth channel is 0.5 + DEPTH_GAIN (z / t - 1): z the depth, t the camera's distance from its target."""
CLIPPED = 0.01
"""Depth codes this close to 0 or 1 may have been clipped."""
SOLID = 0.5
"""Alpha above which a pixel belongs to the person."""
FEWEST = 16
"""Points of a surface at least: fewer have no neighbourhoods."""


@dataclass(frozen=True)
class DepthViews:
    """V views of SxS pixels of one person, on the CPU.

    colors [V,3,S,S] in 0..1, without the background; alphas [V,S,S]; depths [V,S,S], metres along the
    optical axis, valid where `solid` [V,S,S]; normals [V,3,S,S], unit, towards the camera; surface [V,S,S]
    bool: solid, and neither at an outline nor at a step in depth, where a pixel mixes two surfaces; distances
    [V] of the cameras from their targets; cameras.
    """

    colors: Tensor
    alphas: Tensor
    depths: Tensor
    normals: Tensor
    solid: Tensor
    surface: Tensor
    distances: Tensor
    cameras: Cameras

    def tolerances(self, config: FusionConfig) -> Tensor:
        """By how much the depths of each view may be wrong, [V] metres."""
        return (config.depth_tolerance * self.distances).clamp_min(config.least_tolerance)

    @property
    def pixel_sizes(self) -> Tensor:
        """Side in metres of a pixel at the target, [V]."""
        return self.distances / self.cameras.Ks[:, 0, 0]


@dataclass(frozen=True)
class SurfacePoints:
    """P oriented points: positions [P,3]; unit outward normals [P,3]; sizes [P]: of the pixels that they are
    from, in metres; weights [P]: confidence, relative."""

    positions: Tensor
    normals: Tensor
    sizes: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def select(self, index: Tensor) -> SurfacePoints:
        """The points at `index` (bool mask or indices)."""
        return SurfacePoints(*(getattr(self, field.name)[index] for field in fields(self)))


def depth_views(
    images: Tensor, cameras: Cameras, targets: Tensor, background: float, config: FusionConfig
) -> DepthViews:
    """Decode images [V,5,S,S]: RGB over a grey background, alpha, and depth (see DEPTH_GAIN; empty: 0.5).

    targets [V,3]: the points that the cameras look at. Colours of pixels that are partly background are
    unmixed. Depths at the ends of their range are not measured: an arm that reaches towards a camera can be
    nearer than the channel can say.
    """
    images, cameras = images.detach().float().cpu(), cameras.to("cpu")
    distances = (cameras.positions - targets.cpu()).norm(dim=-1)
    alphas = images[:, 3].clamp(0, 1)
    part = alphas.clamp_min(SOLID)[:, None]
    colors = ((images[:, :3] - background * (1 - part)) / part).clamp(0, 1)
    code = images[:, 4]
    solid = alphas > SOLID
    depths = distances[:, None, None] * (1 + (code - 0.5) / DEPTH_GAIN)
    smooth = _smooth(depths, solid, config.depth_blur)
    pixel = (distances / cameras.Ks[:, 0, 0])[:, None, None]
    measured = (code > CLIPPED) & (code < 1 - CLIPPED)
    surface = solid & measured & ~_steps(depths, solid, config.steepest * pixel)
    return DepthViews(
        colors=colors,
        alphas=alphas,
        depths=torch.where(solid, smooth, depths),
        normals=surface_normals(smooth, solid, cameras),
        solid=solid,
        surface=surface,
        distances=distances,
        cameras=cameras,
    )


def _smooth(depths: Tensor, solid: Tensor, radius: int) -> Tensor:
    """Depths [V,S,S], each averaged over the solid pixels of a square whose depth is within reach of its own:
    a bilateral filter with box weights."""
    size = 2 * radius + 1
    reach = 0.012 * depths.abs()
    padded, mask = (F.pad(t.float()[:, None], [radius] * 4)[:, 0] for t in (depths, solid))
    total, count = torch.zeros_like(depths), torch.zeros_like(depths)
    height, width = depths.shape[1:]
    for y in range(size):
        for x in range(size):
            other = padded[:, y : y + height, x : x + width]
            weight = mask[:, y : y + height, x : x + width] * ((other - depths).abs() < reach)
            total += weight * other
            count += weight
    return torch.where(count > 0, total / count.clamp_min(1), depths)


def _steps(depths: Tensor, solid: Tensor, steepest: Tensor) -> Tensor:
    """Pixels [V,S,S] next to the background, or to a depth that differs by more than `steepest` [V,1,1]."""
    far = torch.where(solid, depths, -torch.inf)[:, None]
    near = torch.where(solid, -depths, -torch.inf)[:, None]
    spread = F.max_pool2d(far, 3, 1, 1) + F.max_pool2d(near, 3, 1, 1)
    outline = F.max_pool2d((~solid).float()[:, None], 3, 1, 1)
    return ((spread > 2 * steepest[:, None]) | (outline > 0))[:, 0]


def unproject(depths: Tensor, cameras: Cameras) -> Tensor:
    """World positions [V,S,S,3] of the pixels' surface points; depths [V,S,S]."""
    rows, columns = (torch.arange(size) + 0.5 for size in depths.shape[1:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    K = cameras.Ks[:, :, :, None, None]
    in_view = torch.stack(
        [(x - K[:, 0, 2]) / K[:, 0, 0] * depths, (y - K[:, 1, 2]) / K[:, 1, 1] * depths, depths], -1
    )
    rotation, translation = cameras.viewmats[:, :3, :3], cameras.viewmats[:, :3, 3]
    return (in_view - translation[:, None, None]) @ rotation[:, None]


def surface_normals(depths: Tensor, solid: Tensor, cameras: Cameras) -> Tensor:
    """Unit normals [V,3,S,S] towards the camera from central differences, one-sided at outlines."""
    points = unproject(depths, cameras)

    def difference(dim: int) -> Tensor:
        ahead, behind = points.roll(-1, dim), points.roll(1, dim)
        has_ahead, has_behind = solid.roll(-1, dim)[..., None], solid.roll(1, dim)[..., None]
        return torch.where(has_ahead, ahead, points) - torch.where(has_behind, behind, points)

    normals = F.normalize(torch.linalg.cross(difference(1), difference(2)), dim=-1)
    towards = cameras.positions[:, None, None] - points
    flipped = (normals * towards).sum(-1, keepdim=True) < 0
    return torch.where(flipped, -normals, normals).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Seen:
    """What V views show where P points project: colors [V,P,3]; signed distance `behind` [V,P] of the point
    behind the view's surface in metres; inside [V,P]: on the person, up to the tolerance of outlines; framed
    [V,P]: in the image; surface [V,P]: on a reliable depth."""

    colors: Tensor
    behind: Tensor
    inside: Tensor
    framed: Tensor
    surface: Tensor


def look_up(views: DepthViews, points: Tensor, outline_tolerance: int) -> Seen:
    """Project points [P,3] to all views and read the nearest pixels. outline_tolerance: pixels by which a
    point may be outside of the person."""
    size = views.alphas.shape[-1]
    pixels, depth = views.cameras.project(points)
    column, row = pixels.floor().long().unbind(-1)
    framed = (depth > 0.01) & (column >= 0) & (row >= 0) & (column < size) & (row < size)
    index = (row.clamp(0, size - 1) * size + column.clamp(0, size - 1)).clamp(0, size * size - 1)
    grown = F.max_pool2d(views.alphas[:, None], 2 * outline_tolerance + 1, 1, outline_tolerance)[:, 0]

    def read(maps: Tensor) -> Tensor:
        return maps.flatten(1).gather(1, index)

    return Seen(
        colors=torch.stack([read(views.colors[:, c]) for c in range(3)], -1),
        behind=depth - read(views.depths),
        inside=(read(grown) > SOLID) & framed,
        framed=framed,
        surface=read(views.surface) & framed,
    )


def fuse(views: DepthViews, config: FusionConfig) -> SurfacePoints:
    """The surface that the views agree on, one layer of oriented points. Raises UserError for none."""
    rows = views.surface.nonzero()
    view, y, x = rows.unbind(-1)
    positions = unproject(views.depths, views.cameras)[view, y, x]
    normals = views.normals.permute(0, 2, 3, 1)[view, y, x]
    towards = F.normalize(views.cameras.positions[view] - positions, dim=-1)
    cosine = (normals * towards).sum(-1)
    # Square on and close by is precise: the variance of a depth grows with the size of its pixel.
    sizes = views.pixel_sizes[view]
    weights = cosine.square() / sizes
    keep = (cosine > config.least_cosine) & agreed(views, positions, view, config)
    points = _enough(SurfacePoints(positions, normals, sizes, weights).select(keep))
    points = thinned(points, config.fine_voxel)
    for _ in range(config.passes):
        points = _enough(_consolidated(points, config))
    return points


def _enough(points: SurfacePoints) -> SurfacePoints:
    """The points. Raises UserError if they are too few for a surface."""
    if len(points) < FEWEST:
        raise UserError(
            "the sampled views agree on no surface: use another --seed or text, or wider tolerances "
            "(start.fusion.depth_tolerance, start.fusion.least_tolerance, start.fusion.merge_radius)"
        )
    return points


def agreed(views: DepthViews, positions: Tensor, source: Tensor, config: FusionConfig) -> Tensor:
    """Which points [P] are within the silhouettes, and more views confirm than see past; [P] bool.

    source [P]: the view that each point is from.
    """
    seen = look_up(views, positions, config.outline_tolerance)
    tolerance = torch.maximum(views.tolerances(config)[:, None], views.tolerances(config)[source])
    other = torch.arange(len(views.alphas))[:, None] != source
    outside = (seen.framed & ~seen.inside & other).sum(0)
    confirmed = (seen.surface & (seen.behind.abs() < tolerance) & other).sum(0)
    seen_past = (seen.surface & (seen.behind < -tolerance) & other).sum(0)
    return (outside <= confirmed // config.confirmations_per_outside) & (seen_past <= confirmed)


def joined(parts: Sequence[SurfacePoints]) -> SurfacePoints:
    """All the points of `parts`."""
    names = [field.name for field in fields(SurfacePoints)]
    return SurfacePoints(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def thinned(points: SurfacePoints, voxel: float) -> SurfacePoints:
    """Weighted means over the cells of a grid of this size in metres; a cell has six compartments, one for
    each direction that a normal can point along most, so that the sides of thin parts stay apart."""
    cells = (points.positions / voxel).floor().long()
    cells -= cells.amin(0)
    axis = points.normals.abs().argmax(-1)
    sign = points.normals.gather(1, axis[:, None])[:, 0] > 0
    extent = cells.amax(0) + 1
    code = ((cells[:, 0] * extent[1] + cells[:, 1]) * extent[2] + cells[:, 2]) * 6 + 2 * axis + sign
    group = code.unique(return_inverse=True)[1]
    count = int(group.max()) + 1

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(count, *values.shape[1:]).index_add_(0, group, values)

    weights = total(points.weights)
    positions = total(points.positions * points.weights[:, None]) / weights[:, None]
    normals = F.normalize(total(points.normals * points.weights[:, None]), dim=-1)
    return SurfacePoints(positions, normals, total(points.sizes * points.weights) / weights, weights)


def _consolidated(points: SurfacePoints, config: FusionConfig) -> SurfacePoints:
    """Points moved along their normals onto the weighted mean of their neighbours that face the same way, and
    with the mean of their normals; without the isolated ones."""
    array = points.positions.double().numpy()
    radius = config.merge_radius
    _, index = cKDTree(array).query(array, config.neighbours, distance_upper_bound=radius, workers=-1)
    index = torch.from_numpy(index)
    real = index < len(points)
    index = torch.where(real, index, 0)
    offsets = points.positions[index] - points.positions[:, None]
    along = (offsets * points.normals[:, None]).sum(-1)
    across = (offsets.square().sum(-1) - along.square()).clamp_min(0)
    same = (points.normals[index] * points.normals[:, None]).sum(-1)
    weight = real * points.weights[index] * (same - 0.3).clamp_min(0)
    weight = weight * torch.exp(-across / (2 * (config.merge_sigma * points.sizes[:, None]).square()))
    total = weight.sum(1).clamp_min(1e-12)
    shift = (weight * along).sum(1) / total
    normals = F.normalize((weight[..., None] * points.normals[index]).sum(1), dim=-1)
    positions = points.positions + shift[:, None] * points.normals
    moved = SurfacePoints(positions, normals, points.sizes, points.weights)
    return moved.select((weight > 0).sum(1) >= config.least_neighbours)


def spacings(positions: Tensor, count: int = 4) -> Tensor:
    """Root mean square distance of each point [P,3] to its `count` nearest others over sqrt(2), about the
    side of the square that it represents; [P] metres."""
    array = positions.double().numpy()
    near, _ = cKDTree(array).query(array, count + 1, workers=-1)
    return torch.from_numpy(np.sqrt((near[:, 1:] ** 2).mean(1))).float()
