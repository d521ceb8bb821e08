"""Layers that UNet, ControlNet and autoencoder share, on features [B,H,W,C], from diffusers' own modules.

They read the modules' weights where they lie (`pack` puts those of convolutions into the order that the
tensor cores want) and compute what the modules compute, up to rounding, in fewer passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .fused import Features, Norm, Part, coefficients, join, normalize, normalize_backward

Tape = list[Any]
"""What the backward pass of a network needs, in the order in which it was computed."""


@contextmanager
def fast_kernels() -> Iterator[None]:
    """The library's fastest convolutions and attention: tried out for each shape, cuDNN's first."""
    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True)
    with flags, sdpa_kernel(order, set_priority=True):
        yield


def pack(network: nn.Module) -> None:
    """Put every convolution's weights into channels-last order, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def concatenated(weights: list[Tensor]) -> Tensor:
    """Parameters joined along the first axis; they become views of the result, so that none is held twice."""
    whole = torch.cat([w.data for w in weights])
    for weight, piece in zip(weights, whole.split([len(w) for w in weights])):
        weight.data = piece
    return whole


def convolve(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int | None = None) -> Tensor:
    """Convolution without bias; x [B,H,W,C], weight [D,C,k,k] channels last; "same" padding if None."""
    padding = weight.shape[-1] // 2 if padding is None else padding
    return F.conv2d(x.permute(0, 3, 1, 2), weight, stride=stride, padding=padding).permute(0, 2, 3, 1)


def mirrored(weight: Tensor) -> Tensor:
    """The weight with which `convolve` computes the gradient on the input of a stride-1 convolution.

    The library's own gradient kernels are two to five times slower than its forward ones.
    """
    return weight.transpose(0, 1).flip(2, 3).contiguous(memory_format=torch.channels_last)


def padded_channels(x: Tensor, channels: int) -> Tensor:
    """x [B,H,W,C] with zero channels appended."""
    return F.pad(x, (0, channels - x.shape[-1]))


class EntryConvolution:
    """A 3x3 convolution of a few channels: padded to eight, which tensor cores need, its bias among them.

    Channel C of the padded input is 1, and its weight at the middle tap is the bias.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.channels = conv.in_channels
        width = -(-(self.channels + 1) // 8) * 8
        weight = conv.weight.new_zeros(conv.out_channels, width, 3, 3)
        weight[:, : self.channels] = conv.weight.data
        if conv.bias is not None:
            weight[:, self.channels, 1, 1] = conv.bias.data
        self.weight = weight.contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Tensor) -> Tensor:
        """x [B,C,H,W], any layout and float dtype -> [B,H,W,D]."""
        wide = self.weight.new_zeros(len(x), *x.shape[2:], self.weight.shape[1])
        wide[..., : self.channels] = x.permute(0, 2, 3, 1)
        wide[..., self.channels] = 1
        return convolve(wide, self.weight)


def group_norm(norm: nn.GroupNorm, x: Features, shift: Tensor | None = None) -> Norm:
    """Statistics of a diffusers group norm on x + shift."""
    return coefficients(x, norm.weight.float(), norm.bias.float(), norm.num_groups, norm.eps, shift)


def linear(x: Tensor, conv: nn.Module, bias: Tensor | None = None) -> Tensor:
    """A linear layer, or a 1x1 convolution as one; `bias` is added to its own."""
    weight: Tensor = conv.weight  # type: ignore[assignment]
    own: Tensor | None = conv.bias  # type: ignore[assignment]
    if bias is not None:
        own = bias if own is None else own + bias
    return F.linear(x, weight.flatten(1), own)


def resnet(block: Any, x: Features, shift: Tensor | None = None, tape: Tape | None = None) -> Features:
    """A diffusers ResnetBlock2D. shift [b,D] float32: its projected time embedding, already with the first
    convolution's bias; None: there is no time. The result comes with its sums."""
    first = group_norm(block.norm1, x)
    hidden = convolve(normalize(x.x, first), block.conv1.weight)
    second = group_norm(block.norm2, Features(hidden), block.conv1.bias.float() if shift is None else shift)
    if tape is not None:
        tape.append((block, x.x, first, hidden, second))
    hidden = convolve(normalize(hidden, second), block.conv2.weight)
    if block.conv_shortcut is None:
        return join([Part(hidden, x.x, block.conv2.bias.float())])
    return join([Part(hidden, linear(x.x, block.conv_shortcut, block.conv2.bias))])


class ResnetBackward:
    """Gradient of `resnet` on its input, from the record on the tape."""

    def __init__(self, block: Any) -> None:
        self.first, self.second = mirrored(block.conv1.weight.data), mirrored(block.conv2.weight.data)
        self.shortcut = None if block.conv_shortcut is None else block.conv_shortcut.weight.data.flatten(1)

    def __call__(self, grad: Tensor, record: tuple[Any, Tensor, Norm, Tensor, Norm]) -> Tensor:
        _, x, first, hidden, second = record
        inner = normalize_backward(hidden, convolve(grad, self.second), second)
        residual = grad if self.shortcut is None else grad @ self.shortcut
        return normalize_backward(x, convolve(inner, self.first), first, residual=residual)


class Upsampling:
    """Nearest-neighbour doubling and a 3x3 convolution, as one 2x2 convolution at the small size.

    Of the nine taps that an output pixel sees on the doubled image, those on equal pixels add up: four are
    left, others for even and odd rows and columns. All four kinds are computed as channels of one convolution.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        weight = conv.weight.data.float()
        # An even pixel sees its left neighbour once and itself twice; an odd one itself twice and its right once.
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
        images, height, width, _ = x.shape
        # Position (i,j) of this grid sees the pixels i-1..i: even rows of pixel i, and odd ones of pixel i-1.
        grid = convolve(x, self.weight, padding=1).unflatten(-1, (2, 2, -1))
        out = x.new_empty(images, height, 2, width, 2, grid.shape[-1])
        for row in range(2):
            for column in range(2):
                part = grid[:, row : row + height, column : column + width, row, column]
                out[:, :, row, :, column] = part if self.bias is None else part + self.bias
        return out.view(images, 2 * height, 2 * width, -1)
