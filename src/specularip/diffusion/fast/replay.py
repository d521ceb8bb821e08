"""CUDA graphs: a function's kernels recorded once for each shape of its inputs, then started as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from specularip.kernels.cuda_graphs import gc_paused


class Recording:
    """One recorded call: `replay(*inputs)` computes `result` anew, in place.

    make: a function of tensors; what it returns stays where it is, so copy what must outlive the next
    replay. The tensors of `inputs` give shapes and types; None stays None. pool: memory that recordings
    share; they must never run at the same time.
    """

    def __init__(self, make: Callable[..., Any], inputs: tuple[Tensor | None, ...], pool: Any) -> None:
        self.inputs = tuple(None if t is None else t.detach().clone() for t in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.no_grad():
            # Kernels are compiled and convolutions tried out before anything is recorded.
            make(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local")
        with torch.no_grad(), gc_paused(), recording:
            self.result = make(*self.inputs)

    def replay(self, *inputs: Tensor | None) -> Any:
        for mine, given in zip(self.inputs, inputs):
            if mine is not None and given is not None:
                mine.copy_(given)
        self.graph.replay()
        return self.result


def signature(*inputs: Tensor | None) -> tuple[Any, ...]:
    """What a recording is for: shapes and types."""
    return tuple(None if t is None else (tuple(t.shape), t.dtype) for t in inputs)
