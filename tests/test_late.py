"""Numbers and tensors on their way to and from a GPU; and that steps of both stages wait for nothing."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_prior import pixel_prior

from specularip.body import anny_body
from specularip.diffusion.prompts import PromptBook
from specularip.diffusion.settings import GuidanceConfig
from specularip.errors import UserError
from specularip.kernels.async_transfer import StepMetrics, copy_async
from specularip.pipeline import ASK_EVERY, _Run
from specularip.progress import Progress
from specularip.run_folder import RunFolder
from specularip.stages.guide import Guide
from specularip.stages.scr import Targets, fit
from specularip.stages.seid import question, seid
from specularip.stages.settings import Config, OrbitConfig, ScrConfig, SeidConfig
from specularip.training.parallel import ALONE, Team
from specularip.training.state import State, start

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_log_holds_what_the_scalars_were_when_it_was_made(device: str) -> None:
    loss = torch.tensor(1.5, device=device, requires_grad=True)
    count = torch.tensor(3, device=device)
    log = StepMetrics({"loss": loss, "nothing": None, "skipped": count}, points=7)
    with torch.no_grad():
        loss.zero_()
        count += 1
    assert dict(log) == {"loss": 1.5, "skipped": 3.0, "points": 7} and len(log) == 3
    assert list(log) == ["loss", "skipped", "points"]


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_what_is_sent_arrives(device: str) -> None:
    place = torch.device(device)
    for count in range(1, 50):  # small ones lie in the same places again and again
        tensor = torch.full((count,), float(count))
        sent = copy_async(tensor, place)
        tensor.zero_()
        if device == "cuda":
            assert sent.is_cuda and bool((sent == count).all())
            assert copy_async(sent, place) is sent
        else:
            assert sent is tensor


def small(device: str, steps: int) -> tuple[Guide, State]:
    prior = pixel_prior(SEED).to(device)
    body = anny_body().to(device)
    config = Config(
        guidance=GuidanceConfig(kind="anpg"),
        seid=SeidConfig(
            steps=steps, points=300, render_size=32, views_per_step=2, specular_from=-0.2, lights=8,
            orbit=OrbitConfig(), densify_from=1.0,
        ),
        scr=ScrConfig(fit_steps=steps, views_per_step=2),
    )  # fmt: skip
    face = prior.encode_face(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(SEED)))
    guide = Guide(prior, PromptBook(prior), "a man", face, body, config)
    return guide, start(body, 300, SEED, lights=8, device=device)


def test_a_question_draws_the_same_whoever_asks_for_which_part() -> None:
    guide, state = small("cpu", 4)
    before = state.generator.get_state()
    whole = question(guide, 1, 500, slice(0, 2), state.generator)
    after = state.generator.get_state()
    assert whole.timesteps[0] > whole.timesteps[1], "the noisiest first"
    found = []
    for row in range(2):
        state.generator.set_state(before)
        part = question(guide, 1, 500, slice(row, row + 1), state.generator)
        at = whole.timesteps == part.timesteps
        found += at.nonzero().flatten().tolist()
        assert torch.equal(part.noise, whole.noise[at]), SEED
        assert torch.equal(part.cameras.viewmats, whole.cameras.viewmats[at])
        assert torch.equal(part.condition.positive, whole.condition.positive[at])
        assert torch.equal(state.generator.get_state(), after), "another number of random numbers"
    assert sorted(found) == [0, 1]


class Run(_Run):
    """As much of a run as its log needs."""

    def __init__(self, folder: RunFolder, team: Team = ALONE) -> None:
        self.folder, self.team, self.device = folder, team, torch.device("cpu")
        self.progress, self.stop = Progress(io.StringIO()), SimpleNamespace(requested=False)  # type: ignore
        self._unread = self._loss = None


def test_numbers_are_noted_once_and_too_many_bad_steps_end_the_run(tmp_path: Path) -> None:
    run = Run(RunFolder(tmp_path))
    run._read()
    for done, skipped in ((1, 2), (2, 3)):
        run._unread = "seid", done, StepMetrics({"loss": torch.tensor(0.5), "skipped": torch.tensor(skipped)})
        if skipped < 3:
            run._read()
            run._read()
    with pytest.raises(UserError, match="not finite 3 times in a row at step 2 of seid"):
        run._read()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == [f'{{"stage": "seid", "step": {done}, "loss": 0.5}}' for done in (1, 2)]


def test_several_processes_ask_each_other_to_stop_at_the_same_steps(tmp_path: Path) -> None:
    asked: list[int] = []

    class Two(Team):
        def any(self, flag: bool, device: torch.device) -> bool:
            asked.append(done)
            return flag

    run = Run(RunFolder(tmp_path), Two(rank=1, size=2))
    after_step = run._after("seid", *[None] * 3)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        for done in range(1, 40):
            run.stop.requested = done > ASK_EVERY
            after_step(done, StepMetrics({"loss": torch.tensor(0.5), "skipped": torch.tensor(0)}))
    assert asked == [ASK_EVERY, 2 * ASK_EVERY]
    assert not (tmp_path / "metrics.jsonl").exists(), "only the first process writes"


@pytest.mark.gpu
@pytest.mark.parametrize("stage", ["seid", "fit"])
def test_a_step_waits_for_the_rasteriser_alone(stage: str) -> None:
    guide, state = small("cuda", 8)
    for step in range(400):  # so that the words of all views are read
        question(guide, step % 8, 500, slice(0, 2), state.generator)
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


def run_stage(stage: str, state: State, guide: Guide, after_step: Callable[[int, StepMetrics], Any]) -> None:
    if stage == "seid":
        seid(state, guide, None, 0, after_step)
        return
    views = question(guide, 0, 500, slice(0, 2), state.generator).cameras
    images = torch.rand(2, 3, 16, 16, device="cuda")
    fit(state, guide, None, Targets(views.viewmats, views.Ks, images, 32, 32), None, 0, after_step)
