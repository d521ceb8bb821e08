"""Jobs from JSON Lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from specularip.batch.faults import Faults, Place
from specularip.batch.rows import Entry, Row, Table, Value

LONGEST_LINE = 1_000_000
"""Characters. Much that is short becomes large: empty lists take twenty times their text."""


def jsonl_table(text: str, file: str, faults: Faults) -> Table:
    """A row for each line that is not blank. Numbers stay as they are written."""
    return Table(_rows(text, file, faults))


def _rows(text: str, file: str, faults: Faults) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would split at U+2028, which JSON allows
        if not line.strip():
            continue
        place = Place(file, number)
        if len(line) > LONGEST_LINE:
            faults.add(place, f"has more than {LONGEST_LINE:,} characters")
            continue
        try:
            found = json.loads(
                line,
                object_pairs_hook=partial(_entries, place),
                parse_int=str,
                parse_float=str,
                parse_constant=str,
            )
        except json.JSONDecodeError as error:
            faults.add(place, f"is no JSON: {error.msg} at column {error.colno}")
            continue
        except RecursionError:
            faults.add(place, "is nested too deeply")
            continue
        if isinstance(found, tuple):
            yield Row(found, place, str(place))
        else:
            faults.add(place, 'must be one job in braces, as in {"text": "A woman", "image": "face.jpg"}')


def _entries(place: Place, pairs: list[tuple[str, Any]]) -> tuple[Entry, ...]:
    return tuple(Entry(key, _value(value), place) for key, value in pairs)


def _value(value: Any) -> Value:
    if isinstance(value, bool):
        return "true" if value else "false"
    return [_value(item) for item in value] if isinstance(value, list) else value
