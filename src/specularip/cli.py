"""The `specularip` command: each subcommand is a function, its options are the function's parameters.

Torch is imported inside the functions, so that --help and argument errors appear at once.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from specularip.errors import UserError, escaped, one_line
from specularip.guard import STOPPED, USER_ERROR, guard, wants_debug
from specularip.stopping import interrupt_on_termination
from specularip.streams import steady_streams
from specularip.version import __version__

if TYPE_CHECKING:
    from specularip.models.check import Model
    from specularip.progress import Progress
    from specularip.viewing.growing import LiveView

# By default, idle OpenMP threads spin for milliseconds, which makes a run several times slower when other
# processes need the cores. A lower spin count lets them sleep sooner. torch reads the variable when it loads;
# a setting of the user takes precedence.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

FAULTS_SHOWN = 50
"""Of a job file, at most."""
SOME_FAILED = 1
NARROWEST, WIDEST = 40, 1000
"""Columns of help texts: tyro hangs where there are only a few, and pads to as many as COLUMNS says."""

Settings = Annotated[tuple[tuple[str, ...], ...], UseAppendAction, arg(name="set", metavar="NAME=VALUE ...")]
"""--set, which takes several settings and can be repeated."""
Photos = Annotated[tuple[tuple[Path, ...], ...], UseAppendAction, arg(metavar="FACE ...")]
"""--image, which takes several photos and can be repeated."""


def generate(
    text: Annotated[Positional[str], arg(metavar="TEXT")],
    image: Photos,
    out: Annotated[Path, arg(metavar="DIR")],
    preset: Literal["compact", "sd15"] = "compact",
    init: Annotated[Path | None, arg(metavar="AVATAR")] = None,
    seed: int = 0,
    photo_weight: float | None = None,
    low_memory: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    force: bool = False,
    view: bool = False,
    tensorboard: bool = False,
    settings: Settings = (),
) -> None:
    """Make an avatar from a sentence and one to eight photos of a face.

    Writes avatar.safetensors, avatar.ply for other viewers, turntable.mp4, preview.png (updated during the
    run), report.json with all settings and timings, metrics.jsonl and checkpoints/ to the folder DIR.

    Ctrl-C saves a checkpoint and stops; the same command with --resume continues from it.

    Example: specularip generate "A woman in a red satin dress" --image face.jpg --out out/red

    Args:
        text: Description of the person: who they are, what they wear, its colour and material.
        image: Photos of one person (JPEG, PNG, WebP...), at least 1 and at most 8, the faces at least 48
            pixels wide. The first should look at the camera, others may show the face from other sides. In a
            photo with several faces, the largest is used.
        out: Output folder. Must be new or empty, unless --resume or --overwrite is given.
        preset: compact is included in the package and needs no GPU and no download. sd15 is the full-size
            method: it needs an NVIDIA GPU with 16 GB and downloaded models (see `specularip models`).
        init: A person as 3D Gaussians to start from (.ply, .spz, .sog, .glb, .safetensors, or a run folder),
            as feed-forward systems write them, in any pose and axes: registered to the body, then given
            highlights and refined. The face is the file's; the photo guides the prior.
        seed: Random seed. The same seed gives the same avatar on the same machine.
        photo_weight: How far the photos determine the shape and the colours of the face, 0 to 1. If omitted,
            1; at 0 the diffusion prior, which is conditioned on the photo, draws it alone.
        low_memory: For sd15 on a GPU with 12 GB: smaller batches, longer run time; the result is the same but
            for rounding.
        resume: Continue the run in DIR from its last checkpoint.
        overwrite: Replace the run in DIR when the new one is complete; until then DIR keeps it whole, and the
            new one is in DIR/unfinished-1. Deletes only files that a run writes.
        force: Go on with a text of which no word is understood.
        view: Serve a page that shows the avatar while it grows, and the finished one until Ctrl-C; print its
            address.
        tensorboard: Write losses, learning rates and previews to DIR/tensorboard as well; `tensorboard
            --logdir DIR` shows them. Needs the package: pip install 'specularip[tensorboard]'.
        settings: Change settings of the preset by their names in report.json, such as expression=photo (the
            photo's expression instead of a neutral one), seid.steps=1200 or
            prior.sources.base=/models/realistic_vision.
    """
    is_main = os.environ.get("RANK", "0") == "0"  # torchrun starts one process a GPU
    photos = tuple(chain(*image))
    text = _decoded(text)
    if is_main:
        names = ", ".join(map(str, photos))
        print(
            one_line(f'specularip {__version__}: "{" ".join(text.split())}", face from {names}', 2000),
            flush=True,
        )
    from specularip.inputs import check_inputs, check_run
    from specularip.overrides import run_config
    from specularip.progress import Progress
    from specularip.run_folder import RunFolder
    from specularip.training.events import check_tensorboard

    config = run_config(preset, tuple(chain(*settings)), seed, photo_weight)
    # Before all that is slow to load, so that input errors appear soon.
    if tensorboard:
        check_tensorboard()
    check_run(config, out)
    check_inputs(
        text,
        photos,
        out,
        resume,
        overwrite,
        config.detects_face,
        init=init,
        prior=config.prior.path,
        force=force,
    )
    before = RunFolder.current(out).newest_checkpoint()
    with ExitStack() as page:
        try:
            with open(os.devnull, "w") as devnull, Progress(None if is_main else devnull) as progress:
                progress.log("loading libraries")
                live = _open_page(page, progress) if view and is_main else None
                from specularip.pipeline import generate as run

                run(
                    text,
                    photos,
                    preset=preset,
                    out=out,
                    seed=seed,
                    resume=resume,
                    overwrite=overwrite,
                    init=init,
                    force=force,
                    photo_weight=config.photo_weight,
                    low_memory=low_memory,
                    config=config,
                    progress=progress,
                    live=live,
                    tensorboard=tensorboard,
                )
        except KeyboardInterrupt:
            if is_main:
                _print_resume_command(out, resume, before)
            raise SystemExit(STOPPED) from None
        if is_main:
            print(escaped(f"done: {out}/turntable.mp4, {out}/preview.png, {out}/avatar.ply"))
        if live is not None:
            live.stay(out)


def batch(
    out: Annotated[Path, arg(metavar="DIR")],
    jobs: Annotated[Positional[Path | None], arg(metavar="JOBS")] = None,
    texts: Annotated[Path | None, arg(metavar="FILE")] = None,
    images: Annotated[Path | None, arg(metavar="FILE")] = None,
    pair: Literal["zip", "product"] | None = None,
    preset: Literal["compact", "sd15"] = "compact",
    seed: int = 0,
    photo_weight: float | None = None,
    low_memory: bool = False,
    force: bool = False,
    settings: Settings = (),
    no_pages: bool = False,
    retries: int = 2,
    ray: bool = False,
    address: Annotated[str, arg(metavar="HOST:PORT")] = "",
    workers: int | None = None,
    cpus_per_worker: int = 1,
    gpus_per_worker: float | None = None,
) -> None:
    """Make many avatars: one for each job of a file, or for each pair of a text and a photo.

    JOBS is a table (.csv), or .jsonl or .yaml, with text and image of each job, and any option and setting of
    `generate`; docs/batch.md describes it. All of it is checked before the first job starts.

    Each job has a run folder in DIR. The same command again continues the batch: finished jobs are left as
    they are, begun ones go on from their checkpoints, failed ones are tried again. DIR/index.html shows all
    avatars and why jobs failed; DIR/summary.csv has the same as a table.

    One job runs at a time, unless --ray spreads them over processes and machines (pip install
    'specularip[ray]'). Exit code 1 if a job failed.

    Example: specularip batch --texts texts.txt --images faces.txt --pair product --out gallery

    Args:
        out: Folder of the batch. With --ray on several machines, all of them must see it under this name.
        jobs: File with the jobs; or give --texts and --images.
        texts: File with one text a line.
        images: File with the path of one photo a line, relative to the file.
        pair: zip, the default, joins texts and photos of the same lines; product each text with each photo.
        preset: For jobs that name none, as for `generate`, and so are the next five.
        seed: Random seed.
        photo_weight: How far the photos determine the face, 0 to 1.
        low_memory: Smaller batches, for GPUs with less memory.
        force: Go on with texts of which no word is understood.
        settings: Settings of the preset.
        no_pages: Leave out the interactive page of each avatar (avatar.html, 6 MB and some seconds each).
        retries: How often a job is tried again after its process died or the machine failed it.
        ray: Run the jobs on a Ray cluster: on one that is started on this machine, or that at --address.
        address: The Ray cluster to use, as `ray start --head` prints it; "auto" finds one of this machine.
        workers: Number of processes. If omitted, as many as the cluster has room for.
        cpus_per_worker: CPU cores, and threads, of each.
        gpus_per_worker: GPUs of each, such as 0.5 for two on one GPU. If omitted, 1 if a job needs one.
    """
    from specularip.batch.faults import JobFaults
    from specularip.batch.ray_workers import Cluster
    from specularip.batch.read_jobs import Defaults, pair_jobs, read_jobs
    from specularip.batch.run import run_batch
    from specularip.bounds import Range, as_option, check_settings, check_value

    cluster = Cluster(address, workers, cpus_per_worker, gpus_per_worker)
    check_settings(cluster, as_option)
    if not ray and cluster != Cluster():
        raise UserError("--address, --workers and what they get are of a Ray cluster: add --ray")
    check_value("--retries", retries, Annotated[int, Range(0, 100)])
    defaults = Defaults(preset, seed, photo_weight, low_memory, force, tuple(chain(*settings)))
    try:
        if jobs is not None and texts is None and images is None and pair is None:
            found = read_jobs(jobs, defaults)
        elif jobs is None and texts is not None and images is not None:
            found = pair_jobs(texts, images, pair or "zip", defaults)
        else:
            raise UserError("give a file with JOBS, or both --texts and --images, and perhaps --pair")
    except JobFaults as faults:
        for fault in faults.faults[:FAULTS_SHOWN]:
            print(f"specularip: error: {fault}", file=sys.stderr)
        if (more := len(faults.faults) - FAULTS_SHOWN) > 0:
            print(f"specularip: error: and {more} more faults", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    try:
        states = run_batch(found, out, pages=not no_pages, retries=retries, cluster=cluster if ray else None)
    except KeyboardInterrupt:
        print("stopped; the same command continues the batch", file=sys.stderr)
        raise SystemExit(STOPPED) from None
    failed = [state for state in states if state.state == "failed"]
    for state in failed:
        print(one_line(f"failed: {state.job.name}: {state.reason}"), file=sys.stderr)
    print(escaped(f"{len(states) - len(failed)} of {len(states)} done: {out}/index.html"))
    if failed:
        raise SystemExit(SOME_FAILED)


def fit(
    data: Annotated[Positional[Path], arg(metavar="DATA")],
    out: Annotated[Path, arg(metavar="DIR")],
    iterations: int | None = None,
    points: int | None = None,
    exposure: Literal["auto", "on", "off"] = "auto",
    body: bool = False,
    init: Annotated[Path | None, arg(metavar="AVATAR")] = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    view: bool = False,
    tensorboard: bool = False,
) -> None:
    """Fit an avatar to posed images: photographs, renders or generated views with known cameras.

    The folder DATA is a capture as tools write it: transforms.json (nerfstudio, instant-ngp),
    transforms_train.json (NeRF-synthetic), COLMAP's sparse/0 with images/, Polycam's or Record3D's export.
    Lenses may distort, images may differ in size; masks are used. docs/captures.md has the details. The
    result is evaluated on the test split: of its own file or list, else every eighth image.

    The Gaussians are initialised on the triangle mesh in body.npz (arrays v and f) if there is one,
    else on the capture's point cloud, else at random within the cameras' view.

    The subject may stand anywhere, in any unit and with any axis up: it is moved to the origin, to metres and
    to z up, unless it is there already, and .ply, .spz, .sog and .glb are written in the world of DATA.
    With --body, the body model is fitted to the images first: the Gaussians start on it, and the avatar has a
    skeleton for `specularip animate`. The images need alpha and show one person with limbs apart.

    Writes avatar.safetensors, avatar.ply, preview.png (four views), report.json with the metrics,
    metrics.jsonl and checkpoints/ to the folder DIR.

    Ctrl-C saves a checkpoint and stops; the same command with --resume continues from it.

    Example: specularip fit glossy/satin --out out/satin

    Args:
        data: Folder of a capture with at least 3 images.
        out: Output folder. Must be new or empty, unless --resume or --overwrite is given.
        iterations: Training steps, one image each. If omitted, 7000 on a GPU and 1500 on the CPU.
        points: Number of initial Gaussians. If omitted, 100000 on a GPU and 20000 on the CPU.
        exposure: Whether to compensate exposure and white balance that differ between the images; auto does
            where they differ by more than highlights explain, unless the first points are random. Evaluation
            then matches them, too.
        body: Fit the body model to the images, which takes half a minute, and bind the avatar to it.
        init: 3D Gaussians of the same person to start from (.ply, .spz, .sog, .glb, .safetensors, or a run
            folder): made from the same images, or by any other program in any pose; then --body is implied.
            All of them are taken, whatever --points says.
        device: auto selects the GPU if CUDA and gsplat are available, else the CPU.
        seed: Random seed. The same seed gives the same avatar on the same machine.
        resume: Continue the run in DIR from its last checkpoint.
        overwrite: Replace the run in DIR when the new one is complete; until then DIR keeps it whole, and the
            new one is in DIR/unfinished-1. Deletes only files that a run writes.
        view: Serve a page that shows the avatar while it grows, and the finished one until Ctrl-C; print its
            address.
        tensorboard: Write losses, learning rates and previews to DIR/tensorboard as well; `tensorboard
            --logdir DIR` shows them. Needs the package: pip install 'specularip[tensorboard]'.
    """
    print(escaped(f"specularip {__version__}: fit to {data}"), flush=True)
    from specularip.bounds import Seed, as_option, check_settings, check_value
    from specularip.fitting.settings import FitConfig
    from specularip.progress import Progress
    from specularip.resources import FIT_ADDRESSES, check_address_space
    from specularip.run_folder import RunFolder
    from specularip.training.events import check_tensorboard

    given: dict[str, Any] = {"iterations": iterations, "points": points}
    given |= {"exposure": exposure, "body": body}
    config = FitConfig(**{name: value for name, value in given.items() if value is not None})
    check_settings(config, as_option)
    check_value("--seed", seed, Seed)
    if tensorboard:
        check_tensorboard()
    check_address_space(FIT_ADDRESSES, "a fit")
    RunFolder.check(out, resume, overwrite)  # before torch loads, so that errors appear at once
    before = RunFolder.current(out).newest_checkpoint()
    with ExitStack() as page:
        try:
            with Progress() as progress:
                progress.log("loading libraries")
                live = _open_page(page, progress) if view else None
                from specularip.fitting.fit import fit as run

                run(
                    data,
                    out,
                    config=config,
                    device=None if device == "auto" else device,
                    seed=seed,
                    resume=resume,
                    overwrite=overwrite,
                    init=init,
                    progress=progress,
                    live=live,
                    tensorboard=tensorboard,
                )
        except KeyboardInterrupt:
            _print_resume_command(out, resume, before)
            raise SystemExit(STOPPED) from None
        print(escaped(f"done: {out}/avatar.safetensors, {out}/preview.png, {out}/report.json"))
        if live is not None:
            live.stay(out)


def _open_page(page: ExitStack, progress: Progress) -> LiveView:
    """A page of the run that begins, which is served until `page` ends."""
    from specularip.viewing.growing import LiveView

    live = page.enter_context(LiveView())
    progress.log(f"watch it grow: {live.url}")
    return live


def _print_resume_command(out: Path, resume: bool, before: Path | None) -> None:
    """before: the newest checkpoint in `out` before the run, which may be of one that it was to replace."""
    from specularip.run_folder import RunFolder

    newest = RunFolder.current(out).newest_checkpoint()
    if newest is not None and (resume or newest != before):
        again = [argument for argument in sys.argv[1:] if argument not in ("--overwrite", "--resume")]
        command = " ".join(map(_shell_word, ["specularip", *again, "--resume"]))
        print(f"stopped; continue with: {command}", file=sys.stderr)
    else:
        print("stopped before the first checkpoint; nothing to resume", file=sys.stderr)


def _shell_word(argument: str) -> str:
    """An argument as a shell reads it. Control characters and bytes that are no text need ANSI-C quotes."""
    shown = escaped(argument)
    if shown == argument:
        return shlex.quote(argument)
    return "$'" + escaped(argument.replace("\\", r"\\").replace("'", r"\'")) + "'"


def evaluate(
    avatar: Annotated[Positional[Path], arg(metavar="AVATAR")],
    data: Annotated[Path, arg(metavar="DATA")],
    split: Literal["test", "val", "train"] = "test",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    out: Annotated[Path | None, arg(metavar="FILE")] = None,
) -> None:
    """Evaluate an avatar on posed images: prints a table of metrics, or writes them as JSON.

    PSNR, SSIM and LPIPS (if its weights are present) compare whole images; highlight PSNR compares only
    bright pixels; highlight drift is the angle between rendered and true highlights; coherence is the
    agreement of the specular layer between neighbouring views. docs/metrics.md has the formulas. The cameras
    are moved to where the avatar stands in its own world, if `fit` moved it.

    Example: specularip eval out/satin --data glossy/satin --out metrics.json

    Args:
        avatar: A run folder, or an avatar file (.safetensors, .ply).
        data: Folder of a capture, see `fit`.
        split: Which of its images to use, preferably ones that the avatar was not fitted to.
        device: auto selects the GPU if CUDA and gsplat are available, else the CPU.
        out: JSON file for the metrics. A dash (-) prints the JSON instead of the table.
    """
    if out is not None and str(out) != "-" and out.suffix.lower() != ".json":
        raise UserError(f"cannot write metrics to {out}: end the name in .json, or use - to print them")
    from specularip.files import check_writable

    if out is not None and str(out) != "-":
        check_writable(out)
    from specularip.avatar import load
    from specularip.captures.load import load_posed_images
    from specularip.files import to_json, write_json
    from specularip.lpips import NO_LPIPS, find_lpips
    from specularip.metrics import MATCHED, nothing_shown
    from specularip.metrics import evaluate as measure
    from specularip.raster.cuda import pick_device

    loaded = load(avatar)
    posed = load_posed_images(data, split)
    if len(posed) == 0:
        raise UserError(f"{posed.notes[0]}; --split train measures on the images it was fitted to")
    place = pick_device(None if device == "auto" else device)
    perceptual = find_lpips(place)
    loaded = loaded.to(place)
    values = measure(loaded, posed, perceptual)
    unseen = nothing_shown(values)
    if unseen and values["empty_views"] == values["views"]:
        raise UserError(f"{unseen} ({avatar} on {data})")
    if out is not None and str(out) == "-":
        print(to_json(values), end="")
        return
    notes = [*posed.notes, *([unseen] if unseen else []), *([NO_LPIPS] if perceptual is None else [])]
    if loaded.provenance.get("exposure") == MATCHED:
        notes.append(
            "fitted to images of different exposures: each image's exposure is matched before comparing"
        )
    _print_metrics(f"{avatar} on {data} ({split})", values, notes)
    if out is not None:
        print(escaped(str(write_json(out, values))))


def _print_metrics(title: str, values: Mapping[str, float], notes: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from specularip.metrics import table_rows

    table = Table("metric", title=escaped(title), title_justify="left", title_style="")
    table.add_column("value", justify="right")
    for row in table_rows(values):
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.print(table)
    for note in notes:
        console.print(escaped(note), soft_wrap=True)


def render(
    avatar: Annotated[Positional[Path], arg(metavar="AVATAR")],
    out: Annotated[Path, arg(metavar="FILE")],
    framing: Literal["full", "upper", "head", "hands"] = "full",
    azimuth_deg: float = 0.0,
    elevation_deg: float = 8.0,
    distance: float | None = None,
    fov_y_deg: float | None = None,
    size: str = "512",
    background: str = "0.6",
    layer: Literal["final", "diffuse", "specular", "normal", "alpha", "depth"] = "final",
    compare: bool = False,
    views: int = 1,
    path: Path | None = None,
    frames: int = 120,
    fps: float = 30.0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Render an avatar: one view or a contact sheet as .png, a turntable or a camera path as .mp4.

    Examples:
        specularip render out/red --out face.png --framing head --size 1080p --background transparent
        specularip render out/red --out sheet.png --views 8
        specularip render out/red --out highlights.mp4 --compare

    Args:
        avatar: A run folder, or an avatar file, baked or not.
        out: Image (.png) or video (.mp4) to write.
        framing: What fills the picture.
        azimuth_deg: Azimuth of the camera: 0 is in front, 90 at the person's left. A video starts there.
        elevation_deg: Elevation of the camera above the horizon, between -89 and 89 degrees.
        distance: Metres from the middle of what is framed. If omitted, it fills the picture.
        fov_y_deg: Vertical field of view in degrees. If omitted, 45, 30 for upper, 16 for head and hands.
        size: 512, 1280x720, 720p, 1080p or 4k.
        background: Grey level from 0 (black) to 1 (white), #rrggbb, or transparent (.png only).
        layer: final and diffuse are with and without highlights; specular is the highlights alone; depth is
            white where near.
        compare: Side by side: without highlights on the left, with them on the right.
        views: Number of views around the person in a contact sheet.
        path: JSON file of key frames for a video: {"keyframes": [{"time": 0, "azimuth_deg": 0}, {"time": 3,
            "azimuth_deg": 180, "distance": 1}]}; also elevation_deg, fov_y_deg and target ([x, y, z]),
            in the avatar's own world: metres, z up.
        frames: Number of frames in a turntable, evenly spaced over 360 degrees.
        fps: Frames per second of a video.
        device: auto selects the GPU if CUDA and gsplat are available, else the CPU.
    """
    from specularip.options import RenderOptions, check_render
    from specularip.progress import Progress

    options = RenderOptions(
        framing, azimuth_deg, elevation_deg, distance, fov_y_deg, size, background, layer, compare, views,
        path, frames, fps,
    )  # fmt: skip
    check_render(out, options)  # before torch loads
    from specularip.rendering import render as run

    with Progress() as progress:
        run(avatar, out, options, None if device == "auto" else device, progress)
    print(escaped(str(out)))


def animate(
    avatar: Annotated[Positional[Path], arg(metavar="AVATAR")],
    out: Annotated[Path, arg(metavar="FILE")],
    motion: str = "walk",
    seconds: float | None = None,
    fps: float = 30.0,
    file_fps: float | None = None,
    azimuth_deg: float = 25.0,
    elevation_deg: float = 6.0,
    size: str = "512",
    background: str = "0.6",
    follow: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Animate an avatar: a video as .mp4, a contact sheet as .png, or a model with the motion as .glb.

    Highlights are computed for every frame: the light stays where it is, while the body moves.

    Examples:
        specularip animate out/red --motion walk --out walk.mp4
        specularip animate out/red --motion dance.npz --out dance.mp4 --size 1080p --follow

    Args:
        avatar: A run folder, or an avatar file with a skeleton.
        out: Video (.mp4), image (.png) or glTF model (.glb) to write.
        motion: walk, run, wave, turn, idle; or a file of motion capture: .npz of AMASS or SMPL-X, .bvh.
        seconds: Length of the video. If omitted, that of the file; motions that loop are repeated to fill 4
            seconds.
        fps: Frames per second of the video; the motion is resampled.
        file_fps: Frames per second of a motion file that does not say.
        azimuth_deg: Azimuth of the camera: 0 is in front, 90 at the person's left.
        elevation_deg: Elevation of the camera above the horizon, between -89 and 89 degrees.
        size: 512, 1280x720, 720p, 1080p or 4k.
        background: Grey level from 0 (black) to 1 (white), #rrggbb, or transparent (.png only).
        follow: The camera moves along with the body. Otherwise it stands where it sees the whole motion.
        device: auto selects the GPU if CUDA and gsplat are available, else the CPU.
    """
    from specularip.options import AnimateOptions, check_animate
    from specularip.progress import Progress

    options = AnimateOptions(
        _expanded(motion), seconds, fps, file_fps, azimuth_deg, elevation_deg, size, background, follow
    )
    check_animate(out, options)  # before torch loads
    from specularip.animate import animate as run

    with Progress() as progress:
        run(avatar, out, options, None if device == "auto" else device, progress)
    print(escaped(str(out)))


def bake(
    avatar: Annotated[Positional[Path], arg(metavar="AVATAR")],
    out: Annotated[Path, arg(metavar="FOLDER_OR_FILE")],
    to: Literal["asg", "sh3", "sb"] = "asg",
    data: Annotated[Path | None, arg(metavar="DATA")] = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Bake an avatar's highlights so that viewers draw them without the specular head; report the PSNR lost.

    asg writes baked.safetensors: four anisotropic spherical Gaussian lobes per Gaussian, which take a few
    lines of shader code (docs/baking.md). sh3 writes baked.ply: spherical harmonics up to degree 3, for any
    viewer of 3DGS files. sb writes baked.ply with four Spherical Betas per Gaussian, for viewers that know
    them.

    Example: specularip bake out/satin --out out/satin --to sh3 --data glossy/satin

    Args:
        avatar: A run folder, or an avatar file (.safetensors).
        out: Folder for the baked file, or its name: .safetensors for asg, .ply for sh3 and sb.
        to: What the highlights are baked into.
        data: Folder with posed images, see `fit`. If given, the loss is measured on its test split.
        device: auto selects the GPU if CUDA and gsplat are available, else the CPU.
    """
    from specularip.avatar import load
    from specularip.avatar_file import FILE_NAME
    from specularip.captures.load import load_posed_images
    from specularip.files import check_writable
    from specularip.metrics import agreement, combined_psnr, mean_psnr
    from specularip.progress import Progress
    from specularip.raster.cuda import pick_device
    from specularip.resources import check_space
    from specularip.run_folder import AVATAR_BYTES

    suffix = ".safetensors" if to == "asg" else ".ply"
    file = out / f"baked{suffix}" if out.is_dir() or not out.suffix else out
    if file.suffix != suffix:
        raise UserError(f"cannot write {to} to {file}: use a folder or a name that ends in {suffix}")
    if file.resolve() == (avatar / FILE_NAME if avatar.is_dir() else avatar).resolve():
        raise UserError(f"{file} is the avatar itself: give --out another name")
    check_writable(file)
    loaded = load(avatar)
    posed = None if data is None else load_posed_images(data, "test")
    if posed is not None and len(posed) == 0:
        raise UserError(f"{posed.notes[0]}; omit --data to compare with the head only")
    check_space(file.parent, AVATAR_BYTES * len(loaded.gaussians), str(file))
    loaded = loaded.to(pick_device(None if device == "auto" else device))
    with Progress() as progress:
        baked = loaded.baked(to, progress=progress)
    baked.export(file)
    likeness = agreement(loaded, baked)
    print(f"{escaped(str(file))}: PSNR {likeness:.2f} dB against renders with the head, over 24 views")
    if posed is None:
        loss = 38 - combined_psnr(38, likeness)
        print(f"estimated loss of an avatar with 38 dB: {loss:.2f} dB; --data measures it")
    else:
        full, left = mean_psnr(loaded, posed), mean_psnr(baked, posed)
        print(f"{len(posed)} held-out views: {full:.2f} dB with the head, {left:.2f} dB baked: ", end="")
        print(f"{full - left:.2f} dB lost")


def export(
    avatar: Annotated[Positional[Path], arg(metavar="AVATAR")],
    out: Annotated[Positional[Path], arg(metavar="FILE")],
    no_bake: bool = False,
    motion: Annotated[tuple[str, ...], arg(metavar="NAME_OR_FILE ...")] = (),
    spz_version: Literal[3, 4] = 3,
    betas: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Write an avatar for other programs, by the suffix of FILE.

    .html: one page that opens in any browser, offline, with highlights and motions. .glb: glTF with
    KHR_gaussian_splatting, skeleton and motions. .ply, .spz: files of 3D Gaussians, whose highlights are
    spherical harmonics. .safetensors: everything, as in a run folder. docs/files.md compares them.

    Example: specularip export out/red red.html

    Args:
        avatar: A run folder, or an avatar file (.safetensors, .ply, .spz, .glb).
        out: File to write.
        no_bake: Diffuse colours only, without highlights.
        motion: Motions for .html and .glb besides the built-in ones: AMASS or SMPL-X .npz, or .bvh files.
        spz_version: 4 is smaller; many viewers read only 3.
        betas: Highlights in .ply as Spherical Betas, sb_params_*, instead of harmonics.
        device: Where highlights are baked: auto selects the GPU if CUDA and gsplat are available.
    """
    from specularip.exporting import export as run
    from specularip.progress import Progress

    with Progress() as progress:
        run(
            avatar,
            out,
            bake=not no_bake,
            motions=tuple(map(_expanded, motion)),
            spz_version=spz_version,
            betas=betas,
            device=None if device == "auto" else device,
            progress=progress,
        )
    print(escaped(str(out)))


def masks(data: Annotated[Positional[Path], arg(metavar="DATA")]) -> None:
    """Cut the person out of a capture's images, with the package rembg: writes masks to DATA/masks.

    `fit` and `eval` find them there. Images that have a mask, or alpha below 1, are left alone, so that an
    interrupted run goes on where it was. Look at the masks: what they miss is missing in the avatar.

    Example: specularip masks capture

    Args:
        data: Folder with images and cameras in any layout that `fit` reads.
    """
    from specularip.captures.cutout import cut_out, frames_without_mask, load_rembg
    from specularip.progress import Progress

    frames = frames_without_mask(data)
    if not frames:
        print(f"all images of {data} have a mask or alpha")
        return
    predict = load_rembg()
    doubtful = []
    with Progress() as progress:
        progress.start("masks", len(frames))
        for done, frame in enumerate(frames, 1):
            path, share = cut_out(data, frame, predict)
            if not 0.002 < share < 0.98:
                doubtful.append(str(path))
            progress.step(done)
    print(f"{len(frames)} masks: {data}/masks")
    if doubtful:
        print(f"nobody, or nothing else, found in {len(doubtful)} images: look at {', '.join(doubtful[:3])}")


def models(
    action: Annotated[Positional[Literal["check", "fetch"]], arg(metavar="{check,fetch}")] = "check",
    preset: Literal["all", "compact", "sd15"] = "all",
    quick: bool = False,
    settings: Settings = (),
) -> None:
    """Check or download the models that the presets need.

    check reports for each file whether it is present and has the right size and, if one is published, the
    right SHA-256, with licence and web page. fetch downloads all models that need no registration, resuming
    interrupted downloads, and lists those to be downloaded by hand. Exit code 1 if a file of the given preset
    is missing, or of compact, which is part of the package.

    Example: specularip models fetch --preset sd15

    Args:
        action: check only reports; fetch downloads.
        preset: The preset whose models are checked or downloaded.
        quick: Skip the checksums, which read every file completely.
        settings: Change the preset's sources, as for generate: prior.sources.base=/models/realistic_vision.
    """
    from specularip.models.check import preset_models
    from specularip.overrides import with_settings
    from specularip.presets import preset_config

    if settings and preset == "all":
        raise UserError("--set changes one preset: name it with --preset")
    names = ("compact", "sd15") if preset == "all" else (preset,)
    configs = {name: with_settings(preset_config(name), tuple(chain(*settings))) for name in names}
    if action == "fetch":
        from specularip.models.fetch import fetch

        for config in configs.values():
            fetch(preset_models(config, checksums=not quick))
    missing = []
    for name, config in configs.items():
        found = preset_models(config, checksums=not quick)
        _print_models(name, found)
        missing += [name for model in found if not model.complete]
    if preset in missing or "compact" in missing:
        raise SystemExit(1)


def view(
    avatar: Annotated[Positional[Path], arg(metavar="AVATAR")],
    motion: Annotated[tuple[str, ...], arg(metavar="NAME_OR_FILE ...")] = (),
    host: str = "127.0.0.1",
    port: int = 0,
    no_open: bool = False,
) -> None:
    """Look at an avatar in a web browser, with its highlights computed for every frame.

    Serves a page to this machine only, prints its address, opens it, and goes on until Ctrl-C. An avatar that
    is not baked has approximate highlights at first, and is baked meanwhile; the result is kept with it.

    Example: specularip view out/red --motion walk

    Args:
        avatar: A run folder, or an avatar file (.safetensors, .ply).
        motion: Motions to offer besides the built-in clips: AMASS or SMPL-X .npz, or .bvh files.
        host: Address to serve at. Any but the default lets other machines see the avatar, unencrypted, if
            they know the whole address: use it in networks that you trust.
        port: Port to serve at; 0 takes an unused one.
        no_open: Print the address only, and open no browser.
    """
    from specularip.bounds import Port, check_value

    check_value("--port", port, Port)
    from specularip.viewing.finished import view as run

    run(avatar, tuple(map(_expanded, motion)), host, port, open_browser=not no_open)


def doctor(json: bool = False) -> None:
    """Report what is installed and whether it works: for yourself, and for bug reports.

    Looks at the machine, the libraries, the models and the GPU, then renders a small avatar and takes a step
    of distillation. Each line begins with ok, missing (some feature needs it), slow or problem (it does not
    work), and says what to do. Takes half a minute, and a minute more if the kernels are not compiled yet.

    Exit code 0 if `generate` works with its default settings, 1 if something that it needs does not.

    Example: specularip doctor

    Args:
        json: Print all findings as JSON, by keys that stay the same.
    """
    from specularip.doctor.report import as_json, as_text, examine, verdict

    lines = []
    section = ""
    for line in examine():
        lines.append(line)
        if json:
            continue
        if line.section != section:
            print(f"\n{line.section}" if section else line.section, flush=True)
            section = line.section
        print(as_text(line), flush=True)
    print(as_json(lines) if json else f"\n{verdict(lines)}")
    if any(line.fails for line in lines):
        raise SystemExit(1)


def _print_models(preset: str, found: Sequence[Model]) -> None:
    print(f"{preset} preset")
    for model in found:
        print(f"  {model.name}: {' · '.join(part for part in (model.licence, model.page) if part)}")
        place = "" if str(model.root) in (model.source, ".") else f": {model.root}"
        print(f"    {'optional, with' if model.optional else 'looked for in'} {model.source}{place}")
        for file in model.files:
            size = f"{file.size / 1e6:.1f} MB" if file.size >= 1e5 else f"{file.size / 1e3:.1f} kB"
            inside = file.path.is_relative_to(model.root) and file.path != model.root
            name = file.path.relative_to(model.root) if inside else file.path.name
            print(f"    {size if file.size else '':>10}  {name}  {file.problem or 'ok'}")
        if model.by_hand and (model.optional or not model.complete):
            print(f"    by hand: {model.by_hand}")
    broken = [model for model in found if not model.complete]
    if not broken:
        print("  complete")
        return
    print(f"  missing or damaged: {', '.join(model.name for model in broken)}")
    if any(model.source == "the package" for model in broken):
        print("  reinstall the package")
    if any(model.urls or (model.part and model.page) for model in broken):
        print(f"  specularip models fetch --preset {preset} downloads all that need no registration")


def _decoded(text: str) -> str:
    """A text of the user. In some locales, Python decodes only the ASCII of it.

    Raises UserError where it is not UTF-8 either.
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        pass
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        raise UserError(f"the text is not in UTF-8: set the locale of the terminal, got {text}") from None


def _expanded(text: str) -> str:
    """A file name with its ~, which shells leave alone in --out=~/avatar and within quotes.

    Raises UserError for an empty name, as a variable that is not set gives, and where there is no home.
    """
    if not text:
        raise UserError("a file name is empty: is a variable of the shell not set?")
    expanded = os.path.expanduser(text)
    if expanded == text and (text == "~" or text.startswith(("~/", f"~{os.sep}"))):
        raise UserError(f"{text}: there is no home folder, HOME is not set: write the whole name")
    return expanded


_types = ConstructorRegistry()


@_types.primitive_rule
def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """How tyro makes the Paths among the arguments."""
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda arguments: Path(_expanded(arguments[0])),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def _print_warning(message: Warning | str, category: type[Warning], *details: Any, **more: Any) -> None:
    """Warnings of this package are for users: one line, without file and line number."""
    print(f"specularip: {one_line(str(message))}", file=sys.stderr)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0 success, 1 something is missing (`models`, `doctor`) or jobs failed (`batch`), 2 user error,
    70 a fault of this package (both with one line on stderr), 130 stopped.
    """
    steady_streams()
    arguments = list(sys.argv[1:] if args is None else args)
    with guard(wants_debug(arguments)):
        interrupt_on_termination()
        warnings.showwarning = _print_warning
        if arguments == ["--version"]:
            print(f"specularip {__version__}")
            return
        os.getcwd()  # raises where the folder was deleted, in which torch's libraries end the process
        if os.environ.get("NO_COLOR"):
            tyro._experimental_options["ansi_codes"] = False
        columns = shutil.get_terminal_size().columns
        if not NARROWEST <= columns <= WIDEST:
            os.environ["COLUMNS"] = str(min(max(columns, NARROWEST), WIDEST))
        tyro.extras.subcommand_cli_from_dict(
            {
                "generate": generate,
                "batch": batch,
                "fit": fit,
                "render": render,
                "animate": animate,
                "eval": evaluate,
                "bake": bake,
                "export": export,
                "masks": masks,
                "models": models,
                "doctor": doctor,
                "view": view,
            },
            prog="specularip",
            description="Full-body 3D Gaussian avatars with specular highlights from a sentence and a photo. "
            "--version prints the version; --debug, or SPECULARIP_DEBUG=1, shows where an error comes from.",
            args=arguments,
            config=(FlagCreatePairsOff,),
            registry=_types,
        )
