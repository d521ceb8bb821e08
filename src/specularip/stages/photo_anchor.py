"""The photo projected onto the front of the head, where it determines the diffuse colours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.body import Body
from specularip.cameras import Cameras, face_camera
from specularip.gaussians import Gaussians
from specularip.raster import rasterize
from specularip.specular import SpecularHead, facing, shading_normals

PHOTO_WEIGHT = 2.0
"""Weight of the photo's loss, multiplied by that of the anchor."""
REFLECTANCE_WEIGHT = 0.01
"""Weight of the reflectance penalty. Small, because Adam takes full steps on any steady gradient, and because
the gradient also reaches the head's shared weights, which it should hardly change."""


@dataclass
class PhotoAnchor:
    """The photo as target for the diffuse colours of the front of the head.

    Optimising the face for both prior and photo gave blurred faces or spurious highlights. So Gaussians that
    are visible in the photo are optimised for it alone: `ownership` fades out all other gradients there
    (`training.step.take_step`). Their geometry stays that of the body, because one photo under unknown light
    does not determine shape.

    camera: one frontal camera. target [S,S,3] and mask [S,S,1], in 0..1. behind: the world y coordinate
    behind which there is no face.
    """

    camera: Cameras
    target: Tensor
    mask: Tensor
    weight: float
    behind: float

    def loss(self, gaussians: Gaussians, head: SpecularHead, ownership: Tensor, background: float) -> Tensor:
        """The photo's loss, a scalar, with gradients for colours and latents only.

        Masked mean absolute difference between the diffuse face and the photo, and the mean reflectance of
        owned Gaussians (`ownership` [N]), as the photo's highlights are part of its colours; times `weight`
        and PHOTO_WEIGHT.
        """
        raster = rasterize(
            gaussians.means.detach(),
            gaussians.quats.detach(),
            gaussians.scales.detach(),
            gaussians.opacities.detach(),
            gaussians.diffuse,
            self.camera.viewmats,
            self.camera.Ks,
            self.camera.width,
            self.camera.height,
            torch.full((3,), background, device=gaussians.means.device),
            depth=False,
        )
        difference = (raster.image[0] - self.target).abs() * self.mask
        lobes = head.prepare(gaussians.latents, gaussians.diffuse.detach())
        shine = (lobes.reflectance.mean(-1) * ownership).mean()
        photometric = difference.sum() / self.mask.sum().clamp_min(1) / 3
        return PHOTO_WEIGHT * (self.weight * (photometric + REFLECTANCE_WEIGHT * shine))

    @torch.no_grad()
    def ownership(self, gaussians: Gaussians) -> Tensor:
        """Weight of the photo for each Gaussian, [N] in 0..1: 1 where only the photo determines it, that is
        inside the mask, in front, and facing the camera."""
        xy, _ = self.camera.project(gaussians.means)
        grid = xy / xy.new_tensor([self.camera.width, self.camera.height]) * 2 - 1
        inside = F.grid_sample(
            self.mask.permute(2, 0, 1)[None], grid[None], align_corners=False, padding_mode="zeros"
        )[0, 0, 0]
        front = torch.sigmoid((self.behind - gaussians.means[:, 1]) / 0.008)
        towards = F.normalize(self.camera.positions - gaussians.means, dim=-1)
        cosine = (facing(shading_normals(gaussians), towards) * towards).sum(-1)
        return inside * front * ((cosine - 0.15) / 0.3).clamp(0, 1) * min(1.0, self.weight)


def make_photo_anchor(body: Body, photo: Tensor, mask: Tensor, weight: float) -> PhotoAnchor:
    """An anchor on the device of the body. photo [3,S,S] and mask [1,S,S], in 0..1: the aligned face and its
    mask (`faces.alignment.align_face` and `face_mask`). weight 1: the photo alone determines the face."""
    device = body.keypoints.device
    eyes = body.keypoints[14:16]
    camera = face_camera(eyes.mean(0), float((eyes[0] - eyes[1]).norm()), photo.shape[-1]).to(device)
    # The face ends at the ears.
    behind = float(body.keypoints[16:18, 1].mean()) - 0.01
    # A narrow soft border: colours blur where both the prior and the photo contribute.
    mask = ((mask - 0.3) / 0.3).clamp(0, 1)
    photo, mask = (x.permute(1, 2, 0).float().to(device) for x in (photo, mask))
    return PhotoAnchor(camera, photo, mask, weight, behind)
