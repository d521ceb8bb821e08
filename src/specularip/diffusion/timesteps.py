"""AHDS, Adaptive Human Distillation Sampling: the schedule of timesteps over an optimisation.

Plain score distillation draws its timesteps uniformly at every step. But large timesteps determine the
overall shape and small ones details, so small ones early and large ones late are wasted. AHDS draws timesteps
below an upper *bound* that falls from 800 to 0 and spends its steps where they matter for a person: the share
of steps whose bound lies in an interval is the mass there of a density over 0 <= t < 800 that is flat between
350 and 450 with Gaussian tails on either side. With the widths below, 0.41 of the steps have a bound below
350, 0.21 one from 350 to 450, and 0.375 one above. Solving "mass above the bound = share of the steps done"
for the bound is DreamTime's time schedule (Huang et al., 2024) with that density. The method runs 2,400
steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOP = 800
"""Timesteps from here on are never used: their noise hides the render completely."""
PLATEAU = (350.0, 450.0)
WIDTHS = (160.0, 145.0)
"""Standard deviations below and above the plateau, which give the masses stated above."""


def ahds_density(timesteps: Tensor) -> Tensor:
    """The two-sided Gaussian density at timesteps in 0..800, up to a factor; 1 on the plateau."""
    below = torch.exp(-((timesteps - PLATEAU[0]) ** 2) / (2 * WIDTHS[0] ** 2))
    above = torch.exp(-((timesteps - PLATEAU[1]) ** 2) / (2 * WIDTHS[1] ** 2))
    return torch.where(timesteps < PLATEAU[0], below, torch.where(timesteps > PLATEAU[1], above, 1.0))


def ahds_bounds(steps: int, *, top: int = TOP, bottom: int = 0) -> Tensor:
    """The upper bound of each step's timesteps, int64 [steps], falling from `top` to `bottom`.

    A `top` other than 800 stretches the density: neighbouring pixels are redundant and survive more noise
    than latents do, so a prior on pixels needs larger timesteps to change the shape. `bottom` truncates the
    density, so that a short run does not end on steps that hardly change anything. Raises ValueError for
    steps < 1 and for a bottom outside 0..top-1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 <= bottom < top:
        raise ValueError(f"bottom must lie in 0..top-1, got bottom {bottom}, top {top}")
    edges = torch.linspace(float(bottom), float(top), 4001, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    mass = torch.cumsum(ahds_density(middles * (TOP / top)), 0)
    mass = torch.cat([mass.new_zeros(1), mass / mass[-1]])
    # The midpoint of each step: symmetric at both ends.
    left = 1 - (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    cell = torch.searchsorted(mass, left).clamp(1, len(mass) - 1)
    fraction = (left - mass[cell - 1]) / (mass[cell] - mass[cell - 1])
    return (edges[cell - 1] + fraction * (edges[cell] - edges[cell - 1])).round().long()


def sample_timesteps(bound: int, count: int, generator: torch.Generator, *, minimum: int = 20) -> Tensor:
    """`count` timesteps uniform in minimum..bound, int64 [count]; all `minimum` once the bound is below it.

    Stratified: one in each of `count` equal strata, in random order, so that a small batch covers the range.
    """
    slices = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    span = max(bound - minimum, 0) + 1
    return (minimum + slices / count * span).long().clamp(max=max(bound, minimum))
