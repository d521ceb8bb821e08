"""Starting a Triton kernel without asking again what is known: Triton takes longer to look at the arguments
than our kernels take to run. Importing this module needs Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton

_DIRECT = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 3)
"""Whether compiled kernels take all arguments, constants too, as they do since then."""
_compiled: dict[tuple[Any, ...], Any] = {}


def launch(
    kernel: Any, grid: tuple[int, int, int], arguments: tuple[Any, ...], constants: tuple[Any, ...]
) -> None:
    """`kernel[grid](*arguments, *constants)` on the device of arguments[0], one warp a program.

    What the first call compiles serves all later ones with these constants: the arguments must keep their
    types, and the kernel must not be specialised in any of them (`triton.jit(do_not_specialize=...)`).
    """
    device = arguments[0].get_device()
    if device >= 0 and device != torch.cuda.current_device():  # Triton launches on the current one
        with torch.cuda.device(device):
            return launch(kernel, grid, arguments, constants)
    key = (kernel.fn, device, constants)
    compiled = _compiled.get(key)
    if compiled is None:
        compiled = kernel[grid](*arguments, *constants, num_warps=1)
        if _DIRECT and compiled is not None:  # interpreted kernels are None
            _compiled[key] = compiled
    else:
        compiled[grid](*arguments, *constants)
