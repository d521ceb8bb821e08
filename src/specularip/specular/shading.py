"""The shading formula in plain tensors, the reference for the fused kernels and their tests.

One light for all Gaussians, one material each. The light is K lobes (direction, width, colour) and a smooth
ambient; the material is an anisotropic spherical Gaussian (ASG) over half vectors. A light lobe widens the
material's lobe (convolution of Gaussians: their variances add), so that a highlight needs no integral:

    S_k = colour_k · max(n·l_k, 0) / |h|² · √(ia·ib) / π · exp(−(ia·(h·t)² + ib·(h·b)²) / |h|²)
    h = l_k + ω_o,  ia = 1 / (αx² + spread_k),  ib = 1 / (αy² + spread_k),  spread_k = width_k · 4 / |h|²
    specular = visibility(ω_r) · (Σ_k Fresnel(|h| / 2) · S_k + Fresnel(n·ω_o) · ambient(ω_r))  in linear light
    shown    = sRGB(linear(diffuse) + specular) − diffuse + residual · (ω_o, its quadratic harmonics)

|h| / 2 is the cosine between h and either direction. The more grazing a light, the wider its lobe over half
vectors: when l rotates out of the plane of l and ω_o, h / |h| rotates by 1 / |h| as much (in that plane
always by half), so that the variance out of the plane is 4 / |h|² times that at normal incidence. We use that
factor in both directions, which keeps lobes diagonal in the tangent frame.

ASG: Xu et al., "Anisotropic Spherical Gaussians", SIGGRAPH Asia 2013; as a distribution of half vectors and
its convolution with spherical Gaussian lights: Wang et al., "All-Frequency Rendering of Dynamic,
Spatially-Varying Reflectance", SIGGRAPH Asia 2009; 1/|h|² as masking term: Kelemen and Szirmay-Kalos 2001.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LATENTS, RESIDUAL = 34, 10
"""A Gaussian's latent: 0-1 log roughness along and across the tangent, relative to ROUGHNESS; 2 the tangent's
angle from the horizontal; 3-5 logits of the reflectance at normal incidence, relative to REFLECTANCE; 6-9
logit of the visibility, constant and linear in the mirrored direction; 10-33 residual, eight numbers per
channel."""
ROUGHNESS, REFLECTANCE, VISIBILITY = 0.12, 0.08, 3.0
"""The material of a zero latent. Optimisation does not sharpen an initial lobe that is too rough, but does
widen one that is too sharp."""
MIN_ROUGHNESS, MAX_ROUGHNESS = 0.01, 1.5
RESIDUAL_SCALE = 0.03
SHOULDER = 0.05
"""Slope of the output above 1: images are clipped there, but gradients must not vanish."""
MAX_STRETCH = 20.0
"""Limit of a light's widening at grazing angles, where 4 / |h|² diverges."""
POLE = 1e-3
"""Keeps the tangent defined where the normal is vertical."""


class Surface(NamedTuple):
    """N Gaussians to shade.

    latents [N,34], see LATENTS. diffuse [N,3] in 0..1, in sRGB. normals [N,3]: unit, of either orientation.
    means [N,3]: positions.
    """

    latents: Tensor
    diffuse: Tensor
    normals: Tensor
    means: Tensor


class Light(NamedTuple):
    """The light of K lobes that all Gaussians share.

    axes [K,3]: unit, towards the light. widths [K] > 0: variance of the lobe in half-vector space at normal
    incidence. colors [K,3] ≥ 0: radiance times solid angle. ambient [9,3]: radiance as spherical harmonics to
    degree 2.
    """

    axes: Tensor
    widths: Tensor
    colors: Tensor
    ambient: Tensor


def specular_reference(surface: Surface, light: Light, centres: Tensor) -> Tensor:
    """The specular colour, which is added to the diffuse one, [B,N,3], for cameras at `centres` [B,3]."""
    latents, diffuse, normals, means = surface
    light_axes, light_widths, light_colors, ambient = light
    view = F.normalize(centres[:, None] - means, dim=-1)  # ω_o
    signed = (normals * view).sum(-1, keepdim=True)
    side = torch.where(signed < 0, -1.0, 1.0).to(signed)
    n, cosine = normals * side, (signed * side).clamp_min(1e-3)

    alpha = (ROUGHNESS * latents[:, :2].exp()).clamp(MIN_ROUGHNESS, MAX_ROUGHNESS)
    tangent, bitangent = tangent_frames(normals, latents[:, 2:3])
    # Products of [B,N,3] or [N,3] with the K axes: no tensor is larger than [B,N,K].
    h_x = tangent @ light_axes.T + (view * tangent).sum(-1, keepdim=True)
    h_y = bitangent @ light_axes.T + (view * bitangent).sum(-1, keepdim=True)
    h_2 = (2 + 2 * view @ light_axes.T).clamp_min(1e-4)
    spread = light_widths * (4 / h_2).clamp_max(MAX_STRETCH)
    along, across = (1 / (square[:, None] + spread) for square in alpha.square().unbind(-1))
    falloff = torch.exp(-(along * h_x * h_x + across * h_y * h_y) / h_2)
    weight = (n @ light_axes.T).clamp_min(0) / h_2 * (along * across).sqrt() / math.pi * falloff
    mirrored = 2 * cosine * n - view  # ω_r
    ambient_light = (harmonics(mirrored) @ ambient).clamp_min(0)

    head_on = torch.sigmoid(latents[:, 3:6] + math.log(REFLECTANCE / (1 - REFLECTANCE)))
    smoothness = 1 - alpha.prod(-1, keepdim=True).sqrt().clamp_max(1)
    gain = (smoothness - head_on).clamp_min(0)  # Schlick's Fresnel: from normal incidence to grazing
    reflected = head_on * (weight @ light_colors) + gain * (
        (weight * (1 - h_2.sqrt() / 2).clamp_min(0) ** 5) @ light_colors
    )
    reflected = reflected + (head_on + gain * (1 - cosine) ** 5) * ambient_light
    visible = torch.sigmoid(
        VISIBILITY + latents[:, 6:7] + (latents[:, 7:10] * mirrored).sum(-1, keepdim=True)
    )
    shown = to_srgb(to_linear(diffuse) + visible * reflected)
    shown = torch.where(shown > 1, 1 + SHOULDER * (shown - 1), shown)
    slow = torch.cat([view, harmonics(view)[..., 4:]], -1)
    residual = RESIDUAL_SCALE * torch.einsum("bnj,ncj->bnc", slow, latents[:, RESIDUAL:].reshape(-1, 3, 8))
    return shown - diffuse + residual


def tangent_frames(normals: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Unit tangents and bitangents [N,3]: horizontal at angle 0, rotated by `angles` [N,1] about `normals`
    [N,3]. From the normal as stored, not as flipped towards a camera: the brushing direction is the same in
    all views."""
    x, y, _ = normals.unbind(-1)
    level = torch.stack([-y, x + POLE, torch.zeros_like(x)], -1)
    level = F.normalize(level - (level * normals).sum(-1, keepdim=True) * normals, dim=-1)
    upward = torch.linalg.cross(normals, level)
    return angles.cos() * level + angles.sin() * upward, angles.cos() * upward - angles.sin() * level


def harmonics(directions: Tensor) -> Tensor:
    """Real spherical harmonics to degree 2 of unit directions [...,3], [...,9]."""
    x, y, z = directions.unbind(-1)
    return torch.stack(
        [
            torch.full_like(x, 0.28209479177387814),
            0.4886025119029199 * y,
            0.4886025119029199 * z,
            0.4886025119029199 * x,
            1.0925484305920792 * x * y,
            1.0925484305920792 * y * z,
            0.31539156525252005 * (3 * z * z - 1),
            1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ],
        -1,
    )


def to_srgb(linear: Tensor) -> Tensor:
    """Linear light ≥ 0 to sRGB, also above 1."""
    return torch.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp_min(1e-5) ** (1 / 2.4) - 0.055
    )


def to_linear(shown: Tensor) -> Tensor:
    """The inverse of `to_srgb`."""
    return torch.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055).clamp_min(1e-5) ** 2.4)
