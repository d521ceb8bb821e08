"""CUDA streams: independent functions run side by side, each filling gaps of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

_SIDE_STREAMS: dict[tuple[int, int, int], torch.cuda.Stream] = {}
"""By device, handle of the stream they branch off (0 for the default stream of every device), and number.

They are reused, because the allocator keeps a cache of memory for every stream.
"""


def run_on_streams(functions: list[Callable[[], T]]) -> list[T]:
    """The results of independent functions.

    On CUDA the first runs on the current stream, and each of the others on a side stream that branches off it
    and joins it again.

    Tensors that the functions share must outlive the call, which only launches kernels: keep them in the
    caller's variables.
    """
    if len(functions) == 1 or not torch.cuda.is_available():
        return [function() for function in functions]
    current = torch.cuda.current_stream()
    sides = [side_stream(current, number) for number in range(1, len(functions))]
    results: dict[int, T] = {}
    for number, side in enumerate(sides, 1):
        side.wait_stream(current)
        with torch.cuda.stream(side):
            results[number] = functions[number]()
    results[0] = functions[0]()
    for side in sides:
        current.wait_stream(side)
    return [results[number] for number in range(len(functions))]


def side_stream(stream: torch.cuda.Stream, number: int) -> torch.cuda.Stream:
    """Side stream `number` of a stream, on its device; the same one every time."""
    key = stream.device.index, stream.cuda_stream, number
    if key not in _SIDE_STREAMS:
        _SIDE_STREAMS[key] = torch.cuda.Stream(stream.device)
    return _SIDE_STREAMS[key]
