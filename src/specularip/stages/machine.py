"""Whether this machine can do a run, told before anything is loaded, and everything compiled beforehand."""

from __future__ import annotations

import torch

from .. import raster, specular
from ..config import Config
from ..errors import UserError
from ..raster import rasterize
from ..specular import LATENTS
from ..specular.fused import shade_fused

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


def warm_up(device: torch.device) -> None:
    """Compile or load the kernels of `device`, so that the first step does not count it into its ETA.

    Raises UserError where something that a GPU needs is not installed.
    """
    if device.type == "cpu":
        raster.warm_up()
        specular.warm_up()
        return
    one = torch.ones(1, device=device)
    up = torch.tensor([[0.0, 0.0, 1.0]], device=device, requires_grad=True)
    latents = torch.zeros(1, LATENTS, device=device, requires_grad=True)
    light = (up.detach(), one, up.detach(), torch.zeros(9, 3, device=device))
    colors = shade_fused(latents, up * 0.5, up, up * 0.0, up.detach() * 2.0, *light)
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=device)
    view = torch.eye(4, device=device)[None]
    focal = torch.tensor([[[16.0, 0.0, 8.0], [0.0, 16.0, 8.0], [0.0, 0.0, 1.0]]], device=device)
    drawn = rasterize(
        up * 2.0, quats, one[:, None].expand(1, 3) * 0.1, one * 0.9, colors, view, focal, 16, 16
    )
    drawn.image.sum().backward()
