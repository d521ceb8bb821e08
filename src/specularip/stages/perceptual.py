"""The perceptual loss of SCR, between renders and refined views.

LPIPS where its weights are downloaded. Otherwise the first layers of the prior's UNet replace VGG: they were
trained on images of people and are already loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.diffusion.conv_autoencoder import BLOCK, ConvAutoencoder
from specularip.diffusion.prior import Prior
from specularip.lpips import feature_distance, find_lpips, unit_channels

UNET_TIMESTEP = 50
"""Timestep of the UNet's features: little noise, where they describe surface rather than layout."""
UNET_BLOCKS = 3
"""Down blocks that are evaluated; deeper ones cost little, but describe pose more than appearance."""


class Perceptual(Protocol):
    """A distance between images, computed from the deep features of a network.

    name: of the network, for report.json. Features of fixed targets need computing only once.
    """

    name: str

    def features(self, images: Tensor) -> list[Tensor]:
        """Features [B,C_l,h_l,w_l] float32 of images [B,C,H,W] in 0..1, by layer; differentiable."""
        ...

    def distance(self, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
        """Distance between the images of two `features`, mean over the batch; a scalar."""
        ...


def perceptual_loss(prior: Prior) -> Perceptual:
    """LPIPS where its weights are present, else features of `prior`'s autoencoder, if it is a small one, or
    of its UNet. Raises UserError as `find_lpips` does."""
    encoder = prior.autoencoder if isinstance(prior.autoencoder, ConvAutoencoder) else None
    return find_lpips(prior.device) or (UnetFeatures(prior) if encoder is None else EncoderFeatures(encoder))


class EncoderFeatures:
    """Distance between features of a small autoencoder's encoder, at a quarter of the images' size."""

    name = "encoder-features"

    def __init__(self, autoencoder: ConvAutoencoder) -> None:
        depth = autoencoder.config.encoder_depth
        self._layers = list(autoencoder.encoder)[: 2 + depth]  # folding, a convolution, residual blocks
        self._dtype = autoencoder.shift.dtype

    def features(self, images: Tensor) -> list[Tensor]:
        """Features [B,C,H/4,W/4] float32 of images [B,4,H,W] (RGB over the background, and alpha), one tensor
        a residual block, of unit length over the channels. Depth counts as unknown. Differentiable."""
        flat = images.new_full((len(images), 1, *images.shape[2:]), 0.5)
        x = (torch.cat([images[:, :4], flat], 1) * 2 - 1).to(self._dtype)
        bottom, right = (-size % BLOCK for size in x.shape[2:])
        if bottom or right:  # cropped images
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        found = []
        for index, layer in enumerate(self._layers):
            x = layer(x)
            if index > 1:
                found.append(unit_channels(x.float()))
        return found

    def distance(self, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
        """Squared distance of `features`, mean over pixels and images, summed over layers; a scalar."""
        return feature_distance(features_a, features_b)


class UnetFeatures:
    """Distance between features of the prior's UNet."""

    name = "unet-features"

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        with torch.no_grad():
            self._text = prior.encode_text([""])

    def features(self, images: Tensor) -> list[Tensor]:
        """Features [B,C_l,h_l,w_l] float32 of images [B,3,S,S] or [B,4,S,S] (RGB over the background, and
        alpha) in 0..1, one tensor a layer, of unit length over the channels. Differentiable.

        Only conv_in, the time embedding and the first down blocks of the UNet run, on the noise-free image,
        with the empty prompt, no face tokens and a black pose map. A prior of images with alpha needs 4
        channels.
        """
        prior, unet = self.prior, self.prior.denoiser.unet
        latents = prior.encode_image(images[:, : prior.image_channels])
        t = torch.full((len(images),), UNET_TIMESTEP, device=prior.device)
        x = prior.alphas(t).sqrt() * latents
        if prior.denoiser.controlnet is None and prior.pose_channels:
            x = torch.cat([x, x.new_zeros(len(x), prior.pose_channels, *x.shape[-2:])], 1)
        x = x.to(prior.dtype).contiguous(memory_format=torch.channels_last)
        time = unet.time_embedding(unet.time_proj(t).to(prior.dtype))
        text = self._text.to(prior.dtype).expand(len(images), -1, -1)
        x = unet.conv_in(x)
        found = []
        for block in unet.down_blocks[:UNET_BLOCKS]:
            condition: dict[str, Any] = {}
            if getattr(block, "has_cross_attention", False):
                condition = {"encoder_hidden_states": text}
            x, states = block(x, time, **condition)
            # The last state before downsampling: the downsampled one is a linear map of it.
            found.append(states[-2] if block.downsamplers is not None else states[-1])
        return [unit_channels(state.float()) for state in found]

    def distance(self, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
        """Squared distance of `features`, mean over pixels and images, summed over layers; a scalar."""
        return feature_distance(features_a, features_b)
