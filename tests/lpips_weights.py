"""Random weights in the shape of LPIPS's VGG."""

import torch
from torch import Tensor

from specularip import losses


def vgg_state(generator: torch.Generator) -> dict[str, Tensor]:
    state, channels = {}, 3
    for k, (group, width) in enumerate(zip(losses.VGG_CONVOLUTIONS, (64, 128, 256, 512, 512))):
        for n in group:
            spread = (2 / (9 * channels)) ** 0.5
            state[f"features.{n}.weight"] = spread * torch.randn(width, channels, 3, 3, generator=generator)
            state[f"features.{n}.bias"] = 0.1 * torch.randn(width, generator=generator)
            channels = width
        state[f"lin{k}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return state
