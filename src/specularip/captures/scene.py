"""Where the subject of a capture stands, how large it is and which way is up, from its cameras and
silhouettes.

Programs that find cameras choose origin, unit and axes at will. A fit happens in the avatar's own world:
about the origin, in metres, z up. `settled` moves a capture there; one that is there already stays as it is,
bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.captures.views import PosedImages, View
from specularip.motion.quaternions import between, matrices
from specularip.placement import Placement

HEIGHT = 1.7
"""Metres that a subject of another size gets as its largest extent."""
CERTAIN_SIZES, CERTAIN_OFFSET = (0.5, 2.7), 0.25
"""Largest extents that are taken as metres, and distance of the centre from the origin, in extents, that is
left; of a subject whose outline is known."""
ROUGH_SIZES, ROUGH_OFFSET = (0.3, 6.0), 0.5
"""The same where only the cameras tell: they show what is around it too."""
TILT_DEG = 30.0
"""Up axes within this angle of z are taken as z."""
LOOKS_AWAY_DEG = 20.0
"""Cameras whose axis misses the centre by more than this, as seen from a typical camera, and by three times
the median, are outliers."""
LEVEL = math.sin(math.radians(20.0))
"""Sine of the largest angle between the horizon and the picture's edge that is along it."""
QUARTER_TURN = 0.7
"""How much a picture on its side counts for an up axis, relative to an upright one."""
NEARLY = 0.9
"""An axis agrees nearly as well as the best from this share of its agreement on."""
GRID, MAX_VIEWS = 48, 40
"""Points a side in which silhouettes are looked up, and views that are."""
MIN_SEEN, MIN_INSIDE = 0.3, 0.9
"""A point is the subject's if at least this share of the views has it in the picture, and this share of those
within the silhouette."""
FAR = 300.0
"""Cameras this many times farther from the origin than from each other are moved near it as they are read."""
LEAST_POINTS = 8
"""Fewer are no box."""
COVERED = 1.6
"""Extent of a subject of which nothing else is known, relative to the radius that the views cover."""
STRAY = 0.005
"""Share of the points on each side that a subject's box leaves out."""


@dataclass(frozen=True)
class Subject:
    """centre [3] and largest extent in the capture's units; up [3], unit; float64. certain: whether its
    outline is known, from silhouettes, mesh or points, rather than guessed from what the cameras look at."""

    centre: Tensor
    extent: float
    up: Tensor
    certain: bool


def exact_in_float32(positions: np.ndarray) -> Placement:
    """The shift about whose origin camera positions [V,3] float64 keep their precision in
    float32: the identity unless they are far from the origin compared with their distances."""
    middle = np.median(positions, 0)
    spread = float(np.median(np.linalg.norm(positions - middle, axis=1)))
    if np.linalg.norm(middle) <= FAR * spread:
        return Placement.identity()
    return Placement(1.0, torch.eye(3), torch.from_numpy(middle))


def settled(
    train: PosedImages, mesh: Tensor | None = None, cloud: Tensor | None = None
) -> tuple[PosedImages, str]:
    """The training views in the avatar's world (see `PosedImages.placement`), and a line for the user, ""
    where they are there already.

    mesh [V,3]: vertices of the subject's body, in the files' world; cloud [P,3]: points on it and perhaps on
    what is around it. The centre goes to the origin, the largest extent becomes HEIGHT unless it is that of
    something in metres, and up becomes z unless it is less than TILT_DEG off.
    """
    here = train.placement.inverse()
    mesh, cloud = (None if points is None else here.points(points) for points in (mesh, cloud))
    subject = find_subject(train.views, mesh, cloud)
    found = train.placement @ placement_of(subject, near_origin=train.placement.is_identity)
    if found.same_as(train.placement):
        return train, ""
    return train.placed(found), _described(subject, train.placement, found)


def placement_of(subject: Subject, near_origin: bool = True) -> Placement:
    """From the avatar's world to that of `subject`; the identity where both are alike. near_origin: whether a
    subject near the origin may stay where it is."""
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    sizes, offset = (CERTAIN_SIZES, CERTAIN_OFFSET) if subject.certain else (ROUGH_SIZES, ROUGH_OFFSET)
    scale = 1.0 if sizes[0] <= subject.extent <= sizes[1] else subject.extent / HEIGHT
    upright = float(subject.up[2]) >= math.cos(math.radians(TILT_DEG))
    rotation = torch.eye(3, dtype=torch.float64) if upright else matrices(between(z, subject.up))
    stays = near_origin and scale == 1.0 and float(subject.centre.norm()) <= offset * subject.extent
    return Placement(scale, rotation, torch.zeros(3) if stays else subject.centre)


def find_subject(views: Sequence[View], mesh: Tensor | None = None, cloud: Tensor | None = None) -> Subject:
    """The subject that `views` show: its box is that of the mesh [V,3], else of what lies within the
    silhouettes, else of the part of the cloud [P,3] that the cameras look at; else they tell alone. All in
    one world."""
    cameras = [view.camera for view in views]
    centre, radius, inliers = common_view(cameras)
    up = up_axis([cameras[k] for k in inliers], centre)
    axes = matrices(between(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), up))
    points = mesh
    if points is None:
        points = _inside_silhouettes([views[k] for k in inliers], centre, radius)
    if points is None and cloud is not None:
        near = cloud[(cloud - centre).norm(dim=-1) <= radius]
        points = near if 4 * len(near) >= len(cloud) else None
    if points is None or len(points) < LEAST_POINTS:
        return Subject(centre, COVERED * radius, up, certain=False)
    along = points @ axes  # columns of `axes`: of the upright world
    low, high = _box(along, 0.0 if points is mesh else STRAY)
    return Subject(axes @ ((low + high) / 2), float((high - low).max()), up, certain=True)


def common_view(cameras: Sequence[Cameras]) -> tuple[Tensor, float, list[int]]:
    """The point [3] float64 nearest to the optical axes in least squares; the radius that a typical view
    covers there; and the indices of the cameras that look at it: a few that stand or look elsewhere do not
    count."""
    positions = torch.cat([camera.positions for camera in cameras]).double()
    forward = torch.cat([camera.viewmats[:, 2, :3] for camera in cameras]).double()
    count = len(cameras)
    spread = (positions - positions.median(0).values).norm(dim=-1).median()
    centre = (positions + spread * forward).median(0).values
    for _ in range(30):  # to least absolute distances, which a few strays do not move
        miss = _miss(centre, positions, forward)
        weights = 1 / miss.clamp_min(1e-3 * float(miss.median()) + 1e-12)
        centre = nearest_to_axes(positions, forward, weights / weights.mean())
    # By distance: an axis from far away that passes by at a small angle would pull, too.
    miss, to_centre = _miss(centre, positions, forward), centre - positions
    reach = math.tan(math.radians(LOOKS_AWAY_DEG)) * float(to_centre.norm(dim=-1).median())
    keep = (miss <= max(reach, 3 * float(miss.median()))) & ((to_centre * forward).sum(-1) > 0)
    if 2 * int(keep.sum()) < count or count < 3:
        keep = torch.ones(count, dtype=torch.bool)
    centre = nearest_to_axes(positions[keep], forward[keep], torch.ones(int(keep.sum()), dtype=torch.float64))
    inliers = keep.nonzero()[:, 0].tolist()
    radius = median(view_radius(cameras[index], centre) for index in inliers)
    return centre, max(radius, 1e-6), inliers


def _miss(centre: Tensor, positions: Tensor, forward: Tensor) -> Tensor:
    """How far optical axes pass from a point, [V]."""
    to_centre = centre - positions
    return (to_centre - (to_centre * forward).sum(-1, keepdim=True) * forward).norm(dim=-1)


def view_radius(camera: Cameras, centre: Tensor) -> float:
    """Half the longer side of what one camera has in the picture at the depth of `centre` [3] float64."""
    row = camera.viewmats[0, 2].double()
    depth = max(0.0, float(row[:3] @ centre + row[3]))
    (fx, _, _), (_, fy, _), _ = camera.Ks[0].tolist()
    return depth * max(camera.width / fx, camera.height / fy) / 2


def nearest_to_axes(positions: Tensor, forward: Tensor, weights: Tensor) -> Tensor:
    """The point [3] with the least sum of weighted squared distances to lines through positions [V,3] along
    unit `forward` [V,3]; weights [V]. A weak pull to a point before the cameras settles parallel lines."""
    across = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None, :]
    across = weights[:, None, None] * across
    total = weights.sum()
    middle = (weights[:, None] * positions).sum(0) / total
    spread = (positions - middle).norm(dim=-1).median().clamp_min(1e-3)
    guess = middle + spread * (weights[:, None] * forward).sum(0) / total
    pull = 1e-6 * total
    system = across.sum(0) + pull * torch.eye(3, dtype=torch.float64)
    return torch.linalg.solve(system, (across @ positions[..., None]).sum(0)[:, 0] + pull * guess)


def up_axis(cameras: Sequence[Cameras], centre: Tensor) -> Tensor:
    """The direction [3] float64 that is up, by how the cameras were held.

    An upright picture's rows lie level, whichever way the camera looks, and its columns point up; of one on
    its side, the columns lie level. So the axis is sought that agrees with most pictures (`_agreement`).
    Looking steeply down changes nothing of that, nor do pictures on their side. Where z agrees nearly as
    well, it is z.
    """
    viewmats = torch.cat([camera.viewmats for camera in cameras]).double()
    right, up = viewmats[:, 0, :3], -viewmats[:, 1, :3]
    positions = torch.cat([camera.positions for camera in cameras]).double() - centre
    above = positions / positions.norm(dim=-1).median().clamp_min(1e-9)

    def agreement(axis: Tensor) -> float:
        return _agreement(axis, right, up) + 0.01 * float((above @ axis).mean().clamp(-1, 1))

    candidates = [*torch.eye(3, dtype=torch.float64), F.normalize(up.mean(0), dim=0)]
    for rows in (right, up, positions):
        candidates.append(_least(rows))
    candidates += [-axis for axis in candidates]
    best = max(candidates, key=agreement)
    # Then exactly across the level edges of the pictures that agree: the mean of what points up leans to
    # where the cameras are not.
    level = torch.where((right @ best).abs()[:, None] < LEVEL, right, up)
    agree = (level @ best).abs() < LEVEL
    finer = _least(level[agree]) if int(agree.sum()) >= 3 else best
    finer = finer if float(finer @ best) > 0 else -finer
    best = finer if agreement(finer) >= NEARLY * agreement(best) else best
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    return z if agreement(z) >= NEARLY * agreement(best) else best


def _agreement(axis: Tensor, right: Tensor, up: Tensor) -> float:
    """How well an up axis [3] suits pictures with these `right` and `up` directions [V,3], 0 to 1."""
    across, along = right @ axis, up @ axis
    upright = torch.where(across.abs() < LEVEL, along, 0.0)
    turned = torch.where(along.abs() < LEVEL, QUARTER_TURN * across.abs(), 0.0)
    return float(torch.maximum(upright, turned).mean())


def _least(rows: Tensor) -> Tensor:
    """The unit direction [3] along which vectors [V,3] are shortest in least squares."""
    direction: Tensor = torch.linalg.eigh(rows.T @ rows)[1][:, 0]
    return direction


def _box(points: Tensor, stray: float) -> tuple[Tensor, Tensor]:
    """The lowest and highest coordinates [3] of points [P,3], a share `stray` of them on each side aside."""
    ordered = points.sort(0).values
    cut = int(stray * len(points))
    return ordered[cut], ordered[len(points) - 1 - cut]


def _inside_silhouettes(views: Sequence[View], centre: Tensor, radius: float) -> Tensor | None:
    """Points [P,3] float64 of a grid about `centre` that the views with silhouettes show as the subject; None
    without such views."""
    outlined = [view for view in views if bool((view.alpha < 0.5).any())]
    if len(outlined) < 3 or 2 * len(outlined) < len(views):
        return None
    outlined = outlined[:: math.ceil(len(outlined) / MAX_VIEWS)]
    low, high = centre - 1.5 * radius, centre + 1.5 * radius
    found = centre[None][:0]
    for _ in range(2):  # then once more, within what was found
        steps = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
        grid = low + (high - low) * torch.cartesian_prod(steps, steps, steps)
        found = grid[_is_subject(grid, outlined)]
        if len(found) < LEAST_POINTS:
            return None
        cell = (high - low) / GRID
        low, high = found.amin(0) - cell, found.amax(0) + cell
    return found


def _is_subject(points: Tensor, views: Sequence[View]) -> Tensor:
    """Which of points [P,3] enough views have in the picture, and enough of those within the silhouette."""
    seen = torch.zeros(len(points))
    inside = torch.zeros(len(points))
    for view in views:
        camera = view.camera
        pixels, depth = camera.project(points.to(camera.viewmats))
        column, row = pixels[0].clamp(-1, 1e6).floor().long().unbind(-1)
        there = (depth[0] > 0) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
        seen += there
        shown = view.pixels[row.clamp(0, camera.height - 1), column.clamp(0, camera.width - 1), 3]
        inside += there & (shown > (0.5 if view.pixels.is_floating_point() else 127))
    return (seen >= max(2.0, MIN_SEEN * len(views))) & (inside >= MIN_INSIDE * seen)


def _described(subject: Subject, world: Placement, found: Placement) -> str:
    """What was estimated, in the files' units."""
    size, away = world.scale * subject.extent, float(world.points(subject.centre).norm())
    x, y, z = (world.rotation @ subject.up).tolist()
    about = "" if subject.certain else "about "
    parts = [f"stands {away:.3g} units from the origin", f"is {about}{size:.3g} units large"]
    if not torch.equal(found.rotation, torch.eye(3, dtype=torch.float64)):
        parts.append(f"has ({x:.2f}, {y:.2f}, {z:.2f}) for up")
    words = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return (
        f"the subject {words}: fitted about the origin, in metres, with z up; "
        "files for other programs are in the capture's world"
    )
