"""Avatars made and rendered by the command line of any checkout of specularip, in processes of their own.

So a benchmark measures an older version beside the present one in one run, and its own memory does not count
as an avatar's: a child's peak starts at its parent's, so keep the parent small until all runs are done.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from specularip.cameras import Cameras

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
PORTRAIT = ROOT / "examples" / "eileen_collins.jpg"


@dataclass(frozen=True)
class Order:
    """One avatar to be made: its folder's name, the sentence, and the photo."""

    name: str
    text: str
    photo: Path


def is_finished(folder: Path) -> bool:
    return (folder / "report.json").exists()


def make(orders: Sequence[Order], out: Path, checkout: Path = ROOT, jobs: int = 1) -> None:
    """Generate the avatars that OUT lacks, `jobs` at a time; unfinished runs are resumed. Time and memory of
    each go to OUT/NAME.json, its messages to OUT/NAME.log. A failed run is reported and skipped."""
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(lambda order: _generate(order, out, checkout, jobs), orders))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise SystemExit("stopped; the same command goes on") from None


def _generate(order: Order, out: Path, checkout: Path, jobs: int) -> None:
    folder, log_path = out / order.name, out / f"{order.name}.log"
    if is_finished(folder):
        print(f"{order.name}: finished before", flush=True)
        return
    command = [sys.executable, "-m", "specularip", "generate", order.text]
    command += ["--image", str(order.photo.resolve()), "--out", str(folder.resolve())]
    resumed = folder.is_dir() and any((folder / "checkpoints").glob("*.safetensors"))
    if resumed:
        command.append("--resume")
    elif folder.is_dir() and any(folder.iterdir()):
        command.append("--overwrite")
    environment = _environment(checkout)
    if jobs > 1:
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        environment |= {"OMP_NUM_THREADS": threads, "SPECULARIP_NUM_THREADS": threads}
    print(f"{order.name}: {order.text}", flush=True)
    began = time.perf_counter()
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
        # The usage of this child alone; resource.RUSAGE_CHILDREN is the largest of all so far.
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    peak = usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    if process.returncode:
        last = (log_path.read_text().strip().splitlines() or ["no message"])[-1]
        print(f"{order.name}: FAILED with exit code {process.returncode}: {last}", flush=True)
        return
    cost = {"seconds": round(seconds, 1), "peak_gib": round(peak, 2), "jobs": jobs, "resumed": resumed}
    (out / f"{order.name}.json").write_text(json.dumps(cost) + "\n")
    print(f"{order.name}: {seconds:.0f} s, {peak:.2f} GiB", flush=True)


def cost_of(out: Path, name: str) -> dict[str, Any] | None:
    """seconds, peak_gib, jobs and resumed of a run; None if they were not measured."""
    path = out / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def render(folder: Path, cameras: Cameras, checkout: Path = ROOT) -> tuple[Tensor, Tensor]:
    """An avatar's images [V,H,W,3] over grey and alphas [V,H,W], rendered by the checkout that made it."""
    import numpy as np
    import torch

    with tempfile.TemporaryDirectory() as temporary:
        views, drawn = Path(temporary, "cameras.npz"), Path(temporary, "drawn.npz")
        np.savez(views, viewmats=cameras.viewmats, Ks=cameras.Ks, width=cameras.width, height=cameras.height)
        command = [sys.executable, str(Path(__file__)), str(folder), str(views), str(drawn)]
        subprocess.run(command, check=True, env=_environment(checkout), stdin=subprocess.DEVNULL)
        with np.load(drawn) as file:
            return tuple(torch.from_numpy(file[name]).float() / 255 for name in ("image", "alpha"))


def _render_here(folder: str, views: str, drawn: str) -> None:
    """The other end of `render`."""
    import numpy as np
    import torch

    from specularip import Cameras, load

    with np.load(views) as file:
        matrices = torch.from_numpy(file["viewmats"]), torch.from_numpy(file["Ks"])
        cameras = Cameras(*matrices, int(file["width"]), int(file["height"]))
    prepared = load(Path(folder)).prepare()
    frames = [prepared.render(cameras[i]) for i in range(len(cameras))]
    np.savez(
        drawn,
        image=np.concatenate([_bytes(frame.image) for frame in frames]),
        alpha=np.concatenate([_bytes(frame.alpha[..., 0]) for frame in frames]),
    )


def _bytes(values: Tensor) -> Any:
    return (values.clamp(0, 1) * 255).round().byte().numpy()


def _environment(checkout: Path) -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(checkout.resolve() / "src")}


def in_own_process(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function of a module in a process of its own, and wait for it."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} failed")


def machine() -> dict[str, Any]:
    """Where and when a benchmark ran."""
    from importlib.metadata import version

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    _render_here(*sys.argv[1:])
