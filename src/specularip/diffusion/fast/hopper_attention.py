"""Attention with heads of width 40, as in Stable Diffusion 1's layers of highest resolution, on Hopper GPUs.

    out = softmax(q kᵀ / √40) v

Libraries have kernels for powers of two: they pad 40 to 64 channels and waste the products. And on Hopper the
exponentials of the softmax take as long as the products. `hopper_attention.cu` pads to 48 and uses the extra
eight: the products themselves subtract a reference from the scores and sum the weights, so that a score costs
only one 2^x and the rounding to half precision.

A row's reference need not be its maximum. It is set near that of the first 64 keys, and updated together with
the accumulators only when a weight reaches 2, so no running maximum is needed either. The costs in precision:
q·log2(e)/√40 is rounded to half precision, an error about as large as that of q itself; weights, in half
precision as in other kernels, start from 1/16 instead of 1, so that those below 2^-10 of a row's largest have
fewer bits and those below 2^-21 vanish; and scores must stay below 65,504 / log2(e).

Compiled at run time, in a quarter of a second, by NVRTC through `cuda.bindings`, a dependency of PyTorch
2.10.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

_log = logging.getLogger("specularip")
WIDTH = 40
KEYS = 64
"""The number of keys must be a multiple of this."""
QUERIES, THREADS, SHARED = 256, 640, 6 * (2 * 6144 + 16)
"""Of a block, as in hopper_attention.cu: queries, threads, bytes of shared memory."""


def suits(query: Tensor, key: Tensor, value: Tensor, heads: int) -> bool:
    """Whether `attention` supports these inputs on their device."""
    tensors = (query, key, value)
    return (
        query.is_cuda
        and query.shape[-1] == heads * WIDTH
        and key.shape == value.shape == (len(query), key.shape[1], query.shape[2])
        and key.shape[1] % KEYS == 0
        and min(query.numel(), key.numel()) > 0
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        and all(t.dtype == torch.float16 and t.stride(2) == 1 for t in tensors)
        # Loads are 16 bytes wide.
        and all(t.stride(0) % 8 == t.stride(1) % 8 == t.data_ptr() % 16 == 0 for t in tensors)
        and all(t.stride(0) < 2**31 and KEYS * t.stride(1) < 2**31 for t in tensors)
        and _kernel(query.device.index) is not None
    )


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """query [B,T,40·heads], key and value [B,S,40·heads] float16, S a multiple of 64 -> [B,T,40·heads]."""
    from cuda.bindings import driver

    images, queries, keys = *query.shape[:2], key.shape[1]
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    values: list[Any] = [t.data_ptr() for t in (query, key, value, out)]
    values += [queries, keys]
    values += [t.stride(1) for t in (query, key, value)] + [t.stride(0) for t in (query, key, value)]
    values.append(math.log2(math.e) / math.sqrt(WIDTH))
    kinds = [ctypes.c_void_p] * 4 + [ctypes.c_int] * 8 + [ctypes.c_float]
    with torch.cuda.device(query.device):
        stream = torch.cuda.current_stream().cuda_stream
        grid = (-(-queries // QUERIES), heads, images)
        _checked(driver.cuLaunchKernel(_kernel(query.device.index), *grid, THREADS, 1, 1, SHARED, stream,
                                    (tuple(values), tuple(kinds)), 0))  # fmt: skip
    return out


@functools.cache
def _kernel(device: int) -> Any:
    """The compiled kernel for a device, None where it is unavailable."""
    if torch.cuda.get_device_capability(device) != (9, 0):
        return None
    try:
        from cuda.bindings import driver

        with torch.cuda.device(device):
            module = _checked(driver.cuModuleLoadData(_compiled()))
            kernel = _checked(driver.cuModuleGetFunction(module, b"attention"))
            limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _checked(driver.cuFuncSetAttribute(kernel, limit, SHARED))
            return kernel
    except ImportError:
        _log.warning("falling back to the slower library attention: pip install cuda-bindings")
    except (RuntimeError, OSError) as error:
        _log.warning("falling back to the slower library attention: %s", error)
    return None


@functools.cache
def _compiled() -> bytes:
    from cuda.bindings import nvrtc

    source = files(__package__).joinpath("hopper_attention.cu").read_bytes()
    program = _checked(nvrtc.nvrtcCreateProgram(source, b"hopper_attention.cu", 0, [], []))
    status = nvrtc.nvrtcCompileProgram(program, 1, [b"--gpu-architecture=sm_90a"])
    if status[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        text = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
        _checked(nvrtc.nvrtcGetProgramLog(program, text))
        raise RuntimeError(text.decode(errors="replace").strip())
    code = bytearray(_checked(nvrtc.nvrtcGetCUBINSize(program)))
    _checked(nvrtc.nvrtcGetCUBIN(program, code))
    return bytes(code)


def _checked(answer: tuple[Any, ...]) -> Any:
    """The result of a (status, result) of cuda.bindings. Raises RuntimeError for an error status."""
    status, *results = answer
    if status != 0:
        raise RuntimeError(str(status))
    return results[0] if results else None
