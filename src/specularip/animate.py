"""The `animate` command: an avatar in motion as a video, a contact sheet or a glTF file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from specularip.avatar import load
from specularip.cameras import FULL, Cameras
from specularip.errors import UserError
from specularip.export.video import write_video
from specularip.files import write_png
from specularip.framing import extremes
from specularip.motion.clip import Clip
from specularip.motion.load import load_clip
from specularip.motion.skinning import skin_points
from specularip.pictures import draw, grid, parse_background, parse_size
from specularip.posable import Posable
from specularip.progress import Progress
from specularip.raster.cuda import pick_device

SHORTEST = 4.0
"""Seconds that a video lasts at least, if not told otherwise: cycles are repeated until then."""
SHEET = 12
"""Pictures of a contact sheet."""
MARGIN = 1.08
"""Size of the picture relative to the subject's."""
STRAY = 0.001
"""Share of the outermost Gaussians that framing ignores, in each frame."""
FRAMED, SAMPLES = 48, 4000
"""How many frames of a clip, and Gaussians of each, framing looks at."""
LONGEST = 100_000
"""Frames of a video at most."""


@dataclass(frozen=True)
class AnimateOptions:
    """What to draw; `cli.animate` documents the fields."""

    motion: str = "walk"
    seconds: float | None = None
    fps: float = 30.0
    file_fps: float | None = None
    azimuth_deg: float = 25.0
    elevation_deg: float = 6.0
    size: str = "512"
    background: str = "0.6"
    follow: bool = False


class Framing(NamedTuple):
    """A camera's distance in metres, and the points that it looks at, [T,3]."""

    distance: float
    targets: Tensor


def check_options(out: Path, options: AnimateOptions) -> None:
    """Raises UserError for options out of range, before anything is loaded."""
    suffix = out.suffix.lower()
    if suffix not in (".mp4", ".png", ".glb"):
        raise UserError(f"cannot animate to {out}: end the name in .mp4, .png (a contact sheet) or .glb")
    if options.seconds is not None and not 0 < options.seconds <= 3600:
        raise UserError(f"--seconds must lie between 0 and 3600, got {options.seconds:g}")
    for name, rate in (("--fps", options.fps), ("--file-fps", options.file_fps)):
        if rate is not None and not 0 < rate <= 1000:
            raise UserError(f"{name} must lie between 0 and 1000, got {rate:g}")
    if not -89 <= options.elevation_deg <= 89:
        raise UserError(f"--elevation-deg must lie between -89 and 89, got {options.elevation_deg:g}")
    if not -1e5 <= options.azimuth_deg <= 1e5:
        raise UserError(f"--azimuth-deg must be an angle, got {options.azimuth_deg:g}")
    parse_size(options.size)
    if parse_background(options.background) is None and suffix == ".mp4":
        raise UserError("an mp4 has no transparency: make a .png, or choose another --background")


def animate(avatar: Path, out: Path, options: AnimateOptions, device: str | None, progress: Progress) -> None:
    """Animate a file or run folder to `out`. Raises UserError for options that `check_options` refuses, for
    an avatar without skeleton, and where a file cannot be read or written."""
    check_options(out, options)
    loaded = load(avatar)
    clip = load_clip(options.motion, loaded.skeleton(), fps=options.file_fps, log=progress.log)
    suffix = out.suffix.lower()
    if suffix == ".glb":
        loaded.export(out, clips=[clip], progress=progress)
        return
    if suffix == ".png":
        times = torch.linspace(0, played(clip, options.seconds or clip.seconds), SHEET + 1)[:-1]
    else:
        seconds = played(clip, options.seconds)
        times = torch.arange(max(1, round(seconds * options.fps))) / options.fps
    if len(times) > LONGEST:
        raise UserError(f"{len(times)} frames are too many for one video: use --seconds or a lower --fps")
    posable = Posable(loaded.to(pick_device(device)))
    frames = pictures(posable, clip.at(times.double()), options, progress)
    if suffix == ".png":
        write_png(out, grid(list(frames)))
    else:
        write_video(frames, out, options.fps)


def played(clip: Clip, seconds: float | None) -> float:
    """How long to play: a given time, at most the clip's if it does not loop; else all of the clip, and as
    many whole cycles of a short one as fill SHORTEST."""
    if not clip.loops:
        whole = clip.seconds + 1 / clip.fps  # the last frame is shown too
        return whole if seconds is None else min(seconds, whole)
    return clip.seconds * math.ceil(SHORTEST / clip.seconds - 1e-6) if seconds is None else seconds


@torch.no_grad()
def pictures(
    posable: Posable, clip: Clip, options: AnimateOptions, progress: Progress
) -> Iterator[np.ndarray]:
    """The pictures of all frames of a clip, uint8 [H,W,3 or 4]."""
    width, height = parse_size(options.size)
    background = parse_background(options.background)
    transforms, strengths = posable.transforms(clip), posable.strengths(clip)
    path = clip.translation * clip.translation.new_tensor([1.0, 1.0, 0.0])
    path = path if options.follow else torch.zeros_like(path)
    distance, targets = framing(posable, transforms, path, options, width / height)
    progress.start("animate", len(clip))
    for index in range(len(clip)):
        posed = posable.posed(transforms[index], None if strengths is None else strengths[index])
        camera = Cameras.orbit(
            options.azimuth_deg, options.elevation_deg, distance, FULL.fov_y_deg, width, height,
            targets[index],
        )  # fmt: skip
        yield draw(posed, camera, "final", background)
        progress.step(index + 1)


def framing(
    posable: Posable, transforms: Tensor, path: Tensor, options: AnimateOptions, aspect: float
) -> Framing:
    """The nearest camera that has the subject in the picture in all frames, stray Gaussians aside.

    transforms [T,J,4,4]; path [T,3]: how far the camera moves along.
    """
    rest = posable.rest
    some = slice(None, None, max(1, len(rest.means) // SAMPLES))
    points, joints, weights = rest.means[some], rest.bind_joints[some].long(), rest.bind_weights[some]
    frames = torch.linspace(0, len(path) - 1, min(len(path), FRAMED)).round().long().tolist()
    posed = torch.stack(
        [
            skin_points(points, joints, weights, transforms[frame], posable.blend)[0].cpu() - path[frame]
            for frame in frames
        ]
    )
    low, high = extremes(posed.flatten(0, 1))
    middle = (low + high) / 2
    view = Cameras.orbit(options.azimuth_deg, options.elevation_deg).viewmats[0, :3, :3]
    right, down, ahead = ((posed - middle) @ view.T).unbind(-1)
    slope = math.tan(math.radians(FULL.fov_y_deg / 2)) / MARGIN
    needed = torch.maximum(right.abs() / aspect, down.abs()) / slope - ahead
    distance = float(torch.quantile(needed, 1 - STRAY, dim=1).max())
    return Framing(max(distance, 1e-3), middle + path)
