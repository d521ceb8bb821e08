"""Images from the prior alone: DDIM from pure noise, for benchmarks and for inspecting a prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from specularip.diffusion.conditioning import Condition
from specularip.diffusion.guidance import cfg_noise
from specularip.diffusion.prior import Prior


def sampling_timesteps(prior: Prior, steps: int, last: tuple[int, ...] = ()) -> list[int]:
    """The timesteps of `sample`: `steps` even ones with guidance, then those of `last` that are below."""
    even = prior.ddim_timesteps(steps).tolist()
    return even + [t for t in last if t < even[-1]]


@torch.no_grad()
def sample(
    prior: Prior,
    condition: Condition,
    *,
    steps: int = 25,
    scale: float = 5.0,
    rescale: float = 0.0,
    last: tuple[int, ...] = (),
    generator: torch.Generator | None = None,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
    begun: tuple[int, Tensor] | None = None,
    keep: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """One image [V,C,S,S] in 0..1 for each view of `condition`, by deterministic DDIM with guidance.

    last: falling timesteps at which sampling goes on without guidance: few even steps end at much noise, and
    the mean over what it may hide has no fine detail.

    Where views attend to each other, those of one batch show one person. The noise is drawn on the CPU, so
    that a seed gives the same noise on every device. progress(done, total) is called after every step.

    keep(done, latents): is called, too, and may keep the latents [V,c,h,w]; begun: goes on from such a call.
    Both only where all views are in one batch.
    """
    if (begun or keep) and batch < len(condition):
        raise ValueError("only one batch can be continued")
    first = 0
    shape = (len(condition), prior.latent_channels, prior.latent_size, prior.latent_size)
    noise = torch.randn(shape, generator=generator)
    if begun is not None:
        first, noise = begun
    timesteps = sampling_timesteps(prior, steps, last)
    images = []
    total = len(timesteps) * -(-len(condition) // batch)
    for index, start in enumerate(range(0, len(condition), batch)):
        part = condition[start : start + batch]
        part = replace(part, pose=prior.encode_pose(part.pose))
        noisy = noise[start : start + batch].to(prior.device)
        for done, (t, previous) in list(enumerate(zip(timesteps, [*timesteps[1:], -1])))[first:]:
            at = torch.full((len(part),), t, device=prior.device)
            guided = cfg_noise(prior, noisy, at, part, scale if done < steps else 1.0, rescale)
            noisy = prior.ddim_step(noisy, guided, t, previous)
            if keep is not None:
                keep(done + 1, noisy)
            if progress is not None:
                progress(index * len(timesteps) + done + 1, total)
        images.append(prior.decode(noisy))
    return torch.cat(images)
