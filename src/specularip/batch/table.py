"""The live table of a batch: what each worker does, and how far the whole is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from specularip.batch.ledger import Ledger
from specularip.batch.states import JobState
from specularip.errors import escaped, one_line
from specularip.progress import Stage, clock, is_terminal

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table as RichTable

EVERY_SECONDS = 30.0
"""Interval between the lines about the jobs at work if the output is not a terminal."""
ROWS = 24
"""Most workers that are shown."""


@dataclass
class Row:
    """stage: None before the first. heard: when it was last heard of, on the monotonic clock."""

    job: str
    stage: Stage | None
    heard: float


class Table:
    """Shows the jobs of `ledger` on `stream`: on a terminal a table that is redrawn; otherwise a line for
    each job that ends, and every half minute one for each at work."""

    def __init__(self, ledger: Ledger, stream: TextIO | None = None) -> None:
        self._ledger, self.stream = ledger, stream or sys.stdout
        self._rows: dict[str, Row] = {}
        self._live: Live | None = None
        self._began = self._shown = time.monotonic()
        self._ended = 0

    def __enter__(self) -> Table:
        if is_terminal(self.stream):
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self.stream)
            self._live = Live(
                get_renderable=self._draw, console=console, refresh_per_second=2, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def log(self, text: str) -> None:
        """Print one line above the table."""
        text = escaped(text)
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    def follow(self, worker: str, job: str) -> Callable[[Stage], None]:
        """Show that `worker` begins with a job. The result hears of its stages; any thread may call it."""
        self._rows[worker] = Row(job, None, time.monotonic())

        def hear(stage: Stage) -> None:
            self._rows[worker] = Row(job, stage, time.monotonic())
            self.tick()

        return hear

    def idle(self, worker: str) -> None:
        """Show that `worker` does nothing."""
        self._rows.pop(worker, None)

    def ended(self, state: JobState) -> None:
        """Print what came of an attempt at a job, on one line."""
        again = state.state == "waiting"
        self._ended += not again
        what = "to be tried again" if again else state.state
        rest = f": {state.reason}" if state.reason else ""
        where = f" ({state.worker})" if state.worker else ""
        self.log(one_line(f"{what} {state.job.name}{where}{rest}"))

    def tick(self) -> None:
        """Called now and then: where there is no table, print the lines that are due."""
        now = time.monotonic()
        if self._live is not None or now - self._shown < EVERY_SECONDS:
            return
        self._shown = now
        for worker, row in sorted(self._rows.items()):
            self.log("  ".join(filter(None, _cells(worker, row))))
        self.log(self._total())

    def _total(self) -> str:
        """How far the whole is, and when it will be done, as the jobs so far let expect."""
        done, failed, all_of_them = (
            self._ledger.count("done"),
            self._ledger.count("failed"),
            len(self._ledger.states),
        )
        words = [f"{done} of {all_of_them} done"]
        words += [f"{failed} failed"] if failed else []
        elapsed = time.monotonic() - self._began
        words.append(f"elapsed {clock(elapsed)}")
        left = self._ledger.waiting + len(self._rows)
        if self._ended and left:
            # Half of each that is at work, on average.
            words.append(f"ETA {clock(elapsed / self._ended * max(0.5, left - 0.5 * len(self._rows)))}")
        return ", ".join(words)

    def _draw(self) -> RichTable:
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(caption=self._total(), caption_justify="left", expand=False)
        for title in ("job", "stage", "step", "ETA", "worker"):
            table.add_column(title, no_wrap=True)
        rows = sorted(self._rows.items())
        for worker, row in rows[:ROWS]:
            table.add_row(*(Text(cell) for cell in _cells(worker, row)))
        if len(rows) > ROWS:
            table.add_row(f"and {len(rows) - ROWS} more")
        return table


def _cells(worker: str, row: Row) -> tuple[str, ...]:
    stage = row.stage
    if stage is None or not stage.name:
        return escaped(row.job), "loading", "", "", worker
    step = f"{stage.done}/{stage.total}"
    if stage.remaining_seconds is None:
        return escaped(row.job), stage.name, step, "", worker
    remaining = max(0.0, stage.remaining_seconds - (time.monotonic() - row.heard))
    return escaped(row.job), stage.name, step, clock(remaining), worker
