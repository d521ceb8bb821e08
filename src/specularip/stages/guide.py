"""What leads both stages: the prior with this person's words, face and pose, asked from any view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..avatar import shade
from ..body import Body
from ..body.skeleton import draw_skeleton
from ..cameras import Cameras, Views, face_camera
from ..config import Config
from ..diffusion.identity import Condition, condition_views, face_weight
from ..diffusion.prior import Prior
from ..diffusion.prompts import PromptBook
from ..gaussians import Gaussians
from ..raster import Raster, rasterize
from ..specular import SpecularHead


@dataclass
class Guide:
    """text: the part of the user's sentence that the prior can read. face [1,E]: the photo's embedding."""

    prior: Prior
    book: PromptBook
    text: str
    face: Tensor
    body: Body
    config: Config

    def condition(self, views: Views) -> Condition:
        """The prior's inputs for `views`: view-dependent prompts, pose drawings, and as much of the face as
        each view sees."""
        guidance = self.config.guidance
        pose = None
        if self.prior.pose_channels:
            pose = draw_skeleton(self.body.keypoints, self.body.head, views.cameras, self.prior.image_size)
        scale = face_weight(views.azimuth_deg, guidance.identity_weight, guidance.identity_hidden)
        return condition_views(
            self.book, self.text, guidance.negative, views, pose, self.face, scale, guidance.guide_identity
        )


def draw(
    gaussians: Gaussians, head: SpecularHead | None, cameras: Cameras, background: float, gain: float = 1.0
) -> tuple[Raster, Tensor]:
    """Render for training: the raster of (colour over background) and the specular colours [B,N,3]."""
    colors, specular = shade(gaussians, head, cameras, gain)
    raster = rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        colors,
        cameras.viewmats,
        cameras.Ks,
        cameras.width,
        cameras.height,
        torch.full((3,), background),
    )
    return raster, specular


def as_images(raster: Raster, channels: int) -> Tensor:
    """The prior's images [B,3|4,S,S] of a raster: RGB over the background, and alpha if it reads alpha."""
    image = raster.image if channels == 3 else torch.cat([raster.image, raster.alpha], -1)
    return image.permute(0, 3, 1, 2)


@dataclass
class PhotoAnchor:
    """The photo laid on the front of the head: its colours, softly masked to the face.

    Only colours follow it. Where things are stays with the prior and the body, because one photo under
    unknown light says little about shape. camera: one frontal camera; target [S,S,3], mask [S,S,1] in 0..1.
    """

    camera: Cameras
    target: Tensor
    mask: Tensor
    weight: float

    def loss(
        self, gaussians: Gaussians, head: SpecularHead | None, background: float, gain: float = 1.0
    ) -> Tensor:
        """Masked mean absolute difference between the rendered face and the photo, times `weight`."""
        colors, _ = shade(gaussians, head, self.camera, gain)
        raster = rasterize(
            gaussians.means.detach(),
            gaussians.quats.detach(),
            gaussians.scales.detach(),
            gaussians.opacities.detach(),
            colors,
            self.camera.viewmats,
            self.camera.Ks,
            self.camera.width,
            self.camera.height,
            torch.full((3,), background),
        )
        difference = (raster.image[0] - self.target).abs() * self.mask
        return self.weight * difference.sum() / self.mask.sum().clamp_min(1) / 3


def photo_anchor(body: Body, photo: Tensor, mask: Tensor, weight: float) -> PhotoAnchor:
    """photo [3,S,S] and mask [1,S,S] as `photo.align_face` and `photo.face_mask` give them."""
    eyes = body.keypoints[14:16]
    camera = face_camera(eyes.mean(0), float((eyes[0] - eyes[1]).norm()), photo.shape[-1])
    return PhotoAnchor(camera, photo.permute(1, 2, 0).float(), mask.permute(1, 2, 0).float(), weight)
