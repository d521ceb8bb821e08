"""Many avatars in one process: does anything stay behind?

    python benchmarks/soak.py [--avatars 20] [--preset tiny|compact] [--batch] [--set NAME=VALUE ...]

Makes avatars of different texts, seeds and photos, and looks at the process after each, after a garbage
collection: its memory, open files, threads, child processes, signal handlers, temporary files, the machine
code that numba keeps, and the package's caches. After the last, memory must be within 5 % of that after the
second, and nothing else more than it was then. The second column of memory is what is left when the allocator
has given back what it keeps (`malloc_trim`): a leak shows in both, fragmentation in the first alone. It is
taken after the second and the last avatar, so that it changes nothing in between.

tiny takes a random prior and seconds an avatar; compact the real one, to which --set gives fewer steps and
Gaussians. --batch makes them as the worker of a batch does: with networks that stay loaded, and a page of
each. Linux only. Exit code 1 if something stays.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import io
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from numba.core.dispatcher import Dispatcher
from PIL import Image

from specularip.batch.jobs import Job
from specularip.batch.ledger import Attempt
from specularip.batch.run_job import run_job
from specularip.overrides import run_config
from specularip.pipeline import generate
from specularip.progress import Progress
from specularip.run_networks import KeptNetworks
from specularip.stopping import STOPS

ROOT = Path(__file__).resolve().parents[1]
FACE = ROOT / "examples" / "eileen_collins.jpg"
GROWTH = 0.05
TINY = (
    "photo_weight=0", "seid.steps=6", "seid.points=600", "seid.max_points=800", "seid.render_size=64",
    "seid.views_per_step=2", "seid.densify_every=3", "scr.orbit_views=8", "scr.refine_steps=1",
    "scr.fit_steps=6", "scr.views_per_step=2", "turntable_frames=8", "turntable_size=64",
)  # fmt: skip
COLOURS = ("red", "green", "blue")
GARMENTS = ("satin dress", "cotton shirt", "cotton dress", "satin shirt")


@dataclass(frozen=True)
class Footprint:
    """What a process holds. memory: resident, in MB. trimmed: the same after `malloc_trim`; None: not taken.
    files, threads, children, temporary: what is open, alive or in the folder of temporary files.
    handlers: of the signals that stop a run. machine_code: of numba, signatures. caches: entries, by name."""

    memory: float
    trimmed: float | None
    files: tuple[str, ...]
    threads: tuple[str, ...]
    children: int
    temporary: tuple[str, ...]
    handlers: tuple[str, ...]
    machine_code: int
    caches: dict[str, int]


def footprint(trim: bool = False) -> Footprint:
    """Of this process, after a garbage collection."""
    gc.collect()
    memory, trimmed = _resident(), None
    if trim:
        ctypes.CDLL(None).malloc_trim(0)
        trimmed = _resident()
    objects = gc.get_objects()
    return Footprint(
        memory,
        trimmed,
        tuple(sorted(_open_files())),
        tuple(sorted(thread.name for thread in threading.enumerate())),
        sum(len(task.read_text().split()) for task in Path("/proc/self/task").glob("*/children")),
        tuple(sorted(os.listdir(tempfile.gettempdir()))),
        tuple(str(signal.getsignal(number)) for number in STOPS),
        sum(len(found.overloads) for found in objects if issubclass(type(found), Dispatcher)),
        {
            f"{found.__module__}.{found.__qualname__}": found.cache_info().currsize
            for found in objects
            if type(found) is functools._lru_cache_wrapper and str(found.__module__).startswith("specularip")
        },
    )


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _open_files() -> list[str]:
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # of the listing itself
            continue
    return names


def soak(make: Callable[[int], None], count: int, show: Callable[[str], None] = print) -> list[Footprint]:
    """Footprints after each of `count` calls. show: receives a line for each."""
    found = []
    show("avatar   seconds   memory   trimmed   files   threads")
    for index in range(count):
        began = time.perf_counter()
        make(index)
        seconds = time.perf_counter() - began
        found.append(last := footprint(trim=index in (1, count - 1)))
        trimmed = "" if last.trimmed is None else f"{last.trimmed:.0f} MB"
        show(
            f"{index + 1:6} {seconds:9.1f} {last.memory:5.0f} MB {trimmed:>9} {len(last.files):7} "
            f"{len(last.threads):9}"
        )
    return found


def left_behind(found: Sequence[Footprint], growth: float = GROWTH) -> list[str]:
    """What the last footprint has more than the second, one line each. growth: of memory that is allowed."""
    second, last = found[1], found[-1]
    lines = []
    if last.memory > (1 + growth) * second.memory:
        lines.append(f"memory grew from {second.memory:.0f} to {last.memory:.0f} MB")
    if second.trimmed and last.trimmed and last.trimmed > (1 + growth) * second.trimmed:
        lines.append(f"memory in use grew from {second.trimmed:.0f} to {last.trimmed:.0f} MB")
    for name in ("files", "threads", "temporary"):
        before, after = list(getattr(second, name)), list(getattr(last, name))
        for kept in before:
            if kept in after:
                after.remove(kept)
        if len(getattr(last, name)) > len(before):
            lines.append(f"{name}: {', '.join(after)}")
    if last.children > second.children:
        lines.append(f"{last.children - second.children} child processes")
    if last.handlers != second.handlers:
        lines.append(f"signal handlers: {', '.join(last.handlers)}")
    if last.machine_code > second.machine_code:
        lines.append(f"machine code of {last.machine_code - second.machine_code} more signatures")
    for name, size in last.caches.items():
        if size > second.caches.get(name, 0):
            lines.append(f"{name} holds {size} results, {second.caches.get(name, 0)} after the second avatar")
    return lines


def avatars(folder: Path, settings: Sequence[str], batch: bool, width: int = 2400) -> Callable[[int], None]:
    """What makes the avatar of a number: with a text, a seed and a photo of its own, about `width` pixels
    wide. batch: see above."""
    networks = KeptNetworks()

    def make(index: int) -> None:
        photo = folder / f"face-{index}.jpg"
        with Image.open(FACE) as image:
            size = width + 16 * index
            image.resize((size, size * image.height // image.width)).save(photo, quality=85)
        text = f"A woman in a {COLOURS[index % len(COLOURS)]} {GARMENTS[index % len(GARMENTS)]}"
        name = f"avatar-{index}"
        if batch:
            job = Job(name, text, (photo,), seed=index, settings=tuple(settings))
            result = run_job(Attempt(job), folder, True, networks, lambda stage: None)
            if result.outcome != "done":
                raise RuntimeError(result.reason)
        else:
            config = run_config("compact", settings)
            progress = Progress(io.StringIO())
            generate(text, photo, out=folder / name, seed=index, config=config, progress=progress)

    return make


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--avatars", type=int, default=20)
    parser.add_argument("--preset", choices=("tiny", "compact"), default="tiny")
    parser.add_argument("--batch", action="store_true")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", dest="settings"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="specularip-soak-") as folder:
        temporary = Path(folder) / "temporary"
        temporary.mkdir()
        tempfile.tempdir = str(temporary)
        os.environ["TMPDIR"] = str(temporary)
        settings = list(arguments.settings)
        if arguments.preset == "tiny":
            settings = [*TINY, f"prior.path={tiny_prior(Path(folder) / 'prior')}", *settings]
        found = soak(avatars(Path(folder), settings, arguments.batch), arguments.avatars)
        tempfile.tempdir = None
    lines = left_behind(found)
    print("\n".join(f"left behind: {line}" for line in lines) or "nothing is left behind")
    raise SystemExit(1 if lines else 0)


def tiny_prior(folder: Path) -> Path:
    """A random prior of pixels, in `folder`."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_prior import pixel_prior

    from specularip.diffusion.loading.folder import save_prior

    save_prior(pixel_prior(), folder)
    return folder


if __name__ == "__main__":
    main()
