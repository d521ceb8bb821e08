"""One fixed studio: its lights, and the reflectance of each material.

Light is summed in linear RGB and converted to sRGB. Highlights are GGX with two roughnesses (Burley 2012,
Walter et al. 2007), softened by the size of each light; the frame's first axis runs along the threads.
The lights are fixed, so a highlight has one correct position for each surface and camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from wardrobe import EYE, HAIR, MATERIAL_NAMES, SHOE, SKIN


def _direction(azimuth_deg: float, elevation_deg: float) -> list[float]:
    a, e = math.radians(azimuth_deg), math.radians(elevation_deg)
    return [math.cos(e) * math.sin(a), -math.cos(e) * math.cos(a), math.sin(e)]


# direction towards the light, linear RGB, angular size added to the roughness
LIGHTS = (
    (_direction(35, 42), (1.75, 1.68, 1.58), 0.10),
    (_direction(-65, 22), (0.72, 0.78, 0.88), 0.16),
    (_direction(165, 40), (1.30, 1.28, 1.25), 0.10),
    (_direction(-130, 30), (0.65, 0.65, 0.70), 0.12),
    (_direction(0, 80), (0.55, 0.55, 0.55), 0.25),
)
AMBIENT_UP, AMBIENT_DOWN = 0.36, 0.20


@dataclass(frozen=True)
class Material:
    """f0: reflectance of the highlight; along, across: GGX roughness; tint: how much the highlight takes
    the cloth's colour; metal: how much the diffuse colour is reduced; sheen: glow at grazing angles;
    grain: contrast of the weave."""

    f0: float
    along: float
    across: float
    tint: float = 0.0
    metal: float = 0.0
    sheen: float = 0.0
    grain: float = 0.0


MATERIALS = {
    "cotton": Material(0.012, 0.8, 0.8, grain=0.03),
    "wool": Material(0.006, 0.9, 0.9, sheen=0.16, grain=0.12),
    "denim": Material(0.015, 0.7, 0.7, grain=0.09),
    "leather": Material(0.10, 0.22, 0.22, grain=0.03),
    "satin": Material(0.34, 0.14, 0.42, tint=0.45, sheen=0.03),
    "metallic": Material(0.80, 0.15, 0.20, tint=0.85, metal=0.72),
}
BODY_MATERIALS = {
    SKIN: Material(0.018, 0.45, 0.45),
    HAIR: Material(0.05, 0.5, 0.16, tint=0.3, grain=0.12),
    SHOE: Material(0.05, 0.3, 0.3),
    EYE: Material(0.06, 0.12, 0.12),
}
_TABLE = [MATERIALS[name] for name in MATERIAL_NAMES] + [
    BODY_MATERIALS[code] for code in (SKIN, HAIR, SHOE, EYE)
]
FIELDS = ("f0", "along", "across", "tint", "metal", "sheen", "grain")


def material_table(device: torch.device | str) -> Tensor:
    """[materials, 7], columns as FIELDS."""
    return torch.tensor([[getattr(m, f) for f in FIELDS] for m in _TABLE], device=device)


def to_linear(srgb: Tensor) -> Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp_min(0) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    linear = linear.clamp(0, 1)
    return torch.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(1e-6) ** (1 / 2.4) - 0.055
    )


def shade(
    points: Tensor,
    normals: Tensor,
    threads: Tensor,
    albedo: Tensor,
    material: Tensor,
    occlusion: Tensor,
    eye: Tensor,
) -> Tensor:
    """sRGB colours [P,V,N,3] of the surface points of P people, each seen from V cameras.

    points, normals, threads [P,N,3] (threads: tangent along the weave); albedo [P,N,3] sRGB;
    material [P,N] codes; occlusion [P,N], 1 = unoccluded; eye [P,V,3] camera centres.
    """
    table = material_table(points.device)[material]
    f0, along, across, tint, metal, sheen, _ = (table[..., i : i + 1] for i in range(7))
    base = to_linear(albedo)
    tangent = torch.nn.functional.normalize(
        threads - normals * (threads * normals).sum(-1, keepdim=True) + 1e-6, dim=-1
    )
    bitangent = torch.linalg.cross(normals, tangent)
    shade_ = occlusion[..., None]
    up = normals[..., 2:3] * 0.5 + 0.5
    light = shade_ * (AMBIENT_DOWN + (AMBIENT_UP - AMBIENT_DOWN) * up)
    diffuse = base * (1 - metal) * light
    specular_color = f0 * (tint * base / base.amax(-1, keepdim=True).clamp_min(0.05) + (1 - tint))
    color = diffuse[:, None].expand(-1, eye.shape[1], -1, -1).clone()
    view = torch.nn.functional.normalize(eye[:, :, None] - points[:, None], dim=-1)
    nv = (view * normals[:, None]).sum(-1, keepdim=True).abs().clamp_min(0.02)
    # Smooth surfaces reflect the room faintly: brighter above the horizon than below it.
    mirror_z = 2 * nv * normals[:, None, :, 2:3] - view[..., 2:3]
    room = (
        0.06
        + 0.50 * torch.sigmoid(9 * (mirror_z - 0.05))
        + 0.12 * torch.exp(-((mirror_z + 0.75) ** 2) / 0.05)
    )
    fresnel = specular_color[:, None] + (1 - specular_color[:, None]) * (1 - nv) ** 5 * (
        f0[:, None] * 6
    ).clamp_max(0.5)
    color += shade_[:, None] * fresnel * room * (0.10 + 0.90 * metal[:, None])
    color += shade_[:, None] * sheen[:, None] * (1 - nv) ** 2 * (0.35 + 0.65 * base[:, None])
    for direction, rgb, size in LIGHTS:
        l = points.new_tensor(direction)
        power = points.new_tensor(rgb)
        nl = (normals * l).sum(-1, keepdim=True)
        wrapped = (0.85 * nl + 0.15).clamp_min(0) * shade_ * 0.46
        color += (base * (1 - metal) * wrapped * power)[:, None]
        half = torch.nn.functional.normalize(view + l, dim=-1)
        a, b = (along**2 + size**2).sqrt()[:, None], (across**2 + size**2).sqrt()[:, None]
        ht, hb, hn = ((half * axis[:, None]).sum(-1, keepdim=True) for axis in (tangent, bitangent, normals))
        d = 1 / (math.pi * a * b * ((ht / a) ** 2 + (hb / b) ** 2 + hn**2) ** 2)
        nl_pos = nl[:, None].clamp_min(0)
        visibility = 0.25 / ((nl_pos + 0.15) * (nv + 0.15)).clamp_min(0.05)
        strength = (d * visibility * nl_pos).clamp_max(8.0) * shade_[:, None] ** 2
        color += specular_color[:, None] * strength * power * 1.9
    return to_srgb(color)
