"""The page of a run: the avatar as it grows, stage, time left, loss, text and photo.

    with LiveView() as live:
        print(live.url)
        generate(text, photo, out=folder, live=live)

The run calls `begin` once and `show` with each preview. Nothing here changes the run: what it computes for
the page uses no random numbers, and an error ends the page's updates, not the run.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from PIL import Image

from specularip.avatar import Avatar
from specularip.baking.preview import preview_harmonics
from specularip.errors import first_line
from specularip.files import write_bytes
from specularip.progress import Progress
from specularip.run_folder import SNAPSHOT
from specularip.viewer.server import ViewServer
from specularip.viewing.shown import Shown, packed_avatar

PHOTO_SIZE = 160
POINTS = 120
"""Most points of a stage's loss curve."""


class LiveView(Shown):
    """An exhibit that follows one run, and its server, which runs from `__enter__` to `__exit__`.

    host and port as for `ViewServer`, which raises UserError where the address cannot be had.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__("Avatar")
        self.server = ViewServer(self, host, port)
        self.url = self.server.url
        self._pool = ThreadPoolExecutor(1, "snapshot")
        self._packing: Future[None] | None = None
        self._folder: Path | None = None
        self._progress: Progress | None = None
        self._losses: LossCurve | None = None
        self._photo: bytes | None = None
        self._text, self._status, self._broken = "", "running", False

    def __enter__(self) -> LiveView:
        self.server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.__exit__(kind, value, trace)
        self._pool.shutdown()

    def begin(self, folder: Path, progress: Progress, text: str, photo: np.ndarray | None = None) -> None:
        """The run in `folder` begins or is resumed: then its last snapshot is shown until the next. text:
        what it makes. photo: uint8 [H,W,3]."""
        with self._contained():
            self.title = text
            self._folder, self._progress, self._text = folder, progress, text
            self._losses = LossCurve(folder / "metrics.jsonl")
            self._photo = None if photo is None else _thumbnail(photo)
            if (folder / SNAPSHOT).is_file():
                self.show_packed((folder / SNAPSHOT).read_bytes())

    def show(self, avatar: Avatar) -> None:
        """Show a snapshot of an avatar in training. Its colours are computed here, in less time than a
        preview takes; packing and writing follow in a thread. Skipped while the one before is written."""
        if self._packing is not None and not self._packing.done():
            return
        with self._contained():
            snapshot = _snapshot(avatar)
            self._packing = self._pool.submit(self._keep, snapshot)

    def finish(self, avatar: Avatar) -> None:
        """The run has ended with this avatar."""
        with self._contained():
            if self._packing is not None:
                self._packing.result()
            self.show_packed(packed_avatar(avatar, self.title))
            if self._folder is not None:
                (self._folder / SNAPSHOT).unlink(missing_ok=True)
            self._status = "finished"

    def show_packed(self, packed: bytes) -> None:
        """From now on, this packed avatar."""
        Shown.show(self, packed)

    def state(self) -> dict[str, Any]:
        state = super().state()
        if self._progress is None or self._losses is None:
            return {**state, "note": "Loading"}
        stage = self._progress.state()
        state["run"] = {
            "status": self._status,
            "stage": stage.name,
            "step": stage.done,
            "steps": stage.total,
            "remaining_seconds": stage.remaining_seconds,
            "text": self._text,
            "photo": self._photo is not None,
            "losses": self._losses.read(),
        }
        if not state["version"]:
            state["note"] = "Waiting for the first preview"
        return state

    def photo(self) -> bytes | None:
        return self._photo
