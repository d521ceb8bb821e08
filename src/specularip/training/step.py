"""One optimisation step: backward, average over ranks, check for non-finite numbers, Adam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specularip.training.parallel import SINGLE_RANK, Ranks
from specularip.training.state import TrainState

MAX_SKIPPED = 3
"""Consecutive non-finite steps after which a run has diverged."""
FIXED = "fixed"
"""The tie [N] in 0..1 of Gaussians that no step changes, or by so much less."""


def take_step(state: TrainState[Any], loss: Tensor, ranks: Ranks = SINGLE_RANK) -> Tensor:
    """Backward and one step of Adam. Returns a bool scalar: False if the loss or a gradient is not finite, in
    which case nothing changes but `state.skipped`. Does not synchronise with the GPU.

    Gaussians whose tie FIXED is 1 stay as they are. Gradients are averaged over `ranks`. The caller stops the
    run after MAX_SKIPPED non-finite steps in a row.
    """
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradients = [
        p.grad for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    ranks.average(gradients)
    # One check for all: the largest magnitude of a gradient is NaN or infinite if any of its entries is.
    largest = torch._foreach_norm(gradients, torch.inf)
    # The losses differ between ranks, and all ranks must decide alike.
    losses = [] if ranks.world_size > 1 else [loss.detach()]
    finite = torch.stack([*largest, *losses]).isfinite().all()
    if gradients[0].is_cuda:
        # The fused kernel of Adam skips the update on the device, without a synchronisation.
        state.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    elif not bool(finite):
        state.optimizer.zero_grad(set_to_none=True)
        state.skipped = state.skipped + 1
        return finite
    fixed = state.ties.get(FIXED)
    before = {} if fixed is None else {name: p.detach().clone() for name, p in state.params.items()}
    state.optimizer.step()
    with torch.no_grad():
        for name, old in before.items():
            # Adam takes full steps on any gradient, however small: so the step is faded.
            state.params[name].lerp_(old, fixed.reshape(-1, *[1] * (old.ndim - 1)))  # type: ignore[union-attr]
    state.skipped = torch.where(finite, 0, state.skipped + 1)
    return finite
