"""Damaged files of every format that is read: accepted, or refused in one line, whatever happened to them.

    python benchmarks/mutations.py --count 10000 --seed 0 [FORMAT ...]

Trials SEED to SEED + COUNT - 1 of each format (all of `tests/damaged_formats.py` if none is named). A trial fails
if anything else than a UserError is raised or its message is not one clean line; if it takes more than 10
seconds, or more memory than four times the file and 200 MB; if the process ends; if a file is written, or
something is printed. The bytes of each are saved to --keep, and the printed command repeats it alone. Exit code 1
if any failed.
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
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from damaged_formats import FORMATS

from specularip.errors import UserError, escaped

SECONDS, SLACK, RATIO = 10, 200 << 20, 4
"""A trial's limits: time; memory beyond RATIO times the file."""
GRACE = 20
"""Seconds after which a process that does not answer is ended."""
HEADER = struct.Struct("<QdQI")
"""What a worker reports of a trial: number, seconds, bytes of memory, length of what is wrong or was refused."""
ACCEPTED, REFUSED, FAULT = "accepted", "refused", "fault"


@dataclass
class Tally:
    """What came of the trials of one format."""

    outcomes: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0
    memory: int = 0

    def add(self, number: int, seconds: float, memory: int, outcome: str, message: str) -> None:
        self.outcomes[outcome] += 1
        self.seconds, self.memory = max(self.seconds, seconds), max(self.memory, memory)
        if outcome == REFUSED:
            self.messages[message] += 1
        if outcome == FAULT:
            self.faults.append((number, message))


def fresh_peak() -> int:
    """Forgets the largest size that this process had; bytes of its present size."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Bytes, the most that this process had in memory. Not `ru_maxrss`, which begins with the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def damaged(name: str, sound: bytes, number: int) -> bytes:
    """The file of a trial."""
    damages = FORMATS[name].damages
    return damages[number % len(damages)](sound, number // len(damages))


def read(name: str, path: Path) -> str:
    """What is said of a file, "" if it is accepted. All else is raised, and TimeoutError after SECONDS."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning that is not ours would be a second, puzzling line
            warnings.filterwarnings("ignore", message=".*(left out|damaged|not used|its subject)")
            FORMATS[name].read(path)
        return ""
    except UserError as error:
        said = str(error).replace(str(path), "FILE").replace(str(path.parent), "FOLDER")
        if said != escaped(said) or len(said) > 600 or not said:
            raise AssertionError(f"not one clean line: {said[:2000]!r}") from None
        return said
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_one(name: str, path: Path, data: bytes, printed: int) -> tuple[float, int, str, str]:
    """Seconds, memory, outcome and message of a file. printed: a file that stdout and stderr go to."""
    path.write_bytes(data)
    names = sorted(path.parent.rglob("*"))
    before, start = fresh_peak(), time.perf_counter()
    try:
        message = read(name, path)
        outcome = REFUSED if message else ACCEPTED
    except Exception as error:
        frame, at = error.__traceback__, ""
        while frame is not None:  # the innermost line of ours
            if "specularip" in frame.tb_frame.f_code.co_filename:
                at = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
            frame = frame.tb_next
        outcome, message = FAULT, f"{at} {type(error).__name__}: {error}"
    seconds, memory = time.perf_counter() - start, peak() - before
    if outcome != FAULT:
        sys.stdout.flush()
        if seconds > SECONDS:
            outcome, message = FAULT, f"{seconds:.1f} s"
        elif memory > RATIO * len(data) + SLACK:
            outcome, message = FAULT, f"{memory >> 20} MB of memory for {len(data)} bytes"
        elif sorted(path.parent.rglob("*")) != names or path.read_bytes() != data:
            outcome, message = FAULT, "it has written to the folder"
        elif os.fstat(printed).st_size:
            outcome, message = FAULT, f"it has printed {os.pread(printed, 200, 0)!r}"
    os.ftruncate(printed, 0)
    os.lseek(printed, 0, os.SEEK_SET)
    return seconds, memory, outcome, message


def work(name: str, first: int, stop: int, answers: int) -> None:
    """In a process of its own: report each trial's number when it begins, and what came of it."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        torch.manual_seed(0)
        path = FORMATS[name].make(Path(folder))
        sound = path.read_bytes()
        for _ in range(2):  # what is loaded and compiled once is not a file's
            outcome = try_one(name, path, sound, printed.fileno())
        if outcome[2] != ACCEPTED:
            raise AssertionError(f"{name}: the honest file is not accepted: {outcome[3]}")
        for number in range(first, stop):
            os.write(answers, HEADER.pack(number, -1.0, 0, 0))
            seconds, memory, outcome_, message = try_one(name, path, damaged(name, sound, number), printed.fileno())
            text = f"{outcome_}\0{message}".encode("utf-8", "backslashreplace")[:4000]
            os.write(answers, HEADER.pack(number, seconds, memory, len(text)) + text)


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
                self.tally.add(number, seconds, memory, *text.decode("utf-8", "replace").split("\0", 1))
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
        self.tally.add(self.at, GRACE if hung else 0.0, 0, FAULT, why)
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
                print(f"  {file}; again: python benchmarks/mutations.py --seed {number} --count 1 '{name}'")
    if sum(shown.values()) > most * len(shown):
        print(f"  {sum(shown.values())} in all, of {len(shown)} kinds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        print(
            f"| {name} | {tally.outcomes.total()} | {tally.outcomes[ACCEPTED]} | {tally.outcomes[REFUSED]} | "
            f"{len(tally.messages)} | {len(tally.faults)} | {tally.seconds:.2f} s | {tally.memory >> 20} MB |",
            flush=True,
        )
        report(name, tally, options.keep, options.show)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
