"""Time and memory of a step of the sd15 preset at full size: ours, diffusers' modules, and torch.compile.

    python benchmarks/sd15.py [--steps 10] [--places 300 1500] [--refine] [--low-memory] [--fit] [--variants]
        [--sides NAME,NAME...] [--json FILE]

The networks have random weights of the published sizes (tools/sd15), which cost what the real ones do. Every
side runs `stages.seid` at the preset's settings, one side after the other on the same GPU: 100,000 Gaussians,
four renders of 1024², 512² into the autoencoder, guidance in three branches, regularisers, Adam. By default
these are measured:

    reference     as published code runs: diffusers' modules in float16 with PyTorch's fused attention, not
                  compiled or captured; renders camera by camera, with depth; poses and highlights (the
                  published network, see specular.py) in plain PyTorch; each step waits for its loss
    ours          as `generate` runs it
    low-memory    ours with --low-memory's settings (only with --low-memory)

and with `--variants`, to see what our own GPU code gains over torch.compile, all with our renderer, poses and
asynchronous metrics:

    eager             diffusers' modules
    compiled          each network compiled as a whole, channels last, with the fastest library kernels
    compiled-graphs   the same with the compiler's own CUDA graphs
    regional          transformer blocks and resnets compiled one by one; equal ones share code
    plain-ops         ours, with plain-torch operations in place of the Triton kernels
    compiled-ops      ours, with those operations compiled
    no-graphs         ours, without CUDA graphs

`--sides` chooses by name. A step's time is the mean wall-clock time of steps from several places of the
stage; each place is run twice with the same views and noise, and the second run counts. Ours skips
evaluations whose guidance weight is 0 (of the negative prompt, for views with little noise) and gets faster
as the noise falls; the other networks run all of them. The first step includes everything that happens once:
compiling, autotuning, capturing CUDA graphs. torch.compile starts from empty caches, but our own kernels that
an earlier side compiled need not be compiled again. Ours may only allocate the GPU memory that its settings
promise.

Also measured: the parts of a step alone, by GPU time and with all evaluations; the error of gradients against
float32; with `--refine` the refinement of the orbit, by the reference one view at a time; with `--fit` the
fit of SCR, with random LPIPS weights.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.body import HeadEllipsoid, anny_body, phenotype_from_text, skeleton
from specularip.cameras import Cameras, orbit_views
from specularip.diffusion.conditioning import Condition
from specularip.diffusion.denoiser import DenoiserInputs
from specularip.diffusion.fast.accelerate import accelerate
from specularip.diffusion.fast.layers import fast_kernels
from specularip.diffusion.prior import Prior
from specularip.diffusion.prompts import PromptBook
from specularip.diffusion.refine import refine
from specularip.diffusion.sds import SdsResult, sds
from specularip.gaussians import Gaussians
from specularip.kernels.async_transfer import StepMetrics
from specularip.kernels.cuda_graphs import GraphedFunction
from specularip.lpips import VGG_CONVOLUTIONS, VGG_WIDTHS, Lpips
from specularip.machine import FULL_GIB, LOW_GIB
from specularip.presets import preset_config, with_low_memory
from specularip.raster import Raster, rasterize
from specularip.raster import warm_up as warm_up_raster
from specularip.specular import warm_up as warm_up_shading
from specularip.stages import guide as guide_module
from specularip.stages import seid as seid_module
from specularip.stages.guide import Guide, as_images, draw
from specularip.stages.initial_state import AvatarState, initial_state
from specularip.stages.scr import Targets, cropped, fit_targets, orbits
from specularip.stages.settings import Config
from specularip.stages.views import step_views

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tools" / "sd15")]
from random_weights import random_prior  # noqa: E402
from sd15_variants import (  # noqa: E402
    compile_networks,
    compiled_graphs,
    compiled_operations,
    empty_compiler_caches,
    plain_operations,
)
from specular import FEATURES, Published  # noqa: E402

TEXT = "A woman in a red satin dress"
PLACES = (300, 900, 1500, 2100)
"""First steps of the timed runs: highlights are on, and nothing densifies for a while."""
WARM_STEPS = 3
VIEWS = 4
TINY: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": (32, 32, 64, 64), "sample_size": 8},
    "controlnet": {"block_out_channels": (32, 32, 64, 64)},
    "vae": {"block_out_channels": (32, 32, 64, 64)},
    "text_encoder": {"num_hidden_layers": 1},
}


# The reference: `draw`, `sds` and `draw_skeleton` as published code computes them


def published_draw(seed: int, points: int, device: torch.device) -> Callable[..., tuple[Raster, Tensor]]:
    """`guide.draw`, one camera after the other, with highlights from the published ASG network."""
    network = Published(seed).to(device)
    features = (0.1 * torch.randn(points, FEATURES, device=device)).requires_grad_()

    def draw_published(
        gaussians: Gaussians, head: object, cameras: Cameras, background: float, gain: float = 1.0
    ) -> tuple[Raster, Tensor]:
        cameras = cameras.to(device)
        grey = torch.full((3,), background, device=device)
        fields = {**gaussians.parameters(), "features": features}
        drawn, highlights = [], []
        for index in range(len(cameras)):
            camera = cameras[torch.tensor([index])]
            colors = network.colors(fields, camera, 1.0)
            highlights.append(colors - gaussians.diffuse)
            drawn.append(
                rasterize(
                    gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, colors,
                    camera.viewmats, camera.Ks, camera.width, camera.height, grey,
                )
            )  # fmt: skip
        parts = {k: torch.cat([getattr(d, k) for d in drawn]) for k in Raster.__dataclass_fields__}
        return Raster(**parts), torch.cat(highlights)

    return draw_published


def full_sds(
    prior: Prior, images: Tensor, condition: Condition, timesteps: Tensor, *rest: Any, **options: Any
) -> SdsResult:
    """`sds` with all evaluations: with timesteps on the GPU, it skips none."""
    return sds(prior, images, condition, timesteps.to(images.device), *rest, **options)


def plain_skeleton(
    keypoints: Tensor, head: HeadEllipsoid, cameras: Cameras, size: int, device: torch.device
) -> Tensor:
    """`draw_skeleton` without its kernel."""
    visible = skeleton.visible_keypoints(keypoints, head, cameras)
    xy = cameras.resized(size, size).project(keypoints)[0]
    return skeleton._draw(xy.to(device), visible.to(device), size)


# Timing


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """Median GPU time of several runs; on the CPU, wall-clock time of one."""
    work()
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - began)
    times = []
    for _ in range(7):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        work()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after))
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def limit_memory(device: torch.device, gib: float | None) -> None:
    """Free cached memory, reset the peak, and let the allocator take `gib` at most; None: all there is."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        total = torch.cuda.get_device_properties(device).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, (gib or total) / total))


def memory(device: torch.device, prefix: str = "") -> dict[str, float]:
    """Peak GPU memory. Reserved memory includes what captured graphs keep between replays."""
    cuda = device.type == "cuda"
    return {
        f"{prefix}peak GiB": torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0,
        f"{prefix}reserved GiB": torch.cuda.max_memory_reserved() / 2**30 if cuda else 0.0,
    }


class _Enough(Exception):
    """Ends a stage after the steps to be timed."""


def time_steps(
    guide: Guide, state: AvatarState, first: int, count: int, warm: int = WARM_STEPS, *, wait: bool
) -> list[float]:
    """Seconds of each of `count` steps of SEID, after `warm` more from step `first` on.

    wait: read each step's metrics at once; else one step later, as a run does.
    """
    times = [time.perf_counter()]
    pending: list[StepMetrics] = []

    def after_step(done: int, metrics: StepMetrics) -> None:
        pending.append(metrics)
        if len(pending) > 1 or wait:
            values = dict(pending.pop(0))
            if not all(value == value for value in values.values()):
                raise RuntimeError(f"not finite up to step {done}: {values}")
        times.append(time.perf_counter())
        if len(times) > count + warm:
            raise _Enough

    try:
        seid_module.seid(state, guide, None, first, after_step)
    except _Enough:
        pass
    return [b - a for a, b in zip(times[warm:], times[warm + 1 :])]


def refine_seconds(guide: Guide, state: AvatarState, batch: int, steps: int) -> float:
    """Seconds of refining the preset's orbit."""
    config = guide.config.scr
    guidance = config.guidance or guide.config.guidance
    views = orbit_views(
        config.orbit_views, orbits(config)[0][0], size=config.render_size, body_height=guide.body.height,
        elevation_deg=config.elevation_deg,
    )  # fmt: skip
    with torch.no_grad():
        renders = [
            as_images(draw(state.gaussians, state.shared, views.cameras[rows], guide.config.background)[0], 3)
            for rows in torch.arange(config.orbit_views).split(VIEWS)
        ]
    images, condition = torch.cat(renders).clamp(0, 1), guide.condition(views, guidance, config.refine_size)
    synchronize(images.device)
    began = time.perf_counter()
    refine(
        guide.prior, images, condition, views.azimuth_deg, refine_steps=steps, ddim_steps=config.ddim_steps,
        scale=guidance.scale, size=config.refine_size, own_share=config.own_share, batch=batch, vae_batch=1,
    )  # fmt: skip
    synchronize(images.device)
    return time.perf_counter() - began


def random_lpips(device: torch.device) -> Lpips:
    weights: dict[str, Tensor] = {}
    channels = 3
    for k, (block, width) in enumerate(zip(VGG_CONVOLUTIONS, VGG_WIDTHS)):
        for n in block:
            spread = (2 / (9 * channels)) ** 0.5
            weights[f"features.{n}.weight"] = spread * torch.randn(width, channels, 3, 3)
            weights[f"features.{n}.bias"], channels = torch.zeros(width), width
        weights[f"lin{k}"] = torch.rand(width)
    return Lpips(weights, device)


def fit_speed(config: Config, device: torch.device, warm: int, count: int) -> float:
    """Steps per second of SCR's fit after `warm` steps, with as many Gaussians as SEID may have."""
    body, scr = anny_body().to(device), config.scr
    state = initial_state(body, replace(config.seid, points=config.seid.max_points), 0, device)
    views = orbit_views(
        scr.orbit_views, orbits(scr)[0][0], size=scr.render_size, body_height=body.height,
        elevation_deg=scr.elevation_deg,
    )  # fmt: skip
    images = torch.rand(scr.orbit_views, 3, 8, 8, device=device)
    images = F.interpolate(images, (scr.render_size,) * 2, mode="bicubic").clamp(0, 1)
    cameras, images = cropped(views.cameras, images, scr)
    targets = Targets(
        cameras.viewmats.to(device), cameras.Ks.to(device), images, cameras.width, cameras.height
    )
    pending: list[StepMetrics] = []
    times: list[float] = []

    def after_step(done: int, metrics: StepMetrics) -> None:
        pending.append(metrics)
        if len(pending) > 1:
            dict(pending.pop(0))
        if done in (warm, warm + count):
            synchronize(device)
            times.append(time.perf_counter())

    guide: Any = SimpleNamespace(config=replace(config, scr=replace(scr, fit_steps=warm + count)))
    fit_targets(state, guide, None, targets, random_lpips(device), 0, after_step)
    return count / (times[1] - times[0])


# Gradients


def encode_gradient(prior: Prior, images: Tensor, weight: Tensor) -> Tensor:
    """Gradient on the images of the inner product of their latents with `weight`."""
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad(prior.encode_image(leaf), leaf, weight)[0]


def sds_gradient(prior: Prior, images: Tensor, noise: Tensor, inputs: DenoiserInputs) -> Tensor:
    """The gradient of score distillation with ANPG on images, not clipped."""
    leaf, timesteps = images.clone().requires_grad_(), inputs.timesteps
    latents = prior.encode_image(leaf)
    with torch.no_grad():
        noisy = prior.add_noise(latents, noise, timesteps)
        positive, negative, null = prior.predict_noise(replace(inputs, noisy=noisy)).chunk(3)
        little = (timesteps < 170)[:, None, None, None]
        direction = 7.5 * (positive - null) + torch.where(little, null, null - negative)
    return torch.autograd.grad(latents, leaf, (1 - prior.alphas(timesteps)) * direction)[0]


def relative_error(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth.double()).norm() / truth.double().norm())


def random_inputs(prior: Prior) -> DenoiserInputs:
    """For VIEWS views and three branches of guidance."""
    generator = torch.Generator().manual_seed(0)
    size, latent, device = prior.image_size, prior.latent_size, prior.device
    width = int(prior.denoiser.unet.config.cross_attention_dim)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    return DenoiserInputs(
        noisy=normal(VIEWS, 4, latent, latent),
        timesteps=torch.linspace(50, 800, VIEWS).long().to(device),
        text=normal(3 * VIEWS, 77, width),
        pose=torch.rand(VIEWS, 3, size, size, generator=generator).to(device),
        identity=normal(3 * VIEWS, 4, width),
        identity_scale=torch.rand(3 * VIEWS, generator=generator).to(device),
    )


# Sides


Context = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Side:
    """One way to compute a step, within `context`.

    prepare: takes a plain prior and returns the one to run. published: drawing as in published code, without
    asynchronous metrics. all_evaluations: see `full_sds`; on a GPU, the shapes then stay the same. gib:
    memory it may take. variant: only the networks' parts of the step are measured alone, and no refinement.
    """

    prepare: Callable[[Prior], Prior] = lambda prior: prior
    context: Context = nullcontext
    published: bool = False
    all_evaluations: bool = False
    gib: float | None = None
    variant: bool = True


def all_sides(backend: str) -> dict[str, Side]:
    """By name, in the order in which they run. backend: of torch.compile."""

    def compiled(**options: bool) -> Side:
        def prepare(prior: Prior) -> Prior:
            compile_networks(prior, backend, **options)
            return prior

        @contextmanager
        def context() -> Iterator[None]:
            autotune = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True)
            with empty_compiler_caches(), fast_kernels(), autotune:
                yield

        return Side(prepare, context, all_evaluations=True)

    return {
        "reference": Side(published=True, all_evaluations=True, variant=False),
        "eager": Side(all_evaluations=True),
        "compiled": compiled(),
        "compiled-graphs": compiled(graphs=True),
        "regional": compiled(blocks=True),
        "ours": Side(accelerate, gib=FULL_GIB, variant=False),
        "plain-ops": Side(accelerate, plain_operations),
        "compiled-ops": Side(accelerate, lambda: compiled_operations(backend)),
        "no-graphs": Side(lambda prior: accelerate(prior, graphs=False)),
        "low-memory": Side(accelerate, gib=LOW_GIB, variant=False),
    }


def tiny_config() -> Config:
    config = preset_config("sd15")
    seid = replace(config.seid, points=500, render_size=64)
    scr = replace(config.scr, orbit_views=8, render_size=64, refine_size=64)
    return replace(config, device="cpu", seid=seid, scr=scr)


class Bench:
    """What all sides share, and their results."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = device = torch.device("cpu" if arguments.tiny else "cuda")
        self.config = tiny_config() if arguments.tiny else preset_config("sd15")
        self.results: dict[str, dict[str, Any]] = {}
        with tempfile.TemporaryDirectory() as folder:
            exact = random_prior(Path(folder), device, torch.float32, TINY if arguments.tiny else None)
        self.inputs = random_inputs(exact)
        # In the layout of renders: networks that were compiled for those need no second compilation.
        self.images = torch.rand(VIEWS, 3, exact.image_size, exact.image_size, device=device)
        self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.noise = torch.randn(VIEWS, 4, exact.latent_size, exact.latent_size, device=device)
        self.truth = self.gradients(exact)
        # Sides change weights in place: each copies these, which wait on the CPU.
        self.template = exact.to("cpu", torch.float32 if arguments.tiny else torch.float16)
        self.body = anny_body(phenotype_from_text(TEXT)).to(device)

    def gradients(self, prior: Prior) -> tuple[Tensor, Tensor]:
        encoded = encode_gradient(prior, self.images, self.noise)
        return encoded, sds_gradient(prior, self.images, self.noise, self.inputs)

    def add(self, name: str, values: dict[str, Any]) -> None:
        self.results.setdefault(name, {}).update(values)
        print(f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)
        if self.arguments.json:
            self.arguments.json.write_text(json.dumps(self.results, indent=1) + "\n")

    def measure(self, name: str, side: Side) -> bool:
        """Whether it worked; if not, the error is printed, so that the next side can run."""
        limit_memory(self.device, side.gib)
        try:
            with ExitStack() as stack:
                stack.enter_context(side.context())
                draw_function = draw
                if side.published:
                    draw_function = published_draw(0, self.config.seid.points, self.device)
                    stack.enter_context(patch.object(guide_module, "draw_skeleton", plain_skeleton))
                if side.all_evaluations:
                    stack.enter_context(patch.object(seid_module, "sds", full_sds))
                stack.enter_context(patch.object(seid_module, "draw", draw_function))
                self._measure(name, side, draw_function)
        except Exception:
            print(f"{name} failed:\n{traceback.format_exc()}", flush=True)
            return False
        return True

    def _measure(self, name: str, side: Side, draw_function: Callable[..., Any]) -> None:
        arguments, device = self.arguments, self.device
        config = with_low_memory(self.config) if side.gib == LOW_GIB else self.config
        prior = side.prepare(copy.deepcopy(self.template).to(device))
        limit_memory(device, side.gib)
        face = F.normalize(torch.randn(1, prior.identity_dim, device=device), dim=-1)
        guide = Guide(prior, PromptBook(prior), TEXT, face, self.body, config)

        def new_state() -> AvatarState:
            return initial_state(self.body, config.seid, 0, device)

        def run(place: int) -> list[float]:
            return time_steps(guide, new_state(), place, arguments.steps, wait=side.published)

        first = time_steps(guide, new_state(), arguments.places[0], 1, 0, wait=True)[0]
        print(f"{name}: first step {first:.1f} s", flush=True)
        times = {}
        for place in arguments.places:
            run(place)
            times[place] = run(place)
        means = {place: 1e3 * statistics.fmean(part) for place, part in times.items()}
        self.add(name, {
            "step ms": statistics.fmean(means.values()), **{f"from {p}": ms for p, ms in means.items()},
            "slowest ms": 1e3 * max(max(part) for part in times.values()), "first step s": first,
            **memory(device),
        })  # fmt: skip
        if side.gib != LOW_GIB:
            self.add(name, self.parts(guide, new_state(), draw_function, networks_only=side.variant))
            encoded, distilled = self.gradients(prior)
            self.add(name, {
                "error of encode's gradient": relative_error(encoded, self.truth[0]),
                "error of SDS' gradient": relative_error(distilled, self.truth[1]),
                **compiled_graphs(),
            })  # fmt: skip
        if arguments.refine and not side.variant:
            prior.release_graphs()
            limit_memory(device, side.gib)
            batch = 1 if side.published else config.scr.refine_batch
            refine_seconds(guide, new_state(), batch, 1)  # compiles and autotunes kernels
            seconds = refine_seconds(guide, new_state(), batch, arguments.refine_steps)
            self.add(name, {"refine s": seconds, **memory(device, "refine ")})

    def parts(
        self, guide: Guide, state: AvatarState, draw_function: Callable[..., Any], *, networks_only: bool
    ) -> dict[str, float]:
        """Milliseconds of each part of a step alone."""
        prior, config = guide.prior, guide.config.seid
        views = step_views(config, PLACES[0], guide.body.height, torch.Generator().manual_seed(1))

        def denoise() -> None:
            with torch.no_grad():
                prior.denoiser(self.inputs)

        def render() -> None:
            raster, specular = draw_function(
                state.gaussians, state.shared, views.cameras, guide.config.background, 1.0
            )
            (raster.image.square().mean() + specular.square().mean()).backward()

        parts: dict[str, Callable[[], object]] = {
            "encode and its gradient": lambda: encode_gradient(prior, self.images, self.noise),
            "denoise": denoise,
        }
        if not networks_only:
            parts["render, highlights, gradients"] = render
            parts["condition"] = lambda: guide.condition(views)
        return {name: milliseconds(work, self.device) for name, work in parts.items()}

    def fit(self) -> None:
        limit_memory(self.device, FULL_GIB)
        warm, count = (2, 2) if self.arguments.tiny else (20, 200)
        speed = fit_speed(self.config, self.device, warm, count)
        self.add("ours", {"fit steps per second": speed, **memory(self.device, "fit ")})
        with patch.object(GraphedFunction, "__call__", lambda graphed, *a, **k: graphed.function(*a, **k)):
            speed = fit_speed(self.config, self.device, warm, count)
        self.add("ours", {"fit steps per second without CUDA graphs": speed})

    def print_table(self) -> None:
        ours = self.results.get("ours", {})
        print(
            f"\n{'side':<14}{'step ms':>9}{'of ours':>9}{'first step s':>14}{'peak GiB':>10}{'refine s':>10}"
        )
        for name, found in self.results.items():
            if "step ms" not in found:
                continue
            ratio = f"{found['step ms'] / ours['step ms']:.3f}" if "step ms" in ours else "-"
            refined = f"{found['refine s']:.1f}" if "refine s" in found else "-"
            print(
                f"{name:<14}{found['step ms']:>9.1f}{ratio:>9}{found['first step s']:>14.1f}"
                f"{found['peak GiB']:>10.2f}{refined:>10}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=10, help="timed at each place")
    parser.add_argument("--places", type=int, nargs="+", default=PLACES, help="where timed steps begin")
    parser.add_argument("--refine", action="store_true")
    parser.add_argument("--refine-steps", type=int, default=8)
    parser.add_argument("--low-memory", action="store_true")
    parser.add_argument("--variants", action="store_true", help="also torch.compile, and ours without Triton")
    parser.add_argument("--sides", help="names of the sides to measure, separated by commas")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true", help="tiny networks on the CPU: does this script run?")
    parser.add_argument("--backend", help="of torch.compile; inductor, or aot_eager with --tiny")
    arguments = parser.parse_args()
    sides = all_sides(arguments.backend or ("aot_eager" if arguments.tiny else "inductor"))
    if arguments.sides:
        names = arguments.sides.split(",")
    else:
        names = ["reference", "ours"] + ["low-memory"] * arguments.low_memory
        names += [name for name, side in sides.items() if side.variant] * arguments.variants
    if unknown := set(names) - sides.keys():
        parser.error(f"no such sides: {', '.join(sorted(unknown))}; there are {', '.join(sides)}")
    torch.manual_seed(0)
    bench = Bench(arguments)
    warm_up_raster(bench.device)
    warm_up_shading(bench.device)
    chosen = [(name, side) for name, side in sides.items() if name in names]
    failed = [name for name, side in chosen if not bench.measure(name, side)]
    if arguments.fit:
        bench.fit()
    bench.print_table()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
