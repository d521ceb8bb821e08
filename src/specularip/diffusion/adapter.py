"""Identity adapters: face embeddings to identity tokens, the plain IP-Adapter and FaceID-PlusV2.

FaceID-PlusV2 is IP-Adapter's published variant for faces (Ye et al., IP-Adapter, 2023, and its FaceID
releases). Tokens made from a face recogniser's embedding attend to CLIP's features of the face crop (a
perceiver resampler; Alayrac et al., Flamingo, 2022), and the result is added to them (V2's "shortcut"). It
was trained together with a LoRA on every attention of the UNet, which is merged into the weights at loading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specularip.diffusion.attention import identity_layers, install_attention
from specularip.diffusion.loading.weights import complain, read_weights, recognise
from specularip.errors import UserError

HEAD_WIDTH = 64
"""Width of one head of the resampler's attention."""
READ = "only plain IP-Adapters and FaceID-PlusV2 are read"
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out")


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


def read_adapter(path: Path) -> dict[str, Tensor]:
    """Flat `image_proj.*` and `ip_adapter.*` tensors of a .safetensors or of a published dict of two."""
    state = read_weights(path)
    flat: dict[str, Any] = {}
    for key, value in state.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    if not all(isinstance(value, Tensor) for value in flat.values()):
        raise UserError(f"{path} holds values that are not tensors")
    groups = {key.split(".")[0] for key in flat}
    if not {"image_proj", "ip_adapter"} & groups:
        kind = recognise(flat)
        raise UserError(
            f"{path} is not an IP-Adapter file: it has no image_proj and ip_adapter"
            + (f"; it looks like {kind}" if kind else "")
        )
    return flat


def load_identity(
    unet: nn.Module, path: Path, image_encoder: Any, *, lora_merged: bool
) -> ImageProjection | FaceIdProjection:
    """Give `unet` the identity attention in a file, merge the file's LoRA into it, and return its projection.

    Both published layouts are read: the plain one (`image_proj.proj`, one linear layer on CLIP's image
    embedding) and FaceID-PlusV2's. lora_merged: a FaceID-PlusV2 may lack its LoRA, because the UNet was saved
    with it. Raises UserError that names keys which are missing, unknown, or of the wrong shape.
    """
    state = read_adapter(path)
    projection: ImageProjection | FaceIdProjection
    if any(key.startswith("image_proj.perceiver_resampler.") for key in state):
        if re.search(r"faceid[-_]plus(?!v2)", path.name.lower()):
            raise UserError(
                f"{path} is FaceID-Plus of the first version: use FaceID-PlusV2 "
                "(ip-adapter-faceid-plusv2_sd15.bin)"
            )
        if not lora_merged and not any("_lora." in key for key in state):
            raise UserError(f"{path} misses FaceID-PlusV2's LoRA (ip_adapter.0.to_q_lora.down.weight...)")
        projection = _face_id_projection(state, path, unet, image_encoder)
    else:
        projection = _plain_projection(state, path, int(image_encoder.config.projection_dim))
    install_attention(unet, identity=True)
    _pour(state, path, unet, projection)
    return projection


def _size(state: Mapping[str, Tensor], path: Path, key: str, axis: int, axes: int) -> int:
    """Length of an axis of a tensor that must be there and have so many."""
    if key not in state:
        raise UserError(f"{path} misses {key}: {READ}")
    if state[key].ndim != axes or not state[key].numel():
        raise UserError(f"{path}: {key} is {list(state[key].shape)}: {READ}")
    return state[key].shape[axis]


def _tokens(state: Mapping[str, Tensor], path: Path, key: str, context: int) -> int:
    """How many tokens of `context` numbers a projection makes."""
    rows = _size(state, path, key, 0, 2)
    if rows % context:
        raise UserError(
            f"{path} is an adapter for another model: {key} has {rows} rows, not a multiple of {context}"
        )
    return rows // context


def _plain_projection(state: Mapping[str, Tensor], path: Path, embed_dim: int) -> ImageProjection:
    context = _size(state, path, "image_proj.norm.weight", 0, 1)
    return ImageProjection(embed_dim, context, _tokens(state, path, "image_proj.proj.weight", context))


def _face_id_projection(
    state: Mapping[str, Tensor], path: Path, unet: Any, image_encoder: Any
) -> FaceIdProjection:
    """A projection to fill, its sizes from the networks around it, so that a file for others does not fit."""
    context = int(unet.config.cross_attention_dim)
    tokens = _tokens(state, path, "image_proj.proj.2.weight", context)
    embed_dim = _size(state, path, "image_proj.proj.0.weight", 1, 2)
    return FaceIdProjection(embed_dim, int(image_encoder.config.hidden_size), context, tokens)


def lora_shapes(unet: Any, rank: int) -> dict[str, tuple[int, int]]:
    """Key and shape of every LoRA matrix of a FaceID file for `unet`: four pairs an attention."""
    shapes = {}
    for count, attention in enumerate(_attentions(unet)):
        for target in LORA_TARGETS:
            linear = _target(attention, target)
            prefix = f"ip_adapter.{count}.{target}_lora"
            shapes[f"{prefix}.down.weight"] = (rank, linear.in_features)
            shapes[f"{prefix}.up.weight"] = (linear.out_features, rank)
    return shapes


def _attentions(unet: Any) -> list[Any]:
    """The UNet's attentions in the order that the adapter's files count them (see `identity_layers`)."""
    return [unet.get_submodule(name.removesuffix(".processor")) for name in unet.attn_processors]


def _target(attention: Any, target: str) -> nn.Linear:
    return attention.to_out[0] if target == "to_out" else getattr(attention, target)


def _pour(
    state: Mapping[str, Tensor], path: Path, unet: nn.Module, projection: ImageProjection | FaceIdProjection
) -> None:
    """Fill projection and identity attention, and merge the LoRA, after every key was checked."""
    parts: dict[str, nn.Module] = {"image_proj": projection, **identity_layers(unet)}
    wanted = {
        f"{part}.{k}": tuple(v.shape)
        for part, module in parts.items()
        for k, v in module.state_dict().items()
    }
    lora: dict[str, tuple[int, int]] = {}
    if any("_lora." in key for key in state):
        lora = lora_shapes(unet, _size(state, path, "ip_adapter.0.to_q_lora.down.weight", 0, 2))
        wanted |= lora
    shapes = [
        f"{k} is {list(state[k].shape)}, must be {list(shape)}"
        for k, shape in sorted(wanted.items())
        if k in state and tuple(state[k].shape) != shape
    ]
    complain(path, sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys()), shapes)
    for part, module in parts.items():
        module.load_state_dict({k: state[f"{part}.{k}"] for k in module.state_dict()})
    if lora:
        merge_lora(unet, state)


@torch.no_grad()
def merge_lora(unet: nn.Module, state: Mapping[str, Tensor]) -> None:
    """W ← W + up·down for every attention, in single precision; the published adapter has no other scale.

    The identity's own keys and values (`to_k_ip`, `to_v_ip`) have no LoRA, and their query is the merged one.
    """
    for count, attention in enumerate(_attentions(unet)):
        for target in LORA_TARGETS:
            linear = _target(attention, target)
            prefix = f"ip_adapter.{count}.{target}_lora"
            up, down = state[f"{prefix}.up.weight"].float(), state[f"{prefix}.down.weight"].float()
            linear.weight = nn.Parameter(linear.weight.float() + up @ down, requires_grad=False)
