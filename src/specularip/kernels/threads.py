"""Sharing a kernel's work among threads.

Kernels are plain functions kernel(share, shares, *arrays), compiled to run without the interpreter's lock;
Python threads call them. That leaves out numba's own thread layers, which need a system library, spin between
calls or end the process when two threads enter them, and double the compile time. What a kernel computes must
not depend on `shares`.
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
    """SPECULARIP_NUM_THREADS, else the processors that this process may use.

    Raises UserError if the variable is not a positive whole number.
    """
    wanted = os.environ.get("SPECULARIP_NUM_THREADS", "")
    if not wanted:
        return _processors()
    if not wanted.isdecimal() or int(wanted) < 1:
        raise UserError(f"SPECULARIP_NUM_THREADS must be a positive whole number, not {wanted!r}")
    return int(wanted)


@cache
def _processors() -> int:
    """As the scheduler allows them and, in a container, as far as its quota of time reaches."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup here, or no quota ("max")
        return count


def share_out(kernel: Callable[..., Any], *arguments: Any, most: int = 1 << 30) -> None:
    """Run all shares of a kernel, at most `most` of them, and wait. Shares outnumber threads, to even out."""
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
            # A helper that a busy machine has not started yet would find nothing left to do.
            if not job.cancel():
                job.result()


@cache
def _pool(process: int, helpers: int) -> ThreadPoolExecutor:
    """A pool for each process, because threads do not survive a fork."""
    return ThreadPoolExecutor(helpers, thread_name_prefix=f"specularip-{process}")
