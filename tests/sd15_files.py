"""Small files in the published layouts of the full-size prior: same folders, names, keys and formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from tiny_prior import bpe_tokenizer
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from specularip.diffusion.loading.settings import Sd15Sources

CONTEXT, CLIP, EMBED, RANK = 128, 16, 12, 2
"""Width of text, CLIP's hidden states, face embedding; rank of the LoRA. Published: 768, 1280, 512, 128."""
CHANNELS = (8, 8, 16, 16)
ADAPTER = "ip-adapter-faceid-plusv2_sd15.bin"

UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": list(CHANNELS),
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "cross_attention_dim": CONTEXT,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
VAE = {
    "block_out_channels": [4, 4, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 64,
}
HINTS = [4, 4, 8, 8]
VISION = {
    "hidden_size": CLIP,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": 16,
    "hidden_act": "gelu",
    "projection_dim": 10,
}
TEXT = {
    "hidden_size": CONTEXT,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}


def adapter_shapes(
    context: int, clip: int, embed: int, rank: int, channels: tuple[int, ...], tokens: int = 4, depth: int = 4
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Every key and shape in FaceID-PlusV2's published file.

    N counts the UNet's attentions down, up, mid; even ones are self-attention, odd ones cross-attention.
    """
    proj: dict[str, tuple[int, ...]] = {
        "proj.0.weight": (2 * embed, embed),
        "proj.0.bias": (2 * embed,),
        "proj.2.weight": (tokens * context, 2 * embed),
        "proj.2.bias": (tokens * context,),
        "norm.weight": (context,),
        "norm.bias": (context,),
    }
    resampler: dict[str, tuple[int, ...]] = {
        "proj_in.weight": (context, clip),
        "proj_in.bias": (context,),
        "proj_out.weight": (context, context),
        "proj_out.bias": (context,),
        "norm_out.weight": (context,),
        "norm_out.bias": (context,),
    }
    for i in range(depth):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            resampler |= {f"layers.{i}.{norm}.weight": (context,), f"layers.{i}.{norm}.bias": (context,)}
        resampler |= {
            f"layers.{i}.0.to_q.weight": (context, context),
            f"layers.{i}.0.to_kv.weight": (2 * context, context),
            f"layers.{i}.0.to_out.weight": (context, context),
            f"layers.{i}.1.1.weight": (4 * context, context),
            f"layers.{i}.1.3.weight": (context, 4 * context),
        }
    proj |= {f"perceiver_resampler.{key}": shape for key, shape in resampler.items()}
    a, b, c, d = channels
    # Two transformers in each of three down blocks, three in each of three up blocks, one in the mid block.
    widths = [w for w in (a, a, b, b, c, c, c, c, c, b, b, b, a, a, a, d) for _ in range(2)]
    adapter: dict[str, tuple[int, ...]] = {}
    for n, width in enumerate(widths):
        text = context if n % 2 else width
        for name, source in (("to_q", width), ("to_k", text), ("to_v", text), ("to_out", width)):
            adapter[f"{n}.{name}_lora.down.weight"] = (rank, source)
            adapter[f"{n}.{name}_lora.up.weight"] = (width, rank)
        if n % 2:
            adapter |= {f"{n}.to_k_ip.weight": (width, context), f"{n}.to_v_ip.weight": (width, context)}
    return {"image_proj": proj, "ip_adapter": adapter}


def adapter_state(seed: int) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = adapter_shapes(CONTEXT, CLIP, EMBED, RANK, CHANNELS)

    def tensor(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator) * (0.3 if len(shape) == 1 else shape[-1] ** -0.5)

    return {group: {key: tensor(shape) for key, shape in keys.items()} for group, keys in shapes.items()}


def networks(seed: int, vocabulary: int) -> dict[str, Any]:
    """The five networks with random weights, by the names in `networks.CLASSES`."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**UNET)
    parts: dict[str, Any] = {
        "unet": unet,
        "vae": AutoencoderKL(**VAE),
        "controlnet": ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=tuple(HINTS)),
        "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=vocabulary, **TEXT)),
        "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)),
    }
    for part in parts.values():
        for parameter in part.parameters():  # weights initialised to zero or one would hide mistakes
            parameter.data += 0.02 * torch.randn_like(parameter)
    return parts


def text_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's keys as published, whatever the installed library calls them."""
    state = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in state.items()}
    return state | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


def vae_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A VAE's keys as published, with diffusers' former names of attention."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in state.items():
        for new, name in old.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{name}.")
        renamed[key] = value
    return renamed


def clip_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys of laion's file, which holds both towers of CLIP."""
    return state | {
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        "logit_scale": torch.ones(()),
        "text_model.final_layer_norm.weight": torch.ones(3),
        "text_projection.weight": torch.ones(3, 3),
    }


def _save(state: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().contiguous().clone() for key, value in state.items()}
    save_file(tensors, str(path), metadata={"format": "pt"})


def _json(value: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_sources(root: Path, seed: int = 0) -> tuple[Sd15Sources, dict[str, Any]]:
    """Write all files under `root`. Returns their places and the networks in them, without the LoRA."""
    base = root / "base"
    tokenizer = bpe_tokenizer(base / "tokenizer")
    parts = networks(seed, len(tokenizer))
    _json({"_class_name": "StableDiffusionPipeline", "vae": [None, None]}, base / "model_index.json")
    _json(UNET | {"_class_name": "UNet2DConditionModel"}, base / "unet" / "config.json")
    _save(parts["unet"].state_dict(), base / "unet" / "diffusion_pytorch_model.safetensors")
    text = TEXT | {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "eos_token_id": 2}
    _json(text | {"vocab_size": len(tokenizer)}, base / "text_encoder" / "config.json")
    _save(text_keys(parts["text_encoder"].state_dict()), base / "text_encoder" / "model.safetensors")
    sampler = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "trained_betas": None}
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    _json(sampler | betas, base / "scheduler" / "scheduler_config.json")
    _json(VAE | {"_class_name": "AutoencoderKL"}, root / "vae" / "config.json")
    _save(vae_keys(parts["vae"].state_dict()), root / "vae" / "diffusion_pytorch_model.safetensors")
    control = {k: v for k, v in UNET.items() if k not in ("sample_size", "out_channels", "up_block_types")}
    control |= {"_class_name": "ControlNetModel", "conditioning_embedding_out_channels": HINTS}
    _json(control, root / "controlnet" / "config.json")
    _save(parts["controlnet"].state_dict(), root / "controlnet" / "diffusion_pytorch_model.safetensors")
    clip = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": VISION["projection_dim"]}
    vision = VISION | {"projection_dim": 512, "model_type": "clip_vision_model", "num_beams": 1}
    _json(clip | {"vision_config": vision, "text_config": {}}, root / "clip" / "config.json")
    _save(clip_keys(parts["image_encoder"].state_dict()), root / "clip" / "model.safetensors")
    torch.save(adapter_state(seed), root / ADAPTER)
    sources = Sd15Sources(
        base=str(base),
        vae=str(root / "vae"),
        controlnet=str(root / "controlnet"),
        image_encoder=str(root / "clip"),
        ip_adapter=str(root / ADAPTER),
        tokenizer=str(base / "tokenizer"),
    )
    return sources, parts
