"""Small pictures of the photos of a batch, one file a photo, made once."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from PIL import Image

from specularip.errors import UserError
from specularip.faces.image_file import read_image
from specularip.files import write_bytes

SIZE = 256
"""The longer side, in pixels: twice what the page shows, for screens of high density."""
_NAME = re.compile(r"[0-9a-f]{24}\.jpg")


def write_thumbnails(folder: Path, photos: Iterable[Path]) -> dict[Path, str]:
    """The file in `folder` that shows each photo. A photo that cannot be read has none.

    Files of an earlier call are kept as long as their photo has not changed, and where it is gone; those of
    photos that are no longer among `photos` are deleted. Raises UserError if the folder cannot be written to.
    """
    found: dict[Path, str] = {}
    for photo in dict.fromkeys(photos):
        path = str(photo).encode("utf-8", "surrogatepass")  # names need not be text
        name = f"{hashlib.sha256(path).hexdigest()[:24]}.jpg"
        if _up_to_date(folder / name, photo) or _make(folder / name, photo):
            found[photo] = name
    kept = set(found.values())
    try:
        for entry in folder.iterdir() if folder.is_dir() else ():
            if _NAME.fullmatch(entry.name) and entry.name not in kept:
                entry.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
    return found


def _up_to_date(thumbnail: Path, photo: Path) -> bool:
    """A thumbnail has its photo's time of change: a photo that another replaces may well be older."""
    try:
        made_for = thumbnail.stat().st_mtime
    except OSError:
        return False
    try:
        return abs(made_for - photo.stat().st_mtime) < 2  # the resolution of FAT and of ZIP archives
    except (OSError, ValueError):
        return True


def _make(thumbnail: Path, photo: Path) -> bool:
    """False if the photo cannot be read."""
    try:
        changed = photo.stat().st_mtime
        image = Image.fromarray(read_image(photo))
    except (UserError, OSError, ValueError):  # ValueError: a name that no file can have
        return False
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    write_bytes(thumbnail, data.getvalue())
    with suppress(OSError):  # a time that this file system cannot hold: made again by the next call
        os.utime(thumbnail, (changed, changed))
    return True
