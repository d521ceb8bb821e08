"""The output folder of a run: check, create, write files, save and load checkpoints.

avatar.safetensors  avatar.ply  turntable.mp4  preview.png  report.json  metrics.jsonl  checkpoints/
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from specularip.errors import UserError
from specularip.files import json_value, utf8_name, write_bytes, write_json, write_png

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FILES = ("avatar.safetensors", "avatar.ply", "turntable.mp4", "preview.png", "report.json", "metrics.jsonl")
SNAPSHOT, BAKED = "snapshot.pack", "baked.safetensors"
"""What the viewer's page adds to the folder: the growing avatar, and the colours of the finished one."""
CHECKPOINTS = "checkpoints"
KEEP = 2
"""Number of checkpoints kept: the newest, and the one before it in case the newest is damaged."""
_CHECKPOINT = re.compile(r"(\d{4,})-(.+)\.safetensors")
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp\.\w+")


@dataclass(frozen=True)
class Checkpoint:
    """name, state, meta: as given to `RunFolder.save_checkpoint`; tensors are on the CPU."""

    name: str
    state: Any
    meta: dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. Create it with `open`; `check` changes nothing."""

    path: Path

    @staticmethod
    def check(out: str | Path, resume: bool = False, overwrite: bool = False) -> Path:
        """Check that a run may use `out`, without changing anything. Returns it as a Path.

        Raises UserError if the folder is not empty (unless resume or overwrite is set and it holds a run), if
        there is nothing to resume, or if it is not writable.
        """
        path = Path(out)
        if resume and overwrite:
            raise UserError("--resume and --overwrite exclude each other: continue the run or replace it")
        try:
            names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is a file: --out needs a folder")
            if resume and not names:
                raise UserError(f"there is no run to resume in {path}: check --out, or omit --resume")
            if names and not (resume or overwrite):
                raise UserError(
                    f"{path} is not empty: use another --out, --resume to continue its run, "
                    "or --overwrite to replace it"
                )
            if names and not _is_run(names):
                raise UserError(
                    f"{path} holds other files ({names[0]}), no run: use another --out, nothing was changed"
                )
            existing = path
            while not existing.exists():
                existing = existing.parent
            if not existing.is_dir():
                raise UserError(f"cannot write to {path}: {existing} is a file")
            with tempfile.TemporaryFile(dir=existing):  # the permissions alone do not show read-only mounts
                pass
        except OSError as error:
            raise UserError(f"cannot write to {path}: {error.strerror or error}, use another --out") from None
        return path

    @staticmethod
    def open(out: str | Path, resume: bool = False, overwrite: bool = False) -> RunFolder:
        """`check`, then create the folder. overwrite deletes the files of the previous run, and no others.

        Raises UserError as `check` does."""
        path = RunFolder.check(out, resume, overwrite)
        try:
            if overwrite and path.is_dir():
                _remove_run(path)
            (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {path}: {error.strerror or error}, use another --out") from None
        return RunFolder(path)

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
        return bool(self._checkpoints())

    def _checkpoints(self) -> list[tuple[int, str, Path]]:
        """(serial, name, path), newest first."""
        folder = self.path / CHECKPOINTS
        found = []
        for path in folder.iterdir() if folder.is_dir() else ():
            if match := _CHECKPOINT.fullmatch(path.name):
                found.append((int(match[1]), match[2], path))
        return sorted(found, reverse=True)


def _is_run(names: Sequence[str]) -> bool:
    return any(name in (*FILES, CHECKPOINTS) for name in names)


def _remove_run(path: Path) -> None:
    """Delete the files of a run, and no others; symbolic links are removed, not followed."""
    checkpoints = path / CHECKPOINTS
    if checkpoints.is_symlink():
        checkpoints.unlink()
    elif checkpoints.is_dir():
        for entry in checkpoints.iterdir():
            if _CHECKPOINT.fullmatch(entry.name) or _TEMPORARY.fullmatch(entry.name):
                entry.unlink()
        if not any(checkpoints.iterdir()):
            checkpoints.rmdir()
    ours = (*FILES, SNAPSHOT, BAKED)
    for entry in path.iterdir():
        if (entry.name in ours or _TEMPORARY.fullmatch(entry.name)) and not entry.is_dir():
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
