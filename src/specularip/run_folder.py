"""The output folder of a run: check, create, write files, save and load checkpoints.

avatar.safetensors  avatar.ply  turntable.mp4  preview.png  report.json  metrics.jsonl  checkpoints/

A run that replaces another writes to a folder of its own within, `unfinished-1`. When it is complete, its
files take the other's place (`publish`). Until then the other run is whole, however the new one ends; it can
be resumed as long as the new one has no checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from specularip.errors import UserError
from specularip.files import (
    atomic_path,
    check_writable,
    json_value,
    utf8_name,
    write_bytes,
    write_json,
    write_png,
)
from specularip.run_lock import LOCK, check_unlocked

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FILES = ("avatar.safetensors", "avatar.ply", "turntable.mp4", "preview.png", "report.json", "metrics.jsonl")
REPORT = "report.json"
"""Written last: a run that has one is complete."""
SNAPSHOT, BAKED, PAGE = "snapshot.pack", "baked.safetensors", "avatar.html"
"""What the viewer's page and `batch` add to the folder: the growing avatar, the colours of the finished one,
and its page."""
CHECKPOINTS = "checkpoints"
KEEP = 2
"""Number of checkpoints kept: the newest, and the one before it in case the newest is damaged."""
GAUSSIAN_BYTES, PIXEL_BYTES, OTHER_BYTES = 1000, 20, 32_000_000
"""In a checkpoint, about: a Gaussian with Adam's two moments, a pixel of a target, and the rest."""
AVATAR_BYTES = 1000
"""Of a Gaussian in all the files of a finished avatar, or in one for another program, at most."""
TRAINING_BYTES = 4000
"""Of memory that a Gaussian takes in training, at least."""
_CHECKPOINT = re.compile(r"(\d{4,})-(.+)\.safetensors")
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp(\.\w+)?")
_UNFINISHED = re.compile(r"unfinished-(\d+)")


def run_bytes(points: int, target_pixels: float = 0.0) -> float:
    """About how much a run of so many Gaussians, and pixels of targets kept with them, writes to the disk."""
    checkpoint = GAUSSIAN_BYTES * points + PIXEL_BYTES * target_pixels + OTHER_BYTES
    return (KEEP + 1) * checkpoint + AVATAR_BYTES * points  # a new checkpoint is written before one goes


@dataclass(frozen=True)
class Checkpoint:
    """name, state, meta: as given to `RunFolder.save_checkpoint`; tensors are on the CPU."""

    name: str
    state: Any
    meta: dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. Create it with `open`; `check` changes nothing.

    path: where the run writes. replaces: the folder, above `path`, of the run whose place it takes when it is
    complete; None: there is none.
    """

    path: Path
    replaces: Path | None = None

    @staticmethod
    def check(out: str | Path, resume: bool = False, overwrite: bool = False) -> Path:
        """Check that a run may use `out`, without changing anything. Returns it as a Path.

        Raises UserError if the folder is not empty (unless resume or overwrite is set and it holds a run), if
        there is nothing to resume, if another run is writing to it, or if it is not writable.
        """
        check_unlocked(Path(out))
        return _usable(out, resume, overwrite)

    @staticmethod
    def open(out: str | Path, resume: bool = False, overwrite: bool = False) -> RunFolder:
        """The folder to write to, created. The caller holds its lock (`run_lock.locked`).

        resume: that of the newest run with a checkpoint. overwrite: a new one within, if there is anything to
        lose. Raises UserError as `check` does.
        """
        path = _usable(out, resume, overwrite)
        try:
            path.mkdir(parents=True, exist_ok=True)
            for run in _unfinished(path):
                if (run.path / REPORT).is_file():
                    run.publish()  # the process ended just before it did so
                elif not run.has_checkpoint():
                    _remove_run(run.path)
            if resume or overwrite:
                _remove_temporary(path)
            for emptied in _numbered(path):
                with suppress(OSError):  # it is not empty
                    emptied.rmdir()
            run = RunFolder.current(path)
            if overwrite and run.holds_something():
                serial = 1 + max((_serial(one) for one in _numbered(path)), default=0)
                run = RunFolder(path / f"unfinished-{serial}", path)
            (run.path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {path}: {error.strerror or error}, use another --out") from None
        return run

    @staticmethod
    def current(out: str | Path) -> RunFolder:
        """The folder in which the newest run in `out` is: the last unfinished one, else `out` itself."""
        return (_unfinished(Path(out)) or [RunFolder(Path(out))])[-1]

    @property
    def replacing(self) -> str:
        """A line for the user about the run that is replaced."""
        return f"{self.replaces} keeps its run until the new one, now in {self.path}, is complete"

    def publish(self) -> None:
        """Call it when the run is complete: its files take the place of those of the run that it replaces.

        A kill at any time leaves each file whole, the old or the new one, and both of them until the new one
        is in place; `open` then finishes this. Raises UserError if a file cannot be written.
        """
        home = self.replaces
        if home is None:
            return
        self.close()
        try:
            for name in FILES:
                if (self.path / name).is_file():
                    _link(self.path / name, home / name)
                else:
                    (home / name).unlink(missing_ok=True)
            for name in (SNAPSHOT, BAKED, PAGE):
                (home / name).unlink(missing_ok=True)
            _remove_checkpoints(home)
            for _, _, checkpoint in self._checkpoints():
                _link(checkpoint, home / CHECKPOINTS / checkpoint.name)
            for other in _unfinished(home):
                if other != self:
                    _remove_run(other.path)
            # One step: from now on this is no run any more. Then its names can go one by one.
            done = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
            os.rename(self.path, done)
            _remove_run(done)
        except OSError as error:
            raise UserError(f"cannot write to {home}: {error.strerror or error}") from error

    def holds_something(self) -> bool:
        """Whether the folder has files of a run."""
        return self.has_checkpoint() or any((self.path / name).exists() for name in FILES)

    def write_json(self, name: str, value: Any) -> Path:
        """`files.write_json` into the folder."""
        return write_json(self.path / name, value)

    def write_png(self, name: str, image: np.ndarray | Tensor) -> Path:
        """`files.write_png` into the folder."""
        return write_png(self.path / name, image)

    def add_metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl. Lines are flushed: a killed process loses at most the line that
        it was writing."""
        try:
            self._metrics.write(json.dumps(json_value(values)) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self._metrics_path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close metrics.jsonl; the next `add_metrics` opens it again."""
        if (file := self.__dict__.pop("_metrics", None)) is not None:
            file.close()

    @cached_property
    def _metrics(self) -> TextIO:
        return self._metrics_path.open("a", encoding="utf-8", buffering=1)  # line buffered

    @property
    def _metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    def _metrics_bytes(self) -> int:
        return self._metrics_path.stat().st_size if self._metrics_path.exists() else 0

    def prepare_checkpoint(
        self, name: str, state: Any, meta: Mapping[str, Any] | None = None
    ) -> Callable[[], Path]:
        """Copy `state` to host memory. The returned function writes the checkpoint, on any thread, and
        deletes all but the newest KEEP.

        state: nested dicts, lists and tuples of tensors, numbers and strings, such as `{"head":
        head.state_dict(), "adam": adam.state_dict(), "rng": generator.get_state()}`; `load_checkpoint`
        returns the same. meta: JSON values, readable in the file's header.
        """
        from safetensors.torch import save

        tensors, layout = flatten_state(state)
        header = {
            "name": name,
            "meta": json_value(dict(meta or {})),
            "layout": layout,
            "metrics_bytes": self._metrics_bytes(),
        }

        def write() -> Path:
            serials = [serial for serial, _, _ in self._checkpoints()]
            target = self.path / CHECKPOINTS / f"{max(serials, default=0) + 1:04d}-{name}.safetensors"
            write_bytes(target, save(tensors, {"specularip": json.dumps(header)}))
            for _, _, old in self._checkpoints()[KEEP:]:
                old.unlink(missing_ok=True)
            return target

        return write

    def save_checkpoint(self, name: str, state: Any, meta: Mapping[str, Any] | None = None) -> Path:
        """`prepare_checkpoint`, and write it."""
        return self.prepare_checkpoint(name, state, meta)()

    def load_checkpoint(self) -> Checkpoint | None:
        """The newest intact checkpoint; None if there is none.

        Truncates metrics.jsonl to its length at the checkpoint, so that a resumed run logs no step twice.
        """
        from safetensors import SafetensorError, safe_open

        for _, name, path in self._checkpoints():
            try:
                with utf8_name(path) as readable, safe_open(readable, framework="pt") as file:
                    header = json.loads((file.metadata() or {})["specularip"])
                    tensors = {key: file.get_tensor(key) for key in file.keys()}
                state = unflatten_state(tensors, header["layout"])
            except (SafetensorError, OSError, KeyError, ValueError):
                continue  # damaged, for example by a power cut: try the previous one
            if self._metrics_bytes() > header["metrics_bytes"]:
                os.truncate(self._metrics_path, header["metrics_bytes"])
            return Checkpoint(name, state, header["meta"])
        return None

    def has_checkpoint(self) -> bool:
        return self.newest_checkpoint() is not None

    def newest_checkpoint(self) -> Path | None:
        """Its file, damaged or not; None if there is none."""
        return next((path for _, _, path in self._checkpoints()), None)

    def _checkpoints(self) -> list[tuple[int, str, Path]]:
        """(serial, name, path), newest first."""
        folder = self.path / CHECKPOINTS
        found = []
        for path in folder.iterdir() if folder.is_dir() else ():
            if match := _CHECKPOINT.fullmatch(path.name):
                found.append((int(match[1]), match[2], path))
        return sorted(found, reverse=True)


def _usable(out: str | Path, resume: bool, overwrite: bool) -> Path:
    """`RunFolder.check` but for the lock."""
    path = Path(out)
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: continue the run or replace it")
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: --out needs a folder")
        names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror or error}, use another --out") from None
    names = [name for name in names if name != LOCK]
    if resume and not names:
        raise UserError(f"there is no run to resume in {path}: check --out, or omit --resume")
    begun = names == [CHECKPOINTS] and not any((path / CHECKPOINTS).iterdir())  # stopped at once
    if names and not (resume or overwrite or begun):
        raise UserError(
            f"{path} is not empty: use another --out, --resume to continue its run, "
            "or --overwrite to replace it"
        )
    if names and not _is_run(names):
        raise UserError(
            f"{path} holds other files ({names[0]}), no run: use another --out, nothing was changed"
        )
    check_writable(path / REPORT)  # the permissions alone do not show read-only mounts
    return path


def _is_run(names: Sequence[str]) -> bool:
    return any(name in (*FILES, CHECKPOINTS) for name in names)


def _unfinished(home: Path) -> list[RunFolder]:
    """The runs that were to replace the one in `home`, oldest first."""
    found = [path for path in _numbered(home) if (path / CHECKPOINTS).is_dir() and not path.is_symlink()]
    return [RunFolder(path, home) for path in sorted(found, key=_serial)]


def _numbered(home: Path) -> list[Path]:
    return [path for path in home.iterdir() if _UNFINISHED.fullmatch(path.name)] if home.is_dir() else []


def _serial(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _link(source: Path, target: Path) -> None:
    """A second name for a file, in place of the one that is there; a copy where the file system has no
    links."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _remove_run(path: Path) -> None:
    """Delete the files of a run, and the folder if it is empty then; symbolic links are removed, not
    followed."""
    for name in (*FILES, SNAPSHOT, BAKED, PAGE):
        (path / name).unlink(missing_ok=True)
    _remove_temporary(path)
    _remove_checkpoints(path)  # last: a folder without them is not taken for a run
    with suppress(OSError):  # it holds files of others
        path.rmdir()


def _remove_checkpoints(path: Path) -> None:
    checkpoints = path / CHECKPOINTS
    if checkpoints.is_symlink():
        checkpoints.unlink()
    elif checkpoints.is_dir():
        for entry in checkpoints.iterdir():
            if _CHECKPOINT.fullmatch(entry.name) or _TEMPORARY.fullmatch(entry.name):
                entry.unlink()
        if not any(checkpoints.iterdir()):
            checkpoints.rmdir()


def _remove_temporary(path: Path) -> None:
    """Delete what a killed run left half written or half removed."""
    for entry in path.iterdir():
        if _TEMPORARY.fullmatch(entry.name):
            if entry.is_dir() and not entry.is_symlink():
                _remove_run(entry)
            else:
                entry.unlink()


def flatten_state(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested state into named tensors and the JSON layout that restores it.

    The layout also encodes integer keys and tuples, which optimizer state dicts have and JSON lacks.
    """
    import torch

    tensors: dict[str, torch.Tensor] = {}

    def lay(value: Any, name: str) -> Any:
        if isinstance(value, torch.Tensor):
            # A separate copy: safetensors rejects tensors that share memory.
            tensors[name] = value.detach().to("cpu", copy=True).contiguous()
            return {"tensor": name}
        if isinstance(value, Mapping):
            return {"dict": [[key, lay(item, f"{name}.{key}".strip("."))] for key, item in value.items()]}
        if isinstance(value, tuple | list):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [lay(item, f"{name}.{index}".strip(".")) for index, item in enumerate(value)]}
        if value is None or isinstance(value, bool | int | float | str):
            return {"value": value}
        raise ValueError(f"state at '{name}' must be tensor, number, string, dict or list, got {type(value)}")

    return tensors, lay(state, "")


def unflatten_state(tensors: Mapping[str, Tensor], layout: Any) -> Any:
    """The inverse of `flatten_state`."""
    [(kind, value)] = layout.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: unflatten_state(tensors, item) for key, item in value}
    if kind in ("tuple", "list"):
        items = [unflatten_state(tensors, item) for item in value]
        return tuple(items) if kind == "tuple" else items
    return value
