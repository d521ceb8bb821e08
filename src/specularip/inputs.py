"""The inputs of `generate`, checked within a few seconds, before the models load."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from specularip.errors import UserError
from specularip.faces.alignment import FaceBox
from specularip.faces.landmarks import find_face
from specularip.faces.photo import read_image
from specularip.run_folder import RunFolder


@dataclass(frozen=True)
class Inputs:
    """text: on one line, without surplus white space. photo: uint8 [H,W,3], upright. face: the largest one,
    None if not searched for. out: may not exist yet. notes: lines for the user, such as the number of
    faces."""

    text: str
    image: Path
    photo: np.ndarray
    face: FaceBox | None
    out: Path
    notes: tuple[str, ...]


def check_inputs(
    text: str,
    image: str | Path,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    look_for_face: bool = True,
) -> Inputs:
    """Read the photo, find the face and check that `out` may be used; writes nothing.

    look_for_face: False if insightface will detect the face later (`faces.insightface`). Raises UserError for
    an empty text, a photo without a usable face (see `faces.photo`, `faces.landmarks`), or an output folder
    that cannot be used (see `RunFolder.check`).
    """
    text = " ".join(text.split())
    if not text:
        raise UserError("the text is empty: describe the person, as in 'A woman in a red satin dress'")
    folder = RunFolder.check(out, resume, overwrite)  # the cheapest check first
    path = Path(image)
    photo = _read_photo(path, _file_version(path))
    if not look_for_face:
        return Inputs(text, path, photo, None, folder, ())
    face = _find_face(path, _file_version(path))
    notes = (f"{face.count} faces in {path}: taking the largest",) if face.count > 1 else ()
    return Inputs(text, path, photo, face, folder, notes)


@lru_cache(maxsize=1)
def _read_photo(path: Path, version: tuple[int, ...]) -> np.ndarray:
    """Cached: the command line checks the inputs before all else loads, and `generate` checks them again."""
    photo = read_image(path)
    photo.setflags(write=False)
    return photo


@lru_cache(maxsize=1)
def _find_face(path: Path, version: tuple[int, ...]) -> FaceBox:
    return find_face(_read_photo(path, version), str(path))


def _file_version(path: Path) -> tuple[int, ...]:
    """Cache key that changes with the file's content."""
    try:
        status = path.stat()
    except OSError:
        return ()  # read_image raises the error
    return status.st_ino, status.st_size, status.st_mtime_ns
