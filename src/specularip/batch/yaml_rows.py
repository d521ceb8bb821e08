"""Jobs from YAML: a list of mappings, or a mapping of `defaults` and `jobs`.

Read from the parser's events, not from objects that a loader constructs: nothing is constructed, each key has
its line, and depth and size are bounded on the way. Scalars are texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from specularip.batch.faults import Faults, Place
from specularip.batch.rows import Entry, Row, Table, Value
from specularip.errors import first_line, quoted

DEEPEST = 12
MOST_NODES = 1_000_000
"""After aliases are replaced by what they stand for."""
NULLS = ("", "~", "null", "Null", "NULL")
TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Malformed(Exception):
    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def yaml_table(text: str, file: str, faults: Faults) -> Table:
    """The rows up to the first error of syntax."""
    reader = _Reader(text, file, faults)
    try:
        reader.read()
    except _Malformed as error:
        faults.add(Place(file, error.line), str(error))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        faults.add(Place(file, mark.line + 1 if mark else 0), f"is no YAML: {error.problem or error.context}")
    except yaml.reader.ReaderError as error:
        line = text.encode()[: error.position].count(b"\n") + 1
        faults.add(Place(file, line), f"is no YAML: {error.reason}")
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        faults.add(Place(file, 0), f"is no YAML: {first_line(error)}")
    return Table(reader.rows, reader.defaults)


class _Reader:
    def __init__(self, text: str, file: str, faults: Faults) -> None:
        self.events: Iterator[Any] = yaml.parse(text, Loader=LOADER)
        self.file, self.faults = file, faults
        self.rows: list[Row] = []
        self.defaults: tuple[Entry, ...] = ()
        self.nodes = 0
        self.anchors: dict[str, tuple[Value, int]] = {}

    def read(self) -> None:
        started = False
        for event in self.events:
            if not isinstance(event, yaml.NodeEvent):
                continue
            if started:
                raise _Malformed(_line(event), "is a second document: put all jobs into one list")
            started = True
            if isinstance(event, yaml.SequenceStartEvent):
                self._read_jobs()
            elif isinstance(event, yaml.MappingStartEvent):
                self._read_sections()
            elif self._value(event, 0) is not None:
                raise _Malformed(_line(event), "must be a list of jobs, or a mapping of defaults and jobs")

    def _read_sections(self) -> None:
        seen: set[str] = set()
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            place, key = Place(self.file, _line(event)), self._key(event)
            value = next(self.events)
            if key in seen:
                self.faults.add(place, f"{key} is given twice: give it once")
                self._value(value, 1)
            elif key == "jobs" and isinstance(value, yaml.SequenceStartEvent):
                self._read_jobs()
            elif key == "defaults" and isinstance(value, yaml.MappingStartEvent):
                found = self._value(value, 1)
                assert isinstance(found, tuple)
                self.defaults = found
            elif key in ("jobs", "defaults"):
                if self._value(value, 1) is not None:  # nothing yet
                    self.faults.add(place, f"{key} must be a {'list' if key == 'jobs' else 'mapping'}")
            else:
                self.faults.add(place, f"{quoted(key)} is neither defaults nor jobs, or a list has no dashes")
                self._value(value, 1)
            seen.add(key)

    def _read_jobs(self) -> None:
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            place = Place(self.file, _line(event))
            entries = self._value(event, 1)
            if isinstance(entries, tuple):
                self.rows.append(Row(entries, place, str(place)))
            else:
                self.faults.add(place, "must be one job, a mapping with text and image")

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise _Malformed(_line(event), "a key must be a text")
        if event.value == "<<" and event.implicit[0]:
            raise _Malformed(_line(event), "<< is not read: put what jobs share under defaults")
        self._count(1, event)
        return event.value

    def _count(self, nodes: int, event: Any) -> None:
        self.nodes += nodes
        if self.nodes > MOST_NODES:
            raise _Malformed(_line(event), "is too large, with its aliases: split it into several batches")

    def _value(self, event: Any, depth: int) -> Value:
        """The value that begins with an event; reads all of its events."""
        if depth > DEEPEST:
            raise _Malformed(_line(event), "is nested too deeply")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise _Malformed(_line(event), f"alias {quoted(event.anchor)} stands for nothing above it")
            value, nodes = self.anchors[event.anchor]
            self._count(nodes, event)
            return value
        if event.tag not in (None, "!", *TAGS):
            raise _Malformed(_line(event), f"the tag {quoted(event.tag)} is not read: leave it out")
        before = self.nodes
        self._count(1, event)
        value = self._content(event, depth)
        if event.anchor:
            self.anchors[event.anchor] = value, self.nodes - before
        return value

    def _content(self, event: Any, depth: int) -> Value:
        if isinstance(event, yaml.ScalarEvent):
            return None if event.implicit[0] and event.value in NULLS else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Value] = []
            while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
                items.append(self._value(inner, depth + 1))
            return items
        entries = []
        while not isinstance(inner := next(self.events), yaml.MappingEndEvent):
            place, key = Place(self.file, _line(inner)), self._key(inner)
            entries.append(Entry(key, self._value(next(self.events), depth + 1), place))
        return tuple(entries)


def _line(event: Any) -> int:
    return event.start_mark.line + 1
