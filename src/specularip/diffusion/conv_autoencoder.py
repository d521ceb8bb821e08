"""A small convolutional autoencoder for images of any number of channels, such as RGB, alpha and depth.

Deterministic, without attention, of a factor 8 (as Stable Diffusion's VAE, Rombach et al., 2022, at about a
hundredth of its cost): blocks of 4x4 pixels become channels (Shi et al., 2016, "pixel shuffle"), so that
nothing but a last, light layer runs at full resolution. That layer removes the seams between the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 4
"""Side of the pixel blocks that the first layer turns into channels."""


@dataclass(frozen=True)
class ConvAutoencoderConfig:
    """channels: of the images. encoder_widths, decoder_widths: channels of the features at 1/4 and at 1/8 of
    the images' size. encoder_depth, decoder_depth: residual blocks at either size. refine_width: hidden
    channels of the last layer, at full size."""

    channels: int = 5
    latent_channels: int = 16
    encoder_widths: tuple[int, int] = (96, 192)
    decoder_widths: tuple[int, int] = (112, 192)
    encoder_depth: int = 2
    decoder_depth: int = 3
    refine_width: int = 16


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))) (He et al., 2016, "pre-activation"), of constant width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(math.gcd(16, width), width) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(hidden)))


class SeamFilter(nn.Module):
    """x + conv(silu(conv(x))) at full resolution: pixels see their neighbours in other blocks."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(x)))


def _blocks(width: int, depth: int) -> list[nn.Module]:
    return [ResidualBlock(width) for _ in range(depth)]


def _encoder(config: ConvAutoencoderConfig) -> nn.Sequential:
    """Images [B,C,S,S] in -1..1 to latents [B,c,S/8,S/8] of any scale."""
    fine, coarse = config.encoder_widths
    return nn.Sequential(
        nn.PixelUnshuffle(BLOCK),
        nn.Conv2d(config.channels * BLOCK**2, fine, 3, padding=1),
        *_blocks(fine, config.encoder_depth),
        nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
        *_blocks(coarse, config.encoder_depth),
        nn.GroupNorm(math.gcd(16, coarse), coarse),
        nn.SiLU(),
        nn.Conv2d(coarse, config.latent_channels, 3, padding=1),
    )


def _decoder(config: ConvAutoencoderConfig) -> nn.Sequential:
    """The encoder's latents to images in -1..1, not clamped."""
    fine, coarse = config.decoder_widths
    return nn.Sequential(
        nn.Conv2d(config.latent_channels, coarse, 3, padding=1),
        *_blocks(coarse, config.decoder_depth),
        nn.Conv2d(coarse, fine * 4, 1),
        nn.PixelShuffle(2),
        *_blocks(fine, config.decoder_depth),
        nn.GroupNorm(math.gcd(16, fine), fine),
        nn.SiLU(),
        nn.Conv2d(fine, config.channels * BLOCK**2, 3, padding=1),
        nn.PixelShuffle(BLOCK),
        SeamFilter(config.channels, config.refine_width),
    )


class ConvAutoencoder(nn.Module):
    """`Autoencoder` for images [B,C,S,S], S a multiple of 8; differentiable in images, latents and weights.

    `encoder` and `decoder` are the bare networks, to train them: of images in -1..1, latents of any scale and
    outputs that are not clamped. `encode` and `decode` are what the denoiser works with: every channel of the
    latents has mean 0 and variance 1 by the buffers `shift` and `scale_` [1,c,1,1].
    """

    vae, scale = None, 8
    shift: Tensor
    scale_: Tensor

    def __init__(self, config: ConvAutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or ConvAutoencoderConfig()
        self.encoder, self.decoder = _encoder(self.config), _decoder(self.config)
        self.register_buffer("shift", torch.zeros(1, self.config.latent_channels, 1, 1))
        self.register_buffer("scale_", torch.ones(1, self.config.latent_channels, 1, 1))

    @property
    def image_channels(self) -> int:
        return self.config.channels

    def encode(self, images: Tensor) -> Tensor:
        latents = self.encoder((images * 2 - 1).to(self.shift.dtype)).float()
        return (latents - self.shift.float()) / self.scale_.float()

    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.float() * self.scale_.float() + self.shift.float()
        return (self.decoder(latents.to(self.shift.dtype)).float() * 0.5 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def normalise(self, latents: Tensor) -> None:
        """Set `shift` and `scale_` from latents [N,c,h,w] of the bare encoder."""
        flat = latents.float().movedim(1, 0).flatten(1)
        self.shift.copy_(flat.mean(1)[None, :, None, None])
        self.scale_.copy_(flat.std(1).clamp_min(1e-3)[None, :, None, None])

    def release_graphs(self) -> None:
        """There are none."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ConvAutoencoder:
        """A network without trained weights. Raises TypeError or ValueError for unsuitable values."""
        values: dict[str, Any] = {k: v for k, v in config.items() if not k.startswith("_")}
        values |= {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        return cls(ConvAutoencoderConfig(**values))

    def to_config(self) -> dict[str, Any]:
        """What `config.json` holds."""
        return asdict(self.config)
