"""The `render` command: stills, contact sheets and videos of an avatar."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from specularip.avatar import load
from specularip.camera_path import CameraPath, read_path
from specularip.cameras import Cameras
from specularip.export.video import write_video
from specularip.files import write_png
from specularip.framing import FOV_Y_DEG, frame_subject
from specularip.options import RenderOptions, check_render, parse_background, parse_size
from specularip.pictures import draw, grid, shows_something, without_highlights
from specularip.progress import Progress
from specularip.raster.cuda import pick_device


def render(avatar: Path, out: Path, options: RenderOptions, device: str | None, progress: Progress) -> None:
    """Render a file or run folder to `out`. Warns if no picture shows the avatar. Raises UserError for
    options that `check_render` refuses, or where a file cannot be read or written."""
    check_render(out, options)
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
