"""What has become of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from specularip.batch.jobs import Job


@dataclass(frozen=True)
class JobState:
    """reason: why its last attempt failed, on one line. attempts: how often it was started. worker: the
    process that ran it last; "" in a batch of one process. The figures of a finished run are in its folder's
    report.json: ten thousand of them would take hundreds of megabytes."""

    job: Job
    state: Literal["done", "failed", "waiting", "stopped"]
    reason: str = ""
    attempts: int = 0
    worker: str = ""
