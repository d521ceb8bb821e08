"""Exposure and white balance that differ between the images of a capture, as phones set them.

Both scale the channels of an image, nearly so in sRGB values, too: three gains an image. They are first read
from the colours in which the images show the same points, before anything is rendered, and then followed
during the fit. The avatar gets the colours of the average image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.captures.exposure import BRIGHT, matching_gains
from specularip.fitting.observations import Observations

LEAST_SPREAD = 0.035
"""Standard deviation of the log gains from which they are compensated. Images of one exposure have 0.013 to
0.024, for highlights that some views show and others do not."""
DARK = 0.04
"""Values below say little of gains: noise."""
POINTS = 2000
"""About as many points tell the gains; more would take seconds."""
ROUNDS = 30
OUTLIER = 0.1
"""Log colours that are further off are more likely highlights than noise."""
PACE = 0.2
"""How much of each step's gain is taken over: one step sees one image of an unfinished avatar."""


def estimated_gains(observations: Observations) -> Tensor:
    """Log gains [V,3] of the images, of mean 0: log colours are sums of a point's and an image's.

    Alternating weighted means; the weights are Cauchy's, so that highlights and occluded points hardly count.
    """
    stride = max(1, observations.seen.shape[1] // POINTS)
    colors = observations.colors[:, ::stride].float()
    usable = observations.seen[:, ::stride, None] & (colors > DARK) & (colors < BRIGHT)
    logs = torch.where(usable, colors, 1.0).log()
    gains, weights = logs.new_zeros(len(logs), 1, 3), usable.float()
    for _ in range(ROUNDS):
        points = (weights * (logs - gains)).sum(0) / weights.sum(0).clamp_min(1e-6)
        gains = (weights * (logs - points)).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp_min(
            1e-6
        )
        gains = gains - gains.mean(0)
        weights = usable / (1 + ((logs - points - gains) / OUTLIER).square())
    return gains[:, 0]


def differ(gains: Tensor) -> bool:
    """Whether log gains [V,3] differ by more than what views of one exposure show."""
    return len(gains) > 1 and float(gains.std()) > LEAST_SPREAD


def followed(gains: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Log gains [3], a step nearer to those of `matching_gains`."""
    return gains + PACE * (matching_gains(images, targets) - gains)


def exposure_note(gains: Tensor) -> str:
    """One line for the user about log gains [V,3]."""
    return (
        f"exposure and white balance differ between the images, by {float(gains.std()):.0%} on average: "
        "compensated, the avatar has the average (--exposure off fits the images as they are)"
    )
