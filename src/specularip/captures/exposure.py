"""Exposure and white balance of an image as three gains, nearly so in sRGB values, too."""

from __future__ import annotations

import torch
from torch import Tensor

BRIGHT = 0.95
"""Values above say little of gains: the sensor clipped them."""
LEAST, MOST = 0.1, 10.0
"""Gains beyond are no exposure: the images show different things."""


def exposed(images: Tensor, gains: Tensor) -> Tensor:
    """Images [...,3] in 0..1 as a camera with log gains [3] shows them."""
    return (images * gains.exp()).clamp_max(1.0)


@torch.no_grad()
def matching_gains(images: Tensor, targets: Tensor) -> Tensor:
    """Log gains [3] that bring images [...,3] nearest to targets [...,3] in least squares, where neither is
    clipped; 0 for channels without any light."""
    usable = ((images < BRIGHT) & (targets < BRIGHT)).to(images)
    dims = tuple(range(images.ndim - 1))
    both = (usable * images * targets).sum(dims)
    own = (usable * images.square()).sum(dims)
    lit = (own > 1e-6) & (both > LEAST * own) & (both < MOST * own)
    return torch.where(lit, both / own.clamp_min(1e-6), torch.ones_like(own)).log()
