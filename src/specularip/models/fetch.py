"""Downloading the files that a preset needs, except those that require registration or consent.

huggingface_hub does not resume a file whose download was interrupted. A UNet is 3.4 GB, so large files are
downloaded here, to the place in its cache where huggingface_hub expects them.
"""

from __future__ import annotations

import os
import re
import shutil
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path

from specularip.diffusion.loading.sources import ADAPTER, cached, hub_id, repository_folder
from specularip.errors import UserError
from specularip.models.check import Model, inspect_file, needed, partial_bytes, published, sha256

SPARE = 1 << 30
"""Bytes that a download leaves free on the disk."""
TIMEOUT = 60.0
"""Seconds without data after which a download fails."""


def fetch(models: Sequence[Model], log: Callable[[str], None] = print, endpoint: str | None = None) -> None:
    """Download the files of `models` that are missing or damaged, resuming partial downloads.

    Files from the hub go to huggingface_hub's cache (moved by HF_HOME), which other programs share. Paths on
    disk are not touched. endpoint: URL of another hub. Raises UserError if the hub does not respond or lacks
    the files, or if the disk is too small.
    """
    # Instructions for manual downloads come before hours of automatic ones.
    for model in sorted(models, key=lambda model: not model.by_hand):
        if model.optional:
            log(f"{model.name}: optional, by hand. It is {model.licence}; {model.page}: {model.by_hand}")
        elif model.complete:
            log(f"{model.name}: complete")
        elif model.by_hand:
            log(f"{model.name}: by hand. It is {model.licence}; {model.page}: {model.by_hand}")
        elif model.part and (name := hub_id(model.source)):
            _fetch_repository(model, *name, log, endpoint)
        elif model.urls:
            _fetch_urls(model, log)
        else:
            log(f"{model.name}: not from the hub, nothing is downloaded to {model.source}")


def _fetch_repository(
    model: Model, repository: str, inside: str, log: Callable[[str], None], endpoint: str | None
) -> None:
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if inside.endswith(".ckpt"):
        raise UserError(f"{model.source} is a .ckpt pickle, which could run code: name a .safetensors")
    try:
        # huggingface_hub treats a damaged file as complete, so it is deleted first, with its link target.
        for file in model.files:
            if file.problem and file.path.is_file():
                file.path.resolve().unlink()
                file.path.unlink(missing_ok=True)
        info = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True, timeout=TIMEOUT)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        names = _wanted(model, inside, sizes)
        here = cached(repository)
        new = [name for name in names if here is None or not (here / name).is_file()]
        total = sum(sizes[name] for name in new) - partial_bytes(repository_folder(repository) / "blobs")
        _check_space(Path(constants.HF_HUB_CACHE), total, model.name)
        log(f"{model.name}: {len(new)} files, {total / 1e6:.0f} MB, from {model.page} ({model.licence})")
        for name in names:
            _fetch_large(repository, name, endpoint)
            hf_hub_download(repository, name, endpoint=endpoint)
    except GatedRepoError as error:
        raise UserError(
            f"{repository} requires consent: accept its terms at {model.page}, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the hub has no public repository {repository}: check the name, or get the files elsewhere and "
            "give their folder"
        ) from error
    except UserError:
        raise
    except Exception as error:  # errors of the hub, or of its HTTP library
        raise UserError(_interrupted(repository, error)) from error


def _interrupted(what: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"cannot download {what}: {reason}; the same command resumes the download"


def _fetch_large(repository: str, name: str, endpoint: str | None) -> None:
    """Download a large file to its place in the cache, which is named by its SHA-256."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    about = get_hf_file_metadata(hf_hub_url(repository, name, endpoint=endpoint))
    if about.size and about.etag and re.fullmatch("[0-9a-f]{64}", about.etag):  # else left to huggingface_hub
        blob = repository_folder(repository) / "blobs" / about.etag
        if not blob.is_file():
            download(about.location, blob, name, about.size, about.etag)


def download(url: str, target: Path, name: str, size: int = 0, digest: str = "") -> None:
    """Download a file, resuming a partial one; `target` appears only when it is complete and verified.

    size: in bytes, 0 to take it from the server. digest: the SHA-256 or its first digits, "" if unknown.
    Raises OSError.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import WeakFileLock
    from tqdm.auto import tqdm

    part = target.with_name(f"{target.name}.incomplete")
    lock = Path(constants.HF_HUB_CACHE) / ".locks" / "specularip" / f"{target.name}.lock"
    for folder in (part.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if target.is_file():  # downloaded by another process meanwhile
            return
        have = part.stat().st_size if part.is_file() else 0
        if not size or have < size:
            request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                have = have if answer.status == 206 else 0
                size = size or have + int(answer.headers.get("Content-Length") or 0)
                bar = tqdm(total=size or None, initial=have, unit="B", unit_scale=True, desc=name)
                with bar, part.open("ab" if have else "wb") as file:
                    while chunk := answer.read(1 << 20):
                        file.write(chunk)
                        bar.update(len(chunk))
        have = part.stat().st_size
        if have < size:
            raise OSError("the connection was lost")
        if (size and have > size) or (digest and not sha256(part).startswith(digest)):
            part.unlink()
            raise OSError(f"the downloaded {name} is damaged and was deleted")
        os.replace(part, target)


def _wanted(model: Model, inside: str, sizes: dict[str, int]) -> list[str]:
    """The repository's files to download. inside: the file or folder in it that the source names, or "".

    Raises UserError if it lacks any."""
    if inside in sizes:
        return [inside]
    prefix = f"{inside}/" if inside else ""
    names = [name.removeprefix(prefix) for name in sizes if name.startswith(prefix)]
    if model.part == "ip_adapter":
        names, missing = ([ADAPTER], []) if ADAPTER in names else ([], [ADAPTER])
    else:
        names, missing = needed(model.part, names)
    if missing:
        raise UserError(
            f"{model.source} on the hub holds no {', '.join(missing)}, needed for the {model.name}"
        )
    return [prefix + name for name in names]


def _check_space(folder: Path, size: int, name: str) -> None:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < size + SPARE:
        raise UserError(
            f"{name} takes {size / 1e9:.1f} GB and {place} has {free / 1e9:.1f} GB free: free some, or set "
            "HF_HOME to another disk"
        )


def _fetch_urls(model: Model, log: Callable[[str], None]) -> None:
    for url in model.urls:
        target = model.root / url.rpartition("/")[2]
        if target.is_file() and not inspect_file(target, checksums=True).problem:
            continue
        log(f"{model.name}: {url} ({model.licence})")
        try:
            target.unlink(missing_ok=True)
            download(url, target, target.name, digest=published(target)[1])
        except (OSError, HTTPException) as error:
            raise UserError(_interrupted(url, error)) from error
