"""`--tensorboard`: what the event files of a run hold, read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from event_files import read_events, steps
from tiny_runs import FACE, TEXT

from specularip.errors import UserError
from specularip.kernels.async_transfer import StepMetrics
from specularip.progress import Progress
from specularip.run_folder import EVENTS, RunFolder
from specularip.stopping import StopRequest
from specularip.training import events as events_module
from specularip.training import session as session_module
from specularip.training.events import EventFile
from specularip.training.optimizer import make_adam
from specularip.training.parallel import SINGLE_RANK, Ranks
from specularip.training.session import Session

pytest.importorskip("tensorboard")

CPU = torch.device("cpu")


def session(
    folder: Path, resume: bool = False, overwrite: bool = False, ranks: Ranks = SINGLE_RANK
) -> Session:
    run = RunFolder.open(folder, resume=resume, overwrite=overwrite)
    inputs = {"text": "a *man*", "settings": {"steps": 4}}
    return Session(run, Progress(io.StringIO()), StopRequest(), CPU, inputs, ranks=ranks, tensorboard=True)


def train(
    run: Session, phase: str, total: int, done: int = 0, until: int | None = None, before: int = 0
) -> None:
    """Steps of a phase whose loss is the step; `until`: then fail."""
    adam = make_adam({"means": torch.zeros(2, 3)}, [], {"means": 0.5})
    with run.training(phase, phase, total, done, dict, lambda: torch.zeros(4, 6, 3), adam, before):
        for step in range(done + 1, total + 1):
            if step == until:
                raise ZeroDivisionError
            metrics = StepMetrics({"loss": torch.tensor(float(step)), "skipped": torch.tensor(0)}, points=7)
            run.after_step(step, metrics)


def test_both_stages_are_curves_of_one_run(tmp_path: Path) -> None:
    with session(tmp_path / "run") as run:
        train(run, "seid", 5)
        train(run, "fit", 3, before=5)
        run.write_preview(torch.ones(4, 6, 3))
        run.write_report({"metrics": {"psnr": 30.0, "lpips": float("nan"), "views": 2}})
    found = read_events(tmp_path / "run")
    assert steps(found, "seid/loss") == [1, 2, 3, 4, 5] and steps(found, "fit/loss") == [6, 7, 8]
    assert [scalar.value for scalar in found.Scalars("fit/loss")] == [1, 2, 3]
    assert {scalar.value for scalar in found.Scalars("seid/points")} == {7}
    assert {scalar.value for scalar in found.Scalars("learning rate/means")} == {0.5}
    seconds = [scalar.value for scalar in found.Scalars("seconds")]
    assert seconds == sorted(seconds) and len(seconds) == 8 and seconds[0] > 0
    assert [(s.step, s.value) for s in found.Scalars("test/psnr")] == [(8, 30.0)]
    tags = found.Tags()["scalars"]
    assert "seconds of/seid" in tags and "test/lpips" not in tags and "seid/skipped" not in tags
    [image] = found.Images("preview")
    assert (image.width, image.height, image.step) == (6, 4, 8)
    text = found.Tensors("inputs/text/text_summary")[0].tensor_proto.string_val[0].decode()
    settings = found.Tensors("inputs/settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "    a *man*\n" and json.loads(settings) == {"steps": 4}


def test_no_step_appears_twice_after_a_kill(tmp_path: Path) -> None:
    """Killed at step 8, twice resumed from the checkpoint at step 4; the last record is half written."""
    folder = tmp_path / "run"
    with pytest.raises(ZeroDivisionError), session(folder) as run:
        run.save("seid", 4, {})
        train(run, "seid", 9, until=8)
    first = next((folder / EVENTS).iterdir())
    first.write_bytes(first.read_bytes()[:-5])
    with pytest.raises(ZeroDivisionError), session(folder, resume=True) as run:
        train(run, "seid", 9, done=4, until=7)
    with session(folder, resume=True) as run:
        train(run, "seid", 9, done=4)
    found = read_events(folder)
    assert steps(found, "seid/loss") == list(range(1, 10)) == [s.value for s in found.Scalars("seid/loss")]
    assert len(found.Tensors("inputs/text/text_summary")) == 1
    assert len(list((folder / EVENTS).iterdir())) == 3


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_its_curves_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), session(tmp_path / "run") as run:
        train(run, "seid", 9, until=4)
    with session(tmp_path / "run", resume=True) as run:
        train(run, "seid", 9)
    found = read_events(tmp_path / "run")
    assert steps(found, "seid/loss") == list(range(1, 10))
    assert len(found.Tensors("inputs/text/text_summary")) == 1


def test_a_clock_that_goes_back_mixes_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [2e9]
    monkeypatch.setattr(events_module.time, "time", lambda: clock[0])
    with pytest.raises(ZeroDivisionError), session(tmp_path / "run") as run:
        train(run, "seid", 9, until=7)
    clock[0] = 1e9
    with session(tmp_path / "run", resume=True) as run:
        train(run, "seid", 9, done=4)
    assert steps(read_events(tmp_path / "run"), "seid/loss") == list(range(1, 10))


def test_a_replaced_run_gives_its_events_away(tmp_path: Path) -> None:
    with session(tmp_path / "run") as run:
        train(run, "seid", 5)
    (tmp_path / "run" / EVENTS / "notes.txt").write_text("mine")
    with session(tmp_path / "run", overwrite=True) as run:
        train(run, "seid", 2)
        assert steps(read_events(tmp_path / "run"), "seid/loss") == [1, 2, 3, 4, 5], (
            "the old one is whole until then"
        )
        run.write_report({})
        run.folder.publish()
    assert steps(read_events(tmp_path / "run"), "seid/loss") == [1, 2]
    assert (tmp_path / "run" / EVENTS / "notes.txt").read_text() == "mine"
    assert not list((tmp_path / "run").glob("unfinished-*")) + list((tmp_path / "run").glob(".*.tmp"))
    (tmp_path / "run" / EVENTS / "notes.txt").unlink()
    without = RunFolder.open(tmp_path / "run", overwrite=True)
    without.write_json("report.json", {})
    without.publish()
    assert not (tmp_path / "run" / EVENTS).exists(), "a run without events leaves none of another"


def test_only_rank_0_writes(tmp_path: Path) -> None:
    class Second(Ranks):
        def any(self, flag: bool, device: torch.device) -> bool:
            return flag

    with session(tmp_path / "run", ranks=Second(rank=1, world_size=2)) as run:
        train(run, "seid", 3)
        run.write_report({})
    assert not (tmp_path / "run" / EVENTS).exists()


def test_previews_are_images_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(session_module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(session_module, "PREVIEW_SHARE", 1e9)
    with session(tmp_path / "run") as run:
        adam = make_adam({"means": torch.zeros(2, 3)}, [], {"means": 0.5})
        with run.training("seid", "SEID", 100, 0, dict, lambda: torch.zeros(4, 6, 3), adam):
            for step in range(1, 101):
                clock[0] += 1
                run.after_step(step, StepMetrics({"loss": torch.tensor(0.0)}))
                run._writer.join()
    assert [image.step for image in read_events(tmp_path / "run").Images("preview")] == [8, 40, 72]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_ends_the_run_with_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"cannot write .*tfevents.*: No space left"),
        session(tmp_path / "run") as run,
    ):
        with run.training("seid", "SEID", 9, 0, dict, lambda: torch.zeros(4, 6, 3)):
            assert run._events is not None
            full = open("/dev/full", "wb")
            run._events._file = run._events._records._writer = full
            for step in range(1, 9):
                run.after_step(step, StepMetrics({"loss": torch.tensor(0.0)}))
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*tensorboard"), session(tmp_path / "run") as run:
        (tmp_path / "run" / EVENTS).write_text("in the way")
        train(run, "seid", 3)


def test_texts_that_are_no_utf8_are_escaped(tmp_path: Path) -> None:
    file = EventFile(tmp_path / EVENTS, 0)
    file.texts(0, {"text": "caf\udce9 \ud800"})
    file.close()
    text = read_events(tmp_path).Tensors("text/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "    caf\\udce9 \\ud800\n"


@pytest.mark.parametrize("command", ["generate", "fit"])
def test_without_the_package_one_line_before_anything_loads(tmp_path: Path, command: str) -> None:
    arguments = {"generate": ["generate", TEXT, "--image", str(FACE)], "fit": ["fit", str(tmp_path)]}[command]
    code = f"""
import sys
sys.modules["tensorboard"] = None
from specularip.cli import main
try:
    main({[*arguments, "--out", str(tmp_path / "run"), "--tensorboard"]!r})
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"specularip: error: {events_module.MISSING}\n"
    assert "pip install 'specularip[tensorboard]'" in done.stderr
    assert not (tmp_path / "run").exists()
