"""Imports go one way: no cycles between files, and from upper rooms to lower ones only."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = "specularip"

FLOORS = """
errors version streams guard files image_reading json_reading npz torch_files progress stopping cameras
gaussians placement sentences bounds checkpoints ffmpeg json_lines resources run_lock
kernels options run_folder
raster
body specular
colors
baking motion
export viewer
faces
avatar_file
avatar
framing camera_path pictures
posable
presentation rendering animate viewing
exporting
captures lpips
metrics
diffusion
diffusion.fast
diffusion.loading
training
registration
fitting
stages
presets
overrides
models
inputs machine run_networks
pipeline
batch doctor
cli
"""
"""The rooms (packages and single files of the top level), lowest first. Rooms of one line do not import each
other, except on the ground floor."""

WITHOUT_TORCH = """
batch.jobs batch.states batch.ray_workers batch.read_jobs batch.run batch.summary
bounds cli doctor.installed doctor.report doctor.system ffmpeg inputs lpips models.check options
overrides presets resources
run_folder diffusion.settings diffusion.loading.settings diffusion.loading.sources fitting.settings
stages.settings training.events
""".split()


@dataclass(frozen=True)
class Import:
    """`names` of the file `target`, imported in the file `source` ("a.b" for a/b.py) at this line."""

    source: str
    target: str
    names: tuple[str, ...]
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {', '.join(self.names) or 'all'} from {self.target}"


def files() -> dict[str, Path]:
    """All of the package by dotted name within it; "" is its own __init__."""
    found = {}
    for path in sorted((SOURCE / PACKAGE).rglob("*.py")):
        parts = path.relative_to(SOURCE / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(source: str, path: Path, known: set[str]) -> list[Import]:
    """All of them, those within functions and for type checkers too, down to the file that is meant."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            pairs = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            pairs = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for module, name in pairs:
            if module.split(".")[0] != PACKAGE:
                continue
            target = module[len(PACKAGE) + 1 :]
            if name is not None and f"{target}.{name}".strip(".") in known:
                target, name = f"{target}.{name}".strip("."), None
            found.append(Import(source, target, (name,) if name else (), node.lineno))
    return found


def all_imports() -> list[Import]:
    paths = files()
    known = set(paths)
    every = [one for source, path in paths.items() for one in imports_of(source, path, known)]
    merged: dict[tuple[str, str], Import] = {}
    for one in every:
        if one.source == one.target:
            continue
        before = merged.get((one.source, one.target))
        names = (*(before.names if before else ()), *one.names)
        merged[one.source, one.target] = Import(
            one.source, one.target, tuple(dict.fromkeys(names)), before.line if before else one.line
        )
    return list(merged.values())


def floor_of() -> dict[str, int]:
    return {room: level for level, rooms in enumerate(FLOORS.split("\n")[1:-1]) for room in rooms.split()}


def room(file: str, rooms: dict[str, int]) -> str:
    """The innermost room that a file lies in."""
    parts = file.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in rooms:
            return name
    return ""


def cycles(edges: dict[str, list[str]]) -> list[list[str]]:
    """A shortest cycle through each file that is in one, every set of files once."""
    found: dict[frozenset[str], list[str]] = {}
    for start in edges:
        paths, seen = [[start]], {start}
        while paths:  # breadth first: the shortest way back
            path = paths.pop(0)
            for target in edges.get(path[-1], []):
                if target == start:
                    found.setdefault(frozenset(path), path)
                    paths = []
                    break
                if target not in seen:
                    seen.add(target)
                    paths.append([*path, target])
    return list(found.values())


def test_no_cycles_between_files() -> None:
    edges: dict[str, list[str]] = {}
    arrows = {(one.source, one.target): one for one in all_imports()}
    for source, target in arrows:
        edges.setdefault(source, []).append(target)
    messages = []
    for cycle in cycles(edges):
        arrow = [arrows[pair] for pair in zip(cycle, [*cycle[1:], cycle[0]])]
        messages.append("\n".join(["cycle:", *(f"  {one}" for one in arrow)]))
    assert not messages, "\n".join(messages)


def test_rooms_import_downwards() -> None:
    rooms, outside = floor_of(), ("", "__main__")  # which import everything
    inside = [file for file in files() if file not in outside]
    problems = [f"{file} belongs to no room" for file in inside if not room(file, rooms)]
    problems += [f"there is no {name}" for name in rooms if name not in inside]
    for one in all_imports():
        upper, lower = room(one.source, rooms), room(one.target, rooms)
        if one.source in outside or not upper or upper == lower or (0 == rooms[upper] == rooms.get(lower)):
            continue
        if rooms.get(lower, len(rooms)) >= rooms[upper]:
            problems.append(str(one))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", [name for name in WITHOUT_TORCH if name in files()])
def test_listing_and_settings_are_free_of_torch(name: str) -> None:
    code = f"import sys, {PACKAGE}.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0, f"{name} imports torch"


def test_no_test_imports_a_test() -> None:
    folder = Path(__file__).parent
    tests = {path.stem for path in folder.glob("test_*.py")}
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not tests & {name.split(".")[0] for name in names}, f"{path.name}:{node.lineno}"
