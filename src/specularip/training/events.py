"""TensorBoard's event files of a run: curves, previews and settings, for `--tensorboard`.

The records are those of torch.utils.tensorboard. Its SummaryWriter is not used: it reports a full disk from
a thread of its own, with a traceback, and names its files by the clock, in whose order TensorBoard reads
them; a clock that was set back would mix up a resumed run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from specularip.errors import UserError, first_line
from specularip.files import to_json, to_uint8
from specularip.run_folder import EVENT_FILE

if TYPE_CHECKING:
    from torch import Tensor

MISSING = "--tensorboard needs the package tensorboard: pip install 'specularip[tensorboard]'"
IMAGE_SECONDS = 30.0
"""Least time between two previews in the file: TensorBoard shows ten of a run."""


def check_tensorboard() -> None:
    """Raise UserError if the package is not installed. Loads nothing."""
    if find_spec("tensorboard") is None:
        raise UserError(MISSING)


class EventFile:
    """One event file, the newest of a folder. Steps count through all stages of a run.

    Each record is written at once, as the lines of metrics.jsonl are: a killed process loses at most the one
    that it was writing. May be used by several threads. All methods raise UserError if the file cannot be
    written.
    """

    def __init__(self, folder: Path, next_step: int) -> None:
        """Create the file. Steps from `next_step` on in older files are void: TensorBoard leaves them out.
        next_step 0: nothing of them holds, so they are deleted.

        Raises UserError if the package tensorboard is missing or cannot be loaded.
        """
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.summary.writer.record_writer import RecordWriter
            from torch.utils.tensorboard import summary
        except ImportError as error:
            check_tensorboard()
            raise UserError(
                f"the package tensorboard cannot be loaded ({first_line(error)}): "
                "pip install --force-reinstall tensorboard, or omit --tensorboard"
            ) from error
        self._summary, self._event = summary, Event
        self._lock, self._image_time = Lock(), -math.inf
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = [(EVENT_FILE.fullmatch(path.name), path) for path in folder.iterdir()]
            older = {int(match[1]): path for match, path in names if match}
            if next_step == 0:
                for path in older.values():
                    path.unlink()
                older = {}
            self.continues = bool(older)
            """Whether there are older files."""
            self.path = folder / f"events.out.tfevents.{1 + max(older, default=0):04d}"
            self._file: BinaryIO = self.path.open("xb")
        except OSError as error:
            raise self._error(error, folder) from error
        self._records = RecordWriter(self._file)
        self._write(self._event(file_version="brain.Event:2", step=next_step))
        self._write(self._event(session_log=SessionLog(status=SessionLog.START), step=next_step))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by their tags, such as "seid/loss"."""
        parts = [self._summary.scalar(tag, value) for tag, value in values.items()]
        self._add(step, parts)

    def image(self, step: int, tag: str, image: np.ndarray | Tensor, always: bool = False) -> None:
        """An image as `files.write_png` takes it. Left out if the last one is younger than IMAGE_SECONDS,
        unless `always`."""
        if always or time.monotonic() >= self._image_time + IMAGE_SECONDS:
            self._image_time = time.monotonic()
            self._add(step, [self._summary.image(tag, to_uint8(image), dataformats="HWC")])

    def texts(self, step: int, values: Mapping[str, Any]) -> None:
        """JSON values by their tags: strings as they are, all others as JSON."""
        for tag, value in values.items():
            text = value if isinstance(value, str) else to_json(value)
            text = text.encode("utf-8", "backslashreplace").decode()
            block = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown for text as it is
            self._add(step, [self._summary.text(tag, block)])

    def close(self) -> None:
        """Close the file. Nothing can be added afterwards."""
        try:
            self._file.close()
        except OSError as error:
            raise self._error(error, self.path) from error

    def _add(self, step: int, summaries: list[Any]) -> None:
        event = self._event(step=step)
        for part in summaries:
            event.summary.MergeFrom(part)
        self._write(event)

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        with self._lock:
            try:
                self._records.write(event.SerializeToString())
                self._records.flush()
            except OSError as error:
                raise self._error(error, self.path) from error

    @staticmethod
    def _error(error: OSError, path: Path) -> UserError:
        return UserError(f"cannot write {path}: {error.strerror or error}")
