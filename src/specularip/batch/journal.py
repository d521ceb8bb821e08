"""What happened in a batch: DIR/batch.jsonl, one event a line.

It tells which job a folder was made for, so that a job file that was edited meanwhile cannot take one avatar
for another. Whether a job is done is not read from it but from its folder, which may have been copied.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from specularip.batch.jobs import Job
from specularip.errors import DamagedFile, UserError, reason
from specularip.inputs import file_version
from specularip.json_lines import JsonLines
from specularip.json_reading import parse_object
from specularip.run_folder import AVATAR

JOURNAL = "batch.jsonl"
START_BYTES = 65536
"""Of a photo, are read to recognise it: ten thousand of them in a second."""
Event = Literal["begun", "done", "failed", "lost", "stopped"]
"""lost: the process that ran the job died."""


@dataclass(frozen=True)
class Past:
    """What the journal last says about a job. digest: see `digest`; "" if it does not say."""

    digest: str
    event: Event
    reason: str = ""
    worker: str = ""
    attempt: int = 0


def digest(job: Job) -> str:
    """A short hash of what determines the job's avatar. Files count by content, not by name, so that a batch
    can be moved to another machine."""
    given = {
        "text": " ".join(job.text.split()),
        "images": [_content(path) for path in job.images],
        "preset": job.preset,
        "seed": job.seed,
        "init": job.init and _content(job.init),
        "photo_weight": job.photo_weight,
        "settings": sorted(job.settings),
    }
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:16]


def _content(path: Path) -> str:
    """What tells a file from others: its size and its start, which differs between photos and avatars. Of a
    run folder, that of its avatar."""
    file = path / AVATAR if path.is_dir() else path
    return _start(file, file_version(file))


@cache
def _start(path: Path, version: tuple[int, ...]) -> str:
    """version: the file may change while a program makes several batches."""
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
        return hashlib.sha256(b"%d " % path.stat().st_size + start).hexdigest()
    except OSError:
        return path.name


class Journal:
    """Appends events to the journal in `folder`, of which the caller holds the lock. past: by job's name."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError if there is a journal that cannot be read."""
        self._lines = JsonLines(folder / JOURNAL)
        try:
            content = (folder / JOURNAL).read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise UserError(f"cannot read {folder / JOURNAL}: {reason(error)}") from error
        self.past = read_events(content)

    def add(self, job: Job, event: Event, attempt: int, worker: str = "", reason: str = "") -> None:
        """Record an event. Raises UserError if it cannot be written."""
        line: dict[str, Any] = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "job": job.name}
        line |= {"event": event, "attempt": attempt, "digest": digest(job)}
        line |= {key: value for key, value in (("worker", worker), ("reason", reason)) if value}
        self._lines.append(line)
        self.past[job.name] = Past(line["digest"], event, reason, worker, attempt)

    def close(self) -> None:
        self._lines.close()


def read_events(content: bytes) -> dict[str, Past]:
    """The last event of each job in a journal. Lines that are none are passed over: nothing that matters is
    only there."""
    found: dict[str, Past] = {}
    for line in content.splitlines():
        try:
            event = parse_object(line)
        except DamagedFile:
            continue
        if event.get("event") not in get_args(Event):
            continue
        texts = [event.get(key, "") for key in ("job", "digest", "reason", "worker")]
        attempt = event.get("attempt", 0)
        if all(isinstance(text, str) for text in texts) and isinstance(attempt, int):
            name, mark, reason, worker = texts
            found[name] = Past(mark, event["event"], reason, worker, attempt)
    return found
