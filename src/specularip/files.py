"""Atomic file writing: JSON, PNG and bytes; a file appears complete or not at all. Names that are no text."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import socket
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from specularip.errors import UserError, reason

if TYPE_CHECKING:
    from torch import Tensor

STALE_SECONDS = 24 * 3600.0
"""Age at which a temporary file of an unknown process is one that a killed process left."""
_TEMPORARY = re.compile(
    r"\.(?P<stem>.+)\.((?P<machine>[0-9a-f]{8})-)?(?P<process>\d+)\.tmp(?P<suffix>\.[^.]+)?", re.DOTALL
)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` (same suffix) to write to. It replaces `path` when the block succeeds.

    When the block fails, the temporary file is removed and `path` is unchanged. Creates missing folders. An
    OSError (disk full, no permission) becomes a UserError. Temporary files for the same `path` that killed
    processes left are removed, too.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The permissions that `open` sets. Not from os.umask, whose change other threads would see.
        temporary.touch()
        permissions = temporary.stat().st_mode
        temporary.unlink()
        yield temporary
        temporary.chmod(permissions)  # some libraries create files that only the owner can read
        os.replace(temporary, path)
        _remove_stale(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from error
    finally:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # the folder may be missing or read-only: the first error has been raised


def check_writable(path: str | os.PathLike[str]) -> None:
    """Try now what `atomic_path` will do later, and leave nothing behind: create a file beside `path`, or in
    the nearest folder above it that exists. Raises UserError if that fails or `path` is a folder."""
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder")
        folder = existing_folder(path.parent)
        trial = temporary_name(folder / path.name)  # its name is longer than the file's
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from error


def existing_folder(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists. Raises NotADirectoryError if a file is there, and
    FileNotFoundError for names in a current folder that has been deleted."""
    while not path.exists():
        if path == path.parent:
            raise FileNotFoundError(errno.ENOENT, "the current folder has been deleted")
        path = path.parent
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{path} is a file")
    return path


def temporary_name(path: Path) -> Path:
    """Where this process writes what is to become `path`."""
    return path.with_name(f".{path.stem}.{_machine()}-{os.getpid()}.tmp{path.suffix}")


def is_temporary(name: str) -> bool:
    """Whether it is a file name that `temporary_name` makes, or made before it named the machine."""
    return _TEMPORARY.fullmatch(name) is not None


@cache
def _machine() -> str:
    """Names what numbers of processes are of: this host, and on Linux the container."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return hashlib.blake2b(f"{socket.gethostname()} {namespace}".encode(), digest_size=4).hexdigest()


def _remove_stale(path: Path) -> None:
    """Delete temporary files for `path` whose process has ended. On a file system that machines share, the
    process may be one of another: then they are stale after a day without a change."""
    for entry in path.parent.iterdir():
        if not entry.name.startswith(f".{path.stem}.") or (match := _TEMPORARY.fullmatch(entry.name)) is None:
            continue
        if (match["stem"], match["suffix"] or "") != (path.stem, path.suffix):
            continue
        with suppress(OSError):
            ended = match["machine"] == _machine() and not _is_alive(int(match["process"]))
            if ended or time.time() - entry.stat().st_mtime > STALE_SECONDS:
                entry.unlink()


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # where signal 0 is not a question but Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's, or no number of a process
        return True
    return True


def is_zip(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a zip archive; `zipfile.is_zipfile` raises for some damaged ones."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


@contextmanager
def utf8_name(path: str | os.PathLike[str]) -> Iterator[str]:
    """A name to read `path` by within the block, for libraries that take names in UTF-8 only, as safetensors
    does. Other names are usual where an archive or a disk comes from another system, and in old locales."""
    try:
        is_utf8 = os.fsencode(path).decode() == os.fspath(path)
    except UnicodeDecodeError:
        is_utf8 = False
    if is_utf8 or os.name == "nt":
        yield os.fspath(path)
        return
    with open(path, "rb") as file:
        yield f"/dev/fd/{file.fileno()}"


def write_bytes(path: str | os.PathLike[str], *parts: bytes | memoryview) -> Path:
    """Write `parts`, one after the other, atomically. Raises UserError as `atomic_path` does."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())  # otherwise a power cut may leave an empty file under the new name
    return Path(path)


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write `to_json` of `value` atomically."""
    return write_bytes(path, to_json(value).encode())


def to_json(value: Any) -> str:
    """Indented JSON text of `json_value`."""
    return json.dumps(json_value(value), indent=2, allow_nan=False) + "\n"


def json_value(value: Any) -> Any:
    """`value` as JSON represents it: dataclasses become dicts, tuples lists, paths strings, tensors numbers
    or lists, NaN and infinity None."""
    if is_dataclass(value) and not isinstance(value, type):
        return json_value(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "tolist"):  # NumPy and PyTorch, scalars too
        return json_value(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def write_png(path: str | os.PathLike[str], image: np.ndarray | Tensor) -> Path:
    """Write an image [H,W,3], [H,W,4] (straight alpha), [H,W,1] or [H,W], uint8 or float in 0..1, array or
    tensor, as PNG."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ValueError(f"image must be [H,W,3], [H,W,4], [H,W,1] or [H,W], got {list(image.shape)}")
    pixels = to_uint8(image)
    data = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(data, "PNG")
    return write_bytes(path, data.getvalue())


def to_uint8(image: np.ndarray | Tensor) -> np.ndarray:
    """An image of floats in 0..1, array or tensor, as rounded bytes; NaN becomes 0. uint8 is unchanged."""
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8:
            return image
        return (np.clip(np.nan_to_num(image.astype(np.float32)), 0, 1) * 255 + 0.5).astype(np.uint8)
    if image.is_floating_point():
        image = image.detach().float().nan_to_num().clamp(0, 1) * 255 + 0.5
    return image.byte().cpu().numpy()
