"""Disk and memory of this machine: whether what a command will need is there. Free of torch."""

from __future__ import annotations

import math
import os
import shutil
from contextlib import suppress
from pathlib import Path

from specularip.errors import UserError
from specularip.files import existing_folder

MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where a container's limit is, in bytes, or "max"."""
MEMORY_INFO = Path("/proc/meminfo")

RUN_ADDRESSES, FIT_ADDRESSES = 4e9, 3e9
"""Bytes of address space, not of memory, that `generate` with the compact preset and `fit` on a CPU take."""


def check_space(path: str | os.PathLike[str], needed: float, what: str) -> None:
    """Raise UserError if the disk of `path`, which need not exist yet, has less than `needed` bytes free."""
    try:
        usage = shutil.disk_usage(existing_folder(Path(path)))
    except OSError:
        return  # some network file systems do not say
    if usage.total and usage.free < needed:
        raise UserError(
            f"{what} may take {size_words(needed)} and the disk of {path} has {size_words(usage.free)} free: "
            "make room, or use another --out"
        )


def check_address_space(needed: float, what: str) -> None:
    """Raise UserError if `ulimit -v` allows this process less than `needed` bytes of address space. Libraries
    that meet this limit as they load fail in many ways, none of which names it."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        raise UserError(
            f"{what} needs {size_words(needed)} of address space, the shell allows {size_words(allowed)}: "
            f"use `ulimit -v {math.ceil(needed / 1024)}` or more"
        )


def check_memory(needed: float, what: str) -> None:
    """Raise UserError if `needed` bytes are more than all the memory of this machine."""
    total = total_memory()
    if total is not None and needed > total:
        raise UserError(
            f"{what} takes at least {size_words(needed)} of memory, and this machine has {size_words(total)}"
        )


def total_memory() -> float | None:
    """Bytes of memory that this process may use at most; None where the system does not say."""
    found: list[float] = []
    with suppress(OSError, ValueError, AttributeError):  # Windows has no sysconf
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # "max": no limit
        found.append(float(MEMORY_LIMIT.read_text()))
    return min(found, default=None)


def free_memory() -> float | None:
    """Bytes of memory that this process can still take without swapping; None where the system does not say.

    Memory that the system would give back (caches) counts as free, by Linux' own estimate.
    """
    found: list[float] = []
    with suppress(OSError, ValueError, IndexError):
        lines = MEMORY_INFO.read_text().splitlines()
        [available] = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
        found.append(1024.0 * int(available))
    with suppress(OSError, ValueError):  # "max": no limit
        used = float(MEMORY_LIMIT.with_name("memory.current").read_text())
        with suppress(OSError, ValueError, IndexError):
            counts = dict(
                line.split() for line in MEMORY_LIMIT.with_name("memory.stat").read_text().splitlines()
            )
            used -= float(counts.get("inactive_file", 0))
        found.append(max(0.0, float(MEMORY_LIMIT.read_text()) - used))
    return min(found, default=None)


def size_words(count: float) -> str:
    """A number of bytes as GB or MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
