"""Checks before anything is loaded that there is a GPU with enough free memory for the run."""

from __future__ import annotations

import torch

from specularip.errors import UserError
from specularip.stages.settings import Config

FULL_GIB, LOW_GIB = 15.0, 11.0
"""Peak GPU memory of the sd15 preset, and of the same with --low-memory."""


def check_gpu(config: Config) -> None:
    """Raise UserError if the run needs a GPU and there is none."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--preset {config.preset} needs an NVIDIA GPU with 16 GB of memory (12 with --low-memory), and "
            "PyTorch found none: --preset compact needs no GPU"
        )


def check_memory(config: Config, device: torch.device) -> None:
    """Raise UserError if too little GPU memory is free for the sd15 prior."""
    if device.type != "cuda" or config.prior.path != "sd15":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if problem := memory_problem(free / 2**30, torch.cuda.get_device_name(device), config.low_memory):
        raise UserError(problem)


def memory_problem(free_gib: float, gpu: str, low_memory: bool) -> str:
    """The error message for a GPU with this much free memory; "" if it is enough."""
    needed = LOW_GIB if low_memory else FULL_GIB
    if free_gib >= needed:
        return ""
    problem = f"{gpu} has {free_gib:.1f} GiB free, --preset sd15 needs {needed:.1f}"
    if low_memory:
        return (
            f"{problem} with --low-memory: end other programs on it, or use another GPU or --preset compact"
        )
    if free_gib >= LOW_GIB:
        return f"{problem}: add --low-memory, which needs {LOW_GIB:.1f}"
    return f"{problem} and {LOW_GIB:.1f} with --low-memory: end other programs on it, or use --preset compact"
