"""The file of a checkpoint: safetensors, with a checksum over all of it, so that damage is seen before use.

The header is JSON in the file's metadata. It holds the state's layout: nested dicts, lists and tuples, whose
tensors are those of the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specularip.errors import DamagedFile, first_line
from specularip.files import json_value, write_bytes
from specularip.json_reading import parse_object

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 3
"""Version of the file and of the states in it; a run with a checkpoint of another version cannot go on."""
HEADER, CHECKSUM = "specularip", "checksum"
"""The keys of the metadata."""
DIGITS = 32
_CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{%d})"' % DIGITS)  # quotes within a value are escaped
MAX_DEPTH = 20
"""Levels of a state. More are no state, and would exhaust the stack."""
BROKEN_LAYOUT = "the layout of its state is none"


class OtherVersion(DamagedFile):
    """A checkpoint of another version of this package; the message says which."""


@dataclass(frozen=True)
class Checkpoint:
    """name: of the phase of the run. state: nested dicts, lists and tuples of tensors on the CPU, numbers and
    strings. meta: JSON values. metrics_bytes: the length that metrics.jsonl had. path: its file. problems:
    what was wrong with newer ones, by file."""

    name: str
    state: Any
    meta: dict[str, Any]
    metrics_bytes: int = 0
    path: Path | None = None
    problems: Mapping[Path, DamagedFile] = field(default_factory=dict)


def write_checkpoint(
    path: Path,
    name: str,
    tensors: dict[str, Tensor],
    layout: Any,
    meta: Mapping[str, Any],
    metrics_bytes: int,
) -> Path:
    """Write a checkpoint atomically. tensors, layout: from `flatten_state`. Raises UserError if it cannot be
    written."""
    from safetensors.torch import save

    header = {
        "format": FORMAT,
        "name": name,
        "meta": json_value(dict(meta)),
        "layout": layout,
        "metrics_bytes": metrics_bytes,
    }
    data = save(tensors, {HEADER: json.dumps(header), CHECKSUM: "0" * DIGITS})
    return write_bytes(path, *sealed(data))


def sealed(data: bytes) -> tuple[bytes | memoryview, ...]:
    """A file with room for a checksum, in parts, and with the right one. Raises DamagedFile without room."""
    start, end = _place_of_checksum(data)
    return memoryview(data)[:start], _digest(data, start, end), memoryview(data)[end:]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what `write_checkpoint` wrote. Raises DamagedFile with the reason if it is damaged in any way or
    cannot be read, and OtherVersion."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if not path.is_file():
            raise DamagedFile("is no file")
        data = path.read_bytes()
    except OSError as error:
        raise DamagedFile(f"cannot be read: {error.strerror or error}") from None
    start, end = _place_of_checksum(data)
    if data[start:end] != _digest(data, start, end):
        raise DamagedFile("its checksum does not match")
    try:
        # Copies are aligned as the saved tensors were; otherwise matrix products differ in the last bit.
        tensors = {key: tensor.clone() for key, tensor in load(data).items()}
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedFile(f"it is no safetensors file of ours: {first_line(error)[:100]}") from None
    header = _header(data)
    if type(header.get("format")) is not int:
        raise DamagedFile("its header has no format")
    if header["format"] != FORMAT:
        raise OtherVersion(_of_format(header["format"]))
    kinds = {"format": int, "name": str, "meta": dict, "layout": dict, "metrics_bytes": int}
    if {key: type(value) for key, value in header.items()} != kinds or header["metrics_bytes"] < 0:
        raise DamagedFile("its header is none")
    state = unflatten_state(tensors, header["layout"])
    return Checkpoint(header["name"], state, header["meta"], header["metrics_bytes"], path)


def _place_of_checksum(data: bytes) -> tuple[int, int]:
    """Where the checksum's digits are. Raises OtherVersion for a file of before there were any."""
    length = int.from_bytes(data[:8], "little")
    if found := _CHECKSUM.search(data, 8, 8 + min(length, len(data))):
        return found.span(1)
    try:
        # Format 2 was the last without a checksum.
        version = _header(data)["meta"]["format"]
    except (DamagedFile, LookupError, TypeError):
        version = None
    if type(version) is int and version < FORMAT:
        raise OtherVersion(_of_format(version))
    raise DamagedFile("it has no checksum")


def _digest(data: bytes, start: int, end: int) -> bytes:
    """The checksum of all but itself: 0.7 s a GB."""
    digest = hashlib.blake2b(digest_size=DIGITS // 2)
    digest.update(memoryview(data)[:start])
    digest.update(memoryview(data)[end:])
    return digest.hexdigest().encode()


def _header(data: bytes) -> dict[str, Any]:
    """Our header, in the metadata in the JSON that a safetensors file begins with: its length in eight bytes,
    then the text. Raises DamagedFile."""
    length = int.from_bytes(data[:8], "little")
    metadata = parse_object(data[8 : 8 + min(length, len(data))]).get("__metadata__")
    header = metadata.get(HEADER) if isinstance(metadata, dict) else None
    if not isinstance(header, str):
        raise DamagedFile("it has no header of ours")
    return parse_object(header)


def _of_format(version: int) -> str:
    return f"another version of specularip made it (checkpoint format {version}, here {FORMAT})"


def flatten_state(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested state into named tensors, copied to the CPU, and the JSON layout that restores it.

    The layout also encodes integer keys and tuples, which states have and JSON lacks.
    """
    import torch

    tensors: dict[str, torch.Tensor] = {}

    def lay(value: Any, name: str) -> Any:
        if isinstance(value, torch.Tensor):
            # A separate copy: safetensors rejects tensors that share memory.
            tensors[name] = value.detach().to("cpu", copy=True).contiguous()
            return {"tensor": name}
        if isinstance(value, Mapping):
            return {"dict": [[key, lay(item, f"{name}.{key}".strip("."))] for key, item in value.items()]}
        if isinstance(value, tuple | list):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [lay(item, f"{name}.{index}".strip(".")) for index, item in enumerate(value)]}
        if value is None or isinstance(value, bool | int | float | str):
            return {"value": value}
        raise ValueError(f"state at '{name}' must be tensor, number, string, dict or list, got {type(value)}")

    return tensors, lay(state, "")


def unflatten_state(tensors: Mapping[str, Tensor], layout: Any) -> Any:
    """The inverse of `flatten_state`. Raises DamagedFile if the layout is none, or does not use each tensor
    once."""
    unused = set(tensors)

    def restore(node: Any, depth: int) -> Any:
        if depth > MAX_DEPTH or not isinstance(node, dict) or len(node) != 1:
            raise DamagedFile(BROKEN_LAYOUT)
        [(kind, value)] = node.items()
        if kind == "tensor" and isinstance(value, str) and value in unused:
            unused.remove(value)
            return tensors[value]
        if kind == "dict" and isinstance(value, list) and all(map(_is_item, value)):
            if len({key for key, _ in value}) == len(value):
                return {key: restore(item, depth + 1) for key, item in value}
        if kind in ("tuple", "list") and isinstance(value, list):
            items = [restore(item, depth + 1) for item in value]
            return tuple(items) if kind == "tuple" else items
        if kind == "value" and (value is None or isinstance(value, bool | int | float | str)):
            return value
        raise DamagedFile(BROKEN_LAYOUT)

    state = restore(layout, 0)
    if unused:
        raise DamagedFile("it has tensors that are not of its state")
    return state


def _is_item(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int)
