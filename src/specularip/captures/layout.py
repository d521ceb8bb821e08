"""A capture's folder: which layout it has, and what it says.

Tried in this order: transforms_train.json (NeRF-synthetic), transforms.json (nerfstudio, instant-ngp), a
model of COLMAP, Polycam's raw data, Record3D's images. docs/captures.md has what is read of each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from specularip.captures import colmap, phones, transforms
from specularip.captures.frames import Capture, Split
from specularip.captures.masks import with_masks
from specularip.captures.names import SUFFIXES
from specularip.errors import UserError

MIN_VIEWS = 3
"""Minimum number of different training images: two leave the depth of most points undetermined."""


def _is_pair(folder: Path) -> bool:
    """Whether it has NeRF-synthetic's files; other splits beside transforms.json belong to that."""
    has = {name: (folder / f"transforms{name}.json").exists() for name in ("_train", "", "_test", "_val")}
    return has["_train"] or (not has[""] and (has["_test"] or has["_val"]))


_LAYOUTS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path, Split], Capture]], ...] = (
    ("transforms_train.json", _is_pair, transforms.read_pair),
    ("transforms.json", lambda folder: (folder / "transforms.json").exists(), transforms.read_single),
    ("COLMAP's model", lambda folder: colmap.find_model(folder) is not None, colmap.read_colmap),
    ("Polycam's keyframes", lambda folder: phones.find_polycam(folder) is not None, phones.read_polycam),
    ("Record3D's metadata", phones.is_record3d, phones.read_record3d),
)

_CONVERT = "export the cameras for COLMAP, or convert them with nerfstudio's `ns-process-data {}`"
_OTHER = (
    (("*.r3d",), "is Record3D's own file: unzip it, or export as EXR and RGB sequence"),
    (("database.db",), "is COLMAP's database only: run its mapper, which writes sparse/0"),
    (
        ("poses_bounds.npy",),
        "is LLFF's layout: convert it with LLFF's or nerfstudio's tools to transforms.json",
    ),
    (("cameras.npz", "cameras_sphere.npz"), "is IDR's layout: convert it to transforms.json"),
    (("cameras.sfm", "sfm_data.json", "views.json"), f"is Meshroom's: {_CONVERT.format('images')}"),
    (("reconstruction.json",), f"is OpenSfM's: {_CONVERT.format('odm')}"),
    (("cameras.xml", "*.psx"), f"is Metashape's: {_CONVERT.format('metashape')}"),
    (
        ("*.xmp", "*.rcproj", "*.rsproj", "*.csv"),
        f"may be RealityScan's: {_CONVERT.format('realitycapture')}",
    ),
    (("*.mp4", "*.mov", "*.MP4", "*.MOV"), "is a video without cameras: `ns-process-data video` finds them"),
)
"""Signs of layouts that are not read, and what to do."""


def read_capture(folder: Path, split: Split) -> Capture:
    """What a folder says about one split, in whichever layout.

    A test or val split has no frames if the folder says of none, and then a note says why. Raises UserError
    for folders without a capture, and with one line for everything in it that is wrong or not supported.
    """
    _check_folder(folder)
    found = [(sign, read) for sign, holds, read in _LAYOUTS if holds(folder)]
    if not found:
        raise UserError(_nothing(folder))
    try:
        capture = found[0][1](folder, split)
    except RecursionError:
        raise UserError(f"{folder}: {found[0][0]} is nested too deeply: export it again") from None
    count = len({frame.image for frame in capture.frames})
    if split == "train" and count < MIN_VIEWS:
        raise UserError(
            f"{capture.source} has {count} different images: at least {MIN_VIEWS} views are needed"
        )
    if split == "train" and _are_at_one_place(capture):
        raise UserError(
            f"{capture.source}: all cameras are at one place, from which no depth can be told: its poses are "
            "missing or wrong; export them again"
        )
    frames, notes = with_masks(folder, capture.source, capture.frames)
    notes = [*capture.notes, *notes]
    if len(found) > 1:
        others = " and ".join(sign for sign, _ in found[1:])
        notes.append(f"{folder} has {found[0][0]} and {others}: {found[0][0]} is used")
    return replace(capture, frames=frames, notes=tuple(notes))


def _are_at_one_place(capture: Capture) -> bool:
    viewmats = np.stack([frame.viewmat for frame in capture.frames])
    positions = -np.einsum("vij,vi->vj", viewmats[:, :3, :3], viewmats[:, :3, 3])
    return bool(np.ptp(positions, axis=0).max() <= 1e-9 * max(1.0, np.abs(positions).max()))


def _check_folder(folder: Path) -> None:
    try:
        if folder.is_dir():
            os.listdir(folder)
            return
        if folder.is_file():
            raise UserError(f"{folder} is no folder: give the one that it is in, {folder.parent}")
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise UserError(f"{folder!r} is no name of a folder") from None
    raise UserError(f"{folder} is no folder: give one with a capture, see docs/captures.md")


def _nothing(folder: Path) -> str:
    """Why a folder holds no capture, and what to do."""
    base = f"{folder}: transforms_train.json is missing, and so are transforms.json and a model of COLMAP"
    inner = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    for other in (*inner[:50], folder.parent):
        if any(holds(other) for _, holds, _ in _LAYOUTS):
            return f"{base}: did you mean {other}?"
    if (folder / "sparse").is_dir():
        return f"{base}: sparse/ holds no cameras and images, as .bin or .txt; let COLMAP's mapper write them"
    for patterns, words in _OTHER:
        for place in (folder, *inner[:20]):
            if (file := _first(file for pattern in patterns for file in place.glob(pattern))) is not None:
                return f"{base}: {file.name!r} {words}"
    if any(name.suffix.lower() in SUFFIXES for place in (folder, *inner[:20]) for name in place.iterdir()):
        return f"{base}: images alone do not say where their cameras are; COLMAP finds that out"
    return f"{base}: give the folder of a capture, see docs/captures.md"


def _first(files: Iterable[Path]) -> Path | None:
    return next(iter(files), None)
