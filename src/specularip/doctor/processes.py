"""Trials in another process: a library that ends it, or never returns, is a finding, too."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import IO

from specularip.doctor import trials
from specularip.doctor.findings import REINSTALL, Finding, found
from specularip.errors import one_line

LATE = "end other programs and try again; if it comes again, a library hangs"
BROKEN = "a library is broken or was built for another machine: install it again"

TRIALS: dict[str, tuple[Callable[[], Finding], tuple[str, ...]]] = {
    "torch": (trials.torch_works, ()),
    "numba": (trials.numba_works, ("torch",)),
    "gpu": (trials.gpu_works, ("torch",)),
    "gsplat": (trials.gsplat_works, ("torch",)),
    "triton": (trials.triton_works, ("torch",)),
    "render": (trials.render_works, ("torch", "numba")),
    "gpu_render": (trials.gpu_render_works, ("torch", "numba", "gpu", "gsplat")),
    "distil": (trials.distil_works, ("torch", "numba")),
}
"""The trials in their order, and what each needs to have worked."""
SECONDS = 600.0
"""A trial that takes longer is ended. Compiling the CPU kernels takes a minute, building gsplat's several."""


def try_all(names: Sequence[str] = tuple(TRIALS), seconds: float = SECONDS) -> Iterator[tuple[str, Finding]]:
    """The findings of these trials, one after the other. After one that ended the process, the rest runs in a
    new one."""
    failed: set[str] = set()
    left = list(names)
    while left:
        for name, finding in _in_a_process(tuple(left), failed, seconds):
            if finding.state == "problem":
                failed.add(name)
            left.remove(name)
            yield name, finding


def _in_a_process(names: Sequence[str], failed: set[str], seconds: float) -> Iterator[tuple[str, Finding]]:
    """At least the first of the findings."""
    # With the import path of this process, whatever has made it.
    code = f"import sys; sys.path[:] = {sys.path!a}; from specularip.doctor.processes import child; child()"
    request = json.dumps([list(names), sorted(failed)])
    process = subprocess.Popen(
        [sys.executable, "-c", code, request],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    lines: queue.Queue[str] = queue.Queue()
    said: deque[str] = deque(maxlen=20)
    assert process.stdout is not None and process.stderr is not None
    readers = [
        threading.Thread(target=_read, args=(process.stdout, lines.put), daemon=True),
        threading.Thread(target=_read, args=(process.stderr, said.append), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        for name in names:
            try:
                line = lines.get(timeout=seconds)
            except queue.Empty:
                yield name, Finding("problem", f"not done after {seconds:.0f} seconds", LATE)
                return
            if not line:
                process.wait()
                readers[1].join(5)
                yield name, Finding("problem", _ending(process.returncode, list(said)), BROKEN, REINSTALL)
                return
            yield name, Finding(**json.loads(line))
    finally:
        process.kill()
        process.wait()


def _read(stream: IO[str], take: Callable[[str], object]) -> None:
    """Pass on every line, and "" at the end."""
    for line in stream:
        take(line)
    take("")


def _ending(code: int, said: Sequence[str]) -> str:
    """How a process ended."""
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        why = ", perhaps as memory ran out" if name == "SIGKILL" else ""
        return one_line(f"the process was ended by {name}{why}", 200)
    return one_line(f"the process ended with code {code}{last and f': {last}'}", 200)


def child() -> None:
    """The other process: a JSON line for each of the trials in its argument, on what was its stdout."""
    names, gone = json.loads(sys.argv[1])
    failed = set(gone)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)  # libraries print to stdout
        for name in names:
            finding = tried(name, failed)
            if finding.state == "problem":
                failed.add(name)
            print(json.dumps(asdict(finding)), file=out, flush=True)


def tried(name: str, failed: set[str]) -> Finding:
    """The finding of one trial. failed: those that did not work."""
    run, needs = TRIALS[name]
    broken = next((need for need in needs if need in failed), None)
    if broken is not None:
        return Finding("problem", f"not tried: {broken} must work first")
    return found(run)
