"""The benchmarks' measures of an avatar against the true person, in cases whose value is known."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from measures import (
    alike,
    bare_share,
    body_psnr,
    body_ssim,
    ciede2000,
    confusion,
    contrast,
    cross_validated,
    edges,
    eroded,
    fray,
    lit_palette,
    median_color,
    nearest,
    silhouette_iou,
)

SKIN, RED, BLUE = (0.80, 0.60, 0.50), (0.75, 0.08, 0.10), (0.10, 0.20, 0.75)


def plain(*colors: tuple[float, float, float], size: int = 64) -> torch.Tensor:
    """One image [1,size,size,3]: vertical stripes of these colours."""
    stripes = torch.tensor(colors).repeat_interleave(size // len(colors), 0)
    return stripes.expand(1, size, size, 3).clone()


def disk(size: int = 720, radius: float = 200.0) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size / 2
    return np.hypot(x, y) < radius


def test_iou_of_shifted_squares() -> None:
    a, b = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
    a[0, 2:6, 2:6], b[0, 2:6, 4:8] = 1, 1
    assert silhouette_iou(a, b).tolist() == pytest.approx([8 / 24, 1.0])  # two empty images agree


def test_psnr_and_ssim_look_at_the_person_only() -> None:
    truth = torch.rand(1, 64, 64, 3)
    alpha = torch.zeros(1, 64, 64)
    alpha[:, 16:48, 16:48] = 1
    image = truth + 0.1
    image[alpha == 0] = 9.0
    assert body_psnr(image, truth, alpha) == pytest.approx(20.0, abs=1e-3)
    far = truth.clone()
    far[:, :8] = 0.0
    assert body_ssim(far, truth, alpha) == pytest.approx(1.0)


def test_colors() -> None:
    assert ciede2000(torch.tensor(SKIN), torch.tensor(SKIN)) == 0
    assert ciede2000(torch.tensor(RED), torch.tensor(BLUE)) > 40
    palette = torch.tensor([SKIN, RED, BLUE])
    assert nearest(torch.tensor([0.6, 0.15, 0.12]), palette) == 1
    assert nearest(torch.full((3,), math.nan), palette) == -1
    stripes = plain(RED, BLUE)
    assert median_color(stripes, stripes[..., 0] > 0.5).tolist() == pytest.approx(list(RED))
    assert bool(median_color(stripes, stripes[..., 0] > 2).isnan().all())


def test_erosion() -> None:
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[:, 2:7, 2:7] = True
    assert eroded(mask, 1).sum() == 9 and eroded(mask, 2).sum() == 1 and eroded(mask, 0).equal(mask)
    assert eroded(torch.ones(1, 5, 5, dtype=torch.bool), 2).all()


def test_contrast_is_the_spread_of_luma_within_the_mask() -> None:
    image = torch.zeros(2, 4, 4, 3)
    image[:, ::2] = torch.tensor([0.8, 0.4])[:, None, None, None]
    mask = torch.zeros(2, 4, 4)
    mask[:, :, :2] = 1
    image[:, :, 2:] = torch.rand(2, 4, 2, 3)  # outside of it
    spread = torch.tensor([0.0, 0.8] * 4).std()
    assert contrast(image, mask) == pytest.approx(float(spread) * (1 + 0.5) / 2, rel=1e-5)


def test_bare_share_counts_skin_in_a_garment() -> None:
    truth = plain(RED, SKIN)
    cloth = torch.zeros(1, 64, 64, dtype=torch.bool)
    cloth[..., :32] = True
    palettes = lit_palette(truth, cloth), lit_palette(truth, ~cloth)
    assert bare_share(truth, cloth, *palettes) == 0
    holes = truth.clone()
    holes[:, :16, :32] = torch.tensor(SKIN) * 0.95
    assert bare_share(holes, cloth, *palettes) == pytest.approx(0.25)
    assert math.isnan(bare_share(holes, cloth & ~cloth, *palettes))


def test_a_lit_palette_spans_shadow_and_highlight() -> None:
    ramp = torch.linspace(0, 1, 64)[:, None].expand(64, 3).expand(1, 64, 64, 3)
    lightness = lit_palette(ramp, torch.ones(1, 64, 64, dtype=torch.bool))[:, 0]
    assert lightness[0] < 10 and lightness[-1] > 90 and bool((np.diff(lightness) > 0).all())


def test_edges_of_a_clean_and_a_spoilt_silhouette() -> None:
    clean = disk()
    spoilt = clean.copy()
    spoilt[20:24, 20:24] = True  # a speck
    spoilt[350:360, 350:360] = False  # a hole
    alpha = torch.from_numpy(np.stack([clean, spoilt])).float()
    found = edges(alpha)
    assert (found.specks, found.holes) == (0.5, 0.5)
    assert found.speck_share == pytest.approx(16 / (clean.sum() + spoilt.sum()))
    assert edges(alpha[:1]).fray == pytest.approx(1.0, abs=0.01)
    assert math.isnan(edges(torch.zeros(1, 32, 32)).fray)


def test_fray_grows_with_teeth() -> None:
    square = np.zeros((720, 720), bool)
    square[200:520, 200:520] = True
    comb = square.copy()
    comb[200:206, 200:520:4] = False
    comb[200:206, 201:520:4] = False
    assert fray(square) < 1.03 < 1.3 < fray(comb)


def test_recognizer_tells_classes_by_what_differs_between_them() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    features = rng.normal(size=(120, 20)) * np.array([30.0] * 10 + [1.0] * 10)  # large, useless columns
    features[:, 10] += 8 * labels
    found = cross_validated(features, labels, ("a", "b", "c"))
    assert (found == labels).mean() > 0.95


def test_groups_of_classes_that_are_alike() -> None:
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    found = np.array([0, 0, 0, 1, 1, 1, 0, 1, 2, 2, 2, 2])
    shares = confusion(truth, found, 3)
    assert shares[0].tolist() == [0.75, 0.25, 0.0]
    assert alike(shares) == [{0, 1}, {0, 1}, {2}]
    assert alike(shares, limit=0.3) == [{0}, {1}, {2}]
