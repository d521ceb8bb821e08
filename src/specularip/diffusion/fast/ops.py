"""Memory-bound operations of a Stable Diffusion network, each in as few passes over its data as possible.

All operate on features [B,H,W,C], contiguous: the layout that tensor cores read, with no transposes in
between. Convolutions are cuDNN's; the operations between two of them (bias, residual, time embedding, group
norm, SiLU) are here: on CUDA by the Triton kernels of `triton_ops`, elsewhere by plain torch.

Group norm takes three steps. `join` writes a sum or a concatenation and accumulates each channel's sum and
sum of squares on the way. `coefficients` turns those sums into a scale and an offset for every channel: a
constant added to a channel (a convolution's bias, a time embedding) is folded into them and never written.
`normalize` applies them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from specularip.diffusion.attention import for_branches, plain_attention
from specularip.diffusion.fast.features import Features, Norm, Part

USE_TRITON = True
"""False: plain torch on CUDA too, for comparison."""


def uses_triton(x: Tensor) -> bool:
    """Whether the operations on `x` run as Triton kernels."""
    return USE_TRITON and x.is_cuda


def _kernels() -> Any:
    # Imported late: only torch's CUDA builds come with Triton.
    from specularip.diffusion.fast import triton_ops

    return triton_ops


def join(parts: list[Part], *, sums: bool = True) -> Features:
    """The parts, concatenated along the channels, [B,H,W,C], B the largest number of images of a part.

    A single part that adds nothing is not copied.
    """
    if uses_triton(parts[0].x):
        return Features(*_kernels().join(parts, sums))
    images = max(len(t) for part in parts for t in (part.x, part.other) if t is not None)
    made = []
    for part in parts:
        value = for_branches(part.x, images)
        if part.other is not None:
            value = value + for_branches(part.other, images)
        made.append(value if part.bias is None else (value + part.bias).to(value.dtype))
    x = made[0] if len(made) == 1 else torch.cat(made, -1)
    if not sums:
        return Features(x)
    wide = x.float()
    return Features(x, torch.stack([wide.sum((1, 2)), wide.square().sum((1, 2))], 1)[:, None])


def coefficients(
    features: Features, weight: Tensor, bias: Tensor, groups: int, eps: float, shift: Tensor | None = None
) -> Norm:
    """Group norm of features + shift. weight, bias [C]; shift [C] or [b,C]."""
    if features.sums is None:
        features = join([Part(features.x)])
    x, sums = features.x, features.sums
    if sums is None:
        raise AssertionError("join computes sums")
    if shift is not None and shift.ndim == 1:
        shift = shift[None]
    pixels = x.shape[1] * x.shape[2]
    if uses_triton(x):
        return Norm(_kernels().coefficients(sums, pixels, weight, bias, groups, eps, shift), weight, groups)
    first, second = sums.sum(1).unbind(1)
    moved = torch.zeros_like(first) if shift is None else for_branches(shift, len(x)).float()
    total = first + pixels * moved
    squares = second + 2 * moved * first + pixels * moved.square()
    count = pixels * x.shape[-1] // groups
    mean = total.unflatten(1, (groups, -1)).sum(2) / count
    variance = squares.unflatten(1, (groups, -1)).sum(2) / count - mean.square()
    mean, rate = (
        t.repeat_interleave(x.shape[-1] // groups, 1) for t in (mean, (variance.clamp(min=0) + eps).rsqrt())
    )
    scale = rate * weight
    return Norm(torch.stack([scale, bias + (moved - mean) * scale, mean - moved, rate]), weight, groups)


def normalize(x: Tensor, norm: Norm, *, silu: bool = True) -> Tensor:
    """x·scale + offset, then SiLU."""
    if uses_triton(x):
        return _kernels().normalize(x, norm.values, silu)
    scale, offset = norm.values[:2, :, None, None]
    value = x.float() * scale + offset
    return (F.silu(value) if silu else value).to(x.dtype)


def normalize_backward(
    x: Tensor, grad: Tensor, norm: Norm, *, silu: bool = True, residual: Tensor | None = None
) -> Tensor:
    """Gradient on x of `normalize` (statistics included) for `grad` on its result, plus `residual`."""
    if uses_triton(x):
        return _kernels().normalize_backward(x, grad, norm.values, norm.weight, norm.groups, silu, residual)
    scale, offset, centre, rate = norm.values[:, :, None, None]
    wide, inner = x.float(), grad.float()
    if silu:
        value = wide * scale + offset
        gate = torch.sigmoid(value)
        inner = inner * gate * (1 + value * (1 - gate))
    unit = (wide - centre) * rate

    def mean(t: Tensor) -> Tensor:
        return (
            t.unflatten(-1, (norm.groups, -1))
            .mean((1, 2, 4), keepdim=True)
            .expand(-1, -1, -1, -1, t.shape[-1] // norm.groups)
            .flatten(3)
        )

    weighted = inner * norm.weight
    out = rate * (weighted - mean(weighted) - unit * mean(weighted * unit))
    return (out if residual is None else out + residual.float()).to(x.dtype)


def add_layer_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x + delta and its layer norm, both [B,T,C]. x may have fewer images b (image i reads i mod b)."""
    if uses_triton(x):
        return _kernels().add_layer_norm(x, delta, weight, bias, eps)
    total = x if delta is None else for_branches(x, len(delta)) + delta
    return total, F.layer_norm(total, total.shape[-1:], weight, bias, eps)


def geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GEGLU of x [...,D], [...,C]: half the channels of a linear layer times the GELU of the other half.

    weight [2C,D], bias [2C]; Shazeer, GLU variants improve transformer, 2020.
    """
    if uses_triton(x) and x.dtype != torch.float32:
        return _kernels().geglu(x, weight, bias)
    value, gate = F.linear(x, weight, bias).chunk(2, -1)
    return value * F.gelu(gate)


def cross_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    face_key: Tensor | None = None,
    face_value: Tensor | None = None,
    face_scale: Tensor | None = None,
) -> Tensor:
    """Attention over text tokens plus `face_scale` [B] times attention over identity tokens, [B,T,C].

    query [b,T,C] (image i reads i mod b); key, value [B,S,C] and face_key, face_value [B,n,C] may be slices
    of wider tensors.
    """
    if uses_triton(query):
        return _kernels().cross_attention(query, key, value, heads, face_key, face_value, face_scale)
    query = for_branches(query, len(key))
    out = plain_attention(query, key, value, heads)
    if face_key is not None and face_value is not None and face_scale is not None:
        face = plain_attention(query, face_key, face_value, heads)
        out = out + face_scale.to(out.dtype)[:, None, None] * face
    return out


def softmax(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Softmax of float32 scores [...,S] over the last axis, in `dtype`."""
    return _kernels().softmax(scores, dtype) if uses_triton(scores) else torch.softmax(scores, -1).to(dtype)


def softmax_backward(probabilities: Tensor, grad: Tensor, scale: float) -> Tensor:
    """scale · P(dP − Σ P·dP): gradient of a softmax on scores/scale for the gradient dP on its result P."""
    if uses_triton(grad):
        return _kernels().softmax_backward(probabilities, grad, scale)
    product = probabilities.float() * grad.float()
    return (scale * (product - probabilities.float() * product.sum(-1, keepdim=True))).to(grad.dtype)


def bias_silu(bias: Tensor) -> Norm:
    """The norm with which `normalize` computes SiLU of x + bias [C]."""
    bias = bias.float()
    ones, zeros = torch.ones_like(bias), torch.zeros_like(bias)
    return Norm(torch.stack([ones, bias, zeros, ones])[:, None].contiguous(), ones, 1)


def patches(x: Tensor, width: int, gain: float, offset: float, dtype: torch.dtype) -> Tensor:
    """im2col: 3x3 patches of x·gain + offset, zero-padded: [B,C,H,W] -> [B,H,W,width], width >= 9C.

    Channel 9c+k is tap k of channel c, the order of a convolution's weights; the rest is zero.
    """
    if uses_triton(x):
        return _kernels().patches(x, width, gain, offset, dtype)
    columns = F.unfold(x.float() * gain + offset, 3, padding=1).mT
    return F.pad(columns, (0, width - columns.shape[-1])).unflatten(1, x.shape[2:]).to(dtype)


def patches_backward(grad: Tensor, channels: int) -> Tensor:
    """Gradient on x of `patches` with gain 1, [B,H,W,width] -> [B,C,H,W] float32."""
    if uses_triton(grad):
        return _kernels().patches_backward(grad, channels)
    return F.fold(grad.float()[..., : 9 * channels].flatten(1, 2).mT, grad.shape[1:3], 3, padding=1)


def spread(x: Tensor, height: int, width: int, step: int, bias: Tensor | None = None) -> Tensor:
    """Channels to pixels (a pixel shuffle): [B,H',W',4C] -> [B,2·height,2·width,C], plus bias [C].

    Pixel (2i+r, 2j+s) is channel range 2r+s at (i + r·step, j + s·step).
    """
    if uses_triton(x):
        return _kernels().spread(x, height, width, step, bias)
    kinds = x.unflatten(-1, (2, 2, -1))
    out = x.new_empty(len(x), height, 2, width, 2, kinds.shape[-1])
    for row in range(2):
        for column in range(2):
            down, across = row * step, column * step
            part = kinds[:, down : down + height, across : across + width, row, column]
            out[:, :, row, :, column] = part if bias is None else part + bias
    return out.view(len(x), 2 * height, 2 * width, -1)
