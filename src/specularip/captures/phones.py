"""Captures of phone apps that have cameras in files of their own: Polycam's raw data and Record3D's.

Both are ARKit's poses: camera to world, OpenGL axes, metres, y up.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from specularip.captures.frames import Capture, Split
from specularip.captures.intrinsics import as_number
from specularip.captures.transforms import read_json, read_split
from specularip.errors import UserError, quoted

MAX_FRAMES = 100_000
_POLYCAM = (
    ("keyframes/corrected_cameras", "keyframes/corrected_images"),
    ("keyframes/cameras", "keyframes/images"),
)
"""Folders of cameras and of images; the first are after Polycam's own optimisation."""
_INTRINSICS = ("fx", "fy", "cx", "cy", "width", "height")


def find_polycam(folder: Path) -> tuple[Path, Path] | None:
    """The folders of cameras and images of Polycam's "raw data" export."""
    for cameras, images in _POLYCAM:
        if (folder / cameras).is_dir() and (folder / images).is_dir():
            return folder / cameras, folder / images
    return None


def read_polycam(folder: Path, split: Split) -> Capture:
    """A split of Polycam's raw data: one JSON file of a camera for each image, named alike.

    Raises UserError as `transforms.read_table` does.
    """
    places = find_polycam(folder)
    assert places is not None
    cameras, images = places
    names = sorted(name for name in os.listdir(cameras) if name.lower().endswith(".json"))[:MAX_FRAMES]
    frames = []
    for name in names:
        path = cameras / name
        said = read_json(path)
        try:
            rows = [[said[f"t_{row}{column}"] for column in range(4)] for row in range(3)]
            lens = {key: said[key] for key in _INTRINSICS}
        except KeyError as error:
            raise UserError(f"{path} has no {error}: export the raw data from Polycam again") from None
        frames.append(
            {"file_path": f"{images.relative_to(folder).as_posix()}/{path.stem}", "transform_matrix": rows}
            | lens
        )
    capture = read_split(folder, cameras, {"frames": frames}, split, "Polycam")
    notes = capture.notes
    if images.name.startswith("corrected"):
        notes = (
            *notes,
            "Polycam's corrected images have a dark border of some pixels, which is fitted where no mask is",
        )
    return replace(capture, notes=notes)


def is_record3d(folder: Path) -> bool:
    return (folder / "rgb").is_dir() and any(
        (folder / name).is_file() for name in ("metadata.json", "metadata")
    )


def read_record3d(folder: Path, split: Split) -> Capture:
    """A split of Record3D's export as images: rgb/0.jpg and so on, and their poses in metadata.json.

    Raises UserError as `transforms.read_table` does.
    """
    path = next(folder / name for name in ("metadata.json", "metadata") if (folder / name).is_file())
    said = read_json(path)
    poses, K = said.get("poses"), said.get("K")
    if not isinstance(poses, list) or not all(isinstance(pose, list) and len(pose) == 7 for pose in poses):
        raise UserError(f"{path}: 'poses' must be a list of qx qy qz qw x y z: export from Record3D again")
    if not isinstance(K, list) or len(K) != 9:
        raise UserError(f"{path}: K must be nine numbers, got {quoted(K)}: export from Record3D again")
    lenses = said.get("perFrameIntrinsicCoeffs")
    if not isinstance(lenses, list) or len(lenses) != len(poses):
        lenses = [K] * len(poses)
    numbered = {
        int(stem): name
        for name in os.listdir(folder / "rgb")
        if (stem := name.rpartition(".")[0]).isascii() and stem.isdecimal() and len(stem) < 10
    }
    frames: list[dict[str, Any]] = []
    for index in sorted(numbered):
        if index >= len(poses):
            raise UserError(
                f"{path}: rgb/{numbered[index]} has no pose: there are {len(poses)}; export it again"
            )
        where = f"{path}: pose {index}"
        numbers = np.array([as_number(value, "an entry", where) for value in poses[index]])
        length = float(np.linalg.norm(numbers[:4]))
        if not 0.5 < length < 2:
            raise UserError(f"{where} is no rotation: export from Record3D again")
        frame: dict[str, Any] = {"file_path": f"rgb/{numbered[index]}", "intrinsics": lenses[index]}
        frame["transform_matrix"] = np.c_[_rotation(numbers[:4] / length), numbers[4:]].tolist()
        frames.append(frame)
    table = {"frames": frames, "w": said.get("w"), "h": said.get("h")}
    return read_split(folder, path, table, split, "Record3D")


def _rotation(quat: np.ndarray) -> np.ndarray:
    """[3,3] of a unit quaternion xyzw."""
    x, y, z, w = quat
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
