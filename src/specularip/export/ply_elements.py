"""The container of PLY: a header in text, and tables of numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from specularip.errors import UserError

TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"},
}
MAX_HEADER = 1 << 16


@dataclass
class _Element:
    """A table: its name, number of rows, and (name, type) of its columns. lists: whether rows have lists."""

    name: str
    count: int
    columns: list[tuple[str, str]]
    lists: bool = False


def read_elements(path: Path) -> dict[str, np.ndarray]:
    """The tables of a binary PLY by name, as records [N]; those from the first one with lists on are left
    out, as their rows have no fixed size.

    Raises UserError if the file is missing, not a binary PLY, or cut short.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a regular file")
        with path.open("rb") as file:
            found: dict[str, np.ndarray] = {}
            for element in _read_header(file, path):
                if element.lists:
                    break
                found[element.name] = _read_rows(file, path, element)
            return found
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _read_rows(file: BinaryIO, path: Path, element: _Element) -> np.ndarray:
    dtype = np.dtype(element.columns)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if dtype.itemsize * element.count > left:
        rows = left // dtype.itemsize
        raise UserError(
            f"{path} is cut short: it has {rows} of {element.count} rows of {element.name[:60]!r}"
        )
    if dtype.itemsize == 0:
        return np.empty(0, dtype)
    return np.fromfile(file, dtype, element.count)


def _read_header(file: BinaryIO, path: Path) -> list[_Element]:
    """The tables that the file claims to hold; leaves the file position at the first one."""
    if file.readline(8).strip() != b"ply":
        raise UserError(f"{path} is not a PLY file")
    order = ""
    elements: list[_Element] = []
    while True:
        line = file.readline(MAX_HEADER)
        if not line.endswith(b"\n") or file.tell() > MAX_HEADER:
            raise UserError(f"{path}: the PLY header has no end: the file is cut short or damaged")
        words = line.decode("ascii", "replace").split()
        match words:
            case ["end_header"]:
                break
            case ["format", "binary_little_endian", _]:
                order = "<"
            case ["format", "binary_big_endian", _]:
                order = ">"
            case ["format", *_]:
                raise UserError(f"{path}: only binary PLY can be read: convert the file to binary")
            case ["element", name, number] if number.isdecimal() and len(number) < 19:
                elements.append(_Element(name, int(number), []))
            case ["element", *_]:
                raise UserError(f"{path}: cannot read the PLY header's line {' '.join(words)[:60]!r}")
            case ["property", "list", _, _, _] if elements:
                elements[-1].lists = True
            case ["property", kind, name] if elements and kind in TYPES:
                if name in (known for known, _ in elements[-1].columns):
                    raise UserError(
                        f"{path}: the property {name[:60]!r} of {elements[-1].name[:60]!r} is there twice"
                    )
                elements[-1].columns.append((name, order + TYPES[kind]))
            case ["property", *_]:
                raise UserError(f"{path}: cannot read the property {' '.join(words[1:])[:60]!r}")
    if not order:
        raise UserError(f"{path}: the PLY header does not say how numbers are stored: it is damaged")
    return elements
