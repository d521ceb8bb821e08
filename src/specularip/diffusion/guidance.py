"""How the denoiser's answers for several prompts become one direction: CFG, and ANPG.

All branches of guidance go through the UNet as one batch, branch-major.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from specularip.diffusion.attention import KeyViews, for_branches
from specularip.diffusion.conditioning import Condition
from specularip.diffusion.prior import Prior

Branch = Literal["positive", "negative", "null"]

ANPG_SWITCH = 170
"""Below this timestep ANPG trusts the null prediction itself."""


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
    """Predicted noise of each branch, each [V,C,h,w], from one call of the UNet.

    noisy [V,C,h,w], timesteps [V]. Each branch sees its own face tokens; the negative one those of nobody if
    the condition has none for it. last: the last branch is wanted for so many views, the first, only;
    not together with `key_views`.
    """
    g, views = len(branches), len(noisy)
    last = views if last is None else last
    count = (g - 1) * views + last
    text = torch.cat([getattr(condition, branch) for branch in branches])[:count]
    identity = scale = None
    if condition.identity is not None and condition.null_identity is not None:
        avoided = condition.negative_identity
        tokens: dict[Branch, Tensor] = {
            "positive": condition.identity,
            "negative": condition.null_identity if avoided is None else avoided,
            "null": condition.null_identity,
        }
        identity = torch.cat([tokens[branch] for branch in branches])[:count]
        if condition.identity_scale is not None:
            scale = for_branches(condition.identity_scale, count)
    noise = prior.predict_noise(noisy, timesteps, text, condition.pose, identity, scale, key_views)
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

    The negative prompt stands where the empty one would, as is usual. `rescale` in 0..1 pulls the guided
    prediction's standard deviation back to the positive one's (Lin et al., 2024, section 3.4), against
    the over-saturation of a large scale; it acts on the clean estimate, where saturation is.
    """
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
    switch: int = ANPG_SWITCH,
    *,
    noisier: int | None = None,
) -> Tensor:
    """ANPG, Annealed Negative Prompt Guidance: the direction δ_c + δ_d, [V,C,h,w].

    Score distillation's usual direction ε̂ − ε carries the noise ε into the gradient, and needs a large scale
    to speak over it. ANPG (Liu et al., HumanGaussian, 2024, after Katzir et al., noise-free score
    distillation) leaves it out and adds up what it wants instead:

    - δ_c = scale·(ε_pos − ε_null) pulls to the prompt;
    - δ_d pulls back to images at all. For a little noise (t < `switch`, 170) that is ε_null itself, what the
      prior sees as wrong with the render; for more noise ε_null is mostly the noise that was added, which
      subtracting the negative prompt's prediction removes: ε_null − ε_neg.

    noisier: no view from this one on has a timestep of `switch` or more, so that the negative prompt's
    prediction for them is not asked for; None: not known.
    """
    positive, null, negative = branch_noise(
        prior, noisy, timesteps, condition, ("positive", "null", "negative"), last=noisier
    )
    direction = scale * (positive - null) + null
    little = (timesteps < switch)[: len(negative), None, None, None]
    direction[: len(negative)] -= torch.where(little, 0.0, negative)
    return direction
