"""Trials of what may end a process, each a function: torch, numba, the GPU, a render, a step of distillation.

`processes` runs them in another process. Nothing is imported before the trial that needs it.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specularip.doctor.findings import REINSTALL, Finding, shown
from specularip.doctor.system import gpus

if TYPE_CHECKING:
    from torch import Tensor

    from specularip.cameras import Cameras
    from specularip.gaussians import Gaussians

TEXT = "A woman in a red satin dress"
POINTS, SIZE, SMALL = 4000, 512, 64
"""Gaussians of the small avatar; pixels of its picture, and of the one compared with the reference."""
RENDER_SECONDS, STEP_SECONDS = 5.0, 10.0
"""What takes longer is reported as slow."""
LARGEST_MEAN_DIFFERENCE = 1e-3
"""Of two renderings of one avatar, between colours in 0..1. The kernels and the reference differ by 1e-5."""
_REINSTALL = "install it again"
BUSY = "the machine is busy or has few cores: end other programs, or give the container more cores"


def torch_works() -> Finding:
    """That it can be imported and multiplies."""
    import torch

    eye = torch.eye(8)
    if not bool((eye @ eye == eye).all()):
        return Finding(
            "problem",
            f"torch {torch.__version__} multiplies wrongly",
            _REINSTALL,
            REINSTALL,
        )
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPU"
    threads = torch.get_num_threads()
    details = {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "threads": threads,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    return Finding("ok", f"{torch.__version__}, {build} build, {_count(threads, 'thread')}", details=details)


def numba_works() -> Finding:
    """That it compiles, and where it keeps the kernels."""
    import numba

    from specularip.files import check_writable
    from specularip.raster.projection import project

    if numba.njit(lambda x: x + 1)(1) != 2:
        return Finding(
            "problem",
            f"numba {numba.__version__} computes wrongly",
            _REINSTALL,
            REINSTALL,
        )
    cache_path = getattr(project._cache, "cache_path", None)
    text, details = numba.__version__, {"version": numba.__version__, "cache": None, "writable": False}
    advice = "kernels are compiled at every start, 20 to 60 seconds: name a folder that can be written to"
    command = "export NUMBA_CACHE_DIR=~/.cache/numba"
    if cache_path is None:
        return Finding("slow", f"{text}, no folder for compiled kernels", advice, command, details)
    details |= {"cache": shown(cache_path)}
    try:
        check_writable(Path(cache_path) / "kernel.nbi")
    except Exception:
        return Finding("slow", f"{text}, cannot write to {shown(cache_path)}", advice, command, details)
    kept = any(Path(cache_path).glob("*.nbi"))
    details |= {"writable": True, "kept": kept}
    return Finding(
        "ok", f"{text}, kernels {'kept' if kept else 'will be kept'} in {shown(cache_path)}", details=details
    )


def gpu_works() -> Finding:
    """That torch sees the system's GPU and computes on it."""
    import torch

    present = gpus()
    if not torch.cuda.is_available():
        if not present:
            advice = "--preset compact runs without; --preset sd15 needs an NVIDIA GPU with 16 GB"
            return Finding("missing", "no NVIDIA GPU", advice, details={"gpus": []})
        text = f"{present[0]['name']}, which torch does not use"
        details = {"gpus": present, "torch": False}
        if torch.version.cuda is None:
            advice = "this torch is a CPU build: install one with CUDA (https://pytorch.org/get-started)"
            # On other systems than Linux, PyPI has CPU builds, too.
            pypi = "pip install --force-reinstall --index-url https://pypi.org/simple torch"
            return Finding("problem", text, advice, pypi if sys.platform == "linux" else "", details)
        if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            return Finding(
                "problem", text, "CUDA_VISIBLE_DEVICES hides it", "unset CUDA_VISIBLE_DEVICES", details
            )
        advice = (
            f"driver {present[0]['driver']} is too old for CUDA {torch.version.cuda}, or broken: update it"
        )
        return Finding("problem", text, advice, "nvidia-smi", details)
    found: list[dict[str, Any]] = []
    drivers = {gpu["name"]: gpu["driver"] for gpu in present}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        twice = torch.ones(256, device=f"cuda:{index}") * 2
        if float(twice.sum()) != 512:
            return Finding("problem", f"{properties.name} computes wrongly")
        found.append(
            {
                "name": properties.name,
                "compute_capability": f"{properties.major}.{properties.minor}",
                "memory_bytes": total,
                "free_bytes": free,
                "driver": drivers.get(properties.name),
            }
        )
    first = found[0]
    free, total = (first[name] / 2**30 for name in ("free_bytes", "memory_bytes"))
    text = (
        f"{first['name']}, {free:.1f} GiB free of {total:.1f}, "
        f"compute capability {first['compute_capability']}, driver {first['driver'] or 'unknown'}"
    )
    if len(found) > 1:
        text = f"{len(found)} GPUs, the first: {text}"
    details = {"gpus": found, "torch": True, "driver_gpus": present}
    if first["free_bytes"] < 11 * 2**30:
        return Finding(
            "slow", text, "--preset sd15 needs 15 GiB free, 11 with --low-memory", "nvidia-smi", details
        )
    return Finding("ok", text, details=details)


def gsplat_works() -> Finding:
    """That the rasteriser for GPUs can be loaded; builds its kernels if a run would."""
    import torch

    from specularip.errors import UserError
    from specularip.raster.cuda import GSPLAT, check_kernels

    try:
        installed: str | None = version("gsplat")
    except PackageNotFoundError:
        installed = None
    details = {"version": installed, "torch": str(torch.__version__)}
    needless = not torch.cuda.is_available()
    if installed is None:
        if needless:
            return Finding("missing", "not installed; only GPUs need it", details=details)
        advice = "without it, everything renders on the CPU"
        return Finding("missing", "not installed", advice, "pip install 'specularip[cuda]'", details)
    if needless:
        return Finding("missing", f"{installed}, not used: torch sees no GPU", details=details)
    try:
        check_kernels()
    except UserError as error:
        if installed.split("+")[0] != GSPLAT:
            advice, command = f"version {GSPLAT} is needed", "pip install 'specularip[cuda]'"
        elif reason := _foreign_build(installed):
            advice = f"{reason}: install a wheel for this torch, or build it with a CUDA toolkit (nvcc)"
            command = f"pip install --force-reinstall --no-deps --no-binary gsplat gsplat=={GSPLAT}"
        else:
            advice, command = str(error), ""
        return Finding("problem", f"{installed}, not usable", advice, command, details)
    return Finding("ok", installed, details=details)


def _foreign_build(installed: str) -> str:
    """Why the compiled part of gsplat's wheel does not load; "" if it has none. gsplat itself keeps that to
    itself and tries to build."""
    spec = find_spec("gsplat")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not any(path for folder in folders for path in Path(folder).glob("csrc*.*")):
        return ""
    try:
        import gsplat.csrc  # noqa: F401
    except ImportError as error:
        import torch

        built = installed.partition("+")[2]
        return f"built for another torch{built and f' ({built})'} than {torch.__version__} ({error})"[:300]
    return ""


def triton_works() -> Finding:
    """That Triton, whose kernels shade and denoise on GPUs, can be loaded."""
    import torch

    if find_spec("triton") is None:
        if torch.cuda.is_available():
            return Finding(
                "slow", "not installed", "GPUs run slower without its kernels", "pip install triton"
            )
        return Finding("missing", "not installed; only GPUs need it, and torch's CUDA builds bring it")
    import triton

    return Finding("ok", triton.__version__, details={"version": triton.__version__})


def render_works() -> Finding:
    """A small avatar, skin with highlights, by the CPU rasteriser: timed, and compared with the reference."""
    import torch

    from specularip import raster, specular
    from specularip.raster.reference import rasterize_reference

    began = time.perf_counter()
    raster.warm_up()
    specular.warm_up()
    compiled = time.perf_counter() - began
    gaussians, colors, cameras = _small_avatar()
    began = time.perf_counter()
    drawn = _draw(gaussians, colors, cameras)
    seconds = time.perf_counter() - began
    small = cameras.resized(SMALL, SMALL)
    with torch.no_grad():
        exact = rasterize_reference(
            gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, colors,
            small.viewmats, small.Ks, SMALL, SMALL,
        ).image  # fmt: skip
    difference = float((_draw(gaussians, colors, small) - exact).abs().mean())
    covered = float((drawn.amax(-1) > 0.05).float().mean())
    details = {"seconds": round(seconds, 3), "compile_seconds": round(compiled, 2), "difference": difference}
    text = f"{len(gaussians)} Gaussians, {SIZE} x {SIZE} pixels, in {seconds:.2f} s"
    if not difference <= LARGEST_MEAN_DIFFERENCE or not 0.05 < covered < 0.6:
        folder = os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parents[1]
        return Finding(
            "problem",
            f"wrong by {difference:.2g} against the reference",
            "delete the compiled kernels; if that does not help, install numba again",
            f"find {shown(folder)} -name '*.nb[ic]' -delete",
            details,
        )
    if seconds > RENDER_SECONDS:
        return Finding("slow", text, BUSY, details=details)
    return Finding("ok", text, details=details)


def gpu_render_works() -> Finding:
    """The same avatar by gsplat, compared with the CPU's picture."""
    import torch

    from specularip import raster
    from specularip.raster.cuda import GSPLAT, available

    if not available():
        return Finding("missing", "not tried: needs a GPU and gsplat")
    raster.warm_up("cuda")
    gaussians, colors, cameras = _small_avatar()
    on_gpu, gpu_colors, gpu_cameras = gaussians.to("cuda"), colors.cuda(), cameras.to("cuda")
    _draw(on_gpu, gpu_colors, gpu_cameras)
    torch.cuda.synchronize()
    began = time.perf_counter()
    drawn = _draw(on_gpu, gpu_colors, gpu_cameras)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    difference = float((drawn.cpu() - _draw(gaussians, colors, cameras)).abs().mean())
    details = {"seconds": round(seconds, 5), "difference": difference}
    if not difference <= LARGEST_MEAN_DIFFERENCE:
        advice = "the GPU renders wrongly: use the CPU, and install gsplat again"
        return Finding(
            "problem",
            f"off by {difference:.2g} from the CPU's picture",
            advice,
            f"pip install --force-reinstall --no-deps gsplat=={GSPLAT}",
            details,
        )
    return Finding("ok", f"{seconds * 1000:.1f} ms, as on the CPU to {difference:.1g}", details=details)


def distil_works() -> Finding:
    """One step of score distillation with the compact prior, as SEID takes it: gradients are finite."""
    from dataclasses import replace

    from specularip.body import anny_body, phenotype_from_text
    from specularip.diffusion.prompts import PromptBook
    from specularip.kernels.async_transfer import StepMetrics
    from specularip.presets import preset_config
    from specularip.run_networks import load_prior
    from specularip.stages.guide import Guide
    from specularip.stages.initial_state import initial_state
    from specularip.stages.seid import seid

    config = preset_config("compact")
    config = replace(config, seid=replace(config.seid, steps=1, points=POINTS, max_points=POINTS))
    began = time.perf_counter()
    prior = load_prior(config.prior)
    body = anny_body(phenotype_from_text(TEXT))
    guide = Guide(prior, PromptBook(prior), TEXT, prior.null_face(1), body, config)
    state = initial_state(body, config.seid, seed=0)
    loaded = time.perf_counter() - began
    before = state.params["means"].detach().clone()
    steps: list[StepMetrics] = []
    began = time.perf_counter()
    seid(state, guide, 0, lambda done, metrics: steps.append(metrics))
    seconds = time.perf_counter() - began
    gradient = steps[0]["gradient"]
    details = {"seconds": round(seconds, 3), "load_seconds": round(loaded, 2), "gradient": gradient}
    text = f"{config.seid.views_per_step} views in {seconds:.1f} s, loaded in {loaded:.1f} s"
    moved = (state.params["means"].detach() - before).abs()
    if steps[0]["skipped"] or not (gradient > 0 and bool((moved > 0).any() & moved.isfinite().all())):
        return Finding(
            "problem", f"its gradients are not usable ({gradient:.3g})", _REINSTALL, REINSTALL, details
        )
    if seconds > STEP_SECONDS:
        return Finding("slow", text, BUSY, details=details)
    return Finding("ok", text, details=details)


@cache
def _small_avatar() -> tuple[Gaussians, Tensor, Cameras]:
    """The body's skin as Gaussians, their colours [1,N,3] with highlights, and a camera in front."""
    from dataclasses import replace

    import torch

    from specularip.avatar import shade
    from specularip.body import anny_body, phenotype_from_text
    from specularip.cameras import Cameras
    from specularip.stages.initial_state import initial_state
    from specularip.stages.settings import SeidConfig

    body = anny_body(phenotype_from_text(TEXT))
    with torch.no_grad():
        state = initial_state(body, replace(SeidConfig(), points=POINTS), seed=0)
        angle = torch.zeros(1)
        cameras = Cameras.orbit(angle, angle, 1.4 * body.height, 45.0, SIZE, SIZE, torch.zeros(3))
        colors, _ = shade(state.gaussians, state.shared, cameras)
        return state.gaussians, colors.float(), cameras


def _draw(gaussians: Gaussians, colors: Tensor, cameras: Cameras) -> Tensor:
    """[1,H,W,3] on black."""
    import torch

    from specularip.raster import rasterize

    with torch.no_grad():
        return rasterize(
            gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, colors,
            cameras.viewmats, cameras.Ks, cameras.width, cameras.height,
        ).image  # fmt: skip


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
