"""Attention in heads of 40 numbers, the widest layers of Stable Diffusion 1, on Hopper GPUs.

    out = softmax(q kᵀ / √40) v

Libraries have kernels for powers of two: they pad 40 to 64 and do products for nothing. And on Hopper the 2^x
of the softmax take as long as the products. `hopper_attention.cu` multiplies 48 numbers, and uses the eight
more: the products themselves subtract a reference from the scores and add up the weights, so that no more is
left to do for a score than 2^x and rounding to half precision.

A row's reference need not be its maximum. It is set near that of the first 64 keys, and moved, together with
what has been added up, only where a weight has become 2 or more. So no maximum is searched for either. The
price: q·log2(e)/√40 is rounded to half precision, which costs about as much as q's own rounding did; weights,
in half precision as in other kernels, start from 1/16 and not from 1, so that below 2^-10 of a row's largest
they have fewer bits, and below 2^-21 none; and scores must stay below 65,504 / log2(e).

Compiled at run time, in a quarter of a second, by NVRTC through `cuda.bindings`, which PyTorch 2.10 brings.
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
"""A multiple of these is expected."""
QUERIES, THREADS, SHARED = 256, 640, 6 * (2 * 6144 + 16)
"""Of a block: queries, threads, bytes of shared memory, as hopper_attention.cu has them."""


def suits(query: Tensor, key: Tensor, value: Tensor, heads: int) -> bool:
    """Whether `attention` can compute this."""
    tensors = (query, key, value)
    return (
        query.is_cuda
        and query.shape[-1] == heads * WIDTH
        and key.shape == value.shape == (len(query), key.shape[1], query.shape[2])
        and key.shape[1] % KEYS == 0
        and min(query.numel(), key.numel()) > 0
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        and all(t.dtype == torch.float16 and t.stride(2) == 1 for t in tensors)
        # Read 16 bytes at a time.
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
        _done(driver.cuLaunchKernel(_kernel(query.device.index), *grid, THREADS, 1, 1, SHARED, stream,
                                    (tuple(values), tuple(kinds)), 0))  # fmt: skip
    return out


@functools.cache
def _kernel(device: int) -> Any:
    """The compiled kernel on a device, None where there is none."""
    if torch.cuda.get_device_capability(device) != (9, 0):
        return None
    try:
        from cuda.bindings import driver

        with torch.cuda.device(device):
            module = _done(driver.cuModuleLoadData(_compiled()))
            kernel = _done(driver.cuModuleGetFunction(module, b"attention"))
            limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _done(driver.cuFuncSetAttribute(kernel, limit, SHARED))
            return kernel
    except ImportError:
        _log.warning("attention is left to the library, which is slower: pip install cuda-bindings")
    except (RuntimeError, OSError) as error:
        _log.warning("attention is left to the library, which is slower: %s", error)
    return None


@functools.cache
def _compiled() -> bytes:
    from cuda.bindings import nvrtc

    source = files(__package__).joinpath("hopper_attention.cu").read_bytes()
    program = _done(nvrtc.nvrtcCreateProgram(source, b"hopper_attention.cu", 0, [], []))
    status = nvrtc.nvrtcCompileProgram(program, 1, [b"--gpu-architecture=sm_90a"])
    if status[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        text = bytearray(_done(nvrtc.nvrtcGetProgramLogSize(program)))
        _done(nvrtc.nvrtcGetProgramLog(program, text))
        raise RuntimeError(text.decode(errors="replace").strip())
    code = bytearray(_done(nvrtc.nvrtcGetCUBINSize(program)))
    _done(nvrtc.nvrtcGetCUBIN(program, code))
    return bytes(code)


def _done(answer: tuple[Any, ...]) -> Any:
    """The result in cuda.bindings' (status, result); RuntimeError if the status tells of an error."""
    status, *results = answer
    if status != 0:
        raise RuntimeError(str(status))
    return results[0] if results else None
