"""Camera paths: key frames in a JSON file, and the smooth path through them.

    {"fps": 30, "keyframes": [
        {"time": 0, "azimuth_deg": 0},
        {"time": 2, "azimuth_deg": 90, "elevation_deg": 20, "distance": 1.2, "target": [0, 0, 0.6]},
        {"time": 4, "azimuth_deg": 360, "fov_y_deg": 30}]}

Times are in seconds. What a key frame leaves out stays as in the one before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator

from specularip.cameras import Cameras
from specularip.errors import DamagedFile, UserError, quoted
from specularip.json_reading import parse_object

RANGES = {
    "azimuth_deg": (-1e5, 1e5),
    "elevation_deg": (-89.0, 89.0),
    "distance": (1e-3, 1e3),
    "fov_y_deg": (1.0, 170.0),
    "x": (-1e4, 1e4),
    "y": (-1e4, 1e4),
    "z": (-1e4, 1e4),
}
"""The numbers of a camera, and their limits; x, y, z are the target's."""
SHORTEST = 1e-4
"""Seconds between two key frames, at least: slopes over much less overflow."""
MAX_FRAMES = 100_000


@dataclass(frozen=True)
class CameraPath:
    """Frames per second, and the numbers of each frame's camera, [T] each, by the names of RANGES."""

    fps: float
    values: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.values["distance"])

    def camera(self, frame: int, width: int, height: int) -> Cameras:
        at = {name: float(values[frame]) for name, values in self.values.items()}
        return Cameras.orbit(
            at["azimuth_deg"], at["elevation_deg"], at["distance"], at["fov_y_deg"], width, height,
            (at["x"], at["y"], at["z"]),
        )  # fmt: skip


def read_path(path: Path, start: dict[str, float], fps: float) -> CameraPath:
    """The path of a JSON file. start: the camera before the first key frame, by the names of RANGES; fps:
    where the file gives none.

    Between key frames, each number is a monotone cubic (Fritsch and Carlson 1980): it does not overshoot, and
    the camera starts and ends at rest. Raises UserError for a file that is no such path.
    """
    try:
        data = parse_object(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except DamagedFile as error:
        raise UserError(f"{path} is not a JSON object: {error}") from None
    frames = data.get("keyframes")
    if not isinstance(frames, list) or len(frames) < 2 or not all(isinstance(one, dict) for one in frames):
        raise UserError(f'{path} needs a list "keyframes" of at least two objects, each with a "time"')
    fps = _number(path, "fps", data.get("fps", fps), 1.0, 1000.0)
    times: list[float] = []
    keys: dict[str, list[float]] = {name: [] for name in RANGES}
    current = dict(start)
    for index, frame in enumerate(frames):
        where = f"keyframes[{index}]"
        unknown = sorted(set(frame) - set(RANGES) - {"time", "target"})
        if unknown:
            raise UserError(f"{path}: {where} has unknown {', '.join(map(quoted, unknown[:8]))}")
        times.append(_number(path, f"{where}.time", frame.get("time"), 0.0, 1e5))
        if index and times[-1] < times[-2] + SHORTEST:
            raise UserError(f"{path}: the times of the key frames must increase, see {where}")
        target = frame.get("target", [current[axis] for axis in "xyz"])
        if not isinstance(target, list) or len(target) != 3:
            raise UserError(f"{path}: {where}.target must be three numbers")
        frame = frame | dict(zip("xyz", target))
        for name, (low, high) in RANGES.items():
            if name in frame:
                current[name] = _number(path, f"{where}.{name}", frame[name], low, high)
            keys[name].append(current[name])
    count = round((times[-1] - times[0]) * fps) + 1
    if count > MAX_FRAMES:
        raise UserError(f"{path} takes {count} frames, more than {MAX_FRAMES}")
    at = np.linspace(times[0], times[-1], count)
    return CameraPath(fps, {name: _eased(np.array(times), np.array(key), at) for name, key in keys.items()})


def _eased(times: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    slopes = PchipInterpolator(times, values).derivative()(times)
    slopes[0] = slopes[-1] = 0
    return CubicHermiteSpline(times, values, slopes)(at)


def _number(path: Path, name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{path}: {name} must be a number")
    if not low <= value <= high:
        raise UserError(f"{path}: {name} must lie between {low:g} and {high:g}, got {value:g}")
    return float(value)
