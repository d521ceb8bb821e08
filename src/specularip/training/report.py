"""The part of report.json that describes the machine and the libraries."""

from __future__ import annotations

import platform
import sys
from collections import deque
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from specularip.errors import DamagedFile
from specularip.json_reading import parse_object
from specularip.version import __version__

LAST_STEPS = 20
"""Steps whose metrics are averaged for the report: those of a single one depend on the views it drew."""
LIBRARIES = ("torch", "diffusers", "transformers", "numba", "numpy", "scikit-image")


def machine_report(device: torch.device) -> dict[str, Any]:
    """Peak memory in GiB (None where unavailable), device, threads, versions."""
    host, gpu = peak_memory_gib(), peak_gpu_gib(device)
    return {
        "peak_memory_gib": None if host is None else round(host, 3),
        "peak_gpu_gib": gpu,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def last_metrics(path: Path) -> dict[str, dict[str, float]]:
    """The means of each stage's metrics over its last LAST_STEPS steps, from metrics.jsonl: it holds the
    steps before a resumed run as well. {} if there is no such file; a line that a power cut damaged does not
    count."""
    stages: dict[str, deque[dict[str, Any]]] = {}
    if path.is_file():
        with path.open("rb") as lines:
            for line in lines:
                try:
                    entries = parse_object(line)
                    stage, _ = str(entries.pop("stage")), entries.pop("step")
                except (DamagedFile, KeyError):
                    continue
                stages.setdefault(stage, deque(maxlen=LAST_STEPS)).append(entries)
    means: dict[str, dict[str, float]] = {}
    for stage, steps in stages.items():
        # Without those that were not finite, which are null.
        means[stage] = {}
        for name in sorted({name for step in steps for name in step}):
            if values := [step[name] for step in steps if isinstance(step.get(name), int | float)]:
                means[stage][name] = fmean(values)
    return means


def peak_memory_gib() -> float | None:
    """Peak resident memory of this process; None on Windows, whose Python has no `resource` module."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes on macOS, KiB on Linux


def peak_gpu_gib(device: torch.device) -> float | None:
    """Peak memory of all tensors on a GPU since the process started; None for other devices."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def versions() -> dict[str, str]:
    """Versions of this package, Python, the platform and the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "specularip": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **found,
    }
