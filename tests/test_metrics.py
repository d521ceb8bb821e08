"""Metrics in cases whose true value is known."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from avatars import random_avatar
from captures import write
from lpips_weights import random_lpips
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from specularip.avatar import Avatar
from specularip.cameras import Cameras
from specularip.captures.views import PosedImages
from specularip.lpips import Lpips
from specularip.metrics import (
    BLOB_SHARE,
    HIGHLIGHT,
    REACH_DEG,
    _blur,
    _blur_by_products,
    coherence,
    combined_psnr,
    evaluate,
    frames_per_second,
    highlight_drift,
    highlight_psnr,
    lpips,
    luminance,
    psnr,
    ssim,
    table_rows,
)

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed", "no_installed_lpips")
SIZE, FOV = 160, 40.0


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


def noisy_pair(
    rng: np.random.Generator, shape: tuple[int, ...] = (3, 40, 56, 3)
) -> tuple[np.ndarray, np.ndarray]:
    """Smooth images with flat black areas, like renders, and noisy copies."""
    rows, columns = np.meshgrid(np.linspace(0, 6, shape[1]), np.linspace(0, 8, shape[2]), indexing="ij")
    phase = rng.uniform(0, 6, (shape[0], 1, 1, shape[3]))
    first = (np.sin(rows + columns)[None, ..., None] * np.cos(rows)[None, ..., None] + np.sin(phase)).clip(
        0, 1
    )
    second = (first + 0.1 * rng.normal(size=shape)).clip(0, 1)
    return first.astype(np.float32), second.astype(np.float32)


def test_psnr_and_ssim_match_scikit_image(rng):
    first, second = noisy_pair(rng)
    settings = {
        "gaussian_weights": True,
        "use_sample_covariance": False,
        "data_range": 1.0,
        "channel_axis": -1,
    }
    expected = [
        structural_similarity(a.astype(float), b.astype(float), **settings) for a, b in zip(first, second)
    ]
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        found = ssim(torch.from_numpy(first).to(dtype), torch.from_numpy(second).to(dtype))
        assert found.tolist() == pytest.approx(expected, abs=tolerance), SEED
    expected = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(first, second)]
    assert psnr(*map(torch.from_numpy, (first, second))).tolist() == pytest.approx(expected, abs=1e-4), SEED
    same = torch.from_numpy(first)
    assert torch.isinf(psnr(same, same)).all() and torch.allclose(ssim(same, same), torch.ones(3))
    assert float(psnr(torch.zeros(1, 12, 12, 3), torch.full((1, 12, 12, 3), 0.1))) == pytest.approx(20)
    with pytest.raises(ValueError, match="11"):
        ssim(same[:, :10], same[:, :10])
    with pytest.raises(ValueError, match="alike"):
        psnr(same, same[:1])


@pytest.mark.parametrize("size", [(11, 11), (12, 40), (33, 17)])
def test_both_blurs_agree(size):
    """The one that GPUs use, here on the CPU, against the one that CPUs use."""
    images = torch.rand(2, 6, *size, dtype=torch.float64)
    assert torch.allclose(_blur_by_products(images), _blur(images), atol=1e-12)


def test_ssim_is_differentiable(rng):
    target, start = map(torch.from_numpy, noisy_pair(rng, (1, 20, 20, 3)))
    image = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        (1 - ssim(image, target)).sum().backward()
        optimizer.step()
    assert float(ssim(image.detach(), target)) > 0.5 * (1 + float(ssim(start, target))), SEED


def test_highlight_psnr_compares_bright_pixels_only():
    targets = torch.zeros(2, 16, 16, 3)
    targets[0, 2:6, 2:6] = 0.9
    targets[1, 8:10, 2:6] = torch.tensor([1.0, 0.0, 0.0])  # pure red is not bright enough
    assert float(luminance(targets[1]).max()) == pytest.approx(0.2126)
    images = targets.clone()
    images[:, 12:] = 0.5  # wrong, but dark in the target
    images[0, 2:6, 2:6] -= 0.1
    assert float(highlight_psnr(images, targets)) == pytest.approx(20, abs=1e-3)
    # Over all pixels of all images: 16 of error 0.01 and 4 without error.
    targets[1, 0, :4] = images[1, 0, :4] = 1.0
    assert float(highlight_psnr(images, targets)) == pytest.approx(-10 * math.log10(0.01 * 16 / 20), abs=1e-3)
    assert math.isnan(float(highlight_psnr(images * 0, targets * 0)))


def spots(centers: list[tuple[float, float]], radius: float = 5.0, peak: float = 1.0) -> Tensor:
    """One image [1,SIZE,SIZE,3] of soft bright discs at (x, y) in pixels."""
    grid = torch.arange(SIZE) + 0.5
    image = torch.full((SIZE, SIZE), 0.3)
    for x, y in centers:
        distance = ((grid[None, :] - x).square() + (grid[:, None] - y).square()).sqrt()
        image = torch.maximum(image, peak * torch.exp(-(distance / radius).square()))
    return image[None, ..., None].expand(1, SIZE, SIZE, 3)


def camera(count: int = 1) -> Cameras:
    return Cameras.orbit([0.0] * count, 0.0, 2.0, FOV, SIZE, SIZE)


def angle(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Angle between the viewing rays through two pixels, by the arc cosine."""
    focal = SIZE / 2 / math.tan(math.radians(FOV / 2))
    a, b = (np.array([x - SIZE / 2, y - SIZE / 2, focal]) for x, y in (first, second))
    return math.degrees(math.acos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))


def drift(images: Tensor, targets: Tensor, alphas: Tensor | None = None):
    return highlight_drift(
        images, targets, torch.ones_like(targets[..., :1]) if alphas is None else alphas, camera(len(targets))
    )


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.0, 0.0), (0.5, -0.25), (3.0, 2.0), (0.0, 7.0)])
def test_drift_of_a_shifted_spot_is_its_angle(shift):
    """Up to 2.4 pixels, the spots overlap; beyond, the nearest are matched."""
    where = (100.0, 60.0)
    moved = (where[0] + shift[0], where[1] + shift[1])
    found = drift(spots([moved]), spots([where]))
    assert found.mean == pytest.approx(angle(where, moved), abs=0.01) and found.p90 == found.mean
    assert (found.true, found.missed, found.spurious) == (1, 0, 0)
    dimmer = drift(spots([moved], peak=0.75), spots([where]))
    assert dimmer.mean == pytest.approx(angle(where, moved), abs=0.02)


def test_drift_is_independent_of_brightness():
    """A little too dark or too bright all over, uneven patches still have their centres in place; at a fixed
    level they would not."""
    rows, columns = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    patch = 0.45 + 0.3 * (columns / SIZE) * (((rows - 80).abs() < 10) & ((columns - 80).abs() < 60))
    targets = patch[None, ..., None].expand(1, SIZE, SIZE, 3)
    for gain in (0.88, 0.95, 1.0, 1.1):
        found = drift(gain * targets, targets)
        assert found.mean == pytest.approx(0, abs=0.1) and found.missed == 0, gain
        shifted = drift(gain * targets.roll(3, 2), targets)
        assert shifted.mean == pytest.approx(angle((120, 80), (123, 80)), abs=0.1), gain
    fixed = (0.88 * patch - HIGHLIGHT).clamp_min(0)
    true = (patch - HIGHLIGHT).clamp_min(0)
    moved = float((fixed * columns).sum() / fixed.sum() - (true * columns).sum() / true.sum())
    assert angle((120, 80), (120 + moved, 80)) > 1


def test_drift_counts_missed_and_spurious_highlights():
    here, there = (60.0, 60.0), (110.0, 100.0)
    far = (60.0 + 1.3 * REACH_DEG / FOV * SIZE, 60.0)
    found = drift(spots([far, there]), spots([here, there]))
    assert (found.true, found.missed, found.spurious) == (2, 1, 1) and found.mean == pytest.approx(
        0, abs=1e-6
    )
    nothing = drift(spots([]), spots([here]))
    assert (nothing.true, nothing.missed, nothing.spurious) == (1, 1, 0) and math.isnan(nothing.mean)
    dark = drift(spots([]), spots([]))
    assert (dark.true, dark.missed, dark.spurious) == (0, 0, 0) and math.isnan(dark.p90)
    # Highlights outside the silhouette are not counted in either image.
    alphas = torch.ones(1, SIZE, SIZE, 1)
    alphas[:, :80, :80] = 0
    cut = drift(spots([far, there]), spots([here, there]), alphas)
    assert (cut.true, cut.missed, cut.spurious) == (1, 0, 0)
    # Nor are specks, but they may be the counterpart of a highlight.
    assert SIZE * SIZE * BLOB_SHARE < 4
    speck = spots([]).clone()
    speck[0, 60, 60:63] = 0.9
    assert drift(spots([]), speck).true == 0 and drift(speck, spots([])).spurious == 0
    assert drift(speck, spots([here])).missed == 0


def test_split_and_merged_highlights_have_a_counterpart():
    """A bar that the render splits in two is one highlight; of two that it joins, none is missed."""
    bar = torch.full((1, SIZE, SIZE, 3), 0.2)
    bar[0, 50:54, 40:80] = 0.9
    broken = bar.clone()
    broken[0, 50:54, 58:62] = 0.2
    for images, targets in ((broken, bar), (bar, broken)):
        found = drift(images, targets)
        assert (found.true, found.missed, found.spurious) == (1, 0, 0)
        assert found.mean == pytest.approx(0, abs=1e-6)
        shifted = drift(images.roll(2, 2), targets)
        assert shifted.mean == pytest.approx(angle((60, 52), (62, 52)), abs=1e-3) and shifted.missed == 0


def test_drift_over_views_has_mean_and_90th_percentile():
    shifts = [0, 1, 2, 3, 4, 0, 1, 2, 3, 6]
    centre = (80.0, 80.0)
    targets = spots([centre]).repeat(10, 1, 1, 1)
    images = torch.cat([spots([(80.0 + shift, 80.0)]) for shift in shifts])
    found = drift(images, targets)
    expected = [angle(centre, (80.0 + shift, 80.0)) for shift in shifts]
    assert found.degrees.tolist() == pytest.approx(expected, abs=0.01)
    assert found.mean == pytest.approx(np.mean(expected), abs=0.01)
    assert found.p90 == pytest.approx(np.quantile(expected, 0.9), abs=0.01)


def ball(cameras: Cameras, radius: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """A ball at the origin, ray traced: surface points [V,H,W,3], depths and alphas [V,H,W,1]."""
    grid = torch.arange(SIZE, dtype=torch.float64) + 0.5
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(cameras.Ks[0]).double().T
    points, depths, alphas = [], [], []
    for viewmat in cameras.viewmats.double():
        center = viewmat[:3, 3]
        a, b, c = rays.square().sum(-1), rays @ center, center.square().sum() - radius**2
        inside = b.square() - a * c
        z = torch.where(inside > 0, (b - inside.clamp_min(0).sqrt()) / a, 0.0)
        points.append((rays * z[..., None] - viewmat[:3, 3]) @ viewmat[:3, :3])
        depths.append(z[..., None])
        alphas.append((inside > 0)[..., None])
    stacks = (torch.stack(s).float() for s in (points, depths, alphas))
    return tuple(stacks)  # type: ignore[return-value]


def test_coherence_of_patterns_fixed_to_the_surface_and_to_the_image():
    cameras = Cameras.orbit([0.0, 4.0, 90.0, 180.0], 10.0, 2.0, FOV, SIZE, SIZE)
    points, depths, alphas = ball(cameras)
    painted = (0.5 + 0.5 * torch.sin(30 * points)) * alphas
    near = ((0, 1), (1, 0))
    found = coherence(painted, depths, alphas, cameras, near)
    assert found.shape == (2,) and (found > 0.99).all(), found

    # The same pattern, fixed to the image instead of the ball.
    locked = painted[:1].expand_as(painted) * alphas
    assert (coherence(locked, depths, alphas, cameras, near) < 0.9).all()
    flicker = painted * torch.tensor([1.0, 0.5, 1.0, 1.0])[:, None, None, None]
    # |a − a/2| / (a + a/2) is a third.
    assert coherence(flicker, depths, alphas, cameras, near).tolist() == pytest.approx(
        [2 / 3, 2 / 3], abs=0.01
    )

    # Opposite views share nothing; perpendicular ones are compared where both see the ball.
    assert math.isnan(float(coherence(painted, depths, alphas, cameras, ((0, 3),))[0]))
    hidden = painted.clone()
    hidden[0] = torch.where((points[0] @ cameras.positions[2] > 0.2)[..., None], painted[0], 1.0)
    assert float(coherence(hidden, depths, alphas, cameras, ((0, 2),))[0]) > 0.97
    black = coherence(painted * 0, depths, alphas, cameras, near)
    assert black.tolist() == [1, 1]
    wrong_depth = depths * torch.tensor([1.0, 1.2, 1.0, 1.0])[:, None, None, None]
    assert math.isnan(float(coherence(painted, wrong_depth, alphas, cameras, ((0, 1),))[0]))


def test_coherence_of_rendered_layers():
    """Gaussians with view-independent colours instead of highlights, and the rasteriser's depth."""
    from dataclasses import replace

    from specularip.metrics import _with_neighbour

    generator = torch.Generator().manual_seed(SEED)
    avatar = random_avatar(False)
    directions = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=-1)
    cloud = replace(
        avatar.gaussians,
        means=0.5 * directions,
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(4000, 1),
        log_scales=torch.full((4000, 3), math.log(0.02)),
        opacity_logits=torch.full((4000,), 4.0),
        color_logits=2 * torch.sin(10 * directions),
        **{
            name: getattr(avatar.gaussians, name)[:1].repeat_interleave(4000, 0)
            for name in ("latents", "normal_residuals", "regions", "bind_joints", "bind_weights")
        },
    )
    both = _with_neighbour(camera(), torch.zeros(3))
    first, second = both.positions
    turned = math.degrees(math.acos(float(first @ second) / float(first.norm() * second.norm())))
    assert turned == pytest.approx(2.0, abs=1e-2) and torch.allclose(first[2], second[2])
    frame = Avatar(cloud).render(both, 0.0)
    found = coherence(frame.image, frame.depth, frame.alpha, both, ((0, 1), (1, 0)))
    assert (found > 0.98).all(), (SEED, found)


def test_psnr_of_independent_errors(rng: np.random.Generator) -> None:
    first, second = 0.02 * rng.standard_normal((2, 1, 400, 500, 3))
    image = torch.zeros(1, 400, 500, 3, dtype=torch.float64)
    parts = [float(psnr(image + torch.from_numpy(error), image)) for error in (first, second)]
    both = float(psnr(image + torch.from_numpy(first + second), image))
    assert combined_psnr(*parts) == pytest.approx(both, abs=0.05), SEED
    assert combined_psnr(38.0) == pytest.approx(38.0)
    assert combined_psnr(38.0, 38.0) == pytest.approx(38.0 - 10 * math.log10(2))


def test_table_rows_name_what_is_measured() -> None:
    assert table_rows({"psnr": 31.256, "views": 4, "coherence": math.nan, "other": 1.0}) == [
        ("views", "4"),
        ("PSNR, dB", "31.26"),
        ("coherence", "n/a"),
    ]


@pytest.fixture
def network() -> Lpips:
    return random_lpips(torch.Generator().manual_seed(SEED))


def test_lpips_is_the_distance_of_each_image(network: Lpips) -> None:
    generator = torch.Generator().manual_seed(SEED)
    images, targets = torch.rand(2, 3, 32, 24, 3, generator=generator)
    found = lpips(network, images, targets)
    batch = network.distance(*(network.features(t.permute(0, 3, 1, 2)) for t in (images, targets)))
    assert found.shape == (3,) and float(found.mean()) == pytest.approx(float(batch), rel=1e-4), SEED
    assert float(lpips(network, images, images).abs().max()) == 0


def posed_by(avatar: Avatar, count: int = 3, gain: float = 1.0) -> PosedImages:
    cameras = Cameras.orbit([30.0 * k for k in range(count)], 10.0, 1.6, FOV, 64, 48)
    frame = avatar.render(cameras, 0.0)
    return PosedImages.of(cameras, gain * frame.image, frame.alpha)


def test_evaluate_combines_the_metrics_and_is_deterministic(network: Lpips) -> None:
    torch.manual_seed(SEED)
    avatar = random_avatar()
    cloud = avatar.gaussians
    cloud.opacity_logits += 3
    cloud.color_logits += 2  # bright enough for highlights
    posed = posed_by(avatar, gain=0.9)
    found = evaluate(avatar, posed)
    cameras = Cameras.joined([view.camera for view in posed])
    images, alphas = torch.stack([v.image for v in posed]), torch.stack([v.alpha for v in posed])
    frame = avatar.render(cameras, 0.0)
    assert found["views"] == 3 and found["gaussians"] == len(cloud) and "lpips" not in found
    parts = {
        "psnr": float(psnr(frame.image, images).mean()),
        "ssim": float(ssim(frame.image, images).mean()),
        "highlight_psnr": float(highlight_psnr(frame.image, images)),
    }
    assert int((luminance(images) > HIGHLIGHT).sum()) > 50, SEED
    apart = highlight_drift(frame.image, images, alphas, cameras)
    parts |= {"highlight_drift_deg": apart.mean, "highlight_drift_p90_deg": apart.p90}
    parts |= {
        "highlight_missed": apart.missed / apart.true,
        "highlight_spurious": apart.spurious / apart.true,
    }
    for name, value in parts.items():
        assert found[name] == pytest.approx(value, abs=2e-4), (SEED, name)
    assert 0 <= found["coherence"] < 1 and found["frames_per_second"] > 0
    again = evaluate(avatar, posed)
    assert all(again[name] == found[name] for name in found if name != "frames_per_second"), SEED
    assert evaluate(avatar, posed.select([0]), network)["lpips"] > 0

    perfect = evaluate(avatar, posed_by(avatar))
    assert perfect["psnr"] > 100 and perfect["highlight_drift_deg"] < 1e-5, SEED
    assert perfect["highlight_missed"] == perfect["highlight_spurious"] == 0


def test_evaluate_without_views_and_without_highlights():
    avatar = random_avatar(False)
    assert evaluate(avatar, PosedImages(())) == {"views": 0, "gaussians": len(avatar.gaussians)}
    dark = evaluate(avatar, posed_by(avatar, gain=0.0))
    assert dark["psnr"] > 0 and dark["coherence"] == 1  # no specular layer
    for name in ("highlight_psnr", "highlight_drift_deg", "highlight_missed", "highlight_spurious"):
        assert math.isnan(dark[name]), name


def test_frames_per_second_counts_the_median_frame(monkeypatch):
    """With a clock that shows 10 ms for most frames, and seconds for the first ones and an outlier."""
    durations = iter([5.0, 5.0, 5.0, *[0.01] * 9, 3.0, *[0.01] * 10])
    now = [0.0]
    calls = [0]

    def clock() -> float:
        calls[0] += 1
        if calls[0] % 2 == 0:
            now[0] += next(durations)
        return now[0]

    monkeypatch.setattr("specularip.metrics.time.perf_counter", clock)
    posed = posed_by(random_avatar())
    assert frames_per_second(random_avatar(), [view.camera for view in posed]) == pytest.approx(100)


def test_eval_prints_a_table_and_json(tmp_path, capsys, monkeypatch):
    from specularip.cli import main

    monkeypatch.setattr(sys, "stdout", sys.stdout)  # rich reads its width
    torch.manual_seed(SEED)
    random_avatar().save(tmp_path / "run")
    write(tmp_path / "data", "test")
    arguments = ["eval", str(tmp_path / "run"), "--data", str(tmp_path / "data"), "--device", "cpu"]
    main([*arguments, "--out", str(tmp_path / "new" / "metrics.json")])
    table = capsys.readouterr().out
    for words in (
        "PSNR, dB",
        "highlight drift",
        "coherence",
        "frames per second",
        "LPIPS weights are not",
        "straight",
    ):
        assert words in table, table
    values = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert values["views"] == 5 and f"{values['psnr']:.2f}" in table
    main([*arguments, "--out", "-"])
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == values.keys() and printed["psnr"] == values["psnr"]

    for change, words in (
        (["--out", "metrics.txt"], ".json"),
        (["--split", "val"], "nothing to evaluate"),
        (["--data", str(tmp_path / "none")], "is no folder"),
        *([] if torch.cuda.is_available() else [(["--device", "cuda"], "no CUDA")]),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, *change])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and words in error and error.count("\n") == 1, error
