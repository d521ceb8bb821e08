"""Jobs from CSV, one a row, as spreadsheets of all countries write it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice

from specularip.batch.faults import Faults, Place
from specularip.batch.keys import SETTINGS, canonical, unknown
from specularip.batch.rows import Entry, Row, Table

DELIMITERS = ",;\t"
PHOTO_SEPARATOR = "|"
MOST_COLUMNS = 1000


def csv_table(text: str, file: str, faults: Faults) -> Table:
    """The rows below a header that names the columns. Blank rows are skipped, missing cells are empty.

    The delimiter is that of DELIMITERS by which the header has most known names, or that of a first line
    "sep=;", as Excel writes it. A cell of images is split at "|".
    """
    skipped = 0
    if match := re.match(rf'"?sep=([{DELIMITERS}])"?\r?\n', text):
        delimiter, text, skipped = match[1], text[match.end() :], 1
    else:
        delimiter = max(DELIMITERS, key=lambda one: _known_names(text, one))
    records = _records(text, delimiter, file, skipped, faults)
    header = next(records, None)
    if header is None:
        return Table([])
    if len(header[1]) > MOST_COLUMNS:
        faults.add(header[0], f"{len(header[1]):,} columns: give at most {MOST_COLUMNS}")
        return Table([])
    columns = _columns(*header, faults)
    missing = frozenset({"text", "image"}.difference(columns))
    for key in sorted(missing):
        names = " | ".join(name.strip() for name in header[1])
        faults.add(header[0], f"there is no column {key}, only {names}")
    return Table(_rows(records, columns, delimiter, faults), missing=missing)


def _rows(
    records: Iterator[tuple[Place, list[str]]], columns: list[str | None], delimiter: str, faults: Faults
) -> Iterator[Row]:
    for place, cells in records:
        pairs = list(zip(columns, cells))
        stray = any(cell.strip() for cell in islice(cells, len(columns), None))
        if stray or any(cell.strip() and column is None for column, cell in pairs):
            separator = {"\t": "tabs", ";": "semicolons", ",": "commas"}.get(delimiter, delimiter)
            faults.add(
                place,
                f"{len(cells)} cells, and the header names {sum(column is not None for column in columns)} "
                f"columns: put a text that has {separator} in double quotes",
            )
            continue
        entries = [
            Entry(column, [part.strip() for part in cell.split(PHOTO_SEPARATOR)], place)
            if column == "image" and PHOTO_SEPARATOR in cell
            else Entry(column, cell, place)
            for column, cell in pairs
            if column
        ]
        yield Row(tuple(entries), place, str(place))


def _columns(place: Place, names: list[str], faults: Faults) -> list[str | None]:
    """The key of each column: None for one without a name, "" for one that is wrong."""
    columns: list[str | None] = []
    for name in names:
        key = canonical(name) if name.strip() else None
        if key == "" or key in SETTINGS:
            problem = unknown(name, "column") if key == "" else "a setting is a column named as seid.steps is"
            faults.add(place, problem)
            key = ""
        elif key and key in columns:
            faults.add(place, f"there are two columns {key}: keep one")
            key = ""
        columns.append(key)
    return columns


def _known_names(text: str, delimiter: str) -> int:
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        return 0
    return sum(bool(canonical(name)) for name in header)


def _records(
    text: str, delimiter: str, file: str, skipped: int, faults: Faults
) -> Iterator[tuple[Place, list[str]]]:
    """The records that are not blank, with the line where each begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        place = Place(file, reader.line_num + skipped + 1)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "expected after" in str(error):
                faults.add(place, "within a cell in double quotes, a double quote must be doubled")
                continue
            if "end of data" in str(error):
                faults.add(place, "a double quote is opened here or below, and not closed")
            else:
                faults.add(place, f"is no CSV: {error}: is a double quote not closed?")
            return
        if any(cell.strip() for cell in cells):
            yield place, cells
