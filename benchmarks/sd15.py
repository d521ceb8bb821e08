"""What a step of the sd15 preset costs at full size: the networks as published code runs them, and ours.

    python benchmarks/sd15.py [--steps 10] [--refine] [--low-memory] [--fit] [--json FILE]

Random weights of the published sizes (tools/sd15) cost what the real ones do. Both sides run `stages.seid`
at the preset's settings, one after the other on the same GPU: 100,000 Gaussians, four renders of 1024², 512²
into the autoencoder, guidance in three branches, regularisers, Adam. The reference has diffusers' modules in
float16 with PyTorch's fused attention, nothing compiled or recorded, renders camera by camera with depth, as
its rasteriser always does, draws poses and highlights (the published network, see specular.py) in plain
PyTorch, and shows each step's loss. Then the
parts of each step alone, the gradient of both against float32, the allocator's peak, and with `--refine` the
refinement of the orbit: the reference one view at a time, with the same stored keys and values as ours.
`--low-memory` measures ours with these settings too, and what they cost in time; `--fit` the fit of SCR, with
LPIPS of random weights, which has no reference. Ours gets only the GPU memory that its settings promise.

A step's time is the mean of wall-clock steps from four places of the stage: ours leaves out evaluations of no
weight (of the negative prompt, for views with little noise), so it gets faster as noise falls. Each place is
run twice, the same questions again, and the second time counts. Parts, with all evaluations, are read from
the GPU's clock.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.body import HeadEllipsoid, anny_body, draw_skeleton, phenotype_from_text, skeleton
from specularip.cameras import Cameras, orbit_views
from specularip.diffusion.attention import plain_attention
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
from specularip.lpips import VGG_CONVOLUTIONS, Lpips
from specularip.machine import FULL_GIB, LOW_GIB
from specularip.presets import preset_config, with_low_memory
from specularip.raster import Raster, rasterize
from specularip.raster import warm_up as warm_up_raster
from specularip.specular import warm_up as warm_up_shading
from specularip.stages import guide as guiding
from specularip.stages import seid as stage
from specularip.stages.guide import Guide, as_images, draw
from specularip.stages.initial_state import AvatarState, initial_state
from specularip.stages.scr import Targets, cropped, fit_targets, orbits
from specularip.stages.settings import Config

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tools" / "sd15")]
from random_weights import random_prior  # noqa: E402
from specular import FEATURES, Published  # noqa: E402

TEXT = "A woman in a red satin dress"
PLACES = (300, 900, 1500, 2100)
"""Steps where both sides begin: highlights are on, and nothing densifies for a while."""
TINY: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": (32, 32, 64, 64), "sample_size": 8},
    "controlnet": {"block_out_channels": (32, 32, 64, 64)},
    "vae": {"block_out_channels": (32, 32, 64, 64)},
    "text_encoder": {"num_hidden_layers": 1},
}


class _Enough(Exception):
    """Ends a stage after the steps that were asked for."""


def published_draw(seed: int, points: int, device: torch.device) -> Callable[..., tuple[Raster, Tensor]]:
    """`guide.draw` as published code does it: one camera after the other, highlights from the ASG network."""
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


def every_branch(
    prior: Prior, images: Tensor, condition: Condition, timesteps: Tensor, *rest: Any, **options: Any
) -> SdsResult:
    """`sds` with all evaluations: on the GPU it does not know which have no weight."""
    return sds(prior, images, condition, timesteps.to(images.device), *rest, **options)


def plain_skeleton(
    keypoints: Tensor, head: HeadEllipsoid, cameras: Cameras, size: int, device: torch.device
) -> Tensor:
    """`draw_skeleton` without its kernel."""
    seen = skeleton.visible_keypoints(keypoints, head, cameras)
    xy = cameras.resized(size, size).project(keypoints)[0]
    return skeleton._draw(xy.to(device), seen.to(device), size)


def steps(guide: Guide, state: AvatarState, first: int, count: int, warm: int, shown: bool) -> list[float]:
    """Seconds of each of `count` steps of SEID after `warm` more, from step `first` on. shown: each step's
    loss is waited for; else it is read a step late, as a run does."""
    times = [time.perf_counter()]
    logs: list[StepMetrics] = []

    def after(done: int, log: StepMetrics) -> None:
        logs.append(log)
        if len(logs) > 1 or shown:
            values = dict(logs.pop(0))
            if not all(value == value for value in values.values()):
                raise RuntimeError(f"not finite up to step {done}: {values}")
        times.append(time.perf_counter())
        if len(times) > count + warm:
            raise _Enough

    try:
        stage.seid(state, guide, None, first, after)
    except _Enough:
        pass
    return [b - a for a, b in zip(times[warm:], times[warm + 1 :])]


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    repeats = 7 if device.type == "cuda" else 1
    work()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            before.record()
            work()
            after.record()
            torch.cuda.synchronize()
            times.append(before.elapsed_time(after))
        else:
            began = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def inputs(prior: Prior, views: int, seed: int = 0) -> DenoiserInputs:
    """Random inputs for three branches of guidance."""
    generator = torch.Generator().manual_seed(seed)
    size, latent, device = prior.image_size, prior.latent_size, prior.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    width = int(prior.denoiser.unet.config.cross_attention_dim)
    return DenoiserInputs(
        noisy=normal(views, 4, latent, latent),
        timesteps=torch.linspace(50, 800, views).long().to(device),
        text=normal(3 * views, 77, width),
        pose=torch.rand(views, 3, size, size, generator=generator).to(device),
        identity=normal(3 * views, 4, width),
        identity_scale=torch.rand(3 * views, generator=generator).to(device),
    )


def encode(prior: Prior, images: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Latents, and the gradient on the images of their inner product with `weight`."""
    leaf = images.clone().requires_grad_()
    latents = prior.encode_image(leaf)
    return latents.detach(), torch.autograd.grad(latents, leaf, weight)[0]


def sds_gradient(prior: Prior, images: Tensor, noise: Tensor, given: DenoiserInputs) -> Tensor:
    """The whole of score distillation on images, as ANPG guides it, unclipped."""
    leaf = images.clone().requires_grad_()
    latents = prior.encode_image(leaf)
    with torch.no_grad():
        noisy = prior.add_noise(latents, noise, given.timesteps)
        positive, negative, null = prior.predict_noise(replace(given, noisy=noisy)).chunk(3)
        little = (given.timesteps < 170)[:, None, None, None]
        direction = 7.5 * (positive - null) + torch.where(little, null, null - negative)
    return torch.autograd.grad(latents, leaf, (1 - prior.alphas(given.timesteps)) * direction)[0]


def relative(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth.double()).norm() / truth.double().norm())


def parts(
    prior: Prior, guide: Guide, state: AvatarState, drawing: Callable[..., Any], device: torch.device
) -> dict[str, float]:
    """Milliseconds of each part of a step alone."""
    views = 4
    given = inputs(prior, views)
    images = torch.rand(views, 3, prior.image_size, prior.image_size, device=device)
    weight = torch.randn(views, 4, prior.latent_size, prior.latent_size, device=device)
    config = guide.config.seid
    looks = stage.step_views(config, PLACES[0], guide.body.height, torch.Generator().manual_seed(1))

    def render() -> None:
        raster, specular = drawing(state.gaussians, state.shared, looks.cameras, guide.config.background, 1.0)
        (raster.image.square().mean() + specular.square().mean()).backward()

    def denoise() -> Tensor:
        with torch.no_grad():
            return prior.denoiser(given)

    # The widest layer's, in a step of SEID and of the refinement; the library with the best of its kernels.
    def attention(images: int, tokens: int) -> float:
        channels, dtype = 320, prior.dtype
        sides = torch.randn(images, tokens, 3 * channels, device=device).to(dtype).chunk(3, -1)
        attend = plain_attention
        with torch.no_grad(), fast_kernels():
            return milliseconds(lambda: attend(*sides, 8), device)

    part = 1 if device.type == "cuda" else 128
    return {
        "attention of 12 x 4,096 tokens": attention(12, 4096 // part),
        "attention of 8 x 16,384 tokens": attention(8, 16384 // part),
        "encode and its gradient": milliseconds(lambda: encode(prior, images, weight), device),
        "denoise": milliseconds(denoise, device),
        "render, highlights, gradients": milliseconds(render, device),
        "condition": milliseconds(lambda: guide.condition(looks), device),
    }


def refinement(prior: Prior, guide: Guide, state: AvatarState, batch: int, refine_steps: int) -> float:
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
            for rows in torch.arange(config.orbit_views).split(4)
        ]
    images, condition = torch.cat(renders).clamp(0, 1), guide.condition(views, guidance, config.refine_size)
    if images.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    refine(
        prior, images, condition, views.azimuth_deg, refine_steps=refine_steps, ddim_steps=config.ddim_steps,
        scale=guidance.scale, size=config.refine_size, own_share=config.own_share, batch=batch, vae_batch=1,
    )  # fmt: skip
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def fit_speed(config: Config, device: torch.device, warm: int, count: int) -> float:
    """Steps a second of SCR's fit, with as many Gaussians as SEID leaves at most, after `warm` steps."""
    weights: dict[str, Tensor] = {}
    channels = 3
    for k, (group, width) in enumerate(zip(VGG_CONVOLUTIONS, (64, 128, 256, 512, 512))):
        for n in group:
            spread = (2 / (9 * channels)) ** 0.5
            weights[f"features.{n}.weight"] = spread * torch.randn(width, channels, 3, 3)
            weights[f"features.{n}.bias"], channels = torch.zeros(width), width
        weights[f"lin{k}"] = torch.rand(width)
    body = anny_body().to(device)
    state = initial_state(body, replace(config.seid, points=config.seid.max_points), 0, device)
    views = orbit_views(
        config.scr.orbit_views, orbits(config.scr)[0][0], size=config.scr.render_size,
        body_height=body.height, elevation_deg=config.scr.elevation_deg,
    )  # fmt: skip
    images = torch.rand(config.scr.orbit_views, 3, 8, 8, device=device)
    images = F.interpolate(images, (config.scr.render_size,) * 2, mode="bicubic").clamp(0, 1)
    cut, shown = cropped(views.cameras, images, config.scr)
    targets = Targets(cut.viewmats.to(device), cut.Ks.to(device), shown, cut.width, cut.height)
    config = replace(config, scr=replace(config.scr, fit_steps=warm + count))
    logs: list[StepMetrics] = []
    times: list[float] = []

    def after(done: int, log: StepMetrics) -> None:
        logs.append(log)
        if len(logs) > 1:
            dict(logs.pop(0))
        if done == warm or done == warm + count:
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    guide: Any = SimpleNamespace(config=config)
    fit_targets(state, guide, None, targets, Lpips(weights, device), 0, after)
    return count / (times[1] - times[0])


def tiny_config() -> Config:
    config = preset_config("sd15")
    seid = replace(config.seid, points=500, render_size=64)
    scr = replace(config.scr, orbit_views=8, render_size=64, refine_size=64)
    return replace(config, device="cpu", seid=seid, scr=scr)


def peak(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0


def reserved(device: torch.device) -> float:
    """With what the allocator keeps for recordings and does not count as allocated while they wait."""
    return torch.cuda.max_memory_reserved() / 2**30 if device.type == "cuda" else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=10, help="at each of four places")
    parser.add_argument("--refine", action="store_true")
    parser.add_argument("--refine-steps", type=int, default=8)
    parser.add_argument("--low-memory", action="store_true")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true", help="tiny networks on the CPU: does this script run?")
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.tiny else "cuda")
    torch.manual_seed(0)
    usual = config = tiny_config() if arguments.tiny else preset_config("sd15")
    sides = ["reference", "ours"] + ["low memory"] * arguments.low_memory
    report: dict[str, Any] = {side: {} for side in sides}

    def tell(side: str, values: dict[str, Any]) -> None:
        report[side] |= values
        print(f"{side}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        dtype = torch.float32
        exact = random_prior(Path(folder), device, dtype, TINY if arguments.tiny else None)
    prior = copy.deepcopy(exact).to(dtype if arguments.tiny else torch.float16)
    views, size, latent = 4, exact.image_size, exact.latent_size
    images = torch.rand(views, 3, size, size, device=device)
    noise = torch.randn(views, 4, latent, latent, device=device)
    given = inputs(exact, views)
    truth = encode(exact, images, noise)[1], sds_gradient(exact, images, noise, given)
    del exact
    body = anny_body(phenotype_from_text(TEXT)).to(device)
    warm_up_raster(device)
    warm_up_shading(device)

    def make_guide() -> Guide:
        face = torch.nn.functional.normalize(torch.randn(1, prior.identity_dim, device=device), dim=-1)
        return Guide(prior, PromptBook(prior), TEXT, face, body, config)

    def fresh() -> AvatarState:
        return initial_state(body, config.seid, 0, device)

    def rest(side: str) -> None:
        prior.release_graphs()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            whole = torch.cuda.get_device_properties(device).total_memory / 2**30
            allowed = {"ours": FULL_GIB, "low memory": LOW_GIB}.get(side, whole)
            torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / whole))

    for side in sides:
        drawing, poses, distill = draw, draw_skeleton, sds
        if side == "reference":
            drawing, poses = published_draw(0, config.seid.points, device), plain_skeleton
            distill = every_branch
        elif side == "ours":
            prior = accelerate(prior)
        else:
            config = with_low_memory(usual)
        rest(side)
        guide, state = make_guide(), fresh()
        stage.draw = drawing  # type: ignore[assignment]
        stage.sds = distill  # type: ignore[assignment]
        guiding.draw_skeleton = poses  # type: ignore[attr-defined]
        times: list[list[float]] = []
        for place in PLACES:
            for _ in range(2):
                last = steps(guide, fresh(), place, arguments.steps, 3, side == "reference")
            times.append(last)
        means = [1e3 * statistics.fmean(part) for part in times]
        tell(side, {
            "step ms": statistics.fmean(means), **{f"from {p}": ms for p, ms in zip(PLACES, means)},
            "slowest ms": 1e3 * max(map(max, times)), "peak GiB": peak(device),
            "reserved GiB": reserved(device),
        })  # fmt: skip
        if side != "low memory":
            tell(side, parts(prior, guide, state, drawing, device))
            tell(side, {
                "error of encode's gradient": relative(encode(prior, images, noise)[1], truth[0]),
                "error of SDS' gradient": relative(sds_gradient(prior, images, noise, given), truth[1]),
            })  # fmt: skip
        if arguments.refine:
            rest(side)
            batch = 1 if side == "reference" else config.scr.refine_batch
            refinement(prior, guide, state, batch, 1)  # kernels compile or are picked
            seconds = refinement(prior, guide, state, batch, arguments.refine_steps)
            tell(side, {
                "refine s": seconds, "refine peak GiB": peak(device),
                "refine reserved GiB": reserved(device),
            })  # fmt: skip
    ours = report["ours"]
    for name in ("step ms", "refine s"):
        for side in sides:
            if side != "ours" and name in ours:
                report[side][f"{name}, times ours"] = ratio = report[side][name] / ours[name]
                print(f"{name}: {side} takes {ratio:.2f} times as long as ours")
    if arguments.fit:
        del guide, state
        rest("ours")
        warm, count = (2, 2) if arguments.tiny else (20, 200)
        tell(
            "ours",
            {"fit steps a second": fit_speed(usual, device, warm, count), "fit peak GiB": peak(device)},
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
