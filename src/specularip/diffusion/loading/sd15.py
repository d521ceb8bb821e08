"""The full-size prior: Stable Diffusion 1.5 with ControlNet and FaceID-PlusV2, each from its own source.

Its networks are published by several people, so there is a source for each (see `Sd15Sources`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from specularip.diffusion.loading.folder import assemble, find_adapter, load_tokenizer, make_scheduler
from specularip.diffusion.loading.networks import (
    PUBLISHED,
    Kind,
    build_network,
    check_together,
    reading,
)
from specularip.diffusion.loading.settings import Sd15Sources
from specularip.diffusion.loading.sources import ADAPTER, part_of, resolve
from specularip.diffusion.loading.weights import check_file, pick_dtype, read_json
from specularip.diffusion.prior import Prior
from specularip.errors import UserError

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
"""Stable Diffusion 1.5's noise schedule. Published folders add settings of various samplers, which are
ignored."""


def load_sd15(
    sources: Sd15Sources | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = "auto",
) -> Prior:
    """Read the full-size prior: frozen, in eval mode, weights in `dtype` (see `pick_dtype`), channels last.

    sources: the published ones if None. The adapter's LoRA is merged into the UNet. Raises MissingWeights for
    what is not downloaded, UserError for files that are truncated or of another model, naming file and key.
    """
    sources = sources or Sd15Sources()
    # Everything is located and checked for its kind before anything large is read.
    base = resolve(sources.base)
    places: dict[Kind, Path] = {
        "unet": part_of(base, "unet"),
        "text_encoder": part_of(base, "text_encoder"),
        "vae": part_of(resolve(sources.vae), "vae"),
        "controlnet": part_of(resolve(sources.controlnet), "controlnet"),
        "image_encoder": part_of(resolve(sources.image_encoder), "image_encoder"),
    }
    adapter = resolve(sources.ip_adapter)
    if adapter.is_dir():
        adapter = adapter / ADAPTER if (adapter / ADAPTER).is_file() else find_adapter(adapter)
    for place in (*places.values(), adapter):
        if place.is_file():
            check_file(place)
    if base.is_dir():
        check_schedule(base / "scheduler" / "scheduler_config.json")
    words = resolve(sources.tokenizer) if base.is_file() else base
    if (words / "tokenizer").is_dir():
        words = words / "tokenizer"
    dtype = pick_dtype(dtype, device) if isinstance(dtype, str) else dtype
    with reading(places, device, dtype) as files:
        tokenizer = load_tokenizer(words)
        scheduler = make_scheduler(dict(SCHEDULE), base)
        networks = {kind: build_network(file.result()) for kind, file in files.items()}
    names: dict[Kind, str] = {kind: str(place) for kind, place in places.items()}
    check_sd15(networks, names)
    check_together(networks, names)
    beside = places["image_encoder"] if places["image_encoder"].is_dir() else places["image_encoder"].parent
    prior = assemble(
        networks, tokenizer, scheduler, adapter, beside, lora_merged=False, device=device, dtype=dtype
    )
    if not prior.wants_face_embedding:
        raise UserError(f"{adapter} is a plain IP-Adapter: FaceID-PlusV2 is needed ({ADAPTER})")
    return prior


def check_schedule(path: Path) -> None:
    """Raise UserError unless a scheduler config has the noise schedule of Stable Diffusion 1.5."""
    given = read_json(path)
    for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"):
        if given.get(key, SCHEDULE[key]) != SCHEDULE[key]:
            raise UserError(
                f"{path} is of another model: its {key} is {given[key]}, that of Stable Diffusion 1.5 is "
                f"{SCHEDULE[key]}"
            )


def check_sd15(networks: Mapping[Kind, Any], names: Mapping[Kind, str]) -> None:
    """Raise UserError for networks that are not Stable Diffusion 1.5's."""
    unet, vae, controlnet = (networks[kind].config for kind in ("unet", "vae", "controlnet"))
    if unet.get("addition_embed_type") or isinstance(unet.cross_attention_dim, (list, tuple)):
        raise UserError(f"{names['unet']} holds SDXL weights: a Stable Diffusion 1.5 model is needed")
    if int(unet.in_channels) != int(unet.out_channels):
        raise UserError(
            f"{names['unet']} has {unet.in_channels} input channels, as inpainting and editing models do: a "
            "text-to-image model is needed"
        )
    wanted = PUBLISHED["vae"]["scaling_factor"]
    if abs(float(vae.scaling_factor or 0) - wanted) > 1e-4:
        raise UserError(
            f"{names['vae']} is a VAE of another model: its scaling_factor is {vae.scaling_factor}, that "
            f"of Stable Diffusion 1.5 is {wanted}"
        )
    if int(controlnet.conditioning_channels) != 3:
        raise UserError(f"{names['controlnet']} does not take pose drawings, which are RGB")
