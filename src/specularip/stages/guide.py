"""The prior conditioned on one person (text, face, body) for any view, and renders in its format."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from specularip.avatar import shade
from specularip.body import Body, HeadEllipsoid
from specularip.body.skeleton import draw_skeleton
from specularip.cameras import Cameras, Views
from specularip.diffusion.adapter import FaceFeatures
from specularip.diffusion.conditioning import Condition, Identity, condition_views, face_weight, identity
from specularip.diffusion.prior import Prior
from specularip.diffusion.prompts import PromptBook
from specularip.diffusion.settings import GuidanceConfig
from specularip.gaussians import Gaussians
from specularip.kernels.async_transfer import copy_async
from specularip.raster import Raster, rasterize
from specularip.specular import SpecularHead
from specularip.stages.settings import Config

EncodedFace = Tensor | FaceFeatures


@dataclass
class Guide:
    """A prior with one person's text, face and body.

    text: the part of the user's sentence within the prior's token limit. face: features of the photo's face,
    from `Prior.encode_face`. other: those of a face for the negative branch of guidance, or None.
    """

    prior: Prior
    book: PromptBook
    text: str
    face: EncodedFace
    body: Body
    config: Config
    other: EncodedFace | None = None
    _identities: dict[tuple[float, bool], Identity | None] = field(default_factory=dict)

    def identity(self, guidance: GuidanceConfig) -> Identity | None:
        """The face tokens under these settings of guidance, encoded once; None if the prior takes none."""
        key = guidance.identity_structure, guidance.guide_identity
        if key not in self._identities:
            structure, guided = key
            self._identities[key] = identity(
                self.prior, self.face, structure=structure, guided=guided, negative=self.other
            )
        return self._identities[key]

    @cached_property
    def _skeleton(self) -> tuple[Tensor, HeadEllipsoid]:
        """Keypoints [18,3] and head ellipsoid, on the CPU: 18 points project faster there than on a GPU."""
        return self.body.keypoints.cpu(), self.body.head.to("cpu")

    def condition(
        self, views: Views, guidance: GuidanceConfig | None = None, size: int | None = None
    ) -> Condition:
        """The conditioning for V views: view-dependent prompts, pose images [V,3,size,size] (None: of the
        prior's own size), and face tokens with a weight [V] that falls with the visibility of the face."""
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
    """Render for training, on the device of the Gaussians: the raster over a grey background, without depth,
    and the specular colours [B,N,3]. gain: factor of the specular colours."""
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
    """Renders as images for the prior, [B,channels,H,W]: RGB over the background, plus alpha if channels is
    4."""
    image = raster.image if channels == 3 else torch.cat([raster.image, raster.alpha], -1)
    return image.permute(0, 3, 1, 2)
