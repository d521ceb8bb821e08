"""The container of PLY: a header in text, and tables of numbers, in binary or text."""

from __future__ import annotations

import io
import itertools
import re
import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specularip.errors import UserError, quoted

TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"},
}
FORMATS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
"""Byte orders, as numpy writes them."""
MAX_HEADER = 1 << 16
ROWS = 4096
"""Rows of text that are parsed at once."""
INFINITIES = {b"1.#inf": np.inf, b"-1.#inf": -np.inf}
"""How old C libraries on Windows write infinity; their NaN are 1.#QNAN, -1.#IND and the like."""


@dataclass(frozen=True)
class _Property:
    """A column. length: the type of the numbers before lists; None for a column of plain numbers."""

    name: str
    type: str
    length: str | None = None


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[_Property]

    @property
    def numbers(self) -> list[_Property]:
        return [one for one in self.properties if one.length is None]

    @property
    def has_lists(self) -> bool:
        return len(self.numbers) < len(self.properties)

    def dtype(self, order: str) -> np.dtype:
        """Of a row, without its lists."""
        return np.dtype([(one.name, order + one.type) for one in self.numbers])


def read_elements(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The tables of a PLY with these names, as far as it has them: records [N], without columns of lists.

    Reads text and binary files of either byte order, with any line ends, and whatever other tables there
    are. Raises UserError if the file is missing, not a PLY, damaged or cut short.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a regular file")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return _tables(data, set(names))
    except UserError as error:
        raise UserError(f"{path} {error}") from None


def _tables(data: bytes, names: set[str]) -> dict[str, np.ndarray]:
    """Messages of its errors go on after the name of the file."""
    elements, order, at = _header(data)
    found: dict[str, np.ndarray] = {}
    rows = _lines(data, at) if order == "=" else iter(())
    while elements and elements[-1].name not in names:
        elements.pop()  # what is wrong with tables behind those that are wanted does not matter
    for element in elements:
        if order == "=":
            table = _text(rows, element)
        elif element.has_lists:
            table, at = _with_lists(data, at, element, order, element.name in names)
        else:
            dtype = element.dtype(order)
            size = dtype.itemsize * element.count
            if size > len(data) - at:
                raise _cut_short((len(data) - at) // dtype.itemsize, element)
            table = np.frombuffer(data, dtype, element.count, at) if size else np.empty(0, dtype)
            at += size
        if element.name in names:
            found[element.name] = table
    return found


def _cut_short(rows: int, element: _Element) -> UserError:
    return UserError(f"is cut short: it has {rows} of {element.count} rows of {quoted(element.name, 60)}")


def _header(data: bytes) -> tuple[list[_Element], str, int]:
    """The tables that the file claims to hold, the byte order of its numbers, and where they begin."""
    start = re.match(rb"ply[ \t]*(\r?\n|\r)", data)
    if start is None:
        raise UserError("is not a PLY file")
    end = rb"\r" if start[1] == b"\r" else rb"\r?\n"
    last = re.compile(end + rb"[ \t]*end_header[ \t]*" + end).search(data, 0, MAX_HEADER)
    if last is None:
        raise UserError("is damaged: its PLY header has no end, or the file is cut short")
    order = ""
    elements: list[_Element] = []
    for line in data[: last.start()].splitlines():
        words = line.decode("ascii", "replace").split()
        match words:
            case ["format", kind, _] if kind in FORMATS:
                order = FORMATS[kind]
            case ["element", name, number] if number.isdecimal() and len(number) < 19:
                elements.append(_Element(name, int(number), []))
            case ["property", "list", length, kind, name] if (
                elements and kind in TYPES and TYPES.get(length, "f")[0] in "iu"
            ):
                elements[-1].properties.append(_Property(name, TYPES[kind], TYPES[length]))
            case ["property", kind, name] if elements and kind in TYPES:
                if name in (known.name for known in elements[-1].properties):
                    twice = f"the property {quoted(name, 60)} of {elements[-1].name[:60]!r} is there twice"
                    raise UserError(f"is damaged: {twice}")
                elements[-1].properties.append(_Property(name, TYPES[kind]))
            case ["property", *_]:
                raise UserError(f"is damaged: cannot read the property {quoted(' '.join(words[1:]))}")
            case ["element" | "format", *_]:
                raise UserError(f"is damaged: cannot read the PLY header's line {quoted(' '.join(words))}")
    if not order:
        raise UserError("is damaged: the PLY header does not say how numbers are stored")
    return elements, order, last.end()


def _with_lists(data: bytes, at: int, element: _Element, order: str, wanted: bool) -> tuple[np.ndarray, int]:
    """The plain numbers of binary rows that have lists too, if they are wanted, and where the rows end."""
    dtype = element.dtype(order)
    if element.count == 0:
        return np.empty(0, dtype), at
    if regular := _with_equal_lists(data, at, element, order):
        return regular
    parts: list[tuple[int, struct.Struct | None]] = []  # bytes of a number; or of an item, and the length
    for one in element.properties:
        length = None if one.length is None else struct.Struct(order + np.dtype(one.length).char)
        parts.append((np.dtype(one.type).itemsize, length))
    places: list[list[int]] = [[] for _ in element.numbers]
    for row in range(element.count):
        column = 0
        for size, length in parts:
            if length is None:
                if wanted:
                    places[column].append(at)
                column += 1
                at += size
            elif at + length.size <= len(data):
                items = length.unpack_from(data, at)[0]
                if items < 0:
                    raise UserError(f"is damaged: a list of {quoted(element.name, 60)} has a negative length")
                at += length.size + size * items
            else:
                at = len(data) + 1
        if at > len(data):
            raise _cut_short(row, element)
    table = np.empty(element.count if wanted else 0, dtype)
    raw = np.frombuffer(data, np.uint8)
    for one, offsets in zip(element.numbers, places if wanted else []):
        size = np.dtype(one.type).itemsize
        table[one.name] = raw[np.array(offsets)[:, None] + np.arange(size)].view(order + one.type)[:, 0]
    return table, at


def _with_equal_lists(data: bytes, at: int, element: _Element, order: str) -> tuple[np.ndarray, int] | None:
    """`_with_lists` in one go, if all lists of a column are as long as the first one, as triangles are."""
    fields: list[tuple] = []
    lengths: list[tuple[str, int]] = []
    for index, one in enumerate(element.properties):
        if one.length is None:
            fields.append((one.name, order + one.type))
            continue
        name, place = f"\0{index}", at + np.dtype(fields).itemsize
        dtype = np.dtype(order + one.length)
        if place + dtype.itemsize > len(data):
            return None
        items = int(np.frombuffer(data, dtype, 1, place)[0])
        if not 0 <= items <= len(data):
            return None
        lengths.append((name, items))
        fields += [(name, dtype), (f"{name} items", order + one.type, (items,))]
    row = np.dtype(fields)
    if row.itemsize * element.count > len(data) - at:
        return None
    rows = np.frombuffer(data, row, element.count, at)
    if not all((rows[name] == items).all() for name, items in lengths):
        return None
    table = np.empty(element.count, element.dtype(order))
    for one in element.numbers:
        table[one.name] = rows[one.name]
    return table, at + row.itemsize * element.count


def _lines(data: bytes, at: int) -> Iterator[bytes]:
    """The lines of a text, without empty ones."""
    text = io.BytesIO(data)
    if data[3:4] == b"\r" and data[4:5] != b"\n":
        text = io.BytesIO(data.replace(b"\r", b"\n"))
    text.seek(at)
    return (line for line in text if not line.isspace())


def _text(lines: Iterator[bytes], element: _Element) -> np.ndarray:
    """A table of a text, whose rows are lines."""
    count = len(element.numbers)
    dtype = element.dtype("=")
    if not element.properties:
        return np.empty(0, dtype)
    tables, done = [], 0
    while done < element.count:
        some = list(itertools.islice(lines, min(ROWS, element.count - done)))
        if not some:
            raise _cut_short(done, element)
        values = None if element.has_lists else _parsed(b"".join(some))
        if values is None or len(values) != count * len(some):
            each = [_row(line, element, done + row) for row, line in enumerate(some)]
            values = np.array(each, np.float64).reshape(-1)
        table = np.empty(len(some), dtype)
        with np.errstate(all="ignore"):  # numbers that their type does not hold
            for one, column in zip(element.numbers, values.reshape(len(some), count).T):
                table[one.name] = column
        tables.append(table)
        done += len(some)
    return np.concatenate(tables) if tables else np.empty(0, dtype)


def _parsed(text: bytes) -> np.ndarray | None:
    """All numbers of a text, float64; None if something else is among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return np.fromstring(text, np.float64, sep=" ")
        except (ValueError, DeprecationWarning):
            return None


def _row(line: bytes, element: _Element, row: int) -> list[float]:
    """The plain numbers of a line, which may have lists too."""
    words = line.split()
    found, at = [], 0
    where = f"row {row} of {quoted(element.name, 60)}"
    for one in element.properties:
        if at >= len(words):
            break
        number = _number(words[at], where)
        at += 1
        if one.length is None:
            found.append(number)
        elif 0 <= number <= len(words) and number == int(number):
            at += int(number)
        else:
            raise UserError(f"is damaged: a list in {where} has no valid length")
    if len(found) < len(element.numbers) or at != len(words):
        raise UserError(f"is damaged: {where} has {len(words)} numbers, not as many as its header says")
    return found


def _number(word: bytes, where: str) -> float:
    try:
        return float(word)
    except ValueError:
        lower = word.lower()
        if lower in INFINITIES:
            return INFINITIES[lower]
        if b"nan" in lower or b"#ind" in lower:
            return np.nan
        shown = word.decode("ascii", "replace")[:20]
        raise UserError(f"is damaged: {shown!r} in {where} is not a number") from None
