"""Guidance: the denoiser's predictions for several prompts combined into one direction, by CFG or ANPG.

All branches of guidance go through the denoiser as one batch, branch-major.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from specularip.diffusion.attention import KeyViews, for_branches
from specularip.diffusion.conditioning import Condition
from specularip.diffusion.denoiser import DenoiserInputs
from specularip.diffusion.prior import Prior

Branch = Literal["positive", "negative", "null"]


def branch_noise(
    prior: Prior,
    noisy: Tensor,
    timesteps: Tensor,
    condition: Condition,
    branches: tuple[Branch, ...],
    key_views: KeyViews | None = None,
    *,
    last: int | None = None,
) -> tuple[Tensor, ...]:
    """Predicted noise of each branch, each [V,C,h,w], from one call of the denoiser.

    noisy [V,C,h,w], timesteps [V]. Each branch has its own identity tokens; the negative branch those of the
    null face if the condition has none for it. key_views None: the views attend to each other if the prior
    was trained so. last: evaluate the last branch for the first `last` views only
    (None: all); not together with `key_views`.
    """
    g, views = len(branches), len(noisy)
    if key_views is None and prior.views_together:
        key_views = KeyViews(g, together=True)
    last = views if last is None else last
    count = (g - 1) * views + last
    text = torch.cat([getattr(condition, branch) for branch in branches])[:count]
    identity = scale = None
    if condition.identity is not None and condition.null_identity is not None:
        negative = condition.negative_identity
        tokens: dict[Branch, Tensor] = {
            "positive": condition.identity,
            "negative": condition.null_identity if negative is None else negative,
            "null": condition.null_identity,
        }
        identity = torch.cat([tokens[branch] for branch in branches])[:count]
        if condition.identity_scale is not None:
            scale = for_branches(condition.identity_scale, count)
    noise = prior.predict_noise(
        DenoiserInputs(noisy, timesteps, text, condition.pose, identity, scale, key_views)
    )
    return noise.split([views] * (g - 1) + [last])


def cfg_noise(
    prior: Prior,
    noisy: Tensor,
    timesteps: Tensor,
    condition: Condition,
    scale: float,
    rescale: float = 0.0,
    key_views: KeyViews | None = None,
) -> Tensor:
    """Classifier-free guidance: ε_neg + scale·(ε_pos − ε_neg), [V,C,h,w] (Ho & Salimans, 2022).

    As usual, the negative prompt replaces the unconditional one. `rescale` in 0..1 pulls the standard
    deviation of the guided prediction back to that of the positive one, against the over-saturation of a
    large scale (Lin et al., 2024, section 3.4), here applied to the clean estimate. A scale of 1 takes the
    positive prediction alone, in half the time, as for a prior into which guidance was distilled.
    """
    if scale == 1 and key_views is None:
        return branch_noise(prior, noisy, timesteps, condition, ("positive",))[0]
    positive, negative = branch_noise(prior, noisy, timesteps, condition, ("positive", "negative"), key_views)
    guided = negative + scale * (positive - negative)
    if rescale == 0:
        return guided
    alpha = prior.alphas(timesteps)
    clean, wanted = ((noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt() for noise in (guided, positive))
    ratio = wanted.std((1, 2, 3), keepdim=True) / clean.std((1, 2, 3), keepdim=True).clamp(min=1e-6)
    clean = clean * (rescale * ratio + 1 - rescale)
    return (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()


def anpg_direction(
    prior: Prior,
    noisy: Tensor,
    timesteps: Tensor,
    condition: Condition,
    scale: float,
    switch: int,
    *,
    last: int | None = None,
) -> Tensor:
    """ANPG, Annealed Negative Prompt Guidance: the direction δ_c + δ_d, [V,C,h,w].

    The usual direction of score distillation, ε̂ − ε, carries the noise ε into the gradient and needs a large
    guidance scale to dominate it. ANPG (Liu et al., HumanGaussian, 2024, after Katzir et al., noise-free
    score distillation) replaces it by two terms:

    - δ_c = scale·(ε_pos − ε_null) pulls towards the prompt;
    - δ_d pulls towards natural images. For little noise (t < `switch`) it is ε_null itself, which is the
      correction of the render; for more noise ε_null is mostly the added noise, which the prediction for the
      negative prompt cancels: ε_null − ε_neg.

    last: evaluate the negative branch for the first `last` views only, where all others have t < `switch`
    and do not use it; None: for all.
    """
    positive, null, negative = branch_noise(
        prior, noisy, timesteps, condition, ("positive", "null", "negative"), last=last
    )
    direction = scale * (positive - null) + null
    low_noise = (timesteps < switch)[: len(negative), None, None, None]
    direction[: len(negative)] -= torch.where(low_noise, 0.0, negative)
    return direction
