"""Data parallelism: several processes share a step's views and average their gradients.

Every rank holds the same Gaussians and draws the same random numbers for all views. After the all-reduce its
Adam takes the same step, so that the copies stay equal and parameters are never sent. Start with

    torchrun --nproc-per-node 2 -m specularip generate ... --preset sd15
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from specularip.errors import UserError

TIMEOUT = timedelta(minutes=30)
"""How long ranks wait for each other: rank 0 also writes previews, checkpoints and the avatar."""


@dataclass(frozen=True)
class Ranks:
    """This process among `world_size`. Only the main one, rank 0, writes files and shows progress."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def local_slice(self, count: int) -> slice:
        """Which of `count` views this rank renders. Raises UserError if they do not divide evenly."""
        size = self.world_size
        if count % size:
            raise UserError(
                f"{count} views per step do not divide between {size} processes: "
                f"use --set seid.views_per_step={size * -(-count // size)} and the same for scr"
            )
        each = count // size
        return slice(self.rank * each, (self.rank + 1) * each)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors by their mean over all ranks, in place, in one all-reduce."""
        if self.world_size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world_size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view_as(tensor))

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Overwrite `tensor` by rank 0's and return it."""
        if self.world_size > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` is set on any rank, so that all ranks decide alike."""
        if self.world_size == 1:
            return flag
        count = torch.tensor(float(flag), device=device)
        dist.all_reduce(count)
        return bool(count)

    def barrier(self) -> None:
        """Wait until all ranks have reached this call."""
        if self.world_size > 1:
            dist.barrier()


SINGLE_RANK = Ranks()


def init_ranks(device_type: str) -> tuple[Ranks, torch.device]:
    """This process' rank, from torchrun's environment, and its device of this type ("cpu" or "cuda").

    The backend is NCCL on GPUs, one GPU each, and gloo on CPUs. Raises UserError if there are more processes
    than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return SINGLE_RANK, torch.device(device_type)
    on_gpu, local = device_type == "cuda", int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if on_gpu else torch.device(device_type)
    if on_gpu:
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local + 1} on this machine found {torch.cuda.device_count()} GPUs: "
                "set --nproc-per-node to the number of GPUs"
            )
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=device if on_gpu else None)
    return Ranks(dist.get_rank(), size), device
