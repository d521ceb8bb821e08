"""What job files of all formats are read into: rows of keys with texts.

Numbers and truth values stay texts, as they are in CSV, until it is known what their key stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, Union

from specularip.batch.faults import Place

Value: TypeAlias = Union[str, list["Value"], tuple["Entry", ...], None]  # noqa: UP007
"""A text, a list, a mapping, or None, which stands for the default."""


@dataclass(frozen=True, slots=True)
class Entry:
    key: str
    value: Value
    place: Place


@dataclass(frozen=True, slots=True)
class Row:
    """One job. source: where it was read, as users are told."""

    entries: tuple[Entry, ...]
    place: Place
    source: str


@dataclass(frozen=True)
class Table:
    """rows: to be read once; of some formats, from the file as they are needed. defaults: what holds for rows
    that do not say it themselves. missing: keys whose lack is told once for all rows, as of a column."""

    rows: Iterable[Row]
    defaults: tuple[Entry, ...] = ()
    missing: frozenset[str] = frozenset()
