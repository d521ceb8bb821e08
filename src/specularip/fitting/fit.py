"""`fit`: optimises an avatar on posed images, captured or generated."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specularip import raster, specular
from specularip.avatar import Avatar
from specularip.bounds import Seed, check_settings, check_value
from specularip.cameras import Cameras
from specularip.captures.exposure import exposed
from specularip.captures.load import load_posed_images
from specularip.captures.mesh import load_body_mesh, load_points
from specularip.captures.scene import settled
from specularip.captures.views import PosedImages
from specularip.checkpoints import Checkpoint
from specularip.errors import escaped
from specularip.fitting import silhouettes
from specularip.fitting.appearance import Appearance, Fields, SpecularAppearance
from specularip.fitting.exposure import differ, estimated_gains, exposure_note, followed
from specularip.fitting.given_points import Given
from specularip.fitting.observations import observe
from specularip.fitting.point_init import PointInit, init_points, neighbours
from specularip.fitting.rigging import bound
from specularip.fitting.settings import Exposure, FitConfig
from specularip.gaussians import PARAMETERS, field_specs
from specularip.kernels.async_transfer import StepMetrics
from specularip.kernels.cuda_graphs import GraphedFunction
from specularip.lpips import NO_LPIPS, find_lpips
from specularip.metrics import MATCHED, SSIM_WINDOW, evaluate, nothing_shown, ssim_map
from specularip.pictures import FAINTEST
from specularip.placement import Placement
from specularip.progress import Progress, Report, part, unheard
from specularip.raster import Raster, rasterize
from specularip.raster.cuda import pick_device
from specularip.registration.fit_body import FittedBody, fit_body
from specularip.registration.outlines import outlines_of
from specularip.resources import check_memory, check_space
from specularip.run_folder import TRAINING_BYTES, RunFolder, run_bytes
from specularip.run_lock import locked
from specularip.specular import LATENTS, SpecularConfig, SpecularHead
from specularip.stopping import stop_on_signal
from specularip.training.events import check_tensorboard
from specularip.training.gpu_memory import memory_errors
from specularip.training.optimizer import set_rates
from specularip.training.relocate import relocate
from specularip.training.schema import Many, Maybe, Number, TensorOf, Text
from specularip.training.session import Phase, Session
from specularip.training.state import TrainState
from specularip.training.step import MAX_SKIPPED
from specularip.version import __version__
from specularip.viewing.growing import LiveView

LOG_EVERY = 50
"""Steps that a line of metrics.jsonl averages over."""
GPU_DEFAULTS, CPU_DEFAULTS = (7000, 100_000), (1500, 20_000)
"""Iterations and points where the configuration has None."""

RATES = {"means": 4.4e-4, "quats": 1e-3, "log_scales": 5e-3, "opacity_logits": 5e-2}
"""Adam's learning rates; that of the means is per metre of the radius of the initial points."""
MEANS_DECAY, DECAY, DECAY_FROM = 0.01, 0.1, 0.3
"""Factors of the learning rates at the last step, of the means and of all others; the others are constant up
to this share of the steps."""
NEIGHBOURS = 8
EPOCHS_BEFORE_GAINS = 2
"""Before, the avatar is too blurred to tell the exposures better than its initial points do."""
PREVIEW_SIZE = 320
"""Longest side in pixels of each of the preview's four views."""


def fit(
    data: str | Path,
    out: str | Path,
    *,
    config: FitConfig | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    init: str | Path | None = None,
    progress: Progress | None = None,
    live: LiveView | None = None,
    tensorboard: bool = False,
) -> Avatar:
    """Fit an avatar to the posed images in the folder `data` (in any layout of docs/captures.md),
    write it to the run folder `out` and return it, on the CPU.

    device: "cpu" or "cuda"; None: the GPU if CUDA and gsplat are installed. If there is a test split, the
    avatar is evaluated on it at the end, and report.json holds the metrics. init: 3D Gaussians of the person
    to start from, any file that `sip.load` reads; all of them are taken. live: a page that shows the run.
    tensorboard: write curves and previews to its folder `tensorboard`, which needs the package tensorboard.

    Raises UserError for data or folders that the user can correct, KeyboardInterrupt after saving a
    checkpoint when stopped by Ctrl-C or SIGTERM.
    """
    check_value("seed", seed, Seed)
    place = pick_device(device)
    config = resolved(config or FitConfig(), place)
    if tensorboard:
        check_tensorboard()
    folder_path = RunFolder.check(out, resume, overwrite)
    points = config.points or 0
    check_space(out, run_bytes(points), "the run")
    if place.type == "cpu":
        check_memory(TRAINING_BYTES * points, f"a fit of {points} points")
    with locked(folder_path) as warning:
        return _fit(
            data, folder_path, config, place, seed, resume, overwrite, init, warning, progress, live,
            tensorboard,
        )  # fmt: skip


def _fit(
    data: str | Path,
    out: Path,
    config: FitConfig,
    place: torch.device,
    seed: int,
    resume: bool,
    overwrite: bool,
    init: str | Path | None,
    warning: str,
    progress: Progress | None,
    live: LiveView | None,
    tensorboard: bool,
) -> Avatar:
    """`fit`, its options checked and the folder `out` locked. warning: a line for the report, or ""."""
    train = load_posed_images(data, "train")
    test = load_posed_images(data, "test")
    # All is read and checked before an old run is replaced.
    mesh, cloud = load_body_mesh(data), load_points(data)
    given = None if init is None else Given.read(init, train)
    if given is not None and not given.in_place:
        config = replace(config, body=True)  # it is brought to the images by way of the body
    if config.body:
        outlines_of(train)
    lpips = find_lpips(place) if len(test) else None
    folder = RunFolder.open(out, resume, overwrite)
    inputs = {
        **_digests(train, mesh, cloud),
        "seed": seed,
        "settings": asdict(config),
        "file to start from": None if given is None else given.digest(),
    }
    with (
        memory_errors(
            f"{out} keeps the last checkpoint: end other programs on the GPU and continue with --resume, or "
            "fit fewer --points or smaller images to another --out"
        ),
        Progress() if progress is None else nullcontext(progress) as shown,
        stop_on_signal() as stop,
        Session(folder, shown, stop, place, inputs, tensorboard=tensorboard) as session,
    ):
        for line in dict.fromkeys(filter(None, (*train.notes, *test.notes, _shared(train, test), warning))):
            session.note(line)
        if folder.replaces is not None:
            shown.log(folder.replacing)
        checkpoint = session.resume(_phases(config, len(train), new_appearance(config, seed)))
        body = _registered(train, config, checkpoint, session)
        if body is not None:
            train = train.placed(train.placement @ body.placement)
        else:
            train, moved = settled(train, mesh and mesh[0], cloud and cloud[0])
            if moved:
                session.note(moved)
        if live is not None:
            live.begin(folder.path, shown, escaped(f"Fit to {Path(data).resolve().name}"))
        if place.type == "cpu":
            # Compile the kernels now, so that the ETA does not include it.
            with session.unsaved("compile"):
                raster.warm_up()
                specular.warm_up()
                silhouettes.warm_up()
        from_files = train.placement.inverse()
        surface = mesh and (from_files.points(mesh[0]).float(), mesh[1])
        if body is not None:
            standing = body.standing()
            surface = standing.vertices, standing.faces
        points = cloud and from_files.points(cloud[0]).float()
        fitting = _start(Path(data), train, config, seed, session, checkpoint, body, given, surface, points)
        _optimise(fitting, train, config, session, live)
        with session.unsaved("write"):
            avatar = _finished_avatar(fitting, Path(data), seed, train.placement)
            if body is not None:
                shown.log("binding the Gaussians to the body")
                avatar = bound(avatar, body)
            shown.log("writing the avatar and evaluating it")
            avatar.save(folder.path)
            avatar.export(folder.path / "avatar.ply")
            picture, shown_there = _preview(avatar, train)
            session.write_preview(picture)
        if not shown_there:
            session.note(
                "preview.png is empty: the avatar cannot be seen in the training views; check their alpha or "
                "masks, and whether the cameras look at one subject"
            )
        with session.unsaved("evaluate"):
            metrics = evaluate(avatar.to(place), test, lpips)
        _log_metrics(metrics, len(test), shown)
        if line := nothing_shown(metrics):
            session.note(f"test split: {line}")
        if len(test) and lpips is None:
            session.notes.append(NO_LPIPS)
        session.write_report(
            {
                "data": escaped(str(data)),
                "settings": config,
                "seed": seed,
                "start": fitting.source,
                "views": {"train": len(train), "test": len(test)},
                "gaussians": len(avatar.gaussians),
                "body": None if body is None else body.summary(),
                "placement": None if avatar.placement is None else avatar.placement.pack(),
                "metrics": metrics,
            }
        )
        if live is not None:
            live.finish(avatar)
        folder.publish()
    return avatar


def resolved(config: FitConfig, device: torch.device) -> FitConfig:
    """`config` with defaults for the device in place of None. Raises UserError for numbers out of range."""
    check_settings(config)
    iterations, points = GPU_DEFAULTS if device.type == "cuda" else CPU_DEFAULTS
    return replace(config, iterations=config.iterations or iterations, points=config.points or points)


@dataclass
class Fitting:
    """One fit in progress, and all that a checkpoint must hold for a resumed one to take the same steps.

    near [N,8]: indices of neighbours, for the penalty on differences between them. gains [V,3]: logarithms of
    the images' exposures; None: all alike. order: the remaining views of this epoch. spacing: typical
    distance of the initial points in metres. source: see `PointInit`. body: in the images, if it was fitted.
    losses: of the steps since the last line of metrics.jsonl, which averages over them.
    """

    state: TrainState[Any]
    appearance: Appearance
    near: Tensor
    spacing: float
    source: str
    gains: Tensor | None = None
    order: list[int] = field(default_factory=list)
    step: int = 0
    body: FittedBody | None = None
    losses: list[Tensor] = field(default_factory=list)
    image_loss: GraphedFunction[Tensor] = field(default_factory=lambda: GraphedFunction(image_loss))

    def pack(self) -> dict[str, Any]:
        """Nested dicts, for a checkpoint."""
        kept = ("near", "spacing", "source", "gains", "order", "step")
        body = None if self.body is None else self.body.pack()
        losses = torch.stack(self.losses) if self.losses else torch.zeros(0)
        rest = {name: getattr(self, name) for name in kept}
        return {"state": self.state.pack(), "body": body, "losses": losses, **rest}

    @staticmethod
    def unpack(packed: dict[str, Any], appearance: Appearance, device: torch.device) -> Fitting:
        """The inverse of `pack`. appearance: a new one, constructed as the packed one was."""
        rest = dict(packed)
        state = TrainState.unpack(rest.pop("state"), appearance.shared, device)
        for name in ("near", "gains"):
            rest[name] = None if rest[name] is None else rest[name].to(device)
        rest["losses"] = list(rest["losses"].to(device))
        body = rest.pop("body")
        rest["body"] = None if body is None else FittedBody.unpack(body)
        return Fitting(state, appearance, **rest)


def begin(
    init: PointInit,
    train: PosedImages,
    appearance: Appearance,
    generator: torch.Generator,
    device: torch.device,
    exposure: Exposure = "auto",
    report: Report = unheard,
) -> Fitting:
    """The fit before its first step, on `device`. exposure: see `FitConfig`."""
    init, train = init.to(device), train.to(device, pixels=False)
    params = init.params()
    observations = observe(params, init.spacing, train.views, part(report, 0.0, 0.2))
    # Random points lie within the person: two sides of different colours look like two exposures there.
    wanted = exposure == "on" or (exposure == "auto" and init.source != "random")
    gains = estimated_gains(observations) if wanted else None
    if gains is not None and exposure == "auto" and not differ(gains):
        gains = None
    if gains is not None:
        observations.colors.copy_(observations.colors / gains.exp()[:, None])
    own, ties = appearance.begin(init, observations, train.positions, generator, part(report, 0.2, 1.0))
    means = params["means"]
    radius = float((means - means.mean(0)).norm(dim=-1).max())
    rates = {**RATES, **appearance.rates, "means": RATES["means"] * radius}
    state = TrainState.create({**params, **own}, ties, appearance.shared, rates, generator)
    near = neighbours(init.points, NEIGHBOURS)
    return Fitting(state, appearance, near, init.spacing, init.source, gains)


def draw(fields: Fields, colors: Tensor, camera: Cameras) -> Raster:
    """One view on black, antialiased. colors [1,N,3]."""
    return rasterize(
        fields["means"],
        fields["quats"],
        fields["log_scales"].exp(),
        fields["opacity_logits"].sigmoid(),
        colors,
        camera.viewmats,
        camera.Ks,
        camera.width,
        camera.height,
        antialiased=True,
        depth=False,
    )


def train_step(fitting: Fitting, train: PosedImages, config: FitConfig) -> Tensor:
    """One step on the next view; returns its loss, a scalar, without synchronising.

    train: its cameras on the device of the Gaussians; the pixels may stay on the CPU.
    """
    state, step, total = fitting.state, fitting.step, config.iterations or 1
    share = step / total
    if not fitting.order:
        fitting.order = torch.randperm(len(train), generator=state.generator).tolist()
        if fitting.gains is not None:  # the avatar's colours could drift with them
            fitting.gains = fitting.gains - fitting.gains.mean(0)
    index = fitting.order.pop()
    view, gains = train[index], fitting.gains
    late = max(0.0, (share - DECAY_FROM) / (1 - DECAY_FROM))
    set_rates(state.optimizer, DECAY**late, {"means": MEANS_DECAY**share})

    camera, target, fields = view.camera, view.image_on(state.device)[None], state.fields
    drawn = draw(fields, fitting.appearance.colors(fields, camera, share), camera)
    drawn.means2d.retain_grad()
    image = drawn.image if gains is None else exposed(drawn.image, gains[index])
    loss = fitting.image_loss(image, target, ssim_weight=config.ssim_weight)
    if fitting.near.shape[1]:
        loss = loss + fitting.appearance.penalty(fields, fitting.near[:, step % fitting.near.shape[1]])
    with torch.autograd.set_multithreading_enabled(False):  # avoids a costly switch to autograd's thread
        loss.backward()
    if drawn.means2d.grad is not None:
        state.screen_gradients.accumulate(drawn.means2d.grad, drawn.radii)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    fitting.step = step + 1
    if gains is not None and step > EPOCHS_BEFORE_GAINS * len(train):
        gains[index] = followed(gains[index], drawn.image.detach(), target)

    every = config.relocate_every
    if step % every == every - 1 and 3 * every <= step < config.relocate_until * total:
        relocate(state)
        last = step + every >= config.relocate_until * total
        if fitting.near.shape[1] and (last or (step + 1) % (10 * every) == 0):
            fitting.near = neighbours(state.params["means"], fitting.near.shape[1])
    return loss.detach().clone()  # the next replay of the CUDA graph overwrites it


def image_loss(images: Tensor, targets: Tensor, ssim_weight: float) -> Tensor:
    """(1 - w) L1 + w (1 - SSIM) of images [B,H,W,3], a scalar."""
    loss = (1 - ssim_weight) * (images - targets).abs().mean()
    if ssim_weight and min(images.shape[1:3]) >= SSIM_WINDOW:
        loss = loss + ssim_weight * (1 - ssim_map(images, targets).mean())
    return loss


def _registered(
    train: PosedImages, config: FitConfig, checkpoint: Checkpoint | None, session: Session
) -> FittedBody | None:
    """The body in the images, that of the checkpoint in a resumed run; None where none is wanted."""
    if not config.body:
        return None
    if checkpoint is not None:
        return FittedBody.unpack(checkpoint.state["body"])
    with session.unsaved("body"):
        body = fit_body(train, _shown_stage("body", session))
    session.save("body", 0, {"body": body.pack()})
    session.note(f"the body model fits the images: {body.described()}")
    for line in body.notes:
        session.note(line)
    return body


def _shown_stage(name: str, session: Session) -> Report:
    """A report that is shown as a stage in percent, and heeds stops."""
    session.progress.start(name, 100)
    shown = 0

    def report(share: float) -> None:
        nonlocal shown
        session.check_stop()
        if int(100 * share) > shown:
            shown = int(100 * share)
            session.progress.step(shown)

    return report


def _start(
    data: Path,
    train: PosedImages,
    config: FitConfig,
    seed: int,
    session: Session,
    checkpoint: Checkpoint | None,
    body: FittedBody | None,
    given: Given | None,
    mesh: tuple[Tensor, Tensor] | None,
    cloud: Tensor | None,
) -> Fitting:
    """The fit to continue, or a fresh one. mesh, cloud: as for `init_points`."""
    appearance = new_appearance(config, seed, session.device)
    if checkpoint is not None and checkpoint.name == "fit":
        return Fitting.unpack(checkpoint.state, appearance, session.device)
    with session.unsaved("start"):
        report = _shown_stage("start", session)
        generator = torch.Generator().manual_seed(seed)
        first = part(report, 0.0, 0.4)
        if given is not None:
            init = given.points(train, body, session.note, first)
        else:
            init = init_points(train, config.points or 0, generator, mesh, cloud, first)
        if init.source == "random":
            session.note(f"{data} has no body.npz and no point cloud: starting from random points")
        rest = part(report, 0.4, 1.0)
        fitting = begin(init, train, appearance, generator, session.device, config.exposure, rest)
        fitting.body = body
        report(1.0)
        if fitting.gains is not None:
            session.note(exposure_note(fitting.gains))
    session.save("fit", 0, fitting.pack())
    return fitting


def new_appearance(config: FitConfig, seed: int, device: torch.device | str = "cpu") -> SpecularAppearance:
    """The appearance before it has seen an image."""
    head = SpecularHead(SpecularConfig(lights=config.lights, attention=config.attention), seed)
    return SpecularAppearance(head.to(device), config.initial_shading_steps, config.material_tie)


def _phases(config: FitConfig, views: int, appearance: SpecularAppearance) -> dict[str, Phase]:
    """The phases of a fit to so many views in which there are checkpoints, and what these hold."""
    specs = {name: TensorOf(("N", *spec.shape), spec.dtype) for name, spec in field_specs(LATENTS).items()}
    params = {name: specs[name] for name in PARAMETERS}
    body = FittedBody.schema() if config.body else None
    total = config.iterations or 0
    state = {
        "state": TrainState.schema(params, {"initial_normals": TensorOf(("N", 3))}, appearance.shared),
        "body": body,
        "near": TensorOf(("N", "near"), torch.int64, low=0, below="N"),
        "spacing": Number(0),
        "source": Text(("mesh", "points", "random", "init")),
        "gains": Maybe(TensorOf((views, 3))),
        "order": Many(Number(0, views - 1, whole=True)),
        "step": Number(0, total, whole=True),
        "losses": TensorOf(("recent",)),
    }
    return {"body": Phase(0, {"body": body}), "fit": Phase(total, state)}


def _optimise(
    fitting: Fitting, train: PosedImages, config: FitConfig, session: Session, live: LiveView | None
) -> None:
    total, device = config.iterations or 0, session.device
    fits = device.type == "cuda" and train.nbytes < torch.cuda.mem_get_info()[0] // 4
    train = train.to(device, pixels=fits)

    def preview() -> Tensor:
        avatar = _avatar(fitting)
        if live is not None:
            live.show(avatar)
        return _preview(avatar, train)[0]

    if live is not None:
        live.show(_avatar(fitting))
    optimizer = fitting.state.optimizer
    with session.training("fit", "fit", total, fitting.step, fitting.pack, preview, optimizer):
        while fitting.step < total:
            fitting.losses.append(train_step(fitting, train, config))
            done, metrics = fitting.step, None
            if done % LOG_EVERY == 0 or done == total:
                loss = torch.stack(fitting.losses).mean()
                fitting.losses.clear()
                finite = loss.isfinite() & fitting.state.params["means"].isfinite().all()
                # No step is skipped here, so that one that is not finite ends the fit.
                skipped = ~finite * MAX_SKIPPED
                metrics = StepMetrics({"loss": loss, "skipped": skipped}, points=len(fitting.state))
            session.after_step(done, metrics)
        session.save("fit", total, fitting.pack())


def _avatar(fitting: Fitting) -> Avatar:
    """The current avatar; it shares the head that is being trained."""
    assert isinstance(fitting.appearance, SpecularAppearance)
    gaussians = fitting.appearance.gaussians(fitting.state.fields)
    return Avatar(gaussians, fitting.appearance.head, antialiased=True)


def _finished_avatar(fitting: Fitting, data: Path, seed: int, placement: Placement) -> Avatar:
    """The avatar on the CPU, with a head of its own, its provenance and its place in the capture's world."""
    trained = _avatar(fitting)
    assert trained.head is not None
    head = SpecularHead(trained.head.config)
    head.load_state_dict(trained.head.state_dict())
    provenance = {"data": escaped(data.name), "seed": seed, "specularip": __version__}
    if fitting.gains is not None:
        provenance["exposure"] = MATCHED
    return replace(
        trained,
        gaussians=trained.gaussians.to("cpu"),
        head=head.requires_grad_(False),
        provenance=provenance,
        placement=None if placement.is_identity else placement,
    )


def _preview(avatar: Avatar, train: PosedImages) -> tuple[Tensor, bool]:
    """[h, 4w, 3] in 0..1, on the CPU: four of the cameras' views, evenly spaced, of one height. And whether
    they show anything."""
    cameras = [train[len(train) * k // 4].camera for k in range(4)]
    height = min(PREVIEW_SIZE, *(round(PREVIEW_SIZE * c.height / c.width) for c in cameras))
    height = max(1, min(height, cameras[0].height))
    widths = (max(1, min(PREVIEW_SIZE, round(height * c.width / c.height))) for c in cameras)
    frames = [avatar.render(camera.resized(width, height)) for camera, width in zip(cameras, widths)]
    shown = max(float(frame.alpha.max()) for frame in frames) >= FAINTEST
    return torch.cat([frame.image[0] for frame in frames], 1).cpu(), shown


def _shared(train: PosedImages, test: PosedImages) -> str:
    """A line if images are fitted and tested on, or ""."""
    fitted = {view.name for view in train}
    count = sum(view.name in fitted for view in test)
    return (
        f"{count} of {len(test)} test images are also fitted: the figures say little of new views"
        if count
        else ""
    )


def _log_metrics(values: Mapping[str, float], views: int, progress: Progress) -> None:
    names = (("psnr", "PSNR", " dB"), ("ssim", "SSIM", ""), ("highlight_psnr", "highlights", " dB"))
    if views:
        words = [
            f"{label} {values[name]:.4g}{unit}" for name, label, unit in names if math.isfinite(values[name])
        ]
        progress.log(f"test split ({views} views): " + ", ".join(words))


def _digests(
    posed: PosedImages, mesh: tuple[Tensor, Tensor] | None, cloud: tuple[Tensor, Tensor | None] | None
) -> dict[str, Any]:
    """What identifies the data, by names for the user: the contents, wherever the files are. A GB takes
    0.7 s."""
    views: dict[str, str] = {}
    for index, view in enumerate(posed):
        name = view.name or str(index)
        views[name if name not in views else f"{name} ({index})"] = _digest(
            view.camera.viewmats, view.camera.Ks, view.pixels, torch.tensor(view.premultiplied)
        )
    return {
        "image": views,
        "mesh": None if mesh is None else _digest(*mesh),
        "point cloud": None if cloud is None else _digest(*(part for part in cloud if part is not None)),
    }


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
