"""The output folder of a run: check, create, write files, save and load checkpoints.

avatar.safetensors  avatar.ply  turntable.mp4  preview.png  report.json  metrics.jsonl  checkpoints/

A run that replaces another writes to a folder of its own within, `unfinished-1`. When it is complete, its
files take the other's place (`publish`). Until then the other run is whole, however the new one ends; it can
be resumed as long as the new one has no checkpoint.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specularip.checkpoints import (
    Checkpoint,
    OtherVersion,
    flatten_state,
    read_checkpoint,
    write_checkpoint,
)
from specularip.errors import DamagedFile, UserError, reason
from specularip.files import atomic_path, check_writable, is_temporary, temporary_name, write_json, write_png
from specularip.json_lines import JsonLines
from specularip.run_lock import LOCK, check_unlocked

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

AVATAR = "avatar.safetensors"
FILES = (AVATAR, "avatar.ply", "turntable.mp4", "preview.png", "report.json", "metrics.jsonl")
REPORT = "report.json"
"""Written last: a run that has one is complete."""
SNAPSHOT, BAKED, PAGE = "snapshot.pack", "baked.safetensors", "avatar.html"
"""What the viewer's page and `batch` add to the folder: the growing avatar, the colours of the finished one,
and its page."""
CHECKPOINTS = "checkpoints"
EVENTS = "tensorboard"
"""Folder of TensorBoard's event files."""
KEEP = 2
"""Number of checkpoints kept: the newest, and the one before it in case the newest is damaged."""
GAUSSIAN_BYTES, PIXEL_BYTES, OTHER_BYTES = 1000, 20, 32_000_000
"""In a checkpoint, about: a Gaussian with Adam's two moments, a pixel of a target, and the rest."""
AVATAR_BYTES = 1000
"""Of a Gaussian in all the files of a finished avatar, or in one for another program, at most."""
TRAINING_BYTES = 4000
"""Of memory that a Gaussian takes in training, at least."""
_CHECKPOINT = re.compile(r"(\d{4,})-(.+)\.safetensors")
EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d{4,})")
_UNFINISHED = re.compile(r"unfinished-(\d+)")


def run_bytes(points: int, target_pixels: float = 0.0) -> float:
    """About how much a run of so many Gaussians, and pixels of targets kept with them, writes to the disk."""
    checkpoint = GAUSSIAN_BYTES * points + PIXEL_BYTES * target_pixels + OTHER_BYTES
    return (KEEP + 1) * checkpoint + AVATAR_BYTES * points  # a new checkpoint is written before one goes


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
            for run in (RunFolder(path), *_unfinished(path)):
                _remove_temporary(run.path)
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
    def is_begun(out: str | Path) -> bool:
        """Whether there is something in `out` that a run could be resumed from: more than the lock and the
        temporary files that one leaves which is killed in its first moments."""
        path = Path(out)
        return path.is_dir() and any(_counts(entry.name) for entry in path.iterdir())

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
            _remove_events(home)
            for events in _event_files(self.path):
                _link(events, home / EVENTS / events.name)
            _remove_checkpoints(home)
            for _, _, checkpoint in self._checkpoints():
                _link(checkpoint, home / CHECKPOINTS / checkpoint.name)
            for other in _unfinished(home):
                if other != self:
                    _remove_run(other.path)
            # One step: from now on this is no run any more. Then its names can go one by one.
            done = temporary_name(self.path)
            os.rename(self.path, done)
            _remove_run(done)
        except OSError as error:
            raise UserError(f"cannot write to {home}: {reason(error)}") from error

    def forget_checkpoints(self) -> None:
        """Delete the checkpoints of a run that is complete. Raises UserError if that fails."""
        try:
            _remove_checkpoints(self.path)
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {reason(error)}") from error

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
        """Append one line to metrics.jsonl. A killed process loses at most the line that it was writing."""
        self.metrics.append(values)

    def close(self) -> None:
        """Close metrics.jsonl; the next `add_metrics` opens it again."""
        self.metrics.close()

    @cached_property
    def metrics(self) -> JsonLines:
        """metrics.jsonl."""
        return JsonLines(self.path / "metrics.jsonl")

    def prepare_checkpoint(
        self, name: str, state: Any, meta: Mapping[str, Any] | None = None
    ) -> Callable[[], Path]:
        """Copy `state` to host memory. The returned function writes the checkpoint, on any thread, and
        deletes all but the newest KEEP.

        state: nested dicts, lists and tuples of tensors, numbers and strings, such as `{"head":
        head.state_dict(), "adam": adam.state_dict(), "rng": generator.get_state()}`; `load_checkpoint`
        returns the same. meta: JSON values, readable in the file's header.
        """
        tensors, layout = flatten_state(state)
        metrics_bytes = self.metrics.size()

        def write() -> Path:
            serials = [serial for serial, _, _ in self._checkpoints()]
            target = self.path / CHECKPOINTS / f"{max(serials, default=0) + 1:04d}-{name}.safetensors"
            write_checkpoint(target, name, tensors, layout, meta or {}, metrics_bytes)
            for _, _, old in self._checkpoints()[KEEP:]:
                old.unlink(missing_ok=True)
            return target

        return write

    def save_checkpoint(self, name: str, state: Any, meta: Mapping[str, Any] | None = None) -> Path:
        """`prepare_checkpoint`, and write it."""
        return self.prepare_checkpoint(name, state, meta)()

    def load_checkpoint(self, check: Callable[[Checkpoint], None] = lambda one: None) -> Checkpoint | None:
        """The newest checkpoint that is whole, with the problems of newer ones; None if there are none.
        Changes nothing; see `continue_from`.

        check: raises DamagedFile for one that does not fit the run. Raises UserError if none is whole: a run
        that starts again without a word would lose hours.
        """
        problems: dict[Path, DamagedFile] = {}
        for _, _, path in self._checkpoints():
            try:
                checkpoint = read_checkpoint(path)
                check(checkpoint)
                return replace(checkpoint, problems=problems)
            except DamagedFile as error:
                problems[path] = error
        if not problems:
            return None
        path, problem = next(iter(problems.items()))
        remedy = "start again with --overwrite, or use another --out"
        if isinstance(problem, OtherVersion):
            raise UserError(f"the run in {self.path} cannot be continued: {problem}; {remedy}")
        raise UserError(
            f"no checkpoint in {path.parent} is whole ({path.name}: {problem}): restore one, {remedy}"
        )

    def continue_from(self, checkpoint: Checkpoint | None) -> None:
        """Make the folder what it was at `checkpoint`, None: before the first step. metrics.jsonl gets the
        length that it had, so that no step is in it twice, and damaged checkpoints are deleted, so that they
        do not count among the KEEP newest."""
        self.metrics.truncate(checkpoint.metrics_bytes if checkpoint else 0)
        for path, problem in (checkpoint.problems if checkpoint else {}).items():
            if not isinstance(problem, OtherVersion):
                with suppress(OSError):
                    path.unlink()

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
    names = list(filter(_counts, names))
    if resume and not names:
        raise UserError(f"there is no run to resume in {path}: check --out, or omit --resume")
    begun = names == [CHECKPOINTS] and all(is_temporary(one.name) for one in (path / CHECKPOINTS).iterdir())
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


def _counts(name: str) -> bool:
    """Whether a name in a run's folder is more than its lock or a temporary file."""
    return name != LOCK and not is_temporary(name)


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
    _remove_events(path)
    _remove_checkpoints(path)  # last: a folder without them is not taken for a run
    with suppress(OSError):  # it holds files of others
        path.rmdir()


def _remove_checkpoints(path: Path) -> None:
    checkpoints = path / CHECKPOINTS
    if checkpoints.is_symlink():
        checkpoints.unlink()
    elif checkpoints.is_dir():
        for entry in checkpoints.iterdir():
            if _CHECKPOINT.fullmatch(entry.name) or is_temporary(entry.name):
                entry.unlink()
        if not any(checkpoints.iterdir()):
            checkpoints.rmdir()


def _event_files(path: Path) -> list[Path]:
    """TensorBoard's files of the run in this folder."""
    folder = path / EVENTS
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [entry for entry in folder.iterdir() if EVENT_FILE.fullmatch(entry.name)]


def _remove_events(path: Path) -> None:
    folder = path / EVENTS
    for entry in _event_files(path):
        entry.unlink()
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _remove_temporary(path: Path) -> None:
    """Delete what killed runs left half written or half removed. None of it is in use: the caller holds the
    folder's lock, and has not written to it yet."""
    checkpoints = path / CHECKPOINTS
    inner = checkpoints.iterdir() if checkpoints.is_dir() and not checkpoints.is_symlink() else ()
    for entry in (*path.iterdir(), *inner):
        if is_temporary(entry.name):
            if entry.is_dir() and not entry.is_symlink():
                _remove_run(entry)
            else:
                entry.unlink()
