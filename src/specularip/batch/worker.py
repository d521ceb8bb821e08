"""A worker of a batch: one process of a Ray cluster, which runs one job after the other."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from specularip.batch.ledger import Attempt, Result
from specularip.progress import Stage
from specularip.run_lock import LOCK
from specularip.stopping import StopRequest
from specularip.version import __version__

if TYPE_CHECKING:
    from specularip.run_networks import KeptNetworks

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "SPECULARIP_NUM_THREADS")
"""What says to torch and to our kernels how many threads they may use."""


@dataclass(frozen=True)
class About:
    """A worker's process. sees_folder: whether the batch's folder is there, too: with its lock."""

    name: str
    version: str
    sees_folder: bool


class Worker:
    """The actor. Ray calls `run` in one thread, and `stage` and `stop` in another. Networks stay loaded."""

    def __init__(self, out: str, pages: bool, threads: int) -> None:
        """out: the batch's folder, absolute. threads: of the CPU, for this process."""
        os.environ.update(dict.fromkeys(THREADS, str(threads)))  # before torch is imported
        self._out, self._pages = Path(out), pages
        self._networks: KeptNetworks | None = None
        self._stage: Stage | None = None
        self._stop = StopRequest()

    def about(self) -> About:
        name = f"{socket.gethostname()}, process {os.getpid()}"
        return About(name, __version__, (self._out / LOCK).is_file())

    def run(self, attempt: Attempt) -> Result:
        """See `run_job`."""
        from specularip.batch.run_job import run_job
        from specularip.run_networks import KeptNetworks

        self._networks = self._networks or KeptNetworks()
        self._stage = None
        return run_job(attempt, self._out, self._pages, self._networks, self._hear, self._stop)

    def stage(self) -> Stage | None:
        """Where the job at work is; None before its first stage."""
        return self._stage

    def stop(self) -> None:
        """Let the job at work save a checkpoint and end."""
        self._stop.requested = True

    def _hear(self, stage: Stage) -> None:
        self._stage = stage
