"""The renderer of training images: its z-buffer and its textures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "compact"))

from studio import LIGHTS, MATERIALS, Lighting, direction, material_row, shade
from texturing import Pyramid, recolored
from zbuffer import Cutouts, draw

from specularip.cameras import Cameras
from specularip.raster.mesh import rasterize_mesh, screen_points

SIZE = 48


def textured_soup(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, Cutouts]:
    """Triangles in the unit cube, some opaque, some with holes."""
    middle = torch.rand(count, 1, 3, generator=generator) - 0.5
    vertices = (middle + 0.4 * (torch.rand(count, 3, 3, generator=generator) - 0.5)).reshape(-1, 3)
    faces = torch.arange(3 * count, dtype=torch.int32).reshape(count, 3)
    textures = torch.randint(0, 256, (2, 32, 32, 4), generator=generator, dtype=torch.uint8)
    alpha = Pyramid.build(textures).texels[..., 3].contiguous()
    texture = torch.randint(-1, 2, (count,), generator=generator, dtype=torch.int32)
    return vertices, faces, Cutouts(torch.rand(count, 3, 2, generator=generator), texture, alpha, 32)


def test_opaque_faces_are_drawn_as_by_the_package(generator: torch.Generator) -> None:
    vertices, faces, cutouts = textured_soup(80, generator)
    cutouts = Cutouts(cutouts.uv, torch.full_like(cutouts.texture, -1), cutouts.alpha, cutouts.size)
    cameras = Cameras.orbit([0.0, 130.0], 20.0, 1.6, 40.0, SIZE, SIZE)
    found, nearest = draw(*screen_points(vertices, cameras), faces, cutouts, SIZE)
    expected = rasterize_mesh(vertices, faces, cameras)
    assert torch.equal(found, expected.triangles)
    covered = found >= 0
    assert torch.allclose(1 / nearest[covered], expected.depth[covered], rtol=1e-3)


def test_alpha_is_the_share_of_covered_samples() -> None:
    """A card of alpha 0.5 in front of the camera covers half of every pixel's samples, and another one behind
    it about half of what is left."""
    corners = torch.tensor([[-9.0, -9, 1], [199, -9, 1], [-9, 199, 1]])
    camera = Cameras(torch.eye(4)[None], torch.eye(3)[None], SIZE, SIZE)
    vertices = torch.cat([corners, corners * 2])
    faces = torch.arange(6, dtype=torch.int32).reshape(2, 3)
    alpha = torch.full((1, 1), 128, dtype=torch.uint8)
    cutouts = Cutouts(torch.zeros(2, 3, 2), torch.zeros(2, dtype=torch.int32), alpha, 1)
    found = draw(*screen_points(vertices, camera.resized(SIZE, SIZE)), faces, cutouts, SIZE, 2)[0][0]
    front = (found == 0).float().unfold(0, 2, 2).unfold(1, 2, 2).mean((-1, -2))
    assert (front == 0.5).float().mean() > 0.98
    assert float((found == 1).float().mean()) == pytest.approx(0.25, abs=0.03)


@pytest.mark.gpu
def test_cuda_draws_as_numba(generator: torch.Generator) -> None:
    vertices, faces, cutouts = textured_soup(3000, generator)
    points, nearness = screen_points(vertices, Cameras.orbit([0.0, 130.0], 20.0, 1.6, 40.0, SIZE, SIZE))
    moved = Cutouts(*(t.cuda() for t in (cutouts.uv, cutouts.texture, cutouts.alpha)), cutouts.size)
    for supersample in (1, 2, 3):
        found, nearest = draw(points, nearness, faces, cutouts, SIZE, supersample)
        on_gpu = draw(points.cuda(), nearness.cuda(), faces.cuda(), moved, SIZE, supersample)
        # Products and sums are fused there, which may turn a texel or the order of two surfaces.
        assert (on_gpu[0].cpu() != found).float().mean() < 2e-3
        assert (on_gpu[1].cpu() - nearest).abs().median() < 1e-6


def test_levels_of_a_pyramid_are_means(generator: torch.Generator) -> None:
    textures = torch.randint(0, 256, (3, 16, 16, 3), generator=generator, dtype=torch.uint8)
    pyramid = Pyramid.build(textures)
    rows, uv = torch.arange(3), torch.rand(3, 2, generator=generator)
    coarsest = pyramid.sample(rows, uv, torch.ones(3))
    assert torch.allclose(coarsest, textures.float().mean((1, 2)) / 255, atol=0.01)
    corner = torch.tensor([[2.5 / 16, 1 - 3.5 / 16]]).expand(3, 2)  # the centre of column 2 in row 3
    assert torch.allclose(pyramid.sample(rows, corner, torch.zeros(3)), textures[:, 3, 2].float() / 255)


def test_the_median_texel_becomes_the_target() -> None:
    median, target = torch.tensor([[0.2, 0.1, 0.4]]), torch.tensor([[0.5, 0.3, 0.1]])
    for keep in (0.0, 1.0):
        assert torch.allclose(recolored(median, median, target, torch.tensor([[keep]])), target)


@pytest.mark.parametrize("name", MATERIALS)
def test_shade_is_dark_without_light_and_bright_in_it(name: str) -> None:
    one = torch.tensor([[0.0, -1.0, 0.0]])
    thread, albedo = torch.tensor([[0.0, 0.0, -1.0]]), torch.full((1, 3), 0.5)
    material = torch.tensor([material_row(name)])
    dark = shade(one, thread, one, albedo, material, torch.zeros(1), torch.zeros(1, len(LIGHTS)))
    lit = shade(one, thread, one, albedo, material, torch.ones(1), torch.ones(1, len(LIGHTS)))
    assert float(dark.max()) < 0.15 * float(lit.min())


def test_a_light_of_its_own_colours_what_faces_it() -> None:
    normals = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    view, thread = torch.tensor([[[0.0, -1.0, 0.0]], [[0.0, 0.0, -1.0]]]).expand(2, 2, 3)
    red_at_left = Lighting(((direction(90, 0), (1.0, 0.1, 0.1), 0.1),), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    albedo, material = torch.full((2, 3), 0.5), torch.tensor([material_row("cotton")]).expand(2, -1)
    left, right = shade(normals, thread, view, albedo, material, torch.ones(2), torch.ones(2, 1), red_at_left)
    assert left[0] > 5 * left[2] and left[0] > 10 * right[0]
