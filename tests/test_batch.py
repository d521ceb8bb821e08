"""Batches: every job once, whatever fails meanwhile."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_batches import save_tiny_prior, tiny_jobs
from tiny_runs import difference

from specularip import cli
from specularip.avatar import load
from specularip.batch import ray_workers
from specularip.batch import run_job as at_work
from specularip.batch.jobs import Job
from specularip.batch.journal import JOURNAL, Journal, digest, read_events
from specularip.batch.ledger import Attempt, Ledger, Result
from specularip.batch.ray_workers import Cluster
from specularip.batch.run import run_batch
from specularip.batch.states import JobState
from specularip.batch.table import Table
from specularip.batch.worker import About
from specularip.errors import UserError
from specularip.files import temporary_name, write_json
from specularip.run_folder import CHECKPOINTS, REPORT
from specularip.run_lock import locked
from specularip.stopping import StopRequest
from specularip.version import __version__

pytestmark = pytest.mark.usefixtures("small_bakes")


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_prior(tmp_path_factory.mktemp("prior") / "prior")


def events(out: Path) -> Counter[tuple[str, str]]:
    """How often the journal has each event of each job."""
    lines = (out / JOURNAL).read_text().splitlines()
    return Counter((line["job"], line["event"]) for line in map(json.loads, lines))


def test_a_batch_goes_on_after_a_failure_and_later_does_the_rest(prior: Path, tmp_path: Path) -> None:
    jobs = tiny_jobs(prior, 3)
    grey = tmp_path / "grey.png"
    Image.fromarray(np.full((200, 200, 3), 128, np.uint8)).save(grey)
    jobs[1] = replace(jobs[1], images=(grey,), settings=(*jobs[1].settings, "photo_weight=1"))
    out, shown = tmp_path / "out", io.StringIO()
    states = run_batch(jobs, out, pages=False, stream=shown)
    assert [state.state for state in states] == ["done", "failed", "done"]
    assert "no face" in states[1].reason and states[1].attempts == 1  # the photo will not get better
    assert f"failed job-1: {states[1].reason}" in shown.getvalue()
    assert (out / "index.html").is_file() and (out / "summary.csv").is_file()
    first = (out / "job-0" / "avatar.safetensors").stat().st_mtime_ns

    jobs[1] = replace(tiny_jobs(prior, 2)[1], name="job-1b")
    states = run_batch(jobs, out, pages=False, stream=shown)
    assert [state.state for state in states] == ["done"] * 3
    assert (out / "job-0" / "avatar.safetensors").stat().st_mtime_ns == first
    assert events(out)["job-0", "begun"] == 1 and events(out)["job-1b", "done"] == 1

    # The networks that the jobs share do not carry anything from one to the next.
    alone = tmp_path / "alone"
    run_batch(jobs[2:], alone, pages=True, stream=shown)
    assert difference(load(out / "job-2"), load(alone / "job-2")) == 0
    assert (alone / "job-2" / "avatar.html").is_file()
    assert not (alone / "job-2" / CHECKPOINTS).exists()


def test_names_of_other_avatars_are_refused(prior: Path, tmp_path: Path) -> None:
    photo, copy = tmp_path / "face.jpg", tmp_path / "copy.jpg"
    photo.write_bytes(b"a photo")
    copy.write_bytes(b"a photo")
    job = Job("a", "A man in a suit", (photo,))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / REPORT).write_text("{}")
    journal = Journal(tmp_path)
    journal.add(job, "done", 1)
    moved = replace(job, images=(copy,), source="jobs.csv, line 2")
    assert Ledger([moved], tmp_path, journal, False, 0).count("done") == 1
    assert Ledger([replace(job, name="b", text="other")], tmp_path, journal, False, 0).count("done") == 1
    assert Ledger([moved], tmp_path, journal, True, 0).waiting == 1  # its page is missing
    (tmp_path / "other.jpg").write_bytes(b"another photo")
    others = replace(moved, text="A man in a coat"), replace(moved, images=(tmp_path / "other.jpg",))
    for other in (*others, replace(moved, seed=1)):
        with pytest.raises(UserError, match=r"under the names of a \(jobs.csv, line 2\): name these"):
            Ledger([other], tmp_path, journal, False, 0)
    journal.close()


def test_without_a_journal_the_report_tells_whose_a_folder_is(tmp_path: Path) -> None:
    job = Job("a", "A man  in a suit", (Path("faces/ben.jpg"),), seed=2**62 + 1)
    same = {"text": "A man in a suit", "image": "/elsewhere/ben.jpg", "settings": {"seed": job.seed}}
    (tmp_path / "a").mkdir()

    def done(report: object) -> int:
        (tmp_path / "a" / REPORT).write_text(json.dumps(report))
        return Ledger([job], tmp_path, Journal(tmp_path), False, 0).count("done")

    assert done(same) == done({**same, "image": ["/elsewhere/ben.jpg"]}) == 1
    assert [done(odd) for odd in ({}, [], {"settings": 3}, {"image": 0}, {"text": None})] == [1] * 5
    others = {"text": "A man in a coat"}, {"image": ["ben.jpg", "ben-left.jpg"]}, {"settings": {"seed": 1}}
    for other in others:
        with pytest.raises(UserError, match="under the names of a: name these jobs differently"):
            done({**same, **other})
    journal = Journal(tmp_path)
    journal.add(job, "failed", 1)  # someone else used its folder meanwhile
    with pytest.raises(UserError, match="under the names of a"):
        done({**same, **others[0]})
    journal.add(job, "done", 1)
    assert done({**same, **others[0]}) == 1  # known, and not read
    journal.close()


@pytest.mark.parametrize("name", ["index.html", "summary.csv"])
def test_pages_and_tables_of_others_are_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("other")
    with pytest.raises(UserError, match="is not of a batch: use another --out"):
        run_batch([], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "other"
    (tmp_path / name).unlink()
    for _ in range(2):
        run_batch([], tmp_path, stream=io.StringIO())
    assert not (tmp_path / JOURNAL).exists() and (tmp_path / "index.html").exists()


def test_a_job_that_was_killed_after_its_report_is_cleared_up(prior: Path, tmp_path: Path) -> None:
    job = tiny_jobs(prior, 1)[0]
    out = tmp_path / "out"
    run_batch([job], out, pages=False, stream=io.StringIO())
    half = temporary_name(Path("preview.png")).name
    for name in (".lock", half, "checkpoints/0001-fit.safetensors"):
        (out / job.name / name).parent.mkdir(exist_ok=True)
        (out / job.name / name).touch()
    journal = Journal(out)
    journal.add(job, "begun", 2)
    journal.close()
    before = (out / job.name / "avatar.safetensors").stat().st_mtime_ns
    assert run_batch([job], out, pages=False, stream=io.StringIO())[0].state == "done"
    assert not [path.name for path in (out / job.name).iterdir() if path.name[0] == "."]
    assert not (out / job.name / CHECKPOINTS).exists()
    assert (out / job.name / "avatar.safetensors").stat().st_mtime_ns == before


def test_two_batches_do_not_share_a_folder(prior: Path, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match="a run is writing to"):
        run_batch(tiny_jobs(prior, 1), tmp_path, pages=False)
    assert not (tmp_path / JOURNAL).exists()


def ledger_of(count: int, folder: Path, retries: int = 2) -> tuple[Ledger, list[JobState]]:
    jobs = [Job(f"job-{i}", "text", ()) for i in range(count)]
    ledger, ended = Ledger(jobs, folder, Journal(folder), False, retries), list[JobState]()
    ledger.ended = ended.append
    return ledger, ended


def run_all(ledger: Ledger, result_of: Callable[[Attempt], Result]) -> list[Attempt]:
    attempts = []
    while (attempt := ledger.next()) is not None:
        attempts.append(attempt)
        ledger.begin(attempt)
        ledger.end(attempt, result_of(attempt))
    return attempts


def test_what_may_pass_is_tried_again_after_the_others(tmp_path: Path) -> None:
    def result(attempt: Attempt) -> Result:
        if attempt.job.name == "job-0":
            return Result("failed", "no memory", again=True, gpu_memory=True)
        if attempt.job.name == "job-1" and attempt.number == 1:
            return Result("lost")
        if attempt.job.name == "job-2":
            return Result("failed", "no face")
        return Result("done")

    ledger, ended = ledger_of(4, tmp_path)
    attempts = run_all(ledger, result)
    order = [(int(attempt.job.name[-1]), attempt.number, attempt.low_memory) for attempt in attempts]
    assert order[:4] == [(i, 1, False) for i in range(4)]
    assert order[4:] == [(0, 2, True), (1, 2, False), (0, 3, True)]
    assert [state.state for state in ledger.states] == ["failed", "done", "failed", "done"]
    told = [(state.job.name, state.state) for state in ended]
    assert told[:4] == [
        (f"job-{i}", state) for i, state in enumerate(("waiting", "waiting", "failed", "done"))
    ]
    assert told[4:] == [("job-0", "waiting"), ("job-1", "done"), ("job-0", "failed")]
    assert ended[0].reason == "no memory" and "died" in ended[1].reason
    assert ledger.states[0].attempts == 3 and ledger.states[0].reason == "no memory"


def test_jobs_whose_process_always_dies_fail_at_last(tmp_path: Path) -> None:
    ledger, _ = ledger_of(1, tmp_path, retries=1)
    assert len(run_all(ledger, lambda attempt: Result("lost"))) == 2
    assert ledger.states[0].state == "failed" and "died" in ledger.states[0].reason


def test_journals_survive_what_a_kill_leaves(tmp_path: Path) -> None:
    ledger, _ = ledger_of(2, tmp_path)
    run_all(ledger, lambda attempt: Result("done"))
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"job": "job-0", "event": "fai')
    journal = Journal(tmp_path)
    assert [journal.past[f"job-{i}"].event for i in range(2)] == ["done", "done"]
    journal.add(Job("job-2", "text", ()), "begun", 1)
    journal.close()
    assert set(Journal(tmp_path).past) == {"job-0", "job-1", "job-2"}
    nonsense = [b"[1]", b"{}", b"\xff", b'{"job": 3, "event": "done"}', b'{"job": "x", "event": []}']
    nonsense += [b"[" * 100_000, b'{"job": "x", "event": "done", "attempt": "1"}', b"1" * 5000]
    assert read_events(b"\n".join(nonsense)) == {}


def test_digests_tell_jobs_apart(prior: Path) -> None:
    job = tiny_jobs(prior, 1)[0]
    same = [replace(job, name="other", source="x", low_memory=True, force=False)]
    same += [replace(job, settings=job.settings[::-1]), replace(job, text=f" {job.text} ")]
    assert {digest(other) for other in same} == {digest(job)}
    others = [replace(job, seed=7), replace(job, text="x"), replace(job, photo_weight=0.5)]
    others += [replace(job, images=job.images * 2), replace(job, init=Path("a.ply"))]
    assert len({digest(other) for other in (job, *others)}) == 6


def test_digests_notice_files_that_change(tmp_path: Path) -> None:
    """Within one process, too; of a run folder, its avatar counts."""
    photo, run = tmp_path / "face.jpg", tmp_path / "run"
    run.mkdir()
    job, found = Job("a", "A man in a suit", (photo,), init=run), set()
    for content in (b"one", b"another"):
        for file in (photo, run / "avatar.safetensors"):
            file.write_bytes(content)
            found.add(digest(job))
    assert len(found) == 4


def test_memory_of_the_gpu_runs_out(prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt takes less of it."""
    low = []

    def greedy(*arguments: Any, config: Any, out: Path, **options: Any) -> None:
        low.append(config.low_memory)
        if not config.low_memory:
            raise UserError("the GPU ran out of memory") from torch.cuda.OutOfMemoryError("2 GiB")
        write_json(out / REPORT, {})

    monkeypatch.setattr(at_work, "generate", greedy)
    states = run_batch(tiny_jobs(prior, 1), tmp_path / "out", pages=False, stream=io.StringIO())
    assert low == [False, True] and states[0].state == "done" and states[0].attempts == 2


def test_finished_batches_are_recognised_without_torch(tmp_path: Path) -> None:
    jobs = "".join(f"A man in a suit,{i}\n" for i in range(20))
    code = f"""
import sys
from pathlib import Path
from specularip.batch.read_jobs import read_jobs
from specularip.batch.run import run_batch
Path("jobs.csv").write_text("text,seed,image\\n" + {jobs!r}.replace("\\n", ",face.png\\n"))
jobs = read_jobs("jobs.csv")
for job in jobs:
    Path("out", job.name).mkdir(parents=True)
    Path("out", job.name, "report.json").write_text("{{}}")
assert all(state.state == "done" for state in run_batch(jobs, Path("out"), pages=False))
sys.exit("torch" in sys.modules)
"""
    Image.new("RGB", (64, 64)).save(tmp_path / "face.png")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_a_stop_saves_a_checkpoint(prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, stop = tiny_jobs(prior, 1), StopRequest()
    stop.requested = True
    generate = at_work.generate
    monkeypatch.setattr(at_work, "generate", lambda *a, **options: generate(*a, **{**options, "stop": stop}))
    with pytest.raises(KeyboardInterrupt):
        run_batch(jobs, tmp_path, pages=False, stream=io.StringIO())
    assert events(tmp_path)["job-0", "stopped"] == 1
    assert "stopped" in (tmp_path / "summary.csv").read_text()
    stop.requested = False
    states = run_batch(jobs, tmp_path, pages=False, stream=io.StringIO())
    assert states[0].state == "done"


def on_ray(jobs: Sequence[Job], out: Path) -> tuple[list[JobState], str]:
    shown = io.StringIO()
    return run_batch(jobs, out, pages=False, cluster=Cluster(workers=2), stream=shown), shown.getvalue()


def test_a_worker_of_ray_dies_at_work(prior: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    jobs, out = tiny_jobs(prior, 3), tmp_path / "out"
    killed: list[int] = []

    def kill_one() -> None:
        for _ in range(1200):
            lines = (out / JOURNAL).read_text().splitlines() if (out / JOURNAL).exists() else []
            begun = [json.loads(line) for line in lines]
            if begun and not killed:
                killed.append(int(begun[0]["worker"].rpartition(" ")[2]))
                time.sleep(0.5)
                os.kill(killed[0], signal.SIGKILL)
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_one)
    killer.start()
    states, _ = on_ray(jobs, out)
    killer.join()
    assert killed and [state.state for state in states] == ["done"] * 3
    counts = events(out)
    assert sum(counts[job.name, "lost"] for job in jobs) == 1
    for job in jobs:
        assert counts[job.name, "done"] == 1
        assert counts[job.name, "begun"] == 1 + counts[job.name, "lost"]
        steps = [json.loads(line) for line in (out / job.name / "metrics.jsonl").read_text().splitlines()]
        assert [(one["stage"], one["step"]) for one in steps] == sorted(
            {(one["stage"], one["step"]) for one in steps}, key=lambda step: (step[0] != "seid", step[1])
        )
    table = (out / "summary.csv").read_text()
    assert table.count(",done") == 3 and "lost" not in table

    # The same avatars as in one process, of which the threads are others.
    alone = tmp_path / "alone"
    run_batch(jobs[:1], alone, pages=False, stream=io.StringIO())
    assert difference(load(out / "job-0"), load(alone / "job-0")) < 1e-3


class FakeRay:
    """Workers that end as `ends` say: of each start, whether it dies; of each job, the error or None."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            cause = ImportError("no module torch")

    def __init__(self, starts: Sequence[bool], jobs: Sequence[type[Exception] | None]) -> None:
        self.starts, self.jobs, self.names = list(starts), list(jobs), itertools.count()

    def start(self) -> Any:
        def about() -> About:
            if self.starts and self.starts.pop(0):
                raise self.exceptions.RayError("killed at its start")
            return About(f"worker {next(self.names)}", __version__, True)

        def run(attempt: Attempt) -> Result:
            if self.jobs and (error := self.jobs.pop(0)) is not None:
                raise error
            return Result("done")

        remote = SimpleNamespace(remote=lambda: lambda: None, options=lambda **_: remote)
        return SimpleNamespace(
            about=SimpleNamespace(remote=lambda: about),
            run=SimpleNamespace(remote=lambda attempt: partial(run, attempt)),
            stage=remote,
        )

    def wait(self, calls: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert calls
        return calls[:num_returns], calls[num_returns:]

    def get(self, call: Callable[[], Any]) -> Any:
        return call()

    def kill(self, actor: Any) -> None:
        pass

    def remote(self, **_: Any) -> Any:
        return lambda worker: SimpleNamespace(remote=lambda *arguments: self.start())

    def available_resources(self) -> dict[str, float]:
        return {}

    def run(self, ledger: Ledger, workers: int = 1) -> None:
        table = Table(ledger, io.StringIO())
        ray_workers._Driver(self, ledger, table, StopRequest(), self.start, workers).run()


def test_workers_that_die_at_their_start_are_replaced_thrice_in_a_row(tmp_path: Path) -> None:
    lost = FakeRay.exceptions.RayError
    ledger, _ = ledger_of(6, tmp_path)
    FakeRay([True, True, False, True, False, True, True, False], [None, lost, None, lost]).run(ledger)
    assert [state.state for state in ledger.states] == ["done"] * 6
    ledger, _ = ledger_of(7, tmp_path)
    with pytest.raises(UserError, match="no worker could be started: killed at its start"):
        FakeRay([False, True, True, True], [lost]).run(ledger)


def test_a_job_that_no_worker_can_run_says_why(tmp_path: Path) -> None:
    ledger, _ = ledger_of(1, tmp_path, retries=1)
    FakeRay([], [FakeRay.exceptions.RayTaskError] * 2).run(ledger)
    assert ledger.states[0].state == "failed" and ledger.states[0].reason == "no module torch"


def test_an_address_without_a_cluster_is_told_soon(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        for wrong in (address, f"ray://{address}", "127.0.0.1:port", "127.0.0.1:99999"):
            with pytest.raises(UserError, match=f"no Ray cluster at {wrong}: "):
                ledger, _ = ledger_of(1, tmp_path)
                ray_workers.run_on_ray(ledger, tmp_path, False, Table(ledger, io.StringIO()), Cluster(wrong))


def test_a_summary_that_cannot_be_written_ends_no_job(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "summary").touch()
    monkeypatch.setattr("specularip.batch.run.SUMMARY_SECONDS", 0.0)

    def finish(*arguments: Any, out: Path, **options: Any) -> None:
        out.mkdir()
        (out / REPORT).touch()

    monkeypatch.setattr(at_work, "generate", finish)
    shown = io.StringIO()
    with pytest.raises(UserError, match=r"cannot write .*summary"):
        run_batch(tiny_jobs(prior, 2), tmp_path, pages=False, stream=shown)
    assert events(tmp_path)["job-1", "done"] == 1
    assert "no summary: " in shown.getvalue()

    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(at_work, "generate", stop)
    with pytest.raises(KeyboardInterrupt):
        run_batch([replace(tiny_jobs(prior, 1)[0], name="other")], tmp_path, pages=False, stream=shown)


def test_a_stop_waits_until_ray_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise some of its processes stay."""
    started = []

    @contextmanager
    def connected(*_: Any) -> Iterator[None]:
        signal.raise_signal(signal.SIGINT)
        started.append(True)
        yield

    monkeypatch.setattr(ray_workers, "_connected", connected)
    ledger, _ = ledger_of(1, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        ray_workers.run_on_ray(ledger, tmp_path, False, Table(ledger, io.StringIO()), Cluster())
    assert started and ledger.waiting == 1


def test_a_stop_by_which_ray_ends_the_process_is_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **_: sys.exit(signal.SIGTERM)))
    ledger, _ = ledger_of(1, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        ray_workers.run_on_ray(ledger, tmp_path, False, Table(ledger, io.StringIO()), Cluster())


def test_a_stop_is_ours_after_ray_has_taken_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray, before = FakeRay([], []), signal.getsignal(signal.SIGTERM)

    @contextmanager
    def connected(*_: Any) -> Iterator[FakeRay]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as ray.init does
        yield ray

    def room(*_: Any) -> tuple[float, int]:
        signal.raise_signal(signal.SIGTERM)
        return 0.0, 1

    monkeypatch.setattr(ray_workers, "_connected", connected)
    monkeypatch.setattr(ray_workers, "_room", room)
    ledger, _ = ledger_of(1, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        ray_workers.run_on_ray(ledger, tmp_path, False, Table(ledger, io.StringIO()), Cluster())
    assert ledger.waiting == 1 and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("option", [{"address": "auto"}, {"workers": 2}, {"gpus_per_worker": 0.5}])
def test_options_of_a_cluster_need_one(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="add --ray"):
        cli.batch(tmp_path / "out", tmp_path / "jobs.csv", **option)
