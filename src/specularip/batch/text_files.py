"""Text files as editors and spreadsheets write them."""

from __future__ import annotations

import codecs
from pathlib import Path

from specularip.batch.faults import Faults, Place
from specularip.errors import UserError

MOST_BYTES = 32 << 20


def read_text(path: Path, faults: Faults) -> str | None:
    """The text of a UTF-8 file, or of a UTF-16 one that begins with a byte order mark, without that mark.

    None if it cannot be decoded: each bad line is a fault. Raises UserError if the file cannot be read or has
    more than MOST_BYTES.
    """
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder: give a file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check its name") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"{path} has more than {MOST_BYTES >> 20} MB: split it into several batches")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError:
            faults.add(Place(path.name, 0), "is damaged UTF-16: save it as UTF-8")
            return None
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            _add_bad_lines(data, path, faults)
            return None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        faults.add(Place(path.name, line), "holds a NUL character: save the file as text in UTF-8")
        return None
    return text


def _add_bad_lines(data: bytes, path: Path, faults: Faults) -> None:
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            faults.add(
                Place(path.name, number),
                f"byte 0x{line[error.start]:02x} is not UTF-8: save the file as UTF-8 (in spreadsheets: "
                "'CSV UTF-8')",
            )
