"""Asynchronous copies between host and device; the steps of both stages synchronise once at most."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_prior import pixel_prior

from specularip.body import anny_body
from specularip.diffusion.prompts import PromptBook
from specularip.diffusion.settings import GuidanceConfig
from specularip.kernels.async_transfer import StepMetrics, copy_async
from specularip.stages.guide import Guide
from specularip.stages.initial_state import AvatarState, initial_state
from specularip.stages.scr import Targets, fit_targets
from specularip.stages.seid import sds_inputs, seid
from specularip.stages.settings import Config, OrbitConfig, ScrConfig, SeidConfig

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_metrics_keep_the_values_of_their_scalars(device: str) -> None:
    loss = torch.tensor(1.5, device=device, requires_grad=True)
    count = torch.tensor(3, device=device)
    metrics = StepMetrics({"loss": loss, "nothing": None, "skipped": count}, points=7)
    with torch.no_grad():
        loss.zero_()
        count += 1
    assert dict(metrics) == {"loss": 1.5, "skipped": 3.0, "points": 7} and len(metrics) == 3
    assert list(metrics) == ["loss", "skipped", "points"]


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_copies_to_the_device_arrive(device: str) -> None:
    place = torch.device(device)
    for count in range(1, 50):  # small blocks of memory are reused at once
        tensor = torch.full((count,), float(count))
        sent = copy_async(tensor, place)
        tensor.zero_()
        if device == "cuda":
            assert sent.is_cuda and bool((sent == count).all())
            assert copy_async(sent, place) is sent
        else:
            assert sent is tensor


def small(device: str, steps: int) -> tuple[Guide, AvatarState]:
    prior = pixel_prior(SEED).to(device)
    body = anny_body().to(device)
    config = Config(
        guidance=GuidanceConfig(kind="anpg"),
        seid=SeidConfig(
            steps=steps, points=300, render_size=32, views_per_step=2, lights=8,
            orbit=OrbitConfig(), densify_from=1.0,
        ),
        scr=ScrConfig(fit_steps=steps, views_per_step=2),
    )  # fmt: skip
    face = prior.encode_face(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(SEED)))
    guide = Guide(prior, PromptBook(prior), "a man", face, body, config)
    return guide, initial_state(body, config.seid, SEED, device)


def test_ranks_draw_the_same_inputs_and_keep_their_own_views() -> None:
    guide, state = small("cpu", 4)
    before = state.generator.get_state()
    whole = sds_inputs(guide, 1, 500, slice(0, 2), state.generator)
    after = state.generator.get_state()
    assert whole.timesteps[0] > whole.timesteps[1], "the noisiest first"
    found = []
    for row in range(2):
        state.generator.set_state(before)
        part = sds_inputs(guide, 1, 500, slice(row, row + 1), state.generator)
        at = whole.timesteps == part.timesteps
        found += at.nonzero().flatten().tolist()
        assert torch.equal(part.noise, whole.noise[at]), SEED
        assert torch.equal(part.cameras.viewmats, whole.cameras.viewmats[at])
        assert torch.equal(part.condition.positive, whole.condition.positive[at])
        assert torch.equal(state.generator.get_state(), after), (
            "ranks drew different numbers of random numbers"
        )
    assert sorted(found) == [0, 1]


@pytest.mark.gpu
@pytest.mark.parametrize("stage", ["seid", "fit"])
def test_only_the_rasteriser_synchronises_a_step(stage: str) -> None:
    guide, state = small("cuda", 8)
    for step in range(400):  # so that the prompts of all views are encoded
        sds_inputs(guide, step % 8, 500, slice(0, 2), state.generator)
    waits: list[list[str]] = []
    logs: list[StepMetrics] = []

    def after_step(done: int, log: StepMetrics) -> None:
        logs.append(log)
        waits.append(
            [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchronizing" in str(w.message)]
        )
        caught.clear()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run_stage(stage, state, guide, after_step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # The first steps compile.
    assert not [some for some in waits[3:] if len(some) > 1]
    assert [log["skipped"] for log in logs] == [0.0] * 8


def run_stage(
    stage: str, state: AvatarState, guide: Guide, after_step: Callable[[int, StepMetrics], Any]
) -> None:
    if stage == "seid":
        seid(state, guide, 0, after_step)
        return
    views = sds_inputs(guide, 0, 500, slice(0, 2), state.generator).cameras
    images = torch.rand(2, 3, 16, 16, device="cuda")
    fit_targets(state, guide, Targets(views.viewmats, views.Ks, images, 32, 32), None, 0, after_step)
