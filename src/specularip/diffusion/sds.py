"""Score distillation: the prior looks at noised renders and says where they should go.

Poole et al., DreamFusion, 2023. Its gradient (1 − ᾱ)(ε̂ − ε) on the latents x equals w·(x − x̂₀) with
w = √(ᾱ(1 − ᾱ)), where x̂₀ is the one-step estimate of the clean image: a pull towards an image that can be
looked at, and clamped to the range of images where the prior says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import GuidanceConfig
from .guidance import anpg_direction, cfg_noise
from .identity import Condition
from .prior import Prior


@dataclass(frozen=True)
class SdsResult:
    """loss: scalar in the graph of the images, whose gradient on the latents is the SDS gradient over V.

    x0 [V,C,h,w]: the clean latents the views are pulled to, for a preview. grad_norm: root mean square over
    latent pixels of the clipped gradient's norm, for the log.
    """

    loss: Tensor
    x0: Tensor
    grad_norm: Tensor


def clip_pixels(gradient: Tensor, limit: float) -> Tensor:
    """Shorten the gradient [V,C,h,w] of each latent pixel, its norm over channels, to at most `limit`."""
    norm = gradient.norm(dim=1, keepdim=True)
    return gradient * (limit / norm.clamp(min=1e-12)).clamp(max=1)


def sds(
    prior: Prior,
    images: Tensor,
    condition: Condition,
    timesteps: Tensor,
    noise: Tensor,
    config: GuidanceConfig,
    rescale: float = 0.0,
) -> SdsResult:
    """Score distillation of `images` [V,C,S,S] in 0..1, differentiable in them.

    timesteps [V] int64; noise [V,c,h,w], standard normal, of the latents' shape. config.kind picks plain CFG
    or ANPG (see `guidance.py`), config.pixel_clip the largest gradient of a latent pixel. `rescale`: see
    `cfg_noise`; ANPG has none.
    """
    latents = prior.encode_image(images)
    if noise.shape != latents.shape:
        raise ValueError(f"noise must be {list(latents.shape)}, got {list(noise.shape)}")
    x = latents.detach()
    timesteps = timesteps.to(x.device)
    noise = noise.to(x.device, x.dtype)
    with torch.no_grad():
        alpha = prior.alphas(timesteps)
        noisy = prior.add_noise(x, noise, timesteps)
        if config.kind == "anpg":
            direction = anpg_direction(prior, noisy, timesteps, condition, config.scale)
        else:
            direction = cfg_noise(prior, noisy, timesteps, condition, config.scale, rescale) - noise
        x0 = x - ((1 - alpha) / alpha).sqrt() * direction
        if prior.clip_sample:
            x0 = x0.clamp(-1, 1)
        gradient = clip_pixels((alpha * (1 - alpha)).sqrt() * (x - x0), config.pixel_clip)
        target = x - gradient
    loss = 0.5 * (latents - target).square().sum() / len(latents)
    return SdsResult(loss, x0, gradient.square().sum(1).mean().sqrt())
