"""The mesh rasteriser against brute force in float64, and the body map against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from specularip.body.coordinate_map import body_map
from specularip.cameras import Cameras
from specularip.raster.mesh import NEAR, SUBPIXELS, rasterize_mesh, render_attributes

SIZE = 40


def soup(count: int, generator: torch.Generator, size: float = 0.4) -> tuple[Tensor, Tensor]:
    """Triangles in the unit cube."""
    middle = torch.rand(count, 1, 3, generator=generator) - 0.5
    corners = middle + size * (torch.rand(count, 3, 3, generator=generator) - 0.5)
    return corners.reshape(-1, 3), torch.arange(3 * count).reshape(count, 3)


def flat_camera(width: int, height: int) -> Cameras:
    """At z = 1, world x and y are pixels."""
    return Cameras(torch.eye(4)[None], torch.eye(3)[None], width, height)


def brute_force(vertices: Tensor, faces: Tensor, cameras: Cameras) -> tuple[Tensor, ...]:
    """Triangles, barycentrics (all three) and depths [B,H,W], and where they are certain: no outline within
    1/100 pixel, no second surface within 1 mm."""
    view = vertices.double() @ cameras.viewmats.double()[:, :3, :3].transpose(1, 2)
    view = view + cameras.viewmats.double()[:, None, :3, 3]
    pixels = view @ cameras.Ks.double().transpose(1, 2)
    y, x = torch.meshgrid(torch.arange(cameras.height), torch.arange(cameras.width), indexing="ij")
    center = torch.stack([x, y], -1).double() + 0.5
    results = []
    for points in pixels[:, faces]:
        z = points[..., 2]
        offsets = (points[..., :2] / points[..., 2:])[:, :, None, None] - center  # [F,3,H,W,2]
        sides = []  # of the edge opposite each corner: twice the area, and the distance
        for p, q in ((1, 2), (2, 0), (0, 1)):
            double_area = (offsets[:, p] * offsets[:, q].flip(-1) * center.new_tensor([1, -1])).sum(-1)
            sides.append((double_area, double_area / (offsets[:, p] - offsets[:, q]).norm(dim=-1)))
        areas, distances = (torch.stack(parts, -1) for parts in zip(*sides))
        turn = areas.sum(-1, keepdim=True).sign()
        edge = (distances * turn).amin(-1)
        shares = areas / z[:, None, None]
        depth = areas.sum(-1) / shares.sum(-1)
        depth = torch.where((edge > 0) & (z > NEAR).all(1)[:, None, None], depth, torch.inf)
        (nearest, second), (face, _) = depth.topk(2, dim=0, largest=False)
        certain = ~(edge.abs() < 0.01).any(0) & ((second - nearest > 1e-3) | nearest.isinf())
        weights = (shares / shares.sum(-1, keepdim=True)).gather(
            0, face[None, ..., None].expand(1, -1, -1, 3)
        )[0]
        results.append((torch.where(nearest.isinf(), -1, face), weights, nearest, certain))
    return tuple(torch.stack(parts) for parts in zip(*results))


def test_agrees_with_brute_force(generator: torch.Generator) -> None:
    vertices, faces = soup(60, generator)
    cameras = Cameras.orbit([0.0, 70.0, -160.0], [10.0, -30.0, 60.0], 1.6, 40.0, SIZE, SIZE + 8)
    found = rasterize_mesh(vertices, faces, cameras)
    triangles, weights, depth, certain = brute_force(vertices, faces, cameras)
    assert certain.float().mean() > 0.5
    assert torch.equal(found.triangles[certain].long(), triangles[certain])
    both = certain & (triangles >= 0)
    assert both.float().mean() > 0.1
    # Corners are snapped to 1/256 pixel, which shifts thin triangles most: most must be close, all near.
    error = (found.barycentrics[both] - weights[both][:, :2]).abs().amax(-1)
    assert error.median() < 2e-3 and error.quantile(0.98) < 0.05
    assert ((found.depth[both] / depth[both] - 1).abs()).quantile(0.98) < 3e-3
    empty = found.triangles < 0
    assert not found.depth[empty].any() and not found.barycentrics[empty].any()


def test_outline_is_exact_on_the_subpixel_grid(generator: torch.Generator) -> None:
    """With corners on multiples of 1/256 pixel, just the pixel centres inside or on an edge are covered."""
    corners = torch.randint(-8 * SUBPIXELS, (SIZE + 8) * SUBPIXELS, (30, 3, 2), generator=generator)
    y, x = np.mgrid[:SIZE, :SIZE] * SUBPIXELS + SUBPIXELS // 2
    for triangle in corners:
        vertices = torch.cat([triangle / SUBPIXELS, torch.ones(3, 1)], 1)
        found = rasterize_mesh(vertices, torch.tensor([[0, 1, 2]]), flat_camera(SIZE, SIZE)).triangles[0] == 0
        a, b, c = triangle.tolist()
        sides = np.stack(
            [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in ((a, b), (b, c), (c, a))]
        )
        inside = (sides >= 0).all(0) | (sides <= 0).all(0)
        assert np.array_equal(found.numpy(), inside)


def test_meshes_have_no_cracks(generator: torch.Generator) -> None:
    """A jittered sheet that covers the image leaves no pixel out, seen from either side."""
    n = 24
    y, x = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    corners = torch.stack([x, y], -1).float() + 0.6 * (torch.rand(n, n, 2, generator=generator) - 0.5)
    corners = (corners - 1) * SIZE / (n - 3)
    vertices = torch.cat([corners.reshape(-1, 2), torch.ones(n * n, 1)], 1)
    index = torch.arange(n * n).reshape(n, n)
    first = torch.stack([index[:-1, :-1], index[1:, :-1], index[:-1, 1:]], -1).reshape(-1, 3)
    second = torch.stack([index[1:, 1:], index[:-1, 1:], index[1:, :-1]], -1).reshape(-1, 3)
    faces = torch.cat([first, second])
    for order in (faces, faces.flip(1)):
        assert (rasterize_mesh(vertices, order, flat_camera(SIZE, SIZE)).triangles >= 0).all()


def test_triangles_at_the_camera_are_left_out() -> None:
    vertices = torch.tensor(
        [[-1.0, -1, 1], [3, -1, 1], [-1, 3, NEAR / 2], [0, 0, -1], [1, 0, -1], [0, 1, -1]]
    )
    camera = flat_camera(4, 4)
    assert (rasterize_mesh(vertices, torch.tensor([[0, 1, 2], [3, 4, 5]]), camera).triangles < 0).all()


def test_attributes_are_means_over_samples(generator: torch.Generator) -> None:
    vertices, faces = soup(40, generator)
    values = torch.rand(len(vertices), 5, generator=generator)
    cameras = Cameras.orbit([20.0, 200.0], 0.0, 1.6, 40.0, SIZE, SIZE)
    images, coverage = render_attributes(vertices, faces, values, cameras, 3)
    fine = rasterize_mesh(vertices, faces, cameras.resized(3 * SIZE, 3 * SIZE))
    a, b = fine.barycentrics.unbind(-1)
    weights = torch.stack([a, b, 1 - a - b], -1)
    covered = fine.triangles >= 0
    corners = values[faces[fine.triangles.clamp_min(0).long()]]
    expected = ((weights[..., None] * corners).sum(-2) * covered[..., None]).movedim(-1, 1)
    assert torch.allclose(images, torch.nn.functional.avg_pool2d(expected, 3), atol=1e-3)
    assert torch.allclose(coverage, torch.nn.functional.avg_pool2d(covered.float(), 3), atol=1e-6)


def test_any_number_of_threads_gives_the_same(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    vertices, faces = soup(200, generator)
    cameras = Cameras.orbit([0.0, 120.0, 240.0], 0.0, 1.6, 40.0, SIZE, SIZE)
    maps = []
    for threads in ("1", "3"):
        monkeypatch.setenv("SPECULARIP_NUM_THREADS", threads)
        maps.append(body_map(vertices, faces, 1.5, cameras, torch.zeros(3, 3)))
    assert torch.equal(*maps)


def test_body_map_tells_where_pixels_look() -> None:
    """A square in front of the target plane: its own positions on it, the plane's beside it."""
    half, height, depth = 0.2, 2.0, 0.3
    vertices = torch.tensor([[x, -depth, z] for z in (-half, half) for x in (-half, half)])
    faces = torch.tensor([[0, 1, 2], [3, 2, 1]])
    target = torch.tensor([[0.05, 0.0, 0.1]])
    camera = Cameras.orbit(0.0, 0.0, 2.0, 30.0, SIZE, SIZE, target)
    found = body_map(vertices, faces, height, camera, target)[0]
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    covered = found[3]
    assert set(covered.unique().tolist()) >= {0.0, 1.0}
    assert float(covered.sum()) == pytest.approx(
        float(0.4 * camera.Ks[0, 0, 0] / (2.0 - depth)) ** 2, rel=0.03
    )
    for is_on, distance in ((1.0, 2.0 - depth), (0.0, 2.0)):
        scale = distance / camera.Ks[0, 0, 0]
        x = 0.05 + (column + 0.5 - SIZE / 2) * scale
        z = 0.1 - (row + 0.5 - SIZE / 2) * scale
        point = torch.stack([x, torch.full_like(x, distance - 2.0), z])
        expected = (point / height + 0.5).clamp(0, 1)
        where = covered == is_on
        assert torch.allclose(found[:3, where], expected[:, where], atol=2e-4)
