"""Masks that a capture's folder holds by name: masks/a.png, or masks/a.jpg.png as COLMAP has it, of a.jpg."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from specularip.captures.frames import Frame
from specularip.captures.names import (
    MASK_FOLDERS,
    Finder,
    base_of,
    largest,
    parts_of,
    plain,
    relative_name,
)
from specularip.errors import UserError, quoted

_PICTURES = ("images", "image", "rgb", "input")
"""Folders of pictures that masks/ has no counterpart of: images/cam1/a.jpg has masks/cam1/a.png."""


def with_masks(folder: Path, source: Path, frames: Sequence[Frame]) -> tuple[tuple[Frame, ...], list[str]]:
    """The frames with the masks of a folder masks/, where none of them names its own; and notes.

    Raises UserError if a mask may be that of several images.
    """
    given = sum(frame.mask is not None for frame in frames)
    if given or not frames:
        notes = [_missing(source, given, len(frames))] if 0 < given < len(frames) else []
        if given > 1 and len({frame.mask for frame in frames}) == 1 < len({frame.image for frame in frames}):
            notes.append(
                f"{source.name}: all images have the same mask, {frames[0].mask}: what it hides counts as "
                "empty; remove mask_path if it only marks what the camera cannot see"
            )
        return tuple(frames), notes
    places = [
        entry.name for entry in os.scandir(folder) if entry.is_dir() and base_of(entry.name) in MASK_FOLDERS
    ]
    if not places:
        return tuple(frames), []
    masks, pictures = Finder(folder, masks=True), Finder(folder)
    found = []
    for index, frame in enumerate(frames):
        mask = _mask_of(frame, masks, folder)
        rivals = [] if mask is None else _pictures_of(mask, frame.name, pictures, folder)
        if any(plain(rival) != plain(frame.name) for rival in rivals):
            names = " and ".join(map(quoted, rivals[:2]))
            raise UserError(
                f"{source}: frame {index}: {mask} may be the mask of {names}: "
                "give masks/ the same folders as the images have"
            )
        found.append(replace(frame, mask=mask))
    count = sum(frame.mask is not None for frame in found)
    if not count:
        return tuple(frames), [
            f"no mask in {'/ and '.join(sorted(places))}/ has the name of an image: not used"
        ]
    notes = [] if count == len(found) else [_missing(source, count, len(found))]
    return tuple(found), notes


def _mask_of(frame: Frame, masks: Finder, folder: Path) -> Path | None:
    name = frame.name.rpartition("/")[2]
    wanted = _without_pictures(parts_of(frame.name)[:-1])
    for last in (f"{name}.png", name):
        fitting = []
        for file in masks.with_stem(last):
            below = _folders(file, folder)
            if _tail(wanted, len(below)) == below:
                fitting.append((len(below), file))
        if fitting:
            most = max(length for length, _ in fitting)
            files = largest([file for length, file in fitting if length == most], folder)
            if len(files) > 1:
                first, second = (quoted(relative_name(file, folder)) for file in files[:2])
                raise UserError(
                    f"{folder}: the mask of {quoted(frame.name)} may be {first} or {second}: remove one"
                )
            return files[0]
    return None


def _pictures_of(mask: Path, name: str, pictures: Finder, folder: Path) -> list[str]:
    """All images that a mask may belong to, by their names. name: of one of them."""
    below = _folders(mask, folder)
    names = [relative_name(one, folder) for one in largest(pictures.with_stem(name), folder)]
    return [one for one in names if _tail(_without_pictures(one.split("/")[:-1]), len(below)) == below]


def _tail(parts: list[str], length: int) -> list[str]:
    return parts[len(parts) - length :] if length <= len(parts) else []


def _folders(mask: Path, folder: Path) -> list[str]:
    """Below masks/, without the pictures' folders."""
    return _without_pictures(relative_name(mask, folder).split("/")[1:-1])


def _without_pictures(parts: Sequence[str]) -> list[str]:
    return [plain(part) for part in parts if base_of(part) not in _PICTURES]


def _missing(source: Path, count: int, total: int) -> str:
    rest = "the background of the others is fitted too"
    return f"{source.name}: only {count} of {total} images have a mask: {rest}"
