"""What has become of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from specularip.batch.jobs import Job


@dataclass(frozen=True)
class JobState:
    """reason: why it failed, on one line. attempts: how often it was started. report: report.json of a
    finished run. worker: the process that ran it last; "" in a batch of one process."""

    job: Job
    state: Literal["done", "failed", "waiting", "stopped"]
    reason: str = ""
    attempts: int = 0
    report: Mapping[str, Any] | None = None
    worker: str = ""
