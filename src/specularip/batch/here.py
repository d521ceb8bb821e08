"""Running a batch in this process, one job after the other."""

from __future__ import annotations

from pathlib import Path

from specularip.batch.ledger import Ledger
from specularip.batch.table import Table


def run_here(ledger: Ledger, out: Path, pages: bool, table: Table) -> None:
    """Run all that waits. Raises KeyboardInterrupt when it is stopped, after the job has saved a checkpoint,
    and UserError without a GPU that a job needs, or if the journal cannot be written."""
    if not ledger.waiting:
        return  # and spare the import of torch
    table.log("loading libraries")
    from specularip.batch.run_job import run_job
    from specularip.machine import check_gpu
    from specularip.run_networks import KeptNetworks

    for config in ledger.configs():
        check_gpu(config)
    networks = KeptNetworks()
    while (attempt := ledger.next()) is not None:
        ledger.begin(attempt)
        follow = table.follow("", attempt.job.name)
        result = run_job(attempt, out, pages, networks, follow)
        table.idle("")
        ledger.end(attempt, result)
        if result.outcome == "stopped":
            raise KeyboardInterrupt
