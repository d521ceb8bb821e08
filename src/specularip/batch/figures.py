"""The figures of finished runs, as their report.json holds them: read, checked and put into words.

A report may be of another version, cut short or not JSON at all: what it lacks is missing here, too, and
nothing is raised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specularip.errors import DamagedFile, one_line
from specularip.json_reading import parse_object

MAX_BYTES = 1_000_000
"""A report is some 8 KB long. A longer file than this is none."""
MAX_NOTES = 50
LARGEST = 1e15
"""A larger number is a sign of damage, as is a negative one: figures are durations, amounts and errors."""

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A number that a run has.

    column: its name in summary.csv. label, meaning: its name on the page, and what it says. read: the number
    in a report, None if it has none. shown: the number as people read it.
    """

    column: str
    label: str
    meaning: str
    read: Callable[[Report], float | None]
    shown: Callable[[float], str]


def read_report(path: Path) -> Report | None:
    """report.json of a run; None if it is missing, too long or no JSON object."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        return parse_object(data, MAX_BYTES)
    except (OSError, DamagedFile):
        return None


def notes_of(report: Report) -> list[str]:
    """What the run had to say about its text and photos, a line each."""
    notes = report.get("notes")
    texts = [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
    return [one_line(note) for note in texts[:MAX_NOTES]]


def stage_seconds(report: Report) -> dict[str, float]:
    """How long each stage took."""
    stages = report.get("seconds")
    numbers = {name: number(value) for name, value in stages.items()} if isinstance(stages, dict) else {}
    return {one_line(name, 40): value for name, value in numbers.items() if value is not None}


def text_of(report: Report, key: str) -> str:
    """An entry that is text; "" if it is not."""
    value = report.get(key)
    return value if isinstance(value, str) else ""


def number(value: object) -> float | None:
    """`value` if it is a number that a figure may have, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        return None
    return float(value)


def duration(seconds: float) -> str:
    """As in "42 s", "13 min 34 s" and "2 h 40 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def _at(*keys: str) -> Callable[[Report], float | None]:
    """Reads the number under these keys, each within the one before."""

    def read(report: Report) -> float | None:
        value: Any = report
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return number(value)

    return read


def _seconds(report: Report) -> float | None:
    return math.fsum(stage_seconds(report).values()) or None


def _landmark_error(report: Report) -> float | None:
    head = report.get("head")
    errors = head.get("landmark errors") if isinstance(head, dict) else None
    numbers = [number(error) for error in errors] if isinstance(errors, list) else []
    return max((error for error in numbers if error is not None), default=None)


def _gib(value: float) -> str:
    return f"{value:.2f} GiB"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


FIGURES = (
    Figure("seconds", "Time", "All stages, resumed ones included", _seconds, duration),
    Figure(
        "peak_memory_gib", "Memory", "Most memory of the process, up to the end of this run",
        _at("peak_memory_gib"), _gib,
    ),
    Figure(
        "peak_gpu_gib", "GPU memory", "Most memory on the GPU, up to the end of this run",
        _at("peak_gpu_gib"), _gib,
    ),
    Figure("gaussians", "Gaussians", "Number of Gaussians", _at("gaussians"), lambda value: f"{value:,.0f}"),
    Figure(
        "landmark_error", "Face error",
        "How far the head's landmarks are from the photo's, in distances of the eyes; of several photos, the "
        "worst", _landmark_error, _percent,
    ),
    Figure(
        "fit_l1", "L1", "Mean difference from the refined views at the end, of colours from 0 to 1",
        _at("last_metrics", "fit", "l1"), lambda value: f"{value:#.2g}",
    ),
    Figure(
        "fit_perceptual", "Perceptual", "Perceptual distance from the refined views at the end",
        _at("last_metrics", "fit", "perceptual"), lambda value: f"{value:#.2g}",
    ),
    Figure(
        "silhouette_iou", "Overlap", "Outlines of the given 3D Gaussians and of the body fitted to them",
        _at("init", "silhouette_iou"), _percent,
    ),
)  # fmt: skip
"""In the order in which they are shown."""
