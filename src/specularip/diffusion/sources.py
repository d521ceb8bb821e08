"""The sd15 preset's networks: where each comes from, and all of them as one `Prior`.

What the method names is published in pieces by several people, so a source is given for each: a repository
on the Hugging Face hub (already downloaded: nothing here touches the network), a folder in diffusers' layout,
or a single file of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .prior import Prior


@dataclass(frozen=True)
class Sd15Sources:
    """Each one: a hub id (`owner/name`, or `owner/name/file`), a folder, or a file of weights."""

    base: str = "SG161222/Realistic_Vision_V4.0_noVAE"
    """UNet, text encoder, tokenizer and scheduler."""
    vae: str = "stabilityai/sd-vae-ft-mse"
    controlnet: str = "lllyasviel/control_v11p_sd15_openpose"
    image_encoder: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    """The CLIP vision tower whose penultimate hidden states describe the face crop."""
    ip_adapter: str = "h94/IP-Adapter-FaceID/ip-adapter-faceid-plusv2_sd15.bin"
    """FaceID-PlusV2: IP-Adapter's projection, its keys and values, and its LoRA."""


def load_sd15(
    sources: Sd15Sources | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = "auto",
) -> Prior:
    """Read the full-size prior, frozen and in eval mode, weights in `dtype` (see `pick_dtype`), channels last.

    None: the published sources. The adapter's LoRA is merged into the UNet. Raises UserError, naming the file and
    the key, for a part that is not there, not whole, or of another model.
    """
    from .folder import load_parts

    return load_parts(sources or Sd15Sources(), device=device, dtype=dtype)
