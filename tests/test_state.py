"""One optimisation step: what the photo owns, what is not finite, and what a checkpoint brings back."""

from __future__ import annotations

import pytest
import torch

from specularip.body import anny_body
from specularip.cameras import Cameras
from specularip.stages.guide import photo_anchor
from specularip.training.state import State, start, take_step

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture
def state() -> State:
    return start(anny_body(), 400, SEED)


def test_what_is_owned_follows_its_own_loss_and_stays_in_place(state: State) -> None:
    ownership = (torch.rand(400, generator=torch.Generator().manual_seed(SEED)) < 0.5).float()
    owned = ownership > 0
    before = {name: tensor.detach().clone() for name, tensor in state.gaussians.parameters().items()}
    everything = sum(tensor.sum() for tensor in state.gaussians.parameters().values())
    assert isinstance(everything, torch.Tensor)
    assert take_step(state, everything, -state.gaussians.color_logits.sum(), ownership)
    after = state.gaussians.parameters()
    for name in ("means", "quats", "log_scales", "opacity_logits", "normal_residuals"):
        assert torch.equal(after[name][owned], before[name][owned]), (
            f"{name} of the owned moved (seed {SEED})"
        )
        assert bool((after[name][~owned] != before[name][~owned]).any()), f"{name} stood still (seed {SEED})"
    rise = after["color_logits"] - before["color_logits"]
    # Unowned colours follow both losses, which cancel; owned ones rise as their own loss says.
    assert bool((rise[owned] > 0).all()), SEED


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(state: State, bad: float) -> None:
    before = state.gaussians.means.detach().clone()
    assert not take_step(state, state.gaussians.means.sum() * bad)
    assert state.skipped == 1 and torch.equal(state.gaussians.means, before)
    # A finite loss with a gradient that is not: sqrt at 0.
    assert not take_step(state, (state.gaussians.latents.square().sum(-1)).sqrt().sum())
    assert state.skipped == 2
    assert take_step(state, state.gaussians.means.sum()) and state.skipped == 0


def test_packing_brings_everything_back(state: State) -> None:
    take_step(state, state.gaussians.means.square().sum() + state.gaussians.color_logits.sum())
    twin = State.unpack(state.pack())
    for _ in range(2):
        noise = [torch.randn(3, generator=s.generator) for s in (state, twin)]
        assert torch.equal(*noise), SEED
        for s in (state, twin):
            take_step(s, s.gaussians.means.square().sum() + (s.gaussians.color_logits * 2).sum())
    for name, tensor in state.gaussians.tensors().items():
        assert torch.equal(tensor, twin.gaussians.tensors()[name]), f"{name} (seed {SEED})"


def test_the_photo_owns_the_front_of_the_face_only(state: State) -> None:
    body = anny_body()
    anchor = photo_anchor(body, torch.rand(3, 96, 96), torch.ones(1, 96, 96), weight=1.0)
    owned = anchor.ownership(state.gaussians) > 0.5
    assert 5 < int(owned.sum()) < 120, SEED
    means = state.gaussians.means.detach()[owned]
    assert float(means[:, 2].min()) > 0.3 * body.height, "the photo owns something below the neck"
    assert bool((means[:, 1] < body.keypoints[16:18, 1].mean()).all()), "the photo owns the back of the head"
    assert isinstance(anchor.camera, Cameras)
    none = photo_anchor(body, torch.rand(3, 96, 96), torch.ones(1, 96, 96), weight=0.0)
    assert float(none.ownership(state.gaussians).max()) == 0
