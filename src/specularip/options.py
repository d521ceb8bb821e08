"""The options of `render` and `animate`, checked before anything is loaded. Free of torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from specularip.bounds import Elevation, FieldOfView, Range, as_option, check_settings
from specularip.errors import UserError
from specularip.ffmpeg import find_ffmpeg
from specularip.files import check_writable
from specularip.resources import check_space

FramingName = Literal["full", "upper", "head", "hands"]
Layer = Literal["final", "diffuse", "specular", "normal", "alpha", "depth"]
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "4k": (3840, 2160)}
LARGEST = 8192
SHEET_PIXELS = 64 * 3840 * 2160 // 4
"""Pixels of a contact sheet at most."""
VIDEO_BYTES, IMAGE_BYTES = 0.1, 4.0
"""Bytes that a pixel takes on the disk, at most about."""

Azimuth = Annotated[float, Range(-1e5, 1e5)]
FramesPerSecond = Annotated[float, Range(0.1, 1000.0)]


@dataclass(frozen=True)
class RenderOptions:
    """What to draw; `cli.render` documents the fields."""

    framing: FramingName = "full"
    azimuth_deg: Azimuth = 0.0
    elevation_deg: Elevation = 8.0
    distance: Annotated[float, Range(1e-3, 1000.0)] | None = None
    fov_y_deg: FieldOfView | None = None
    size: str = "512"
    background: str = "0.6"
    layer: Layer = "final"
    compare: bool = False
    views: Annotated[int, Range(1, 64)] = 1
    path: Path | None = None
    frames: Annotated[int, Range(1, 100_000)] = 120
    fps: FramesPerSecond = 30.0


@dataclass(frozen=True)
class AnimateOptions:
    """What to draw; `cli.animate` documents the fields."""

    motion: str = "walk"
    seconds: Annotated[float, Range(1e-3, 3600.0)] | None = None
    fps: FramesPerSecond = 30.0
    file_fps: FramesPerSecond | None = None
    azimuth_deg: Azimuth = 25.0
    elevation_deg: Elevation = 6.0
    size: str = "512"
    background: str = "0.6"
    follow: bool = False


def check_render(out: Path, options: RenderOptions) -> None:
    """Raises UserError for options out of range, or if `out` cannot be written here."""
    suffix = out.suffix.lower()
    if suffix not in (".png", ".mp4"):
        raise UserError(f"cannot render to {out}: end the name in .png for an image or .mp4 for a video")
    check_settings(options, as_option)
    width, height = parse_size(options.size)
    if parse_background(options.background) is None and suffix == ".mp4":
        raise UserError("an mp4 has no transparency: render a .png, or choose another --background")
    if suffix == ".mp4" and options.views > 1:
        raise UserError("--views makes a contact sheet: end the name in .png")
    if suffix == ".png" and options.path is not None:
        raise UserError("--path makes a video: end the name in .mp4")
    pixels = options.views * width * height * (2 if options.compare else 1)
    if pixels > SHEET_PIXELS:
        raise UserError(f"{options.views} views of {width}x{height} are too large for one picture")
    check_output(out, pixels * (options.frames if suffix == ".mp4" else 1))


def check_animate(out: Path, options: AnimateOptions) -> None:
    """Raises UserError for options out of range, or if `out` cannot be written here."""
    suffix = out.suffix.lower()
    if suffix not in (".mp4", ".png", ".glb"):
        raise UserError(f"cannot animate to {out}: end the name in .mp4, .png (a contact sheet) or .glb")
    check_settings(options, as_option)
    width, height = parse_size(options.size)
    if parse_background(options.background) is None and suffix == ".mp4":
        raise UserError("an mp4 has no transparency: make a .png, or choose another --background")
    check_output(out, round(width * height * (options.seconds or 4.0) * options.fps))


def check_output(out: Path, pixels: int) -> None:
    """Raise UserError if a picture or video of so many pixels cannot be written to `out`."""
    check_writable(out)
    video = out.suffix.lower() == ".mp4"
    if video:
        find_ffmpeg()
    check_space(out.parent, pixels * (VIDEO_BYTES if video else IMAGE_BYTES), str(out))


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "512", "1280x720", "720p", "1080p" or "4k". Raises UserError for others."""
    if text.lower() in SIZES:
        return SIZES[text.lower()]
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.lower())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(16 <= side <= LARGEST for side in size):
        raise UserError(
            f"--size must be a number, WIDTHxHEIGHT (16 to {LARGEST}) or {', '.join(SIZES)}, got {text}"
        )
    return size


def parse_background(text: str) -> tuple[float, float, float] | None:
    """RGB in 0..1 of a grey level ("0.6") or "#rrggbb"; None for "transparent". Raises UserError for
    others."""
    if text == "transparent":
        return None
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        red, green, blue = bytes.fromhex(text[1:])
        return red / 255, green / 255, blue / 255
    try:
        grey = float(text)
    except ValueError:
        grey = math.nan
    if not 0 <= grey <= 1:
        raise UserError(f"--background must be a grey level from 0 to 1, #rrggbb or transparent, got {text}")
    return grey, grey, grey
