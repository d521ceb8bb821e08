"""Initial points of a fit from 3D Gaussians that another program wrote, of the same person.

Those that were made from the same images lie where the images show them. Any others are brought there by way
of the body: to its A-pose, to the shape of the person in the images, and into that person's stance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.avatar import Avatar, load
from specularip.captures.views import PosedImages
from specularip.fitting.point_init import PointInit, neighbour_distances
from specularip.gaussians import Binding, Gaussians
from specularip.placement import Placement
from specularip.progress import Report, unheard
from specularip.registration.fit_body import FittedBody
from specularip.registration.normals import surface_normals
from specularip.registration.splats import register_splats, transferred, visible
from specularip.registration.upright import moved
from specularip.specular import shading_normals

COMPARED, COMPARED_SIZE = 8, 200
"""Views in which outlines are compared, and their longest side in pixels."""
SAME = 0.6
"""Least intersection over union of outlines of the same person in the same place."""


@dataclass(frozen=True)
class Given:
    """avatar: what was in the file `name`. in_place: whether it lies in the capture's world where the images
    show the person; else it is to be brought there."""

    avatar: Avatar
    name: str
    in_place: bool

    @staticmethod
    def read(path: str | Path, views: PosedImages) -> Given:
        """Any file that `avatar.load` reads, and errors as there. Where the images have no outlines, as they
        have no alpha, it is taken to be in place."""
        avatar = visible(load(path), Path(path).name)
        return Given(avatar, Path(path).name, _in_place(avatar, views))

    def digest(self) -> str:
        """Identifies its content."""
        content = hashlib.sha256()
        for tensor in self.avatar.gaussians.tensors().values():
            content.update(tensor.detach().contiguous().numpy().tobytes())
        return content.hexdigest()[:16]

    @torch.no_grad()
    def points(
        self,
        views: PosedImages,
        body: FittedBody | None,
        note: Callable[[str], None],
        report: Report = unheard,
    ) -> PointInit:
        """Its Gaussians as initial points, in the world of the views. body: the person in the images, who is
        needed unless it is in place. note: receives lines for the user. Raises UserError as
        `register_splats`."""
        if self.in_place or body is None:
            cloud = _as_in_file(self.avatar, views).gaussians
            outward = cloud.means - cloud.means.mean(0)
            return _points(cloud, surface_normals(cloud.means, cloud.opacities, outward))
        registered = register_splats(self.avatar, self.name, note, report)
        given, own = registered.avatar, body.body
        rest = Binding(list(own.joint_names), list(own.joint_parents), own.joints)
        cloud = given.gaussians
        cloud = replace(cloud, means=transferred(cloud.means, registered.fitted.body, own))
        standing = replace(given, gaussians=cloud, binding=rest).posed(body.stance).gaussians
        return _points(standing, shading_normals(standing))


def _as_in_file(avatar: Avatar, views: PosedImages) -> Avatar:
    """The avatar in the world of the views, if its file is in the capture's: both may have been moved to the
    origin when they were read."""
    to_file = avatar.placement or Placement.identity()
    return moved(avatar, views.placement.inverse() @ to_file)


@torch.no_grad()
def _in_place(avatar: Avatar, views: PosedImages) -> bool:
    shown = [view for view in views if float(view.alpha.min()) < 0.5]
    both, either = 0, 0
    prepared = _as_in_file(avatar, views).prepare()
    for view in shown[:: -(-len(shown) // COMPARED) or 1]:
        camera = view.camera
        scale = min(1.0, COMPARED_SIZE / max(camera.width, camera.height))
        small = camera.resized(*(max(1, round(side * scale)) for side in (camera.width, camera.height)))
        alpha = view.alpha.permute(2, 0, 1)[None]
        wanted = F.interpolate(alpha, (small.height, small.width), mode="area")[0, 0] > 0.5
        drawn = prepared.render(small, 0.0).alpha[0, ..., 0] > 0.5
        both, either = both + int((wanted & drawn).sum()), either + int((wanted | drawn).sum())
    return not shown or both > SAME * either


def _points(cloud: Gaussians, normals: Tensor) -> PointInit:
    spacing = float(torch.from_numpy(neighbour_distances(cloud.means.numpy())).median())
    return PointInit(
        points=cloud.means.contiguous(),
        normals=normals,
        spacing=spacing,
        quats=cloud.quats.contiguous(),
        log_scales=cloud.log_scales.contiguous(),
        opacity_logits=cloud.opacity_logits.contiguous(),
        source="init",
    )
