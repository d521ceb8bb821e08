"""Posed images to an avatar: SCR's fit on its own, for captured or generated views."""

from __future__ import annotations

import hashlib
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specularip import raster, specular
from specularip.avatar import Avatar
from specularip.cameras import Cameras
from specularip.errors import UserError
from specularip.fitting.appearance import Appearance, SpecularAppearance
from specularip.fitting.cloud import Cloud, relocate
from specularip.fitting.settings import FitConfig
from specularip.fitting.start import Start, look_up, make_start, neighbours
from specularip.kernels.cuda_graphs import GraphedFunction
from specularip.lpips import NO_LPIPS, Lpips, find_lpips
from specularip.metrics import SSIM_WINDOW, evaluate, ssim_map
from specularip.posed_images import PosedImages, load_points, load_posed_images
from specularip.progress import Progress
from specularip.raster import Raster, rasterize
from specularip.raster.cuda import pick_device
from specularip.run_folder import Checkpoint, RunFolder
from specularip.specular import SpecularConfig, SpecularHead
from specularip.stopping import StopRequest, polite_stop
from specularip.training.report import peak_memory_gib, plain, versions
from specularip.version import __version__

CHECKPOINT_SECONDS, PREVIEW_SECONDS = 45.0, 10.0
LOG_EVERY = 50
"""Steps between two looks at the loss: each makes the GPU wait for the CPU."""
GPU_DEFAULTS, CPU_DEFAULTS = (7000, 100_000), (1500, 20_000)
"""Iterations and points where the configuration leaves them open."""

RATES = {"means": 4.4e-4, "quats": 1e-3, "log_scales": 5e-3, "opacity_logits": 5e-2}
"""Adam's learning rates; that of the means is multiplied by the radius of the start."""
MEANS_DECAY, DECAY, DECAY_FROM = 0.01, 0.1, 0.3
"""What learning rates are multiplied by at the end; all but the means' stay until a share of the steps."""
NEIGHBOURS = 8


def fit(
    data: str | Path,
    out: str | Path,
    *,
    config: FitConfig | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Avatar:
    """Fit an avatar to the folder `data` (NeRF-synthetic's layout, see `posed_images`), write it to the
    folder `out` and return it, on the CPU.

    device: "cpu" or "cuda"; None takes the GPU where CUDA and gsplat are there. At the end, the avatar is
    measured on the test split, if there is one; report.json holds the figures.

    Raises UserError for data or folders that the user can mend, KeyboardInterrupt after saving a checkpoint
    when stopped by Ctrl-C or SIGTERM.
    """
    place = pick_device(device)
    folder_path = RunFolder.check(out, resume, overwrite)
    train = load_posed_images(data, "train")
    test = load_posed_images(data, "test")
    config = resolved(config or FitConfig(), place)
    # What could still be wrong comes to light before an old run is replaced.
    load_points(data)
    perceptual = find_lpips(place) if len(test) else None
    folder = RunFolder.open(folder_path, resume, overwrite)
    with Progress() if progress is None else nullcontext(progress) as shown, polite_stop() as stop:
        return _Run(Path(data), train, test, perceptual, config, place, seed, folder, shown, stop).go()


def resolved(config: FitConfig, device: torch.device) -> FitConfig:
    """`config` with nothing left open. Raises UserError for numbers that no fit can run with."""
    iterations, points = GPU_DEFAULTS if device.type == "cuda" else CPU_DEFAULTS
    config = replace(config, iterations=config.iterations or iterations, points=config.points or points)
    limits = (
        ("iterations", 1, 10**7),
        ("points", 100, 10**7),
        ("lights", 1, 1024),
        ("relocate_every", 1, 10**7),
    )
    for name, low, high in limits:
        if not low <= getattr(config, name) <= high:
            raise UserError(f"{name} must lie between {low} and {high}, got {getattr(config, name)}")
    return config


@dataclass
class Fitting:
    """One fit in progress, and all that a checkpoint must hold for a resumed one to go the same way.

    near [N,8]: neighbours, for ties between materials. order: views still to come before all have been shown.
    generator: the only source of random numbers, on the CPU. image_loss: the function of that name; only how
    it is run is remembered here, and no checkpoint keeps it.
    """

    cloud: Cloud
    appearance: Appearance
    optimizer: torch.optim.Adam
    near: Tensor
    order: list[int]
    generator: torch.Generator
    spacing: float
    step: int = 0
    image_loss: GraphedFunction = field(default_factory=lambda: GraphedFunction(image_loss))

    def pack(self) -> dict[str, Any]:
        return {
            "cloud": self.cloud.pack(),
            "shared": self.appearance.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "near": self.near,
            "order": self.order,
            "generator": self.generator.get_state(),
            "spacing": self.spacing,
            "step": self.step,
        }

    @staticmethod
    def unpack(packed: dict[str, Any], appearance: Appearance, device: torch.device) -> Fitting:
        """The inverse of `pack`; appearance: a new one, made as the packed one was."""
        cloud = Cloud(**{key: _to(value, device) for key, value in packed["cloud"].items()})
        for tensor in cloud.fields.values():
            tensor.requires_grad_()
        appearance.load_state_dict(packed["shared"])
        optimizer = make_optimizer(cloud, appearance)
        optimizer.load_state_dict(packed["optimizer"])
        generator = torch.Generator()
        generator.set_state(packed["generator"])
        near = packed["near"].to(device)
        return Fitting(
            cloud, appearance, optimizer, near, packed["order"], generator, packed["spacing"], packed["step"]
        )


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {key: _to(item, device) for key, item in value.items()}
    return value.to(device)


def make_optimizer(cloud: Cloud, appearance: Appearance) -> torch.optim.Adam:
    """A group for each field, with its name, and one for each rate of what is shared; "base" keeps the rate
    that schedules start from."""
    means = cloud.means.detach()
    radius = float((means - means.mean(0)).norm(dim=-1).max())
    rates = {**RATES, **appearance.rates, "means": RATES["means"] * radius}
    groups: list[dict[str, Any]] = [
        {"params": [tensor], "lr": rates[name], "base": rates[name], "name": name}
        for name, tensor in cloud.fields.items()
    ]
    shared: dict[float, list[Tensor]] = {}
    for parameter, rate in appearance.shared():
        shared.setdefault(rate, []).append(parameter)
    for rate, parameters in shared.items():
        groups.append({"params": parameters, "lr": rate, "base": rate, "name": "shared"})
    return torch.optim.Adam(groups, eps=1e-15, fused=means.is_cuda)


def begin(
    start: Start,
    train: PosedImages,
    appearance: Appearance,
    generator: torch.Generator,
    device: torch.device,
) -> Fitting:
    """The state before the first step. start: on `device`."""
    cameras = train.cameras.to(device)
    sightings = look_up(start.fields(), start.spacing, train.images, cameras, train.alphas)
    own, ties = appearance.begin(start, sightings, cameras, generator)
    fields = {**start.fields(), **own}
    cloud = Cloud({name: tensor.requires_grad_() for name, tensor in fields.items()}, ties)
    optimizer = make_optimizer(cloud, appearance)
    near = neighbours(start.points, NEIGHBOURS)
    return Fitting(cloud, appearance, optimizer, near, [], generator, start.spacing)


def draw(cloud: Cloud, colors: Tensor, camera: Cameras) -> Raster:
    """One view of the cloud on black, antialiased."""
    return rasterize(
        cloud.means,
        cloud.fields["quats"],
        cloud.scales,
        cloud.opacities,
        colors,
        camera.viewmats,
        camera.Ks,
        camera.width,
        camera.height,
        antialiased=True,
        depth=False,
    )


def train_step(fitting: Fitting, images: Tensor, cameras: Cameras, config: FitConfig) -> Tensor:
    """One step on the next view; returns its loss, a scalar that no one has waited for yet.

    images [V,H,W,3] in 0..1 and cameras, both on the cloud's device (images may stay on the CPU).
    """
    cloud, step, total = fitting.cloud, fitting.step, config.iterations or 1
    share = step / total
    if not fitting.order:
        fitting.order = torch.randperm(len(images), generator=fitting.generator).tolist()
    view = fitting.order.pop()
    for group in fitting.optimizer.param_groups:
        late = max(0.0, (share - DECAY_FROM) / (1 - DECAY_FROM))
        group["lr"] = group["base"] * (MEANS_DECAY**share if group["name"] == "means" else DECAY**late)

    camera, target = cameras[view], images[view : view + 1].to(cloud.means.device)
    drawn = draw(cloud, fitting.appearance.colors(cloud, camera, share), camera)
    drawn.means2d.retain_grad()
    loss = fitting.image_loss(drawn.image, target, ssim_weight=config.ssim_weight)
    if fitting.near.shape[1]:
        loss = loss + fitting.appearance.penalty(cloud, fitting.near[:, step % fitting.near.shape[1]])
    with torch.autograd.set_multithreading_enabled(False):  # handing over to another thread takes longer
        loss.backward()
    if drawn.means2d.grad is not None:
        cloud.note(drawn.means2d.grad, drawn.radii)
    fitting.optimizer.step()
    fitting.optimizer.zero_grad(set_to_none=True)
    fitting.step = step + 1

    every = config.relocate_every
    if step % every == every - 1 and 3 * every <= step < config.relocate_until * total:
        relocate(cloud, fitting.optimizer, fitting.generator)
        last = step + every >= config.relocate_until * total
        if fitting.near.shape[1] and (last or (step + 1) % (10 * every) == 0):
            fitting.near = neighbours(cloud.means, fitting.near.shape[1])
    return loss.detach().clone()  # the next step may write where it lies


def image_loss(images: Tensor, targets: Tensor, ssim_weight: float) -> Tensor:
    """(1 - w) L1 + w (1 - SSIM) of images [B,H,W,3], a scalar."""
    loss = (1 - ssim_weight) * (images - targets).abs().mean()
    if ssim_weight and min(images.shape[1:3]) >= SSIM_WINDOW:
        loss = loss + ssim_weight * (1 - ssim_map(images, targets).mean())
    return loss


class _Run:
    """The state of one run: where it is, and how long things took."""

    def __init__(
        self,
        data: Path,
        train: PosedImages,
        test: PosedImages,
        perceptual: Lpips | None,
        config: FitConfig,
        device: torch.device,
        seed: int,
        folder: RunFolder,
        progress: Progress,
        stop: StopRequest,
    ) -> None:
        self.data, self.train, self.test, self.config, self.device = data, train, test, config, device
        self.perceptual = perceptual
        self.seed, self.folder, self.progress, self.stop = seed, folder, progress, stop
        self.head = SpecularHead(SpecularConfig(lights=config.lights, attention=config.attention), seed)
        self.appearance = SpecularAppearance(
            self.head.to(device), config.first_light_steps, config.material_tie
        )
        self.notes = [*train.notes, *test.notes]
        self.seconds: dict[str, float] = {}
        self.source = ""
        self.last_checkpoint = self.last_preview = time.monotonic()

    def go(self) -> Avatar:
        for note in self.notes:
            self.progress.log(note)
        if self.device.type == "cpu":
            # May compile; the first step should not count it into its ETA.
            raster.warm_up()
            specular.warm_up()
        began = time.perf_counter()
        fitting = self._resumed() or self._begun()
        self.seconds.setdefault("start", time.perf_counter() - began)
        self._fit(fitting)
        avatar = self._avatar(fitting)
        self.progress.log("writing the avatar and measuring it")
        avatar.save(self.folder.path)
        avatar.save(self.folder.path / "avatar.ply")
        self.folder.write_png("preview.png", self._preview(avatar))
        began = time.perf_counter()
        on_device = replace(avatar, gaussians=avatar.gaussians.to(self.device), head=self.head)
        metrics = evaluate(on_device, self.test, self.perceptual)
        self.seconds["evaluate"] = time.perf_counter() - began
        if len(self.test):
            names = (("psnr", "PSNR", " dB"), ("ssim", "SSIM", ""), ("highlight_psnr", "highlights", " dB"))
            words = [
                f"{label} {metrics[name]:.4g}{unit}"
                for name, label, unit in names
                if math.isfinite(metrics[name])
            ]
            self.progress.log(f"test split ({len(self.test)} views): " + ", ".join(words))
        self.folder.write_json(
            "report.json",
            {
                "data": str(self.data),
                "notes": [*self.notes, *([NO_LPIPS] if len(self.test) and self.perceptual is None else [])],
                "settings": self.config,
                "seed": self.seed,
                "device": str(self.device),
                "start": self.source,
                "views": {"train": len(self.train), "test": len(self.test)},
                "gaussians": len(avatar.gaussians),
                "metrics": metrics,
                "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
                "peak_memory_gib": round(peak_memory_gib(), 3),
                "threads": torch.get_num_threads(),
                "versions": versions(),
            },
        )
        self.head.to("cpu")
        return avatar

    def _begun(self) -> Fitting:
        generator = torch.Generator().manual_seed(self.seed)
        self.progress.log("placing the first points, then light and materials for them")
        start = make_start(self.data, self.train, self.config.points or 0, generator)
        self.source = start.source
        if start.source == "random":
            self._note(f"{self.data} has no body.npz and no points3d.ply: starting from random points")
        moved = {name: _to(value, self.device) for name, value in vars(start).items() if _is_tensor(value)}
        return begin(replace(start, **moved), self.train, self.appearance, generator, self.device)

    def _resumed(self) -> Fitting | None:
        checkpoint: Checkpoint | None = self.folder.load_checkpoint()
        if checkpoint is None:
            return None
        before, now = checkpoint.meta.get("inputs"), self._inputs()
        different = [key for key in now if before is None or before.get(key) != now[key]]
        if different:
            raise UserError(
                f"the run in {self.folder.path} was made with another {' and '.join(different)}: "
                "repeat them to resume, or use --overwrite"
            )
        self.seconds, self.source = checkpoint.meta["seconds"], checkpoint.meta["start"]
        fitting = Fitting.unpack(checkpoint.state, self.appearance, self.device)
        self.progress.log(f"resuming at step {fitting.step}")
        return fitting

    def _inputs(self) -> dict[str, Any]:
        """What a resumed run must share with the one it continues."""
        return {
            "data": _fingerprint(self.train),
            "seed": self.seed,
            "settings": plain(asdict(self.config)),
        }

    def _fit(self, fitting: Fitting) -> None:
        total = self.config.iterations or 0
        images, cameras = self.train.images, self.train.cameras.to(self.device)
        if self.device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info()[0] // 4:
            images = images.to(self.device)
        self.progress.start("fit", total, fitting.step)
        spent, began = self.seconds.get("fit", 0.0), time.perf_counter()
        recent: list[Tensor] = []
        while fitting.step < total:
            recent.append(train_step(fitting, images, cameras, self.config))
            done = fitting.step
            if done % LOG_EVERY == 0 or done == total or self.stop.requested:
                loss = float(torch.stack(recent).mean())
                recent.clear()
                self.seconds["fit"] = spent + time.perf_counter() - began
                if not math.isfinite(loss) or not bool(fitting.cloud.means.isfinite().all()):
                    raise UserError(
                        f"loss or positions were not finite near step {done}; the last checkpoint in "
                        f"{self.folder.path} is kept: try another --seed"
                    )
                self.progress.step(done, loss=loss)
                self.folder.add_metrics({"step": done, "loss": loss})
                if time.monotonic() - self.last_checkpoint > CHECKPOINT_SECONDS or self.stop.requested:
                    self._save(fitting)
                if self.stop.requested:
                    raise KeyboardInterrupt
                if time.monotonic() - self.last_preview > PREVIEW_SECONDS and done < total:
                    cloud = self.appearance.gaussians(fitting.cloud)
                    preview = self._preview(Avatar(cloud, self.head, antialiased=True))
                    self.folder.write_png("preview.png", preview)
                    self.last_preview = time.monotonic()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds["fit"] = spent + time.perf_counter() - began
        self._save(fitting)

    def _save(self, fitting: Fitting) -> None:
        meta = {"inputs": self._inputs(), "seconds": self.seconds, "start": self.source}
        self.folder.save_checkpoint("fit", fitting.pack(), meta)
        self.last_checkpoint = time.monotonic()

    def _avatar(self, fitting: Fitting) -> Avatar:
        head = SpecularHead(self.head.config)
        head.load_state_dict(self.head.state_dict())
        provenance = {"data": self.data.name, "seed": self.seed, "specularip": __version__}
        gaussians = self.appearance.gaussians(fitting.cloud).to("cpu")
        return Avatar(gaussians, head.requires_grad_(False), provenance, antialiased=True)

    def _preview(self, avatar: Avatar) -> Tensor:
        """[h, 4w, 3] in 0..1: four training views, evenly spaced."""
        views = [len(self.train) * k // 4 for k in range(4)]
        cameras = self.train.cameras[views]
        scale = min(1.0, 320 / max(cameras.width, cameras.height))
        size = (max(1, round(side * scale)) for side in (cameras.width, cameras.height))
        cameras = cameras.resized(*size)
        return torch.cat(list(avatar.render(cameras).image), 1).cpu()

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.progress.log(text)


def _fingerprint(posed: PosedImages) -> str:
    """Tells one set of images from another, wherever its folder lies."""
    digest = hashlib.sha256()
    for tensor in (posed.cameras.viewmats, posed.cameras.Ks, posed.images[:, ::7, ::7]):
        digest.update(tensor.contiguous().numpy().tobytes())
    cameras = posed.cameras
    return f"{len(posed)} images of {cameras.width}x{cameras.height}, {digest.hexdigest()[:16]}"


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)
