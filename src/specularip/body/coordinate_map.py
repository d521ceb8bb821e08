"""The body map: an image of where on the body each pixel looks, which tells the prior pose and camera."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.cameras import Cameras
from specularip.raster.mesh import render_attributes


def body_map(
    vertices: Tensor, faces: Tensor, height: float, cameras: Cameras, targets: Tensor, supersample: int = 4
) -> Tensor:
    """Body maps [B,4,H,W] in 0..1 of a bare body, vertices [V,3] and faces [F,3], on the vertices' device.

    Channels 0 to 2: the world position p of the nearest body surface as p / height + 0.5; where there is
    none, of the point in which the pixel's ray meets the plane through the camera's target (targets [B,3])
    that faces the camera. Channel 3: the share of the pixel that the body covers. height: the body's, metres.
    """
    positions = normalized_positions(vertices, height)
    surface, coverage = render_attributes(vertices, faces, positions, cameras, supersample)
    map_ = over_target_plane(surface, coverage, height, cameras.to("cpu"), targets.cpu())
    return map_.to(vertices.device)


def normalized_positions(points: Tensor, height: float) -> Tensor:
    """World points [...,3] as coordinates in 0..1."""
    return (points / height + 0.5).clamp(0, 1)


def over_target_plane(
    surface: Tensor, coverage: Tensor, height: float, cameras: Cameras, targets: Tensor
) -> Tensor:
    """The body map of premultiplied surface coordinates [B,3,H,W] and coverage [B,H,W]; see `body_map`."""
    rotations, translations = cameras.viewmats[:, :3, :3], cameras.viewmats[:, :3, 3]
    distance = ((rotations @ targets[..., None])[..., 0] + translations)[:, 2]
    x = torch.arange(cameras.width, device=surface.device) + 0.5
    y = torch.arange(cameras.height, device=surface.device) + 0.5
    focal, center = cameras.Ks[:, (0, 1), (0, 1)], cameras.Ks[:, :2, 2]
    right = (x - center[:, :1]) / focal[:, :1] * distance[:, None]
    down = (y - center[:, 1:]) / focal[:, 1:] * distance[:, None]
    # The plane's point at pixel (x, y), in body heights: affine in both, as the plane faces the camera.
    start = cameras.positions + rotations[:, 2] * distance[:, None]
    columns = (start[..., None] + right[:, None] * rotations[:, 0, :, None]) / height + 0.5
    rows = down[:, None] * rotations[:, 1, :, None] / height
    plane = (columns[:, :, None] + rows[..., None]).clamp_(0, 1)
    covered = coverage[:, None]
    return torch.cat([torch.addcmul(surface, 1 - covered, plane), covered], 1)
