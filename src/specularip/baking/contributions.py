"""How much each Gaussian contributes to images of the avatar from all sides."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.cameras import Cameras
from specularip.gaussians import Gaussians
from specularip.raster import rasterize


def extent(means: Tensor) -> tuple[Tensor, float]:
    """Centre [3] of the bounding box of means [N,3], and radius of a sphere around it that contains all
    means."""
    middle = (means.amax(0) + means.amin(0)) / 2
    return middle, float((means - middle).norm(dim=-1).max()) + 1e-3


def contributions(gaussians: Gaussians, camera: Cameras, antialiased: bool) -> Tensor:
    """Each Gaussian's contribution to one camera's image, [N,1]: its compositing weights summed over the
    pixels, which is the gradient of the summed image with respect to the Gaussian's colour."""
    means = gaussians.means.detach()
    with torch.enable_grad():
        ones = torch.ones_like(means[:, :1]).requires_grad_()
        drawn = rasterize(
            means, gaussians.quats.detach(), gaussians.scales.detach(), gaussians.opacities.detach(), ones,
            camera.viewmats, camera.Ks, camera.width, camera.height, antialiased=antialiased,
        )  # fmt: skip
        return torch.autograd.grad(drawn.image.sum(), ones)[0]


def cameras_around(
    target: Tensor, directions: Tensor, distance: float, fov_y_deg: float, size: int
) -> Cameras:
    """Cameras at `distance` from `target` [3] in `directions` [V,3], facing it."""
    x, y, z = directions.cpu().unbind(-1)
    azimuth, elevation = torch.rad2deg(torch.atan2(x, -y)), torch.rad2deg(torch.asin(z))
    cameras = Cameras.orbit(azimuth, elevation, distance, fov_y_deg, size, size, target.cpu())
    return cameras.to(directions.device)
