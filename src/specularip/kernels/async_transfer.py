"""Asynchronous copies between host and device.

A plain `tensor.to("cuda")`, and every read of a number with `.item()`, block the host until the device has
finished all queued work. A training step that avoids both can be queued while the device still runs the step
before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor


def copy_async(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, through pinned memory and without blocking the host. Work queued on the current
    stream from now on sees the copy."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class StepMetrics(Mapping[str, float]):
    """Named numbers of a training step. Scalars on a GPU are copied to the host in the background; the first
    read of any of them waits for that copy."""

    def __init__(self, scalars: Mapping[str, Tensor | None], **known: float) -> None:
        """Scalars that are None are skipped. `known` numbers are on the host already."""
        self._names = [name for name, value in scalars.items() if value is not None]
        self._known = known
        packed = torch.stack([value.detach().float() for value in scalars.values() if value is not None])
        self._copied: torch.cuda.Event | None = None
        if packed.is_cuda:
            self._values = torch.empty(packed.shape, pin_memory=True)
            self._values.copy_(packed, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._values = packed

    @cached_property
    def _numbers(self) -> dict[str, float]:
        if self._copied is not None:
            self._copied.synchronize()
        return {**dict(zip(self._names, self._values.tolist())), **self._known}

    def __getitem__(self, name: str) -> float:
        return self._numbers[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._names, *self._known))

    def __len__(self) -> int:
        return len(self._names) + len(self._known)
