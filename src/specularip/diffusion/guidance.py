"""How the denoiser's answers for several prompts become one direction: CFG, and ANPG.

All branches of guidance go through the UNet as one batch, branch-major.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .attention import KeyViews
from .identity import Condition
from .prior import Prior

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
) -> tuple[Tensor, ...]:
    """Predicted noise of each branch, each [V,C,h,w], from one call of the UNet.

    noisy [V,C,h,w], timesteps [V]. Each branch sees its own face tokens; the negative one those of nobody if
    the condition has none for it.
    """
    g = len(branches)
    text = torch.cat([getattr(condition, branch) for branch in branches])
    identity = scale = None
    if condition.identity is not None and condition.null_identity is not None:
        avoided = condition.negative_identity
        tokens: dict[Branch, Tensor] = {
            "positive": condition.identity,
            "negative": condition.null_identity if avoided is None else avoided,
            "null": condition.null_identity,
        }
        identity = torch.cat([tokens[branch] for branch in branches])
        scale = None if condition.identity_scale is None else condition.identity_scale.repeat(g)
    noise = prior.predict_noise(noisy, timesteps, text, condition.pose, identity, scale, key_views)
    return noise.chunk(g)


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
) -> Tensor:
    """ANPG, Annealed Negative Prompt Guidance: the direction δ_c + δ_d, [V,C,h,w].

    Score distillation's usual direction ε̂ − ε carries the noise ε into the gradient, and needs a large scale
    to speak over it. ANPG (Liu et al., HumanGaussian, 2024, after Katzir et al., noise-free score
    distillation) leaves it out and adds up what it wants instead:

    - δ_c = scale·(ε_pos − ε_null) pulls to the prompt;
    - δ_d pulls back to images at all. For a little noise (t < `switch`, 170) that is ε_null itself, what the
    prior
      sees as wrong with the render; for more noise ε_null is mostly the noise that was added, which
      subtracting the negative prompt's prediction removes: ε_null − ε_neg.
    """
    branches: tuple[Branch, ...] = ("positive", "negative", "null")
    positive, negative, null = branch_noise(prior, noisy, timesteps, condition, branches)
    little = (timesteps < switch)[:, None, None, None]
    return scale * (positive - null) + torch.where(little, null, null - negative)
