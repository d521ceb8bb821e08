"""The photos' face: a painted head in the avatar's pose, which can be drawn over views."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from specularip.body import Body
from specularip.body.dense_head import DenseHead
from specularip.cameras import Cameras
from specularip.faces.projection import Painted
from specularip.raster.mesh import rasterize_mesh, render_attributes
from specularip.sentences import affirmed
from specularip.stages.fusion import DEPTH_GAIN

SUPERSAMPLE = 2
REACH = 0.0025
"""Metres from the painted head within which a Gaussian is part of it."""
COVERS = re.compile(
    r"\b(?:hat|cap|beanie|helmet|hood|turban|hijab|headscarf|headband|bandana|crown|tiara|beret|fedora|bonnet)s?\b"
)
"""What a text puts on a forehead."""
BEARD = re.compile(r"\b(?:beard|bearded|moustache|mustache|goatee|stubble|whiskers)\b")
BROW, BELOW_NOSE, FADE = 0.022, 0.012, 0.01
"""Metres above the eyes from which hats cover the face, and below the nose from which beards do; and over
which the photo fades out."""
BEARD_SHARE = 0.5
"""How much less the photos determine a face where the text puts a beard."""


@dataclass(frozen=True)
class PhotoFace:
    """The painted head in the avatar's pose and expression, on the CPU.

    positions [D,3], in metres; colors [D,3] in 0..1; known [D] in 0..1: how far the photos determine them;
    likely [D] in 0..1: where they go on if nothing lies on the skin; grey: they have no hue; hair [3]: the
    colour of the hair, if the text names none.
    """

    positions: Tensor
    colors: Tensor
    known: Tensor
    likely: Tensor
    grey: bool = False
    hair: Tensor | None = None

    def drawn(self, values: Tensor, weights: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
        """Values [D,C] of weight [D] as cameras see them: [V,C,H,W]; weights [V,1,H,W]; and depths [V,1,H,W]
        in metres, valid where the weight is not 0."""
        dense, cameras = DenseHead.load(), cameras.to("cpu")
        weighted = torch.cat([values * weights[:, None], weights[:, None]], 1)
        images, _ = render_attributes(self.positions, dense.faces, weighted, cameras, SUPERSAMPLE)
        depth = rasterize_mesh(self.positions, dense.faces, cameras).depth[:, None]
        weight = images[:, -1:]
        return images[:, :-1] / weight.clamp_min(1e-4), weight * (depth > 0), depth

    def over(self, images: Tensor, cameras: Cameras, distances: Tensor | None = None) -> Tensor:
        """Images [V,C,H,W] in the prior's format (see `guide.as_images`) with the face drawn over them.

        distances [V]: of the cameras from their targets, for images with depth.
        """
        ahead = cameras.positions[:, 1].cpu() < self.positions[:, 1].max()  # bodies face -y
        views = ahead.nonzero()[:, 0]
        seen = cameras[views.to(cameras.viewmats.device)].resized(images.shape[-1], images.shape[-2])
        colors, weight, depth = self.drawn(self.colors, self.known, seen)
        channels = [colors, torch.ones_like(weight)]
        if images.shape[1] == 5:
            assert distances is not None
            channels.append(0.5 + DEPTH_GAIN * (depth / distances.cpu()[views, None, None, None] - 1))
        layer = torch.cat(channels, 1)[:, : images.shape[1]].to(images)
        rows = views.to(images.device)
        return images.index_copy(0, rows, torch.lerp(images[rows], layer.clamp(0, 1), weight.to(images)))

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.positions.double().numpy())

    def at(self, points: Tensor, values: Tensor) -> Tensor:
        """Values [D,C] at points [N,3]: [N,C]; 0 off the surface."""
        distance, index = self._tree.query(
            points.double().cpu().numpy(), 3, distance_upper_bound=REACH, workers=-1
        )
        found = torch.from_numpy(index < len(self.positions)).float()
        near = found / (torch.from_numpy(distance).float().nan_to_num(posinf=1.0) + 2e-4)
        share = near / near.sum(1, keepdim=True).clamp_min(1e-6)
        index = torch.from_numpy(index).clamp_max(len(self.positions) - 1)
        return (values[index] * share[..., None]).sum(1)


def photo_face(
    painted: Painted, body: Body, weight: float, text: str, grey: bool, hair: Tensor | None
) -> PhotoFace:
    """The painted head on `body`. weight: of the photos, 0..1; text: what it puts on the head stays there.
    grey, hair: see `PhotoFace`."""
    said = affirmed(text)
    body = body.to("cpu")
    positions = DenseHead.load().at(body.vertices)
    known, likely = weight * painted.known, weight * painted.likely
    nose, eyes = float(body.keypoints[0, 2]), float(body.keypoints[14:16, 2].mean())
    if COVERS.search(said):
        known = known * ((eyes + BROW + FADE - positions[:, 2]) / FADE).clamp(0, 1)
    if BEARD.search(said):
        # The photo's own beard, if it has one, is drawn by the prior too, which gives it a shape.
        beard = ((nose - BELOW_NOSE - positions[:, 2]) / FADE).clamp(0, 1)
        known, likely = known * (1 - BEARD_SHARE * beard), likely * (1 - beard)
    return PhotoFace(positions, painted.colors, known, likely, grey, hair)
