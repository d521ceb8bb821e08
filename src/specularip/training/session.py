"""The session of one run: its folder, phases, checkpoints, previews, metrics, stop requests and report.

A training loop calls `after_step` after every step. The session then records the metrics of the step before,
whose numbers have been copied from the GPU by then, writes checkpoints and previews when they are due, and
ends the run when a signal requests it. Files are written by a background thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specularip.checkpoints import Checkpoint
from specularip.errors import DamagedFile, UserError, quoted
from specularip.files import json_value
from specularip.kernels.async_transfer import StepMetrics
from specularip.progress import Progress
from specularip.run_folder import EVENTS, RunFolder
from specularip.stopping import StopRequest
from specularip.training.events import EventFile
from specularip.training.parallel import SINGLE_RANK, Ranks
from specularip.training.report import last_metrics, machine_report
from specularip.training.schema import Many, NotFinite, Number, Schema, a_dict, check_state
from specularip.training.step import MAX_SKIPPED
from specularip.training.writer import BackgroundWriter

CHECKPOINT_SECONDS, PREVIEW_SECONDS = 45.0, 8.0
"""Least time between two checkpoints, and between two previews."""
PREVIEW_SHARE = 0.02
"""Previews take at most about this share of the time: the longer one takes, the later the next."""
STOP_CHECK_EVERY = 8
"""Steps between two checks for a stop request where there are several ranks: each is an all-reduce."""
SKIPPED = "skipped"
"""The metric that counts consecutive non-finite steps. It is not recorded; at MAX_SKIPPED the run ends."""
META: Schema = {"step": Number(0, whole=True), "seconds": Many(Number(0), dict), "inputs": a_dict}
MAX_DIFFERENCES = 3
"""Inputs that an error message names."""


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Names of what differs between two JSON values, as in "settings.seid.steps"."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*now, *before)):
            # Lacking is like None.
            yield from differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield name


@dataclass(frozen=True)
class Phase:
    """What a checkpoint of this phase of a run may hold: `steps` that are done at most, and its state."""

    steps: int
    state: Schema


class Session:
    """One run in its folder. Use it in a `with` block, which waits for files in flight at its end.

    inputs: JSON values that a resumed run must share with the one it continues, by names for the error
    message. seconds: how long each phase took so far, resumed runs included. Only the main one of
    `ranks` writes files. tensorboard: write event files, too.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: Progress,
        stop: StopRequest,
        device: torch.device,
        inputs: Mapping[str, Any],
        notes: Sequence[str] = (),
        ranks: Ranks = SINGLE_RANK,
        tensorboard: bool = False,
    ) -> None:
        self.folder, self.progress, self.device, self.ranks = folder, progress, device, ranks
        self.notes = list(notes)
        self.seconds: dict[str, float] = {}
        self._stop, self._inputs, self._writer = stop, json_value(inputs), BackgroundWriter()
        self._timed: tuple[str, float] | None = None  # the phase being timed and its start
        # A step whose metrics were not read yet, and its learning rates.
        self._pending: tuple[int, StepMetrics, dict[str, float]] | None = None
        self._wants_events = tensorboard and ranks.is_main
        self._events: EventFile | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._before = self._done = 0  # steps of the phases before, and of this one
        self._skipped = 0.0
        self._phase, self._steps = "", 0
        self._phases: Mapping[str, Phase] = {}
        self._snapshot: Callable[[], Any] = dict
        self._preview: Callable[[], np.ndarray | Tensor] | None = None
        self._next_checkpoint, self._next_preview = time.monotonic() + CHECKPOINT_SECONDS, 0.0

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._writer.close()
        except Exception:
            if kind is None:  # otherwise keep the error that ended the block
                raise
        finally:
            self.folder.close()
            with suppress(UserError):  # it is flushed: closing it once more writes nothing
                self._close_events()

    def note(self, text: str) -> None:
        """Show a line, and keep it for the report."""
        self.notes.append(text)
        self.progress.log(text)

    def resume(self, phases: Mapping[str, Phase]) -> Checkpoint | None:
        """The newest checkpoint that is whole, to continue from; None for a fresh run. The run folder is made
        what it was then.

        phases: those in which the run can be, by name; `save` is held to them, too. Raises UserError if the
        checkpoint is of a run with other inputs, or if there are some and none is whole.
        """
        self._phases = phases
        checkpoint = self.folder.load_checkpoint(self._check)
        self.ranks.barrier()  # all have read before anything is changed
        if self.ranks.is_main:
            self.folder.continue_from(checkpoint)
        if checkpoint is None:
            return None
        assert checkpoint.path is not None
        self.seconds |= checkpoint.meta["seconds"]
        line = f"resuming {checkpoint.name.upper()} at step {checkpoint.meta['step']}"
        if checkpoint.problems:
            damaged = ", ".join(f"{path.name} ({problem})" for path, problem in checkpoint.problems.items())
            self.note(f"damaged: {damaged}; {line}, from {checkpoint.path.name}")
        else:
            self.progress.log(line)
        return checkpoint

    def _check(self, checkpoint: Checkpoint) -> None:
        """Raise DamagedFile for a checkpoint that is none of this program, and UserError for one of a run
        with other inputs."""
        check_state(checkpoint.meta, META, "meta")
        different = list(differences(checkpoint.meta["inputs"], self._inputs))
        if different:
            more = len(different) - MAX_DIFFERENCES
            named = [*different[:MAX_DIFFERENCES], *([f"{more} more"] if more > 0 else [])]
            raise UserError(
                f"the run in {self.folder.path} was made with another {' and '.join(named)}: "
                "repeat them to resume, or use --overwrite"
            )
        self._check_state(checkpoint.name, checkpoint.meta["step"], checkpoint.state)

    def _check_state(self, phase: str, step: int, state: Any) -> None:
        if phase not in self._phases:
            raise DamagedFile(f"{quoted(phase)} is no phase of this run")
        if step > self._phases[phase].steps:
            raise DamagedFile(f"step {step} is beyond the {self._phases[phase].steps} of its phase")
        check_state(state, self._phases[phase].state)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time of the block to the seconds of this phase."""
        began = time.perf_counter()
        self._timed = phase, began
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._timed = None
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began

    @contextmanager
    def unsaved(self, phase: str) -> Iterator[None]:
        """`timed`, for a phase that has no checkpoints. A stop request ends it at once: there is nothing to
        wait for. With several ranks, all have to agree: then the phase calls `check_stop`."""
        with self.timed(phase), self._stop.at_once() if self.ranks.world_size == 1 else nullcontext():
            yield

    @contextmanager
    def training(
        self,
        phase: str,
        title: str,
        steps: int,
        done: int,
        snapshot: Callable[[], Any],
        preview: Callable[[], np.ndarray | Tensor],
        optimizer: torch.optim.Optimizer | None = None,
        before: int = 0,
    ) -> Iterator[None]:
        """A phase of `steps` steps of which `done` are done already; the block calls `after_step`.

        snapshot: the state that a checkpoint holds, as nested tensors. preview: renders preview.png. For
        TensorBoard: the optimizer, whose groups have names, and how many steps the phases before have.
        """
        self._optimizer, self._before, self._done = optimizer, before, done
        self._open_events()
        self._phase, self._steps, self._snapshot, self._preview = phase, steps, snapshot, preview
        now = time.monotonic()
        self._next_checkpoint, self._next_preview = now + CHECKPOINT_SECONDS, now + PREVIEW_SECONDS
        self.progress.start(title, steps, done)
        with self.timed(phase):
            yield
        self._read_metrics()
        self._writer.join()

    def after_step(self, done: int, metrics: StepMetrics | None) -> None:
        """Call this after each step; `done` of the phase's steps are finished, and its state is consistent.

        metrics: to be recorded, with "loss" and perhaps SKIPPED among them; None: none for this step. Raises
        KeyboardInterrupt after saving a checkpoint if a signal requested a stop, and UserError if training
        has diverged or a file cannot be written.
        """
        self._read_metrics()
        if metrics is not None:
            self._pending = done, metrics, self._rates()
        if self.ranks.world_size == 1 or done % STOP_CHECK_EVERY == 0:
            self.check_stop(done)
        if not self.ranks.is_main or self._writer.busy:
            return
        # Only steps whose metrics are known to be finite are saved.
        if metrics is not None and time.monotonic() >= self._next_checkpoint:
            self._read_metrics()
            if not self._skipped:  # else a diverging run would overwrite its good checkpoints
                self.save(self._phase, done, self._snapshot())
                self._next_checkpoint = time.monotonic() + CHECKPOINT_SECONDS
        elif time.monotonic() >= self._next_preview and done < self._steps and self._preview is not None:
            began = time.monotonic()
            image = self._preview()
            self._writer.submit(partial(self._write_preview, image, done))
            ended = time.monotonic()
            self._next_preview = ended + max(PREVIEW_SECONDS, (ended - began) / PREVIEW_SHARE)

    def check_stop(self, done: int | None = None) -> None:
        """Raise KeyboardInterrupt if any rank requests a stop; `done` given: after saving a checkpoint."""
        if not self.ranks.any(self._stop.requested, self.device):
            return
        if done is not None:
            self.save(self._phase, done, self._snapshot())
        self._writer.join()
        raise KeyboardInterrupt

    def save(self, phase: str, step: int, state: Any) -> None:
        """Save a checkpoint, to be resumed at `step` of `phase`: copy `state`, nested tensors, to host memory
        and write it in the background.

        The copy waits for the GPU, some 30 ms every CHECKPOINT_SECONDS: the background thread makes no calls
        to CUDA, which would invalidate a CUDA graph that is being captured meanwhile.
        """
        self._read_metrics()
        if not self.ranks.is_main:
            return
        meta = {"step": step, "seconds": self._seconds_so_far(), "inputs": self._inputs}
        try:
            if self._phases:
                self._check_state(phase, step, state)
        except NotFinite as problem:
            raise UserError(
                f"training diverged: {problem} at step {step} of {phase}; the last checkpoint in "
                f"{self.folder.path} is kept: try another --seed"
            ) from None
        self._writer.submit(self.folder.prepare_checkpoint(phase, state, meta))

    def offer(self, phase: str, step: int, state: Any) -> None:
        """`save` if there has been no checkpoint for CHECKPOINT_SECONDS."""
        if time.monotonic() >= self._next_checkpoint and not self._writer.busy:
            self.save(phase, step, state)
            self._next_checkpoint = time.monotonic() + CHECKPOINT_SECONDS

    def write_preview(self, image: np.ndarray | Tensor) -> None:
        """The last preview.png. Raises UserError if it cannot be written."""
        self._writer.join()
        self._write_preview(image, self._steps, last=True)

    def _write_preview(self, image: np.ndarray | Tensor, done: int, last: bool = False) -> None:
        self.folder.write_png("preview.png", image)
        if self._events is not None:
            self._events.image(self._before + done, "preview", image, always=last)

    def write_report(self, values: Mapping[str, Any]) -> None:
        """Write report.json: `values`, then what every report holds. Raises UserError if a file before it
        could not be written."""
        self._writer.join()
        common = {
            "last_metrics": last_metrics(self.folder.path / "metrics.jsonl"),
            "notes": self.notes,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "processes": self.ranks.world_size,
            **machine_report(self.device),
        }
        if self._events is not None:
            measured = {f"test/{name}": value for name, value in (values.get("metrics") or {}).items()}
            measured |= {f"seconds of/{name}": value for name, value in self.seconds.items()}
            finite = {tag: value for tag, value in measured.items() if math.isfinite(value)}
            self._events.scalars(self._before + self._steps, finite)
            self._close_events()
        self.folder.write_json("report.json", {**values, **common})

    def _open_events(self) -> None:
        if not self._wants_events or self._events is not None:
            return
        step = self._before + self._done
        self._events = EventFile(self.folder.path / EVENTS, step + 1 if step else 0)
        if not self._events.continues:
            self._events.texts(0, {f"inputs/{name}": value for name, value in self._inputs.items()})

    def _close_events(self) -> None:
        """Before the folder takes another's place, and at the end."""
        if (events := self._events) is not None:
            self._events = None
            events.close()

    def _rates(self) -> dict[str, float]:
        """The learning rates, by tags of TensorBoard."""
        if self._events is None or self._optimizer is None:
            return {}
        return {f"learning rate/{group['name']}": group["lr"] for group in self._optimizer.param_groups}

    def _seconds_so_far(self) -> dict[str, float]:
        """Those of each phase, the one being timed included."""
        seconds = dict(self.seconds)
        if self._timed is not None:
            timed, began = self._timed
            seconds[timed] = seconds.get(timed, 0.0) + time.perf_counter() - began
        return seconds

    def _read_metrics(self) -> None:
        """Record the metrics of the last step. It waits for that step: call it when the next one has been
        launched, or where the state itself is needed."""
        if self._pending is None:
            return
        (done, metrics, rates), self._pending = self._pending, None
        values = dict(metrics)
        self._skipped = values.pop(SKIPPED, 0.0)
        self.progress.step(done, loss=values["loss"])
        if self.ranks.is_main:
            self.folder.add_metrics({"stage": self._phase, "step": done, **values})
        if self._events is not None:
            curves = {f"{self._phase}/{name}": value for name, value in values.items()}
            curves["seconds"] = sum(self._seconds_so_far().values())
            self._events.scalars(self._before + done, {**curves, **rates})
        if self._skipped >= MAX_SKIPPED:
            raise UserError(
                f"training diverged: loss or gradients not finite at step {done} of {self._phase}; the last "
                f"checkpoint in {self.folder.path} is kept: try another --seed"
            )
