"""Normals found by trial: gradients stall where a highlight has to jump, so now and then all directions are
tried for those Gaussians whose colours fit worst."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cameras import Cameras
from ..specular import SpecularHead, fibonacci_directions
from .start import Sightings

DIRECTIONS = 64
"""Tried all around: a normal and its opposite are the same."""
RINGS = (14.0, 7.0, 3.5)
"""Degrees: around the best so far, eight directions at each of these angles in turn."""
SHARE = 0.25
"""Of the Gaussians, those that are looked at: the worst."""
BEHIND = 0.1
"""Cost of being seen from behind, where that goes for all views."""
BETTER = 0.85
"""A new normal is taken if its error is less than this share of the old one's."""
MAX_VIEWS = 48
CHUNK = 1 << 22
"""Colours [B,N] evaluated at once."""


@torch.no_grad()
def search_normals(
    head: SpecularHead,
    latents: Tensor,
    diffuse: Tensor,
    normals: Tensor,
    means: Tensor,
    cameras: Cameras,
    sightings: Sightings,
) -> tuple[Tensor, Tensor]:
    """Indices [M] of the Gaussians with better normals, and these [M,3].

    latents [N,19]; diffuse, normals and means [N,3]; cameras and sightings [V,...], all on one device.
    """
    stride = math.ceil(len(cameras) / MAX_VIEWS)
    centres = cameras.positions[::stride]
    colors, seen = sightings.colors[::stride], sightings.seen[::stride]

    def errors(index: Tensor, tried: Tensor) -> Tensor:
        """Mean difference from what is seen [M] for normals [M,3]."""
        found = []
        for part, normal in zip(
            index.split(max(1, CHUNK // len(centres))), tried.split(max(1, CHUNK // len(centres)))
        ):
            lobes = head.prepare(latents[part], diffuse[part])
            shown = diffuse[part] + head.shade(lobes, normal, means[part], centres)
            difference = (shown - colors[:, part].float()).abs().mean(-1)
            cosine = ((centres[:, None] - means[part]) * normal).sum(-1)
            here = seen[:, part].float()
            counts = here.sum(0).clamp_min(1)
            ahead = ((cosine > 0) * here).sum(0) / counts
            behind = torch.minimum(ahead, 1 - ahead)
            found.append((difference * here).sum(0) / counts + BEHIND * behind)
        return torch.cat(found)

    everyone = torch.arange(len(means), device=means.device)
    known = seen.sum(0) >= 3
    before = torch.where(known, errors(everyone, normals), -1.0)
    count = min(int(SHARE * len(means)), int(known.sum()))
    worst = before.topk(count).indices
    before, best = before[worst], normals[worst].clone()
    lowest = before.clone()

    def attempt(tried: Tensor) -> None:
        nonlocal best, lowest
        error = errors(worst, tried)
        better = error < lowest
        best = torch.where(better[:, None], tried, best)
        lowest = torch.where(better, error, lowest)

    for direction in fibonacci_directions(2 * DIRECTIONS)[:DIRECTIONS].to(means):
        attempt(direction.expand_as(best))
    for degrees in RINGS:
        middle = best
        x = F.normalize(torch.linalg.cross(middle, middle.roll(1, -1) + 0.1), dim=-1)
        y = torch.linalg.cross(middle, x)
        for turn in range(8):
            angle = turn * math.pi / 4
            side = math.cos(angle) * x + math.sin(angle) * y
            size = math.radians(degrees)
            attempt(math.cos(size) * middle + math.sin(size) * side)
    taken = lowest < BETTER * before
    return worst[taken], best[taken]
