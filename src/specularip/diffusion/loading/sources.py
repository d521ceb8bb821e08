"""Locates weights on disk or in the Hugging Face hub's local cache. Free of torch; no network access.

A source is a repository on the hub (already downloaded), a folder in diffusers' layout, or a file of weights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from specularip.errors import MissingWeights, UserError

ADAPTER = "ip-adapter-faceid-plusv2_sd15.bin"
"""The published file of FaceID-PlusV2."""
PRIOR_PARTS = ("unet", "scheduler", "text_encoder", "tokenizer")
"""Folders that every prior in diffusers' layout must have."""
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""File names of weights, without ending, in folders of diffusers and transformers."""


def hub_id(source: str) -> tuple[str, str] | None:
    """Repository and path in it ("" for all of it) of a source that may be on the hub; None for a path on
    disk."""
    if os.path.exists(on_disk(source)):
        return None
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/([\w./-]+))?", source)
    if match is None or (match[2] is None and re.search(r"\.(safetensors|bin|ckpt|pth?)$", source)):
        return None
    return match[1], (match[2] or "").strip("/")


def on_disk(source: str) -> Path:
    """A source as a path. "~" is the home folder, and stays "~" where there is none."""
    return Path(os.path.expanduser(source))


def resolve(source: str) -> Path:
    """The folder or file of a source, on disk or in the hub's local cache.

    Raises MissingWeights for a hub id that is not downloaded, UserError for a path that does not exist.
    """
    path = on_disk(source)
    if source and os.path.exists(path):  # unlike Path.exists, False for strings that cannot be a path
        return path
    name = hub_id(source)
    if name is None:
        raise UserError(f"there is no file or folder '{source}'")
    snapshot = cached(name[0])
    if snapshot is None:
        raise MissingWeights(f"{source} is neither a file or folder on this machine nor in the hub's cache")
    path = snapshot / name[1]
    if not path.exists():
        raise MissingWeights(f"{name[1]} of {name[0]} is not in the hub's cache")
    return path


def repository_folder(repository: str) -> Path:
    """Where the hub's local cache keeps a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def cached(repository: str) -> Path | None:
    """The folder of a repository's current snapshot in the hub's local cache, which may be incomplete; None
    if there is none.

    Follows the cache's documented layout: huggingface_hub's own look-up requires every file of a repository,
    and only some are needed here.
    """
    home = repository_folder(repository)
    main = home / "refs" / "main"
    if not main.is_file():
        return None
    snapshot = home / "snapshots" / main.read_text().strip()
    return snapshot if snapshot.is_dir() else None


def in_hub_cache(path: Path) -> bool:
    """Whether a path lies in a snapshot of the hub's cache, so that what it lacks can be downloaded."""
    return "snapshots" in path.parts


def pick_weights(names: Iterable[str]) -> str | None:
    """Which of a folder's files holds the weights: full before half precision, safetensors before pickles.

    An index (`*.safetensors.index.json`) stands for the shards that it lists. None: there are no weights.
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
    """Where a network is: `root` itself if it is a file or the network's own folder, else its folder `part`.

    Raises UserError if it is neither (MissingWeights within the hub's cache).
    """
    inside = os.path.isdir(root / part)  # unlike Path.is_dir, False where access is denied
    if os.path.isfile(root) or (os.path.isfile(root / "config.json") and not inside):
        return root
    if not inside:
        error = MissingWeights if in_hub_cache(root) else UserError
        raise error(f"{root} holds neither a config.json nor a folder {part}/")
    return root / part
