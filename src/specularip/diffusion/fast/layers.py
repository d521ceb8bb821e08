"""Layers that UNet, ControlNet and autoencoder share, on features [B,H,W,C], built from diffusers' modules.

They use the modules' weights in place (`pack` puts those of convolutions into channels-last order) and
compute what the modules compute, up to rounding, in fewer passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from specularip.diffusion.fast.features import Features, Norm, Part
from specularip.diffusion.fast.ops import (
    coefficients,
    join,
    normalize,
    normalize_backward,
    patches,
    patches_backward,
    spread,
)

Tape = list[Any]
"""Saved tensors for the backward pass of a network, one record a layer in forward order."""


@contextmanager
def fast_kernels() -> Iterator[None]:
    """Convolutions by cuDNN's heuristic, attention by cuDNN first.

    Letting cuDNN time its convolutions for every new shape took up to 15 s of a run and selected none faster.
    """
    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True)
    with flags, sdpa_kernel(order, set_priority=True):
        yield


def pack(network: nn.Module) -> None:
    """Reorder every convolution's weights to channels-last, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def concatenated(weights: list[Tensor]) -> Tensor:
    """Parameters concatenated along the first axis; they become views of the result, to share its memory."""
    whole = torch.cat([w.data for w in weights])
    for weight, piece in zip(weights, whole.split([len(w) for w in weights])):
        weight.data = piece
    return whole


def convolve(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int | None = None) -> Tensor:
    """Convolution without bias; x [B,H,W,C], weight [D,C,k,k] channels last; "same" padding if None."""
    padding = weight.shape[-1] // 2 if padding is None else padding
    return F.conv2d(x.permute(0, 3, 1, 2), weight, stride=stride, padding=padding).permute(0, 2, 3, 1)


def mirrored(weight: Tensor) -> Tensor:
    """The weight with which `convolve` computes the input gradient of a stride-1 convolution.

    cuDNN's backward kernels are two to five times slower than its forward ones.
    """
    return weight.transpose(0, 1).flip(2, 3).contiguous(memory_format=torch.channels_last)


class EntryConvolution:
    """A 3x3 convolution of a few channels, too narrow for tensor cores: im2col and a matrix product."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.channels = conv.in_channels
        width = -(-9 * self.channels // 8) * 8
        weight = conv.weight.data.contiguous().flatten(1)
        self.weight = F.pad(weight, (0, width - weight.shape[1]))
        self.bias = None if conv.bias is None else conv.bias.data

    def __call__(self, x: Tensor, gain: float = 1.0, offset: float = 0.0) -> Tensor:
        """The convolution of x·gain + offset, [B,H,W,D], for x [B,C,H,W] of any layout and float dtype."""
        columns = patches(x, self.weight.shape[1], gain, offset, self.weight.dtype)
        return F.linear(columns, self.weight, self.bias)

    def backward(self, grad: Tensor) -> Tensor:
        """Gradient [B,C,H,W] float32 on the input for gain 1."""
        return patches_backward(grad @ self.weight, self.channels)


def group_norm(norm: nn.GroupNorm, x: Features, shift: Tensor | None = None) -> Norm:
    """A diffusers group norm with its statistics on x + shift."""
    return coefficients(x, norm.weight, norm.bias, norm.num_groups, norm.eps, shift)


def linear(x: Tensor, layer: nn.Module) -> Tensor:
    """A linear layer or a 1x1 convolution."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    return F.linear(x, weight.flatten(1), bias)


def resnet(block: Any, x: Features, shift: Tensor | None = None, tape: Tape | None = None) -> Features:
    """A diffusers ResnetBlock2D; the result has its sums.

    shift [b,D] float32: projected time embedding plus the first convolution's bias; None: no time embedding.
    """
    first = group_norm(block.norm1, x)
    hidden = convolve(normalize(x.x, first), block.conv1.weight)
    second = group_norm(block.norm2, Features(hidden), block.conv1.bias if shift is None else shift)
    if tape is not None:
        tape.append((block, x.x, first, hidden, second))
    hidden = convolve(normalize(hidden, second), block.conv2.weight)
    if block.conv_shortcut is None:
        return join([Part(hidden, x.x, block.conv2.bias)])
    return join([Part(hidden, linear(x.x, block.conv_shortcut), block.conv2.bias)])


class ResnetBackward:
    """Backward pass of `resnet` on its input, from its record on the tape."""

    def __init__(self, block: Any) -> None:
        self.first, self.second = mirrored(block.conv1.weight.data), mirrored(block.conv2.weight.data)
        self.shortcut = None if block.conv_shortcut is None else block.conv_shortcut.weight.data.flatten(1)

    def __call__(self, grad: Tensor, record: tuple[Any, Tensor, Norm, Tensor, Norm]) -> Tensor:
        _, x, first, hidden, second = record
        inner = normalize_backward(hidden, convolve(grad, self.second), second)
        residual = grad if self.shortcut is None else grad @ self.shortcut
        return normalize_backward(x, convolve(inner, self.first), first, residual=residual)


class Upsampling:
    """Nearest-neighbour upsampling by 2 and a 3x3 convolution, as one 2x2 convolution at the small size.

    Of the nine taps of an output pixel on the upsampled image, those on copies of one pixel add up: four are
    left, which differ for even and odd rows and columns. All four variants are channels of one convolution.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        weight = conv.weight.data.float()
        # Even pixels: one tap on the left neighbour, two on itself; odd: two on itself, one on the right.
        rows = (weight[:, :, :1], weight[:, :, 1:].sum(2, keepdim=True))
        even = torch.cat(rows, 2)
        odd = torch.cat([weight[:, :, :2].sum(2, keepdim=True), weight[:, :, 2:]], 2)
        kinds = []
        for tall in (even, odd):
            kinds.append(torch.cat([tall[..., :1], tall[..., 1:].sum(3, keepdim=True)], 3))
            kinds.append(torch.cat([tall[..., :2].sum(3, keepdim=True), tall[..., 2:]], 3))
        self.weight = (
            torch.stack(kinds, 0)
            .flatten(0, 1)
            .to(conv.weight.dtype)
            .contiguous(memory_format=torch.channels_last)
        )
        self.bias = conv.bias

    def __call__(self, x: Tensor) -> Tensor:
        """x [B,H,W,C] -> [B,2H,2W,C], with bias."""
        # Position i of this grid covers pixels i-1 and i: the even row of i, and the odd row of i-1.
        grid = convolve(x, self.weight, padding=1)
        return spread(grid, x.shape[1], x.shape[2], 1, self.bias)
