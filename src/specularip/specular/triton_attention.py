"""`attention.look` as one kernel forward and one backward. Importing this module needs Triton."""
# In kernels, tl's operators carry the types, not the annotations.
# mypy: disable-error-code="operator, assignment, no-untyped-def"

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from specularip.specular.triton_launch import launch

BLOCK = 32
"""Gaussians of a program, which is one warp: every lane has its own."""


def look_triton(seen: Tensor) -> Tensor:
    """See `attention.look`; float32 on CUDA. Gradients cannot be differentiated again."""
    if torch.is_grad_enabled() and seen.requires_grad:
        return _Look.apply(seen)
    return _run(_forward, seen.contiguous())


class _Look(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, seen: Tensor) -> Tensor:
        seen = seen.contiguous()
        ctx.save_for_backward(seen)
        return _run(_forward, seen)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _run(_backward, ctx.saved_tensors[0], grad.contiguous())


def _run(kernel: Any, seen: Tensor, grad: Tensor | None = None) -> Tensor:
    """The answers [5,W,N], or, for their gradient, that of `seen`."""
    tokens, _, width, n = seen.shape
    result = seen.new_empty(tokens, width, n) if grad is None else torch.empty_like(seen)
    if n:
        inputs = (seen,) if grad is None else (seen, grad)
        constants = (tokens, width, triton.next_power_of_2(width), BLOCK)
        launch(kernel, (-(-n // BLOCK), 1, 1), (*inputs, result, n, 1 / math.sqrt(width)), constants)
    return result


@triton.jit
def _rows(pointer, part, n, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Where the numbers [W, Gaussian] of a token's `part` lie, and which there are."""
    row = tl.arange(0, ROWS)[:, None]
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None]
    return pointer + (part * WIDTH + row).to(tl.int64) * n + i, (row < WIDTH) & (i < n)


@triton.jit
def _load(pointer, part, n, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    at, live = _rows(pointer, part, n, WIDTH, ROWS, BLOCK)
    return tl.load(at, mask=live, other=0.0)


@triton.jit
def _store(pointer, part, numbers, n, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    at, live = _rows(pointer, part, n, WIDTH, ROWS, BLOCK)
    tl.store(at, numbers, mask=live)


@triton.jit
def _dot(a, b):
    return tl.sum(a * b, 0)[None]


@triton.jit(do_not_specialize=list(range(4)))
def _forward(
    seen, answers, n, scale,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    query = _load(seen, 1, n, WIDTH, ROWS, BLOCK)
    key = _load(seen, 2, n, WIDTH, ROWS, BLOCK)
    value = _load(seen, 3, n, WIDTH, ROWS, BLOCK)
    # A softmax in one pass: it starts from the token itself, and is scaled down where a larger score comes.
    largest = scale * _dot(query, key)
    total = tl.full([1, BLOCK], 1.0, tl.float32)
    mixed = value
    for j in tl.static_range(1, TOKENS):
        own_query = _load(seen, 4 * j + 1, n, WIDTH, ROWS, BLOCK)
        own_key = _load(seen, 4 * j + 2, n, WIDTH, ROWS, BLOCK)
        own_value = _load(seen, 4 * j + 3, n, WIDTH, ROWS, BLOCK)
        share = tl.sigmoid(scale * _dot(own_query, key - own_key))
        answer = _load(seen, 4 * j, n, WIDTH, ROWS, BLOCK) + own_value + share * (value - own_value)
        _store(answers, j, answer, n, WIDTH, ROWS, BLOCK)
        score = scale * _dot(query, own_key)
        larger = tl.maximum(largest, score)
        keep, weight = tl.exp(largest - larger), tl.exp(score - larger)
        total, mixed, largest = total * keep + weight, mixed * keep + weight * own_value, larger
    _store(answers, 0, _load(seen, 0, n, WIDTH, ROWS, BLOCK) + mixed / total, n, WIDTH, ROWS, BLOCK)


@triton.jit(do_not_specialize=list(range(5)))
def _backward(
    seen, grads, result, n, scale,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    query = _load(seen, 1, n, WIDTH, ROWS, BLOCK)
    key = _load(seen, 2, n, WIDTH, ROWS, BLOCK)
    value = _load(seen, 3, n, WIDTH, ROWS, BLOCK)
    grad = _load(grads, 0, n, WIDTH, ROWS, BLOCK)
    _store(result, 0, grad, n, WIDTH, ROWS, BLOCK)
    # The diffuse token's softmax again: its largest score and sum, and the mean of what its weights receive.
    largest = scale * _dot(query, key)
    for j in tl.static_range(1, TOKENS):
        own_key = _load(seen, 4 * j + 2, n, WIDTH, ROWS, BLOCK)
        largest = tl.maximum(largest, scale * _dot(query, own_key))
    weight = tl.exp(scale * _dot(query, key) - largest)
    received = _dot(grad, value)
    total, mean = weight, weight * received
    for j in tl.static_range(1, TOKENS):
        own_key = _load(seen, 4 * j + 2, n, WIDTH, ROWS, BLOCK)
        own_value = _load(seen, 4 * j + 3, n, WIDTH, ROWS, BLOCK)
        own_weight = tl.exp(scale * _dot(query, own_key) - largest)
        total += own_weight
        mean += own_weight * _dot(grad, own_value)
    mean /= total
    weight /= total
    g_score = scale * weight * (received - mean)
    g_query, g_key, g_value = g_score * key, g_score * query, weight * grad
    for j in tl.static_range(1, TOKENS):
        own_query = _load(seen, 4 * j + 1, n, WIDTH, ROWS, BLOCK)
        own_key = _load(seen, 4 * j + 2, n, WIDTH, ROWS, BLOCK)
        own_value = _load(seen, 4 * j + 3, n, WIDTH, ROWS, BLOCK)
        own_grad = _load(grads, j, n, WIDTH, ROWS, BLOCK)
        weight = tl.exp(scale * _dot(query, own_key) - largest) / total
        g_score = scale * weight * (_dot(grad, own_value) - mean)
        g_query += g_score * own_key
        share = tl.sigmoid(scale * _dot(own_query, key - own_key))
        g_share = scale * share * (1.0 - share) * _dot(own_grad, value - own_value)
        g_key += g_share * own_query
        g_value += share * own_grad
        _store(result, 4 * j, own_grad, n, WIDTH, ROWS, BLOCK)
        _store(result, 4 * j + 1, g_share * (key - own_key), n, WIDTH, ROWS, BLOCK)
        _store(result, 4 * j + 2, g_score * query - g_share * own_query, n, WIDTH, ROWS, BLOCK)
        _store(result, 4 * j + 3, weight * grad + (1.0 - share) * own_grad, n, WIDTH, ROWS, BLOCK)
    _store(result, 1, g_query, n, WIDTH, ROWS, BLOCK)
    _store(result, 2, g_key, n, WIDTH, ROWS, BLOCK)
    _store(result, 3, g_value, n, WIDTH, ROWS, BLOCK)
