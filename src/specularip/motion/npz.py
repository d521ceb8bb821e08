"""Numeric arrays out of .npz files, without trusting what the file says about their size.

`np.load` allocates what headers claim and inflates whatever a zip holds. Here a member is read only if its
header, its size in the zip's directory and its shape agree, and if it is not larger than the file allows.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

from specularip.errors import UserError, first_line

RATIO, SLACK = 4, 64 << 20
"""The arrays read may take RATIO times the file's size plus SLACK bytes. Motion compresses to half at
best."""
DIRECTORY = 1 << 18
"""Largest directory of the zip, bytes; some three thousand members."""
_END, _END64 = b"PK\x05\x06", b"PK\x06\x07"
_HEADER = 10_000


def read_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the arrays `names` that the file has and that hold numbers. Nothing is unpickled: arrays of
    objects and strings are skipped unread.

    Raises UserError, one line, for files that cannot be opened, are damaged, or claim more than they hold.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            _check_directory(path, file, size)
            with zipfile.ZipFile(file) as archive:
                allowed, arrays = RATIO * size + SLACK, {}
                for member in archive.infolist():
                    name = member.filename.removesuffix(".npy")
                    if name in names and name not in arrays:
                        if member.file_size > allowed:
                            raise UserError(f"{path}: {name} would be {member.file_size} bytes: not a motion")
                        allowed -= member.file_size
                        with archive.open(member) as stream:
                            array = _read(stream, member.file_size)
                        if array is not None:
                            arrays[name] = array
                return arrays
    except FileNotFoundError as error:
        raise UserError(f"no motion file {path}") from error
    except (
        OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, OverflowError,
        MemoryError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        problem = first_line(error)[:200]
        raise UserError(f"cannot read {path} as .npz: {problem}; export or download it again") from error


def _check_directory(path: Path, file: io.BufferedReader, size: int) -> None:
    """The zip's directory is parsed as a whole, at some ten times its size in memory."""
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    end = tail.rfind(_END)
    if end < 0:
        raise UserError(f"{path} is not a .npz file: not a zip archive, or cut short")
    if (
        int.from_bytes(tail[end + 12 : end + 16], "little") > DIRECTORY
        or _END64 in tail[max(0, end - 20) : end]
    ):
        raise UserError(f"{path}: too many arrays for a motion file")
    file.seek(0)


def _read(stream: IO[bytes], size: int) -> np.ndarray | None:
    """The array of a .npy member of `size` bytes, or None if it does not hold numbers."""
    start = stream.read(12)
    if start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise ValueError("not a .npy array")
    wide = start[6] > 1
    length = int.from_bytes(start[8:12] if wide else start[8:10], "little")
    if length > _HEADER:
        raise ValueError("the header of an array is too long")
    header = start + stream.read(length + (0 if wide else -2))
    text = io.BytesIO(header[8:])
    reader = np.lib.format.read_array_header_2_0 if wide else np.lib.format.read_array_header_1_0
    shape, fortran, dtype = reader(text)
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        return None
    count = math.prod(shape)
    if len(header) + count * dtype.itemsize != size or min(shape, default=1) < 0:
        raise ValueError(f"an array of {list(shape)} is not what its {size} bytes hold")
    array = np.frombuffer(stream.read(count * dtype.itemsize), dtype)
    return array.reshape(shape, order="F" if fortran else "C")
