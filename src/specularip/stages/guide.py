"""The prior conditioned on one person (text, face, body) for any view, and renders in its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from specularip.avatar import shade
from specularip.body import Body, HeadEllipsoid
from specularip.body.coordinate_map import body_map
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
from specularip.stages.fusion import DEPTH_GAIN
from specularip.stages.photo_face import PhotoFace
from specularip.stages.settings import Config

EncodedFace = Tensor | FaceFeatures


@dataclass
class Guide:
    """A prior with one person's text, face and body.

    text: the part of the user's sentence within the prior's token limit. face: features of the photo's face,
    from `Prior.encode_face`. other: those of a face for the negative branch of guidance, or None. photo: the
    face that is painted with the photos; None: the prior alone draws it. denied: what the text denies, which
    is added to the negative prompt.
    """

    prior: Prior
    book: PromptBook
    text: str
    face: EncodedFace
    body: Body
    config: Config
    other: EncodedFace | None = None
    photo: PhotoFace | None = None
    denied: Sequence[str] = ()
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

    def body_map(self, views: Views) -> Tensor:
        """Body maps [V,4,m,m] at the size at which the prior takes them, on the CPU."""
        body, size = self._bare_body, self.prior.pose_size
        cameras = views.cameras.resized(size, size)
        return body_map(body.vertices, body.faces, body.height, cameras, views.targets)

    @cached_property
    def _bare_body(self) -> Body:
        return self.body.to("cpu")

    def condition(
        self, views: Views, guidance: GuidanceConfig | None = None, size: int | None = None
    ) -> Condition:
        """The conditioning for V views: view-dependent prompts, pose images [V,P,size,size] (None: of the
        prior's own size), and face tokens with a weight [V] that falls with the visibility of the face."""
        guidance = guidance or self.config.guidance
        pose = None
        if self.prior.views_together:
            pose = self.body_map(views)
        elif self.prior.pose_channels:
            size = size or self.prior.image_size
            pose = draw_skeleton(*self._skeleton, views.cameras, size, self.prior.device)
        scale = face_weight(views.azimuth_deg, guidance.identity_weight, guidance.identity_hidden)
        return condition_views(
            self.book,
            self.text,
            ", ".join(filter(None, (guidance.negative, *self.denied))),
            views,
            pose,
            self.identity(guidance),
            copy_async(scale, self.prior.device),
            null=guidance.null,
        )


def draw(
    gaussians: Gaussians,
    head: SpecularHead | None,
    cameras: Cameras,
    background: float,
    gain: float = 1.0,
    depth: bool = False,
) -> tuple[Raster, Tensor]:
    """Render for training, on the device of the Gaussians: the raster over a grey background, and the
    specular colours [B,N,3]. gain: factor of the specular colours."""
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
        depth=depth,
    )
    return raster, specular


def as_images(raster: Raster, channels: int, distances: Tensor | None = None) -> Tensor:
    """Renders as images for the prior, [B,channels,H,W]: RGB over the background; from 4 channels on with
    alpha; with 5 also depth (`Prior.shows_depth`), for which `distances` [B] of the cameras from their
    targets are needed."""
    parts = [raster.image] if channels == 3 else [raster.image, raster.alpha]
    if channels == 5:
        assert distances is not None
        relative = raster.depth / distances.to(raster.depth)[:, None, None, None] - 1
        parts.append(torch.where(raster.alpha > 0.02, 0.5 + DEPTH_GAIN * relative, 0.5).clamp(0, 1))
    return torch.cat(parts, -1).permute(0, 3, 1, 2)
