"""Identity adapters from files: the plain IP-Adapter, and FaceID-PlusV2 with its LoRA.

The UNet is given identity attention with the file's weights. FaceID-PlusV2 was trained together with a LoRA
on every attention of the UNet, which is merged into the UNet's weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from specularip.diffusion.adapter import FaceIdProjection, ImageProjection
from specularip.diffusion.attention import identity_layers, install_attention
from specularip.diffusion.loading.sources import ADAPTER
from specularip.diffusion.loading.weights import check_keys, read_weights, recognise
from specularip.errors import UserError

SUPPORTED = "only plain IP-Adapters and FaceID-PlusV2 are supported"
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out")


def read_adapter(path: Path) -> dict[str, Tensor]:
    """The tensors `image_proj.*` and `ip_adapter.*` of a .safetensors, or of a .bin that holds two dicts.

    Raises UserError for a file that cannot be read or is no IP-Adapter.
    """
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
    """Install a file's identity attention in `unet`, merge the file's LoRA into it, and return its projection
    to identity tokens.

    Both published layouts are supported: the plain one (`image_proj.proj`, one linear layer on CLIP's image
    embedding) and FaceID-PlusV2's. lora_merged: FaceID-PlusV2 may lack its LoRA because the UNet was saved
    with it. Raises UserError naming keys that are missing, unknown or of the wrong shape.
    """
    state = read_adapter(path)
    projection: ImageProjection | FaceIdProjection
    if any(key.startswith("image_proj.perceiver_resampler.") for key in state):
        if re.search(r"faceid[-_]plus(?!v2)", path.name.lower()):
            raise UserError(f"{path} is version 1 of FaceID-Plus: use FaceID-PlusV2 ({ADAPTER})")
        if not lora_merged and not any("_lora." in key for key in state):
            raise UserError(f"{path} misses FaceID-PlusV2's LoRA (ip_adapter.0.to_q_lora.down.weight...)")
        projection = _face_id_projection(state, path, unet, image_encoder)
    else:
        projection = _plain_projection(state, path, int(image_encoder.config.projection_dim))
    install_attention(unet, identity=True)
    _assign(state, path, unet, projection)
    return projection


def _size(state: Mapping[str, Tensor], path: Path, key: str, axis: int, axes: int) -> int:
    """Length of an axis of a tensor with `axes` axes. Raises UserError if there is no such tensor."""
    if key not in state:
        raise UserError(f"{path} misses {key}: {SUPPORTED}")
    if state[key].ndim != axes or not state[key].numel():
        raise UserError(f"{path}: {key} is {list(state[key].shape)}: {SUPPORTED}")
    return state[key].shape[axis]


def _tokens(state: Mapping[str, Tensor], path: Path, key: str, context: int) -> int:
    """Number of identity tokens [n,context] that a projection's last layer outputs."""
    rows = _size(state, path, key, 0, 2)
    if rows % context:
        raise UserError(
            f"{path} is an adapter for another model: {key} has {rows} rows, not a multiple of {context}"
        )
    return rows // context


def _plain_projection(state: Mapping[str, Tensor], path: Path, embed_dim: int) -> ImageProjection:
    context = _size(state, path, "image_proj.norm.weight", 0, 1)
    tokens = _tokens(state, path, "image_proj.proj.weight", context)
    with torch.device("meta"):
        return ImageProjection(embed_dim, context, tokens)


def _face_id_projection(
    state: Mapping[str, Tensor], path: Path, unet: Any, image_encoder: Any
) -> FaceIdProjection:
    """A projection without weights, its sizes taken from UNet and image encoder, so that files for other
    networks fail the check of shapes."""
    context = int(unet.config.cross_attention_dim)
    tokens = _tokens(state, path, "image_proj.proj.2.weight", context)
    embed_dim = _size(state, path, "image_proj.proj.0.weight", 1, 2)
    with torch.device("meta"):
        return FaceIdProjection(embed_dim, int(image_encoder.config.hidden_size), context, tokens)


def lora_shapes(unet: Any, rank: int) -> dict[str, tuple[int, int]]:
    """Key and shape of every LoRA matrix in a FaceID file for `unet`: four pairs per attention."""
    shapes = {}
    for count, attention in enumerate(_attentions(unet)):
        for target in LORA_TARGETS:
            linear = _target(attention, target)
            prefix = f"ip_adapter.{count}.{target}_lora"
            shapes[f"{prefix}.down.weight"] = (rank, linear.in_features)
            shapes[f"{prefix}.up.weight"] = (linear.out_features, rank)
    return shapes


def _attentions(unet: Any) -> list[Any]:
    """The UNet's attentions in the order in which adapter files number them (see `identity_layers`)."""
    return [unet.get_submodule(name.removesuffix(".processor")) for name in unet.attn_processors]


def _target(attention: Any, target: str) -> nn.Linear:
    return attention.to_out[0] if target == "to_out" else getattr(attention, target)


def _assign(
    state: Mapping[str, Tensor], path: Path, unet: nn.Module, projection: ImageProjection | FaceIdProjection
) -> None:
    """Check every key, assign the weights of projection and identity attention, and merge the LoRA."""
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
    check_keys(path, sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys()), shapes)
    for part, module in parts.items():
        module.load_state_dict({k: state[f"{part}.{k}"] for k in module.state_dict()}, assign=True)
    if lora:
        merge_lora(unet, state)


@torch.no_grad()
def merge_lora(unet: nn.Module, state: Mapping[str, Tensor]) -> None:
    """W ← W + up·down for every attention, in float32 on the UNet's device; the published LoRA has scale 1.

    The identity attention's own keys and values (`to_k_ip`, `to_v_ip`) have no LoRA; its query is the merged
    one.
    """
    for count, attention in enumerate(_attentions(unet)):
        for target in LORA_TARGETS:
            linear = _target(attention, target)
            up, down = (
                state[f"ip_adapter.{count}.{target}_lora.{side}.weight"].to(linear.weight.device).float()
                for side in ("up", "down")
            )
            linear.weight = nn.Parameter(linear.weight.float() + up @ down, requires_grad=False)
