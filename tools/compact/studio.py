"""One fixed studio: its lights, and the reflectance of each material.

Light is summed in linear RGB. Highlights are GGX with two roughnesses (Burley 2012, Walter et al. 2007),
softened by the size of each light; the frame's first axis runs along the threads. Training images have the
lights of STUDIO, which are fixed, so a highlight has one correct position for each surface and camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

RGB = tuple[float, float, float]


def direction(azimuth_deg: float, elevation_deg: float) -> RGB:
    """The unit direction [3] towards a light; azimuth 0 is in front of the body, 90 at its left."""
    a, e = math.radians(azimuth_deg), math.radians(elevation_deg)
    return math.cos(e) * math.sin(a), -math.cos(e) * math.cos(a), math.sin(e)


@dataclass(frozen=True)
class Lighting:
    """lights: of each the direction towards it, its linear RGB, and its angular size, which is added to the
    roughness. ambient_up, ambient_down: linear RGB that surfaces facing up and down get from all around."""

    lights: tuple[tuple[RGB, RGB, float], ...]
    ambient_up: RGB
    ambient_down: RGB


LIGHTS = (
    (direction(35, 42), (1.75, 1.68, 1.58), 0.10),
    (direction(-65, 22), (0.72, 0.78, 0.88), 0.16),
    (direction(165, 40), (1.30, 1.28, 1.25), 0.10),
    (direction(-130, 30), (0.65, 0.65, 0.70), 0.12),
    (direction(0, 80), (0.55, 0.55, 0.55), 0.25),
)
STUDIO = Lighting(LIGHTS, (0.36, 0.36, 0.36), (0.20, 0.20, 0.20))


@dataclass(frozen=True)
class Material:
    """f0: reflectance of the highlight; along, across: GGX roughness; tint: how much the highlight takes
    the cloth's colour; metal: how much the diffuse colour is reduced; sheen: glow at grazing angles;
    scatter: light that enters the surface and leaves it beyond the shadow's edge, red farther than blue."""

    f0: float
    along: float
    across: float
    tint: float = 0.0
    metal: float = 0.0
    sheen: float = 0.0
    scatter: float = 0.0


MATERIALS = {
    "cotton": Material(0.012, 0.8, 0.8),
    "wool": Material(0.006, 0.9, 0.9, sheen=0.16),
    "denim": Material(0.015, 0.7, 0.7),
    "leather": Material(0.10, 0.22, 0.22),
    "satin": Material(0.34, 0.14, 0.42, tint=0.45, sheen=0.03),
    "metallic": Material(0.80, 0.15, 0.20, tint=0.85, metal=0.72),
}
BODY_MATERIALS = {
    "skin": Material(0.022, 0.40, 0.40, scatter=0.28),
    "hair": Material(0.05, 0.50, 0.16, tint=0.3),
    "shoe": Material(0.05, 0.30, 0.30),
    "eye": Material(0.08, 0.05, 0.05),
}
FIELDS = ("f0", "along", "across", "tint", "metal", "sheen", "scatter")
SCATTER_COLOR = (1.0, 0.42, 0.28)
"""How far light of each colour spreads in skin, relative to red (Jensen et al. 2001)."""


def material_row(name: str) -> list[float]:
    """The fields of a material of cloth or body, in the order of FIELDS."""
    material = MATERIALS.get(name) or BODY_MATERIALS[name]
    return [getattr(material, field) for field in FIELDS]


def to_linear(srgb: Tensor) -> Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp_min(0) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    linear = linear.clamp(0, 1)
    return torch.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(1e-6) ** (1 / 2.4) - 0.055
    )


def exposed(linear: Tensor, knee: float = 0.5) -> Tensor:
    """Linear RGB below 1 as a camera records it: highlights above `knee` are compressed, not cut."""
    above = (linear - knee).clamp_min(0) / (1 - knee)
    return linear.clamp(0, knee) + (1 - knee) * (1 - torch.exp(-above))


def shade(
    normals: Tensor,
    threads: Tensor,
    view: Tensor,
    albedo: Tensor,
    materials: Tensor,
    occlusion: Tensor,
    lit: Tensor,
    lighting: Lighting = STUDIO,
) -> Tensor:
    """Linear RGB [N,3] of N surface points.

    normals, view [N,3]: unit, the view direction towards the camera; threads [N,3]: a tangent along the
    weave; albedo [N,3] linear; materials [N,7], columns as FIELDS; occlusion [N]: the share of open sky;
    lit [N,L]: the share of each of the lights that arrives.
    """
    f0, along, across, tint, metal, sheen, scatter = materials[..., None].unbind(1)
    tangent = F.normalize(threads - normals * (threads * normals).sum(-1, keepdim=True) + 1e-6, dim=-1)
    bitangent = torch.linalg.cross(normals, tangent)
    open_ = occlusion[:, None]
    diffuse = albedo * (1 - metal)
    up = normals[:, 2:3] * 0.5 + 0.5
    directions, powers, scatter_color, from_below, more_from_above = _constants(lighting, normals.device)
    color = diffuse * _between_surfaces(open_, diffuse) * (from_below + more_from_above * up)
    specular_color = f0 * (tint * albedo / albedo.amax(-1, keepdim=True).clamp_min(0.05) + (1 - tint))
    nv = (view * normals).sum(-1, keepdim=True).abs().clamp_min(0.02)
    # Smooth surfaces reflect the room faintly: brighter above the horizon than below it.
    mirror_z = 2 * nv * normals[:, 2:3] - view[:, 2:3]
    room = (
        0.06
        + 0.50 * torch.sigmoid(9 * (mirror_z - 0.05))
        + 0.12 * torch.exp(-((mirror_z + 0.75) ** 2) / 0.05)
    )
    fresnel = specular_color + (1 - specular_color) * (1 - nv) ** 5 * (f0 * 6).clamp_max(0.5)
    color += open_ * fresnel * room * (0.10 + 0.90 * metal)
    color += open_ * sheen * (1 - nv) ** 2 * (0.35 + 0.65 * albedo)
    wrap = 0.15 + scatter * scatter_color
    for i, (toward, power, (_, _, size)) in enumerate(zip(directions, powers, lighting.lights)):
        nl = (normals * toward).sum(-1, keepdim=True)
        shadow = lit[:, i : i + 1]
        # Within skin, light bleeds into the edge of a shadow: red first.
        soft = shadow ** (1 - 1.5 * scatter * scatter_color)
        color += diffuse * (((1 - wrap) * nl + wrap).clamp_min(0) * soft * (0.3 + 0.7 * open_) * 0.46 * power)
        half = F.normalize(view + toward, dim=-1)
        a, b = (along**2 + size**2).sqrt(), (across**2 + size**2).sqrt()
        ht, hb, hn = ((half * axis).sum(-1, keepdim=True) for axis in (tangent, bitangent, normals))
        d = 1 / (math.pi * a * b * ((ht / a) ** 2 + (hb / b) ** 2 + hn**2) ** 2)
        lambert = nl.clamp_min(0)
        visibility = 0.25 / ((lambert + 0.15) * (nv + 0.15)).clamp_min(0.05)
        strength = (d * visibility * lambert).clamp_max(8.0) * shadow * open_
        color += specular_color * strength * power * 1.9
    return color


@cache
def _constants(lighting: Lighting, device: torch.device) -> tuple[Tensor, ...]:
    """Directions and colours of the lights, [L,3] each, SCATTER_COLOR, the ambient light from below, and how
    much more comes from above."""
    directions, colors, _ = zip(*lighting.lights)
    more = [up - down for up, down in zip(lighting.ambient_up, lighting.ambient_down)]
    values = directions, colors, SCATTER_COLOR, lighting.ambient_down, more
    return tuple(torch.tensor(value, device=device) for value in values)


def _between_surfaces(open_: Tensor, albedo: Tensor) -> Tensor:
    """The share of ambient light in creases, which bright surfaces reflect among each other (Jimenez et al.
    2016, "Practical Realtime Strategies for Accurate Indirect Occlusion")."""
    a, b, c = 2.0404 * albedo - 0.3324, -4.7951 * albedo + 0.6417, 2.7552 * albedo + 0.6903
    return torch.maximum(open_, ((open_ * a + b) * open_ + c) * open_)
