"""Numeric arrays out of .npz files, without trusting what the file says about their size.

`np.load` allocates what headers claim and inflates whatever a zip holds. Here a member is read only if its
header, its size in the zip's directory and its shape agree, and if it is not larger than the file allows.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

from specularip.errors import UserError, first_line

RATIO, SLACK = 6, 16 << 20
"""The arrays that are read may take RATIO times the file's size plus SLACK bytes, at WIDE bytes a number:
those of honest files take two to five times their size, whatever type their numbers are stored in."""
WIDE = 8
"""Bytes of a number that a caller makes of one that is stored in fewer."""
DIRECTORY = 1 << 18
"""Largest directory of the zip, bytes; some three thousand members. It is parsed as a whole, at ten times its
size."""
_END, _END64 = b"PK\x05\x06", b"PK\x06\x07"
_HEADER = 10_000
_DTYPE = re.compile(rb"'descr': *'([<>|=]\w+)'")
_ORDER = re.compile(rb"'fortran_order': *(True|False)")
_SHAPE = re.compile(rb"'shape': *\(([\dL, ]*)\)")  # Python 2 wrote 10L
_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


def read_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the arrays `names` that the file has and that hold numbers. Nothing is unpickled: arrays of
    objects and strings are skipped unread.

    Raises UserError, one line, for files that cannot be opened, are damaged, or claim more than they hold.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a regular file")
        size = path.stat().st_size
        with open(path, "rb") as file:
            _check_directory(path, file, size)
            with zipfile.ZipFile(file) as archive:
                allowed, arrays = RATIO * size + SLACK, {}
                for member in archive.infolist():
                    name = member.filename.removesuffix(".npy")
                    if name in names and name not in arrays:
                        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                            raise ValueError(f"{name} is compressed in a way that NumPy does not use")
                        with archive.open(member) as stream:
                            array = _read(stream, member.file_size, allowed)
                        if array is not None:
                            arrays[name] = array
                            allowed -= array.size * max(array.itemsize, WIDE)
                return arrays
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}") from error
    except (
        OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, OverflowError,
        MemoryError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        problem = first_line(error)[:200]
        raise UserError(f"cannot read {path} as .npz: {problem}; export or download it again") from error


def _check_directory(path: Path, file: io.BufferedReader, size: int) -> None:
    """Raises UserError for what is no zip, and for one whose directory is too long to be parsed."""
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    end = tail.rfind(_END)
    if end < 0:
        raise UserError(f"{path} is not a .npz file: not a zip archive, or cut short")
    if (
        int.from_bytes(tail[end + 12 : end + 16], "little") > DIRECTORY
        or _END64 in tail[max(0, end - 20) : end]
    ):
        raise UserError(f"{path}: too many arrays, export it again")
    file.seek(0)


def _read(stream: IO[bytes], size: int, allowed: int) -> np.ndarray | None:
    """The array of a .npy member of `size` bytes, or None if it does not hold numbers. Raises ValueError,
    among others, if it would take more than `allowed` bytes."""
    start = stream.read(12)
    if len(start) < 12 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise ValueError("not a .npy array")
    wide = start[6] > 1
    length = int.from_bytes(start[8:12] if wide else start[8:10], "little")
    if length > _HEADER:
        raise ValueError("the header of an array is too long")
    header = start + stream.read(length + (0 if wide else -2))
    found = [pattern.search(header) for pattern in (_DTYPE, _ORDER, _SHAPE)]
    if None in found:
        raise ValueError("the header of an array is damaged")
    dtype, order, sizes = (match[1].decode() for match in found if match)
    if dtype[1:] not in _NUMBERS:
        return None
    words = sizes.replace(",", " ").split()
    if len(words) > 8 or any(len(word) > 19 for word in words):
        raise ValueError("the shape of an array is damaged")
    shape = tuple(int(word.rstrip("L")) for word in words)
    count, width = math.prod(shape), np.dtype(dtype).itemsize
    if len(header) + count * width != size or max(shape, default=0) >= 2**31:
        raise ValueError(f"an array of {list(shape)} is not what its {size} bytes hold")
    if count * max(width, WIDE) > allowed:
        raise ValueError(f"an array of {list(shape)} is too large for a file of its size")
    array = np.frombuffer(bytearray(stream.read(size - len(header))), dtype)  # writable
    return array.reshape(shape, order="F" if order == "True" else "C")
