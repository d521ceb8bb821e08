"""The page of a run: the avatar as it grows, stage, time left, loss, text and photo.

    with LiveView() as live:
        print(live.url)
        generate(text, photo, out=folder, live=live)

The run calls `begin` once and `show` with each preview. Nothing here changes the run: what it computes for
the page uses no random numbers, and an error ends the page's updates, not the run.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
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
from specularip.errors import DamagedFile, first_line
from specularip.files import write_bytes
from specularip.json_reading import parse_object
from specularip.progress import Progress
from specularip.run_folder import SNAPSHOT
from specularip.viewer.pack import unpack
from specularip.viewer.server import ViewServer
from specularip.viewing.clips import clips_for
from specularip.viewing.finished import serve
from specularip.viewing.shown import Shown

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
        self._finished: Avatar | None = None
        self._text, self._status = "", "running"
        self._begun = self._broken = False

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
        self._progress = progress
        with self._contained():
            self.title = text
            self._folder, self._text = folder, text
            self._losses = LossCurve(folder / "metrics.jsonl")
            self._photo = None if photo is None else _thumbnail(photo)
            self._begun = True
            if (folder / SNAPSHOT).is_file():
                packed = (folder / SNAPSHOT).read_bytes()
                unpack(packed)  # raises for damaged ones, which the page could not show
                self.put(packed)

    def show(self, avatar: Avatar) -> None:
        """Show a snapshot of an avatar in training. Its colours are computed here, in less time than a
        preview takes; packing and writing follow in a thread. Skipped while the one before is written."""
        if self.busy:
            return
        with self._contained():
            snapshot = _snapshot(avatar)
            self._packing = self._pool.submit(self._keep, snapshot)

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being packed and written."""
        return self._packing is not None and not self._packing.done()

    def finish(self, avatar: Avatar) -> None:
        """The run has ended with this avatar."""
        with self._contained():
            if self._packing is not None:
                self._packing.result()
            self.put(avatar.packed(self.title, clips_for(avatar.binding)))
            self._finished = avatar
            if self._folder is not None:
                (self._folder / SNAPSHOT).unlink(missing_ok=True)
            self._status = "finished"

    def stay(self, folder: Path) -> None:
        """After `finish`: bake the avatar meanwhile, keep the result in the run's folder, and serve the page
        until Ctrl-C."""
        if self._finished is None:
            return
        print(f"{self.url} shows it until Ctrl-C", flush=True)
        serve(self.server, self, self._finished, folder, clips_for(self._finished.binding))

    def state(self) -> dict[str, Any]:
        state = super().state()
        if not self._begun or self._progress is None or self._losses is None:
            return {**state, "note": "Loading"}
        stage = self._progress.stage()
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

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """The run goes on whatever happens in the block. The first error is shown."""
        try:
            yield
        except Exception as error:
            if not self._broken and self._progress is not None:
                self._progress.log(f"the page of this run cannot follow it: {first_line(error)}")
            self._broken = True

    def _keep(self, snapshot: Avatar) -> None:
        with self._contained():
            packed = snapshot.packed(self.title)
            self.put(packed)
            if self._folder is not None:
                write_bytes(self._folder / SNAPSHOT, packed)


@torch.no_grad()
def _snapshot(avatar: Avatar) -> Avatar:
    """A copy of an avatar in training, on the CPU, with spherical harmonics instead of the head."""
    colors = avatar.colors
    if avatar.head is not None:
        colors = preview_harmonics(avatar.gaussians, avatar.head)
    every = torch.arange(len(avatar.gaussians), device=avatar.gaussians.means.device)
    copy = replace(avatar, gaussians=avatar.gaussians.select(every), head=None, colors=colors)
    return copy.to("cpu")


class LossCurve:
    """The losses in a metrics.jsonl that grows, at most POINTS means a stage. Threads may share it."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._losses: dict[str, list[float]] = {}
        self._read, self._rest = 0, b""

    def read(self) -> list[dict[str, Any]]:
        """[{stage, values}], in the order of the run."""
        with self._lock:
            self._take_in()
            return [{"stage": stage, "values": _means(values)} for stage, values in self._losses.items()]

    def _take_in(self) -> None:
        """Read what was appended. A resumed run shortens the file first: then all of it is read again."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, io.SEEK_END) < self._read:
                    self._losses, self._read, self._rest = {}, 0, b""
                file.seek(self._read)
                data = file.read()
        except OSError:
            return
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                values = parse_object(line)
                self._losses.setdefault(str(values["stage"]), []).append(float(values["loss"]))
            except (DamagedFile, ValueError, KeyError, TypeError):
                continue  # without a loss, or not finite


def _means(values: list[float]) -> list[float]:
    """At most POINTS means of neighbours."""
    groups = np.array_split(np.array(values), min(POINTS, len(values)))
    return [float(group.mean()) for group in groups]


def _thumbnail(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((PHOTO_SIZE, PHOTO_SIZE))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
