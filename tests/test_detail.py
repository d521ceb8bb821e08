"""Weights of pixels by how well other views show the same surface."""

from __future__ import annotations

import pytest
import torch

from specularip.cameras import FULL, HEAD, Cameras
from specularip.stages.detail import detail_weights

RADIUS, SIZE = 0.2, 64


def ball(cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """Depths [V,S,S] along the optical axis and mask of a ball at the origin."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    focal, center = cameras.Ks[:, 0, 0, None, None], cameras.Ks[:, :2, 2]
    rays = torch.stack(
        [
            (x - center[:, 0, None, None]) / focal,
            (y - center[:, 1, None, None]) / focal,
            torch.ones(len(cameras), SIZE, SIZE),
        ],
        -1,
    )
    middle = cameras.viewmats[:, :3, 3][:, None, None]
    a, b = rays.square().sum(-1), (rays * middle).sum(-1)
    inside = b.square() - a * (middle.square().sum(-1) - RADIUS**2)
    return (b - inside.clamp_min(0).sqrt()) / a, inside > 0


def orbit(azimuth_deg: list[float], distance: list[float]) -> Cameras:
    count = len(azimuth_deg)
    return Cameras.orbit(
        torch.tensor(azimuth_deg), torch.zeros(count), torch.tensor(distance), 30.0, SIZE, SIZE
    )


def test_a_view_from_afar_counts_by_the_squared_ratio_of_areas() -> None:
    cameras = orbit([0.0, 0.0], [1.0, 2.0])
    weights = detail_weights(*ball(cameras), cameras)
    near, far = weights[:, SIZE // 2, SIZE // 2].tolist()
    assert near == 1 and far == pytest.approx((0.8 / 1.8) ** 4, rel=0.1)
    assert weights[1, 0, 0] == 1, "the background counts"


def test_views_from_the_side_count_less_and_from_behind_not_at_all() -> None:
    cameras = orbit([0.0, 60.0, 180.0], [1.0, 1.0, 0.5])
    weights = detail_weights(*ball(cameras), cameras)
    middle = SIZE // 2
    assert weights[0, middle, middle] > 0.9, "the closer view shows the other side"
    row = weights[0, middle][ball(cameras)[1][0, middle]]
    assert row.min() < 0.3, "the view from the side shows one rim squarely"


def test_the_head_is_left_to_its_close_up() -> None:
    assert HEAD.distance < FULL.distance / 3
    cameras = orbit([0.0, 0.0], [HEAD.distance, FULL.distance])
    assert detail_weights(*ball(cameras), cameras)[1, SIZE // 2, SIZE // 2] < 0.02
