"""Finding what is worn: a ring around a ball, in silhouettes alone."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.fitting.worn import worn_things
from specularip.gaussians import rotation_matrices, turned_to
from specularip.posed_images import PosedImages
from specularip.raster import rasterize

BALL, RING, TUBE = 0.4, 0.413, 0.005
SIZE = 320


def sphere(count: int) -> torch.Tensor:
    """Unit directions [N,3], even."""
    height = 1 - (2 * torch.arange(count) + 1) / count
    angle = torch.arange(count) * math.pi * (3 - math.sqrt(5))
    flat = (1 - height**2).sqrt()
    return torch.stack([flat * angle.cos(), flat * angle.sin(), height], -1)


def ring() -> tuple[torch.Tensor, torch.Tensor]:
    """Points [N,3] on a fifth of a level torus, and their normals."""
    u, w = torch.cartesian_prod(torch.arange(120) * math.tau / 600, torch.arange(16) * math.tau / 16).unbind(
        -1
    )
    normals = torch.stack([w.cos() * u.cos(), w.cos() * u.sin(), w.sin()], -1)
    return RING * torch.stack([u.cos(), u.sin(), 0 * u], -1) + TUBE * normals, normals


def silhouettes(with_ring: bool) -> PosedImages:
    """Of the ball, and of the ring if asked for."""
    views = 90
    azimuth = [k * 137.5 for k in range(views)]
    elevation = [(-75, -45, -15, 15, 45, 75)[k % 6] for k in range(views)]
    cameras = Cameras.orbit(azimuth, elevation, 2.0, 26.0, SIZE, SIZE)
    (tube, around), ball = ring(), sphere(20_000)
    scales = torch.tensor([[0.007, 0.007, 0.0005]]).repeat(len(ball), 1)
    points, normals = BALL * ball, ball
    if with_ring:
        points, normals = torch.cat([points, tube]), torch.cat([normals, around])
        scales = torch.cat([scales, torch.tensor([[0.003, 0.001, 0.0005]]).repeat(len(tube), 1)])
    one = torch.ones(len(points))
    drawn = rasterize(
        points, turned_to(normals), scales, one, one[:, None], cameras.viewmats, cameras.Ks, SIZE, SIZE,
        antialiased=True,
    )  # fmt: skip
    alphas = drawn.alpha.round()
    return PosedImages(cameras, alphas.repeat(1, 1, 1, 3), alphas, [""] * views)


def test_a_ring_is_found_with_its_normals_and_its_course():
    directions = sphere(8000)
    worn = worn_things(BALL * directions, directions, silhouettes(with_ring=True))
    level = F.normalize(worn.points * torch.tensor([1.0, 1.0, 0.0]), dim=-1)
    radial = worn.points - RING * level
    # Behind the ring, no silhouette tells it from the ball.
    outside = (radial * level).sum(-1) > 0
    on = outside & ((radial.norm(dim=-1) - TUBE).abs() < 0.004)
    assert on.sum() > 0.6 * outside.sum(), f"{int(on.sum())} of {int(outside.sum())} points lie on the ring"
    angle = torch.rad2deg((worn.normals * F.normalize(radial, dim=-1)).sum(-1)[on].clamp(-1, 1).acos())
    assert angle.median() < 25, f"normals are {float(angle.median()):.0f} degrees off"
    course = torch.stack([-level[:, 1], level[:, 0], torch.zeros(len(level))], -1)
    along = (worn.axes * course).sum(-1)[on].abs()
    assert along.median() > 0.95 and worn.stretch[on].median() > 1.3
    tube, around = ring()
    outer = tube[(around * F.normalize(tube * torch.tensor([1.0, 1.0, 0.0]), dim=-1)).sum(-1) > 0.5]
    covered = torch.cdist(outer, worn.points).amin(1) < 0.004
    assert covered.float().mean() > 0.9, f"{float(covered.float().mean()):.2f} of the ring is covered"


def test_a_bare_ball_wears_nothing():
    directions = sphere(8000)
    assert len(worn_things(BALL * directions, directions, silhouettes(with_ring=False))) == 0


def test_quaternions_turn_both_axes():
    normals = F.normalize(torch.randn(50, 3), dim=-1)
    normals[0], normals[1] = torch.tensor([0.0, 0.0, -1.0]), torch.tensor([0.0, 0.0, 1.0])
    along = F.normalize(torch.linalg.cross(normals, torch.randn(50, 3)), dim=-1)
    matrices = rotation_matrices(turned_to(normals, along))
    assert torch.allclose(matrices[..., 2], normals, atol=1e-5)
    assert torch.allclose(matrices[..., 0], along, atol=1e-5)
