"""Quality of an avatar against held-out images, and its consistency between views; formulas in
docs/metrics.md.

Images are float32 [B,H,W,3] in 0..1, sRGB values, premultiplied on black, as in `Frame` and `PosedImages`.
Everything is deterministic; only `frames_per_second` depends on the machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional as F

from specularip.avatar import Avatar
from specularip.baking.contributions import cameras_around, extent
from specularip.cameras import Cameras
from specularip.captures.exposure import exposed, matching_gains
from specularip.captures.views import PosedImages
from specularip.lpips import Lpips
from specularip.pictures import FAINTEST
from specularip.specular import fibonacci_directions

HIGHLIGHT = 0.55
"""Luminance above which a pixel counts as highlight."""
BLOB_SHARE = 5e-5
"""Smallest highlight that is matched, as a share of the image's pixels (8 of 400x400), at least 4 pixels."""
LEVEL_RANGE = 0.8
"""Range of the threshold that `highlight_drift` applies to a render: HIGHLIGHT times this, to HIGHLIGHT
divided by it."""
REACH_DEG = 2.0
"""Maximum distance of a highlight from its counterpart."""
TURN_DEG = 2.0
"""Angle between the two views whose specular layers `evaluate` compares for `coherence`."""
INTERIOR, DEPTH_TOLERANCE = 0.95, 0.01
"""`coherence` skips pixels with less alpha than this, and those whose depths differ by more than this
share."""
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
MATCHED = "matched"
"""The provenance \"exposure\" of avatars that were fitted to images of different exposures."""

LABELS = {
    "views": ("views", "{:.0f}"),
    "gaussians": ("Gaussians", "{:,.0f}"),
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "lpips": ("LPIPS (lower is better)", "{:.4f}"),
    "highlight_psnr": ("highlight PSNR, dB", "{:.2f}"),
    "highlight_drift_deg": ("highlight drift, degrees", "{:.3f}"),
    "highlight_drift_p90_deg": ("highlight drift, 90th percentile", "{:.3f}"),
    "highlight_missed": ("missed highlights", "{:.1%}"),
    "highlight_spurious": ("spurious highlights", "{:.1%}"),
    "coherence": ("coherence", "{:.4f}"),
    "frames_per_second": ("frames per second", "{:.1f}"),
}
"""Label and number format of each metric in a table, in this order."""


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, [B]; infinite for equal images. Both [B,H,W,C]."""
    _same_shape(images, targets)
    return -10 * torch.log10((images - targets).square().flatten(1).mean(1))


def combined_psnr(*decibels: float) -> float:
    """PSNR in dB where several independent errors of these PSNRs add up: mean squared errors add, so it is
    -10 log10 Σ 10^(-p/10)."""
    return -10 * math.log10(sum(10 ** (-value / 10) for value in decibels))


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of each image, [B], mean over channels. Both [B,H,W,C].

    Gaussian window of 11 pixels and σ 1.5, without padding; variances are weighted means, not corrected for
    the sample size; constants 0.01² and 0.03² for a range of 1. Differentiable. Raises ValueError for images
    smaller than the window.
    """
    return ssim_map(images, targets).flatten(1).mean(1)


def ssim_map(images: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity at each position of the window, [B,C,H-10,W-10]; `ssim` is its mean."""
    _same_shape(images, targets)
    if min(images.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"images must be at least {SSIM_WINDOW} pixels a side, got {list(images.shape)}")
    x, y = images.permute(0, 3, 1, 2), targets.permute(0, 3, 1, 2)
    moments = torch.cat([x, y, x * x, y * y, x * y], 1)  # blurred in one call
    blurred = _blur_by_products(moments) if moments.is_cuda else _blur(moments)
    mx, my, xx, yy, xy = blurred.chunk(5, 1)
    c1, c2 = 0.01**2, 0.03**2
    bottom = (mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2)
    return (2 * mx * my + c1) * (2 * (xy - mx * my) + c2) / bottom


def _blur(images: Tensor) -> Tensor:
    """Images [B,C,H,W] convolved with SSIM's window, without padding."""
    window, channels = _ssim_window(images.dtype, images.device), images.shape[1]
    kernel = window.expand(channels, 1, 1, SSIM_WINDOW)
    return F.conv2d(F.conv2d(images, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)


def _blur_by_products(images: Tensor) -> Tensor:
    """`_blur` as two products with banded matrices. Most of their entries are zero, yet they are many times
    faster on a GPU, where the gradient of a depthwise convolution is slow."""
    rows, columns = (_band(size, images.dtype, images.device) for size in images.shape[2:])
    return rows @ (images @ columns.T)


@cache
def _band(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[size - 10, size]: row i holds the window from column i on. Cached for the life of the process, as
    captured CUDA graphs read it."""
    window = _ssim_window(dtype, device)
    band = window.new_zeros(size - SSIM_WINDOW + 1, size)
    for shift in range(SSIM_WINDOW):
        band.diagonal(shift).copy_(window[shift])
    return band


def _ssim_window(dtype: torch.dtype, device: torch.device) -> Tensor:
    offset = torch.arange(SSIM_WINDOW, dtype=dtype, device=device) - SSIM_WINDOW // 2
    window = torch.exp(-0.5 * (offset / SSIM_SIGMA).square())
    return window / window.sum()


@torch.no_grad()
def lpips(network: Lpips, images: Tensor, targets: Tensor) -> Tensor:
    """LPIPS (Zhang et al. 2018, v0.1, VGG-16) of each image, [B]; smaller is better. Both [B,H,W,3]."""
    _same_shape(images, targets)
    pairs = zip(images.permute(0, 3, 1, 2).split(1), targets.permute(0, 3, 1, 2).split(1))
    return torch.stack([network.distance(network.features(a), network.features(b)) for a, b in pairs])


def luminance(images: Tensor) -> Tensor:
    """Rec. 709 luma of gamma-encoded sRGB values, [...] from [...,3]."""
    return images @ images.new_tensor([0.2126, 0.7152, 0.0722])


def highlight_psnr(images: Tensor, targets: Tensor) -> Tensor:
    """PSNR in dB over all pixels of all images whose target luminance is above HIGHLIGHT, a scalar; NaN if
    there are none. Both [B,H,W,3]."""
    error, pixels = highlight_error(images, targets)
    return -10 * torch.log10(error / pixels)


def highlight_error(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the squared error (mean over channels) over highlight pixels, and their number: scalars to be
    summed over batches. `highlight_psnr` is -10 log10 of their ratio."""
    _same_shape(images, targets)
    mask = luminance(targets) > HIGHLIGHT
    return (images - targets).square().mean(-1)[mask].double().sum(), mask.sum()


@dataclass(frozen=True)
class HighlightDrift:
    """degrees [V]: mean drift of the matched highlights of each view, NaN for views without any.
    true: number of highlights in the targets of all views; missed: how many of them are absent from the
    images; spurious: highlights of the images without a counterpart in the targets."""

    degrees: np.ndarray
    true: int
    missed: int
    spurious: int

    @property
    def mean(self) -> float:
        """Mean over views in degrees; NaN without matched highlights."""
        found = self.degrees[np.isfinite(self.degrees)]
        return float(found.mean()) if len(found) else math.nan

    @property
    def p90(self) -> float:
        """90th percentile over views in degrees; NaN without matched highlights."""
        found = self.degrees[np.isfinite(self.degrees)]
        return float(np.quantile(found, 0.9)) if len(found) else math.nan


def highlight_drift(images: Tensor, targets: Tensor, alphas: Tensor, cameras: Cameras) -> HighlightDrift:
    """Displacement of highlights from their true positions: the angle at the camera between the viewing rays
    through the centre of a true highlight and through that of its counterpart.

    images, targets [B,H,W,3]; alphas [B,H,W,1] of the targets. A highlight is a connected patch of luminance
    above a threshold where alpha > 0.5; its centre is the mean of its pixels weighted by their excess. The
    threshold is HIGHLIGHT in the target. In the image it is the luminance that equally many pixels exceed,
    within LEVEL_RANGE, so that a slightly darker render does not lose its highlights. All patches connected
    by overlaps between image and target are one highlight, so that one which splits or merges still has a
    counterpart. The others are matched greedily, nearest first, up to REACH_DEG.
    """
    _same_shape(images, targets)
    degrees, true, missed, spurious = [], 0, 0, 0
    inverse_Ks = torch.linalg.inv(cameras.Ks.double()).cpu().numpy()
    for view in range(len(images)):
        visible = alphas[view, ..., 0].cpu().numpy() > 0.5
        target, image = (luminance(t[view]).double().cpu().numpy() for t in (targets, images))
        level = _same_area_level(target[visible], image[visible])
        angles, weights, view_missed, view_spurious = _match_highlights(
            np.where(visible, target - HIGHLIGHT, 0).clip(0),
            np.where(visible, image - level, 0).clip(0),
            inverse_Ks[view],
        )
        true += len(angles) + view_missed
        missed += view_missed
        spurious += view_spurious
        degrees.append(np.average(angles, weights=weights) if angles else math.nan)
    return HighlightDrift(np.array(degrees), true, missed, spurious)


def coherence(
    layers: Tensor, depths: Tensor, alphas: Tensor, cameras: Cameras, pairs: Sequence[tuple[int, int]]
) -> Tensor:
    """Agreement of a layer between two views of the same surface: 1 − Σ|a − b| / Σ(|a| + |b|) for each of
    `pairs` (i, j), [P]. 1: equal (also if both are black), 0: disjoint, NaN: the views share no surface.

    layers [V,H,W,C], depths [V,H,W,1] (metres along the optical axis), alphas [V,H,W,1]. The sums run over
    the pixels of view i that view j also sees: each is unprojected by i's depth and sampled bilinearly in j;
    it counts if both alphas exceed INTERIOR and j's depth there agrees within DEPTH_TOLERANCE.
    """
    height, width = layers.shape[1:3]
    rows = torch.arange(height, device=layers.device, dtype=layers.dtype) + 0.5
    columns = torch.arange(width, device=layers.device, dtype=layers.dtype) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1)
    found = []
    for i, j in pairs:
        in_view = (rays @ torch.linalg.inv(cameras.Ks[i]).T) * depths[i]  # [H,W,3]
        rotation, translation = cameras.viewmats[i, :3, :3], cameras.viewmats[i, :3, 3]
        points = (in_view - translation) @ rotation  # the inverse of a rotation is its transpose
        pixels, depth = cameras[j].project(points.reshape(-1, 3))
        grid = (2 * pixels / pixels.new_tensor([width, height]) - 1).reshape(1, height, width, 2)
        seen = torch.cat([layers[j], depths[j], alphas[j]], -1).permute(2, 0, 1)[None]
        looked_up = F.grid_sample(seen, grid, padding_mode="zeros", align_corners=False)[0].permute(1, 2, 0)
        there, there_depth, there_alpha = looked_up.split([layers.shape[-1], 1, 1], -1)
        expected = depth.reshape(height, width, 1)
        both = (alphas[i] > INTERIOR) & (there_alpha > INTERIOR) & (expected > 0)
        both &= (there_depth - expected).abs() < DEPTH_TOLERANCE * expected
        a, b = (values[both[..., 0]].double() for values in (layers[i], there))
        difference, total = (a - b).abs().sum(), (a.abs() + b.abs()).sum()
        agreement = 1 - difference / total.clamp_min(1e-12)
        found.append(agreement if len(a) else torch.full_like(agreement, math.nan))
    return torch.stack(found)


@torch.no_grad()
def frames_per_second(
    avatar: Avatar, cameras: Sequence[Cameras], frames: int = 20, warm_up: int = 3
) -> float:
    """1 / median seconds of rendering one image with highlights, view after view; the first `warm_up` frames
    are not counted. As in a viewer, everything independent of the camera is prepared once
    (`Avatar.prepare`); the device is synchronised around each frame."""
    prepared = avatar.prepare()
    cameras = [camera.to(prepared.means.device) for camera in cameras]
    seconds = []
    for frame in range(warm_up + frames):
        camera = cameras[frame % len(cameras)]
        _finish_work(prepared.means)
        began = time.perf_counter()
        prepared.image(camera, 0.0)
        _finish_work(prepared.means)
        seconds.append(time.perf_counter() - began)
    return 1 / float(np.median(seconds[warm_up:]))


@torch.no_grad()
def evaluate(avatar: Avatar, posed: PosedImages, perceptual: Lpips | None = None) -> dict[str, float]:
    """All metrics of an avatar on posed images, rendered at their size on black, on the avatar's device.

    psnr, ssim, lpips (with `perceptual`): means over views. highlight_psnr: over all highlight pixels.
    highlight_drift_deg and highlight_drift_p90_deg: over views. highlight_missed and highlight_spurious: per
    target highlight. coherence: mean over views, between the specular layer of the view and that of one
    turned by TURN_DEG around the avatar. frames_per_second; views; gaussians. NaN if a metric is undefined
    (no highlight, for example); an empty set gives views and gaussians only. empty_views: how many show
    nothing of the avatar though their image is not empty, see `nothing_shown`. The cameras are moved into the
    avatar's world. If the avatar was fitted to images of different exposures, each render gets the exposure
    of its target first, three gains.
    """
    posed = posed.placed(avatar.placement)
    device = avatar.gaussians.means.device
    found: dict[str, float] = {"views": len(posed), "gaussians": len(avatar.gaussians)}
    if len(posed) == 0:
        return found
    matched = avatar.provenance.get("exposure") == MATCHED
    center = avatar.gaussians.means.mean(0)
    per_view: dict[str, list[float]] = {name: [] for name in ("psnr", "ssim", "lpips", "coherence")}
    drifts: list[HighlightDrift] = []
    error, pixels, empty = 0.0, 0, 0
    for view in posed:
        camera, target = view.camera.to(device), view.image_on(device)[None]
        both = _with_neighbour(camera, center)
        frame = avatar.render(both, 0.0)
        image = frame.image[:1]
        empty += float(frame.alpha[0].max()) < FAINTEST <= float(view.alpha.max())
        if matched:
            image = exposed(image, matching_gains(image, target))
        per_view["psnr"].append(float(psnr(image, target)))
        per_view["ssim"].append(float(ssim(image.double(), target.double())))
        if perceptual is not None:
            per_view["lpips"].append(float(lpips(perceptual, image, target)))
        agreement = coherence(frame.specular, frame.depth, frame.alpha, both, ((0, 1), (1, 0)))
        per_view["coherence"].append(float(agreement.nanmean()))
        view_error, view_pixels = highlight_error(image, target)
        error, pixels = error + float(view_error), pixels + int(view_pixels)
        drifts.append(highlight_drift(image, target, view.alpha[None], camera))
    drift = HighlightDrift(
        np.concatenate([d.degrees for d in drifts]),
        *(sum(getattr(d, name) for d in drifts) for name in ("true", "missed", "spurious")),
    )
    for name, values in per_view.items():
        whole = [value for value in values if not math.isnan(value)]
        if whole or name != "lpips":
            found[name] = sum(whole) / len(whole) if whole else math.nan
    return {
        **found,
        "empty_views": empty,
        "highlight_psnr": -10 * math.log10(error / pixels) if error > 0 else math.nan,
        "highlight_drift_deg": drift.mean,
        "highlight_drift_p90_deg": drift.p90,
        "highlight_missed": drift.missed / drift.true if drift.true else math.nan,
        "highlight_spurious": drift.spurious / drift.true if drift.true else math.nan,
        "frames_per_second": frames_per_second(avatar, [view.camera for view in posed]),
    }


def nothing_shown(values: Mapping[str, float]) -> str:
    """A line that says how many of `evaluate`'s views show nothing of the avatar, "" if all show it."""
    views, empty = round(values["views"]), round(values.get("empty_views", 0))
    if not empty:
        return ""
    which = "no view shows" if empty == views else f"{empty} of {views} views do not show"
    return f"{which} the avatar: these cameras are of another capture, or in another world"


def agreement(avatar: Avatar, baked: Avatar, size: int = 400) -> float:
    """PSNR in dB of the baked avatar's images against the avatar's: mean over 24 cameras around it, at
    elevations within ±37°."""
    directions = fibonacci_directions(40)
    directions = directions[directions[:, 2].abs() < 0.6].to(avatar.gaussians.means.device)
    centre, radius = extent(avatar.gaussians.means.detach())
    cameras = cameras_around(centre, directions, 3 * radius, 40.0, size)
    prepared, explicit = avatar.prepare(), baked.prepare()
    values = [
        psnr(prepared.image(cameras[k], 0.0), explicit.image(cameras[k], 0.0)).clamp_max(120)
        for k in range(len(cameras))
    ]
    return float(torch.cat(values).mean())


def mean_psnr(avatar: Avatar, posed: PosedImages) -> float:
    """PSNR in dB of the avatar's images against posed images, mean over the views."""
    prepared, device = avatar.prepare(), avatar.gaussians.means.device
    values = [
        float(psnr(prepared.image(view.camera.to(device), 0.0), view.image_on(device)[None]))
        for view in posed.placed(avatar.placement)
    ]
    return sum(values) / len(values)


def table_rows(values: Mapping[str, float]) -> list[tuple[str, str]]:
    """Labels and formatted numbers of `evaluate`'s metrics; "n/a" for NaN."""
    return [
        (label, "n/a" if math.isnan(values[name]) else pattern.format(values[name]))
        for name, (label, pattern) in LABELS.items()
        if name in values
    ]


def _same_shape(images: Tensor, targets: Tensor) -> None:
    if images.ndim != 4 or images.shape != targets.shape:
        raise ValueError(
            f"images and targets must be [B,H,W,C] alike, got {list(images.shape)} and {list(targets.shape)}"
        )


def _finish_work(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _with_neighbour(camera: Cameras, center: Tensor) -> Cameras:
    """One camera, and it again turned by TURN_DEG about the vertical through `center` [3]."""
    angle = math.radians(TURN_DEG)
    turn = torch.eye(4, dtype=center.dtype, device=center.device)
    turn[:2, :2] = center.new_tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    turn[:3, 3] = center - turn[:3, :3] @ center
    viewmats = torch.cat([camera.viewmats, camera.viewmats @ turn])
    return Cameras(viewmats, camera.Ks.repeat(2, 1, 1), camera.width, camera.height)


def _same_area_level(true: np.ndarray, drawn: np.ndarray) -> float:
    """The threshold nearest to HIGHLIGHT that as many of `drawn` exceed as of `true` exceed HIGHLIGHT,
    clamped to LEVEL_RANGE. Both [P], luminance of the same pixels."""
    count = int((true > HIGHLIGHT).sum())
    level = HIGHLIGHT
    if 0 < count < len(drawn):
        below, above = np.partition(drawn, (-count - 1, -count))[[-count - 1, -count]]
        level = min(max(level, below), np.nextafter(above, 0))
    return float(np.clip(level, LEVEL_RANGE * HIGHLIGHT, HIGHLIGHT / LEVEL_RANGE))


def _match_highlights(
    true: np.ndarray, drawn: np.ndarray, inverse_K: np.ndarray
) -> tuple[list[float], list[float], int, int]:
    """Drifts in degrees and weights (pixel counts in the target) of matched highlights, the number of target
    highlights without a counterpart, and that of drawn ones. true, drawn: excess luminance [H,W], 0
    elsewhere.
    """
    smallest = max(4, round(BLOB_SHARE * true.size))
    labels, counts = zip(*(ndimage.label(excess > 0, structure=np.ones((3, 3))) for excess in (true, drawn)))
    if not any(counts):
        return [], [], 0, 0
    # Graph of all patches, with an edge between those that share a pixel.
    overlap = (labels[0] > 0) & (labels[1] > 0)
    first, second = labels[0][overlap] - 1, labels[1][overlap] - 1 + counts[0]
    graph = coo_matrix((np.ones(len(first)), (first, second)), shape=(sum(counts), sum(counts)))
    groups, group_of = connected_components(graph, directed=False)

    def measure(label: np.ndarray, excess: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixel counts [G] of each group, and unit rays [G,3] through its centre (arbitrary for empty
        groups)."""
        rows, columns = np.nonzero(label)
        group = group_of[label[rows, columns] - 1 + start]
        weight = excess[rows, columns]
        sums = [
            np.bincount(group, values, groups)
            for values in (np.ones(len(rows)), weight, weight * (columns + 0.5), weight * (rows + 0.5))
        ]
        total = np.maximum(sums[1], 1e-300)
        rays = np.stack([sums[2] / total, sums[3] / total, np.ones(groups)], -1) @ inverse_K.T
        return sums[0], rays / np.linalg.norm(rays, axis=-1, keepdims=True)

    true_pixels, true_rays = measure(labels[0], true, 0)
    drawn_pixels, drawn_rays = measure(labels[1], drawn, counts[0])
    # Only patches of at least the smallest size need a counterpart, but a smaller one may be it.
    matches = [(g, g) for g in np.flatnonzero((true_pixels >= smallest) & (drawn_pixels > 0))]
    lone = np.flatnonzero((true_pixels > 0) & (drawn_pixels == 0))
    extra = np.flatnonzero((drawn_pixels > 0) & (true_pixels == 0))
    angles = _angle_deg(true_rays[lone][:, None], drawn_rays[extra][None])
    big = (true_pixels[lone] >= smallest)[:, None] | (drawn_pixels[extra] >= smallest)[None]
    near = np.argwhere((angles <= REACH_DEG) & big)
    taken_lone: set[int] = set()
    taken_extra: set[int] = set()
    for a, b in near[np.argsort(angles[near[:, 0], near[:, 1]], kind="stable")]:
        if a not in taken_lone and b not in taken_extra:
            taken_lone.add(a)
            taken_extra.add(b)
            if true_pixels[lone[a]] >= smallest:
                matches.append((lone[a], extra[b]))
    missed = sum(a not in taken_lone and true_pixels[g] >= smallest for a, g in enumerate(lone))
    spurious = sum(b not in taken_extra and drawn_pixels[g] >= smallest for b, g in enumerate(extra))
    drifts = [float(_angle_deg(true_rays[a], drawn_rays[b])) for a, b in matches]
    return drifts, [float(true_pixels[a]) for a, _ in matches], int(missed), int(spurious)


def _angle_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle between unit vectors [...,3]; accurate for small angles, unlike the arc cosine."""
    return np.degrees(2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1)))
