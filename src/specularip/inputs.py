"""What `generate` is given, checked in a second or two, before anything heavy loads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from specularip.errors import UserError
from specularip.faces.alignment import FaceBox
from specularip.faces.cascade import find_face
from specularip.faces.photo import read_image
from specularip.run_folder import RunFolder


@dataclass(frozen=True)
class Inputs:
    """text: trimmed, one line. photo: uint8 [H,W,3], the right way up. face: the largest in it, None if it
    was not looked for. out: may not exist yet. notes: lines the user should see, such as how many faces there
    were."""

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
    """Read the photo, find the face, see whether `out` may be written; writes nothing.

    look_for_face: False where another detector does (see `face_id`), which finds more than this one. Raises
    UserError for an empty text, a photo that cannot be used (see `photo`), and a folder that cannot (see
    `RunFolder.check`).
    """
    text = " ".join(text.split())
    if not text:
        raise UserError("the text is empty: describe the person, as in 'A woman in a red satin dress'")
    folder = RunFolder.check(out, resume, overwrite)  # first: it costs nothing
    path = Path(image)
    photo = _read_photo(path, _identity(path))
    if not look_for_face:
        return Inputs(text, path, photo, None, folder, ())
    face = _find_face(path, _identity(path))
    notes = (f"{face.count} faces in {path}: taking the largest",) if face.count > 1 else ()
    return Inputs(text, path, photo, face, folder, notes)


@lru_cache(maxsize=1)
def _read_photo(path: Path, identity: tuple[int, ...]) -> np.ndarray:
    """Cached: the command line asks before torch loads, `generate` asks again."""
    photo = read_image(path)
    photo.setflags(write=False)
    return photo


@lru_cache(maxsize=1)
def _find_face(path: Path, identity: tuple[int, ...]) -> FaceBox:
    return find_face(_read_photo(path, identity), str(path))


def _identity(path: Path) -> tuple[int, ...]:
    """Changes when the file does."""
    try:
        status = path.stat()
    except OSError:
        return ()  # read_image says what is wrong
    return status.st_ino, status.st_size, status.st_mtime_ns
