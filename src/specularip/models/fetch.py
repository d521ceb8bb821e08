"""Downloads of what a preset needs, as far as that needs no person.

huggingface_hub keeps what it has finished, but begins a file that broke off again. A UNet is 3.4 GB, so large
files are downloaded here, into the very place where huggingface_hub then finds them.
"""

from __future__ import annotations

import os
import re
import shutil
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path

from specularip.diffusion.loading.sources import cached, hub_id, repository_folder
from specularip.errors import UserError
from specularip.models.check import ADAPTER, Model, begun, inspect_file, needed, published, sha256

SPARE = 1 << 30
"""Bytes that a download leaves free on the disk."""
TIMEOUT = 60.0
"""Seconds without an answer after which a server is given up."""


def fetch(models: Sequence[Model], log: Callable[[str], None] = print, endpoint: str | None = None) -> None:
    """Download the files of `models` that are missing or damaged, going on where a download stopped.

    Files from the hub go to huggingface_hub's cache (HF_HOME moves it), where every other program that uses
    the same models finds them. Paths on disk are left alone. endpoint: another hub. Raises UserError where
    the hub does not answer, does not have the files, or the disk is too small.
    """
    for model in sorted(models, key=lambda model: not model.by_hand):  # before hours of downloads
        if model.optional:
            log(
                f"{model.name}: optional, and needs you. It is {model.licence}; {model.page}: {model.by_hand}"
            )
        elif model.whole:
            log(f"{model.name}: here and whole")
        elif model.by_hand:
            log(f"{model.name}: needs you. It is {model.licence}; {model.page}: {model.by_hand}")
        elif model.part and (name := hub_id(model.source)):
            _fetch_repository(model, *name, log, endpoint)
        elif model.urls:
            _fetch_urls(model, log)
        else:
            log(f"{model.name}: nothing to download, {model.source} is left alone")


def _fetch_repository(
    model: Model, repository: str, inside: str, log: Callable[[str], None], endpoint: str | None
) -> None:
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if inside.endswith(".ckpt"):
        raise UserError(f"{model.source} is a .ckpt pickle, which is not read: name a .safetensors")
    try:
        # A damaged file would be taken for downloaded: it goes first, and so does what its link leads to.
        for file in model.files:
            if file.problem and file.path.is_file():
                file.path.resolve().unlink()
                file.path.unlink(missing_ok=True)
        info = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True, timeout=TIMEOUT)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        names = _wanted(model, inside, sizes)
        here = cached(repository)
        new = [name for name in names if here is None or not (here / name).is_file()]
        total = sum(sizes[name] for name in new) - begun(repository_folder(repository) / "blobs")
        _check_room(Path(constants.HF_HUB_CACHE), total, model.name)
        log(f"{model.name}: {len(new)} files, {total / 1e6:.0f} MB, from {model.page} ({model.licence})")
        for name in names:
            _fetch_large(repository, name, endpoint)
            hf_hub_download(repository, name, endpoint=endpoint)
    except GatedRepoError as error:
        raise UserError(
            f"{repository} asks for your consent: accept its terms at {model.page}, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the hub has no public repository {repository}: check the name, or get the files elsewhere and "
            "give their folder"
        ) from error
    except UserError:
        raise
    except Exception as error:  # the hub's errors, or those of whichever library it speaks HTTP with
        raise UserError(_broke_off(repository, error)) from error


def _broke_off(what: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"cannot download {what}: {reason}; the same command goes on where it stopped"


def _fetch_large(repository: str, name: str, endpoint: str | None) -> None:
    """Download a large file to where the cache keeps its content, which is named by its SHA-256."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    about = get_hf_file_metadata(hf_hub_url(repository, name, endpoint=endpoint))
    if about.size and about.etag and re.fullmatch("[0-9a-f]{64}", about.etag):  # else huggingface_hub does it
        blob = repository_folder(repository) / "blobs" / about.etag
        if not blob.is_file():
            download(about.location, blob, name, about.size, about.etag)


def download(url: str, target: Path, name: str, size: int = 0, digest: str = "") -> None:
    """Download a file, going on where an earlier try stopped; `target` appears only once it is whole.

    size: its bytes, 0 if only the server knows. digest: its SHA-256 or that one's beginning, "" if unknown.
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
        if target.is_file():  # by another process, while this one waited
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
            raise OSError("the connection broke off")
        if (size and have > size) or (digest and not sha256(part).startswith(digest)):
            part.unlink()
            raise OSError(f"what came as {name} is damaged and was deleted")
        os.replace(part, target)


def _wanted(model: Model, inside: str, sizes: dict[str, int]) -> list[str]:
    """The repository's files to download. `inside`: the file or folder in it that the source names, or ""."""
    if inside in sizes:
        return [inside]
    prefix = f"{inside}/" if inside else ""
    names = [name.removeprefix(prefix) for name in sizes if name.startswith(prefix)]
    if model.part == "ip_adapter":
        names, lacking = ([ADAPTER], []) if ADAPTER in names else ([], [ADAPTER])
    else:
        names, lacking = needed(model.part, names)
    if lacking:
        raise UserError(f"{model.source} on the hub holds no {', '.join(lacking)}: it is no {model.name}")
    return [prefix + name for name in names]


def _check_room(folder: Path, size: int, name: str) -> None:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < size + SPARE:
        raise UserError(
            f"{name} takes {size / 1e9:.1f} GB and {place} has {free / 1e9:.1f} GB free: make room, or set "
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
            raise UserError(_broke_off(url, error)) from error
