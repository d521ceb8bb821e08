"""Running numba kernels on several threads.

Kernels are plain functions kernel(share, shares, *arrays), compiled with nogil, and called from a pool of
Python threads. numba's own threading layers are not used: they need a system library, busy-wait between calls
or abort when two threads enter them, and they double the compile time. A kernel's result must not depend on
`shares`.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from specularip.errors import UserError

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def thread_count() -> int:
    """SPECULARIP_NUM_THREADS, else the number of CPU cores available to this process.

    Raises UserError if the variable is not a positive whole number.
    """
    setting = os.environ.get("SPECULARIP_NUM_THREADS", "")
    if not setting:
        return available_cores()
    if not setting.isdecimal() or int(setting) < 1:
        raise UserError(f"SPECULARIP_NUM_THREADS must be a positive whole number, not {setting!r}")
    return int(setting)


@cache
def available_cores() -> int:
    """Cores that this process may use, by CPU affinity and, in a container, by its CPU quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup, or no quota ("max")
        return count


def share_out(kernel: Callable[..., Any], *arguments: Any, most: int = 1 << 30) -> None:
    """Run all shares of a kernel, at most `most` of them, and wait. There are more shares than threads, for
    load balance."""
    helpers = thread_count() - 1
    shares = min(4 * (helpers + 1) if helpers else 1, most)
    waiting = itertools.count()

    def work() -> None:
        while (share := next(waiting)) < shares:
            kernel(share, shares, *arguments)

    jobs = [_pool(os.getpid(), helpers).submit(work) for _ in range(min(helpers, shares - 1))]
    try:
        work()
    finally:
        for job in jobs:
            # All shares are taken, so jobs that have not started are cancelled.
            if not job.cancel():
                job.result()


@cache
def _pool(process: int, helpers: int) -> ThreadPoolExecutor:
    """One pool per process: threads do not survive a fork."""
    return ThreadPoolExecutor(helpers, thread_name_prefix=f"specularip-{process}")
