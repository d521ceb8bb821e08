"""Damaged files of every format that is read: accepted, or refused in one line, whatever happened to them.

    python benchmarks/damaged_files.py --count 10000 --seed 0 [FORMAT ...]

Trials SEED to SEED + COUNT - 1 of each format (all of `tests/damaged_formats.py` if none is named). A trial
fails if anything else than a UserError is raised or its message is not one clean line; if it takes more than
10 seconds, or more memory than four times the file and 200 MB; if the process ends; if a file is written, or
something is printed. The bytes of each are saved to --keep, and the printed command repeats it alone. Exit
code 1 if any failed.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from damaged_formats import ACCEPTED, FAULT, FORMATS, REFUSED, Trial, damaged, trial

from specularip.errors import escaped

GRACE = 20
"""Seconds after which a process that does not answer is ended."""
HEADER = struct.Struct("<QdQI")
"""What a worker reports of a trial: number, seconds, bytes of memory, length of the text that follows."""


@dataclass
class Tally:
    """What came of the trials of one format."""

    outcomes: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0
    memory: int = 0

    def add(self, number: int, found: Trial) -> None:
        self.outcomes[found.outcome] += 1
        self.seconds, self.memory = max(self.seconds, found.seconds), max(self.memory, found.memory)
        if found.outcome == REFUSED:
            self.messages[found.message] += 1
        if found.outcome == FAULT:
            self.faults.append((number, found.message))


def work(name: str, first: int, stop: int, answers: int) -> None:
    """In a process of its own: report each trial's number when it begins, and what came of it."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        torch.manual_seed(0)
        path = FORMATS[name].make(Path(folder))
        sound = path.read_bytes()
        for _ in range(2):  # what is loaded and compiled once is not a file's
            found = trial(name, path, sound, printed.fileno())
        if found.outcome != ACCEPTED:
            raise AssertionError(f"{name}: the honest file is not accepted: {found.message}")
        for number in range(first, stop):
            os.write(answers, HEADER.pack(number, -1.0, 0, 0))
            found = trial(name, path, damaged(name, sound, number), printed.fileno())
            text = f"{found.outcome}\0{found.message}".encode("utf-8", "backslashreplace")[:4000]
            os.write(answers, HEADER.pack(number, found.seconds, found.memory, len(text)) + text)


class Worker:
    """A process at work on trials of one format, and what it has reported so far."""

    def __init__(self, name: str, first: int, stop: int, tally: Tally) -> None:
        self.name, self.at, self.stop, self.tally = name, first, stop, tally
        self.heard, self.data = time.monotonic(), b""
        self.pipe, answers = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                work(name, first, stop, answers)
            except BaseException as error:
                text = f"{FAULT}\0the worker: {type(error).__name__}: {error}".encode()[:4000]
                os.write(answers, HEADER.pack(stop - 1, 0.0, 0, len(text)) + text)
            finally:
                os._exit(0)
        os.close(answers)

    def hear(self) -> bool:
        """Take in what it reports; False once it has ended."""
        more = os.read(self.pipe, 1 << 16)
        self.heard = time.monotonic()
        self.data += more
        while len(self.data) >= HEADER.size:
            number, seconds, memory, length = HEADER.unpack_from(self.data)
            if len(self.data) < HEADER.size + length:
                break
            text, self.data = self.data[HEADER.size :][:length], self.data[HEADER.size + length :]
            self.at = number
            if seconds >= 0:
                outcome, message = text.decode("utf-8", "replace").split("\0", 1)
                self.tally.add(number, Trial(outcome, message, seconds, memory))
                self.at = number + 1
        return bool(more)

    def end(self, hung: bool) -> Worker | None:
        """Once it has ended or does not answer: another that goes on behind the trial at which it ended; None
        if there is none."""
        if hung:
            os.kill(self.process, signal.SIGKILL)
        os.close(self.pipe)
        _, status = os.waitpid(self.process, 0)
        if self.at >= self.stop:
            return None
        why = f"no answer for {GRACE} s" if hung else f"the process ended by signal {os.WTERMSIG(status)}"
        self.tally.add(self.at, Trial(FAULT, why, GRACE if hung else 0.0, 0))
        return Worker(self.name, self.at + 1, self.stop, self.tally) if self.at + 1 < self.stop else None


def run(names: list[str], first: int, stop: int, processes: int) -> Iterator[tuple[str, Tally]]:
    """Trials `first` to `stop` - 1 of each format, in the order in which formats are done."""
    waiting, workers = list(reversed(names)), dict[int, Worker]()
    while waiting or workers:
        while waiting and len(workers) < processes:
            worker = Worker(waiting.pop(), first, stop, Tally())
            workers[worker.pipe] = worker
        for pipe in select.select(list(workers), [], [], 1.0)[0]:
            worker = workers[pipe]
            if not worker.hear():
                del workers[pipe]
                follow(worker.end(hung=False), workers)
                if worker.name not in (one.name for one in workers.values()):
                    yield worker.name, worker.tally
        for pipe, worker in list(workers.items()):
            if time.monotonic() - worker.heard > GRACE:
                del workers[pipe]
                follow(worker.end(hung=True), workers)
                if worker.name not in (one.name for one in workers.values()):
                    yield worker.name, worker.tally


def follow(worker: Worker | None, workers: dict[int, Worker]) -> None:
    if worker is not None:
        workers[worker.pipe] = worker


def report(name: str, tally: Tally, keep: Path, most: int) -> None:
    """Save the files of faults, and print how to repeat them; the first of each kind."""
    shown: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        path = FORMATS[name].make(Path(folder))
        sound = path.read_bytes()
        for number, message in tally.faults:
            kind = message.split(":", 2)[0] + message.split(" ", 2)[1][:30] if " " in message else message
            shown[kind] += 1
            if shown[kind] <= most:
                keep.mkdir(parents=True, exist_ok=True)
                file = keep / f"{name.replace(' ', '-').replace(',', '')}-{number}{path.suffix}"
                file.write_bytes(damaged(name, sound, number))
                print(f"  trial {number}: {escaped(message)[:400]}")
                again = f"python benchmarks/damaged_files.py --seed {number} --count 1 '{name}'"
                print(f"  {file}; again: {again}")
    if sum(shown.values()) > most * len(shown):
        print(f"  {sum(shown.values())} in all, of {len(shown)} kinds")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--count", type=int, default=10_000, help="trials of each format")
    parser.add_argument("--seed", type=int, default=0, help="number of the first trial")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--keep", type=Path, default=Path("mutations"), help="folder for files that failed")
    parser.add_argument("--show", type=int, default=2, help="faults of each kind that are shown and saved")
    options = parser.parse_args()
    if unknown := set(options.formats) - set(FORMATS):
        parser.error(f"unknown formats: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    names = options.formats or list(FORMATS)
    faults = 0
    print("| format | trials | accepted | refused | messages | faults | slowest | most memory |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, tally in run(names, options.seed, options.seed + options.count, options.workers):
        faults += len(tally.faults)
        counts = (tally.outcomes.total(), tally.outcomes[ACCEPTED], tally.outcomes[REFUSED])
        cells = (*counts, len(tally.messages), len(tally.faults), f"{tally.seconds:.2f} s")
        print(f"| {name} | {' | '.join(map(str, cells))} | {tally.memory >> 20} MB |", flush=True)
        report(name, tally, options.keep, options.show)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
