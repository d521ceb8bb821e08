"""Baked colours that are kept beside the avatar, so that it is baked once."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import torch

from specularip.avatar import Avatar, load
from specularip.colors import Asgs
from specularip.errors import UserError
from specularip.progress import Progress
from specularip.raster.cuda import pick_device
from specularip.run_folder import BAKED
from specularip.version import __version__

BAKED_FROM = "baked_from"
"""Where the provenance of a kept file has the fingerprint of the avatar that it was baked from."""


def fingerprint(avatar: Avatar) -> str:
    """Changes with anything that the baked colours depend on, and with the version of this package."""
    digest = hashlib.sha256(f"{__version__} {avatar.antialiased}".encode())
    tensors = dict(avatar.gaussians.tensors())
    if avatar.head is not None:
        digest.update(repr(avatar.head.config).encode())
        tensors |= {f"head.{name}": tensor for name, tensor in avatar.head.state_dict().items()}
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {list(data.shape)} {data.dtype}".encode())
        digest.update(data.numpy().tobytes())
    return digest.hexdigest()


def file_for(source: Path, mark: str) -> Path:
    """Where the baked colours of the avatar at `source` are kept: in its run folder, or by its fingerprint in
    the user's cache."""
    if source.is_dir():
        return source / BAKED
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "specularip" / "baked" / f"{mark[:32]}.safetensors"


def kept(avatar: Avatar, file: Path, mark: str) -> Avatar | None:
    """The avatar with the colours in `file`. None if there are none, or if they are of another avatar."""
    if not file.is_file():
        return None
    try:
        found = load(file)
    except UserError:
        return None  # damaged or of another version: baked again
    fits = isinstance(found.colors, Asgs) and len(found.gaussians) == len(avatar.gaussians)
    if not fits or found.provenance.get(BAKED_FROM) != mark:
        return None
    return replace(avatar, head=None, colors=found.colors)


def bake_and_keep(
    avatar: Avatar, file: Path, mark: str, progress: Progress, device: str | None = None
) -> tuple[Avatar, str]:
    """The avatar, baked on `device`, by default the GPU if there is one, and saved to `file`. Also returns
    why it could not be saved, "" if it was."""
    baked = avatar.to(pick_device(device)).baked("asg", progress=progress).to(torch.device("cpu"))
    try:
        replace(baked, provenance={**baked.provenance, BAKED_FROM: mark}).save(file)
    except UserError as error:
        return baked, str(error)
    return baked, ""
