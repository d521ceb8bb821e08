"""Downloads of what a preset needs, as far as that needs no person: huggingface_hub's cache, torch's hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from .diffusion.sources import hub_id
from .errors import UserError
from .models import Model, needed

SPARE = 1 << 30
"""Bytes that a download leaves free on the disk."""


def fetch(models: Sequence[Model], say: Callable[[str], None] = print, endpoint: str | None = None) -> None:
    """Download the files of `models` that are missing or damaged, going on where a download stopped.

    Files from the hub go to huggingface_hub's cache (HF_HOME moves it), where every other program that uses
    the same models finds them. Paths on disk are left alone. endpoint: another hub. Raises UserError where
    the hub does not answer, does not have the files, or the disk is too small.
    """
    for model in models:
        if model.whole:
            say(f"{model.name}: here and whole")
        elif model.by_hand:
            say(f"{model.name}: needs you. It is {model.licence}; {model.by_hand}")
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
            hf_hub_download(repository, name, endpoint=endpoint)
    except GatedRepoError as error:
        raise UserError(
            f"{repository} asks for your consent: accept its terms at {model.page}, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the hub has no public repository {repository}: check the name, or get the files elsewhere and give "
            "their folder"
        ) from error
    except UserError:
        raise
    except Exception as error:  # the hub's errors, or those of whichever library it speaks HTTP with
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot download {repository}: {reason}; the same command goes on where it stopped"
        ) from error


def _wanted(model: Model, inside: str, sizes: dict[str, int]) -> list[str]:
    """The repository's files to download. `inside`: the file or folder in it that the source names, or ""."""
    if inside in sizes:
        return [inside]
    prefix = f"{inside}/" if inside else ""
    names = [name.removeprefix(prefix) for name in sizes if name.startswith(prefix)]
    if model.part == "ip_adapter":
        names, lacking = [name for name in names if name == "ip-adapter-faceid-plusv2_sd15.bin"], [inside]
        lacking = [] if names else ["ip-adapter-faceid-plusv2_sd15.bin"]
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
