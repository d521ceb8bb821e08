"""Downloads of what a preset needs, as far as that needs no person: huggingface_hub's cache, torch's hub.

huggingface_hub keeps what it has finished, but begins a file that broke off again. A UNet is 3.4 GB, so large
files are downloaded here, into the very place where huggingface_hub then finds them.
"""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from .diffusion.sources import hub_id, repository_folder
from .errors import UserError
from .models import ADAPTER, Model, needed, sha256

SPARE = 1 << 30
"""Bytes that a download leaves free on the disk."""
LARGE = 1 << 20
"""Bytes from which on a file's download goes on where it stopped."""


def fetch(models: Sequence[Model], say: Callable[[str], None] = print, endpoint: str | None = None) -> None:
    """Download the files of `models` that are missing or damaged, going on where a download stopped.

    Files from the hub go to huggingface_hub's cache (HF_HOME moves it), where every other program that uses
    the same models finds them. Paths on disk are left alone. endpoint: another hub. Raises UserError where
    the hub does not answer, does not have the files, or the disk is too small.
    """
    for model in models:
        if model.optional:
            say(
                f"{model.name}: optional, and needs you. It is {model.licence}; {model.page}: {model.by_hand}"
            )
        elif model.whole:
            say(f"{model.name}: here and whole")
        elif model.by_hand:
            say(f"{model.name}: needs you. It is {model.licence}; {model.page}: {model.by_hand}")
        elif model.part and (name := hub_id(model.source)):
            _fetch_repository(model, *name, say, endpoint)
        elif model.urls:
            _fetch_urls(model, say)
        else:
            say(f"{model.name}: {model.source} is a path of yours and is left alone")


def _fetch_repository(
    model: Model, repository: str, inside: str, say: Callable[[str], None], endpoint: str | None
) -> None:
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    # A damaged file would be taken for downloaded: its blob goes first.
    for file in model.files:
        if file.problem.startswith("damaged") and file.path.resolve().parent.name == "blobs":
            file.path.resolve().unlink()
            file.path.unlink(missing_ok=True)
    try:
        info = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        names = _wanted(model, inside, sizes)
        total = sum(sizes[name] for name in names)
        _check_room(Path(constants.HF_HUB_CACHE), total, model.name)
        say(f"{model.name}: {len(names)} files, {total / 1e6:.0f} MB, from {model.page} ({model.licence})")
        for name in names:
            if sizes[name] >= LARGE:
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
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot download {repository}: {reason}; the same command goes on where it stopped"
        ) from error


def _fetch_large(repository: str, name: str, endpoint: str | None) -> None:
    """Download a file to where the cache keeps its content, by its checksum, going on where that stopped."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from tqdm.auto import tqdm

    about = get_hf_file_metadata(hf_hub_url(repository, name, endpoint=endpoint))
    if not about.etag or not about.size:
        return  # then huggingface_hub does it as it can
    blob = repository_folder(repository) / "blobs" / about.etag
    if blob.is_file():
        return
    part = blob.with_name(f"{blob.name}.incomplete")
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.is_file() else 0
    if have < about.size:
        request = urllib.request.Request(about.location, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=60) as answer:
            goes_on = answer.status == 206
            bar = tqdm(total=about.size, initial=have if goes_on else 0, unit="B", unit_scale=True, desc=name)
            with bar, part.open("ab" if goes_on else "wb") as file:
                while chunk := answer.read(1 << 20):
                    file.write(chunk)
                    bar.update(len(chunk))
    if part.stat().st_size < about.size:
        raise OSError("the connection broke off")
    if part.stat().st_size > about.size or (len(about.etag) == 64 and sha256(part) != about.etag):
        part.unlink()
        raise OSError(f"what came as {name} is damaged and was deleted")
    os.replace(part, blob)


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
            "HF_HOME to "
            "another disk"
        )


def _fetch_urls(model: Model, say: Callable[[str], None]) -> None:
    from torch.hub import download_url_to_file

    for url, file in zip(model.urls, model.files):
        if not file.problem:
            continue
        say(f"{model.name}: {url} ({model.licence})")
        file.path.parent.mkdir(parents=True, exist_ok=True)
        stem = file.path.stem.rpartition("-")[2]
        try:
            download_url_to_file(url, str(file.path), hash_prefix=stem if len(stem) == 8 else None)
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot download {url}: {error}") from error
