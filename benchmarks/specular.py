"""Held-out quality of specular models on posed images: SH-3, the published ASG network, and ours.

    python benchmarks/specular.py DATA [--scenes satin leather metal] [--models sh3 published ours]
        [--views all 32] [--iterations 7000] [--points 100000] [--concurrent 3] [--out specular.json]
    python benchmarks/specular.py DATA --speed

`--speed` times each model alone: a training step at the images' size, as in `fitting/fit.py`; and the
render of a whole body at 1024², as in a viewer. For that, everything view-independent is precomputed, for all
models alike: activations, and for ours what `Avatar.prepare` holds. SH-3 is rendered by gsplat's
own `rasterization`, in its faster layout, the unpacked one.

DATA holds a folder per scene, in NeRF-synthetic's layout. Every model has the same initial points and
colours and the same training loop: the same steps, images, losses, relocations and number of
Gaussians; only the appearance model differs. 32 views are every third one, from the second.

The published network is written from its description (Spec-Gaussian, Yang et al. 2024): a 24-number latent
per Gaussian, a linear layer to 32 ASGs on fixed frames, evaluated at the mirrored direction, and an MLP of
3 x 128 on the responses, n·ω_o and ω_o encoded with two frequencies; its RGB is added to a diffuse colour.
Normals are the shortest axis plus a learned residual. (The published code builds its
frames around the mirrored direction itself, so that its highlights do not move; this one follows the paper,
and is the stronger baseline.)
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specularip.avatar import Avatar
from specularip.cameras import Cameras
from specularip.captures.load import load_posed_images
from specularip.captures.mesh import load_body_mesh
from specularip.captures.views import PosedImages
from specularip.colors.harmonics import harmonics_3
from specularip.fitting.appearance import Appearance, Fields, SpecularAppearance, initial_colors
from specularip.fitting.fit import Fitting, begin, draw, resolved, train_step
from specularip.fitting.observations import Observations
from specularip.fitting.point_init import PointInit, init_points
from specularip.fitting.settings import FitConfig
from specularip.gaussians import rotation_matrices
from specularip.metrics import highlight_error, psnr, ssim
from specularip.progress import Report, unheard
from specularip.raster import rasterize
from specularip.raster.cuda import pick_device
from specularip.specular import SpecularConfig, SpecularHead
from specularip.training.optimizer import SHARED

MODELS = ("sh3", "published", "ours")
FEATURES, FRAMES = 24, (4, 8)
"""The published network's latent, and its frames: rings of the sphere times frames on each."""


class Harmonics:
    """Plain 3DGS: spherical harmonics to degree 3, one degree more every eighth of the fit."""

    rates: ClassVar = {"sh_base": 5e-3, "sh_rest": 2.5e-4}

    def __init__(self) -> None:
        self.shared = nn.Module()  # none

    def begin(
        self,
        init: PointInit,
        observations: Observations,
        cameras: Tensor,
        generator: torch.Generator,
        report: Report = unheard,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        base = (initial_colors(observations, init.points).sigmoid() - 0.5) / 0.28209479177387814
        return {"sh_base": base[:, None], "sh_rest": base.new_zeros(len(base), 15, 3)}, {}

    def colors(self, fields: Fields, camera: Cameras, share: float) -> Tensor:
        coefficients = torch.cat([fields["sh_base"], fields["sh_rest"]], 1)
        directions = fields["means"].detach() - camera.positions
        degree = min(3, int(share * 8))
        if coefficients.is_cuda:
            from gsplat import spherical_harmonics

            values = spherical_harmonics(degree, directions, coefficients)
        else:
            basis = harmonics_3(F.normalize(directions, dim=-1))[:, : (degree + 1) ** 2]
            values = (basis[..., None] * coefficients[:, : (degree + 1) ** 2]).sum(1)
        return (values + 0.5).clamp_min(0)[None]

    def penalty(self, fields: Fields, near: Tensor) -> Tensor:
        return fields["means"].new_zeros(())


class Published(nn.Module):
    """The published ASG network; see the top of the file."""

    rates: ClassVar = {"color_logits": 1e-2, "features": 2.5e-3, "normal_residuals": 1e-3, SHARED: 1e-3}

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        theta = (torch.arange(FRAMES[0]) + 0.5) / FRAMES[0] * math.pi
        phi = torch.arange(FRAMES[1]) * 2 * math.pi / FRAMES[1]
        theta, phi = (grid.flatten() for grid in torch.meshgrid(theta, phi, indexing="ij"))
        z = torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], -1)
        x = torch.stack([theta.cos() * phi.cos(), theta.cos() * phi.sin(), -theta.sin()], -1)
        self.register_buffer("frames", torch.stack([x, torch.linalg.cross(z, x), z]))
        lobes = len(theta)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.to_lobes = nn.Linear(FEATURES, 4 * lobes)
            self.mlp = nn.Sequential(
                nn.Linear(2 * lobes + 1 + 15, 128),
                nn.ReLU(),
                nn.Linear(128, 128),
                nn.ReLU(),
                nn.Linear(128, 3),
            )
        nn.init.normal_(self.mlp[-1].weight, std=0.01, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.mlp[-1].bias)

    def begin(
        self,
        init: PointInit,
        observations: Observations,
        cameras: Tensor,
        generator: torch.Generator,
        report: Report = unheard,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        colors = initial_colors(observations, init.points)
        features = 0.1 * torch.randn(len(init), FEATURES, generator=generator).to(colors)
        residuals = torch.zeros_like(colors)
        return {"color_logits": colors, "features": features, "normal_residuals": residuals}, {}

    @property
    def shared(self) -> nn.Module:
        return self

    def colors(self, fields: Fields, camera: Cameras, share: float) -> Tensor:
        view = F.normalize(camera.positions - fields["means"].detach(), dim=-1)
        shortest = fields["log_scales"].argmin(-1)[:, None, None].expand(-1, 3, 1)
        axis = rotation_matrices(fields["quats"]).gather(2, shortest)[..., 0]
        axis = torch.where((axis * view).sum(-1, keepdim=True) < 0, -axis, axis)
        normals = F.normalize(axis + fields["normal_residuals"], dim=-1)
        cosine = (normals * view).sum(-1, keepdim=True)
        mirrored = 2 * cosine * normals - view
        lam, mu, first, second = self.to_lobes(fields["features"]).chunk(4, -1)
        x, y, z = (mirrored @ axes.T for axes in self.frames)
        response = z.clamp_min(0) * torch.exp(-F.softplus(lam) * x * x - F.softplus(mu) * y * y)
        encoded = [view, *(f(view * 2**k) for k in range(2) for f in (torch.sin, torch.cos))]
        highlight = self.mlp(torch.cat([first * response, second * response, cosine, *encoded], -1))
        return (fields["color_logits"].sigmoid() + highlight)[None]

    def penalty(self, fields: Fields, near: Tensor) -> Tensor:
        return fields["means"].new_zeros(())


def make_appearance(model: str, config: FitConfig, seed: int) -> Any:
    if model == "sh3":
        return Harmonics()
    if model == "published":
        return Published(seed)
    head = SpecularHead(SpecularConfig(lights=config.lights, attention=config.attention), seed)
    return SpecularAppearance(head, config.initial_shading_steps, config.material_tie)


def to_device(appearance: Any, device: torch.device) -> Appearance:
    for part in (appearance, getattr(appearance, "head", None)):
        if isinstance(part, nn.Module):
            part.to(device)
    return appearance


def begin_fit(
    folder: Path, views: str, appearance: Any, config: FitConfig, device: torch.device, seed: int
) -> tuple[Fitting, PosedImages]:
    """The state of the fit before its first step, and its images, on the device."""
    train = load_posed_images(folder, "train")
    if views != "all":
        train = train.select(range(1, len(train), 3)[: int(views)])
    generator = torch.Generator().manual_seed(seed)
    mesh = load_body_mesh(folder)
    mesh = mesh and (mesh[0].float(), mesh[1])
    init = init_points(train, config.points or 0, generator, mesh)
    fitting = begin(init, train, to_device(appearance, device), generator, device)
    return fitting, train.to(device)


@torch.no_grad()
def measure(fitting: Fitting, folder: Path, device: torch.device) -> dict[str, float]:
    test = load_posed_images(folder, "test")
    psnrs, ssims, error, pixels = [], [], 0.0, 0
    for view in test.to(device):
        camera, target = view.camera, view.image[None]
        fields = fitting.state.fields
        colors = fitting.appearance.colors(fields, camera, 1.0)
        image = draw(fields, colors, camera).image.clamp(0, 1)
        psnrs.append(float(psnr(image, target)))
        ssims.append(float(ssim(image, target)))
        view_error, view_pixels = highlight_error(image, target)
        error, pixels = error + float(view_error), pixels + int(view_pixels)
    return {
        "psnr": sum(psnrs) / len(psnrs),
        "ssim": sum(ssims) / len(ssims),
        "highlight_psnr": -10 * math.log10(error / pixels) if error else math.nan,
        "portrait_psnr": sum(psnrs[0::3]) / len(psnrs[0::3]),
    }


def run(
    folder: Path, model: str, views: str, config: FitConfig, device: torch.device, seed: int
) -> dict[str, Any]:
    """One fit, timed and measured."""
    appearance = make_appearance(model, config, seed)
    began = time.perf_counter()
    fitting, train = begin_fit(folder, views, appearance, config, device, seed)
    synchronize(device)
    started = time.perf_counter()
    for _ in range(config.iterations or 0):
        loss = train_step(fitting, train, config)
    if not math.isfinite(float(loss)):
        raise SystemExit(f"{folder.name} {model}: the loss is not finite")
    synchronize(device)
    ended = time.perf_counter()
    return {
        "scene": folder.name,
        "views": views,
        "model": model,
        **measure(fitting, folder, device),
        "gaussians": len(fitting.state),
        "start_seconds": started - began,
        "seconds": ended - started,
        "steps_per_second": (config.iterations or 0) / (ended - started),
    }


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def milliseconds(action: Callable[[], object], device: torch.device, count: int, times: int) -> float:
    """Time of one action: median of `times` runs of `count` calls each, after two warm-up runs."""
    count = count if device.type == "cuda" else 2
    found = []
    for _ in range(times + 2):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(count):
            action()
        synchronize(device)
        found.append(1e3 * (time.perf_counter() - began) / count)
    return sorted(found[2:])[times // 2]


@torch.no_grad()
def renderer(model: str, fitting: Fitting, camera: Cameras) -> Callable[[], object]:
    """A function that renders one image, with everything view-independent precomputed."""
    fields, appearance = fitting.state.fields, fitting.appearance
    if isinstance(appearance, SpecularAppearance):
        prepared = Avatar(appearance.gaussians(fields), appearance.head, antialiased=True).prepare()
        return lambda: prepared.image(camera, 0.0)
    scales, opacities = fields["log_scales"].exp(), fields["opacity_logits"].sigmoid()
    splats = [tensor.detach() for tensor in (fields["means"], fields["quats"], scales, opacities)]
    size = (camera.width, camera.height)
    if model == "sh3" and camera.viewmats.is_cuda:
        from gsplat import rasterization

        coefficients = torch.cat([fields["sh_base"], fields["sh_rest"]], 1)
        return lambda: rasterization(
            *splats, coefficients, camera.viewmats, camera.Ks, *size, sh_degree=3, packed=False,
            rasterize_mode="antialiased",
        )  # fmt: skip

    def draw_colors() -> object:
        with torch.no_grad():
            colors = appearance.colors(fields, camera, 1.0)
            return rasterize(
                *splats, colors, camera.viewmats, camera.Ks, *size, antialiased=True, depth=False
            )

    return draw_colors


def speed(folder: Path, models: list[str], config: FitConfig, device: torch.device, seed: int) -> list[dict]:
    """Each model alone: a training step, and one 1024² render of a whole body, after a short fit."""
    rows = []
    for model in models:
        appearance = make_appearance(model, config, seed)
        fitting, train = begin_fit(folder, "all", appearance, config, device, seed)
        for _ in range(min(300, (config.iterations or 0) // 2)):
            train_step(fitting, train, config)
        fitting.step = int(0.5 * (config.iterations or 0))
        step = partial(train_step, fitting, train, replace(config, relocate_every=10**9))
        frame = renderer(model, fitting, train[1].camera.resized(1024, 1024))
        step_ms, frame_ms = milliseconds(step, device, 60, 5), milliseconds(frame, device, 20, 7)
        rows.append(
            {"scene": folder.name, "model": model, "step_ms": step_ms, "frame_ms": frame_ms,
             "frames_per_second": 1e3 / frame_ms, "gaussians": len(fitting.state)}
        )  # fmt: skip
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    patterns = {
        "scene": "{}", "views": "{}", "model": "{}", "psnr": "{:.2f}", "ssim": "{:.4f}",
        "highlight_psnr": "{:.2f}", "portrait_psnr": "{:.2f}", "gaussians": "{:,}", "start_seconds": "{:.1f}",
        "seconds": "{:.1f}", "steps_per_second": "{:.0f}", "step_ms": "{:.2f}", "frame_ms": "{:.2f}",
        "frames_per_second": "{:.0f}",
    }  # fmt: skip
    names = [name for name in patterns if rows and name in rows[0]]
    cells = [names, *([patterns[name].format(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(names))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)), flush=True)


def run_all(arguments: argparse.Namespace, jobs: list[list[str]]) -> list[dict[str, Any]]:
    """Run each job in its own process, a few at a time; rows in the order of the jobs."""
    results: dict[int, dict[str, Any]] = {}
    running: dict[int, subprocess.Popen[str]] = {}
    waiting = list(range(len(jobs)))
    while waiting or running:
        while waiting and len(running) < arguments.concurrent:
            index = waiting.pop(0)
            command = [sys.executable, __file__, *jobs[index], "--one"]
            running[index] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for index, process in list(running.items()):
            if process.poll() is not None:
                output = process.communicate()[0]
                del running[index]
                if process.returncode:
                    raise SystemExit(f"failed: {' '.join(jobs[index])}")
                results[index] = json.loads(output.splitlines()[-1])
                print_table([results[index]])
        time.sleep(0.2)
    return [results[index] for index in range(len(jobs))]


def read_settings(pairs: list[str]) -> dict[str, Any]:
    kinds = {f.name: type(f.default) for f in dataclass_fields(FitConfig)}
    found: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in kinds:
            raise SystemExit(f"--set {pair}: FitConfig has no {name}, but {', '.join(kinds)}")
        found[name] = value == "True" if kinds[name] is bool else kinds[name](value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--scenes", nargs="+", default=["satin", "leather", "metal"])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--views", nargs="+", default=["all", "32"])
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--points", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--concurrent", type=int, default=1, help="fits at a time, each a process")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="fields of FitConfig")
    parser.add_argument("--speed", action="store_true", help="time steps and frames instead")
    parser.add_argument("--out", type=Path, help="where to write the rows as JSON")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    settings = {
        "iterations": arguments.iterations,
        "points": arguments.points,
        **read_settings(arguments.set),
    }
    config = resolved(FitConfig(**settings), device)
    cells = [(s, v, m) for s in arguments.scenes for v in arguments.views for m in arguments.models]
    if arguments.speed:
        rows = speed(arguments.data / arguments.scenes[0], arguments.models, config, device, arguments.seed)
    elif arguments.one or (arguments.concurrent == 1 and len(cells) == 1):
        scene, views, model = cells[0]
        rows = [run(arguments.data / scene, model, views, config, device, arguments.seed)]
        if arguments.one:
            print(json.dumps(rows[0]))
            return
    else:
        common = [str(arguments.data), "--seed", str(arguments.seed), "--device", str(device)]
        common += ["--iterations", str(config.iterations), "--points", str(config.points)]
        common += ["--set", *arguments.set] if arguments.set else []
        jobs = [[*common, "--scenes", s, "--views", v, "--models", m] for s, v, m in cells]
        rows = run_all(arguments, jobs)
    print_table(rows)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
