"""Settings of loading: which diffusion prior, and where its networks are. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Sd15Sources:
    """Where each network of the full-size prior is: a hub id (`owner/name` or `owner/name/inner/path`), a
    folder, or a file of weights."""

    base: str = "SG161222/Realistic_Vision_V4.0_noVAE"
    """UNet, text encoder, tokenizer and scheduler."""
    vae: str = "stabilityai/sd-vae-ft-mse"
    controlnet: str = "lllyasviel/control_v11p_sd15_openpose"
    image_encoder: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    """The CLIP vision tower whose penultimate hidden states encode the face crop."""
    ip_adapter: str = "h94/IP-Adapter-FaceID/ip-adapter-faceid-plusv2_sd15.bin"
    """FaceID-PlusV2: the projection to identity tokens, their keys and values, and the LoRA."""
    tokenizer: str = "openai/clip-vit-large-patch14"
    """Used only if `base` is a single file, which holds no tokenizer."""


@dataclass(frozen=True)
class PriorConfig:
    """Which diffusion prior to load and how to run it."""

    path: str = "compact"
    """A folder in diffusers' layout; "compact" for the prior shipped with the package; "sd15" for the
    full-size one, read from `sources`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """dtype of the weights. auto: float16 on CUDA, bfloat16 on CPUs that multiply it natively, else
    float32."""
    fast: bool = True
    """On CUDA, for priors of Stable Diffusion 1's architecture: fused kernels and CUDA graphs, which compute
    the same up to rounding."""
    sources: Sd15Sources = field(default_factory=Sd15Sources)
    """Where the networks of "sd15" are."""
    faces: str = "~/.insightface/models/buffalo_l"
    """Folder of insightface's models, for priors whose identity adapter reads its embedding."""
