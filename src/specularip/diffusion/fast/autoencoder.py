"""`Autoencoder` on the GPU: the VAE of `fast.vae`, captured as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from specularip.diffusion.autoencoder import VaeAutoencoder
from specularip.diffusion.fast.layers import Tape, fast_kernels
from specularip.diffusion.fast.vae import Decoder, Encoder
from specularip.kernels.cuda_graphs import CapturedGraph, GraphCache, signature


class FastAutoencoder(nn.Module):
    """`Autoencoder` with the results of `plain` up to rounding. Shares its weights, reordered in place.

    Encoding has a gradient on the images; decoding with gradients goes to `plain`. graphs: where encoding
    with a gradient is captured; None: nothing is captured. With graphs, the backward pass of `encode` must
    precede its next call; RuntimeError if it does not.
    """

    def __init__(self, plain: VaeAutoencoder, graphs: GraphCache | None) -> None:
        super().__init__()
        self.plain, self._graphs = plain, graphs
        self._encoded = 0
        self._build()

    def _build(self) -> None:
        """Pack the weights of `plain`, on their current device."""
        self._encoder, self._decoder = Encoder(self.plain.vae), Decoder(self.plain.vae)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FastAutoencoder:
        """Hook of nn.Module, called by `.to()`: moved weights are packed again."""
        super()._apply(fn, recurse)
        self.release_graphs()
        self._build()
        return self

    @property
    def vae(self) -> Any:
        return self.plain.vae

    @property
    def image_channels(self) -> int:
        return self.plain.image_channels

    @property
    def scale(self) -> int:
        return self.plain.scale

    def release_graphs(self) -> None:
        if self._graphs is not None:
            self._graphs.clear()

    def encode(self, images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and images.requires_grad:
            latents: Tensor = _Encode.apply(images, self)
            return latents
        with torch.no_grad(), fast_kernels():
            return self._encoder.forward(images)

    def decode(self, latents: Tensor) -> Tensor:
        if torch.is_grad_enabled() and latents.requires_grad:
            return self.plain.decode(latents)
        with torch.no_grad(), fast_kernels():
            return self._decoder(latents)

    def _capture(self, graphs: GraphCache, images: Tensor) -> tuple[CapturedGraph, CapturedGraph]:
        """The graphs of encoding and of its backward pass, which reads the tape of the first."""

        def encode(images: Tensor) -> tuple[Tensor, Tape]:
            tape: Tape = []
            return self._encoder.forward(images, tape), tape

        with fast_kernels():
            forward = graphs.capture(encode, images)
            latents, tape = forward.replay(images)
            grad = torch.randn_like(latents)
            return forward, graphs.capture(lambda g: self._encoder.backward(g, tape), grad)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, owner: FastAutoencoder) -> Tensor:
        ctx.owner, graphs = owner, owner._graphs
        if graphs is None:
            ctx.tape, ctx.graph = [], None
            with fast_kernels():
                return owner._encoder.forward(images, ctx.tape)
        key = "encode", *signature(images)
        forward, ctx.graph = graphs.get(key, lambda: owner._capture(graphs, images))
        owner._encoded += 1
        ctx.number = owner._encoded
        return forward.replay(images)[0].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.graph is None:
            with fast_kernels():
                return ctx.owner._encoder.backward(grad.float(), ctx.tape), None
        if ctx.number != ctx.owner._encoded:
            raise RuntimeError("encode: its backward pass must precede the next call")
        return ctx.graph.replay(grad.float()).clone(), None
