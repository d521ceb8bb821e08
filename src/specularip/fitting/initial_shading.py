"""Initial light and materials, fitted without rasterising.

The initial points have positions and normals, and are visible in images from many sides. So the shading
formula alone is fitted to their observed colours, a random batch per step: one light, and one material for
each cluster of points of similar colours, from several initial roughnesses at once. From a poor roughness the
full fit does not recover within thousands of steps; from this one it starts with highlights in the right
places.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.fitting.observations import Observations, quantile_colors
from specularip.progress import Report, unheard
from specularip.specular import SpecularHead
from specularip.specular.shading import LATENTS, ROUGHNESS

CLUSTERS = 16
ROUGHNESSES = (0.06, 0.15, 0.4)
"""Candidates for each cluster; after half of the steps the best one is kept."""
BATCH = 16_384
MATERIAL = 6
"""Leading latents that a cluster shares: roughness, tangent angle, reflectance."""
RATE, COLOR_RATE = 1.5e-2, 3e-2
LEAST_OBSERVATIONS = 1000
"""Fewer say nothing about a light."""


def fit_initial_shading(
    head: SpecularHead,
    points: Tensor,
    normals: Tensor,
    observations: Observations,
    cameras: Tensor,
    color_logits: Tensor,
    steps: int,
    generator: torch.Generator,
    report: Report = unheard,
) -> Tensor:
    """Fit `head` and `color_logits` [N,3] in place to points [N,3] with unit normals [N,3]; returns latents
    [N,34].

    cameras [V,3]: positions of the observations' cameras. All tensors are on one device; generator: on the
    CPU. Without steps, or with too few observations, the latents are zero and nothing changes.
    """
    device = points.device
    views, rows = observations.seen.nonzero(as_tuple=True)
    latents = torch.zeros(len(points), LATENTS, device=device)
    if len(rows) < LEAST_OBSERVATIONS or steps == 0:
        return latents
    cluster = _cluster(points, observations, generator)
    candidates = len(ROUGHNESSES)
    material = torch.zeros(CLUSTERS, candidates, MATERIAL, device=device)
    material[..., :2] = torch.tensor([math.log(r / ROUGHNESS) for r in ROUGHNESSES], device=device)[:, None]
    material.requires_grad_()
    color_logits.requires_grad_()
    optimizer = torch.optim.Adam(
        [
            {"params": [material, *head.parameters()], "lr": RATE},
            {"params": [color_logits], "lr": COLOR_RATE},
        ],
        fused=device.type == "cuda",
    )
    losses = torch.zeros(CLUSTERS, candidates, device=device)
    counts = torch.zeros(CLUSTERS, candidates, device=device)
    best = torch.zeros(CLUSTERS, dtype=torch.long, device=device)
    origin = torch.zeros(1, 3, device=device)
    seeds = torch.Generator(device).manual_seed(int(torch.randint(1 << 31, (1,), generator=generator)))
    half = steps // 2
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, (RATE, COLOR_RATE)):
            group["lr"] = rate * min(1.0, 0.1 ** ((step / steps - 0.5) / 0.5))
        if step == half:
            best = (losses / counts.clamp_min(1)).argmin(1)
        pick = torch.randint(len(rows), (BATCH,), generator=seeds, device=device)
        i, view = rows[pick], views[pick]
        which = torch.randint(candidates, (BATCH,), generator=seeds, device=device)
        which = which if step < half else best[cluster[i]]
        # index_select, not indexing: on the CPU, its backward sums in a fixed order.
        shared = material.flatten(0, 1).index_select(0, cluster[i] * candidates + which)
        shared = F.pad(shared, (0, LATENTS - MATERIAL))
        diffuse = color_logits.index_select(0, i).sigmoid()
        view_dirs = F.normalize(cameras[view] - points[i], dim=-1)
        # A camera at the origin that sees each point along its own direction.
        specular = head.shade(head.prepare(shared, diffuse), normals[i], -view_dirs, origin)[0]
        error = (diffuse + specular - observations.colors[view, i].float()).abs().mean(-1)
        optimizer.zero_grad(set_to_none=True)
        error.mean().backward()
        optimizer.step()
        if step >= half // 2 and step < half:
            index = cluster[i] * candidates + which
            losses.view(-1).index_add_(0, index, error.detach())
            counts.view(-1).index_add_(0, index, torch.ones_like(error))
        report((step + 1) / steps)
    optimizer.zero_grad(set_to_none=True)  # the fit uses these tensors, without these gradients
    color_logits.requires_grad_(False)
    with torch.no_grad():
        latents[:, :MATERIAL] = material[torch.arange(CLUSTERS, device=device), best][cluster]
    return latents


@torch.no_grad()
def _cluster(points: Tensor, observations: Observations, generator: torch.Generator) -> Tensor:
    """The cluster [N] int64 of each point: k-means over three quantiles of its observed colours."""
    features = torch.cat([quantile_colors(observations, q, points) for q in (0.2, 0.5, 0.85)], -1)
    order = torch.randperm(len(features), generator=generator)[:CLUSTERS].to(features.device)
    centers = features[order].clone()
    for _ in range(12):
        nearest = torch.cdist(features, centers).argmin(1)
        total = torch.zeros_like(centers).index_add_(0, nearest, features)
        count = torch.bincount(nearest, minlength=len(centers)).to(total)
        centers = torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], centers)
    return torch.cdist(features, centers).argmin(1)
