"""A person in a file of another program, registered to the body: turned upright, scaled, bound, and brought
to the body's own pose.

Feed-forward systems write a person in a second, in whatever axes, size and pose they work in, and without
highlights. Rendered from all sides, such a file is a capture like any other, to which the body is fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from specularip.avatar import Avatar
from specularip.baking.bake import harmonics_of
from specularip.body import Body
from specularip.body.binding import smooth_bindings
from specularip.body.mesh import nearest_places
from specularip.cameras import FULL, Cameras
from specularip.captures.views import PosedImages
from specularip.colors import Asgs
from specularip.errors import UserError
from specularip.export.splats import FAINTEST
from specularip.framing import extremes, frame_subject
from specularip.placement import Placement
from specularip.progress import Report, unheard
from specularip.registration.fit_body import POOR_OVERLAP, FittedBody, fit_body
from specularip.registration.normals import surface_normals
from specularip.registration.upright import moved, upright
from specularip.specular import shading_normals

HEIGHT = 1.7
"""Metres to which a person is scaled before the body is fitted, which decides."""
VIEWS, VIEW_SIZE = 24, 640
ELEVATIONS_DEG = (0.0, 25.0, -12.0)
LEAST = 1000
"""Fewer Gaussians are no person."""
THICKEST = 0.6
"""Smallest extent of a person who shows no face, relative to the largest."""


@dataclass(frozen=True)
class RegisteredSplats:
    """avatar: in the A-pose of `fitted.body` and in its world, bound to it, with the file's colours and
    normals of the surface. fitted: how the person of the file stands."""

    avatar: Avatar
    fitted: FittedBody


@torch.no_grad()
def register_splats(
    avatar: Avatar, name: str, note: Callable[[str], None], report: Report = unheard
) -> RegisteredSplats:
    """Register a person; avatar: as `load` reads it. name: of its file. note: receives lines for the user.

    Raises UserError if there is no person that the body fits to.
    """
    avatar = visible(avatar, name)
    turn, sure = upright(avatar)
    if not sure:
        _check_shape(avatar, name)
        note(f"no face found in {name}: which way is up, and where its front is, is a guess")
    standing = Placement(1.0, turn, torch.zeros(3))
    low, high = extremes(moved(avatar, standing).gaussians.means)
    scale = HEIGHT / max(float(high[2] - low[2]), 1e-9)
    standing = Placement(scale, turn, -scale * (low + high) / 2)
    fitted = fit_body(views_of(moved(avatar, standing)), report)
    if not fitted.faces and fitted.silhouette_iou < POOR_OVERLAP:
        raise UserError(
            f"{name} shows no person: there is no face in it, and the body does not fit its outline"
        )
    for line in fitted.notes:
        note(line)
    bound = _bound(moved(avatar, fitted.placement.inverse() @ standing), fitted)
    count = len(fitted.body.joints)
    rest = bound.posed(torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1))
    note(f"{name}: {len(rest.gaussians):,} Gaussians, brought to the body's pose; {fitted.described()}")
    return RegisteredSplats(_with_normals(rest, fitted.body), fitted)


def cameras_around(avatar: Avatar) -> Cameras:
    """VIEWS cameras that show the whole avatar from all sides."""
    distance, target = frame_subject(avatar.gaussians)
    azimuths = [360.0 * k / VIEWS for k in range(VIEWS)]
    elevations = [ELEVATIONS_DEG[k % len(ELEVATIONS_DEG)] for k in range(VIEWS)]
    return Cameras.orbit(azimuths, elevations, distance, FULL.fov_y_deg, VIEW_SIZE, VIEW_SIZE, target)


def views_of(avatar: Avatar) -> PosedImages:
    """The avatar as `cameras_around` it show it."""
    cameras = cameras_around(avatar)
    prepared = avatar.prepare()
    frames = [prepared.render(cameras[k], 0.0) for k in range(VIEWS)]
    images, alphas = (torch.cat([getattr(frame, name) for frame in frames]) for name in ("image", "alpha"))
    return PosedImages.of(cameras, images, alphas)


def transferred(points: Tensor, source: Body, target: Body) -> Tensor:
    """Points [N,3] around one body, around another in the same pose: they keep their offsets from the nearest
    places of the skin."""
    triangles, barycentric, _ = nearest_places(points, source.vertices, source.faces)
    shift = target.vertices - source.vertices
    return points + (barycentric[..., None] * shift[source.faces[triangles]]).sum(1)


def visible(avatar: Avatar, name: str) -> Avatar:
    """The Gaussians of an avatar that can be seen, with harmonics or Spherical Betas as colours, if any.

    name: of its file. Raises UserError where so few are left that they are no person.
    """
    if avatar.head is not None:
        avatar = avatar.baked("sh3")
    if isinstance(avatar.colors, Asgs):
        avatar = replace(avatar, colors=harmonics_of(avatar.colors))
    kept = avatar.gaussians.opacities > FAINTEST
    if int(kept.sum()) < LEAST:
        raise UserError(f"{name} has only {int(kept.sum())} visible Gaussians: that is no person")
    colors = avatar.colors
    if colors is not None:
        colors = type(colors)(**{key: rows[kept] for key, rows in colors.tensors().items()})
    return replace(avatar, gaussians=avatar.gaussians.select(kept), colors=colors, expressions=None)


def _check_shape(avatar: Avatar, name: str) -> None:
    """Raise UserError for what is as thick as it is long. A body is soft enough to fill even a cube."""
    low, high = extremes(avatar.gaussians.means)
    if float((high - low).min()) > THICKEST * float((high - low).max()):
        raise UserError(f"{name} shows no person: there is no face in it, and it is as thick as it is long")


def _bound(avatar: Avatar, fitted: FittedBody) -> Avatar:
    """The avatar as it stands, bound to the body that stands as it does."""
    cloud, body = avatar.gaussians, fitted.standing()
    joints, weights = smooth_bindings(cloud.means, cloud.diffuse, body)
    regions = body.nearest_regions(cloud.means)
    gaussians = replace(cloud, regions=regions, bind_joints=joints, bind_weights=weights)
    return replace(avatar, gaussians=gaussians, binding=fitted.binding)


def _with_normals(avatar: Avatar, body: Body) -> Avatar:
    """The Gaussians with residuals that make their shading normals those of the surface."""
    cloud = avatar.gaussians
    triangles, barycentric, _ = nearest_places(cloud.means, body.vertices, body.faces)
    outward = (barycentric[..., None] * body.vertex_normals[body.faces[triangles]]).sum(1)
    normals = surface_normals(cloud.means, cloud.opacities, outward)
    axis = shading_normals(replace(cloud, normal_residuals=torch.zeros_like(cloud.means)))
    return replace(avatar, gaussians=replace(cloud, normal_residuals=normals - axis))
