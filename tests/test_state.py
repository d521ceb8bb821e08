"""One optimisation step: the photo's ownership, non-finite numbers, packing for a checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch

from specularip.body import anny_body
from specularip.cameras import Cameras
from specularip.stages.initial_state import AvatarState, initial_state, new_head
from specularip.stages.photo_anchor import make_photo_anchor
from specularip.stages.settings import SeidConfig
from specularip.training.state import TrainState
from specularip.training.step import take_step

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")
CONFIG = SeidConfig(points=400)


@pytest.fixture
def state() -> AvatarState:
    return initial_state(anny_body(), CONFIG, SEED)


def test_owned_gaussians_follow_the_photo_loss_and_keep_their_geometry(state: AvatarState) -> None:
    ownership = (torch.rand(400, generator=torch.Generator().manual_seed(SEED)) < 0.5).float()
    owned = ownership > 0
    before = {name: tensor.detach().clone() for name, tensor in state.gaussians.parameters().items()}
    everything = sum(tensor.sum() for tensor in state.gaussians.parameters().values())
    assert isinstance(everything, torch.Tensor)
    assert take_step(state, everything, -state.gaussians.color_logits.sum(), ownership)
    after = state.gaussians.parameters()
    for name in ("means", "quats", "log_scales", "opacity_logits", "normal_residuals"):
        assert torch.equal(after[name][owned], before[name][owned]), (
            f"{name} of owned Gaussians changed (seed {SEED})"
        )
        assert bool((after[name][~owned] != before[name][~owned]).any()), (
            f"{name} did not change (seed {SEED})"
        )
    rise = after["color_logits"] - before["color_logits"]
    # The two losses cancel for unowned colours; owned ones follow the photo loss alone.
    assert bool((rise[owned] > 0).all()), SEED


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


def test_the_photo_owns_the_front_of_the_face_only(state: AvatarState) -> None:
    body = anny_body()
    anchor = make_photo_anchor(body, torch.rand(3, 96, 96), torch.ones(1, 96, 96), weight=1.0)
    owned = anchor.ownership(state.gaussians) > 0.5
    assert 5 < int(owned.sum()) < 120, SEED
    means = state.gaussians.means.detach()[owned]
    assert float(means[:, 2].min()) > 0.3 * body.height, "the photo owns Gaussians below the neck"
    assert bool((means[:, 1] < body.keypoints[16:18, 1].mean()).all()), "the photo owns the back of the head"
    assert isinstance(anchor.camera, Cameras)
    none = make_photo_anchor(body, torch.rand(3, 96, 96), torch.ones(1, 96, 96), weight=0.0)
    assert float(none.ownership(state.gaussians).max()) == 0
