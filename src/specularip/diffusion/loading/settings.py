"""Which diffusion prior to load, and where its networks come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Sd15Sources:
    """Each one: a hub id (`owner/name`, or `owner/name/inner/path`), a folder, or a file of weights."""

    base: str = "SG161222/Realistic_Vision_V4.0_noVAE"
    """UNet, text encoder, tokenizer and scheduler."""
    vae: str = "stabilityai/sd-vae-ft-mse"
    controlnet: str = "lllyasviel/control_v11p_sd15_openpose"
    image_encoder: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    """The CLIP vision tower whose penultimate hidden states describe the face crop."""
    ip_adapter: str = "h94/IP-Adapter-FaceID/ip-adapter-faceid-plusv2_sd15.bin"
    """FaceID-PlusV2: IP-Adapter's projection, its keys and values, and its LoRA."""
    tokenizer: str = "openai/clip-vit-large-patch14"
    """Read only where `base` is a single file, which has no tokenizer."""


@dataclass(frozen=True)
class PriorConfig:
    """Which diffusion prior to load and how to run it."""

    path: str = "compact"
    """A folder in diffusers' layout; "compact" for the prior that ships with the package; "sd15" for the
    full-size one, whose parts come from `sources`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 where the processor multiplies it natively, float16 on CUDA, else float32."""
    fast: bool = True
    """On CUDA: fused kernels and recorded graphs, which change no result, for priors of Stable Diffusion 1's
    shape."""
    sources: Sd15Sources = field(default_factory=Sd15Sources)
    """Where the networks of "sd15" come from."""
    faces: str = "~/.insightface/models/buffalo_l"
    """Folder of insightface's models, for priors whose identity is its embedding."""
