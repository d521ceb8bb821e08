"""People made by program, in poses between A and T, in clothes wider than the body, and views of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.body import AnnyModel, Body
from specularip.body.mesh import vertex_normals
from specularip.body.regions import HEAD, HIPS, LOWER_ARM, LOWER_LEG, TORSO, UPPER_ARM, UPPER_LEG
from specularip.cameras import Cameras
from specularip.captures.views import PosedImages, View
from specularip.gaussians import Binding
from specularip.motion.figure import Figure
from specularip.motion.quaternions import about, from_rotation_vectors
from specularip.placement import Placement
from specularip.raster.mesh import render_attributes
from specularip.registration.fit_body import posed_body

X, Y, Z = torch.eye(3, dtype=torch.float64)
CLOTHED = {TORSO: 0.02, UPPER_ARM: 0.015, LOWER_ARM: 0.01, HIPS: 0.02, UPPER_LEG: 0.02, LOWER_LEG: 0.01}
"""Metres by which clothes are wider than the body."""


@dataclass(frozen=True)
class Person:
    """body: in A-pose; stance [J,4]; standing: the body in it; vertices and faces: with clothes and hair."""

    body: Body
    stance: Tensor
    standing: Body
    vertices: Tensor
    faces: Tensor


def person(seed: int, bent_deg: float = 0.0, skirt: bool = False) -> Person:
    """An adult with arms 25 to 85 degrees from the trunk, the left elbow bent to the front, legs apart, and
    the head turned a little."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    model = AnnyModel.load()
    likes = [between(0, 1), between(0.6, 0.95), *(between(0.2, 0.8) for _ in range(2)), between(0.3, 0.5)]
    row = torch.tensor([[*likes, 0.5, 0.5, 0.5, *(between(0, 1) for _ in range(3))]])
    vertices, joints = model.evaluate(row)
    body = model.body_of(vertices[0], joints[0])
    figure = Figure(Binding(list(body.joint_names), list(body.joint_parents), body.joints), 1)
    for side, sign, bent in (("L", 1.0, math.radians(bent_deg)), ("R", -1.0, 0.0)):
        raised = math.radians(between(25, 85))
        upper = math.sin(raised) * sign * X - math.cos(raised) * Z
        fore = math.cos(bent) * upper + (math.sin(bent) + 0.15) * F.normalize(0.3 * Z - Y, dim=0)
        figure.arm(side, upper[None], fore[None])
        apart = torch.tensor(-sign * between(0, 0.15), dtype=torch.float64)
        figure.turn(f"upperleg01.{side}", about(Y, apart))
    for name in ("neck01", "head"):
        turn = 0.12 * torch.randn(3, generator=generator, dtype=torch.float64)
        figure.turn(name, from_rotation_vectors(turn))
    stance = figure.rotations[0].float()
    standing = posed_body(body, stance)
    thick = torch.zeros(len(body.vertices))
    for region, width in CLOTHED.items():
        thick[body.regions == region] = width
    behind = (body.vertices[:, 1] > -0.06) & (body.regions == HEAD)
    thick[behind] = between(0, 0.03)  # hair
    clothed = standing.vertices + thick[:, None] * standing.vertex_normals
    if not skirt:
        return Person(body, stance, standing, clothed, body.faces)
    cone, sides = _skirt(standing)
    return Person(
        body, stance, standing, torch.cat([clothed, cone]), torch.cat([body.faces, len(clothed) + sides])
    )


def _skirt(standing: Body, corners: int = 40) -> tuple[Tensor, Tensor]:
    """A cone from the waist to the knees."""
    waist, knee = (standing.joints[standing.joint_names.index(name)] for name in ("spine05", "lowerleg01.L"))
    angle = torch.arange(corners) / corners * math.tau
    round_ = torch.stack([angle.cos(), 0.9 * angle.sin(), torch.zeros(corners)], 1)
    upper = waist + 0.17 * round_
    lower = torch.stack([waist[0], waist[1], knee[2]]) + 0.36 * round_
    k, after = torch.arange(corners), (torch.arange(corners) + 1) % corners
    sides = [torch.stack([k, after, corners + k], 1), torch.stack([after, corners + after, corners + k], 1)]
    return torch.cat([upper, lower]), torch.cat(sides)


def views_of(
    who: Person,
    placement: Placement,
    count: int = 16,
    size: int = 200,
    height: float = 0.0,
    distance: float = 2.9,
) -> PosedImages:
    """Views from around, of a point `height` metres above the middle, at `distance` metres; in the world to
    which `placement` leads."""
    azimuth = torch.arange(count) * 360.0 / count
    elevation = torch.tensor([(5.0, 20.0, -5.0)[k % 3] for k in range(count)])
    cameras = Cameras.orbit(azimuth, elevation, distance, 40.0, size, size, (0.0, 0.0, height))
    light = F.normalize(torch.tensor([0.3, -0.6, 0.7]), dim=0)
    shade = 0.3 + 0.5 * (vertex_normals(who.vertices, who.faces) @ light).clamp_min(0)
    images, cover = render_attributes(who.vertices, who.faces, shade[:, None].repeat(1, 3), cameras, 2)
    pixels = torch.cat([images, cover[:, None]], 1).permute(0, 2, 3, 1)
    moved = placement.cameras(cameras)
    return PosedImages(tuple(View(moved[k], pixels[k].contiguous()) for k in range(count)))
