"""The colours of each initial point in the training images, and in which of them it is visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from specularip.captures.views import View
from specularip.progress import Report, unheard
from specularip.raster import rasterize

DEPTH_TOLERANCE = 3.0
"""How far behind the rendered depth, in units of the spacing, a point still counts as visible: clothes lie on
top of the mesh."""


@dataclass
class Observations:
    """The training images at each point's projection: colors [V,N,3] float16, as in the images; seen [V,N]
    bool, whether the view shows the point unoccluded."""

    colors: Tensor
    seen: Tensor


@torch.no_grad()
def observe(
    params: Mapping[str, Tensor], spacing: float, views: Sequence[View], report: Report = unheard
) -> Observations:
    """The pixels of all Gaussians' centres in all images; occlusion is decided by the rendered depth.

    params: means, quats, log_scales and opacity_logits, as in `Gaussians`. spacing: typical distance of
    neighbours in metres. views: their pixels on any device, their cameras on that of the Gaussians. Only
    opaque pixels count.
    """
    means, quats = params["means"].detach(), params["quats"].detach()
    scales, opacities = params["log_scales"].detach().exp(), params["opacity_logits"].detach().sigmoid()
    device, count = means.device, len(means)
    colors = torch.zeros(len(views), count, 3, dtype=torch.float16, device=device)
    seen = torch.zeros(len(views), count, dtype=torch.bool, device=device)
    white = torch.ones(count, 1, device=device)
    for at, view in enumerate(views):
        camera = view.camera
        width, height = camera.width, camera.height
        drawn = rasterize(
            means, quats, scales, opacities, white, camera.viewmats, camera.Ks, width, height,
            antialiased=True,
        )  # fmt: skip
        pixels, depth = camera.project(means)
        column, row = pixels[0].clamp(-1, 1e6).floor().long().unbind(-1)
        inside = (depth[0] > 1e-3) & (column >= 0) & (row >= 0) & (column < width) & (row < height)
        index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        surface = drawn.depth.reshape(-1)[index]
        seen[at] = inside & (view.alpha.to(device).reshape(-1)[index] > 0.95)
        seen[at] &= depth[0] < surface + DEPTH_TOLERANCE * spacing
        colors[at] = view.image_on(device).reshape(-1, 3)[index].half()
        report((at + 1) / len(views))
    return Observations(colors, seen)


@torch.no_grad()
def quantile_colors(observations: Observations, share: float, points: Tensor) -> Tensor:
    """The quantile `share` (0..1) of each point's observed colours [N,3], per channel. Points visible in no
    image get the colour of the nearest visible one, or grey if there is none."""
    counts = observations.seen.sum(0)
    rank = (share * (counts - 1).clamp_min(0)).round().long()
    channels = []
    for channel in range(3):
        values = torch.where(observations.seen, observations.colors[..., channel], torch.inf)
        channels.append(values.sort(0).values.gather(0, rank[None])[0].float())
    colors = torch.stack(channels, -1)
    known = counts > 0
    if not bool(known.any()):
        return torch.full_like(colors, 0.5)
    if bool(known.all()):
        return colors
    positions = points.detach().cpu().numpy()
    mask = known.cpu().numpy()
    nearest = cKDTree(positions[mask]).query(positions[~mask], workers=-1)[1]
    colors[~known] = colors[known][torch.from_numpy(nearest).to(colors.device)]
    return colors
