"""One optimisation step: fixed Gaussians, non-finite numbers, packing for a checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch

from specularip.body import anny_body
from specularip.stages.initial_state import AvatarState, initial_state, new_head
from specularip.stages.settings import SeidConfig
from specularip.training.state import TrainState
from specularip.training.step import take_step

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")
CONFIG = SeidConfig(points=400)


@pytest.fixture
def state() -> AvatarState:
    return initial_state(anny_body(), CONFIG, SEED)


def test_fixed_gaussians_stay_and_half_fixed_ones_move_half_as_far(state: AvatarState) -> None:
    fixed = torch.randint(0, 3, (400,), generator=torch.Generator().manual_seed(SEED)) / 2
    free = copy.deepcopy(state)
    state.ties["fixed"] = fixed
    before = {name: tensor.detach().clone() for name, tensor in state.params.items()}
    for one in (state, free):
        everything = sum(tensor.sum() for tensor in one.gaussians.parameters().values())
        assert isinstance(everything, torch.Tensor)
        assert take_step(one, everything)
    for name, tensor in state.params.items():
        moved, wanted = tensor - before[name], free.params[name] - before[name]
        share = (1 - fixed).reshape(-1, *[1] * (moved.ndim - 1))
        assert torch.allclose(moved, share * wanted, atol=1e-6), f"{name} (seed {SEED})"
        assert bool((wanted != 0).any()), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_step_changes_nothing(state: AvatarState, bad: float) -> None:
    before = state.gaussians.means.detach().clone()
    assert not take_step(state, state.gaussians.means.sum() * bad)
    assert state.skipped == 1 and torch.equal(state.gaussians.means, before)
    # A finite loss with a non-finite gradient: sqrt at 0.
    assert not take_step(state, (state.gaussians.latents.square().sum(-1)).sqrt().sum())
    assert state.skipped == 2
    assert take_step(state, state.gaussians.means.sum()) and state.skipped == 0


def test_an_unpacked_state_takes_the_same_steps(state: AvatarState) -> None:
    take_step(state, state.gaussians.means.square().sum() + state.gaussians.color_logits.sum())
    twin = TrainState.unpack(copy.deepcopy(state.pack()), new_head(CONFIG, SEED + 1))
    for _ in range(2):
        noise = [torch.randn(3, generator=s.generator) for s in (state, twin)]
        assert torch.equal(*noise), SEED
        for s in (state, twin):
            take_step(s, s.gaussians.means.square().sum() + (s.gaussians.color_logits * 2).sum())
    for name, tensor in state.fields.items():
        assert torch.equal(tensor, twin.fields[name]), f"{name} (seed {SEED})"
