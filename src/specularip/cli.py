"""The `specularip` command: one function a subcommand, its options the function's parameters.

Torch is imported inside the functions, so that --help and wrong arguments answer at once.
"""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from specularip.errors import UserError
from specularip.version import __version__

if TYPE_CHECKING:
    from specularip.models.check import Model

# Threads that wait should soon sleep: where the machine also does something else, OpenMP's busy waiting (the
# default, milliseconds) makes a run several times slower. Read when torch loads; the user's own setting wins.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

USER_ERROR, STOPPED = 2, 130
"""Exit codes: something the user can mend; stopped by Ctrl-C or SIGTERM."""


def generate(
    text: Annotated[Positional[str], arg(metavar="TEXT")],
    image: Annotated[Path, arg(metavar="FACE")],
    out: Annotated[Path, arg(metavar="DIR")],
    preset: Literal["compact", "sd15"] = "compact",
    seed: int = 0,
    photo_weight: float | None = None,
    low_memory: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    settings: Annotated[tuple[str, ...], arg(name="set", metavar="NAME=VALUE ...")] = (),
) -> None:
    """Make an avatar from a sentence and a photo of a face.

    The folder DIR gets avatar.safetensors, avatar.ply for other viewers, turntable.mp4, preview.png (renewed
    while it works), report.json with every setting and timing, metrics.jsonl and checkpoints/. Ctrl-C saves
    a checkpoint first; the same command with --resume goes on from there.

    Example: specularip generate "A woman in a red satin dress" --image face.jpg --out out/red

    Args:
        text: The person: who, what they wear, of which colour and material.
        image: Photo of one face looking at the camera (JPEG, PNG, WebP...), 48 pixels across or more. Of
            several faces the largest is taken.
        out: Folder for the results. It must be empty or new, unless --resume or --overwrite is given.
        preset: compact ships with the package and needs no GPU and no download. sd15 is the method at full
            size: it needs an NVIDIA GPU with 16 GB and downloaded models (see `specularip models`).
        seed: The same seed on the same machine makes the same avatar.
        photo_weight: Pull of the photo on the front of the head. 0 leaves the face to the prior alone. Left
            out, 1 for compact and 0 for sd15, which knows faces well.
        low_memory: sd15 on a GPU with 12 GB: smaller batches, the same result, more time.
        resume: Continue the run in DIR from its last checkpoint.
        overwrite: Replace the run in DIR. Only files that a run writes are deleted.
        settings: Any setting of the preset by its name in report.json, such as seid.steps=1200 or
            prior.sources.base=/models/realistic_vision.
    """
    leads = os.environ.get("RANK", "0") == "0"  # torchrun starts several of these
    if leads:
        print(f'specularip {__version__}: "{" ".join(text.split())}", face from {image}', flush=True)
    from dataclasses import replace

    from specularip.inputs import check_inputs
    from specularip.presets import preset_config, with_settings
    from specularip.progress import Progress

    config = with_settings(preset_config(preset), settings)
    if photo_weight is not None:
        config = replace(config, photo_weight=photo_weight)
    # Before torch loads: wrong input is told at once.
    check_inputs(text, image, out, resume, overwrite, config.looks_for_face)
    try:
        with open(os.devnull, "w") as nowhere, Progress(None if leads else nowhere) as progress:
            progress.log("loading libraries")
            from specularip.pipeline import generate as run

            run(
                text,
                image,
                preset=preset,
                out=out,
                seed=seed,
                resume=resume,
                overwrite=overwrite,
                photo_weight=config.photo_weight,
                low_memory=low_memory,
                config=config,
                progress=progress,
            )
    except KeyboardInterrupt:
        if leads:
            _say_how_to_continue(out)
        raise SystemExit(STOPPED) from None
    if leads:
        print(f"done: {out}/turntable.mp4, {out}/preview.png, {out}/avatar.ply")


def fit(
    data: Annotated[Positional[Path], arg(metavar="DATA")],
    out: Annotated[Path, arg(metavar="DIR")],
    iterations: int | None = None,
    points: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Make an avatar from posed images: photographs, renders or generated views whose cameras are known.

    The folder DATA has NeRF-synthetic's layout: transforms_train.json with the cameras (camera_angle_x or
    fl_x; per frame file_path and a 4x4 camera-to-world transform_matrix, OpenGL axes, z up) and the images it
    names, PNG with alpha at best. With transforms_test.json, the result is measured on those views. With
    body.npz (arrays v and f, a triangle mesh) the Gaussians start on that surface; else on points3d.ply; else
    anywhere that the cameras see. The folder DIR gets avatar.safetensors, avatar.ply, preview.png (four
    views), report.json with the metrics, metrics.jsonl and checkpoints/.
    Ctrl-C saves a checkpoint first; the same command with --resume goes on from there.

    Example: specularip fit glossy/satin --out out/satin

    Args:
        data: Folder with transforms_train.json. At least 3 images, all of one size.
        out: Folder for the results. It must be empty or new, unless --resume or --overwrite is given.
        iterations: Training steps, one image each. Left out, as many as suit the device.
        points: Gaussians to start with. Left out, as many as suit the device.
        device: auto takes the GPU where CUDA and gsplat are there, else the CPU.
        seed: The same seed on the same machine makes the same avatar.
        resume: Continue the run in DIR from its last checkpoint.
        overwrite: Replace the run in DIR. Only files that a run writes are deleted.
    """
    print(f"specularip {__version__}: fit to {data}", flush=True)
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed must lie between 0 and 2^63 - 1, got {seed}")
    for name, value, least in (("--iterations", iterations, 1), ("--points", points, 100)):
        if value is not None and not least <= value <= 10_000_000:
            raise UserError(f"{name} must lie between {least} and 10000000, got {value}")
    from specularip.progress import Progress
    from specularip.run_folder import RunFolder

    RunFolder.check(out, resume, overwrite)  # before torch loads: wrong input is told at once
    try:
        with Progress() as progress:
            progress.log("loading libraries")
            from specularip.fitting.fit import fit as run
            from specularip.presets import FitConfig

            given: dict[str, Any] = {"iterations": iterations, "points": points}
            run(
                data,
                out,
                config=FitConfig(**{name: value for name, value in given.items() if value is not None}),
                device=None if device == "auto" else device,
                seed=seed,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
            )
    except KeyboardInterrupt:
        _say_how_to_continue(out)
        raise SystemExit(STOPPED) from None
    print(f"done: {out}/avatar.safetensors, {out}/preview.png, {out}/report.json")


def _say_how_to_continue(out: Path) -> None:
    from specularip.run_folder import RunFolder

    if RunFolder(out).has_checkpoint():
        again = [argument for argument in sys.argv[1:] if argument not in ("--overwrite", "--resume")]
        command = shlex.join(["specularip", *again, "--resume"])
        print(f"stopped; continue with: {command}", file=sys.stderr)
    else:
        print("stopped before the first checkpoint; nothing to continue from", file=sys.stderr)


def evaluate(
    avatar: Annotated[Positional[Path], arg(metavar="AVATAR")],
    data: Annotated[Path, arg(metavar="DATA")],
    split: Literal["test", "val", "train"] = "test",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    out: Annotated[Path | None, arg(metavar="FILE")] = None,
) -> None:
    """Measure an avatar against posed images: a table of metrics, and JSON.

    PSNR, SSIM and LPIPS (where its weights are) compare the pictures; highlight PSNR only their bright
    pixels; highlight drift says by how many degrees highlights lie off; coherence, whether the specular layer
    agrees between neighbouring views. docs/metrics.md has the formulas.

    Example: specularip eval out/satin --data glossy/satin --out metrics.json

    Args:
        avatar: A run folder, or an avatar file (.safetensors, .ply).
        data: Folder with posed images in NeRF-synthetic's layout, as `fit` takes it.
        split: Which of the folder's transforms_*.json. Measure on images that the avatar was not fitted to.
        device: auto takes the GPU where CUDA and gsplat are there, else the CPU.
        out: Where to write the metrics as JSON. A dash (-) prints the JSON alone instead of the table.
    """
    if out is not None and str(out) != "-" and out.suffix.lower() != ".json":
        raise UserError(f"cannot write metrics to {out}: end the name in .json, or use - to print them")
    from specularip.avatar import load
    from specularip.metrics import evaluate as measure
    from specularip.metrics import find_lpips
    from specularip.posed_images import load_posed_images
    from specularip.raster.cuda import pick_device
    from specularip.run_folder import to_json, write_json

    loaded = load(avatar)
    _tell_of_harmonics(avatar)
    posed = load_posed_images(data, split)
    if len(posed) == 0:
        raise UserError(f"{posed.notes[0]}; --split train measures on the images it was fitted to")
    place = pick_device(None if device == "auto" else device)
    perceptual, no_lpips = find_lpips(place)
    loaded = loaded.to(place)
    values = measure(loaded, posed, perceptual)
    if out is not None and str(out) == "-":
        print(to_json(values), end="")
        return
    notes = [note for note in (*posed.notes, no_lpips) if note]
    _print_metrics(f"{avatar} on {data} ({split})", values, notes)
    if out is not None:
        print(write_json(out, values))


METRICS = {
    "views": ("views", "{:.0f}"),
    "gaussians": ("Gaussians", "{:,.0f}"),
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "lpips": ("LPIPS (less is better)", "{:.4f}"),
    "highlight_psnr": ("highlight PSNR, dB", "{:.2f}"),
    "highlight_drift_deg": ("highlight drift, degrees", "{:.3f}"),
    "highlight_drift_p90_deg": ("highlight drift, 90th percentile", "{:.3f}"),
    "highlight_missed": ("highlights missed", "{:.1%}"),
    "highlight_spurious": ("highlights too many", "{:.1%}"),
    "coherence": ("coherence", "{:.4f}"),
    "frames_per_second": ("frames per second", "{:.1f}"),
}
"""How the table of `eval` names and writes each metric, in this order."""


def _print_metrics(title: str, values: Mapping[str, float], notes: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", title=title, title_justify="left", title_style="")
    table.add_column("value", justify="right")
    for name, (label, pattern) in METRICS.items():
        if name in values:
            value = values[name]
            table.add_row(label, "none to measure" if math.isnan(value) else pattern.format(value))
    console = Console(highlight=False, markup=False)
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True)


def render(
    avatar: Annotated[Positional[Path], arg(metavar="AVATAR")],
    out: Annotated[Path, arg(metavar="FILE")],
    azimuth_deg: float = 0.0,
    elevation_deg: float = 8.0,
    distance: float | None = None,
    fov_y_deg: float = 45.0,
    width: int = 512,
    height: int = 512,
    background: float = 0.6,
    frames: int = 120,
    fps: float = 30.0,
) -> None:
    """Draw an avatar: one view as .png, or a full turn as .mp4 that browsers play.

    Example: specularip render out/red --out side.png --azimuth-deg 90

    Args:
        avatar: A run folder, or an avatar file (.safetensors, .ply), baked ones too.
        out: The picture (.png) or film (.mp4) to write.
        azimuth_deg: Where the camera stands: 0 in front, 90 at the person's left. A film starts there.
        elevation_deg: Height of the camera above the horizon, between -89 and 89.
        distance: Metres from the middle of the body. Left out, the whole body fills the picture.
        fov_y_deg: Vertical field of view.
        width: Pixels.
        height: Pixels.
        background: Grey behind the avatar, from 0 (black) to 1 (white).
        frames: Of the film; they spread evenly over 360 degrees.
        fps: Frames per second of the film.
    """
    _check_render(out, elevation_deg, distance, fov_y_deg, (width, height), background, frames, fps)
    import torch

    from specularip.avatar import load
    from specularip.baking.bake import Baked, is_baked, load_baked
    from specularip.cameras import FULL, Cameras
    from specularip.export.video import to_uint8, write_video
    from specularip.run_folder import write_png

    loaded = load_baked(avatar) if is_baked(avatar) else load(avatar)
    heights = loaded.gaussians.means.detach()[:, 2].cpu()
    low, high = torch.quantile(heights[:: max(1, len(heights) // 100_000)], torch.tensor([0.002, 0.998]))
    radius = FULL.distance * float(high - low) if distance is None else distance
    target = (0.0, 0.0, float(low + high) / 2)

    def view(azimuth: float):
        camera = Cameras.orbit(azimuth, elevation_deg, radius, fov_y_deg, width, height, target)
        if isinstance(loaded, Baked):
            return to_uint8(loaded.render(camera, background)[0])
        return to_uint8(loaded.render(camera, background).image[0])

    if out.suffix.lower() == ".png":
        write_png(out, view(azimuth_deg))
    else:
        write_video((view(azimuth_deg + 360.0 * index / frames) for index in range(frames)), out, fps)
    print(out)


def _tell_of_harmonics(avatar: Path) -> None:
    """Say what is not drawn of a PLY whose colours change with the view."""
    from specularip.export.ply import read_harmonics

    if avatar.suffix == ".ply" and bool(read_harmonics(avatar)[:, 1:].any()):
        print(
            f"{avatar}: its harmonics (f_rest) are left out, viewers of 3DGS files show them", file=sys.stderr
        )


def _check_render(
    out: Path,
    elevation_deg: float,
    distance: float | None,
    fov_y_deg: float,
    size: tuple[int, int],
    background: float,
    frames: int,
    fps: float,
) -> None:
    if out.suffix.lower() not in (".png", ".mp4"):
        raise UserError(f"cannot render to {out}: end the name in .png for a picture or .mp4 for a film")
    if not -89 <= elevation_deg <= 89:
        raise UserError(f"--elevation-deg must lie between -89 and 89, got {elevation_deg:g}")
    if distance is not None and not 0 < distance < 1000:
        raise UserError(f"--distance must be positive, in metres, got {distance:g}")
    if not 1 <= fov_y_deg <= 170:
        raise UserError(f"--fov-y-deg must lie between 1 and 170, got {fov_y_deg:g}")
    if not all(16 <= side <= 8192 for side in size):
        raise UserError(f"--width and --height must lie between 16 and 8192, got {size[0]}x{size[1]}")
    if not 0 <= background <= 1:
        raise UserError(f"--background must lie between 0 and 1, got {background:g}")
    if not 1 <= frames <= 100_000 or not 0 < fps <= 1000:
        raise UserError(f"--frames and --fps must be positive, got {frames} and {fps:g}")


def bake(
    avatar: Annotated[Positional[Path], arg(metavar="AVATAR")],
    out: Annotated[Path, arg(metavar="FOLDER_OR_FILE")],
    to: Literal["asg", "sh3"] = "asg",
    data: Annotated[Path | None, arg(metavar="DATA")] = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Turn an avatar's highlights into plain numbers that a viewer draws without the head, and say what that
    loses.

    asg writes baked.safetensors: four anisotropic lobes a Gaussian, for a few lines of shader
    (docs/baking.md). sh3 writes baked.ply: spherical harmonics to degree 3, for any viewer of 3DGS files.

    Example: specularip bake out/satin --out out/satin --to sh3 --data glossy/satin

    Args:
        avatar: A run folder, or an avatar file (.safetensors).
        out: Folder for the baked file, or its name: .safetensors for asg, .ply for sh3.
        to: What the colours become.
        data: Folder with posed images, as `fit` takes it. With it, the loss is measured on its test split.
        device: auto takes the GPU where CUDA and gsplat are there, else the CPU.
    """
    from specularip.avatar import load
    from specularip.avatar_file import FILE_NAME
    from specularip.baking.bake import agreement, file_for, held_out
    from specularip.baking.bake import bake as run
    from specularip.posed_images import load_posed_images
    from specularip.progress import Progress
    from specularip.raster.cuda import pick_device

    file = file_for(out, to)
    if file.resolve() == (avatar / FILE_NAME if avatar.is_dir() else avatar).resolve():
        raise UserError(f"{file} is the avatar itself: give --out another name")
    loaded = load(avatar)
    posed = None if data is None else load_posed_images(data, "test")
    if posed is not None and len(posed) == 0:
        raise UserError(f"{posed.notes[0]}; leave --data out to compare with the head alone")
    place = pick_device(None if device == "auto" else device)
    loaded = loaded.to(place)
    with Progress() as progress:
        baked = run(loaded, to, progress=progress)
    baked.save(file)
    likeness = agreement(loaded, baked)
    print(f"{file}: {likeness:.2f} dB from the head's own pictures, 24 views around")
    if posed is None:
        loss = 10 * math.log10(1 + 10 ** ((38 - likeness) / 10))
        print(f"where the head reaches 38 dB, that loses about {loss:.2f} dB; --data measures it")
    else:
        full, left = held_out(loaded, baked, posed)
        print(f"{len(posed)} held-out views: {full:.2f} dB with the head, {left:.2f} dB baked: ", end="")
        print(f"{full - left:.2f} dB lost")


def models(
    action: Annotated[Positional[Literal["check", "fetch"]], arg(metavar="{check,fetch}")] = "check",
    preset: Literal["all", "compact", "sd15"] = "all",
    quick: bool = False,
    settings: Annotated[tuple[str, ...], arg(name="set", metavar="NAME=VALUE ...")] = (),
) -> None:
    """List what the presets need, where it is looked for and whether it is whole, or download it.

    check tells of every file whether it is there, of the right size and, where that is published, of the
    right SHA-256; and its licence and page. fetch downloads what can be downloaded without asking anybody,
    going on where an earlier download stopped, and says what needs a person. Exit code 1 if something is
    missing: of the preset that was named, or of compact, which every installation has.

    Example: specularip models fetch --preset sd15

    Args:
        action: check looks only; fetch downloads.
        preset: Which preset's models.
        quick: Leave out the checksums, for which every file is read from end to end.
        settings: Where a preset's parts are, as for generate: prior.sources.base=/models/realistic_vision.
    """
    from specularip.models.check import preset_models
    from specularip.presets import preset_config, with_settings

    if settings and preset == "all":
        raise UserError("--set is of one preset: name it with --preset")
    names = ("compact", "sd15") if preset == "all" else (preset,)
    configs = {name: with_settings(preset_config(name), settings) for name in names}
    if action == "fetch":
        from specularip.models.fetch import fetch

        for config in configs.values():
            fetch(preset_models(config, checksums=not quick))
    missing = []
    for name, config in configs.items():
        found = preset_models(config, checksums=not quick)
        _print_models(name, found)
        missing += [name for model in found if not model.whole]
    if preset in missing or "compact" in missing:
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
        if model.by_hand and (model.optional or not model.whole):
            print(f"    needs you: {model.by_hand}")
    broken = [model for model in found if not model.whole]
    if not broken:
        print("  complete")
        return
    print(f"  not whole: {', '.join(model.name for model in broken)}")
    if any(model.source == "the package" for model in broken):
        print("  install the package again")
    if any(model.urls or (model.part and model.page) for model in broken):
        print(f"  specularip models fetch --preset {preset} downloads what needs nobody's consent")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0 done, 1 models missing (of `models`), 2 wrong input (one line on stderr), 130 stopped.
    """

    def on_terminate(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_terminate)
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments == ["--version"]:
        print(f"specularip {__version__}")
        return
    try:
        tyro.extras.subcommand_cli_from_dict(
            {
                "generate": generate,
                "fit": fit,
                "render": render,
                "eval": evaluate,
                "bake": bake,
                "models": models,
            },
            prog="specularip",
            description="A sentence and a photo in, a full-body 3D Gaussian avatar out. "
            "--version tells the version.",
            args=arguments,
            config=(FlagCreatePairsOff,),
        )
    except UserError as error:
        print(f"specularip: error: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(STOPPED) from None
