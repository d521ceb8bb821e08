"""The sd15 preset's networks: where each comes from, and all of them as one `Prior`.

What the method names is published in pieces by several people, so a source is given for each: a repository
on the Hugging Face hub (already downloaded: nothing here touches the network), a folder in diffusers' layout,
or a single file of weights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from specularip.diffusion.loading.settings import Sd15Sources
from specularip.errors import UserError

if TYPE_CHECKING:  # the command line reads the sources below, and should not wait for torch
    import torch

    from specularip.diffusion.prior import Prior

FETCH = "`specularip models fetch --preset sd15` downloads it"


def hub_id(source: str) -> tuple[str, str] | None:
    """Repository and path in it (perhaps "") of a source that may be on the hub; None for a path on disk."""
    if os.path.exists(on_disk(source)):
        return None
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/([\w./-]+))?", source)
    if match is None or (match[2] is None and re.search(r"\.(safetensors|bin|ckpt|pth?)$", source)):
        return None
    return match[1], (match[2] or "").strip("/")


def on_disk(source: str) -> Path:
    """A source as a path; "~" is the home folder, and stays "~" where there is none."""
    return Path(os.path.expanduser(source))


def resolve(source: str) -> Path:
    """The folder or file of a source, on disk or in the hub's local cache. Raises UserError."""
    path = on_disk(source)
    if source and os.path.exists(path):  # unlike Path.exists, False for whatever can be no path
        return path
    name = hub_id(source)
    if name is None:
        raise UserError(f"there is no file or folder '{source}'")
    snapshot = cached(name[0])
    if snapshot is None:
        raise UserError(f"{source} is neither a file nor a folder here, nor downloaded from the hub: {FETCH}")
    path = snapshot / name[1]
    if not path.exists():
        raise UserError(f"{name[1]} of {name[0]} is not downloaded from the hub: {FETCH}")
    return path


def repository_folder(repository: str) -> Path:
    """Where the hub's local cache keeps a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def cached(repository: str) -> Path | None:
    """A hub repository's folder in the local cache, as far as it is downloaded; None if nothing is.

    Looked up by the cache's documented layout: the library's own look-up wants every file of a repository,
    and only some are needed here.
    """
    home = repository_folder(repository)
    main = home / "refs" / "main"
    if not main.is_file():
        return None
    snapshot = home / "snapshots" / main.read_text().strip()
    return snapshot if snapshot.is_dir() else None


STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Names of weights in folders of diffusers and transformers."""


def pick_weights(names: Iterable[str]) -> str | None:
    """Which of a folder's files holds the weights: whole before half precision, safetensors before pickles.

    An index (`*.safetensors.index.json`) stands for the pieces that it lists. None: there are no weights.
    """
    have = set(names)
    endings = (".safetensors", ".safetensors.index.json", ".fp16.safetensors", ".bin", ".fp16.bin")
    for ending in endings:
        for stem in STEMS:
            if stem + ending in have:
                return stem + ending
    others = sorted(name for name in have if name.endswith(".safetensors"))
    return others[0] if len(others) == 1 else None


def part_of(root: Path, part: str) -> Path:
    """Where one network lies: `root` itself if it is a file or holds that network, else its folder `part`."""
    inside = os.path.isdir(root / part)  # unlike Path.is_dir, False where it may not be looked at
    if os.path.isfile(root) or (os.path.isfile(root / "config.json") and not inside):
        return root
    if not inside:
        hint = f": {FETCH}" if "snapshots" in root.parts else ""
        raise UserError(f"{root} holds neither a config.json nor a folder {part}/{hint}")
    return root / part


def load_sd15(
    sources: Sd15Sources | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = "auto",
) -> Prior:
    """Read the full-size prior, frozen, weights in `dtype` (see `pick_dtype`), channels last.

    None: the published sources. The adapter's LoRA is merged into the UNet. Raises UserError, naming the file
    and the key, for a part that is not there, not whole, or of another model.
    """
    from specularip.diffusion.loading.folder import assemble, find_adapter, load_tokenizer, make_scheduler
    from specularip.diffusion.loading.networks import Kind, check_sd15, check_together, load_network
    from specularip.diffusion.loading.weights import check_file

    sources = sources or Sd15Sources()
    # All are found before any is read: reading takes long.
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
        published = adapter / "ip-adapter-faceid-plusv2_sd15.bin"
        adapter = published if published.is_file() else find_adapter(adapter)
    for place in (*places.values(), adapter):
        if place.is_file():
            check_file(place)
    words = base
    if base.is_file():
        words = resolve(sources.tokenizer)
    if (words / "tokenizer").is_dir():
        words = words / "tokenizer"
    tokenizer = load_tokenizer(words)
    if base.is_dir():
        check_schedule(base / "scheduler" / "scheduler_config.json")
    scheduler = make_scheduler(dict(SCHEDULE), base)
    networks = {kind: load_network(kind, place) for kind, place in places.items()}
    names: dict[Kind, str] = {kind: str(place) for kind, place in places.items()}
    check_sd15(networks, names)
    check_together(networks, names)
    beside = places["image_encoder"] if places["image_encoder"].is_dir() else places["image_encoder"].parent
    prior = assemble(
        networks, tokenizer, scheduler, adapter, beside, lora_merged=False, device=device, dtype=dtype
    )
    if not prior.wants_face_embedding:
        raise UserError(
            f"{adapter} is an IP-Adapter for pictures: the sd15 preset needs FaceID-PlusV2 "
            "(ip-adapter-faceid-plusv2_sd15.bin)"
        )
    return prior


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
"""Stable Diffusion 1.5's noise, walked as the method does; folders publish any sampler's way."""


def check_schedule(path: Path) -> None:
    """UserError if a folder's schedule is not the noise that Stable Diffusion 1.5 was trained on."""
    from specularip.diffusion.loading.weights import read_json

    given = read_json(path)
    for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"):
        if given.get(key, SCHEDULE[key]) != SCHEDULE[key]:
            raise UserError(
                f"{path} is of another model: its {key} is {given[key]}, Stable Diffusion 1.5's is "
                f"{SCHEDULE[key]}"
            )
