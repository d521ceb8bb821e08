"""The jobs of a batch: which are still to be run, and what has become of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from specularip.batch.figures import read_report
from specularip.batch.jobs import Job
from specularip.batch.journal import Journal, digest
from specularip.batch.states import JobState
from specularip.errors import UserError
from specularip.overrides import run_config
from specularip.run_folder import PAGE, REPORT
from specularip.stages.settings import Config

LOST = "its process died, perhaps for want of memory"


@dataclass(frozen=True)
class Attempt:
    """number: from 1 on. low_memory: an attempt before this one took too much memory of the GPU."""

    job: Job
    number: int = 1
    low_memory: bool = False


@dataclass(frozen=True)
class Result:
    """What came of an attempt. reason: why it failed, on one line. again: whether another attempt may
    succeed, because the machine failed and not the job. gpu_memory: it ran out of that."""

    outcome: Literal["done", "failed", "stopped", "lost"]
    reason: str = ""
    again: bool = False
    gpu_memory: bool = False


class Ledger:
    """Hands out attempts, and takes down what comes of them. `ended` hears of each; a job of which the state
    is "waiting" then will be tried again."""

    def __init__(self, jobs: Sequence[Job], out: Path, journal: Journal, pages: bool, retries: int) -> None:
        """jobs: with distinct names. pages: whether a job is done only with its page. Raises UserError if a
        job's folder is that of another job."""
        self._journal, self._retries = journal, retries
        self._states = {state.job.name: state for state in _recognised(jobs, out, journal, pages)}
        waiting = [state.job for state in self._states.values() if state.state != "done"]
        self._waiting = deque(Attempt(job) for job in waiting)
        self.ended: Callable[[JobState], None] = lambda state: None

    @property
    def states(self) -> list[JobState]:
        """Of all jobs, in their order."""
        return list(self._states.values())

    def count(self, *states: str) -> int:
        return sum(state.state in states for state in self._states.values())

    @property
    def waiting(self) -> int:
        """How many attempts are still to be handed out."""
        return len(self._waiting)

    def configs(self) -> list[Config]:
        """Those of the jobs that wait, without their seeds, each once."""
        waiting = (state.job for state in self._states.values() if state.state == "waiting")
        return [run_config(*of) for of in dict.fromkeys((job.preset, job.settings) for job in waiting)]

    def next(self) -> Attempt | None:
        """The next attempt; None: there is none for now, but some may follow if one that runs fails."""
        return self._waiting.popleft() if self._waiting else None

    def begin(self, attempt: Attempt, worker: str = "") -> None:
        """worker: the process that runs the attempt, for the user."""
        self._journal.add(attempt.job, "begun", attempt.number, worker)

    def end(self, attempt: Attempt, result: Result, worker: str = "") -> None:
        """Take down the result; an attempt that may be repeated is handed out once more, after the others."""
        job, number = attempt.job, attempt.number
        self._journal.add(job, result.outcome, number, worker, result.reason)
        if result.outcome == "lost":
            result = replace(result, reason=result.reason or LOST, again=True)
        if result.outcome in ("lost", "failed") and result.again and number <= self._retries:
            low_memory = attempt.low_memory or result.gpu_memory
            self._waiting.append(Attempt(job, number + 1, low_memory))
            state = JobState(job, "waiting", result.reason, number, worker)
        else:
            outcome = "failed" if result.outcome == "lost" else result.outcome
            state = JobState(job, outcome, result.reason, number, worker)
        self._states[job.name] = state
        self.ended(state)


def _recognised(jobs: Sequence[Job], out: Path, journal: Journal, pages: bool) -> Iterator[JobState]:
    """The states in which the folders are before anything is run."""
    foreign = []
    for job in jobs:
        folder, past = out / job.name, journal.past.get(job.name)
        complete = (folder / REPORT).is_file()
        if past is not None and past.digest not in ("", digest(job)):
            is_other = folder.exists()
        else:  # a run that the journal does not call done may be another's
            known = past is not None and past.digest and past.event == "done"
            is_other = complete and not known and _reports_another(folder, job)
        if is_other:
            foreign.append(f"{job.name} ({job.source})" if job.source else job.name)
        done = complete and (not pages or (folder / PAGE).is_file())
        if past is not None and past.event != "done":
            done = False  # killed just after its report: an attempt clears up what is left
        attempts, worker = (past.attempt, past.worker) if past else (0, "")
        yield JobState(job, "done" if done else "waiting", "", attempts, worker)
    if foreign:
        names = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise UserError(
            f"{out} holds avatars of other texts, photos or settings under the names of {names}: "
            "name these jobs differently, delete their folders, or use another --out"
        )


def _reports_another(folder: Path, job: Job) -> bool:
    """Whether the report of a run names another text, seed or photo than the job. Photos go by their names:
    they may have been moved."""
    report = read_report(folder / REPORT) or {}
    settings, images = report.get("settings"), report.get("image")
    paths = [images] if isinstance(images, str) else images if isinstance(images, list) else None
    found = (
        report.get("text"),
        settings.get("seed") if isinstance(settings, dict) else None,
        None if paths is None else [Path(str(path)).name for path in paths],
    )
    wanted = " ".join(job.text.split()), job.seed, [path.name for path in job.images]
    return any(one is not None and one != other for one, other in zip(found, wanted))
