"""TensorBoard's event files of a run, read with TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from specularip.run_folder import EVENTS


def read_events(run: Path) -> Any:
    """An EventAccumulator of all events in the folder of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    everything = {"scalars": 0, "images": 0, "tensors": 0}
    found = EventAccumulator(str(run / EVENTS), size_guidance=everything)
    found.Reload()
    return found


def steps(found: Any, tag: str) -> list[int]:
    """The steps of a curve, in the order of the files."""
    return [scalar.step for scalar in found.Scalars(tag)]
