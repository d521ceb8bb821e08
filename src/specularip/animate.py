"""The `animate` command: an avatar in motion as a video, a contact sheet or a glTF file."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
from specularip.options import AnimateOptions, check_animate, check_output, parse_background, parse_size
from specularip.pictures import draw, grid
from specularip.posable import Posable
from specularip.progress import Progress
from specularip.raster.cuda import pick_device

SHORTEST = 4.0
"""Seconds that a video lasts at least, if not told otherwise: cycles are repeated until then."""
SHEET = 12
"""Pictures of a contact sheet."""
MARGIN = 1.06
"""Size of the picture relative to the subject's."""
EXTENT = 2.0
"""Standard deviations of a Gaussian that belong to the subject."""
STRAY = 0.001
"""Share of the outermost Gaussians that framing ignores, in each frame."""
FRAMED, SAMPLES = 48, 4000
"""How many frames of a clip, and Gaussians of each, framing looks at."""
LONGEST = 100_000
"""Frames of a video at most."""


class Framing(NamedTuple):
    """A camera's distance in metres, and the points that it looks at, [T,3]."""

    distance: float
    targets: Tensor


def animate(avatar: Path, out: Path, options: AnimateOptions, device: str | None, progress: Progress) -> None:
    """Animate a file or run folder to `out`. Raises UserError for options that `check_animate` refuses, for
    an avatar without skeleton, and where a file cannot be read or written."""
    check_animate(out, options)
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
    width, height = parse_size(options.size)
    check_output(out, len(times) * width * height)  # now that the length is known
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
    bones, strengths = posable.bones(clip), posable.strengths(clip)
    path = clip.translation * clip.translation.new_tensor([1.0, 1.0, 0.0])
    path = path if options.follow else torch.zeros_like(path)
    distance, targets = framing(posable, bones, path, options, width / height)
    progress.start("animate", len(clip))
    for index in range(len(clip)):
        posed = posable.posed(bones[index], None if strengths is None else strengths[index])
        camera = Cameras.orbit(
            options.azimuth_deg, options.elevation_deg, distance, FULL.fov_y_deg, width, height,
            targets[index],
        )  # fmt: skip
        yield draw(posed, camera, "final", background)
        progress.step(index + 1)


def framing(posable: Posable, bones: Tensor, path: Tensor, options: AnimateOptions, aspect: float) -> Framing:
    """The nearest camera that has the subject in the picture in all frames, stray Gaussians aside.

    bones [T,J,20]; path [T,3]: how far the camera moves along.
    """
    rest = posable.rest
    some = slice(None, None, max(1, len(rest.means) // SAMPLES))
    points, joints, weights = rest.means[some], rest.bind_joints[some].long(), rest.bind_weights[some]
    frames = torch.linspace(0, len(path) - 1, min(len(path), FRAMED)).round().long().tolist()
    posed = torch.stack(
        [
            skin_points(points, joints, weights, bones[frame], posable.blend)[0].cpu() - path[frame]
            for frame in frames
        ]
    )
    low, high = extremes(posed.flatten(0, 1))
    middle = (low + high) / 2
    view = Cameras.orbit(options.azimuth_deg, options.elevation_deg).viewmats[0, :3, :3]
    right, down, ahead = ((posed - middle) @ view.T).unbind(-1)
    slope = math.tan(math.radians(FULL.fov_y_deg / 2)) / MARGIN
    radius = EXTENT * posable.prepared.scales[some].amax(1).cpu()
    needed = torch.maximum((right.abs() + radius) / aspect, down.abs() + radius) / slope - ahead
    distance = float(torch.quantile(needed, 1 - STRAY, dim=1).max())
    return Framing(max(distance, 1e-3), middle + path)
