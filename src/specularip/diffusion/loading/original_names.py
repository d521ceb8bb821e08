"""Parameter names in Stable Diffusion's original checkpoints, from those of diffusers.

One .safetensors of Stable Diffusion 1.5 holds the UNet under `model.diffusion_model.`, the VAE under
`first_stage_model.` and the text encoder under `cond_stage_model.transformer.`; a ControlNet's has
`control_model.`. Each function takes a key of a diffusers network and returns its name in such a file (the
VAE's also in a file of its own), so that errors name keys that are in the file.

The original layout numbers its blocks in one sequence. With L resnets per block, `input_blocks` are the
first convolution and then, for each block, L resnets and a downsampler; `output_blocks` are L + 1 resnets per
block, the last with the upsampler.
"""

from __future__ import annotations

import re

LAYERS = 2
"""Resnets per block (`layers_per_block`) in every Stable Diffusion."""

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _split(key: str) -> tuple[str, str]:
    """`a.b.weight` as (`a.b`, `.weight`)."""
    path, _, leaf = key.rpartition(".")
    return path, f".{leaf}"


def _unet_path(path: str, blocks: int) -> str:
    if path in _UNET_TOP:
        return _UNET_TOP[path]
    match = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", path)
    if match is not None:
        side, block, kind, layer, inner = match[1], int(match[2]), match[3], int(match[4]), match[5]
        start = block * (LAYERS + 1)
        if kind == "downsamplers":
            return f"input_blocks.{start + LAYERS + 1}.0.op"
        if kind == "upsamplers":
            # The lowest block has no attention, so the upsampler directly follows the resnet.
            return f"output_blocks.{start + LAYERS}.{1 if block == 0 else 2}.conv"
        place = f"input_blocks.{1 + start + layer}" if side == "down" else f"output_blocks.{start + layer}"
        return f"{place}.0.{_UNET_RESNET[inner]}" if kind == "resnets" else f"{place}.1.{inner}"
    match = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", path)
    if match is not None:
        if match[1] == "attentions":
            return f"middle_block.1.{match[3]}"
        return f"middle_block.{2 * int(match[2])}.{_UNET_RESNET[match[3]]}"
    match = re.match(r"controlnet_cond_embedding\.blocks\.(\d+)", path)
    if match is not None:
        return f"input_hint_block.{2 * int(match[1]) + 2}"
    match = re.match(r"controlnet_down_blocks\.(\d+)", path)
    if match is not None:
        return f"zero_convs.{match[1]}.0"
    top = {
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.conv_out": f"input_hint_block.{4 * blocks - 2}",
        "controlnet_mid_block": "middle_block_out.0",
    }
    return top.get(path, path)


def unet_name(key: str) -> tuple[str, ...]:
    """The name of a UNet's key, in a tuple of one as for the other networks."""
    path, leaf = _split(key)
    return (f"model.diffusion_model.{_unet_path(path, 4)}{leaf}",)


def controlnet_name(key: str, hints: int = 4) -> tuple[str, ...]:
    """hints: number of resolutions of the pose embedding (`conditioning_embedding_out_channels`)."""
    path, leaf = _split(key)
    return (f"control_model.{_unet_path(path, hints)}{leaf}",)


_VAE = (
    (r"^(encoder|decoder)\.mid_block\.resnets\.0", r"\1.mid.block_1"),
    (r"^(encoder|decoder)\.mid_block\.resnets\.1", r"\1.mid.block_2"),
    (r"^(encoder|decoder)\.mid_block\.attentions\.0", r"\1.mid.attn_1"),
    (r"^encoder\.down_blocks\.(\d+)\.resnets", r"encoder.down.\1.block"),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"\.conv_shortcut", r".nin_shortcut"),
    (r"\.conv_norm_out", r".norm_out"),
    (r"\.group_norm", r".norm"),
    (r"\.to_([qkv])$", r".\1"),
    (r"\.to_out\.0$", r".proj_out"),
)


def vae_name(key: str, blocks: int = 4) -> tuple[str, ...]:
    """Names in a whole checkpoint and in a file of the VAE alone. Up blocks are numbered in reverse."""
    path, leaf = _split(key)
    for pattern, put in _VAE:
        path = re.sub(pattern, put, path)
    match = re.match(r"decoder\.up_blocks\.(\d+)\.(.*)", path)
    if match is not None:
        inner = match[2].replace("resnets", "block").replace("upsamplers.0", "upsample")
        path = f"decoder.up.{blocks - 1 - int(match[1])}.{inner}"
    return f"first_stage_model.{path}{leaf}", f"{path}{leaf}"


def text_name(key: str) -> tuple[str, ...]:
    """The name of a text encoder's key, which may lack the prefix of newer transformers versions."""
    key = key if key.startswith("text_model.") else f"text_model.{key}"
    return (f"cond_stage_model.transformer.{key}",)
