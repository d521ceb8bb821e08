"""Random initial points: in view of the cameras, within the silhouettes."""

from dataclasses import replace

import pytest
import torch
from captures import HEIGHT, WIDTH, orbit

from specularip.cameras import Cameras
from specularip.captures.views import PosedImages
from specularip.errors import UserError
from specularip.fitting.visual_hull import random_points

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")


def test_random_points_are_in_view_and_inside_the_silhouettes():
    cameras = orbit(6)
    generator = torch.Generator().manual_seed(SEED)
    full = PosedImages.of(cameras, torch.ones(6, HEIGHT, WIDTH, 3), torch.ones(6, HEIGHT, WIDTH, 1))
    points = random_points(full.views, 500, generator)
    assert points.shape == (500, 3) and points.dtype == torch.float32
    pixels, depth = cameras.project(points)
    inside = (depth > 0) & (pixels >= 0).all(-1) & (pixels < torch.tensor([WIDTH, HEIGHT])).all(-1)
    assert (inside.sum(0) >= 3).all(), SEED
    again = random_points(full.views, 500, torch.Generator().manual_seed(SEED))
    assert torch.equal(points, again)

    # Silhouettes of a ball: the hull is the ball to within a pixel.
    large = cameras.resized(200, 150)
    alphas = torch.zeros(6, 150, 200, 1)
    center = torch.tensor([0.1, -0.05, 0.08])
    rows, columns = torch.meshgrid(torch.arange(150) + 0.5, torch.arange(200) + 0.5, indexing="ij")
    rays = torch.stack([columns, rows, torch.ones_like(rows)], -1) @ torch.linalg.inv(large.Ks[0]).T
    rays = torch.nn.functional.normalize(rays, dim=-1)
    for view in range(6):
        to_center = large.viewmats[view, :3, :3] @ center + large.viewmats[view, :3, 3]
        off_axis = (to_center - (rays @ to_center)[..., None] * rays).norm(dim=-1)
        alphas[view, ..., 0] = (off_axis < 0.2).float()
    carved = random_points(PosedImages.of(large, alphas.expand(-1, -1, -1, 3), alphas).views, 2000, generator)
    distance = (carved - center).norm(dim=-1)
    assert carved.shape == (2000, 3)
    # The hull of six views from the side is a ball with low caps above and below.
    assert float(distance.quantile(0.8)) < 0.21 and float(distance.max()) < 0.35, SEED
    assert torch.allclose(carved.mean(0), center, atol=0.02), SEED

    outwards = cameras.viewmats.clone()
    outwards[:, [0, 2]] *= -1  # each turned by 180 degrees about its own vertical
    outwards = Cameras(outwards, cameras.Ks, WIDTH, HEIGHT)
    empty = torch.zeros_like(alphas)
    away = tuple(replace(view, camera=outwards[k]) for k, view in enumerate(full))
    for unusable in (away, PosedImages.of(large, empty.expand(-1, -1, -1, 3), empty).views):
        with pytest.raises(UserError, match="no common object"):
            random_points(unusable, 10, generator)
