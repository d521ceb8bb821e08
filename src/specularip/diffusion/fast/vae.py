"""The VAE of Stable Diffusion, frozen: encoding with a gradient on the images only, and decoding.

A frozen network's backward pass needs fewer tensors than autograd saves. A convolution needs only its weights
and is itself a convolution with mirrored weights; a group norm needs its input. So encoding saves the inputs
of its norms and the attention's probabilities, and the backward pass is written by hand below.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specularip.diffusion.fast.features import Features, Part
from specularip.diffusion.fast.layers import (
    EntryConvolution,
    ResnetBackward,
    Tape,
    Upsampling,
    convolve,
    group_norm,
    linear,
    mirrored,
    pack,
    resnet,
)
from specularip.diffusion.fast.ops import (
    join,
    normalize,
    normalize_backward,
    softmax,
    softmax_backward,
    spread,
)

QUERIES_AT_ONCE = 4096
"""Queries of the mid block's attention that are computed at a time when nothing is saved."""


def supported(vae: Any) -> bool:
    """Whether a VAE has Stable Diffusion's architecture: plain blocks with SiLU, one attention head."""
    config = vae.config
    kinds = {*config.down_block_types, *config.up_block_types}
    plain = kinds <= {"DownEncoderBlock2D", "UpDecoderBlock2D"} and config.act_fn == "silu"
    heads = [
        a.heads for part in (vae.encoder, vae.decoder) for a in part.mid_block.attentions if a is not None
    ]
    return plain and heads == [1, 1] and vae.quant_conv is not None and vae.post_quant_conv is not None


class Attention:
    """The mid block's attention: one head as wide as the features, for which there is no fused kernel."""

    def __init__(self, attn: Any) -> None:
        self.attn = attn
        self.weight = torch.cat([m.weight.data for m in (attn.to_q, attn.to_k, attn.to_v)])
        self.bias = torch.cat([m.bias.data for m in (attn.to_q, attn.to_k, attn.to_v)])
        self.scale = self.weight.shape[1] ** -0.5

    def _weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Attention probabilities; the scores are float32."""
        query = query * self.scale
        if query.is_cuda:
            scores = torch.bmm(query, key.transpose(1, 2), out_dtype=torch.float32)
        else:
            scores = torch.bmm(query, key.transpose(1, 2)).float()
        return softmax(scores, query.dtype)

    def __call__(self, x: Features, tape: Tape | None = None) -> Features:
        norm = group_norm(self.attn.group_norm, x)
        tokens = F.linear(normalize(x.x, norm, silu=False).flatten(1, 2), self.weight, self.bias)
        query, key, value = tokens.chunk(3, -1)
        if tape is None:
            parts = [
                torch.cat(
                    [torch.bmm(self._weights(q, k), v) for q in query[i : i + 1].split(QUERIES_AT_ONCE, 1)], 1
                )
                for i, (k, v) in enumerate(zip(key.split(1), value.split(1)))
            ]
            attended = torch.cat(parts)
        else:
            weights = self._weights(query, key)
            attended = torch.bmm(weights, value)
            tape.append((self, x.x, norm, tokens, weights))
        return join([Part(linear(attended, self.attn.to_out[0]).view_as(x.x), x.x)])

    def backward(self, grad: Tensor, record: tuple[Any, ...]) -> Tensor:
        _, x, norm, tokens, weights = record
        query, key, value = tokens.chunk(3, -1)
        outer = (grad @ self.attn.to_out[0].weight).flatten(1, 2)
        scores = softmax_backward(weights, torch.bmm(outer, value.transpose(1, 2)), self.scale)
        parts = [torch.bmm(scores, key), torch.bmm(scores.mT, query), torch.bmm(weights.mT, outer)]
        inner = (torch.cat(parts, -1) @ self.weight).view_as(x)
        return normalize_backward(x, inner, norm, silu=False, residual=grad)


class Downsampling:
    """3x3 convolution of stride 2, padded at the bottom and right only.

    Equal to 4x4 taps, of which the first row and column are zero, with padding on all sides: cuDNN has fast
    kernels for that. In the backward pass even and odd pixels of the input have different taps: all four
    variants are channels of one 2x2 convolution of the gradient.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        weight = conv.weight.data
        self.weight = F.pad(weight, (1, 0, 1, 0)).contiguous(memory_format=torch.channels_last)
        self.bias = None if conv.bias is None else conv.bias.data.float()
        # Input pixel 2i is under tap 2 of output i-1 and tap 0 of output i; 2i+1 under tap 1 of output i.
        taps = {0: (2, 0), 1: (None, 1)}
        kinds = weight.new_zeros(2, 2, weight.shape[1], weight.shape[0], 2, 2)
        for row, tall in taps.items():
            for column, wide in taps.items():
                for i, y in enumerate(tall):
                    for j, x in enumerate(wide):
                        if y is not None and x is not None:
                            kinds[row, column, :, :, i, j] = weight[:, :, y, x].T
        self.backward_weight = kinds.flatten(0, 2).contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Features, tape: Tape | None = None) -> Features:
        out = convolve(x.x, self.weight, stride=2, padding=1)
        if tape is not None:
            tape.append((self,))
        return join([Part(out, None, self.bias)])

    def backward(self, grad: Tensor, record: tuple[Any, ...]) -> Tensor:
        _, height, width, _ = grad.shape
        return spread(convolve(grad, self.backward_weight, padding=1), height, width, 0)


class Encoder:
    """Images to latents, with a backward pass. vae: a `supported` AutoencoderKL."""

    def __init__(self, vae: Any) -> None:
        encoder = vae.encoder
        pack(encoder)
        self.scaling, self.shift = float(vae.config.scaling_factor), vae.config.shift_factor or 0.0
        self.entry = EntryConvolution(encoder.conv_in)
        self.encoder = encoder
        self.down = [
            None if block.downsamplers is None else Downsampling(block.downsamplers[0].conv)
            for block in encoder.down_blocks
        ]
        self.attention = Attention(encoder.mid_block.attentions[0])
        blocks = [r for block in (*encoder.down_blocks, encoder.mid_block) for r in block.resnets]
        self.resnets = {id(block): ResnetBackward(block) for block in blocks}
        # The last two convolutions are linear: merged into one, with the mean's channels only.
        latent = vae.config.latent_channels
        quant = vae.quant_conv.weight.data.float().flatten(1)[:latent]
        last = encoder.conv_out
        weight = torch.einsum("dc,cxyz->dxyz", quant, last.weight.data.float())
        self.bias = quant @ last.bias.data.float() + vae.quant_conv.bias.data.float()[:latent]
        width = -(-latent // 8) * 8
        weight = torch.cat([weight, weight.new_zeros(width - latent, *weight.shape[1:])])
        self.exit = weight.to(last.weight.dtype).contiguous(memory_format=torch.channels_last)
        self.exit_backward = mirrored(self.exit)

    def forward(self, images: Tensor, tape: Tape | None = None) -> Tensor:
        """images [B,3,H,W] in 0..1 -> latents [B,c,H/8,W/8] float32, scaled for the denoiser."""
        x = Features(self.entry(images, 2.0, -1.0))
        for block, down in zip(self.encoder.down_blocks, self.down):
            for part in block.resnets:
                x = resnet(part, x, tape=tape)
            if down is not None:
                x = down(x, tape)
        first, second = self.encoder.mid_block.resnets
        x = resnet(second, self.attention(resnet(first, x, tape=tape), tape), tape=tape)
        norm = group_norm(self.encoder.conv_norm_out, x)
        if tape is not None:
            tape.append((None, x.x, norm))
        out = convolve(normalize(x.x, norm), self.exit)[..., : len(self.bias)].float() + self.bias
        return (out.permute(0, 3, 1, 2) - self.shift) * self.scaling

    def backward(self, grad: Tensor, tape: Tape) -> Tensor:
        """Gradient [B,3,H,W] float32 on the images for the gradient on the latents [B,c,h,w] float32.

        Scaled by a power of two on the way, so that half precision neither overflows nor underflows.
        """
        largest = grad.abs().amax().clamp(min=1e-30)
        scale = torch.exp2(-torch.log2(largest).round())
        flow = grad.permute(0, 2, 3, 1) * (self.scaling * scale)
        flow = F.pad(flow, (0, len(self.exit) - flow.shape[-1])).to(self.exit.dtype).contiguous()
        for record in reversed(tape):
            layer = record[0]
            if layer is None:
                flow = normalize_backward(record[1], convolve(flow, self.exit_backward), record[2])
            elif isinstance(layer, nn.Module):
                flow = self.resnets[id(layer)](flow, record)
            else:
                flow = layer.backward(flow, record)
        return self.entry.backward(flow) * (2 / scale)


class Decoder:
    """Latents to images. vae: a `supported` AutoencoderKL."""

    def __init__(self, vae: Any) -> None:
        decoder = vae.decoder
        pack(decoder)
        self.decoder = decoder
        self.scaling, self.shift = float(vae.config.scaling_factor), vae.config.shift_factor or 0.0
        quant = vae.post_quant_conv
        self.quant, self.quant_bias = quant.weight.data.float().flatten(1), quant.bias.data.float()
        self.entry = EntryConvolution(decoder.conv_in)
        self.attention = Attention(decoder.mid_block.attentions[0])
        self.up = [
            None if block.upsamplers is None else Upsampling(block.upsamplers[0].conv)
            for block in decoder.up_blocks
        ]
        last = decoder.conv_out
        weight = F.pad(last.weight.data, (0, 0, 0, 0, 0, 0, 0, 8 - last.out_channels))
        self.exit, self.bias = weight.contiguous(memory_format=torch.channels_last), last.bias.data.float()

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents [B,c,h,w] -> images [B,3,8h,8w] float32 in 0..1."""
        values = (latents.float() / self.scaling + self.shift).permute(0, 2, 3, 1)
        values = F.linear(values, self.quant, self.quant_bias).permute(0, 3, 1, 2)
        first, second = self.decoder.mid_block.resnets
        x = resnet(second, self.attention(resnet(first, Features(self.entry(values)))))
        for block, up in zip(self.decoder.up_blocks, self.up):
            for part in block.resnets:
                x = resnet(part, x)
            if up is not None:
                x = Features(up(x.x))
        norm = group_norm(self.decoder.conv_norm_out, x)
        out = convolve(normalize(x.x, norm), self.exit)[..., : len(self.bias)].float() + self.bias
        return (out.permute(0, 3, 1, 2) * 0.5 + 0.5).clamp(0, 1)
