"""A job of a batch: the arguments of one `generate`, and the folder that it writes to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """One run of `generate`.

    name: of its folder in the batch's folder. images: absolute paths. settings: "NAME=VALUE", as `--set`
    takes them. source: where the job was read, as in "jobs.csv, line 3".
    """

    name: str
    text: str
    images: tuple[Path, ...]
    preset: str = "compact"
    seed: int = 0
    init: Path | None = None
    photo_weight: float | None = None
    low_memory: bool = False
    force: bool = False
    settings: tuple[str, ...] = ()
    source: str = ""
