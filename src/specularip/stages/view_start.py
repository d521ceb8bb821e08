"""The start of SEID from sampled views: flat Gaussians on the surface that the views agree on.

What no view shows (soles, armpits, the backs of hands between fingers, legs under a skirt) is taken from the
body's own surface, where that contradicts no view.
"""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from specularip.body import Body
from specularip.body.mesh import SurfaceSamples
from specularip.body.regions import HAND, LOWER_ARM, LOWER_LEG, NAMES, UPPER_ARM
from specularip.body.regions import HEAD as HEAD_REGION
from specularip.cameras import FULL, HEAD, LOWER, UPPER, Cameras, Framing, Views
from specularip.gaussians import Gaussians, turned_to
from specularip.raster.mesh import rasterize_mesh
from specularip.specular import LATENTS
from specularip.stages.fusion import (
    DepthViews,
    SurfacePoints,
    fuse,
    joined,
    look_up,
    spacings,
    thinned,
)
from specularip.stages.photo_face import PhotoFace
from specularip.stages.settings import FusionConfig
from specularip.stages.view_colors import observe, weighted_median

FINENESS = {"head": 0.45, "neck": 0.7, "hand": 0.6, "foot": 0.8}
"""Spacing of the Gaussians by region, relative to the rest: close-ups show the head, and hands are small."""
FLATNESS = (0.75, 0.75, 0.22)
"""Scales of a Gaussian in units of the spacing: together the disks are opaque, alone they are crisp."""
UNSEEN_FINENESS = 2.0
"""The same for what no view shows, relative to its region."""
OPACITY_LOGIT = 3.0
BODY_SAMPLES = 70_000
SAMPLES_PER_AREA = {"head": 2.2, "neck": 1.4, "hand": 4.0, "foot": 1.25}
"""Samples of the body's surface to which Gaussians are bound, about 6 mm apart, and more of them where finer
Gaussians lie; on hands, which are covered with the samples themselves, enough to be thinned evenly."""
SPACING = 1 / 260
"""Spacing of the Gaussians in body heights, 6.5 mm, if their number allows it."""
COARSEST = 1.0
"""Spacing in metres above which a coarser grid leaves no fewer points."""
COVER_WIDTH, COVER_NEIGHBOURS = 2.0, 12
"""How far sideways a point of the surface covers the body, in spacings of the body's samples, and how many of
the nearest points are considered."""
HAND_NEIGHBOURS = 40
"""How many points of a hand have one colour: some four square centimetres."""
FACE_DEPTH, BROWS = 0.35, 0.25
"""Where the face begins, ahead of the ears, and where it ends, above the eyes, in lengths of the head from
ears to nose."""
FACE_FINENESS, HEAD_SAMPLES = 0.15, 300_000
"""The face's, for eyes and lips; and the samples of the head from which its surface is taken."""
SHOWN = 0.3
"""How far photos must determine what counts as part of the face."""
INSIDE_BEHIND = 0.004
"""What is so much further behind the surface, in metres, is inside of the head."""
FAR, FAR_FOV_DEG, FAR_SIZE = 8.0, 2.4, 512
"""The camera that tells: its distance in metres, field of view and side in pixels."""
LIMBS = (UPPER_ARM, LOWER_ARM, LOWER_LEG)
SKIN_REACH, RIM_REACH = 0.015, 0.003
"""Distance in metres from the skin of LIMBS within which a fused surface is moved onto it: bare skin, and
cloth that clings to it; and how far beside the face's rim a surface is the face's."""
CLOTH_REACH = 0.12
"""Height in metres above the skin up to which a fused surface counts as the cloth that covers it."""

Orbit = tuple[Framing, tuple[float, ...]]
"""A framing and the azimuths in degrees of its views."""
ORBITS: tuple[Orbit, ...] = (
    (FULL, (0.0, 45.0, 90.0, 135.0, 180.0, -135.0, -90.0, -45.0)),
    (UPPER, (0.0, 180.0)),
    (LOWER, (0.0, 180.0)),
    (HEAD, (0.0, 60.0, 180.0, -60.0)),
)
"""Sixteen views. With four of the head its outline is as clean as the body's; the sides of trunk and legs are
in the views of the whole body."""
ELEVATION_DEG = 8.0


def start_views(body_height: float, size: int, orbits: tuple[Orbit, ...] = ORBITS) -> Views:
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
    return Views(cameras, azimuth, elevation, framings, targets)


@torch.no_grad()
def gaussians_from_views(
    views: DepthViews,
    body: Body,
    max_points: int,
    seed: int,
    config: FusionConfig,
    photo: PhotoFace | None = None,
) -> Gaussians:
    """At most `max_points` flat Gaussians on the surface that the views show, on the CPU.

    photo: a painted head on the body; what it shows is skin.

    Diffuse colours are the weighted median over the views, so that highlights, which few views see in one
    place, do not become part of them.
    """
    body = body.to("cpu")
    generator = torch.Generator().manual_seed(seed)
    samples = body.sample_surface(BODY_SAMPLES, generator, SAMPLES_PER_AREA)
    tree = cKDTree(samples.points.double().numpy())

    def nearest_sample(points: SurfacePoints) -> Tensor:
        return torch.from_numpy(tree.query(points.positions.double().numpy(), workers=-1)[1])

    face = face_samples(body, generator, photo)
    surface = with_skin(fuse(views, config), samples, tree, face, photo)
    unseen = _unseen_body(views, surface, samples, config)
    whole = joined([surface, unseen])
    fineness = torch.ones(len(NAMES))
    for name, factor in FINENESS.items():
        fineness[NAMES.index(name)] = factor
    fine = fineness[samples.regions[nearest_sample(whole)]]
    fine[len(surface) :] *= UNSEEN_FINENESS
    fine[len(surface) - len(face.points) : len(surface)] = FACE_FINENESS
    points = within_budget(whole, fine, body.height * SPACING, max_points)
    bound = nearest_sample(points)
    colors = _colors(views, points, samples.regions[bound], config)
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


def face_samples(body: Body, generator: torch.Generator, photo: PhotoFace | None = None) -> SurfaceSamples:
    """Samples of the face: the front of the head below the brows and what the photo shows, without the inside
    of the mouth and of the eye sockets."""
    head = body.sample_surface(HEAD_SAMPLES, generator, {name: float(name == "head") for name in NAMES})
    nose, eyes, ears = (body.keypoints[rows].mean(0) for rows in ([0], [14, 15], [16, 17]))
    depth = float(ears[1] - nose[1])  # bodies face -y
    ahead = ears[1] - head.points[:, 1] > FACE_DEPTH * depth
    below = head.points[:, 2] < eyes[2] + BROWS * depth
    part = ahead & below
    if photo is not None:
        part |= photo.at(head.points, photo.known[:, None])[:, 0] > SHOWN
    face = head.select(part & (head.normals[:, 1] < 0))
    camera = Cameras.orbit(0.0, 0.0, FAR, FAR_FOV_DEG, FAR_SIZE, FAR_SIZE, (eyes + ears) / 2)
    nearest = rasterize_mesh(body.vertices, body.faces, camera).depth[0]
    at, distance = (values[0] for values in camera.project(face.points))
    column, row = at.floor().long().clamp(0, FAR_SIZE - 1).unbind(-1)
    return face.select(distance < nearest[row, column] + INSIDE_BEHIND)


def with_skin(
    surface: SurfacePoints,
    samples: SurfaceSamples,
    tree: cKDTree,
    face: SurfaceSamples,
    photo: PhotoFace | None = None,
) -> SurfacePoints:
    """The surface with the body's own hands and face, the last of the points, and with what lies close to the
    skin of a limb, or of the photo's jaw, moved onto it. tree: of the samples' points.

    Sampled views disagree by a finger's width about where an arm is, and the features of a face are doubled
    when they are projected onto a nose in another place; the body is exact. What lies further from the face
    than SKIN_REACH stays: hair, beards, hats.
    """
    positions = surface.positions.double().numpy()
    distance, index = (torch.from_numpy(x) for x in tree.query(positions, workers=-1))
    regions = samples.regions[index]
    bare = (regions[:, None] == torch.tensor(LIMBS)).any(1)
    if photo is not None:
        bare |= photo.at(samples.points, photo.likely[:, None])[index, 0] > SHOWN
    on_skin = (bare & (distance < SKIN_REACH))[:, None]
    moved = SurfacePoints(
        torch.where(on_skin, samples.points[index], surface.positions),
        torch.where(on_skin, samples.normals[index], surface.normals),
        surface.sizes,
        surface.weights,
    )
    distance, index = (
        torch.from_numpy(x) for x in cKDTree(face.points.double().numpy()).query(positions, workers=-1)
    )
    height = ((surface.positions - face.points[index]) * face.normals[index]).sum(-1)
    beside = (distance.square() - height.square()).clamp_min(0).sqrt()  # of the face's rim
    replaced = (regions == HAND) | ((distance < SKIN_REACH) & (beside < RIM_REACH))
    size, weight = surface.sizes.min(), surface.weights.median()

    def exact(part: SurfaceSamples) -> SurfacePoints:
        count = len(part.points)
        return SurfacePoints(part.points, part.normals, size.expand(count), weight.expand(count))

    return joined([moved.select(~replaced), exact(samples.select(samples.regions == HAND)), exact(face)])


def within_budget(points: SurfacePoints, fineness: Tensor, spacing: float, max_points: int) -> SurfacePoints:
    """Points thinned to `spacing` metres times their `fineness` [P], or more where too many would remain. Of
    the sides of parts, which no grid merges, those with the largest weights are kept."""
    groups = [(float(f), points.select(fineness == f)) for f in fineness.unique()]
    while True:
        even = joined([thinned(group, spacing * f) for f, group in groups])
        if len(even) <= max_points:
            return even
        if spacing > COARSEST:
            return even.select(even.weights.topk(max_points).indices.sort().values)
        spacing *= max(1.01, (len(even) / max_points) ** 0.5)


def _unseen_body(
    views: DepthViews, surface: SurfacePoints, samples: SurfaceSamples, config: FusionConfig
) -> SurfacePoints:
    """The body where no view shows the surface, and none contradicts the body: it is not outside of a
    silhouette, no view sees past it, and no cloth lies on it."""
    seen = look_up(views, samples.points, 0)
    tolerance = views.tolerances(config)[:, None]
    contradicted = (seen.framed & ~seen.inside) | (seen.surface & (seen.behind < -tolerance))
    rows = (~contradicted.any(0)).nonzero()[:, 0]
    positions, normals, spacing = samples.points[rows], samples.normals[rows], samples.spacing[rows]
    tree = cKDTree(surface.positions.double().numpy())
    index = torch.from_numpy(tree.query(positions.double().numpy(), COVER_NEIGHBOURS, workers=-1)[1])
    offsets = surface.positions[index] - positions[:, None]
    height = (offsets * normals[:, None]).sum(-1)
    across = (offsets.square().sum(-1) - height.square()).clamp_min(0).sqrt()
    same = (surface.normals[index] * normals[:, None]).sum(-1) > 0
    reach = COVER_WIDTH * spacing[:, None]
    covered = (same & (across < reach) & (height > -reach) & (height < CLOTH_REACH)).any(1)
    sizes = spacing.new_full((len(rows),), float(views.pixel_sizes.max()))
    points = SurfacePoints(positions, normals, sizes, torch.ones(len(rows)))
    return points.select(~covered)


def _colors(views: DepthViews, points: SurfacePoints, regions: Tensor, config: FusionConfig) -> Tensor:
    """Colours [P,3]: the median over the views that see a point, which count by how closely and squarely they
    do; where none does, the colour of the nearest point that one sees.

    regions [P]: of the body. On the head the best view decides alone, or nearly so, for the sake of eyes and
    lips; elsewhere there would be an edge where the best view changes. A hand in the views is never quite
    where the body's is, so that fingers have the colours of what is beside them: there the median over the
    neighbours counts.
    """
    seen_colors, squareness = observe(views, points.positions, points.normals, config)
    weights = squareness / views.pixel_sizes[:, None] ** 1.5
    weights = weights ** torch.where(regions == HEAD_REGION, 2.5, 1.0)
    colors = weighted_median(seen_colors, weights)
    known = weights.sum(0) > 0
    if bool(known.any()) and not bool(known.all()):
        tree = cKDTree(points.positions[known].double().numpy())
        nearest = tree.query(points.positions[~known].double().numpy(), workers=-1)[1]
        colors[~known] = colors[known][torch.from_numpy(nearest)]
    hand = regions == HAND
    colors[hand] = _smooth_colors(points.select(hand), colors[hand], known[hand])
    return colors


def _smooth_colors(points: SurfacePoints, colors: Tensor, known: Tensor) -> Tensor:
    """Colours [P,3], each replaced by the median over the neighbours that face the same way and are `known`
    [P] from a view."""
    count = min(HAND_NEIGHBOURS, len(points))
    if count < 2:
        return colors
    positions = points.positions.double().numpy()
    index = torch.from_numpy(cKDTree(positions).query(positions, count, workers=-1)[1]).T
    same = (points.normals[index] * points.normals).sum(-1).clamp_min(0.0)
    return weighted_median(colors[index], same * known[index] + 1e-6)
