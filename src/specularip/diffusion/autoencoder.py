"""The autoencoder: images to the latents that the denoiser works on, and back.

`Autoencoder` is the protocol. `VaeAutoencoder` implements it with diffusers' AutoencoderKL and
`PixelAutoencoder` for denoisers that work on pixels; `fast.autoencoder.FastAutoencoder` is the GPU
implementation.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Autoencoder(Protocol):
    @property
    def vae(self) -> Any:
        """AutoencoderKL, or None if latents are pixels."""

    @property
    def image_channels(self) -> int:
        """Channels of the images: 3 (RGB) or 4 (RGB over grey, alpha)."""

    @property
    def scale(self) -> int:
        """Side of an image over that of its latents."""

    def encode(self, images: Tensor) -> Tensor:
        """Images [B,C,S,S] float32 in 0..1 to latents [B,c,h,w] float32; differentiable in the images."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B,c,h,w] to images [B,C,S,S] float32 in 0..1; differentiable in the latents."""

    def release_graphs(self) -> None:
        """Free captured CUDA graphs and their memory, as when the batch shape is about to change."""


class PixelAutoencoder:
    """`Autoencoder` of a denoiser that works on pixels: a change of range. channels: of the images."""

    vae, scale = None, 1

    def __init__(self, channels: int) -> None:
        self.image_channels = channels

    def encode(self, images: Tensor) -> Tensor:
        return images * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents.float() * 0.5 + 0.5).clamp(0, 1)

    def release_graphs(self) -> None:
        """There are none."""


class VaeAutoencoder(nn.Module):
    """`Autoencoder` on diffusers' AutoencoderKL, for RGB images."""

    image_channels = 3

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    @property
    def scale(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, images: Tensor) -> Tensor:
        weights = next(self.vae.parameters())
        # The mean rather than a sample: noise is added right after, and one source of it is enough.
        latents = self.vae.encode((images * 2 - 1).to(weights.dtype)).latent_dist.mode().float()
        return (latents - self._shift) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        weights = next(self.vae.parameters())
        latents = latents / self.vae.config.scaling_factor + self._shift
        return (self.vae.decode(latents.to(weights.dtype)).sample.float() * 0.5 + 0.5).clamp(0, 1)

    def release_graphs(self) -> None:
        """There are none."""

    @property
    def _shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)
