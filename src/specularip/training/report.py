"""What every run's report says about the machine and the libraries, and settings as JSON has them."""

from __future__ import annotations

import platform
import resource
import sys
from importlib import metadata
from typing import Any

import torch

from specularip.version import __version__

LIBRARIES = ("torch", "diffusers", "transformers", "numba", "numpy", "scikit-image")


def peak_memory_gib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def peak_gpu_gib(device: torch.device) -> float | None:
    """What tensors took at most of a GPU's memory, since the process started; None for other devices."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def versions() -> dict[str, str]:
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


def plain(value: Any) -> Any:
    """Settings as JSON gives them back, so that they compare equal after a round trip."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value
