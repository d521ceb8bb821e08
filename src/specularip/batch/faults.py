"""All that is wrong with a batch's job files, told at once and by line."""

from __future__ import annotations

from dataclasses import dataclass, field

from specularip.errors import UserError, one_line

MOST_FAULTS = 20_000
"""After so many, reading stops: the file is none of jobs."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, from 1; 0 stands for the file as a whole."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}" if self.line else self.file


class JobFaults(UserError):
    """faults: one line each, beginning with the place, in the order of the file. Printable."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        more = f" (the first of {len(faults):,} faults)" if len(faults) > 1 else ""
        super().__init__(f"{faults[0]}{more}")
        self.faults = faults


@dataclass
class Faults:
    """Collects faults. What is told twice of a place, as of defaults that many jobs share, is kept once."""

    found: dict[tuple[Place, str], None] = field(default_factory=dict)
    told: int = 0
    """How often `add` was called."""

    def add(self, place: Place, problem: str) -> None:
        """Raises JobFaults if there are MOST_FAULTS."""
        self.found[place, problem] = None
        self.told += 1
        if len(self.found) >= MOST_FAULTS:
            self.check()

    def check(self) -> None:
        """Raise JobFaults if there are any."""
        if not self.found:
            return
        files = list(dict.fromkeys(place.file for place, _ in self.found))
        ordered = sorted(self.found, key=lambda fault: (files.index(fault[0].file), fault[0].line))
        raise JobFaults(tuple(one_line(f"{place}: {problem}") for place, problem in ordered))
