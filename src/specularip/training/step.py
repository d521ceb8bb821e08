"""One optimisation step: backward, average over ranks, check for non-finite numbers, Adam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specularip.training.parallel import SINGLE_RANK, Ranks
from specularip.training.state import TrainState

MAX_SKIPPED = 3
"""Consecutive non-finite steps after which a run has diverged."""
PHOTO_PARAMETERS = ("color_logits", "latents")
"""Parameters that the photo's loss optimises. On Gaussians with ownership 1 the others stay fixed."""


def take_step(
    state: TrainState[Any],
    loss: Tensor,
    photo_loss: Tensor | None = None,
    ownership: Tensor | None = None,
    ranks: Ranks = SINGLE_RANK,
) -> Tensor:
    """Backward and one step of Adam. Returns a bool scalar: False if a loss or gradient is not finite, in
    which case nothing changes but `state.skipped`. Does not synchronise with the GPU.

    photo_loss applies to Gaussians in proportion to their `ownership` [N] in 0..1: there the gradients of
    `loss` fade out before those of photo_loss are added. Gradients are averaged over `ranks`. The caller
    stops the run after MAX_SKIPPED non-finite steps in a row.
    """
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if photo_loss is not None and ownership is not None:
        for tensor in state.params.values():
            if tensor.grad is not None:
                tensor.grad *= _row_weights(1 - ownership, tensor)
        photo_loss.backward()
    gradients = [
        p.grad for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    ranks.average(gradients)
    # One check for all: the largest magnitude of a gradient is NaN or infinite if any of its entries is.
    largest = torch._foreach_norm(gradients, torch.inf)
    # The losses differ between ranks, and all ranks must decide alike.
    losses = [] if ranks.world_size > 1 else [loss.detach()]
    if photo_loss is not None:
        losses.append(photo_loss.detach())
    finite = torch.stack([*largest, *losses]).isfinite().all()
    if gradients[0].is_cuda:
        # The fused kernel of Adam skips the update on the device, without a synchronisation.
        state.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    elif not bool(finite):
        state.optimizer.zero_grad(set_to_none=True)
        state.skipped = state.skipped + 1
        return finite
    fixed = {} if ownership is None else {k: v for k, v in state.params.items() if k not in PHOTO_PARAMETERS}
    before = {name: tensor.detach().clone() for name, tensor in fixed.items()}
    state.optimizer.step()
    with torch.no_grad():
        for name, old in before.items():
            # Adam takes full steps on any gradient, however small, so the step itself has to be faded too.
            fixed[name].lerp_(old, _row_weights(ownership, old))  # type: ignore[arg-type]
    state.skipped = torch.where(finite, 0, state.skipped + 1)
    return finite


def _row_weights(weights: Tensor, tensor: Tensor) -> Tensor:
    """Weights [N] in a shape that multiplies the rows of `tensor` [N,...]."""
    return weights.reshape(-1, *[1] * (tensor.ndim - 1))
