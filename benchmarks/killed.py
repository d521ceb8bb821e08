"""The processes that `kill_anywhere` kills, and what it does to them.

A process is forked off one that has loaded the libraries, for which a run needs five seconds; the command
line in it is the real one. It has a process group of its own, with its ffmpeg.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = ["killed_child"]
PATIENCE = 240.0
"""Seconds in which a process must end that was asked to: the machine may be busy."""
AFTER_SIGNAL = 0.05
"""Seconds between two signals."""


@dataclass(frozen=True)
class Kill:
    """signals: sent one after the other. at: share of the command's duration, or, if `writes`, of its
    changes to the folder's names, right after which the kill comes."""

    signals: tuple[signal.Signals, ...]
    at: float
    writes: bool

    def __str__(self) -> str:
        names = " ".join(number.name for number in self.signals)
        return f"{names} at {self.at:.0%} of the {'changes to the folder' if self.writes else 'time'}"


def draw_kill(rng: random.Random) -> Kill:
    """Half of all kills are SIGKILL, half of them aimed at the moment of a write or a rename."""
    kind = rng.choice(["kill", "kill", "kill", "stop", "twice", "stop then kill"])
    stop, other = (rng.choice([signal.SIGTERM, signal.SIGHUP, signal.SIGINT]) for _ in range(2))
    signals = {
        "kill": (signal.SIGKILL,),
        "stop": (stop,),
        "twice": (stop, other),
        "stop then kill": (stop, signal.SIGKILL),
    }[kind]
    return Kill(signals, rng.random(), rng.random() < 0.5)


class Running:
    """A command at work. log: what it prints. fresh: as a user starts it; else forked, with the given seconds
    between two checkpoints."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, log: Path, seconds: float, fresh: bool = False
    ) -> None:
        self.folder, self.log, self.began = folder, log, time.time()
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        self._process: subprocess.Popen[bytes] | multiprocessing.process.BaseProcess
        if fresh:
            with open(log, "wb") as file:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "specularip", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
        else:
            import killed_child

            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(LIBRARIES)
            self._process = context.Process(
                target=killed_child.run, args=(list(arguments), str(log), seconds)
            )
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._seen, self._changes = _names(folder), 0

    @property
    def code(self) -> int | None:
        """The exit code; None while it works."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode

    def processor_seconds(self) -> float:
        """Of processor time that it has used; 0 after its end."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def changes(self) -> int:
        """How often the names in the folder have changed, as seen from here."""
        if (names := _names(self.folder)) != self._seen:
            self._seen, self._changes = names, self._changes + 1
        return self._changes

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit code. Kills the process and raises TimeoutError if it does not end."""
        end = time.monotonic() + patience
        while self.code is None:
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"did not end within {patience:.0f} s")
            self.changes()
            time.sleep(0.001)
        assert self.code is not None
        return self.code

    def until(self, kill: Kill, duration: float, changes: int, rng: random.Random) -> bool:
        """Wait for the moment of the kill. False: the process ended before."""
        moment = self.began + kill.at * duration
        after = 1 + int(kill.at * changes)
        while self.code is None:
            if (self.changes() >= after) if kill.writes else (time.time() >= moment):
                if kill.writes:
                    time.sleep(rng.choice([0.0, 0.001, 0.004]))
                break
            time.sleep(0.0005)
        if kill.signals[0] != signal.SIGKILL:  # before its first line, the command line has not begun
            while self.code is None and not (self.log.is_file() and self.log.stat().st_size):
                time.sleep(0.001)
        return self.code is None

    def kill(self, kill: Kill) -> int:
        """Send the signals and wait for the end. Returns the exit code."""
        for index, number in enumerate(kill.signals):
            if index:
                time.sleep(AFTER_SIGNAL)
            self.send(number)
        return self.wait()

    def send(self, number: signal.Signals) -> None:
        """To the whole group: a terminal and a batch system do so, too."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # ended, or not yet the head of its group
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass


def _names(folder: Path) -> frozenset[str]:
    """Of all files below `folder`."""
    found: set[str] = set()
    pending = [os.fspath(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    found.add(entry.path)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except OSError:  # it has just been removed
            continue
    return frozenset(found)
