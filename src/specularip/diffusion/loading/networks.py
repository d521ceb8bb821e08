"""Reads and builds the networks of a prior, each from a folder or a single file, and checks that they match.

This takes two halves. `reading` starts threads that read weights and move them to the device;
`build_network` makes a network without weights and assigns them. Importing diffusers and transformers takes
longer than reading the files, and both happen at the same time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from specularip.diffusion.conv_autoencoder import ConvAutoencoder
from specularip.diffusion.denoiser import concatenated_pose
from specularip.diffusion.loading import original_names as original
from specularip.diffusion.loading.weights import (
    Names,
    fill,
    find_weights,
    quiet,
    read_json,
    read_tensors,
)
from specularip.errors import UserError, first_line

Kind = Literal["unet", "vae", "autoencoder", "controlnet", "text_encoder", "image_encoder"]

CLASSES: dict[Kind, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "autoencoder": ("ConvAutoencoder",),
    "controlnet": ("ControlNetModel",),
    "text_encoder": ("CLIPTextModel", "BertModel"),
    "image_encoder": ("CLIPVisionModelWithProjection",),
}
"""The classes that a network may be of; the first one if its config names none."""

PUBLISHED: dict[Kind, dict[str, Any]] = {
    "unet": {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 256,
        "scaling_factor": 0.18215,
    },
    "controlnet": {
        "in_channels": 4,
        "conditioning_channels": 3,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "conditioning_embedding_out_channels": [16, 32, 96, 256],
        "controlnet_conditioning_channel_order": "rgb",
    },
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
    },
    "image_encoder": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    },
}
"""Configs of Stable Diffusion 1.5's networks and of CLIP-ViT-H, for single files, which hold none."""

_ORIGINAL: dict[Kind, str] = {
    "unet": r"model\.diffusion_model\.",
    "vae": r"(first_stage_model|post_quant_conv|quant_conv)\.|"
    r"(encoder|decoder)\.(down|up|mid|conv_in|conv_out|norm_out)\.",
    "controlnet": r"control_model\.",
    "text_encoder": r"cond_stage_model\.transformer\.",
}
"""Pattern of a network's keys in a checkpoint of the original layout, which may hold several networks."""

_POSITIONS = r"(.*\.)?embeddings\.position_ids$"  # older checkpoints store these constants
_IGNORE: dict[Kind, str] = {
    "text_encoder": rf"text_projection\.|pooler\.|{_POSITIONS}",
    # laion's file holds both towers of CLIP.
    "image_encoder": rf"text_model\.|text_projection\.|logit_scale$|{_POSITIONS}",
}
_RECOGNISED: dict[Kind, str] = {
    "unet": "a UNet",
    "vae": "a VAE",
    "autoencoder": "a VAE",
    "controlnet": "a ControlNet",
    "text_encoder": "a text encoder",
    "image_encoder": "a CLIP vision tower",
}
"""The names of these kinds in the results of `weights.recognise`."""
_OLD_VAE_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@dataclass(frozen=True)
class NetworkFile:
    """A network as read from disk: its config, its tensors, and the names of the network's keys in the file.

    source: the file or config to name in errors about the config; weights: the (first) weight file.
    """

    kind: Kind
    config: dict[str, Any]
    state: Mapping[str, Tensor]
    names: Names
    ignore: str | None
    source: Path
    weights: Path


@contextmanager
def reading(
    places: Mapping[Kind, Path], device: torch.device | str, dtype: torch.dtype
) -> Iterator[dict[Kind, Future[NetworkFile]]]:
    """Read networks in threads, to `device` and in `dtype`, except that the UNet keeps the dtype of its file:
    LoRAs are merged into it in full precision."""
    # Threads do not inherit the current GPU.
    device = torch.empty(0, device=device).device
    with ThreadPoolExecutor(len(places)) as pool:
        yield {
            kind: pool.submit(read_network, kind, path, device, None if kind == "unet" else dtype)
            for kind, path in places.items()
        }


def read_network(
    kind: Kind, path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> NetworkFile:
    """Read a network's config and weights. dtype None: that of the file.

    path: a folder with config.json and weights; or a weight file with the keys of diffusers or transformers
    (its config the config.json beside it, else the published one) or of the original layout (the published
    config). Raises UserError for what is missing, unreadable or of another kind of network.
    """
    if path.is_dir():
        config_path, files = path / "config.json", []
        if not os.path.isfile(config_path):  # unlike Path.is_file, False where access is denied
            raise UserError(f"{config_path} is missing, or may not be read")
    else:
        config_path, files = path.parent / "config.json", [path]
    config = _read_config(kind, config_path) if config_path.is_file() else dict(PUBLISHED[kind])
    files = files or find_weights(path)
    state = read_tensors(files)
    pattern = _ORIGINAL.get(kind)
    names, ignore = _names(kind), _IGNORE.get(kind)
    if pattern is not None and _is_original(kind, state):
        config, names, ignore = dict(PUBLISHED[kind]), _original_names(kind), _POSITIONS
        state = {key: value for key, value in state.items() if re.match(pattern, key)}
    skip = re.compile(ignore or r"(?!)")  # by default a pattern that matches nothing
    for key, value in state.items():
        if value.is_floating_point() and not skip.match(key):
            # Transfer first: the device is faster at the conversion.
            state[key] = value.to(device).to(dtype or value.dtype)
    source = config_path if config_path.is_file() else path
    return NetworkFile(kind, config, state, names, ignore, source, files[0])


def build_network(file: NetworkFile) -> Any:
    """The network with its weights. Raises UserError for a config of another network and for keys that are
    missing, unknown or of the wrong shape."""
    model = _build(file.kind, file.config, file.source)
    fill(model, file.state, file.weights, file.names, file.ignore, _RECOGNISED[file.kind])
    return model


def _is_original(kind: Kind, state: Mapping[str, Tensor]) -> bool:
    if kind == "vae":  # both layouts have encoder.conv_in
        return any(re.match(r"(first_stage_model\.)?(encoder\.down|decoder\.up)\.\d", key) for key in state)
    return any(re.match(_ORIGINAL[kind], key) for key in state)


def _names(kind: Kind) -> Names:
    """Key names in files of diffusers and transformers, of current and earlier versions."""

    def vae(key: str) -> tuple[str, ...]:
        for new, old in _OLD_VAE_ATTENTION.items():
            if f".attentions.0.{new}." in key:
                return key, key.replace(f".{new}.", f".{old}.")
        return (key,)

    def text(key: str) -> tuple[str, ...]:
        if key.startswith("encoder.layer."):  # BERT's; CLIP's are encoder.layers
            return (key,)
        bare = key.removeprefix("text_model.")
        return f"text_model.{bare}", bare

    if kind == "vae":
        return vae
    return text if kind == "text_encoder" else lambda key: (key,)


def _original_names(kind: Kind) -> Names:
    if kind == "unet":
        return original.unet_name
    if kind == "vae":
        return partial(original.vae_name, blocks=len(PUBLISHED["vae"]["block_out_channels"]))
    if kind == "controlnet":
        return partial(
            original.controlnet_name, hints=len(PUBLISHED[kind]["conditioning_embedding_out_channels"])
        )
    return original.text_name


def _read_config(kind: Kind, path: Path) -> dict[str, Any]:
    """The network's config. Raises UserError if it is of another kind of network."""
    config = read_json(path)
    if config.get("model_type") == "clip" and kind == "image_encoder":  # of both towers
        inner = config.get("vision_config")
        # CLIP has one projection_dim; the tower's own may be an outdated default.
        shared = {key: config[key] for key in ("projection_dim",) if key in config}
        return (inner if isinstance(inner, dict) else {}) | shared
    given, wanted = _class_name(kind, config), CLASSES[kind]
    if given not in wanted:
        raise UserError(f"{path} is the config of {given}; {' or '.join(wanted)} is needed here")
    return config


def _class_name(kind: Kind, config: Mapping[str, Any]) -> str:
    """The class that a config names, in the spelling of `CLASSES`."""
    named = config.get("architectures")
    given = config.get("_class_name") or (named[0] if isinstance(named, list) and named else CLASSES[kind][0])
    # CLIP's towers are published with and without projection.
    bare = str(given).replace("WithProjection", "")
    return next((name for name in CLASSES[kind] if name.replace("WithProjection", "") == bare), str(given))


def _build(kind: Kind, config: dict[str, Any], path: Path) -> Any:
    """The network without weights, on the meta device: allocating and drawing random ones would take long."""
    # The heaviest imports, and no command that fails on its arguments should wait for them.
    import diffusers
    import transformers

    name = _class_name(kind, config)
    try:
        with quiet(), torch.device("meta"):
            if name == "ConvAutoencoder":
                return ConvAutoencoder.from_config(config)
            if name == "BertModel":
                bert = transformers.BertConfig.from_dict(config)
                return transformers.BertModel(bert, add_pooling_layer=False)
            if kind == "text_encoder":
                return transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(config))
            if kind == "image_encoder":
                return transformers.CLIPVisionModelWithProjection(
                    transformers.CLIPVisionConfig.from_dict(config)
                )
            return getattr(diffusers, name).from_config(config)
    except Exception as error:  # the libraries raise many types; whichever it is, the config is the cause
        raise UserError(f"cannot build a {name} from {path}: {first_line(error)}") from error


def check_together(networks: Mapping[Kind, Any], names: Mapping[Kind, str]) -> None:
    """Raise UserError unless the networks fit each other. names: where each came from."""
    unet, vae, controlnet = networks["unet"], networks["vae"], networks["controlnet"]
    context = unet.config.cross_attention_dim
    width = int(networks["text_encoder"].config.hidden_size)
    if width != context:
        raise UserError(
            f"{names['text_encoder']} is a text encoder of another model: its width is {width}, and the "
            f"UNet in {names['unet']} needs {context}"
        )
    autoencoder = networks.get("autoencoder")
    if autoencoder is not None and autoencoder.config.latent_channels != int(unet.config.out_channels):
        raise UserError(
            f"{names['autoencoder']} is the autoencoder of another model: it has "
            f"{autoencoder.config.latent_channels} latent channels, and the UNet in {names['unet']} predicts "
            f"{unet.config.out_channels}"
        )
    if vae is not None and int(vae.config.latent_channels) != int(unet.config.out_channels):
        raise UserError(
            f"{names['vae']} is a VAE of another model: it has {vae.config.latent_channels} latent "
            f"channels, and the UNet in {names['unet']} predicts {unet.config.out_channels}"
        )
    if controlnet is None:
        try:
            concatenated_pose(int(unet.config.in_channels) - int(unet.config.out_channels))
        except ValueError as error:
            raise UserError(f"cannot use the UNet in {names['unet']}: {error}") from error
    else:
        sizes = [
            (
                list(net.config.block_out_channels),
                net.config.cross_attention_dim,
                int(net.config.in_channels),
            )
            for net in (controlnet, unet)
        ]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{names['controlnet']} is a ControlNet for another model: its channels, text width and "
                f"input channels are {_sizes(sizes[0])}, and {_sizes(sizes[1])} in the UNet {names['unet']}"
            )


def _sizes(sizes: tuple[list[int], Any, int]) -> str:
    return f"{'/'.join(str(size) for size in sizes[0])}, {sizes[1]} and {sizes[2]}"
