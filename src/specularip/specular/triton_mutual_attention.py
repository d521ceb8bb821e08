"""`mutual_attention.attend` as one forward and one backward kernel: each lane processes one Gaussian, and all
read the same weights. Importing this module needs Triton."""
# In kernels, tl's operators determine the types, not the annotations.
# mypy: disable-error-code="operator, assignment, no-untyped-def"

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from specularip.kernels.launch import launch
from specularip.specular.shading import LATENTS
from specularip.specular.tokens import GROUPS, TOKENS, split_matmul, token_inputs

FORWARD_BLOCK, BACKWARD_BLOCK = 32, 32
"""Gaussians per program, which is one warp: one per lane."""

_TOKENS = tl.constexpr(TOKENS)
_COLUMNS = tl.constexpr(3 + LATENTS + 1)
_LATENTS = tl.constexpr(LATENTS)
_SHAPE, _REFLECTANCE, _VISIBILITY, _RESIDUAL = (tl.constexpr(size) for size in GROUPS)


def attend_triton(latents: Tensor, diffuse: Tensor, projection: Tensor) -> Tensor:
    """See `mutual_attention.attend`; float32 on CUDA. No second derivatives."""
    inputs = latents, diffuse, projection
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Attend.apply(*inputs)
    return _launch_forward(*(tensor.contiguous() for tensor in inputs))


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latents: Tensor, diffuse: Tensor, projection: Tensor) -> Tensor:
        inputs = [tensor.contiguous() for tensor in (latents, diffuse, projection)]
        ctx.save_for_backward(*inputs)
        return _launch_forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        latents, diffuse, projection = ctx.saved_tensors
        n, width, constants = _sizes(latents, projection, BACKWARD_BLOCK)
        g_latents, g_diffuse = torch.empty_like(latents), torch.empty_like(diffuse)
        g_projected = latents.new_empty(len(projection), n)
        if n:
            arguments = (
                latents, diffuse, projection, grad.contiguous(), g_latents, g_diffuse, g_projected, n,
                1 / math.sqrt(width),
            )  # fmt: skip
            launch(_backward, (-(-n // BACKWARD_BLOCK), 1, 1), arguments, constants)
        return g_latents, g_diffuse, split_matmul(g_projected, token_inputs(latents, diffuse))


def _launch_forward(latents: Tensor, diffuse: Tensor, projection: Tensor) -> Tensor:
    n, width, constants = _sizes(latents, projection, FORWARD_BLOCK)
    attended = latents.new_empty(TOKENS * width + 1, n)
    attended[-1] = 1
    if n:
        arguments = (latents, diffuse, projection, attended, n, 1 / math.sqrt(width))
        launch(_forward, (-(-n // FORWARD_BLOCK), 1, 1), arguments, constants)
    return attended


def _sizes(latents: Tensor, projection: Tensor, block: int) -> tuple[int, int, tuple[int, int, int]]:
    """The number of Gaussians, the token width, and the kernels' constants."""
    width = len(projection) // (4 * TOKENS)
    return len(latents), width, (width, triton.next_power_of_2(width), block)


@triton.jit
def _rows(pointer, part, n, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Pointers to the numbers [W, Gaussian] of a `part`, and their mask."""
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


@triton.jit
def _weights(largest, score):
    """One step of an online softmax: the factor for the weights so far, the new score's weight, and the new
    largest score."""
    # One exponential of one difference: in two, the compiler may fuse the score's product into each
    # subtraction, and so round it differently from its own maximum.
    fade = tl.exp(-tl.abs(score - largest))
    return (
        tl.where(score > largest, fade, 1.0),
        tl.where(score > largest, 1.0, fade),
        tl.maximum(score, largest),
    )


@triton.jit
def _column(projection, part, column, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """A column of a part's projection, [W,1], the same for all Gaussians."""
    row = tl.arange(0, ROWS)[:, None]
    return tl.load(projection + (part * WIDTH + row) * _COLUMNS + column, mask=row < WIDTH, other=0.0)


@triton.jit
def _inputs(latents, diffuse, j: tl.constexpr):
    """A token's inputs: a pointer to the first Gaussian's, the stride between Gaussians, their number, and
    their first column in the projection."""
    given, stride, count, first = latents, _LATENTS, _SHAPE, 0
    if j == 0:
        given, stride, count, first = diffuse, 3, 3, -3
    elif j == 2:
        count, first = _REFLECTANCE, _SHAPE
    elif j == 3:
        count, first = _VISIBILITY, _SHAPE + _REFLECTANCE
    elif j == 4:
        count, first = _RESIDUAL, _SHAPE + _REFLECTANCE + _VISIBILITY
    if j > 0:
        given += first
    return given, stride, count, 3 + first


@triton.jit
def _projected(
    latents, diffuse, projection, n, j: tl.constexpr, part: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Token j (part 0), its query, key or value (parts 1 to 3), [W, Gaussian]."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None]
    given, stride, count, column = _inputs(latents, diffuse, j)
    total = _column(projection, 4 * j + part, _COLUMNS - 1, WIDTH, ROWS) + tl.zeros([ROWS, BLOCK], tl.float32)
    for c in range(count):
        number = tl.load(given + i * stride + c, mask=i < n, other=0.0)
        total += _column(projection, 4 * j + part, column + c, WIDTH, ROWS) * number
    return total


@triton.jit(do_not_specialize=list(range(6)))
def _forward(
    latents, diffuse, projection, attended, n, scale,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    query = _projected(latents, diffuse, projection, n, 0, 1, WIDTH, ROWS, BLOCK)
    key = _projected(latents, diffuse, projection, n, 0, 2, WIDTH, ROWS, BLOCK)
    value = _projected(latents, diffuse, projection, n, 0, 3, WIDTH, ROWS, BLOCK)
    # Online softmax: starts from the diffuse token itself, and is rescaled at each larger score.
    largest = scale * _dot(query, key)
    total = tl.full([1, BLOCK], 1.0, tl.float32)
    mixed = value
    for j in tl.static_range(1, _TOKENS):
        own_query = _projected(latents, diffuse, projection, n, j, 1, WIDTH, ROWS, BLOCK)
        own_key = _projected(latents, diffuse, projection, n, j, 2, WIDTH, ROWS, BLOCK)
        own_value = _projected(latents, diffuse, projection, n, j, 3, WIDTH, ROWS, BLOCK)
        token = _projected(latents, diffuse, projection, n, j, 0, WIDTH, ROWS, BLOCK)
        share = tl.sigmoid(scale * _dot(own_query, key - own_key))
        _store(attended, j, token + own_value + share * (value - own_value), n, WIDTH, ROWS, BLOCK)
        keep, weight, largest = _weights(largest, scale * _dot(query, own_key))
        total, mixed = total * keep + weight, mixed * keep + weight * own_value
    token = _projected(latents, diffuse, projection, n, 0, 0, WIDTH, ROWS, BLOCK)
    _store(attended, 0, token + mixed / total, n, WIDTH, ROWS, BLOCK)


@triton.jit
def _token_backward(
    projection, g_latents, g_diffuse, g_projected, g_token, g_query, g_key, g_value, n,
    j: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Backpropagate the gradients of token j to its inputs, and store them for the projection's gradient."""
    _store(g_projected, 4 * j, g_token, n, WIDTH, ROWS, BLOCK)
    _store(g_projected, 4 * j + 1, g_query, n, WIDTH, ROWS, BLOCK)
    _store(g_projected, 4 * j + 2, g_key, n, WIDTH, ROWS, BLOCK)
    _store(g_projected, 4 * j + 3, g_value, n, WIDTH, ROWS, BLOCK)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None]
    given, stride, count, column = _inputs(g_latents, g_diffuse, j)
    for c in range(count):
        received = _column(projection, 4 * j, column + c, WIDTH, ROWS) * g_token
        received += _column(projection, 4 * j + 1, column + c, WIDTH, ROWS) * g_query
        received += _column(projection, 4 * j + 2, column + c, WIDTH, ROWS) * g_key
        received += _column(projection, 4 * j + 3, column + c, WIDTH, ROWS) * g_value
        tl.store(given + i * stride + c, tl.sum(received, 0)[None], mask=i < n)


@triton.jit(do_not_specialize=list(range(9)))
def _backward(
    latents, diffuse, projection, grads, g_latents, g_diffuse, g_projected, n, scale,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    query = _projected(latents, diffuse, projection, n, 0, 1, WIDTH, ROWS, BLOCK)
    key = _projected(latents, diffuse, projection, n, 0, 2, WIDTH, ROWS, BLOCK)
    value = _projected(latents, diffuse, projection, n, 0, 3, WIDTH, ROWS, BLOCK)
    grad = _load(grads, 0, n, WIDTH, ROWS, BLOCK)
    # Recompute the diffuse token's softmax: its largest score and sum, and the weighted mean of the gradients
    # of its weights.
    largest = scale * _dot(query, key)
    total = tl.full([1, BLOCK], 1.0, tl.float32)
    mean = _dot(grad, value)
    for j in tl.static_range(1, _TOKENS):
        own_key = _projected(latents, diffuse, projection, n, j, 2, WIDTH, ROWS, BLOCK)
        own_value = _projected(latents, diffuse, projection, n, j, 3, WIDTH, ROWS, BLOCK)
        keep, weight, largest = _weights(largest, scale * _dot(query, own_key))
        total, mean = total * keep + weight, mean * keep + weight * _dot(grad, own_value)
    mean /= total
    _, weight, _ = _weights(largest, scale * _dot(query, key))
    weight /= total
    g_score = scale * weight * (_dot(grad, value) - mean)
    g_query, g_key, g_value = g_score * key, g_score * query, weight * grad
    for j in tl.static_range(1, _TOKENS):
        own_query = _projected(latents, diffuse, projection, n, j, 1, WIDTH, ROWS, BLOCK)
        own_key = _projected(latents, diffuse, projection, n, j, 2, WIDTH, ROWS, BLOCK)
        own_value = _projected(latents, diffuse, projection, n, j, 3, WIDTH, ROWS, BLOCK)
        own_grad = _load(grads, j, n, WIDTH, ROWS, BLOCK)
        _, weight, _ = _weights(largest, scale * _dot(query, own_key))
        weight /= total
        g_score = scale * weight * (_dot(grad, own_value) - mean)
        g_query += g_score * own_key
        share = tl.sigmoid(scale * _dot(own_query, key - own_key))
        g_share = scale * share * (1.0 - share) * _dot(own_grad, value - own_value)
        g_key += g_share * own_query
        g_value += share * own_grad
        _token_backward(
            projection, g_latents, g_diffuse, g_projected,
            own_grad, g_share * (key - own_key), g_score * query - g_share * own_query,
            weight * grad + (1.0 - share) * own_grad, n, j, WIDTH, ROWS, BLOCK,
        )  # fmt: skip
    _token_backward(
        projection, g_latents, g_diffuse, g_projected,
        grad, g_query, g_key, g_value, n, 0, WIDTH, ROWS, BLOCK,
    )  # fmt: skip
