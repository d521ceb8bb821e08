"""What the embedded default needs on disk, and whether it is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
PRIOR_PARTS = ("unet", "scheduler", "text_encoder", "tokenizer")
"""Folders without which nothing is a prior; see diffusion/folder.py."""


@dataclass(frozen=True)
class ModelFile:
    """One file, its size in bytes (0 if missing), and what is wrong with it ("" if nothing)."""

    path: Path
    size: int
    problem: str


def compact_files(assets: Path = ASSETS) -> list[ModelFile]:
    """Every file of the compact preset: the body and the prior, whole or not."""
    prior = assets / "compact"
    paths = [assets / "anny.safetensors", prior / "model_index.json"]
    for part in PRIOR_PARTS:
        inside = [path for path in (prior / part).rglob("*") if path.is_file()]
        paths += inside or [prior / part]
    paths += [path for path in prior.rglob("*") if path.is_file()]
    return [inspect_file(path) for path in dict.fromkeys(sorted(paths))]


def inspect_file(path: Path) -> ModelFile:
    """Look at a file without loading it: JSON must parse, safetensors must be as long as its header says."""
    if not path.is_file():
        return ModelFile(path, 0, "missing")
    size = path.stat().st_size
    problem = ""
    if path.suffix == ".json":
        try:
            json.loads(path.read_bytes())
        except ValueError:
            problem = "damaged: not JSON"
    elif path.suffix == ".safetensors":
        problem = _safetensors_problem(path, size)
    elif size == 0:
        problem = "empty"
    return ModelFile(path, size, problem)


def _safetensors_problem(path: Path, size: int) -> str:
    """The file starts with the header's length (8 bytes, little endian), then the header, then the data."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return "damaged: cut short, or only a pointer to the file"
        try:
            header = json.loads(file.read(length))
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + length + max((entry["data_offsets"][1] for entry in entries), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "damaged: header unreadable"
    return "" if size == expected else f"damaged: {size} bytes, {expected} expected"
