"""How much each pixel of a set of views counts: a view says little about what another shows better.

A face is a dozen pixels wide in a view of the whole body, where a prior draws it as a blur, and eyes are
narrow slits in a view from the side. Fitted with equal weights, these and the sharp close-up give their mean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.stages.fusion import surface_normals, unproject

LEAST_COSINE = 0.2
"""Surfaces that are seen more obliquely than this count as seen at this angle by the view itself, and as not
seen by others."""
STRIDE = 4
"""Weights are computed for every fourth pixel in both directions; they change slowly."""
GROWN = 2
"""By how many of these pixels low weights are grown, over the outlines."""


@torch.no_grad()
def detail_weights(depths: Tensor, solid: Tensor, cameras: Cameras) -> Tensor:
    """Weights [V,S,S] in 0..1 of the pixels of V views, 1 for the background: the area of the surface that a
    pixel covers in the view that shows the point best (from close by, and squarely), relative to its own,
    squared.

    depths [V,S,S]: metres along the optical axis, valid where `solid` [V,S,S].
    """
    device, size = depths.device, depths.shape[-1]
    depths, solid = depths.float().cpu()[:, ::STRIDE, ::STRIDE], solid.cpu()[:, ::STRIDE, ::STRIDE]
    small = cameras.to("cpu").resized(depths.shape[-1], depths.shape[-1])
    focal = small.Ks[:, 0, 0]
    points, normals = unproject(depths, small), surface_normals(depths, solid, small).permute(0, 2, 3, 1)
    weights = torch.ones_like(depths)
    for view, where in enumerate(solid):
        positions = points[view][where]
        pixels, depth = small.project(positions)
        towards = F.normalize(small.positions[:, None] - positions, dim=-1)
        cosine = (towards * normals[view][where]).sum(-1)
        areas = (depth / focal[:, None]).square() / cosine.clamp_min(LEAST_COSINE)
        framed = ((pixels >= 0) & (pixels < small.width)).all(-1) & (depth > 0.01) & (cosine > LEAST_COSINE)
        best = torch.where(framed, areas, torch.inf).amin(0).minimum(areas[view])
        weights[view][where] = (best / areas[view]).square()
    grown = -F.max_pool2d(-weights[:, None], 2 * GROWN + 1, 1, GROWN)
    return F.interpolate(grown, (size, size), mode="bilinear")[:, 0].to(device)
