"""The sd15 preset's networks at full size with random weights: for tests and timings without the published
ones.

    python tools/sd15/random_weights.py OUT [--dtype float16] [--seed 0]

writes every source of the preset under OUT with the published files' layout, keys and shapes (about 4.4 GB in
half precision), and prints the settings with which `specularip generate --preset sd15` uses them. Its images
are noise; meaningful ones need the published weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from specularip.diffusion.adapter import FaceIdProjection, attach_identity
from specularip.diffusion.attention import identity_layers
from specularip.diffusion.autoencoder import VaeAutoencoder
from specularip.diffusion.denoiser import UNetDenoiser
from specularip.diffusion.loading.adapter import lora_shapes
from specularip.diffusion.loading.networks import PUBLISHED, Kind
from specularip.diffusion.loading.sd15 import SCHEDULE
from specularip.diffusion.prior import Prior

FACE_DIM, TOKENS, LORA_RANK = 512, 4, 128
CONTROL_SCALE = 0.02
"""Standard deviation of weights that are initialised to zero (ControlNet's outputs), so that they have an
effect."""


def _classes() -> dict[Kind, Callable[..., Any]]:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

    return {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "controlnet": ControlNetModel,
        "text_encoder": lambda **sizes: CLIPTextModel(CLIPTextConfig(**sizes)),
        "image_encoder": lambda **sizes: CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes)),
    }


def network(kind: Kind, device: torch.device | str = "cpu", **changed: Any) -> nn.Module:
    """One network of the published size, float32, frozen. `changed` replaces settings of its config."""
    with torch.device(device):
        model: nn.Module = _classes()[kind](**{**PUBLISHED[kind], **changed})
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=CONTROL_SCALE)
    return model.eval().requires_grad_(False)


def tokenizer(folder: Path) -> Any:
    """CLIP's byte-pair tokenizer with a vocabulary of single bytes: one token per letter."""
    from transformers import AutoTokenizer

    # The printable alphabet that byte-level BPE maps bytes to (Radford et al., 2019).
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in keep] + [chr(256 + i) for i in range(256 - len(keep))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return AutoTokenizer.from_pretrained(str(folder))


def random_prior(
    folder: Path,
    device: torch.device | str,
    dtype: torch.dtype,
    sizes: dict[Kind, dict[str, Any]] | None = None,
) -> Prior:
    """The whole prior in memory except its image encoder, with an identity adapter whose input is embeddings
    [B,512]; `folder` is a scratch folder. `sizes` replaces settings of networks."""
    from diffusers import DDIMScheduler

    sizes = sizes or {}
    parts = {
        kind: network(kind, device, **sizes.get(kind, {})) for kind in PUBLISHED if kind != "image_encoder"
    }
    with torch.device(device):
        projection = attach_identity(parts["unet"], TOKENS, FACE_DIM)
    prior = Prior(
        UNetDenoiser(parts["unet"], parts["controlnet"]), VaeAutoencoder(parts["vae"]),
        parts["text_encoder"], tokenizer(folder), DDIMScheduler(**SCHEDULE), image_projection=projection,
    )  # fmt: skip
    return prior.to(device, dtype).eval().requires_grad_(False)


def write(out: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> dict[str, Path]:
    """Write all sources under `out`; keys are their names in `Sd15Sources`. device: where they are drawn."""
    from diffusers import DDIMScheduler

    places: dict[Kind, Path] = {
        "unet": out / "base" / "unet",
        "text_encoder": out / "base" / "text_encoder",
        "vae": out / "vae",
        "controlnet": out / "controlnet",
        "image_encoder": out / "image_encoder",
    }
    for kind, place in places.items():
        model = network(kind, device).to("cpu", dtype)
        model.save_pretrained(str(place))  # type: ignore[operator]
        if kind == "unet":
            adapter = out / "ip-adapter-faceid-plusv2_sd15.bin"
            torch.save(_adapter(model, dtype), adapter)
    tokenizer(out / "base" / "tokenizer")
    DDIMScheduler(**SCHEDULE).save_pretrained(str(out / "base" / "scheduler"))
    return {
        "base": out / "base",
        "vae": out / "vae",
        "controlnet": out / "controlnet",
        "image_encoder": out / "image_encoder",
        "ip_adapter": adapter,
    }


def _adapter(unet: nn.Module, dtype: torch.dtype) -> dict[str, dict[str, torch.Tensor]]:
    """FaceID-PlusV2 for this UNet: projection, identity keys and values, LoRA."""
    attach_identity(unet, TOKENS, FACE_DIM)
    context = int(unet.config.cross_attention_dim)  # type: ignore[union-attr,arg-type]
    clip_dim = int(PUBLISHED["image_encoder"]["hidden_size"])
    projection = FaceIdProjection(FACE_DIM, clip_dim, context, TOKENS)
    weights = {
        f"{name.removeprefix('ip_adapter.')}.{key}": value
        for name, layer in identity_layers(unet).items()
        for key, value in layer.state_dict().items()
    }
    for key, shape in lora_shapes(unet, LORA_RANK).items():
        weights[key.removeprefix("ip_adapter.")] = 0.01 * torch.randn(shape)
    parts = {"image_proj": projection.state_dict(), "ip_adapter": weights}
    return {part: {k: v.to(dtype) for k, v in state.items()} for part, state in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    for name, place in write(arguments.out, getattr(torch, arguments.dtype)).items():
        print(f"--set prior.sources.{name}={place}")


if __name__ == "__main__":
    main()
