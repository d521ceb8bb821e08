"""Many small kernels started as one, where a step would wait for Python."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
"""A tensor, or several in a tuple."""


class GraphedFunction(Generic[Result]):
    """A function of tensors; on CUDA, once gradients are wanted, its kernels and those of its gradients are
    recorded in two CUDA graphs, and then only replayed. On a second device it is simply called.

    The function must do the same whatever the numbers are: no look at a value, no random numbers, no shape
    that depends on them. What it returns lies where the next call will write, as do the gradients: use them
    before, with one `backward` a call.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self.function = function
        self._recorded: Callable[..., Result] | None = None
        self._recorded_for: Any = None

    def __call__(self, *tensors: Tensor, **constants: Any) -> Result:
        """`function(*tensors, **constants)`; recorded anew for others of any kind but numbers."""
        wanted = [tensor.requires_grad for tensor in tensors]
        if not (tensors[0].is_cuda and torch.is_grad_enabled() and any(wanted)):
            return self.function(*tensors, **constants)
        kinds = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        parameters = [tensor.data_ptr() for tensor in tensors if _is_parameter(tensor)]
        described = (constants, wanted, kinds, parameters)
        if self._recorded is None or described != self._recorded_for:
            self._recorded = self._record(tensors, constants)
            self._recorded_for = described
        return self._recorded(*tensors)

    def _record(self, tensors: tuple[Tensor, ...], constants: dict[str, Any]) -> Callable[..., Result]:
        def function(*arguments: Tensor) -> Result:
            return self.function(*arguments, **constants)

        # torch has one stream to record on, which stays on the device that was the first to need it.
        stream = torch.cuda.graph.default_capture_stream
        here = torch.device("cuda", torch.cuda.current_device())
        if tensors[0].device != here or (stream is not None and stream.device != here):
            return function
        # Where the graphs will read. A parameter is changed in place, so that a second tensor over the same
        # memory needs no copy; not itself, for its node among the gradients belongs to the usual stream.
        places = tuple(
            (tensor.detach() if _is_parameter(tensor) else tensor.detach().clone())
            .requires_grad_(tensor.requires_grad)
            for tensor in tensors
        )  # fmt: skip
        with warnings.catch_warnings(), gc_paused():
            # torch tries the function on one stream and records it on another, and then warns of that.
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
            recorded: Any = torch.cuda.make_graphed_callables(function, places)
        return recorded


@contextmanager
def gc_paused() -> Iterator[None]:
    """While something is recorded, Python collects no garbage: letting go of what another recording held may
    call the driver, and that spoils this one."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _is_parameter(tensor: Tensor) -> bool:
    return tensor.is_leaf and tensor.requires_grad
