"""One attempt at a job: its run, and the page of its avatar."""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Callable
from pathlib import Path

import torch

from specularip.batch.ledger import Attempt, Result
from specularip.errors import UserError
from specularip.exporting import export
from specularip.guard import explain
from specularip.overrides import run_config
from specularip.pipeline import generate
from specularip.presets import with_low_memory
from specularip.progress import Progress, Stage
from specularip.run_folder import PAGE, REPORT, RunFolder
from specularip.run_lock import InUse, locked
from specularip.run_networks import KeptNetworks
from specularip.stopping import StopRequest


class FollowedProgress(Progress):
    """Tells `follow` where a run is, instead of showing it. Its lines are in the run's report, too."""

    every_seconds = 0.25

    def __init__(self, follow: Callable[[Stage], None]) -> None:
        super().__init__(io.StringIO())
        self._follow = follow

    def log(self, text: str) -> None:
        pass

    def _print(self, status: str) -> None:
        self._shown = time.monotonic()
        self._follow(self.stage())


def run_job(
    attempt: Attempt,
    out: Path,
    pages: bool,
    networks: KeptNetworks,
    follow: Callable[[Stage], None],
    stop: StopRequest | None = None,
) -> Result:
    """Run a job in its folder below `out`: from its checkpoint if it has one, not at all if it is finished.
    Nothing needs the checkpoints of a finished one, which are deleted: they are most of its bytes.

    pages: whether to write the avatar's page, too. networks: those of earlier jobs. follow: hears where the
    run is. stop: as `generate` takes it.
    """
    folder = out / attempt.job.name
    progress = FollowedProgress(follow)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # the report is about this job alone
    try:
        if not (folder / REPORT).is_file():
            _make(attempt, folder, networks, progress, stop)
        else:
            with locked(folder):
                RunFolder.open(folder, resume=True)  # which sweeps what a kill has left
        RunFolder(folder).forget_checkpoints()
        if pages and not (folder / PAGE).is_file():
            export(folder, folder / PAGE, progress=progress)
    except KeyboardInterrupt:
        return Result("stopped")
    except Exception as error:
        _, reason = explain(error)
        result = Result("failed", reason, _may_pass(error), _is_gpu_memory(error))
        del error  # it holds the frames, and they the tensors
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return result
    return Result("done")


def _make(
    attempt: Attempt, folder: Path, networks: KeptNetworks, progress: Progress, stop: StopRequest | None
) -> None:
    job = attempt.job
    config = run_config(job.preset, job.settings, job.seed, job.photo_weight)
    if attempt.low_memory or job.low_memory:
        config = with_low_memory(config)
    begun = RunFolder.is_begun(folder)
    generate(
        job.text,
        job.images,
        out=folder,
        seed=job.seed,
        config=config,
        init=job.init,
        force=job.force,
        resume=begun,
        progress=progress,
        networks=networks,
        stop=stop,
    )


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may succeed: the disk or the memory failed, or the process of the last one is
    not quite dead yet."""
    if isinstance(error, InUse) or _is_gpu_memory(error):
        return True
    causes = (error, error.__cause__)
    return any(isinstance(cause, OSError | MemoryError) for cause in causes)


def _is_gpu_memory(error: Exception) -> bool:
    return isinstance(error, UserError) and isinstance(error.__cause__, torch.cuda.OutOfMemoryError)
