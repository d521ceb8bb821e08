"""Speed of the rasteriser, compared with a reference in the same process on the same scene.

    python benchmarks/raster.py [--baseline raster_baseline.py --body body.npz] [--quick]
    python benchmarks/raster.py --device cuda

On the CPU the reference is a plain numba rasteriser (its file is an argument; without it, ours runs alone).
On CUDA it is gsplat, called directly. Prints tables and writes results/raster_cpu.json or raster_cuda.json
beside this file.

Scene: N splats on the skin of a person who fills two thirds of the picture, opacities 0.1 to 0.95, seen by
one camera (or by four, a quarter turn apart). With --baseline, its own scene of that kind.

Times are medians in milliseconds, of runs that alternate between ours and the reference, so that both see the
same machine; a ratio is the median over such pairs. *kernels* is compositing, forward and backward, from
sorted splats (the baseline's "forward" and "backward"); *whole* is `rasterize(...)` and `backward()`,
projection and sorting included; *forward only* is `rasterize` without gradients. Threads:
SPECULARIP_NUM_THREADS for ours, numba's own setting for the baseline.

The line "ceiling" is the speed-up by a second thread on this machine for a loop that only multiplies in
registers. If two "processors" are two hardware threads of one core it is 1.0, and no compute-bound kernel can
be much faster on both.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from specularip.kernels import simd
from specularip.raster import cpu, rasterize, warm_up

SIZES = [(1_000, 128), (10_000, 256), (50_000, 512), (100_000, 1024), (500_000, 1024)]
SLOPE = [10_000, 20_000, 50_000, 100_000, 200_000, 500_000]
KERNELS = ("pack", "composite", "composite_backward", "gather")
RESULTS = Path(__file__).parent / "results"


def body_scene(n: int, resolution: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """means, quats, scales, opacities, colors, viewmat [4,4], K [3,3], all float32."""
    from specularip.body.anny import anny_body

    rng = np.random.default_rng(seed)
    samples = anny_body().sample_surface(n, torch.Generator().manual_seed(seed))
    normals = samples.normals.numpy()
    quats = np.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], np.zeros(n)], 1)
    quats[np.linalg.norm(quats, axis=1) < 1e-6] = [0, 1, 0, 0]
    width = 1.1 * float(samples.spacing.median()) * math.sqrt(0.5)
    scales = np.exp(rng.normal(math.log(width), 0.3, (n, 3)))
    scales[:, 2] *= 0.25
    middle = samples.points.numpy().mean(0)
    right, down, forward = np.array([0.5, 0.87, 0]), np.array([0, 0, -1.0]), np.array([-0.87, 0.5, 0])
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.stack([right, down, forward])
    viewmat[:3, 3] = -viewmat[:3, :3] @ (middle - 2.3 * forward)
    focal = 0.5 * resolution / math.tan(math.radians(22.5))
    K = np.array([[focal, 0, resolution / 2], [0, focal, resolution / 2], [0, 0, 1]])
    parts = (samples.points.numpy(), quats, scales, rng.uniform(0.1, 0.95, n), rng.random((n, 3)), viewmat, K)
    return tuple(part.astype(np.float32) for part in parts)


class Ours:
    """Our rasteriser on one scene; `once` times it and adds up its kernels."""

    def __init__(self, scene: tuple[np.ndarray, ...], resolution: int) -> None:
        *splats, viewmat, K = (torch.from_numpy(part.copy()) for part in scene)
        self.splats = [tensor.requires_grad_() for tensor in splats]
        self.camera = (viewmat[None], K[None], resolution, resolution)
        self.upstream = torch.ones(1, resolution, resolution, 3)

    def once(self) -> dict[str, float]:
        kernels: dict[str, float] = defaultdict(float)
        share_out = cpu.share_out

        def timed(kernel: Any, *arguments: Any, **options: Any) -> None:
            began = time.perf_counter()
            share_out(kernel, *arguments, **options)
            kernels[kernel.__name__] += time.perf_counter() - began

        for tensor in self.splats:
            tensor.grad = None
        cpu.share_out = timed
        try:
            began = time.perf_counter()
            raster = rasterize(*self.splats, *self.camera)
            raster.image.backward(self.upstream)
            whole = time.perf_counter() - began
        finally:
            cpu.share_out = share_out
        began = time.perf_counter()
        with torch.no_grad():
            rasterize(*self.splats, *self.camera)
        picture = time.perf_counter() - began
        return {
            "kernels": 1e3 * sum(kernels[name] for name in KERNELS),
            "whole": 1e3 * whole,
            "picture": 1e3 * picture,
        }


def baseline_once(baseline: ModuleType, scene: tuple[np.ndarray, ...], resolution: int) -> dict[str, float]:
    (project, forward, backward), _ = baseline.once(scene, resolution)
    return {
        "kernels": forward + backward,
        "whole": project + forward + backward,
        "picture": project + forward,
    }


def load_baseline(path: Path) -> ModuleType:
    # By name, not by file: numba's cache imports it again.
    sys.path.insert(0, str(path.resolve().parent))
    return importlib.import_module(path.stem)


def set_threads(threads: int) -> None:
    os.environ["SPECULARIP_NUM_THREADS"] = str(threads)
    numba.set_num_threads(threads)


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.median([run[key] for run in runs])) for key in runs[0]}


def measure(scene, resolution: int, threads: int, baseline: ModuleType | None, runs: int) -> dict[str, Any]:
    """Medians of ours and, with `baseline`, of it and of the ratio of each pair of runs."""
    set_threads(threads)
    ours = Ours(scene, resolution)
    mine, theirs = [], []
    for index in range(runs + 2):
        one = ours.once()
        other = baseline_once(baseline, scene, resolution) if baseline else None
        if index >= 2:  # the first two compile, and fill caches
            mine.append(one)
            theirs += [other] if other else []
    row: dict[str, Any] = {"ours": medians(mine)}
    if theirs:
        row["baseline"] = medians(theirs)
        row["ratio"] = medians([{k: a[k] / b[k] for k in a} for a, b in zip(mine, theirs)])
    return row


@numba.njit(nogil=True)
def _multiply(times, numbers):
    """Ten independent chains of multiply-add in registers."""
    a, b, c, d, e = (simd.load(numbers, 0), simd.load(numbers, 16), simd.load(numbers, 32),
                     simd.load(numbers, 48), simd.load(numbers, 64))  # fmt: skip
    f, g, h, i, j = a, b, c, d, e
    factor, term = simd.fill(np.float32(0.999)), simd.fill(np.float32(0.001))
    for _ in range(times):
        a, b, c, d, e = (
            a * factor + term,
            b * factor + term,
            c * factor + term,
            d * factor + term,
            e * factor + term,
        )
        f, g, h, i, j = (
            f * term + factor,
            g * term + factor,
            h * term + factor,
            i * term + factor,
            j * term + factor,
        )
    simd.store(numbers, 0, a + b + c + d + e + f + g + h + i + j)


def ceiling() -> float:
    """Speed-up of two threads over one, in pure arithmetic."""
    times = 10_000_000
    arrays = [np.ones(96, np.float32) for _ in range(2)]
    _multiply(10, arrays[0])
    ratios = []
    for _ in range(5):
        began = time.perf_counter()
        _multiply(times, arrays[0])
        alone = time.perf_counter() - began
        both = [threading.Thread(target=_multiply, args=(times, array)) for array in arrays]
        began = time.perf_counter()
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        ratios.append(2 * alone / (time.perf_counter() - began))
    return float(np.median(ratios))


def slope(sizes: list[int], times: list[float]) -> float:
    """Of the straight line through log time over log size."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def run_cpu(baseline: ModuleType | None, body: Path | None, quick: bool) -> dict[str, Any]:
    def make(n: int, resolution: int) -> tuple[np.ndarray, ...]:
        return baseline.scene(body, n, resolution) if baseline else body_scene(n, resolution)

    warm_up()
    results: dict[str, Any] = {"ceiling": ceiling(), "sizes": [], "slope": {}}
    print(f"ceiling: a second thread makes pure arithmetic {results['ceiling']:.2f} times as fast here\n")
    columns = "splats, image, threads, kernels, whole, forward only, kernels / baseline, whole / baseline"
    print(f"| {columns.replace(', ', ' | ')} |")
    print("|---|---|---|---|---|---|---|---|")
    for n, resolution in SIZES[2:3] if quick else SIZES:
        scene = make(n, resolution)
        for threads in (1, 2):
            row = measure(scene, resolution, threads, baseline, runs=5 if n > 100_000 else 11)
            results["sizes"].append({"splats": n, "image": resolution, "threads": threads, **row})
            times = [f"{row['ours'][key]:.1f} ms" for key in ("kernels", "whole", "picture")]
            ratios = [f"{row['ratio'][key]:.3f}" if "ratio" in row else "" for key in ("kernels", "whole")]
            cells = [n, f"{resolution}²", threads, *times, *ratios]
            print("|", " | ".join(map(str, cells)), "|", flush=True)
    for one, two in zip(results["sizes"][::2], results["sizes"][1::2]):
        gain = {key: one["ours"][key] / two["ours"][key] for key in ("kernels", "whole")}
        two["gain"] = gain
        print(f"\ntwo threads over one, {one['splats']} splats: kernels {gain['kernels']:.2f}", end="")
        print(f", whole {gain['whole']:.2f}", end="")
    print("\n")
    if not quick:
        rows = [measure(make(n, 512), 512, 2, None, 7)["ours"] for n in SLOPE]
        for key in ("whole", "picture"):
            times = [row[key] for row in rows]
            exponent = slope(SLOPE, times)
            results["slope"][key] = {"splats": SLOPE, "ms": times, "slope": exponent}
            listed = ", ".join(f"{time:.1f}" for time in times)
            print(f"{key} at 512², 10k to 500k splats: {listed} ms, log-log slope {exponent:.2f}")
    return results


class OnCuda:
    """One scene on the GPU, rendered by our `rasterize` or by gsplat's `rasterization`, both with colour and
    depth."""

    def __init__(self, n: int, resolution: int, cameras: int) -> None:
        *arrays, viewmat, K = body_scene(n, resolution)
        self.splats = [torch.from_numpy(array).cuda().requires_grad_() for array in arrays]
        self.resolution = resolution
        middle = torch.from_numpy(arrays[0].mean(0))
        views = []
        for quarter in range(cameras):
            turn = torch.eye(4)
            c, s = math.cos(quarter * math.pi / 2), math.sin(quarter * math.pi / 2)
            turn[:2, :2] = torch.tensor([[c, -s], [s, c]])
            turn[:3, 3] = middle - turn[:3, :3] @ middle
            views.append(torch.from_numpy(viewmat) @ turn)
        self.cameras = (torch.stack(views).cuda(), torch.from_numpy(K).cuda().repeat(cameras, 1, 1))
        self.weight = torch.randn(cameras, resolution, resolution, 4, device="cuda")

    def draw(self, kind: str) -> list[Tensor]:
        size = (self.resolution, self.resolution)
        if kind == "ours":
            raster = rasterize(*self.splats, *self.cameras, *size)
            return [raster.image, raster.depth]
        from gsplat import rasterization

        packed = kind == "packed"
        return [rasterization(*self.splats, *self.cameras, *size, packed=packed, render_mode="RGB+ED")[0]]

    def forward(self, kind: str) -> None:
        with torch.no_grad():
            self.draw(kind)

    def forward_and_backward(self, kind: str) -> None:
        drawn = self.draw(kind)
        weights = [self.weight[..., :3], self.weight[..., 3:]] if len(drawn) == 2 else [self.weight]
        torch.autograd.backward(drawn, weights)


def run_cuda() -> dict[str, Any]:
    results: dict[str, Any] = {"rows": []}
    print("| splats | image | cameras | | ours | gsplat | gsplat, packed | ours / gsplat |")
    print("|---|---|---|---|---|---|---|---|")
    for n, resolution, cameras in ((100_000, 1024, 1), (100_000, 1024, 4), (500_000, 1024, 1)):
        scene = OnCuda(n, resolution, cameras)
        for function in (scene.forward, scene.forward_and_backward):
            what = function.__name__.replace("_", " ")
            times = alternate(function, ("ours", "gsplat", "packed"))
            ratio = float(np.median(np.array(times["ours"]) / np.array(times["gsplat"])))
            row = {key: float(np.median(values)) for key, values in times.items()}
            facts = {"splats": n, "image": resolution, "cameras": cameras, "what": what}
            results["rows"].append({**facts, **row, "ratio": ratio})
            cells = [n, f"{resolution}²", cameras, what, *(f"{t:.3f} ms" for t in row.values())]
            print("|", " | ".join(map(str, cells)), f"| {ratio:.3f} |", flush=True)
    results["agreement"] = agreement()
    print(f"\nagreement with the CPU path, 20k splats at 256²: {results['agreement']}")
    return results


def alternate(
    function: Callable[[str], None], kinds: tuple[str, ...], rounds: int = 40, repeats: int = 5
) -> dict[str, list[float]]:
    """Milliseconds per call: `rounds` figures of each kind, each the mean of `repeats` calls between two
    synchronisations."""
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for index in range(rounds + 3):
        for kind in kinds:
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(repeats):
                function(kind)
            torch.cuda.synchronize()
            if index >= 3:
                times[kind].append(1e3 * (time.perf_counter() - began) / repeats)
    return times


def agreement() -> dict[str, float]:
    """CUDA against CPU: the largest difference of a well-defined pixel, the share of
    such pixels, and the relative difference of each gradient of a loss on them.

    A pixel is well defined if the CPU's own image hardly changes there when positions change by a few float32
    roundings. Elsewhere two splats at the same depth may swap order, or a value may lie at a threshold.
    """
    size = 256
    *splats, viewmat, K = (torch.from_numpy(part.copy()) for part in body_scene(20_000, size))
    camera = (viewmat[None], K[None])

    def image(means: Tensor) -> Tensor:
        return rasterize(means, *splats[1:], *camera, size, size).image

    still, sure = image(splats[0]), torch.ones(1, size, size, 1)
    for _ in range(8):
        moved = image(splats[0] * (1 + 3e-7 * torch.randn_like(splats[0])))
        sure *= ((moved - still).abs().amax(-1, keepdim=True) < 5e-4).float()
    weight = torch.randn(still.shape) * sure

    def draw(device: str) -> tuple[Tensor, list[Tensor]]:
        leaves = [tensor.to(device).detach().requires_grad_() for tensor in splats]
        drawn = rasterize(*leaves, *(tensor.to(device) for tensor in camera), size, size).image
        gradients = torch.autograd.grad((drawn * weight.to(device)).sum(), leaves)
        return drawn.detach().cpu(), [gradient.cpu() for gradient in gradients]

    (one, gradients), (other, others) = draw("cpu"), draw("cuda")
    relative = [float((a - b).norm() / a.norm()) for a, b in zip(gradients, others)]
    names = ("means", "quats", "scales", "opacities", "colors")
    return {
        "image": float(((one - other) * sure).abs().max()),
        "well defined": float(sure.mean()),
        **dict(zip(names, relative)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--baseline", type=Path, help="the reference's Python file, with scene() and once()")
    parser.add_argument("--body", type=Path, help="npz with v and f, for the baseline's scene")
    parser.add_argument("--quick", action="store_true", help="50k splats at 512² alone")
    arguments = parser.parse_args()
    if (arguments.baseline is None) != (arguments.body is None):
        parser.error("--baseline and --body go together")
    where = (
        torch.cuda.get_device_name()
        if arguments.device == "cuda"
        else f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors"
    )
    print(f"{time.strftime('%Y-%m-%d')} · {where} · torch {torch.__version__} · numba {numba.__version__}\n")
    if arguments.device == "cuda":
        results = run_cuda()
    else:
        results = run_cpu(
            load_baseline(arguments.baseline) if arguments.baseline else None, arguments.body, arguments.quick
        )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"raster_{arguments.device}.json"
    path.write_text(json.dumps({"machine": where, "torch": torch.__version__, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
