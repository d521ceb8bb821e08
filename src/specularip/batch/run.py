"""`batch`: many avatars in one folder, each in a run folder of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from specularip.batch.here import run_here
from specularip.batch.jobs import Job
from specularip.batch.journal import JOURNAL, Journal
from specularip.batch.ledger import Ledger
from specularip.batch.ray_workers import Cluster, import_ray, run_on_ray
from specularip.batch.states import JobState
from specularip.batch.summary import check_replaceable, write_summary
from specularip.batch.table import Table
from specularip.errors import UserError
from specularip.inputs import check_run
from specularip.run_lock import locked

SUMMARY_SECONDS = 60.0
"""The summary is written so often at most, and takes at most about this share of the time."""
SUMMARY_SHARE = 0.02


def run_batch(
    jobs: Sequence[Job],
    out: Path,
    *,
    pages: bool = True,
    retries: int = 2,
    cluster: Cluster | None = None,
    stream: TextIO | None = None,
) -> list[JobState]:
    """Run jobs in run folders below `out`, and write the summary; what is finished there is left as it is.

    jobs: as `read_jobs` returns them. pages: whether each avatar gets an interactive page. retries: of a job
    after a failure that may pass. cluster: None: this process does it all. stream: where
    progress is shown. Returns what has become of each job. Raises UserError if the folder is in use,
    holds other avatars under the same names, or cannot be written to, and KeyboardInterrupt when stopped.
    """
    if cluster is not None:
        import_ray()  # before anything is written
    with locked(out) as warning:
        if not (out / JOURNAL).exists():
            check_replaceable(out)
        journal = Journal(out)
        try:
            ledger = Ledger(jobs, out, journal, pages, retries)
            for config in ledger.configs():
                check_run(config, out)
            with Table(ledger, stream) as table:
                summary = _Summary(out, ledger, table)
                if warning:
                    table.log(warning)
                table.log(f"{len(jobs)} jobs: {ledger.count('done')} done, {ledger.waiting} to do")

                def ended(state: JobState) -> None:
                    table.ended(state)
                    summary.write_if_due()

                ledger.ended = ended
                try:
                    if cluster is None:
                        run_here(ledger, out, pages, table)
                    else:
                        run_on_ray(ledger, out, pages, table, cluster)
                except BaseException:
                    summary.try_to_write()  # how the batch ended matters more
                    raise
                summary.write()
            return ledger.states
        finally:
            journal.close()


class _Summary:
    """The summary of a batch, written now and then."""

    def __init__(self, out: Path, ledger: Ledger, table: Table) -> None:
        self._out, self._ledger, self._table = out, ledger, table
        self._next = time.monotonic() + SUMMARY_SECONDS

    def write(self) -> None:
        """Raises UserError if a file cannot be written."""
        write_summary(self._out, self._ledger.states)

    def try_to_write(self) -> None:
        """A summary that cannot be written ends no job."""
        try:
            self.write()
        except UserError as error:
            self._table.log(f"no summary: {error}")

    def write_if_due(self) -> None:
        began = time.monotonic()
        if began >= self._next:
            self.try_to_write()
            took = time.monotonic() - began
            self._next = time.monotonic() + max(SUMMARY_SECONDS, took / SUMMARY_SHARE)
