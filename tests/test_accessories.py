"""Accessories found in silhouettes alone: a ring around a ball."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.captures.views import PosedImages
from specularip.fitting.accessories import _carve, _occupancy, find_accessories
from specularip.fitting.silhouettes import Silhouette, count_views
from specularip.gaussians import rotation_matrices, turned_to
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
    """Of the ball, with the ring or without."""
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
    return PosedImages.of(cameras, alphas.repeat(1, 1, 1, 3), alphas)


def outlines(posed: PosedImages) -> list[Silhouette]:
    return [Silhouette.of(view) for view in posed]


def test_a_ring_is_found_with_its_normals_and_tangents():
    directions = sphere(8000)
    found = find_accessories(BALL * directions, directions, silhouettes(with_ring=True))
    level = F.normalize(found.points * torch.tensor([1.0, 1.0, 0.0]), dim=-1)
    radial = found.points - RING * level
    # Behind the ring, no silhouette shows it apart from the ball.
    outside = (radial * level).sum(-1) > 0
    on = outside & ((radial.norm(dim=-1) - TUBE).abs() < 0.004)
    assert on.sum() > 0.6 * outside.sum(), f"{int(on.sum())} of {int(outside.sum())} points lie on the ring"
    angle = torch.rad2deg((found.normals * F.normalize(radial, dim=-1)).sum(-1)[on].clamp(-1, 1).acos())
    assert angle.median() < 25, f"normals are {float(angle.median()):.0f} degrees off"
    tangents = torch.stack([-level[:, 1], level[:, 0], torch.zeros(len(level))], -1)
    along = (found.axes * tangents).sum(-1)[on].abs()
    assert along.median() > 0.95
    assert found.stretch[on].median() > 1.1 and found.stretch[on].quantile(0.9) > 1.3
    tube, around = ring()
    outer = tube[(around * F.normalize(tube * torch.tensor([1.0, 1.0, 0.0]), dim=-1)).sum(-1) > 0.5]
    covered = torch.cdist(outer, found.points).amin(1) < 0.004
    assert covered.float().mean() > 0.9, f"{float(covered.float().mean()):.2f} of the ring is covered"


def test_a_ball_alone_has_no_accessories():
    directions = sphere(8000)
    assert len(find_accessories(BALL * directions, directions, silhouettes(with_ring=False))) == 0


def test_the_wide_hull_of_few_views_has_no_accessories():
    """It reaches far beyond the ball, but no view shows it beside the ball."""
    directions = sphere(8000)
    few = silhouettes(with_ring=False).select(range(0, 90, 15))
    full, _ = _occupancy(1.03 * BALL * directions, outlines(few))
    assert full.sum() > 1000, "the hull is too narrow for this test"
    assert len(find_accessories(BALL * directions, directions, few)) == 0


def test_quaternions_rotate_both_axes(seed):
    normals = F.normalize(torch.randn(50, 3), dim=-1)
    normals[0], normals[1] = torch.tensor([0.0, 0.0, -1.0]), torch.tensor([0.0, 0.0, 1.0])
    along = F.normalize(torch.linalg.cross(normals, torch.randn(50, 3)), dim=-1)
    matrices = rotation_matrices(turned_to(normals, along))
    assert torch.allclose(matrices[..., 2], normals, atol=1e-5)
    assert torch.allclose(matrices[..., 0], along, atol=1e-5)


def boxed(alphas: torch.Tensor) -> PosedImages:
    """A camera at the origin for each of alphas [V,H,W], facing z; the image is 1.6 wide at distance 1."""
    views, height, width = alphas.shape
    Ks = torch.tensor([[10.0, 0, width / 2], [0, 10, height / 2], [0, 0, 1]]).repeat(views, 1, 1)
    cameras = Cameras(torch.eye(4).repeat(views, 1, 1), Ks, width, height)
    return PosedImages.of(cameras, alphas[..., None].repeat(1, 1, 1, 3), alphas[..., None])


def test_points_are_occupied_empty_or_unknown():
    alphas = torch.ones(2, 16, 16)
    alphas[:, 0, 0] = 0
    pixels = torch.tensor([[15.9, 15.9], [0.2, 0.2], [8.0, 8.0], [16.5, 8.0], [8.0, 8.0]])
    places = torch.cat([(pixels - 8) / 10, torch.tensor([1.0, 1, 1, 1, -1])[:, None]], 1)
    full, empty = _occupancy(places, outlines(boxed(alphas)))
    assert full.tolist() == [
        True,
        False,
        True,
        False,
        False,
    ]  # the last two: outside the image, behind the camera
    assert empty.tolist() == [False, True, False, False, False]
    assert not _occupancy(places, outlines(boxed(alphas))[1:])[0].any(), "one image is not enough"


def test_image_borders_are_no_surface():
    alphas = torch.ones(2, 16, 16)
    alphas[:, :3] = 0
    cells = torch.cartesian_prod(torch.arange(-8, 8), torch.arange(-8, 8), torch.arange(8, 10))
    surface, normals = _carve(cells, outlines(boxed(alphas)), 0.03)
    assert len(surface) > 100
    # Rows above the third, counted between pixel centres, are empty: a slanted plane, seen from the camera.
    assert ((surface[:, 1] / surface[:, 2] * 10 + 8 - 3).abs() < 0.7).all()
    assert (normals[:, 1] < -0.5).float().mean() > 0.8


def test_counts_are_those_of_plain_interpolation_with_any_number_of_threads(monkeypatch, seed):
    posed, places = silhouettes(with_ring=True), torch.rand(3000, 3) - 0.5
    posed = posed.select(range(0, 90, 6))
    blurred = [replace(view, pixels=(255 * view.pixels).round().byte()) for view in posed]
    seen, empty = (torch.zeros(len(places), dtype=torch.int32) for _ in range(2))
    unsure = torch.zeros(len(places), dtype=torch.bool)
    for view in blurred:
        pixels, depth = view.camera.project(places)
        grid = pixels[0] / SIZE * 2 - 1
        alpha = F.grid_sample(
            view.alpha.permute(2, 0, 1)[None], grid[None, None], padding_mode="border", align_corners=False
        )[0, 0, 0]
        there = (depth[0] > 1e-3) & (grid.abs() < 1).all(-1)
        seen += there
        empty += there & (alpha < 0.5)
        unsure |= (alpha - 0.5).abs() < 2e-3
    assert seen.max() > 10 and (empty > 0).any() and unsure.float().mean() < 0.2
    for threads in ("1", "3"):
        monkeypatch.setenv("SPECULARIP_NUM_THREADS", threads)
        counted = count_views(places, [Silhouette.of(view) for view in blurred])
        assert torch.equal(counted[0], seen) and torch.equal(counted[1][~unsure], empty[~unsure]), seed
        found = count_views(places, outlines(posed), until_empty=True)[1] > 0
        assert torch.equal(found[~unsure], (empty > 0)[~unsure]), seed
