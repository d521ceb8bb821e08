"""Launching Triton kernels with little overhead: Triton's own launch inspects every argument, which takes
longer than our kernels run. Importing this module needs Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton

_DIRECT = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 3)
"""Since Triton 3.3 a compiled kernel takes all arguments, constexprs included, and can be launched
directly."""
_compiled: dict[tuple[Any, ...], Any] = {}


def launch(
    kernel: Any, grid: tuple[int, int, int], arguments: tuple[Any, ...], constants: tuple[Any, ...]
) -> None:
    """`kernel[grid](*arguments, *constants)` on the device of arguments[0], one warp per program.

    The first call compiles; later calls with the same constants reuse that binary unchecked. So arguments
    must keep their types, and the kernel must not specialise on any of them
    (`triton.jit(do_not_specialize=...)`).
    """
    device = arguments[0].get_device()
    if device >= 0 and device != torch.cuda.current_device():  # Triton launches on the current device
        with torch.cuda.device(device):
            return launch(kernel, grid, arguments, constants)
    key = (kernel.fn, device, constants)
    compiled = _compiled.get(key)
    if compiled is None:
        compiled = kernel[grid](*arguments, *constants, num_warps=1)
        if _DIRECT and compiled is not None:  # the interpreter returns None
            _compiled[key] = compiled
    else:
        compiled[grid](*arguments, *constants)
