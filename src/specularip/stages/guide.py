"""What leads both stages: the prior with this person's words, face and pose, asked from any view."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from specularip.avatar import shade
from specularip.body import Body, HeadEllipsoid
from specularip.body.skeleton import draw_skeleton
from specularip.cameras import Cameras, Views, face_camera
from specularip.diffusion.adapter import FaceFeatures
from specularip.diffusion.conditioning import Condition, Identity, condition_views, face_weight, identity
from specularip.diffusion.prior import Prior
from specularip.diffusion.prompts import PromptBook
from specularip.diffusion.settings import GuidanceConfig
from specularip.gaussians import Gaussians
from specularip.kernels.async_transfer import copy_async
from specularip.raster import Raster, rasterize
from specularip.specular import SpecularHead, facing, shading_normals
from specularip.stages.settings import Config

EncodedFace = Tensor | FaceFeatures


@dataclass
class Guide:
    """text: the part of the user's sentence that the prior can read. face: the photo's, as
    `Prior.encode_face` reads it; other: somebody else's, to keep away from, or None."""

    prior: Prior
    book: PromptBook
    text: str
    face: EncodedFace
    body: Body
    config: Config
    other: EncodedFace | None = None
    _identities: dict[tuple[float, bool], Identity | None] = field(default_factory=dict)

    def identity(self, guidance: GuidanceConfig) -> Identity | None:
        """The face tokens, made once for each way of looking at the face."""
        key = guidance.identity_structure, guidance.guide_identity
        if key not in self._identities:
            structure, guided = key
            self._identities[key] = identity(
                self.prior, self.face, structure=structure, guided=guided, negative=self.other
            )
        return self._identities[key]

    @cached_property
    def _skeleton(self) -> tuple[Tensor, HeadEllipsoid]:
        """Keypoints and skull, on the CPU: so few numbers are projected there sooner than on a GPU."""
        return self.body.keypoints.cpu(), self.body.head.to("cpu")

    def condition(
        self, views: Views, guidance: GuidanceConfig | None = None, size: int | None = None
    ) -> Condition:
        """The prior's inputs for `views`: view-dependent prompts, pose drawings of `size`² pixels (the
        prior's own size), and as much of the face as each view sees."""
        guidance = guidance or self.config.guidance
        pose = None
        if self.prior.pose_channels:
            size = size or self.prior.image_size
            pose = draw_skeleton(*self._skeleton, views.cameras, size, self.prior.device)
        scale = face_weight(views.azimuth_deg, guidance.identity_weight, guidance.identity_hidden)
        return condition_views(
            self.book,
            self.text,
            guidance.negative,
            views,
            pose,
            self.identity(guidance),
            copy_async(scale, self.prior.device),
            null=guidance.null,
        )


def draw(
    gaussians: Gaussians, head: SpecularHead | None, cameras: Cameras, background: float, gain: float = 1.0
) -> tuple[Raster, Tensor]:
    """Render for training, on the device of the Gaussians: the raster of (colour over background), without
    depth, and the specular colours [B,N,3]."""
    cameras = cameras.to(gaussians.means.device)
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
        torch.full((3,), background, device=gaussians.means.device),
        depth=False,
    )
    return raster, specular


def as_images(raster: Raster, channels: int) -> Tensor:
    """The prior's images [B,3|4,S,S] of a raster: RGB over the background, and alpha if it reads alpha."""
    image = raster.image if channels == 3 else torch.cat([raster.image, raster.alpha], -1)
    return image.permute(0, 3, 1, 2)


SHINE_WEIGHT = 0.01
"""Small: Adam turns any steady gradient on a latent into full steps, and the head's weights are not meant."""


@dataclass
class PhotoAnchor:
    """The photo laid on the front of the head: it owns the diffuse colours there.

    Two teachers for one face, the prior and the photo, leave a blur or a mess of highlights. So the Gaussians
    that the photo shows follow it alone: `ownership` fades out what everything else would do to them
    (`state.take_step`), and their places stay the body's, because one photo under unknown light says little
    about shape. camera: one frontal camera; target [S,S,3], mask [S,S,1] in 0..1; behind: the world's y
    behind which nothing is face.
    """

    camera: Cameras
    target: Tensor
    mask: Tensor
    weight: float
    behind: float

    def loss(self, gaussians: Gaussians, head: SpecularHead, ownership: Tensor, background: float) -> Tensor:
        """Masked mean absolute difference between the diffuse face and the photo, times `weight`; and a pull
        of the reflectance to zero by `ownership` [N], since the photo has its highlights painted in.
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
        return self.weight * (difference.sum() / self.mask.sum().clamp_min(1) / 3 + SHINE_WEIGHT * shine)

    @torch.no_grad()
    def ownership(self, gaussians: Gaussians) -> Tensor:
        """How far each Gaussian is the photo's, [N] in 0..1: inside the mask, in front, and facing it."""
        xy, _ = self.camera.project(gaussians.means)
        grid = xy / xy.new_tensor([self.camera.width, self.camera.height]) * 2 - 1
        inside = torch.nn.functional.grid_sample(
            self.mask.permute(2, 0, 1)[None], grid[None], align_corners=False, padding_mode="zeros"
        )[0, 0, 0]
        front = torch.sigmoid((self.behind - gaussians.means[:, 1]) / 0.008)
        towards = torch.nn.functional.normalize(self.camera.positions - gaussians.means, dim=-1)
        cosine = (facing(shading_normals(gaussians), towards) * towards).sum(-1)
        return inside * front * ((cosine - 0.15) / 0.3).clamp(0, 1) * min(1.0, self.weight)


def photo_anchor(body: Body, photo: Tensor, mask: Tensor, weight: float) -> PhotoAnchor:
    """photo [3,S,S] and mask [1,S,S] as `align_face` and `face_mask` give them; all goes to the
    device of the body."""
    device = body.keypoints.device
    eyes = body.keypoints[14:16]
    camera = face_camera(eyes.mean(0), float((eyes[0] - eyes[1]).norm()), photo.shape[-1]).to(device)
    # The ears lie where the face ends.
    behind = float(body.keypoints[16:18, 1].mean()) - 0.01
    # A narrow border: where both teachers speak for long, neither is understood.
    mask = ((mask - 0.3) / 0.3).clamp(0, 1)
    photo, mask = (x.permute(1, 2, 0).float().to(device) for x in (photo, mask))
    return PhotoAnchor(camera, photo, mask, weight, behind)
