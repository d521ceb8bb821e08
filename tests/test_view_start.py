"""The start of SEID from views: fusion, completion by the body, and the fit, on views of a simple person."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.spatial import cKDTree

from specularip.body import Body, anny_body
from specularip.body.regions import NAMES
from specularip.cameras import Views
from specularip.errors import UserError
from specularip.gaussians import Gaussians, turned_to
from specularip.metrics import psnr
from specularip.raster import Raster, rasterize
from specularip.stages.fusion import DEPTH_GAIN, SurfacePoints, depth_views, fuse, thinned, unproject
from specularip.stages.guide import as_images
from specularip.stages.initial_state import state_of
from specularip.stages.settings import FusionConfig, SeidConfig, ViewFitConfig
from specularip.stages.view_fit import fit_views, step_rows, view_targets
from specularip.stages.view_start import (
    face_samples,
    gaussians_from_views,
    start_views,
    weighted_median,
    within_budget,
)

SIZE, GREY = 96, 0.6
FUSION = FusionConfig(fine_voxel=0.006)


def painted(points: torch.Tensor) -> torch.Tensor:
    """Colours [N,3] that vary over the body."""
    return 0.5 + 0.4 * torch.sin(4 * points + torch.tensor([0.0, 1.0, 2.0]))


def draw(body: Body, views: Views) -> Raster:
    samples = body.sample_surface(30_000, torch.Generator().manual_seed(1))
    scales = samples.spacing[:, None] * torch.tensor([0.7, 0.7, 0.2])
    cameras = views.cameras
    return rasterize(
        samples.points, turned_to(samples.normals), scales, torch.full((30_000,), 0.98),
        painted(samples.points), cameras.viewmats, cameras.Ks, cameras.width, cameras.height,
        torch.full((3,), GREY),
    )  # fmt: skip


def encoded(raster: Raster, views: Views) -> torch.Tensor:
    """The five channels [V,5,S,S]."""
    return as_images(raster, 5, views.distances)


@pytest.fixture(scope="module")
def body() -> Body:
    return anny_body()


@pytest.fixture(scope="module")
def views(body: Body) -> Views:
    return start_views(body.height, SIZE)


@pytest.fixture(scope="module")
def images(body: Body, views: Views) -> torch.Tensor:
    return encoded(draw(body, views), views)


@pytest.fixture(scope="module")
def fused(body: Body, views: Views, images: torch.Tensor) -> Gaussians:
    return start_of(images, views, body)


def start_of(images: torch.Tensor, views: Views, body: Body) -> Gaussians:
    decoded = depth_views(images, views.cameras, views.targets, GREY, FUSION)
    return gaussians_from_views(decoded, body, 6000, 0, FUSION)


def to_surface(points: torch.Tensor, body: Body) -> torch.Tensor:
    """Distances [N] to the body's surface, about."""
    dense = body.sample_surface(40_000, torch.Generator().manual_seed(2)).points
    return torch.cat([torch.cdist(some, dense).amin(1) for some in points.split(2000)])


def test_decoding_inverts_the_encoding(views: Views, images: torch.Tensor, body: Body) -> None:
    decoded = depth_views(images, views.cameras, views.targets, GREY, FUSION)
    points = unproject(decoded.depths, decoded.cameras)[decoded.surface]
    distance = to_surface(points[::37], body)
    assert distance.median() < 0.008
    assert distance.quantile(0.95) < 0.022  # a pixel of the whole body is 21 mm wide
    towards = decoded.cameras.positions[:, None, None] - unproject(decoded.depths, decoded.cameras)
    facing = (decoded.normals.permute(0, 2, 3, 1) * towards).sum(-1)
    assert bool((facing[decoded.surface] >= 0).all())


def test_the_surface_is_covered_and_nothing_floats(fused: Gaussians, body: Body) -> None:
    assert 3000 < len(fused) <= 6000
    assert to_surface(fused.means, body).max() < 0.04
    samples = body.sample_surface(2000, torch.Generator().manual_seed(3))
    holes = torch.cdist(samples.points, fused.means).amin(1)
    # The inside of the mouth and the like is not a hole.
    assert holes.quantile(0.97) < 0.025
    assert (fused.diffuse - painted(fused.means)).abs().median() < 0.05


def test_gaussians_are_flat_disks_bound_to_the_body(fused: Gaussians, body: Body) -> None:
    assert torch.equal(fused.log_scales.argmin(-1), torch.full((len(fused),), 2))
    assert torch.allclose(fused.bind_weights.sum(-1), torch.ones(len(fused)), atol=1e-5)
    assert fused.means[fused.regions == 0, 2].min() > 0.3 * body.height  # the head is on top


def test_a_floating_patch_is_dropped(views: Views, images: torch.Tensor, body: Body) -> None:
    spoilt = images.clone()
    spoilt[0, 4, 30:36, 44:52] -= 0.12  # 20 cm in front of the chest, in one view
    start = start_of(spoilt, views, body)
    assert to_surface(start.means, body).max() < 0.05


def test_views_that_disagree_give_one_layer(views: Views, images: torch.Tensor, body: Body) -> None:
    distance = (views.cameras.positions - views.targets).norm(dim=-1)
    error = 0.015 * torch.tensor([1.0, -1.0]).repeat(len(images) // 2 + 1)[: len(images)]
    spoilt = images.clone()
    spoilt[:, 4] += (error / distance * DEPTH_GAIN)[:, None, None] * images[:, 3]
    start = start_of(spoilt, views, body)
    assert to_surface(start.means, body).mean() < 0.011


def test_both_sides_of_a_thin_sheet_stay_apart() -> None:
    positions = torch.tensor([[0.001, 0.001, 0.001], [0.002, 0.002, 0.002], [0.001, 0.002, 0.003]])
    normals = torch.tensor([[0.0, 0, 1], [0, 0, -1], [0, 0, 1]])
    points = thinned(SurfacePoints(positions, normals, torch.ones(3), torch.ones(3)), 0.01)
    assert len(points) == 2
    assert torch.allclose(points.positions[points.normals[:, 2] > 0], torch.tensor([[0.001, 0.0015, 0.002]]))


def test_weighted_median_ignores_an_outlier() -> None:
    values = torch.tensor([0.2, 0.9, 0.3]).reshape(3, 1, 1)
    assert float(weighted_median(values, torch.ones(3, 1))) == pytest.approx(0.3)
    assert float(weighted_median(values, torch.tensor([[1.0], [5.0], [1.0]]))) == pytest.approx(0.9)


def test_every_view_is_drawn_equally_often() -> None:
    drawn = torch.cat([step_rows(step, 3, 16) for step in range(16)])
    assert torch.equal(drawn.bincount(), torch.full((16,), 3))


@pytest.mark.parametrize("budget", [1, 50, 400])
def test_the_smallest_budget_is_kept(budget: int) -> None:
    """Fewer points than there are sides of parts, which no grid merges."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(4000, 3, generator=generator)
    normals = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=-1)
    points = SurfacePoints(positions, normals, torch.full((4000,), 0.004), torch.ones(4000))
    fineness = 0.4 + 0.2 * (torch.arange(4000) % 4)
    left = within_budget(points, fineness, 0.006, budget)
    assert budget / 8 <= len(left) <= budget


def test_views_that_agree_on_nothing_are_told(views: Views, images: torch.Tensor) -> None:
    strict = replace(FUSION, fine_voxel=1.0, merge_radius=1e-4)
    decoded = depth_views(images, views.cameras, views.targets, GREY, strict)
    with pytest.raises(UserError, match="the sampled views agree on no surface: use another --seed"):
        fuse(decoded, strict)


def test_the_fit_improves_on_the_fusion(fused: Gaussians, views: Views, images: torch.Tensor) -> None:
    cameras = views.cameras
    config = ViewFitConfig(steps=24, views_per_step=2)

    def quality(g: Gaussians) -> float:
        raster = rasterize(
            g.means, g.quats, g.scales, g.opacities, g.diffuse, cameras.viewmats, cameras.Ks, SIZE, SIZE,
            torch.full((3,), GREY),
        )  # fmt: skip
        return float(psnr(raster.image, images[:, :3].permute(0, 2, 3, 1)).mean())

    before = quality(fused)
    seid = replace(SeidConfig(), lights=4, rates=config.rates)
    state = state_of(fused, seid, 0, torch.Generator().manual_seed(0))
    targets = view_targets(images, depth_views(images, cameras, views.targets, GREY, FUSION))
    done = []
    fit_views(state, targets, config, GREY, 6500, lambda step, metrics: done.append(step))
    assert done == list(range(1, 25))
    assert len(state) <= 6500
    with torch.no_grad():
        assert quality(state.gaussians) > before + 1.0


def test_hands_and_face_are_the_bodys_and_bare_arms_lie_on_its_skin(
    body: Body, views: Views, images: torch.Tensor
) -> None:
    farther = images.clone()
    farther[:, 4] += DEPTH_GAIN * 0.006  # all views agree on a body that is a centimetre too thin
    decoded = depth_views(farther, views.cameras, views.targets, GREY, FUSION)
    made = gaussians_from_views(decoded, body, 6000, 0, FUSION)
    surface = body.sample_surface(60_000, torch.Generator().manual_seed(2)).points
    away = torch.cdist(made.means, surface).amin(1)
    hand, arm, hips = (made.regions == NAMES.index(name) for name in ("hand", "lower_arm", "hips"))
    assert int(hand.sum()) > 200 and float(away[hand].quantile(0.95)) < 0.005
    assert float(away[arm].quantile(0.9)) < 0.005 < float(away[hips].median())
    nose = (made.means - body.keypoints[0]).norm(dim=-1) < 0.04
    assert int(nose.sum()) > 100 and float(away[nose].quantile(0.95)) < 0.005


def test_hands_take_no_colours_from_what_is_beside_them(body: Body, views: Views) -> None:
    """Views that show a red body, and its hands a centimetre beside the body's."""
    samples = body.sample_surface(30_000, torch.Generator().manual_seed(1))
    hand = samples.regions == NAMES.index("hand")
    colors = torch.where(hand[:, None], torch.tensor([0.8, 0.6, 0.5]), torch.tensor([0.9, 0.0, 0.0]))
    moved = samples.points + hand[:, None] * torch.tensor([0.0, 0.0, 0.01])
    cameras = views.cameras
    scales = samples.spacing[:, None] * torch.tensor([0.7, 0.7, 0.2])
    raster = rasterize(
        moved, turned_to(samples.normals), scales, torch.full((30_000,), 0.98), colors, cameras.viewmats,
        cameras.Ks, SIZE, SIZE, torch.full((3,), GREY),
    )  # fmt: skip
    made = start_of(encoded(raster, views), views, body)
    blue = made.diffuse[made.regions == NAMES.index("hand"), 2]
    assert float(blue.std()) < 0.04


def test_the_face_is_the_front_of_the_head_and_has_no_inside(body: Body) -> None:
    face = face_samples(body, torch.Generator().manual_seed(4))
    eyes, ears = body.keypoints[[14, 15]], body.keypoints[[16, 17]]
    assert len(face.points) > 3000
    assert face.points[:, 1].max() < ears[:, 1].min()  # bodies face -y
    assert eyes[:, 2].max() < face.points[:, 2].max() < eyes[:, 2].max() + 0.05
    # No sample has another one right in front of it.
    across = face.points[:, [0, 2]].double().numpy()
    for row, near in enumerate(cKDTree(across).query_ball_point(across[::7], 0.0005)):
        assert float(face.points[7 * row, 1] - face.points[near, 1].min()) < 0.012
