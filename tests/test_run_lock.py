"""One run at a time writes to a folder: locks that end with their process, and runs that replace others."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import captures
import pytest

from specularip import run_lock
from specularip.errors import UserError
from specularip.fitting.fit import fit
from specularip.fitting.settings import FitConfig
from specularip.progress import Progress
from specularip.run_folder import FILES, RunFolder
from specularip.run_lock import LOCK, locked

HOLD = """
import sys
from pathlib import Path
from specularip.run_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `folder`, until the block ends or kills it."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        if process.poll() is None:
            process.communicate("")
            assert process.returncode == 0


def test_a_second_run_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with holding(run) as process:
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(UserError, match=rf"a run is writing to .*process {process.pid} on .* since"):
                RunFolder.check(run, **options)
        with pytest.raises(UserError, match=rf"process {process.pid} on .* since \d\d:\d\d:\d\d on \d{{4}}-"):
            with locked(run):
                pass
        assert [entry.name for entry in run.iterdir()] == [LOCK]
    assert not run.exists(), "the folder was created for the lock alone"
    with locked(run):
        RunFolder.open(run).write_json("report.json", {})
    assert sorted(entry.name for entry in run.iterdir()) == ["checkpoints", "report.json"]


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with holding(run) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [entry.name for entry in run.iterdir()] == [LOCK]
    RunFolder.check(run)  # the file that is left is no foreign one
    with pytest.raises(UserError, match="no run to resume"):
        RunFolder.check(run, resume=True)
    with locked(run):
        RunFolder.open(run)
    assert [entry.name for entry in run.iterdir()] == ["checkpoints"]


def test_threads_exclude_each_other_too(tmp_path: Path) -> None:
    found: list[str] = []

    def second() -> None:
        try:
            with locked(tmp_path):
                found.append("held")
        except UserError as error:
            found.append(str(error))

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert f"process {os.getpid()}" in found[0]
    second()
    assert found[1] == "held"


def test_looking_at_a_lock_does_not_take_it_from_others(tmp_path: Path) -> None:
    """A run that starts while others check the folder waits for them."""
    (tmp_path / LOCK).touch()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            try:
                run_lock.check_unlocked(tmp_path)
            except UserError:
                pass  # held by the main thread

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with locked(tmp_path):
                pass
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_file_systems_without_locks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(file: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_lock, "_lock", unsupported)
    RunFolder.check(tmp_path)
    with locked(tmp_path) as warning:
        assert "without locks" in warning and str(tmp_path) in warning
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"):
        with locked(tmp_path / "file" / "run"):
            pass


RUN = """
from specularip.fitting.settings import FitConfig
from specularip.fitting import fit as module
from specularip.training import session
session.CHECKPOINT_SECONDS = {checkpoints}
if {checkpoints} > 1e6:
    session.Session.save = lambda *arguments: None
module.LOG_EVERY = 1
config = FitConfig(iterations={steps}, points=150, lights=4, initial_shading_steps=0)
module.fit({data!r}, {out!r}, config=config, device="cpu", seed={seed}, overwrite=True)
"""


def run(data: Path, out: Path, seed: int, steps: int, checkpoints: float) -> subprocess.Popen[str]:
    """A process that fits with --overwrite. checkpoints: seconds between two; 1e9: it writes none."""
    code = RUN.format(
        data=str(data), out=str(out), seed=seed, steps=steps,
        checkpoints=checkpoints,
    )  # fmt: skip
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"the run ended: {process.communicate()}")
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene") / "data"
    captures.write(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_runs_that_are_killed_while_they_replace_another(data: Path, tmp_path: Path) -> None:
    """Before its first checkpoint, and after it; a third run tries to start meanwhile."""
    out = tmp_path / "run"
    config = FitConfig(iterations=2, points=150, lights=4, initial_shading_steps=0)
    quiet = Progress(io.StringIO())
    fit(data, out, config=config, device="cpu", progress=quiet)
    old = contents(out)

    unfinished = out / "unfinished-1"
    early = run(data, out, seed=1, steps=100_000, checkpoints=1e9)
    wait_for((unfinished / "metrics.jsonl").exists, early)
    with pytest.raises(UserError, match=f"process {early.pid}"):
        fit(data, out, config=config, device="cpu", overwrite=True, progress=quiet)
    early.kill()
    early.communicate()
    assert old.items() <= contents(out).items()
    fit(data, out, config=config, device="cpu", resume=True, progress=quiet)  # the old run can be resumed
    assert not unfinished.exists() and contents(out)["avatar.safetensors"] == old["avatar.safetensors"]
    old = contents(out)

    late = run(data, out, seed=1, steps=100_000, checkpoints=0.0)
    wait_for(lambda: len(list(unfinished.glob("checkpoints/*.safetensors"))) > 1, late)
    late.kill()
    late.communicate()
    assert old.items() <= contents(out).items()
    with pytest.raises(UserError, match="another seed"):  # it is the new run that is resumed
        fit(data, out, config=config, device="cpu", resume=True, progress=quiet)

    # A whole one.
    fit(data, out, config=config, device="cpu", seed=7, overwrite=True, progress=quiet)
    assert json.loads((out / "report.json").read_text())["seed"] == 7
    assert set(entry.name for entry in out.iterdir()) == {*FILES, "checkpoints"} - {"turntable.mp4"}
    assert (out / "avatar.safetensors").read_bytes() != old["avatar.safetensors"]
    fit(data, out, config=config, device="cpu", seed=7, resume=True, progress=quiet)
