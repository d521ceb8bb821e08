"""The session of a run: metrics, stop requests, checkpoints and previews in the background, the report."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from specularip import checkpoints, run_folder
from specularip.errors import UserError
from specularip.kernels.async_transfer import StepMetrics
from specularip.progress import Progress
from specularip.run_folder import RunFolder
from specularip.stopping import StopRequest
from specularip.training import session as session_module
from specularip.training.parallel import SINGLE_RANK, Ranks
from specularip.training.report import LAST_STEPS, last_metrics, machine_report
from specularip.training.schema import TensorOf
from specularip.training.session import STOP_CHECK_EVERY, Phase, Session
from specularip.training.writer import BackgroundWriter

CPU = torch.device("cpu")
PHASES = {"seid": Phase(9, {"weight": TensorOf((2,))})}


def make(folder: Path, ranks: Ranks = SINGLE_RANK, **inputs: Any) -> tuple[Session, StopRequest]:
    stop = StopRequest()
    run = RunFolder.open(folder, resume=folder.exists())
    return Session(run, Progress(io.StringIO()), stop, CPU, inputs, ranks=ranks), stop


def metrics(skipped: int = 0, loss: float = 0.5) -> StepMetrics:
    return StepMetrics({"loss": torch.tensor(loss), "skipped": torch.tensor(skipped)})


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


def train(
    session: Session,
    steps: int,
    step: Callable[[int], None] = lambda done: None,
    state: Callable[[], Any] = dict,
    preview: Callable[[], Any] = lambda: torch.zeros(4, 4, 3),
) -> None:
    with session.training("seid", "SEID", steps, 0, state, preview):
        for done in range(1, steps + 1):
            step(done)
            session.after_step(done, metrics())


def test_metrics_are_recorded_once_one_step_late(tmp_path: Path) -> None:
    found: list[int] = []
    session, _ = make(tmp_path / "run")
    with session:
        train(session, 3, lambda done: found.append(len(lines(tmp_path / "run")) if done > 2 else 0))
    assert found == [0, 0, 1]
    assert lines(tmp_path / "run") == [f'{{"stage": "seid", "step": {n}, "loss": 0.5}}' for n in (1, 2, 3)]


def test_three_non_finite_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    session, _ = make(tmp_path / "run")
    with session, pytest.raises(UserError, match="not finite at step 3 of seid"):
        with session.training("seid", "SEID", 9, 0, dict, lambda: torch.zeros(4, 4, 3)):
            for done in range(1, 9):
                session.after_step(done, metrics(skipped=done))
    assert len(lines(tmp_path / "run")) == 3


def test_several_ranks_agree_to_stop_at_the_same_steps(tmp_path: Path) -> None:
    checked: list[int] = []

    class Two(Ranks):
        def any(self, flag: bool, device: torch.device) -> bool:
            checked.append(at[0])
            return flag

    at = [0]
    session, stop = make(tmp_path / "run", Two(rank=1, world_size=2))

    def step(done: int) -> None:
        at[0] = done
        stop.requested = done > STOP_CHECK_EVERY

    with session, pytest.raises(KeyboardInterrupt):
        train(session, 40, step)
    assert checked == [STOP_CHECK_EVERY, 2 * STOP_CHECK_EVERY]
    assert not (tmp_path / "run" / "metrics.jsonl").exists(), "only rank 0 writes"
    assert not session.folder.has_checkpoint()


def test_a_stopped_run_resumes_from_its_last_step(tmp_path: Path) -> None:
    session, stop = make(tmp_path / "run", seed=3)
    weight = torch.zeros(2)

    def step(done: int) -> None:
        weight.fill_(done)
        stop.requested = done == 4

    with session, pytest.raises(KeyboardInterrupt):
        train(session, 9, step, lambda: {"weight": weight})
    with pytest.raises(UserError, match="another seed: repeat them to resume"):
        make(tmp_path / "run", seed=4)[0].resume(PHASES)
    again, _ = make(tmp_path / "run", seed=3)
    checkpoint = again.resume(PHASES)
    assert checkpoint is not None and checkpoint.meta["step"] == 4
    assert torch.equal(checkpoint.state["weight"], torch.full((2,), 4.0))
    assert "seid" in again.seconds and len(lines(tmp_path / "run")) == 4


def test_a_checkpoint_holds_its_own_step_however_late_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "CHECKPOINT_SECONDS", 0.0)
    session, _ = make(tmp_path / "run")
    weight, release = torch.zeros(1), threading.Event()
    write_bytes = checkpoints.write_bytes

    def late(*arguments: Any) -> Path:
        assert release.wait(60)
        return write_bytes(*arguments)

    monkeypatch.setattr(checkpoints, "write_bytes", late)

    def step(done: int) -> None:
        weight.fill_(done)
        if done == 6:
            release.set()

    with session:
        train(session, 6, step, lambda: {"weight": weight})
    files = sorted((tmp_path / "run" / "checkpoints").iterdir())
    for newer in files[1:]:
        newer.unlink()
    checkpoint = session.folder.load_checkpoint()
    assert checkpoint is not None and checkpoint.meta["step"] == 1
    session.folder.continue_from(checkpoint)
    assert float(checkpoint.state["weight"]) == 1 and len(lines(tmp_path / "run")) == 1


@pytest.mark.parametrize("file", ["checkpoint", "png"])
def test_an_error_of_the_background_thread_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setattr(session_module, f"{'CHECKPOINT' if file == 'checkpoint' else 'PREVIEW'}_SECONDS", 0.0)

    def full(*arguments: Any, **options: Any) -> None:
        raise UserError("cannot write x: No space left on device")

    module, name = (checkpoints, "write_bytes") if file == "checkpoint" else (run_folder, "write_png")
    monkeypatch.setattr(module, name, full)
    session, _ = make(tmp_path / "run")
    with pytest.raises(UserError, match="No space left"), session:
        train(session, 3)


def test_the_error_that_ends_a_block_is_not_replaced_by_the_writers(tmp_path: Path) -> None:
    session, _ = make(tmp_path / "run")

    def fail() -> None:
        raise UserError("second")

    with pytest.raises(ValueError, match="first"), session:
        session._writer.submit(fail)
        raise ValueError("first")


def test_slow_previews_are_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock on which a step takes 1 s and a preview 3 s."""
    clock, previews = [0.0], []
    monkeypatch.setattr(session_module.time, "monotonic", lambda: clock[0])
    session, _ = make(tmp_path / "run")

    def step(done: int) -> None:
        clock[0] += 1
        session._writer.join()

    def preview() -> torch.Tensor:
        previews.append(clock[0])
        clock[0] += 3
        return torch.zeros(4, 4, 3)

    with session:
        train(session, 1000, step, dict, preview)
    assert previews[0] == session_module.PREVIEW_SECONDS
    gaps = [b - a for a, b in pairwise(previews)]
    assert gaps and set(gaps) == {3 + 3 / session_module.PREVIEW_SHARE}


def test_the_writer_has_one_file_in_flight() -> None:
    writer, written, release = BackgroundWriter(), [], threading.Event()

    def first() -> None:
        assert release.wait(60)
        written.append(1)

    writer.submit(first)
    assert writer.busy
    threading.Timer(0.05, release.set).start()
    writer.submit(lambda: written.append(2))
    assert written[0] == 1
    writer.close()
    assert written == [1, 2] and not writer.busy


def test_peak_memory_is_null_without_the_resource_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = machine_report(CPU)["peak_memory_gib"]
    assert peak is not None and 0.01 < peak < 1000
    monkeypatch.setitem(sys.modules, "resource", None)
    session, _ = make(tmp_path / "run")
    with session:
        session.note("a note")
        session.write_report({"text": "a man"})
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["peak_memory_gib"] is None and report["peak_gpu_gib"] is None
    assert report["notes"] == ["a note"] and report["text"] == "a man" and report["device"] == "cpu"


def test_the_report_has_the_means_of_the_last_metrics_of_each_stage(tmp_path: Path) -> None:
    session, _ = make(tmp_path / "run")
    steps = LAST_STEPS + 5
    with session:
        train(session, 3)
        with session.training("fit", "SCR fit", steps, 0, dict, lambda: torch.zeros(4, 4, 3)):
            for done in range(1, steps + 1):
                session.after_step(done, metrics(loss=float("nan") if done == steps else float(done)))
        session.write_report({})
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    # From step 6 on; the last one, which was not finite, does not count.
    assert report["last_metrics"] == {"seid": {"loss": 0.5}, "fit": {"loss": (6 + steps - 1) / 2}}


def test_damaged_lines_of_metrics_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_metrics(path) == {}
    good = b'{"stage": "fit", "step": 1, "loss": 2.0, "l1": null}\n'
    path.write_bytes(b"\0\0\0\n" + good + b"[1]\n{}\n\xff\n" + good.replace(b"2.0", b"4.0") + b'{"stage": "f')
    assert last_metrics(path) == {"fit": {"loss": 3.0}}
