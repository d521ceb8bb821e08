"""The `render` command: stills, contact sheets and videos of an avatar."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specularip.avatar import load
from specularip.camera_path import CameraPath, read_path
from specularip.cameras import Cameras
from specularip.errors import UserError
from specularip.export.video import write_video
from specularip.files import write_png
from specularip.framing import FOV_Y_DEG, FramingName, frame_subject
from specularip.pictures import (
    Layer,
    draw,
    grid,
    parse_background,
    parse_size,
    shows_something,
    without_highlights,
)
from specularip.progress import Progress
from specularip.raster.cuda import pick_device


@dataclass(frozen=True)
class RenderOptions:
    """What to draw; `cli.render` documents the fields."""

    framing: FramingName = "full"
    azimuth_deg: float = 0.0
    elevation_deg: float = 8.0
    distance: float | None = None
    fov_y_deg: float | None = None
    size: str = "512"
    background: str = "0.6"
    layer: Layer = "final"
    compare: bool = False
    views: int = 1
    path: Path | None = None
    frames: int = 120
    fps: float = 30.0


def check_options(out: Path, options: RenderOptions) -> None:
    """Raises UserError for options out of range, before anything is loaded."""
    suffix = out.suffix.lower()
    if suffix not in (".png", ".mp4"):
        raise UserError(f"cannot render to {out}: end the name in .png for an image or .mp4 for a video")
    if not -89 <= options.elevation_deg <= 89:
        raise UserError(f"--elevation-deg must lie between -89 and 89, got {options.elevation_deg:g}")
    if not -1e5 <= options.azimuth_deg <= 1e5:
        raise UserError(f"--azimuth-deg must be an angle, got {options.azimuth_deg:g}")
    if options.distance is not None and not 0 < options.distance < 1e9:
        raise UserError(f"--distance must be positive, in metres, got {options.distance:g}")
    if options.fov_y_deg is not None and not 1 <= options.fov_y_deg <= 170:
        raise UserError(f"--fov-y-deg must lie between 1 and 170, got {options.fov_y_deg:g}")
    if not 1 <= options.frames <= 100_000 or not 0 < options.fps <= 1000:
        raise UserError(f"--frames and --fps must be positive, got {options.frames} and {options.fps:g}")
    if not 1 <= options.views <= 64:
        raise UserError(f"--views must lie between 1 and 64, got {options.views}")
    width, height = parse_size(options.size)
    if parse_background(options.background) is None and suffix == ".mp4":
        raise UserError("an mp4 has no transparency: render a .png, or choose another --background")
    if suffix == ".mp4" and options.views > 1:
        raise UserError("--views makes a contact sheet: end the name in .png")
    if suffix == ".png" and options.path is not None:
        raise UserError("--path makes a video: end the name in .mp4")
    if options.views * width * height * (2 if options.compare else 1) > 64 * 3840 * 2160 // 4:
        raise UserError(f"{options.views} views of {width}x{height} are too large for one picture")


def render(avatar: Path, out: Path, options: RenderOptions, device: str | None, progress: Progress) -> None:
    """Render a file or run folder to `out`. Warns if no picture shows the avatar. Raises UserError for
    options that `check_options` refuses, or where a file cannot be read or written."""
    check_options(out, options)
    width, height = parse_size(options.size)
    background = parse_background(options.background)
    loaded = load(avatar)
    fov_y_deg = options.fov_y_deg or FOV_Y_DEG[options.framing]
    fitting, target = frame_subject(
        loaded.gaussians, options.framing, fov_y_deg=fov_y_deg, aspect=width / height
    )
    distance = options.distance or fitting
    path: CameraPath | None = None
    if options.path is not None:
        start = {
            "azimuth_deg": options.azimuth_deg, "elevation_deg": options.elevation_deg,
            "distance": distance, "fov_y_deg": fov_y_deg, **dict(zip("xyz", target)),
        }  # fmt: skip
        path = read_path(options.path, start, options.fps)
    prepared = loaded.to(pick_device(device)).prepare()
    plain = without_highlights(prepared)

    def picture(camera: Cameras) -> np.ndarray:
        drawn = draw(prepared, camera, options.layer, background)
        if not options.compare:
            return drawn
        return np.concatenate([draw(plain, camera, options.layer, background), drawn], 1)

    def orbit(turn_deg: float) -> Cameras:
        return Cameras.orbit(
            options.azimuth_deg + turn_deg, options.elevation_deg, distance, fov_y_deg, width, height,
            target,
        )  # fmt: skip

    if out.suffix.lower() == ".png":
        count, camera = options.views, _evenly(orbit, options.views)
    elif path is None:
        count, camera = options.frames, _evenly(orbit, options.frames)
    else:
        count, camera = len(path), lambda frame: path.camera(frame, width, height)

    def pictures():
        progress.start("render", count)
        empty = True
        for index in range(count):
            view = camera(index)
            empty = empty and not shows_something(prepared, view)
            yield picture(view)
            progress.step(index + 1)
        if empty:
            at = ", ".join(f"{value:.3g}" for value in target)
            warnings.warn(
                f"{out}: not one pixel shows the avatar. It is about ({at}) and fills a picture from "
                f"{fitting:.3g} m away: check --distance and --path",
                stacklevel=2,
            )

    if out.suffix.lower() == ".png":
        write_png(out, grid(list(pictures())))
    else:
        write_video(pictures(), out, path.fps if path else options.fps)


def _evenly(orbit: Callable[[float], Cameras], count: int) -> Callable[[int], Cameras]:
    return lambda index: orbit(360.0 * index / count)
