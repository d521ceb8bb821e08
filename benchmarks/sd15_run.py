"""Where the time of one avatar of the sd15 preset goes, from the start of the process to its last file.

    python benchmarks/sd15_run.py --weights DIR [--out DIR] [--set NAME=VALUE ...] [--json FILE]

Runs `generate` at the preset's settings, from files with random weights of the published sizes (tools/sd15),
which cost what the real ones do. If DIR does not hold them yet, another process writes them first, and that
time is subtracted. The face recogniser is replaced by a random face. Without imageio_ffmpeg the turntable is
rendered but not encoded. Needs Linux, for the start of the process. Measured are

- the phases of the process;
- imports, and loading part by part: wall-clock time, without waiting for the GPU in between. Threads read the
  files; the first network to be built includes the import of its library. Fresh files are in the page cache;
- each step of SEID, from one call of `Progress.step` to the next. What follows that call in a training step
  (a checkpoint, a preview) belongs to the interval after it. Shown are windows of 100 steps with their number
  of Gaussians; the slowest steps; and by how much steps exceeded the median of their window in total, by what
  happened in them;
- the parts of the refinement: rendering, conditioning, encoding, each denoising step and decoding. The GPU is
  synchronised where a part begins or ends, and nowhere else.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import traceback
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TEXT, PHOTO = "A woman in a red satin dress", ROOT / "examples" / "eileen_collins.jpg"
WINDOW, FIRST_STEPS, SLOWEST = 100, 10, 15
ADAPTER = "ip-adapter-faceid-plusv2_sd15.bin"
REFINE = "SCR views"
"""Title of the refinement in `Progress`."""
PHASES = {"SEID": "load", REFINE: "SEID", "SCR fit": "refinement"}
"""By the stage whose start ends it."""
TINY = (
    "prior.dtype=float32", "device=cpu", "seid.steps=40", "seid.points=700", "seid.max_points=900",
    "seid.render_size=64", "seid.lights=8", "seid.densify_every=10", "seid.max_scale=0.2",
    "scr.orbit_views=10", "scr.render_size=64", "scr.refine_size=128", "scr.refine_steps=2",
    "scr.crop=0,1,0,1", "scr.fit_steps=3", "turntable_frames=2", "turntable_size=48",
)  # fmt: skip


# Weights and stand-ins


def write_weights(folder: Path, tiny: bool) -> None:
    """Write all files of the preset and of LPIPS; weights are drawn on the GPU if there is one."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools" / "sd15")]
    import torch
    from lpips_weights import vgg_state
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    if tiny:
        from sd15_files import write_sources

        write_sources(folder)
        (folder / "clip").rename(folder / "image_encoder")
    else:
        from random_weights import write

        write(folder, torch.float16, "cuda" if torch.cuda.is_available() else "cpu")
    (folder / "lpips").mkdir(exist_ok=True)
    # Written last: the sign that all is there.
    save_file(vgg_state(torch.Generator().manual_seed(0)), str(folder / "lpips" / "lpips.safetensors"))


def render_only(frames: Iterator[Any], path: Path, fps: float = 30.0) -> int:
    """`write_video` without encoding."""
    path.write_bytes(b"")
    return sum(1 for _ in frames)


class RandomFace:
    """In place of `InsightFace`."""

    def __init__(self, width: int) -> None:
        self.width = width

    def portrait(self, image: Any, name: str = "the photo") -> types.SimpleNamespace:
        import torch

        generator = torch.Generator().manual_seed(1)
        embedding = torch.nn.functional.normalize(torch.randn(self.width, generator=generator), dim=0)
        crop = torch.rand(3, 224, 224, generator=generator)
        return types.SimpleNamespace(embedding=embedding, crop=crop, note="")


# Measuring


class Clock:
    """Seconds of named parts, which may be nested; of events within steps of SEID; of parts of the
    refinement."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = defaultdict(list)
        """By path, "outer > inner", in the order in which they began; a value for each call."""
        self.events: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        """By interval of SEID and name."""
        self.refinement: dict[str, list[float]] = defaultdict(list)
        self.stage, self.interval, self.mark = "", 0, 0.0
        self._stack: list[str] = []
        """The parts that the main thread is in."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        main = threading.current_thread() is threading.main_thread()
        seconds = self.parts[" > ".join([*self._stack, name if main else f"{name} (thread)"])]
        if main:
            self._stack.append(name)
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds.append(time.perf_counter() - began)
            if main:
                self._stack.pop()

    @contextmanager
    def event(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.add_event(name, time.perf_counter() - began)

    def add_event(self, name: str, seconds: float) -> None:
        if self.stage == "SEID":
            self.events[self.interval][name] += seconds

    @contextmanager
    def refine_part(self, name: str) -> Iterator[None]:
        if self.stage != REFINE:
            yield
            return
        began = synchronized_time()
        yield
        self.mark = synchronized_time()
        self.refinement[name].append(self.mark - began)

    def wrap(
        self, owner: Any, name: str, measure: Callable[..., Any], label: str = "", *, kind: bool = False
    ) -> None:
        """Measure a function, in the module or class where it is looked up.

        kind: the label also has its first argument.
        """
        function = owner.__dict__[name]

        @functools.wraps(function)
        def measured(*arguments: Any, **options: Any) -> Any:
            with measure((label or name.strip("_")) + (f" {arguments[0]}" if kind else "")):
                return function(*arguments, **options)

        setattr(owner, name, measured)

    def watch_gc(self) -> None:
        """Garbage collections of a millisecond and more are events."""
        began = [0.0]

        def collected(phase: str, info: dict[str, int]) -> None:
            if phase == "start":
                began[0] = time.perf_counter()
            elif (seconds := time.perf_counter() - began[0]) > 1e-3:
                self.add_event("garbage", seconds)

        gc.callbacks.append(collected)


def synchronized_time() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def watch(clock: Clock) -> None:
    """Measure what loads, what happens in a few steps only, and the parts of the refinement."""
    from specularip import pipeline, raster, run_networks, specular
    from specularip.diffusion.loading import folder, networks, sd15
    from specularip.diffusion.prior import Prior
    from specularip.kernels import cuda_graphs
    from specularip.stages import scr, seid
    from specularip.stages.guide import Guide
    from specularip.training.session import Session

    for name in (
        "check_inputs", "check_memory", "init_ranks", "_prepare", "read_head", "read_faces", "initial_state",
        "make_targets", "write_video",
    ):  # fmt: skip
        clock.wrap(pipeline, name, clock.part)
    for name in ("find_lpips", "load_prior", "load_sd15", "accelerate"):
        clock.wrap(run_networks, name, clock.part)
    clock.wrap(raster, "warm_up", clock.part, "compile the rasteriser")
    clock.wrap(specular, "warm_up", clock.part, "compile the shading")
    clock.wrap(sd15, "load_tokenizer", clock.part)
    clock.wrap(networks, "read_network", clock.part, "read", kind=True)
    clock.wrap(networks, "_build", clock.part, kind=True)
    clock.wrap(networks, "fill", clock.part)
    clock.wrap(sd15, "assemble", clock.part)
    clock.wrap(folder, "load_identity", clock.part)
    clock.wrap(pipeline.Avatar, "save", clock.part, "save the avatar")

    clock.wrap(Session, "save", clock.event, "checkpoint")
    clock.wrap(pipeline, "preview", clock.event)
    clock.wrap(pipeline.RunFolder, "save_checkpoint", clock.event, "write checkpoint (thread)")
    clock.wrap(pipeline.RunFolder, "write_png", clock.event, "write preview (thread)")
    clock.wrap(pipeline.RunFolder, "add_metrics", clock.event, "metrics")
    clock.wrap(seid, "densify_and_prune", clock.event, "densify")
    clock.wrap(seid, "prune", clock.event)
    clock.wrap(cuda_graphs.CapturedGraph, "__init__", clock.event, "capture")
    clock.wrap(cuda_graphs.GraphedFunction, "_capture", clock.event, "capture")
    clock.watch_gc()

    clock.wrap(scr, "draw", clock.refine_part, "render")
    clock.wrap(Guide, "condition", clock.refine_part, "condition")
    clock.wrap(Prior, "encode_image", clock.refine_part, "encode")
    clock.wrap(Prior, "encode_pose", clock.refine_part, "encode pose")
    clock.wrap(Prior, "decode", clock.refine_part, "decode")


def timed_progress(clock: Clock) -> Any:
    """A `Progress` that records when each stage began and when each of its steps was reported."""
    from specularip.progress import Progress

    class TimedProgress(Progress):
        def __init__(self) -> None:
            super().__init__()
            self.times: dict[str, list[float]] = {}

        def start(self, stage: str, total: int, done: int = 0) -> None:
            self.times[stage] = [synchronized_time()]
            clock.stage, clock.interval = stage, 1
            super().start(stage, total, done)

        def step(self, done: int, loss: float | None = None) -> None:
            if clock.stage == REFINE:
                now = synchronized_time()
                clock.refinement["denoising step"].append(now - clock.mark)
                clock.mark = now
            self.times[clock.stage].append(time.perf_counter())
            clock.interval = done + 1
            super().step(done, loss)

    return TimedProgress()


# Results


def step_class(step: int, events: dict[int, dict[str, float]]) -> str:
    """What made a step long. A change of the number of Gaussians also slows the next step, which captures
    and allocates anew."""
    own, before = events.get(step, {}), events.get(step - 1, {})
    if step < FIRST_STEPS:
        return "first steps"
    for name in ("checkpoint", "preview"):
        if name in own:
            return name
    if {"densify", "prune"} & (own.keys() | before.keys()):
        return "densify or prune"
    return next((name for name in ("capture", "garbage") if name in own), "other")


def print_seid(seconds: list[float], points: list[int], events: dict[int, dict[str, float]]) -> None:
    """Windows, slowest steps and excess by class; seconds[i] and points[i] are of step i + 1."""
    print(f"\nSEID: {1e3 * statistics.fmean(seconds):.1f} ms per step")
    print("  from step   mean ms   median ms   Gaussians")
    excess: dict[str, list[float]] = defaultdict(list)
    for first in range(0, len(seconds), WINDOW):
        window = seconds[first : first + WINDOW]
        mean, median = statistics.fmean(window), statistics.median(window)
        count = statistics.fmean(points[first : first + WINDOW] or [0])
        print(f"{first + 1:>11}{1e3 * mean:>10.1f}{1e3 * median:>12.1f}{count:>12.0f}")
        for step, value in enumerate(window, first + 1):
            excess[step_class(step, events)].append(value - median)
    print("\nslowest steps:")
    for step in sorted(range(1, len(seconds) + 1), key=lambda step: -seconds[step - 1])[:SLOWEST]:
        happened = ", ".join(f"{name} {1e3 * s:.0f}" for name, s in events.get(step, {}).items() if s >= 5e-4)
        print(f"{step:>8}{1e3 * seconds[step - 1]:>10.1f} ms  {step_class(step, events):<17} {happened}")
    print("\nin total:          steps   s over the median")
    for name, values in sorted(excess.items(), key=lambda item: -sum(item[1])):
        print(f"{name:<17}{len(values):>7}{sum(values):>20.2f}")


def print_parts(parts: dict[str, list[float]]) -> None:
    print("\nparts, s (nested ones are indented):")
    for path, seconds in parts.items():
        *outer, name = path.split(" > ")
        calls = f"  x{len(seconds)}" if len(seconds) > 1 else ""
        print(f"{sum(seconds):9.3f}  {'  ' * len(outer)}{name}{calls}")


def print_refinement(parts: dict[str, list[float]]) -> None:
    print(f"\nrefinement:{'calls':>17}{'s':>9}{'first ms':>11}{'median of the others':>23}")
    for name, seconds in parts.items():
        others = f"{1e3 * statistics.median(seconds[1:]):.1f}" if seconds[1:] else "-"
        print(f"  {name:<20}{len(seconds):>6}{sum(seconds):>9.2f}{1e3 * seconds[0]:>11.1f}{others:>23}")


def process_age() -> float:
    """Seconds since this process started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--weights", type=Path, required=True, help="folder; written if it is not complete")
    parser.add_argument("--out", type=Path, help="run folder, overwritten; by default in the one of weights")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as for generate")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true", help="tiny networks on the CPU: does this script run?")
    parser.add_argument("--only-write", action="store_true", help="write the weights and do nothing else")
    arguments = parser.parse_args()
    weights: Path = arguments.weights
    if arguments.only_write:
        return write_weights(weights, arguments.tiny)
    began = time.perf_counter()
    zero = began - process_age()
    if not (weights / "lpips" / "lpips.safetensors").is_file():
        # In another process, so that this one imports nothing for it.
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only-write"], check=True)
        zero += time.perf_counter() - began
    os.environ["SPECULARIP_LPIPS"] = str(weights / "lpips")
    encodes = importlib.util.find_spec("imageio_ffmpeg") is not None
    if not encodes:
        sys.modules["imageio_ffmpeg"] = types.ModuleType("imageio_ffmpeg")
    clock = Clock()
    with clock.part("import torch"):
        import torch
    with clock.part("import specularip"):
        from specularip import pipeline
        from specularip.overrides import with_settings
        from specularip.presets import preset_config
        from specularip.training import session
    imported = time.perf_counter()

    pipeline.InsightFace.load = staticmethod(lambda *_: RandomFace(12 if arguments.tiny else 512))
    if not encodes:
        pipeline.write_video = render_only
    watch(clock)
    places = {"base": "base", "ip_adapter": ADAPTER, **{n: n for n in ("vae", "controlnet", "image_encoder")}}
    settings = [f"prior.sources.{name}={weights / place}" for name, place in places.items()]
    if arguments.tiny:
        settings += TINY
        session.PREVIEW_SECONDS, session.CHECKPOINT_SECONDS = 0.5, 1.2
    config = with_settings(preset_config("sd15"), settings + arguments.set)
    out, progress = arguments.out or weights / "run", timed_progress(clock)
    failed = False
    try:
        with progress, clock.part("generate"):
            pipeline.generate(TEXT, PHOTO, out=out, overwrite=out.exists(), config=config, progress=progress)
    except (Exception, KeyboardInterrupt):  # what was measured so far is shown all the same
        failed = True
        traceback.print_exc()
    ended = time.perf_counter()

    times = progress.times
    fit = times.get("SCR fit", [])
    marks = {"imports": imported, **{PHASES[stage]: own[0] for stage, own in times.items()}}
    marks |= {"fit": fit[-1], "finish": ended} if fit else {"until it failed": ended}
    lengths = (b - a for a, b in itertools.pairwise([zero, *marks.values()]))
    phases = {**dict(zip(marks, lengths)), "all": ended - zero}
    report = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "phases": phases,
        "parts": clock.parts,
        "SEID events": clock.events,
        "refinement": clock.refinement,
    }
    print_parts(clock.parts)
    if len(times.get("SEID", [])) > 1:
        seconds = [b - a for a, b in itertools.pairwise(times["SEID"])]
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        points = [int(line["points"]) for line in lines if line["stage"] == "seid"]
        print_seid(seconds, points, clock.events)
        report |= {"SEID s": seconds, "SEID Gaussians": points}
    if "refinement" in phases:
        known = sum(map(sum, clock.refinement.values()))
        clock.refinement["everything else"] = [phases["refinement"] - known]
        print_refinement(clock.refinement)
    print("\nphases from the start of the process, s:")
    for name, value in phases.items():
        print(f"{value:9.2f}  {name}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if failed:
        sys.exit("the run failed")
    peak = json.loads((out / "report.json").read_text())["peak_gpu_gib"]
    print(f"peak of the GPU's memory: {peak} GiB")


if __name__ == "__main__":
    main()
