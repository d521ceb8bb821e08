"""Progress of a run: bars on a terminal, otherwise a plain line every few seconds.

with Progress() as progress:
    progress.log("loading the prior")
    progress.start("SEID", total=360)
    progress.step(1, loss=0.3)
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from specularip.errors import escaped

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

Report = Callable[[float], None]
"""Is called by a part of a stage with the share of it that is done, 0 to 1; may raise KeyboardInterrupt."""
EVERY_SECONDS = 5.0
"""Interval between the lines of one stage if the output is not a terminal."""


@dataclass(frozen=True)
class Stage:
    """A stage of a run: `done` of `total` steps are finished. remaining_seconds: see `Progress`."""

    name: str
    done: int
    total: int
    remaining_seconds: float | None


def unheard(share: float) -> None:
    """The report of a part whose progress nobody follows."""


def part(report: Report, start: float, end: float) -> Report:
    """The report of a part that goes from one share of the whole to another."""
    return lambda share: report(start + (end - start) * share)


class Progress:
    """Shows one stage after the other on `stream`, by default the standard output."""

    every_seconds = EVERY_SECONDS

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._stage, self._total, self._done = "", 0, 0
        self._recent: deque[tuple[float, int]] = deque(maxlen=50)
        self._started = self._shown = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def log(self, text: str) -> None:
        """Print one line immediately. It may repeat what files hold."""
        text = escaped(text)
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.stream, flush=True)

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """Begin a stage of `total` steps, of which a resumed run has already `done` some."""
        self._stage, self._total, self._done = stage, total, done
        self._started = time.monotonic()
        self._recent.clear()
        self._recent.append((self._started, done))
        if is_terminal(self.stream):
            if self._bars is None:
                self._bars = _make_bars(self.stream)
                self._bars.start()
            self._task = self._bars.add_task(stage, total=total, completed=done, status="")
        else:
            self._print("")

    def step(self, done: int, loss: float | None = None) -> None:
        """`done` steps of the current stage are finished."""
        self._done = done
        self._recent.append((time.monotonic(), done))
        status = "" if loss is None else f"loss {loss:.4g}"
        if self._bars is not None and self._task is not None:
            remaining = self.remaining_seconds()
            eta = "" if remaining is None else f"ETA {clock(remaining)}  "
            self._bars.update(self._task, completed=done, status=eta + status)
        elif time.monotonic() - self._shown >= self.every_seconds or done >= self._total:
            self._print(status)

    def stage(self) -> Stage:
        """Where the run is; may be called by other threads."""
        remaining = self.remaining_seconds() if self._recent else None
        return Stage(self._stage, self._done, self._total, remaining)

    def remaining_seconds(self) -> float | None:
        """Estimated remaining time of the current stage, from its last 50 steps; None before the first."""
        (before, first), (now, last) = self._recent[0], self._recent[-1]
        if last <= first:
            return None
        return (now - before) / (last - first) * max(0, self._total - last)

    def _print(self, status: str) -> None:
        self._shown = time.monotonic()
        share = 100 * self._done // max(1, self._total)
        words = [f"{self._stage} {self._done}/{self._total} ({share}%)", status]
        remaining = self.remaining_seconds()
        if remaining is not None:
            words += [f"elapsed {clock(self._shown - self._started)}", f"ETA {clock(remaining)}"]
        print("  ".join(word for word in words if word), file=self.stream, flush=True)


def is_terminal(stream: TextIO) -> bool:
    """Whether bars can be drawn: not where the cursor cannot move, as in an editor's shell."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _make_bars(stream: TextIO) -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description:<5}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
        console=Console(file=stream),
    )


def clock(seconds: float) -> str:
    """Seconds as 1:05, or 2:01:05."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
