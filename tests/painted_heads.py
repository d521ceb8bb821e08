"""Photos of painted heads whose shape, camera and landmarks are known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from specularip.body import AnnyModel, Phenotype
from specularip.body.dense_head import DenseHead
from specularip.body.head import HeadModel
from specularip.cameras import Cameras
from specularip.faces.head_fit import FittedHead
from specularip.faces.landmarks import Landmarks
from specularip.files import to_uint8
from specularip.raster.mesh import render_attributes

SKIN = (0.75, 0.55, 0.45)
BLUE = (0.05, 0.1, 0.95)


def portrait_camera(
    vertices: Tensor,
    azimuth_deg: float = 0.0,
    elevation_deg: float = 0.0,
    size: int = 400,
    fov_deg: float = 26.0,
) -> Cameras:
    """A camera 0.9 m before the head of a body with these vertices [V,3], turned to the person's left for
    positive azimuths."""
    face = places(vertices)
    return Cameras.orbit(azimuth_deg, elevation_deg, 0.9, fov_deg, size, size, face.mean(0))


def places(vertices: Tensor) -> Tensor:
    """The landmarks [468,3] on a body with vertices [V,3]."""
    return HeadModel.load().landmarks(vertices)


def landmarks_in(camera: Cameras, vertices: Tensor) -> Landmarks:
    """What a perfect face mesh finds in a photo of a body with vertices [V,3]."""
    at, depth = (values[0] for values in camera.project(places(vertices)))
    z = (depth - depth.mean()) * camera.Ks[0, 0, 0] / depth.mean()
    return Landmarks(torch.cat([at, z[:, None]], 1).float().numpy(), 20.0)


def average_head(*cameras: Cameras) -> FittedHead:
    """The default adult with its neutral expression, before these cameras."""
    head = HeadModel.load()
    neutral = torch.zeros(len(cameras), len(head.expressions))
    return FittedHead(Phenotype(), torch.zeros(len(head.shapes)), neutral, cameras, torch.zeros(len(cameras)))


def smooth_skin(generator: torch.Generator, frequency: float = 60.0) -> Tensor:
    """Skin [D,3] whose colour varies smoothly and differs from left to right, by a few percent.

    frequency: usual change of phase in a metre, in radians.
    """
    waves = torch.randn(3, 3, generator=generator) * frequency
    phases = torch.rand(3, generator=generator) * 6.3
    pattern = torch.sin(DenseHead.load().template @ waves + phases)
    return (torch.tensor(SKIN) * (1 + 0.06 * pattern)).clamp(0, 1)


def photo_of(
    colors: Tensor,
    camera: Cameras,
    background: tuple[float, float, float] = BLUE,
    vertices: Tensor | None = None,
) -> np.ndarray:
    """A photo, uint8 [H,W,3], of the dense head in colours [D,3] on a body with vertices [V,3] (None: the
    default adult's)."""
    dense = DenseHead.load()
    positions = dense.at(AnnyModel.load().template if vertices is None else vertices)
    images, coverage = render_attributes(positions, dense.faces, colors, camera, 2)
    shown = images[0] + (1 - coverage[0]) * torch.tensor(background)[:, None, None]
    return to_uint8(shown.permute(1, 2, 0))
