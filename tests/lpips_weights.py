"""Random weights in the layout of LPIPS' published files."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.lpips import VGG_CONVOLUTIONS, VGG_WIDTHS, Lpips


def vgg_state(generator: torch.Generator) -> dict[str, Tensor]:
    """VGG-16's convolutions (He initialisation) and the five heads."""
    state, channels = {}, 3
    for k, (block, width) in enumerate(zip(VGG_CONVOLUTIONS, VGG_WIDTHS)):
        for n in block:
            spread = (2 / (9 * channels)) ** 0.5
            state[f"features.{n}.weight"] = spread * torch.randn(width, channels, 3, 3, generator=generator)
            state[f"features.{n}.bias"] = 0.1 * torch.randn(width, generator=generator)
            channels = width
        state[f"lin{k}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return state


def random_lpips(generator: torch.Generator) -> Lpips:
    weights = {name.removesuffix(".model.1.weight"): tensor for name, tensor in vgg_state(generator).items()}
    return Lpips({name: w.flatten() if name.startswith("lin") else w for name, w in weights.items()})
