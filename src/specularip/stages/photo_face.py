"""The photos' face in the avatar: a painted head, drawn into views, that gives Gaussians their colours.

What the photos show well is fixed: drawn over the prior's views, and given to the Gaussians of the face, which
nothing changes afterwards. The prior's skin takes the photos' tone, so that the two join.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from specularip.avatar import shade
from specularip.body import Body
from specularip.body.dense_head import DenseHead
from specularip.cameras import Cameras
from specularip.faces.projection import FaceAreas, Painted, luminance, skin_model
from specularip.raster.mesh import rasterize_mesh, render_attributes
from specularip.stages.fusion import DEPTH_GAIN, DepthViews
from specularip.stages.initial_state import AvatarState
from specularip.stages.settings import FusionConfig
from specularip.stages.view_start import observe, weighted_median
from specularip.training.step import FIXED

SUPERSAMPLE = 2
REACH = 0.0025
"""Metres from the painted head within which a Gaussian is part of it."""
SKIN_DEPTH = 0.03
"""Metres between a view's surface and the body's within which it may be skin."""
COVERS = re.compile(
    r"\b(?:hat|cap|beanie|helmet|hood|turban|hijab|headscarf|headband|bandana|crown|tiara|beret|fedora|bonnet)s?\b"
)
"""What a text puts on a forehead."""
BROW, BROW_FADE = 0.022, 0.01
"""Metres above the eyes from which such things cover the face, and over which the photo fades out."""


@dataclass(frozen=True)
class PhotoFace:
    """The painted head in the avatar's pose and expression, on the CPU.

    positions [D,3], in metres; colors [D,3] in 0..1; known [D] in 0..1: how far the photos determine them;
    grey: they say nothing about its hue.
    """

    positions: Tensor
    colors: Tensor
    known: Tensor
    grey: bool = False

    def drawn(self, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
        """Colours [V,3,H,W], weights [V,1,H,W] in 0..1, and depths [V,1,H,W] in metres, valid where the
        weight is not 0, as cameras see the face."""
        dense, cameras = DenseHead.load(), cameras.to("cpu")
        values = torch.cat([self.colors * self.known[:, None], self.known[:, None]], 1)
        images, _ = render_attributes(self.positions, dense.faces, values, cameras, SUPERSAMPLE)
        weight = images[:, 3:]
        depth = rasterize_mesh(self.positions, dense.faces, cameras).depth[:, None]
        return images[:, :3] / weight.clamp_min(1e-4), weight * (depth > 0), depth

    def over(self, images: Tensor, cameras: Cameras, distances: Tensor | None = None) -> Tensor:
        """Images [V,C,H,W] in the prior's format (see `guide.as_images`) with the face drawn over them.

        distances [V]: of the cameras from their targets, for images with depth.
        """
        colors, weight, depth = self.drawn(cameras.resized(images.shape[-1], images.shape[-2]))
        channels = [colors, torch.ones_like(weight)]
        if images.shape[1] == 5:
            assert distances is not None
            channels.append(0.5 + DEPTH_GAIN * (depth / distances.cpu()[:, None, None, None] - 1))
        layer = torch.cat(channels, 1)[:, : images.shape[1]].to(images)
        return torch.lerp(images, layer.clamp(0, 1), weight.to(images))

    def nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """For points [N,3]: colours [N,3], and how far the photos determine them [N]; 0 off the surface."""
        tree = cKDTree(self.positions.double().numpy())
        distance, index = tree.query(points.double().cpu().numpy(), 3, distance_upper_bound=REACH, workers=-1)
        found = torch.from_numpy(index < len(self.positions)).float()
        index = torch.from_numpy(index).clamp_max(len(self.positions) - 1)
        near = found / (torch.from_numpy(distance).float().nan_to_num(posinf=1.0) + 2e-4)
        share = near / near.sum(1, keepdim=True).clamp_min(1e-6)
        colors = (self.colors[index] * share[..., None]).sum(1)
        return colors, (self.known[index] * share).sum(1)


def photo_face(painted: Painted, body: Body, weight: float, text: str, grey: bool = False) -> PhotoFace:
    """The painted head on `body`. weight: of the photos, 0..1; text: what it puts on the head stays there."""
    dense = DenseHead.load()
    body = body.to("cpu")
    positions = dense.at(body.vertices)
    known = weight * painted.known
    if COVERS.search(text.lower()):
        eyes = float(body.keypoints[14:16, 2].mean())
        known = known * ((eyes + BROW + BROW_FADE - positions[:, 2]) / BROW_FADE).clamp(0, 1)
    return PhotoFace(positions, painted.colors, known, grey)


def joined(
    face: PhotoFace, images: Tensor, views: DepthViews, body: Body, config: FusionConfig
) -> tuple[PhotoFace, Tensor]:
    """The face, and the prior's views [V,5,S,S] with skin of the photos' tone and the face drawn over them.

    views: the same, decoded. Of a face without hue, the views' skin gives it.
    """
    dense = DenseHead.load()
    rows = ((face.known > 0.7) & (FaceAreas.load().features == 0)).nonzero()[:, 0]
    if len(rows) < 100:
        return face, images
    normals = F.normalize(dense.at(body.to("cpu").vertex_normals), dim=-1)
    colors, squareness = observe(views, face.positions[rows], normals[rows], config)
    drawn = weighted_median(colors, squareness)[squareness.sum(0) > 0]
    tone = drawn.median(0).values
    if face.grey:
        hue = tone / luminance(tone)
        face = replace(face, colors=(luminance(face.colors)[:, None] * hue).clamp(0, 1))
    ratio = face.colors[rows].median(0).values / tone.clamp_min(0.02)
    skin = skin_model(drawn)
    near = _near_body(views, body)
    likeness = skin(views.colors.permute(0, 2, 3, 1)) * near
    factor = torch.lerp(torch.ones_like(ratio), ratio, likeness[..., None]).permute(0, 3, 1, 2)
    toned = images.clone()
    alpha = images[:, 3:4].clamp(0, 1)
    empty = images[:, :3] - alpha * views.colors
    toned[:, :3] = (alpha * (views.colors * factor) + empty).clamp(0, 1)
    return face, face.over(toned, views.cameras, views.distances)


def _near_body(views: DepthViews, body: Body) -> Tensor:
    """Where views [V,S,S] show what lies on the body's skin, 0 or 1."""
    body = body.to("cpu")
    depth = rasterize_mesh(body.vertices, body.faces, views.cameras).depth
    return ((depth > 0) & views.solid & ((views.depths - depth).abs() < SKIN_DEPTH)).float()


@torch.no_grad()
def fix_face(state: AvatarState, face: PhotoFace) -> None:
    """Give the Gaussians on the painted head its colours, and fix them as far as the photos determine them.

    The photos' own highlights are part of those colours: what the avatar's light adds from the front is
    subtracted.
    """
    params = state.params
    colors, known = (values.to(state.device) for values in face.nearest(params["means"].detach()))
    middle = face.positions[face.known > 0.5].mean(0)
    front = Cameras.orbit([-30.0, 0.0, 30.0], 4.0, 0.7, 30.0, 64, 64, middle).to(state.device)
    added = shade(state.gaussians, state.shared, front, 1.0)[1].mean(0)
    logits = torch.logit(colors - added, eps=0.01)
    params["color_logits"].lerp_(logits, known[:, None])
    state.ties[FIXED] = known
