"""Distorted images become those of a pinhole camera; what cannot be undone is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from specularip.captures.frames import Lens
from specularip.captures.lenses import (
    MAX_FIELD_DEG,
    distort,
    distorts,
    pinhole_of,
    resized,
    undistort,
    undistorted,
)
from specularip.errors import UserError

LENSES = {
    "barrel": Lens("opencv", 320, 240, 250, 252.5, 161.2, 119.1, (-0.3, 0.1, 0.001, -0.002)),
    "pincushion": Lens("opencv", 320, 240, 250, 250, 160, 120, (0.3, 0.1, -0.002, 0.001)),
    "rational": Lens("opencv", 320, 240, 250, 252, 150.5, 126, (1.0, 0.2, 0.001, 0.0, 0.1, 1.2, 0.3, 0.1)),
    "wide": Lens("opencv", 320, 240, 160, 160, 160, 120, (-0.1,)),
    "telephoto": Lens("opencv", 240, 320, 2000, 2000, 120, 160, (1.5, -8.0)),
    "fisheye": Lens("fisheye", 320, 240, 120, 121, 158, 123, (0.02, -0.01, 0.003, 0.0)),
    "equidistant": Lens("fisheye", 200, 200, 63.7, 63.7, 100, 100),
}
each_lens = pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)


def slow_distort(x: float, y: float, lens: Lens) -> tuple[float, float]:
    """The formulas of OpenCV's documentation (calib3d), number by number."""
    k = [*lens.distortion, *[0.0] * 8]
    if lens.model == "fisheye":
        r = math.hypot(x, y)
        theta = math.atan(r)
        bent = theta * (1 + k[0] * theta**2 + k[1] * theta**4 + k[2] * theta**6 + k[3] * theta**8)
        x, y = (bent / r * x, bent / r * y) if r else (0.0, 0.0)
    else:
        k1, k2, p1, p2, k3, k4, k5, k6 = k[:8]
        r2 = x * x + y * y
        radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        x, y = (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        )
    return lens.fx * x + lens.cx, lens.fy * y + lens.cy


def slow_undistort(u: float, v: float, lens: Lens) -> tuple[float, float]:
    """Newton's method on `slow_distort` with finite differences, from the centre outwards."""
    x = y = 0.0
    for step in range(1, 41):  # the target moves out, so that the nearest solution is followed
        share = min(1.0, step / 20)
        target = lens.cx + share * (u - lens.cx), lens.cy + share * (v - lens.cy)
        for _ in range(3):
            fu, fv = slow_distort(x, y, lens)
            h = 1e-7
            ux, vx = slow_distort(x + h, y, lens)
            uy, vy = slow_distort(x, y + h, lens)
            J = np.array([[ux - fu, uy - fu], [vx - fv, vy - fv]]) / h
            dx, dy = np.linalg.solve(J, (target[0] - fu, target[1] - fv))
            x, y = x + dx, y + dy
    return x, y


def scene(rays: np.ndarray) -> np.ndarray:
    """Colours 0..1 [...,3] that vary smoothly with the direction."""
    x, y = rays[..., :1] * (1, 1.7, 0.6), rays[..., 1:] * (1.3, -0.4, 1)
    return 0.5 + 0.45 * np.sin(9 * x + 4 * y + (0, 1, 2))


def photo(lens: Lens) -> torch.Tensor:
    """What the lens shows of the scene; black where no ray leads."""
    pixels = np.stack(np.meshgrid(np.arange(lens.width) + 0.5, np.arange(lens.height) + 0.5), -1)
    rays = undistort(pixels, lens)
    colours = np.append(scene(rays), np.ones((*rays.shape[:2], 1)), -1)
    return torch.from_numpy((np.nan_to_num(colours) * 255 + 0.5).astype(np.uint8))


def grid(lens: Lens) -> np.ndarray:
    """Rays [H,W,2] through the pixel centres of a pinhole camera."""
    x = (np.arange(lens.width) + 0.5 - lens.cx) / lens.fx
    y = (np.arange(lens.height) + 0.5 - lens.cy) / lens.fy
    return np.stack(np.meshgrid(x, y), -1)


@each_lens
def test_distortion_and_its_inverse_are_those_of_the_formulas(lens, seed):
    rng = np.random.default_rng(seed)
    pinhole, _ = pinhole_of(lens)
    rays = rng.uniform(grid(pinhole)[0, 0], grid(pinhole)[-1, -1], (60, 2))
    pixels = distort(rays, lens)
    assert pixels == pytest.approx(np.array([slow_distort(x, y, lens) for x, y in rays]), abs=1e-9)
    assert undistort(pixels, lens) == pytest.approx(rays, abs=1e-9)
    assert undistort(pixels[:8], lens) == pytest.approx(
        np.array([slow_undistort(u, v, lens) for u, v in pixels[:8]]), abs=1e-8
    )


@each_lens
def test_an_undistorted_image_is_the_pinhole_image(lens):
    pinhole, _ = pinhole_of(lens)
    image = undistorted(photo(lens), lens)
    assert image.shape == (pinhole.height, pinhole.width, 4) and image.dtype == torch.uint8
    assert bool((image[..., 3] == 255).all())  # nothing from outside the photo
    error = image[..., :3].double().numpy() / 255 - scene(grid(pinhole))
    error = error[2:-2, 2:-2]  # bicubic samples repeat the photo's last pixels
    assert -10 * math.log10((error**2).mean()) > 44
    assert np.abs(error).max() < 0.04
    # Pixels lie on pixels, and the centre is as large as before.
    assert (pinhole.cx - lens.cx) % 1 == pytest.approx(0, abs=1e-9) and pinhole.fx == lens.fx


@each_lens
def test_the_pinhole_image_is_as_large_as_can_be_and_the_cut_is_what_it_lacks(lens, seed):
    pinhole, cut = pinhole_of(lens)
    reach = math.tan(math.radians(MAX_FIELD_DEG / 2))
    left, right = -pinhole.cx / pinhole.fx, (pinhole.width - pinhole.cx) / pinhole.fx
    top, bottom = -pinhole.cy / pinhole.fy, (pinhole.height - pinhole.cy) / pinhole.fy
    along = np.linspace(0, 1, 201)
    for ends in (((left, top), (right, top)), ((left, bottom), (right, bottom)),
                 ((left, top), (left, bottom)), ((right, top), (right, bottom))):  # fmt: skip
        start, end = map(np.array, ends)
        side = start + along[:, None] * (end - start)
        outwards = (start + end) / 2 - ((left + right) / 2, (top + bottom) / 2)
        outwards /= np.abs(outwards).max()
        for step, expected in ((0, True), (3 / pinhole.fx, False)):
            rays = side + step * outwards
            pixels = distort(rays, lens)
            inside = ((pixels > -1e-2) & (pixels < (lens.width + 1e-2, lens.height + 1e-2))).all()
            assert (inside and np.abs(rays).max() <= reach + 1e-9) == expected
    # Of random pixels, the share that no pixel of the pinhole image shows.
    rng = np.random.default_rng(seed)
    rays = undistort(rng.uniform(0, (lens.width, lens.height), (20_000, 2)), lens)
    shown = ((rays > (left, top)) & (rays < (right, bottom))).all(1)
    assert cut == pytest.approx(1 - shown.mean(), abs=0.02)


def test_an_image_without_distortion_stays_as_it_is():
    for lens in (
        Lens("pinhole", 40, 30, 50, 51, 20, 15),
        Lens("opencv", 40, 30, 50, 51, 20, 15, (0.0, 1e-7)),
    ):
        assert not distorts(lens)
        assert pinhole_of(lens) == (Lens("pinhole", 40, 30, 50, 51, 20, 15), 0.0)
    # So little that no pixel is sampled a hundredth of one away.
    lens = Lens("opencv", 64, 48, 900, 900, 32, 24, (2e-6,))
    pixels = torch.randint(0, 256, (48, 64, 4), generator=torch.Generator().manual_seed(0)).byte()
    pixels[..., 3] = 255
    assert distorts(lens) and torch.equal(undistorted(pixels, lens), pixels)


def test_silhouettes_stay_premultiplied():
    """A bright disc on nothing: bicubic weights overshoot at its edge, but no colour exceeds its alpha."""
    lens = LENSES["barrel"]
    y, x = np.mgrid[: lens.height, : lens.width]
    inside = (np.hypot(x - 160, y - 120) < 70).astype(np.uint8) * 255
    image = undistorted(torch.from_numpy(np.repeat(inside[..., None], 4, -1)), lens)
    assert bool((image[..., :3] <= image[..., 3:]).all())
    radius = undistort(np.array([[160 + 70, 120.0]]), lens)[0, 0] * lens.fx
    assert float(image[..., 3].float().sum() / 255) == pytest.approx(math.pi * radius**2, rel=0.06)


def test_where_the_lens_magnifies_pixels_are_averaged():
    """A denominator that nears 0 spreads the border: one sample a pixel would hit light or dark squares."""
    lens = Lens("opencv", 640, 480, 500, 500, 320, 240, (0, 0, 0, 0, 0, -4.0))
    y, x = np.mgrid[: lens.height, : lens.width]
    board = ((x + y) % 2 * 255).astype(np.uint8)
    image = undistorted(torch.from_numpy(np.stack([board] * 3 + [np.full_like(board, 255)], -1)), lens)
    border = image[:8, :8, 0].float()
    assert 110 < float(border.mean()) < 145 and float(border.std()) < 40


def test_a_scaled_lens_shows_the_same():
    lens = LENSES["barrel"]
    half = resized(lens, 160, 120)
    rays = np.array([[0.1, 0.2], [-0.3, 0.1]])
    assert distort(rays, half) == pytest.approx(distort(rays, lens) / 2)


@pytest.mark.parametrize(
    ("model", "distortion", "words"),
    [
        ("opencv", (-0.9,), "k1 -0.9,"),  # a radius of 0.4 is the largest
        ("opencv", (-0.6, 0.0, 0.0, 0.0), "k1 -0.6, k2 0, p1 0, p2 0,"),
        ("opencv", (float("nan"),), "k1 nan"),
        ("opencv", (0, 0, 3, 3), "p1 3, p2 3"),
        ("opencv", (0, 0, 0, 0, 0, 30.0), "k4 30"),
        ("opencv", (-1e30, 1e30), "k1 -1e+30"),
        ("opencv", (1e12,), "k1 1e+12"),
        ("fisheye", (-0.9,), "fisheye k1 -0.9"),
    ],
)
def test_what_cannot_be_undone_is_refused(model, distortion, words):
    lens = Lens(model, 640, 480, 500, 500, 320, 240, distortion)
    with pytest.raises(UserError) as raised:
        undistorted(torch.zeros(480, 640, 4, dtype=torch.uint8), lens)
    assert words in str(raised.value) and "\n" not in str(raised.value)
    assert "undistort the images first" in str(raised.value)


def test_any_coefficients_give_a_full_image_or_one_line(seed):
    rng = np.random.default_rng(seed)
    used = 0
    for _ in range(150):
        model = rng.choice(["opencv", "fisheye"])
        strength = 10 ** rng.uniform(-3, 1)
        count = rng.integers(0, 9 if model == "opencv" else 5)
        width, height = rng.integers(20, 90, 2)
        focal = width * rng.uniform(0.3, 2)
        centre = rng.uniform(-0.2, 1.2, 2) * (width, height)
        distortion = tuple((strength * rng.normal(size=count)).tolist())
        lens = Lens(str(model), int(width), int(height), focal, focal, *centre, distortion)  # type: ignore[arg-type]
        try:
            pinhole, cut = pinhole_of(lens)
            image = undistorted(torch.full((lens.height, lens.width, 4), 255, dtype=torch.uint8), lens)
        except UserError:
            continue
        used += 1
        assert image.shape[:2] == (pinhole.height, pinhole.width) and bool((image == 255).all())
        pixels = distort(grid(pinhole), lens)
        assert (pixels > -1).all() and (pixels < (lens.width + 1, lens.height + 1)).all(), lens
        assert 0 <= cut < 1
        assert pinhole.width * pinhole.height < 100 * lens.width * lens.height
    assert used > 30
