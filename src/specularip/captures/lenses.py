"""Images of lenses that distort, resampled as a pinhole camera would have taken them.

Two models, as OpenCV defines them: "opencv", polynomials of the radius with a denominator and tangential
terms, and "fisheye", a polynomial of the angle to the optical axis (Kannala and Brandt 2006). The pinhole
image has the focal lengths that the lens has in its centre and shows only what the lens saw, as COLMAP's
undistorter without blank pixels does, up to a field of MAX_FIELD_DEG.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from specularip.captures.frames import Lens
from specularip.errors import UserError

MAX_FIELD_DEG = 120.0
"""Widest field of a pinhole image, across and down: beyond, its border is stretched out of use."""
MIN_SIDE, MIN_SHARE = 16, 0.1
"""Smallest side of a pinhole image in pixels, and share of the lens's image in it: less is left by wrong
coefficients only."""
MAX_SAMPLES = 4
"""Of the lens's image for a pixel of the pinhole image, across and down."""
_NEGLIGIBLE = 1e-6
_REACH = math.tan(math.radians(MAX_FIELD_DEG / 2))
_WIDEST = 1.05 * math.sqrt(2) * _REACH
"""Radius at depth 1 of the farthest rays of interest, a little beyond the corner of the widest image."""


def distorts(lens: Lens) -> bool:
    """Whether its images are other than a pinhole camera's."""
    if lens.model == "opencv":
        return any(not abs(coefficient) <= _NEGLIGIBLE for coefficient in lens.distortion)
    return lens.model == "fisheye"


def resized(lens: Lens, width: int, height: int) -> Lens:
    """The lens of the same image at another size."""
    x, y = width / lens.width, height / lens.height
    return replace(
        lens, width=width, height=height, fx=lens.fx * x, fy=lens.fy * y, cx=lens.cx * x, cy=lens.cy * y
    )


def distort(rays: np.ndarray, lens: Lens) -> np.ndarray:
    """Where rays meet the image: points [...,2] of the plane at depth 1 -> pixels [...,2], centres at +0.5.

    Without meaning beyond the radius where the model turns back (see `undistort`).
    """
    x, y = rays[..., 0], rays[..., 1]
    radius = np.hypot(x, y)
    stretch = _stretch(radius, lens)
    dx, dy = _tangential(x, y, lens)
    return np.stack([lens.fx * (x * stretch + dx) + lens.cx, lens.fy * (y * stretch + dy) + lens.cy], -1)


def undistort(pixels: np.ndarray, lens: Lens) -> np.ndarray:
    """The inverse of `distort`: pixels [...,2] -> rays [...,2].

    NaN where no ray leads, or only one beyond the radius where the model turns back or beyond the corner of
    the widest pinhole image (of MAX_FIELD_DEG).
    """
    radii = np.linspace(0, _turning_radius(lens), 4096)
    images = radii * _stretch(radii, lens)
    target = (pixels - (lens.cx, lens.cy)) / (lens.fx, lens.fy)
    rays = target
    for _ in range(20):  # the tangential terms are small: they are taken from the ray found before
        radial = target - np.stack(_tangential(rays[..., 0], rays[..., 1], lens), -1)
        image = np.hypot(radial[..., 0], radial[..., 1])
        radius = np.interp(image, images, radii, right=np.nan)
        for _ in range(3):  # Newton, from a table that is right to 1e-6
            slope = _slope(radius, lens)
            radius = radius - (radius * _stretch(radius, lens) - image) / np.where(slope > 1e-3, slope, 1e9)
        rays = radial * (radius / np.maximum(image, 1e-12))[..., None]
        rays = np.where(image[..., None] > 1e-12, rays, radial)
    return rays


@lru_cache(maxsize=1024)
def pinhole_of(lens: Lens) -> tuple[Lens, float]:
    """The pinhole camera of the undistorted image, and the share of the lens's image that is cut away.

    Its pixels lie on those of the lens's image, so that nothing is blurred in the centre.
    Raises UserError if the distortion cannot be undone, because it folds the image or shows almost nothing.
    """
    if not distorts(lens):
        return replace(lens, model="pinhole", distortion=()), 0.0
    left, top, right, bottom = _seen_rectangle(lens)
    # Whole pixels of the lens's own grid; a thousandth of one may be missing.
    left, right = math.ceil(left * lens.fx + lens.cx - 1e-3), math.floor(right * lens.fx + lens.cx + 1e-3)
    top, bottom = math.ceil(top * lens.fy + lens.cy - 1e-3), math.floor(bottom * lens.fy + lens.cy + 1e-3)
    width, height = right - left, bottom - top
    if min(width, height) < MIN_SIDE:
        raise _unusable(lens, "almost nothing of the image would be left")
    pinhole = Lens("pinhole", width, height, lens.fx, lens.fy, lens.cx - left, lens.cy - top)
    if not _density(lens, pinhole).min() > 0:
        raise _unusable(lens, "it folds the image")
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    rays = (_outline(corners) - (pinhole.cx, pinhole.cy)) / (pinhole.fx, pinhole.fy)
    x, y = distort(rays, lens).T
    area = 0.5 * abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1)))
    share = float(area) / (lens.width * lens.height)
    if share < MIN_SHARE:
        raise _unusable(lens, "almost nothing of the image would be left")
    return pinhole, max(0.0, 1 - share)


def undistorted(pixels: Tensor, lens: Lens) -> Tensor:
    """The image that `pinhole_of(lens)` takes: premultiplied pixels uint8 [H,W,4] -> uint8 [H',W',4].

    Bicubic, and averaged over several samples a pixel where the lens shows the image larger than the pinhole
    camera. Raises UserError as `pinhole_of` does.
    """
    if pixels.shape != (lens.height, lens.width, 4):
        raise ValueError(f"pixels must be [{lens.height},{lens.width},4], got {list(pixels.shape)}")
    source = pixels.permute(2, 0, 1)[None].float()
    grid, samples = _sampling_grid(lens)
    image = torch.nn.functional.grid_sample(
        source, grid[None], mode="bicubic", padding_mode="border", align_corners=False
    )
    if samples > 1:
        image = torch.nn.functional.avg_pool2d(image, samples)
    image = image[0].permute(1, 2, 0).clamp(0, 255).add(0.5).byte()
    image[..., :3] = torch.minimum(image[..., :3], image[..., 3:])  # bicubic weights overshoot at edges
    return image.contiguous()


@lru_cache(maxsize=2)
def _sampling_grid(lens: Lens) -> tuple[Tensor, int]:
    """Where in the lens's image the pinhole camera's samples lie, [H,W,2] in -1..1 as `grid_sample` takes
    them, and how many samples a pixel has in each direction."""
    pinhole, _ = pinhole_of(lens)
    samples = min(max(1, round(float(np.sqrt(_density(lens, pinhole).max())))), MAX_SAMPLES)
    width, height = samples * pinhole.width, samples * pinhole.height
    fine = resized(pinhole, width, height)
    grid = np.empty((height, width, 2), np.float32)
    x = (np.arange(width) + 0.5 - fine.cx) / fine.fx
    for start in range(0, height, 16):  # few rows at a time stay in the processor's cache
        y = (np.arange(start, min(start + 16, height)) + 0.5 - fine.cy) / fine.fy
        rays = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), -1)
        grid[start : start + len(y)] = distort(rays, lens) * (2 / lens.width, 2 / lens.height) - 1
    return torch.from_numpy(grid), samples


def _seen_rectangle(lens: Lens) -> tuple[float, float, float, float]:
    """Left, top, right and bottom, at depth 1, of a rectangle whose every ray the lens sees, as large as the
    four edges of the lens's image allow."""
    w, h = lens.width, lens.height
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h]], float)
    edges = undistort(_outline(corners).reshape(4, -1, 2), lens)  # top, right, bottom, left
    turn = _turning_radius(lens)
    reached = np.isfinite(edges[..., 0]).any(1)
    if turn < _WIDEST and not reached.all():
        raise _unusable(lens, "it folds the image before its edge")

    def limit(edge: int, axis: int, sign: int) -> float:
        return sign * min(_REACH, np.nanmin(sign * edges[edge, :, axis], initial=_REACH))

    box = np.array([limit(3, 0, -1), limit(0, 1, -1), limit(1, 0, 1), limit(2, 1, 1)])
    if not (box[:2] < box[2:]).all():
        raise _unusable(lens, "almost nothing of the image would be left")
    # The model may turn back before the rectangle's corners, or shear them out of the image.
    middle = np.tile((box[:2] + box[2:]) / 2, 2)
    for scale in np.linspace(1, 0, 501):
        left, top, right, bottom = (float(side) for side in middle + scale * (box - middle))
        outline = _outline(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))
        pixels = distort(outline, lens)
        inside = (pixels > -0.01) & (pixels < (w + 0.01, h + 0.01))
        if inside.all() and np.hypot(*outline.T).max() <= turn:
            break
    return left, top, right, bottom


def _outline(corners: np.ndarray) -> np.ndarray:
    """Points [4*64,2] along a polygon of corners [4,2], edge after edge, each from its first corner."""
    steps = np.linspace(0, 1, 64, endpoint=False)[:, None]
    return np.concatenate([a + steps * (b - a) for a, b in zip(corners, np.roll(corners, -1, 0))])


def _density(lens: Lens, pinhole: Lens) -> np.ndarray:
    """Area in the lens's image, in its pixels, of a pixel of the pinhole image, on a grid over the latter;
    not above 0 where the image is folded."""
    x, y = np.linspace(0, pinhole.width, 65), np.linspace(0, pinhole.height, 65)
    rays = np.stack(np.meshgrid((x - pinhole.cx) / pinhole.fx, (y - pinhole.cy) / pinhole.fy), -1)
    down, across = np.gradient(distort(rays, lens), y, x, axis=(0, 1))
    return across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]


def _turning_radius(lens: Lens) -> float:
    """Radius at depth 1 up to which the radial model grows, at most _WIDEST."""
    radii = np.linspace(0, _WIDEST, 4096)
    with np.errstate(all="ignore"):
        grows = (_slope(radii, lens) > 0) & (_stretch(radii, lens) > 0)
    return float(radii[-1] if grows.all() else radii[max(0, int(grows.argmin()) - 1)])


def _coefficients(lens: Lens) -> np.ndarray:
    count = {"pinhole": 0, "opencv": 8, "fisheye": 4}[lens.model]
    return np.pad(np.array(lens.distortion, float), (0, count - len(lens.distortion)))


def _stretch(radius: np.ndarray, lens: Lens) -> np.ndarray:
    """Radius in the image over the radius at depth 1, without tangential terms."""
    if lens.model == "fisheye":
        k1, k2, k3, k4 = _coefficients(lens)
        theta = np.arctan(radius)
        t2 = theta * theta
        bent = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
        return np.divide(bent, radius, out=np.ones_like(radius), where=radius > 1e-9)
    if lens.model == "opencv":
        k1, k2, _, _, k3, k4, k5, k6 = _coefficients(lens)
        r2 = radius * radius
        return (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return np.ones_like(radius)


def _slope(radius: np.ndarray, lens: Lens) -> np.ndarray:
    """Derivative of the radius in the image by the radius at depth 1."""
    if lens.model == "fisheye":
        k1, k2, k3, k4 = _coefficients(lens)
        t2 = np.arctan(radius) ** 2
        return (1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))) / (1 + radius * radius)
    if lens.model == "opencv":
        k1, k2, _, _, k3, k4, k5, k6 = _coefficients(lens)
        r2 = radius * radius
        below = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
        above_slope = 1 + r2 * (3 * k1 + r2 * (5 * k2 + r2 * 7 * k3))
        below_slope = r2 * (2 * k4 + r2 * (4 * k5 + r2 * 6 * k6))  # times the radius
        return (above_slope - _stretch(radius, lens) * below_slope) / below
    return np.ones_like(radius)


def _tangential(x: np.ndarray, y: np.ndarray, lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    if lens.model != "opencv":
        return np.zeros_like(x), np.zeros_like(y)
    p1, p2 = _coefficients(lens)[2:4]
    r2 = x * x + y * y
    return 2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


def _unusable(lens: Lens, why: str) -> UserError:
    names = "k1 k2 p1 p2 k3 k4 k5 k6" if lens.model == "opencv" else "k1 k2 k3 k4"
    given = ", ".join(f"{name} {value:.4g}" for name, value in zip(names.split(), lens.distortion))
    return UserError(
        f"the lens distortion ({lens.model} {given or 'without coefficients'}, for "
        f"{lens.width}x{lens.height} pixels of focal length {lens.fx:.4g}) cannot be undone: {why}; check "
        "the coefficients, or undistort the images first"
    )
