"""How much each pixel of a set of views counts: a view says little about what another shows from closer by.

A face is a dozen pixels wide in a view of the whole body, where a prior draws it as a blur; fitted with equal
weights, that blur and the sharp close-up give their mean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.stages.fusion import unproject

LEAST_COSINE = 0.5
"""Views whose directions differ by more than 60 degrees show different surfaces."""
STRIDE = 4
"""Weights are computed for every fourth pixel in both directions; they change slowly."""
GROWN = 2
"""By how many of these pixels low weights are grown, over the outlines."""


@torch.no_grad()
def detail_weights(depths: Tensor, solid: Tensor, cameras: Cameras) -> Tensor:
    """Weights [V,S,S] in 0..1 of the pixels of V views: the area that a pixel covers in the view that shows
    the point from closest by, relative to its own; 1 for the background.

    depths [V,S,S]: metres along the optical axis, valid where `solid` [V,S,S].
    """
    device, size = depths.device, depths.shape[-1]
    depths, solid = depths.float().cpu()[:, ::STRIDE, ::STRIDE], solid.cpu()[:, ::STRIDE, ::STRIDE]
    small = cameras.to("cpu").resized(depths.shape[-1], depths.shape[-1])
    forward = F.normalize(small.viewmats[:, 2, :3], dim=-1)
    alike = forward @ forward.T > LEAST_COSINE
    focal = small.Ks[:, 0, 0]
    points = unproject(depths, small)
    weights = torch.ones_like(depths)
    for view, where in enumerate(solid):
        pixels, depth = small.project(points[view][where])
        framed = ((pixels >= 0) & (pixels < small.width)).all(-1) & (depth > 0.01) & alike[view][:, None]
        sizes = torch.where(framed, depth / focal[:, None], torch.inf)
        weights[view][where] = (sizes.amin(0) / sizes[view]).square().clamp(0, 1)
    grown = -F.max_pool2d(-weights[:, None], 2 * GROWN + 1, 1, GROWN)
    return F.interpolate(grown, (size, size), mode="bilinear")[:, 0].to(device)
