"""A glossy ball, built by hand: the avatar that the examples use where a real one would take minutes."""

import math

import torch

import specularip as sip
from specularip.gaussians import Gaussians
from specularip.specular import LATENTS, SpecularHead, fibonacci_directions


def glossy_ball(count: int = 4000, radius: float = 0.4) -> sip.Avatar:
    """`count` flat Gaussians on a sphere [m], striped red and blue, brushed around the vertical, one lamp."""
    normals = fibonacci_directions(count)
    x, y, z = normals.unbind(-1)
    spacing = radius * math.sqrt(4 * math.pi / count)
    red, blue = torch.tensor([0.7, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.6])
    stripes = torch.where(torch.sin(16 * z)[:, None] > 0, red, blue)
    latents = torch.zeros(count, LATENTS)  # zeros: roughness 0.12, reflectance 0.08
    latents[:, :2] = torch.tensor([math.log(1.0), math.log(2.0)])  # log roughness, along and across
    latents[:, 3:6] = 1.0  # logits of the reflectance
    head = SpecularHead()
    head.axes.data[:] = torch.tensor([0.5, -1.0, 0.8])  # all lobes of the light in one place: a single lamp
    cloud = Gaussians(
        means=radius * normals,
        quats=torch.stack([1 + z, -y, x, torch.zeros(count)], -1),  # w x y z: turns z to the normal
        log_scales=(spacing * torch.tensor([0.7, 0.7, 0.07])).log().repeat(count, 1),  # z is the shortest
        opacity_logits=torch.full((count,), 4.0),
        color_logits=torch.logit(stripes),
        latents=latents,
        normal_residuals=torch.zeros(count, 3),
        regions=torch.zeros(count, dtype=torch.int64),
        bind_joints=torch.zeros(count, 4, dtype=torch.int64),
        bind_weights=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
    )
    return sip.Avatar(cloud, head)
