"""Several processes, one avatar: each renders and distils its share of a step's views; gradients are
averaged.

Every process holds the same Gaussians and draws the same random numbers for all views. After the average its
Adam takes the same step, so that the copies stay equal without ever being sent. Start it with

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

PATIENCE = timedelta(minutes=30)
"""How long processes wait for each other: the first one also writes previews, checkpoints and the avatar."""


@dataclass(frozen=True)
class Team:
    """This process' place among `size`. rank 0 leads: it alone writes files and shows progress."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of `count` views are this process'. Raises UserError if they do not divide evenly."""
        if count % self.size:
            raise UserError(
                f"{count} views a step do not divide between {self.size} processes: "
                f"use --set seid.views_per_step={self.size * -(-count // self.size)} and the same for scr"
            )
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors by their mean over all processes, in place, by one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view_as(tensor))

    def follow(self, tensor: Tensor) -> Tensor:
        """The leader's `tensor`, in place."""
        if self.size > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says so; a decision that all must take alike."""
        if self.size == 1:
            return flag
        said = torch.tensor(float(flag), device=device)
        dist.all_reduce(said)
        return bool(said)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


ALONE = Team()


def join(kind: str) -> tuple[Team, torch.device]:
    """This process' team, as torchrun's environment describes it, and its device of `kind` ("cpu" or "cuda").

    Processes talk through NCCL on GPUs, one GPU each, through gloo on CPUs. Raises UserError where there are
    more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE, torch.device(kind)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local + 1} on this machine finds {torch.cuda.device_count()} GPUs: "
                "use --nproc-per-node with as many processes as GPUs"
            )
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE, device_id=device if kind == "cuda" else None)
    return Team(dist.get_rank(), size), device
