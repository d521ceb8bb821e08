"""The start of SEID from sampled views: flat Gaussians on the surface that the views agree on.

What no view shows (soles, armpits, the backs of hands between fingers, legs under a skirt) is taken from the
body's own surface, where that contradicts no view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from specularip.body import Body
from specularip.body.mesh import SurfaceSamples
from specularip.body.regions import NAMES
from specularip.cameras import FULL, HEAD, LOWER, UPPER, Cameras, Framing, Views
from specularip.gaussians import Gaussians, turned_to
from specularip.specular import LATENTS
from specularip.stages.fusion import (
    DepthViews,
    SurfacePoints,
    depth_views,
    fuse,
    look_up,
    spacings,
    thinned,
)
from specularip.stages.settings import FusionConfig

FINENESS = {"head": 0.45, "neck": 0.7, "hand": 0.6, "foot": 0.8}
"""Spacing of the Gaussians by region, relative to the rest: close-ups show the head, and hands are small."""
FLATNESS = (0.75, 0.75, 0.22)
"""Scales of a Gaussian in units of the spacing: together the disks are opaque, alone they are crisp."""
OPACITY_LOGIT = 3.0
BODY_SAMPLES = 60_000
"""Samples of the body's surface to which Gaussians are bound, about 6 mm apart."""
CLOTH_REACH = 0.06
"""Height in metres above the skin up to which a fused surface counts as the cloth that covers it."""

Orbit = tuple[Framing, tuple[float, ...]]
"""A framing and the azimuths in degrees of its views."""
ORBITS: tuple[Orbit, ...] = (
    (FULL, (0.0, 45.0, 90.0, 135.0, 180.0, -135.0, -90.0, -45.0)),
    (UPPER, (0.0, 120.0, -120.0)),
    (LOWER, (60.0, 180.0, -60.0)),
    (HEAD, (0.0, 180.0)),
)
ELEVATION_DEG = 8.0


@dataclass(frozen=True)
class StartViews:
    """The views that are sampled together, and the points [V,3] that their cameras look at."""

    views: Views
    targets: Tensor


def start_views(body_height: float, size: int, orbits: tuple[Orbit, ...] = ORBITS) -> StartViews:
    """Views of size x size pixels that show every side of the person, and the face in close-up."""
    plan = [(framing, azimuth) for framing, azimuths in orbits for azimuth in azimuths]
    framings = [framing for framing, _ in plan]
    azimuth = torch.tensor([azimuth for _, azimuth in plan])
    elevation = torch.full((len(plan),), ELEVATION_DEG)
    targets = torch.zeros(len(plan), 3)
    targets[:, 2] = torch.tensor([framing.target_z for framing in framings]) * body_height
    distance = torch.tensor([framing.distance for framing in framings]) * body_height
    fov = torch.tensor([framing.fov_y_deg for framing in framings])
    cameras = Cameras.orbit(azimuth, elevation, distance, fov, size, size, targets)
    return StartViews(Views(cameras, azimuth, elevation, framings), targets)


@torch.no_grad()
def gaussians_from_views(
    images: Tensor,
    cameras: Cameras,
    targets: Tensor,
    body: Body,
    max_points: int,
    seed: int,
    background: float = 0.6,
    config: FusionConfig | None = None,
) -> Gaussians:
    """At most `max_points` flat Gaussians on the surface that the views show, on the CPU.

    images [V,5,S,S] in 0..1: RGB over the grey `background`, alpha, and depth (`fusion.DEPTH_GAIN`); cameras
    of these views; targets [V,3], the points that they look at. Diffuse colours are the weighted median over
    the views, so that highlights, which few views see in one place, do not become part of them.
    """
    config = config or FusionConfig()
    body = body.to("cpu")
    views = depth_views(images, cameras, targets, background, config)
    generator = torch.Generator().manual_seed(seed)
    samples = body.sample_surface(BODY_SAMPLES, generator, {name: 1 / f for name, f in FINENESS.items()})
    surface = fuse(views, config)
    points, bound = _within_budget(views, surface, samples, body.height / 260, max_points, config)
    colors = _colors(views, points, config)
    spacing = spacings(points.positions)
    spacing = spacing.clamp(max=float(spacing.median()) * 3)
    return Gaussians(
        means=points.positions,
        quats=turned_to(points.normals),
        log_scales=torch.log(spacing[:, None] * torch.tensor(FLATNESS)),
        opacity_logits=torch.full((len(points),), OPACITY_LOGIT),
        color_logits=torch.logit(colors, eps=0.01),
        latents=torch.zeros(len(points), LATENTS),
        normal_residuals=torch.zeros(len(points), 3),
        regions=samples.regions[bound],
        bind_joints=samples.bind_joints[bound],
        bind_weights=samples.bind_weights[bound],
    )


def _within_budget(
    views: DepthViews,
    surface: SurfacePoints,
    samples: SurfaceSamples,
    spacing: float,
    max_points: int,
    config: FusionConfig,
) -> tuple[SurfacePoints, Tensor]:
    """The surface and its completion, evenly about `spacing` metres apart or, if those are too many, farther;
    and the body sample [P] that each point is bound to."""
    tree = cKDTree(samples.points.double().numpy())
    fineness = torch.ones(len(NAMES))
    for name, factor in FINENESS.items():
        fineness[NAMES.index(name)] = factor

    def nearest_sample(points: SurfacePoints) -> Tensor:
        return torch.from_numpy(tree.query(points.positions.double().numpy(), workers=-1)[1])

    fine = fineness[samples.regions[nearest_sample(surface)]]
    completion = _unseen_body(views, samples, config)
    while True:
        even = _joined([thinned(surface.select(fine == f), spacing * float(f)) for f in fine.unique()])
        points = _joined([even, _uncovered(completion, even, samples, fineness * spacing)])
        if len(points) <= max_points:
            return points, nearest_sample(points)
        spacing *= max(1.02, (len(points) / max_points) ** 0.5)


def _unseen_body(views: DepthViews, samples: SurfaceSamples, config: FusionConfig) -> Tensor:
    """The body samples that no view contradicts, as indices: not outside of a silhouette, and no view sees
    past them."""
    seen = look_up(views, samples.points, 0)
    tolerance = views.tolerances(config)[:, None]
    contradicted = (seen.framed & ~seen.inside) | (seen.surface & (seen.behind < -tolerance))
    return (~contradicted.any(0)).nonzero()[:, 0]


def _uncovered(
    rows: Tensor, surface: SurfacePoints, samples: SurfaceSamples, spacing_of: Tensor
) -> SurfacePoints:
    """Of the body samples `rows`, those without a point of the surface on or a little above them, thinned to
    the spacing of their region, `spacing_of` [regions] in metres."""
    positions, normals = samples.points[rows], samples.normals[rows]
    spacing = spacing_of[samples.regions[rows]]
    tree = cKDTree(surface.positions.double().numpy())
    index = torch.from_numpy(tree.query(positions.double().numpy(), 12, workers=-1)[1])
    offsets = surface.positions[index] - positions[:, None]
    height = (offsets * normals[:, None]).sum(-1)
    across = (offsets.square().sum(-1) - height.square()).clamp_min(0).sqrt()
    same = (surface.normals[index] * normals[:, None]).sum(-1) > 0
    covers = same & (across < 1.5 * spacing[:, None]) & (height > -2 * spacing[:, None])
    open_ = ~(covers & (height < CLOTH_REACH)).any(1)
    points = SurfacePoints(positions, normals, torch.ones(len(rows))).select(open_)
    spacing = spacing[open_]
    if not len(points):
        return points
    return _joined([thinned(points.select(spacing == s), float(s)) for s in spacing.unique()])


def _joined(parts: list[SurfacePoints]) -> SurfacePoints:
    return SurfacePoints(
        torch.cat([part.positions for part in parts]),
        torch.cat([part.normals for part in parts]),
        torch.cat([part.weights for part in parts]),
    )


def _colors(views: DepthViews, points: SurfacePoints, config: FusionConfig) -> Tensor:
    """Colours [P,3]: the median over the views that see a point, which count by how closely and squarely they
    do; where none does, the colour of the nearest point that one sees."""
    seen = look_up(views, points.positions, config.outline_tolerance)
    towards = F.normalize(views.cameras.positions[:, None] - points.positions, dim=-1)
    cosine = (towards * points.normals).sum(-1)
    visible = seen.surface & (seen.behind.abs() < views.tolerances(config)[:, None])
    weights = visible * (cosine - config.least_cosine).clamp_min(0) / views.pixel_sizes[:, None]
    colors = weighted_median(seen.colors, weights)
    known = weights.sum(0) > 0
    if bool(known.any()) and not bool(known.all()):
        tree = cKDTree(points.positions[known].double().numpy())
        nearest = tree.query(points.positions[~known].double().numpy(), workers=-1)[1]
        colors[~known] = colors[known][torch.from_numpy(nearest)]
    return colors


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted median over the first dimension, by channel: values [V,P,C], weights [V,P] -> [P,C]."""
    ordered, order = values.sort(dim=0)
    weight = weights[..., None].expand_as(values).gather(0, order)
    reached = weight.cumsum(0) >= 0.5 * weight.sum(0)
    return ordered.gather(0, reached.float().argmax(0, keepdim=True))[0]
