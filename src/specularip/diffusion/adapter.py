"""Identity adapters, which map face embeddings to identity tokens: plain IP-Adapter and FaceID-PlusV2.

FaceID-PlusV2 is IP-Adapter's published variant for faces (Ye et al., IP-Adapter, 2023, and its FaceID
releases). Tokens made from a face recogniser's embedding attend to CLIP's features of the face crop (a
perceiver resampler; Alayrac et al., Flamingo, 2022), and the result is added to them (V2's "shortcut"). It
was trained together with a LoRA on every attention of the UNet, which is merged into the weights at loading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specularip.diffusion.attention import install_attention

HEAD_WIDTH = 64
"""Width of one head of the resampler's attention."""


class ImageProjection(nn.Module):
    """Face embedding to n identity tokens, `norm(proj(embeds))`: IP-Adapter's plain layout."""

    def __init__(self, embed_dim: int, context: int, tokens: int) -> None:
        super().__init__()
        self.tokens, self.embed_dim = tokens, embed_dim
        self.proj = nn.Linear(embed_dim, tokens * context)
        self.norm = nn.LayerNorm(context)

    def forward(self, embeds: Tensor) -> Tensor:
        """embeds [B,E] -> tokens [B,n,D]."""
        return self.norm(self.proj(embeds).unflatten(-1, (self.tokens, -1)))


@dataclass(frozen=True)
class FaceFeatures:
    """Faces as encoded for FaceID-PlusV2.

    embeds [B,E]: the recogniser's embedding, of length 1. hidden [B,T,C]: CLIP's penultimate hidden states of
    the crop, T patches and the class token.
    """

    embeds: Tensor
    hidden: Tensor

    def __len__(self) -> int:
        return len(self.embeds)

    def __getitem__(self, index: Any) -> FaceFeatures:
        return FaceFeatures(self.embeds[index], self.hidden[index])


class PerceiverAttention(nn.Module):
    """Latents [B,n,D] attend to features [B,T,D] and to each other, [B,n,D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        features, latents = self.norm1(features), self.norm2(latents)
        key, value = self.to_kv(torch.cat([features, latents], 1)).chunk(2, -1)
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.to_q(latents), key, value)
        )
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class PerceiverResampler(nn.Module):
    """Tokens [B,n,D] attend to features [B,T,C]: pre-norm residual blocks of attention and MLP."""

    def __init__(self, width: int, features: int, depth: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(features, width)
        self.proj_out = nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(width),
                    nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 4 * width, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * width, width, bias=False),
                    ),
                ]
            )
            for _ in range(depth)
        )

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        features = self.proj_in(features)
        layers: Any = self.layers
        for attention, mlp in layers:
            tokens = tokens + attention(features, tokens)
            tokens = tokens + mlp(tokens)
        return self.norm_out(self.proj_out(tokens))


class FaceIdProjection(nn.Module):
    """Identity tokens of FaceID-PlusV2: x + s · resampler(x, hidden), with x = norm(MLP(embeds)).

    embed_dim: E of the recogniser's embedding; clip_dim: C of CLIP's hidden states; context: D of the tokens.
    """

    def __init__(self, embed_dim: int, clip_dim: int, context: int, tokens: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.tokens, self.embed_dim = tokens, embed_dim
        self.proj = nn.Sequential(
            nn.Linear(embed_dim, 2 * embed_dim), nn.GELU(), nn.Linear(2 * embed_dim, tokens * context)
        )
        self.norm = nn.LayerNorm(context)
        self.perceiver_resampler = PerceiverResampler(context, clip_dim, depth)

    def forward(self, face: FaceFeatures, structure: float = 1.0) -> Tensor:
        """Tokens [B,n,D]. structure: the weight s of CLIP's features, published as `s_scale`."""
        weight = self.norm.weight
        who = self.norm(self.proj(face.embeds.to(weight)).unflatten(-1, (self.tokens, -1)))
        return who + structure * self.perceiver_resampler(who, face.hidden.to(weight))


def attach_identity(unet: nn.Module, tokens: int, embed_dim: int) -> ImageProjection:
    """Add untrained identity attention to a UNet, in place, and return its projection.

    tokens: number of identity tokens; embed_dim: size of the face embedding (the image encoder's
    `projection_dim`).
    """
    install_attention(unet, identity=True)
    config: Any = unet.config
    weight = next(unet.parameters())
    return ImageProjection(embed_dim, config.cross_attention_dim, tokens).to(weight.device, weight.dtype)
