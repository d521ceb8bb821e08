"""Atomic file writing: JSON, PNG and bytes; a file appears complete or not at all. Names that are no text."""

from __future__ import annotations

import errno
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from specularip.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` (same suffix) to write to. It replaces `path` when the block succeeds.

    When the block fails, the temporary file is removed and `path` is unchanged. Creates missing folders. An
    OSError (disk full, no permission) becomes a UserError.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The permissions that `open` sets. Not from os.umask, whose change other threads would see.
        temporary.touch()
        permissions = temporary.stat().st_mode
        temporary.unlink()
        yield temporary
        temporary.chmod(permissions)  # some libraries create files that only the owner can read
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
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
        trial = _temporary(folder / path.name)  # its name is longer than the file's
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


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


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


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


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` atomically. Raises UserError as `atomic_path` does."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
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
