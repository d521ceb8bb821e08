"""Whether this machine can do a run, told before anything is loaded."""

from __future__ import annotations

import torch

from specularip.errors import UserError
from specularip.stages.settings import Config

FULL_GIB, LOW_GIB = 15.0, 11.0
"""What the sd15 preset takes of a GPU's memory at most, and with --low-memory."""


def check_gpu(config: Config) -> None:
    """Raise UserError, saying what would do, where the run wants a GPU and there is none."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--preset {config.preset} needs an NVIDIA GPU with 16 GB of memory (12 with --low-memory), and "
            "PyTorch finds none here: --preset compact needs no GPU"
        )


def check_memory(config: Config, device: torch.device) -> None:
    """Raise UserError, saying what would fit, where too little memory is free for the sd15 prior."""
    if device.type != "cuda" or config.prior.path != "sd15":
        return
    free, _ = torch.cuda.mem_get_info(device)
    told = memory_problem(free / 2**30, torch.cuda.get_device_name(device), config.low_memory)
    if told:
        raise UserError(told)


def memory_problem(free_gib: float, gpu: str, low_memory: bool) -> str:
    """What to tell of a GPU with so much free memory; "" if it is enough."""
    needed = LOW_GIB if low_memory else FULL_GIB
    if free_gib >= needed:
        return ""
    told = f"{gpu} has {free_gib:.1f} GiB free, --preset sd15 needs {needed:.1f}"
    if low_memory:
        return f"{told} with --low-memory: end other programs on it, use another GPU, or --preset compact"
    if free_gib >= LOW_GIB:
        return f"{told}: add --low-memory, which needs {LOW_GIB:.1f}"
    return f"{told} and {LOW_GIB:.1f} with --low-memory: end other programs on it, or use --preset compact"
