"""Score distillation: the prior's denoising direction for noised renders, as a gradient on the renders.

Poole et al., DreamFusion, 2023. Its gradient (1 − ᾱ)(ε̂ − ε) on the latents x equals w·(x − x̂₀) with
w = √(ᾱ(1 − ᾱ)), where x̂₀ is the one-step estimate of the clean image: a pull towards an image that can be
inspected, and clamped to the range of images where the prior's scheduler does so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specularip.diffusion.conditioning import Condition
from specularip.diffusion.guidance import anpg_direction, cfg_noise
from specularip.diffusion.prior import Prior
from specularip.diffusion.settings import GuidanceConfig
from specularip.kernels.async_transfer import copy_async


@dataclass(frozen=True)
class SdsResult:
    """loss: scalar, differentiable in the images; its gradient on the latents is the SDS gradient over V.

    x0 [V,C,h,w]: the estimate of the clean latents, for a preview. grad_norm: root mean square over latent
    pixels of the clipped gradient's norm, for the log.
    """

    loss: Tensor
    x0: Tensor
    grad_norm: Tensor


def clip_pixels(gradient: Tensor, limit: float) -> Tensor:
    """Clip the norm over channels of each latent pixel's gradient [V,C,h,w] to `limit`."""
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
    *,
    at_once: int = 0,
) -> SdsResult:
    """Score distillation of `images` [V,C,S,S] in 0..1, differentiable in them.

    timesteps [V] int64; noise [V,c,h,w], standard normal, of the latents' shape. config.kind selects CFG or
    ANPG (see `guidance`), config.pixel_clip the largest gradient of a latent pixel. rescale: see `cfg_noise`;
    ANPG has none, and needs fewer evaluations where timesteps are on the CPU, the largest first. at_once: the
    views in a batch of the prior (0: all); with fewer, the gradient on the images is computed in the forward
    pass, batch by batch, to save memory. Views that attend to each other stay in one batch. Raises ValueError
    for noise of another shape.
    """
    if 0 < at_once < len(images) and not prior.views_together:
        return _in_batches(prior, images, condition, timesteps, noise, config, rescale, at_once)
    latents = prior.encode_image(images)
    if noise.shape != latents.shape:
        raise ValueError(f"noise must be {list(latents.shape)}, got {list(noise.shape)}")
    x = latents.detach()
    last = None
    if config.kind == "anpg" and not timesteps.is_cuda:  # on a GPU, reading them would synchronise
        last = max((i + 1 for i, t in enumerate(timesteps.tolist()) if t >= config.anpg_switch), default=0)
    timesteps = copy_async(timesteps, x.device)
    noise = noise.to(x.device, x.dtype)
    with torch.no_grad():
        alpha = prior.alphas(timesteps)
        noisy = prior.add_noise(x, noise, timesteps)
        if config.kind == "anpg":
            direction = anpg_direction(
                prior, noisy, timesteps, condition, config.scale, config.anpg_switch, last=last
            )
        else:
            direction = cfg_noise(prior, noisy, timesteps, condition, config.scale, rescale) - noise
        x0 = x - ((1 - alpha) / alpha).sqrt() * direction
        if prior.clip_sample:
            x0 = x0.clamp(-1, 1)
        gradient = clip_pixels((alpha * (1 - alpha)).sqrt() * (x - x0), config.pixel_clip)
        target = x - gradient
    loss = 0.5 * (latents - target).square().sum() / len(latents)
    return SdsResult(loss, x0, gradient.square().sum(1).mean().sqrt())


def _in_batches(
    prior: Prior,
    images: Tensor,
    condition: Condition,
    timesteps: Tensor,
    noise: Tensor,
    config: GuidanceConfig,
    rescale: float,
    at_once: int,
) -> SdsResult:
    loss = squares = torch.zeros((), device=images.device)
    estimates, gradients = [], []
    for first in range(0, len(images), at_once):
        rows = slice(first, first + at_once)
        some = images[rows].detach().requires_grad_()
        result = sds(prior, some, condition[rows], timesteps[rows], noise[rows], config, rescale)
        share = len(some) / len(images)
        gradients.append(share * torch.autograd.grad(result.loss, some)[0])
        loss = loss + share * result.loss.detach()
        squares = squares + share * result.grad_norm.square()
        estimates.append(result.x0)
    value = _WithGradient.apply(images, torch.cat(gradients), loss)
    return SdsResult(value, torch.cat(estimates), squares.sqrt())


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient on `images` was computed with it in the forward pass."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer * gradient, None, None
