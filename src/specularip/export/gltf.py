"""glTF 2.0 in one binary file (.glb): its JSON, and the arrays that accessors describe.

Header, JSON chunk, binary chunk, as in the specification's section 4.4. What arrays mean is decided
elsewhere: `glb` has the Gaussians, `glb_skeleton` the skeleton and its motions.
"""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from specularip.errors import DamagedFile, UserError, quoted
from specularip.files import atomic_path
from specularip.json_reading import parse_object
from specularip.version import __version__

Json = dict[str, Any]

MAGIC, VERSION = 0x46546C67, 2
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942
COMPONENT_TYPES = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
SHAPES: dict[str, tuple[int, ...]] = {
    "SCALAR": (),
    "VEC2": (2,),
    "VEC3": (3,),
    "VEC4": (4,),
    "MAT4": (4, 4),
}
"""Shapes of an element. Matrices are stored column by column."""
MAX_JSON = 8 << 20
"""Bytes of JSON that are read: parsed, they take up to twenty times as much."""
VERTEX_DATA = 34962


class Builder:
    """A file in the making: fill `json`, add arrays, write."""

    def __init__(self) -> None:
        self.json: Json = {
            "asset": {"version": "2.0", "generator": f"SpecularIP {__version__}"},
            "bufferViews": [],
            "accessors": [],
        }
        self._arrays: list[np.ndarray] = []
        self._length = 0

    def add(self, name: str, item: Json) -> int:
        """Append to a top-level list, such as nodes; the index there."""
        items = self.json.setdefault(name, [])
        items.append(item)
        return len(items) - 1

    def accessor(
        self,
        array: np.ndarray,
        *,
        normalized: bool = False,
        bounds: bool = False,
        vertices: bool = False,
    ) -> int:
        """The index of an accessor of `array` [N, *shape of an element]. normalized: integers stand for 0..1
        or −1..1. bounds: with minimum and maximum, which some accessors need. vertices: of an attribute."""
        if array.shape[1:] == (4, 4):
            array = array.swapaxes(1, 2)
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        view: Json = {"buffer": 0, "byteOffset": self._length, "byteLength": data.nbytes}
        if vertices:
            view["target"] = VERTEX_DATA
        kind = {code: number for number, code in COMPONENT_TYPES.items()}[data.dtype.str[1:]]
        accessor: Json = {
            "bufferView": self.add("bufferViews", view),
            "componentType": kind,
            "count": len(data),
            "type": next(name for name, shape in SHAPES.items() if shape == data.shape[1:]),
        }
        if normalized:
            accessor["normalized"] = True
        if bounds:
            flat = data.reshape(len(data), -1)
            accessor |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        self._arrays.append(data)
        self._length += _padded(data.nbytes)
        return self.add("accessors", accessor)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write atomically. Raises UserError if the file cannot be written, or is larger than 4 GiB."""
        text = json.dumps(
            self.json | {"buffers": [{"byteLength": self._length}]}, separators=(",", ":"), allow_nan=False
        ).encode()
        text += b" " * (_padded(len(text)) - len(text))
        length = 12 + 8 + len(text) + 8 + self._length
        if length >= 1 << 32:
            raise UserError(f"cannot write {path}: a .glb holds at most 4 GiB, this is {length >> 30} GiB")
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.write(struct.pack("<3I", MAGIC, VERSION, length))
            file.write(struct.pack("<2I", len(text), JSON_CHUNK) + text)
            file.write(struct.pack("<2I", self._length, BINARY_CHUNK))
            for array in self._arrays:
                file.write(array.data)
                file.write(b"\0" * (_padded(array.nbytes) - array.nbytes))


class Document:
    """A file that was read. Every access is checked, and raises UserError with one line where the file
    contradicts itself or the specification.

    json: the document. size: of the file, in bytes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises UserError if the file cannot be read or is damaged, or refers to other files."""
        self.path = Path(path)
        data = self._read()
        self.size = len(data)
        self.json, self._binary = self._chunks(memoryview(data))
        if not isinstance(asset := self.json.get("asset"), dict) or str(asset.get("version"))[:2] != "2.":
            raise self.error("it is not glTF 2")
        self._items: dict[str, list[Json]] = {}
        self._check_views()

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.path} cannot be read: {problem}")

    def items(self, name: str) -> list[Json]:
        """A top-level list, such as nodes; empty where it is absent."""
        if name not in self._items:  # checked once: there may be very many
            self._items[name] = self.objects(self.json, name)
        return self._items[name]

    def item(self, name: str, index: Any) -> Json:
        """An element of a top-level list, by an index from the file."""
        items = self.items(name)
        if not _whole(index) or not 0 <= index < len(items):
            raise self.error(f"it has no {name}[{quoted(index, 40)}]")
        return items[index]

    def objects(self, parent: Json, name: str) -> list[Json]:
        """A list of objects."""
        found = parent.get(name, [])
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise self.error(f"{name} is not a list of objects")
        return found

    def object(self, parent: Json, name: str) -> Json:
        """An object, empty where it is absent."""
        found = parent.get(name, {})
        if not isinstance(found, dict):
            raise self.error(f"{name} is not an object")
        return found

    def numbers(self, parent: Json, name: str, default: list[float]) -> np.ndarray:
        """A list of as many finite numbers as `default` has, float64."""
        found = parent.get(name, default)
        if not isinstance(found, list) or len(found) != len(default) or not all(map(_number, found)):
            raise self.error(f"{name} is not {len(default)} numbers")
        return np.array(found, np.float64)

    def whole(self, parent: Json, name: str, least: int, default: int | None = None) -> int:
        """A whole number, at least `least`."""
        found = parent.get(name, default)
        if not _whole(found) or found < least:
            raise self.error(f"{name} is {quoted(found, 40)}, not a whole number from {least}")
        return found

    def count(self, index: Any) -> int:
        """The number of elements of an accessor."""
        return self.whole(self.item("accessors", index), "count", 1)

    def array(self, index: Any, kind: str) -> np.ndarray:
        """The values of an accessor, a copy: float32 [N, *shape of an element of `kind`]. Normalised
        integers become 0..1 or −1..1."""
        stored = self._stored(index, kind)
        if stored.dtype.kind == "f" or not self.item("accessors", index).get("normalized", False):
            return stored.astype(np.float32)
        scale = np.float32(1 / np.iinfo(stored.dtype).max)
        return np.maximum(stored * scale, np.float32(-1))

    def integers(self, index: Any, kind: str) -> np.ndarray:
        """The values of an accessor of integers, int64."""
        stored = self._stored(index, kind)
        if stored.dtype.kind == "f":
            raise self.error(f"accessors[{index}] should have integers")
        return stored.astype(np.int64)

    def world_matrices(self) -> dict[int, np.ndarray]:
        """The nodes of the scene, and where they are: float64 [4,4]."""
        nodes = self.items("nodes")
        if self.items("scenes"):
            roots = self._indices(self.item("scenes", self.json.get("scene", 0)), "nodes")
        else:
            below = {child for node in nodes for child in self._indices(node, "children")}
            roots = [index for index in range(len(nodes)) if index not in below]
        found: dict[int, np.ndarray] = {}
        waiting = [(index, np.eye(4)) for index in roots]
        while waiting:
            index, parent = waiting.pop()
            node = self.item("nodes", index)
            if index in found:
                raise self.error(f"nodes[{index}] is in the scene twice")
            with np.errstate(all="ignore"):
                found[index] = parent @ self.local_matrix(node)
            if not np.isfinite(found[index]).all():
                raise self.error(f"the place of nodes[{index}] is not finite")
            waiting += [(child, found[index]) for child in self._indices(node, "children")]
        return found

    def local_matrix(self, node: Json) -> np.ndarray:
        """A node's place relative to its parent, float64 [4,4]."""
        if "matrix" in node:
            return self.numbers(node, "matrix", [0.0] * 16).reshape(4, 4).T
        x, y, z, w = self.rotation(node)
        matrix = np.eye(4)
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        matrix[:3, :3] *= self.numbers(node, "scale", [1.0, 1.0, 1.0])
        matrix[:3, 3] = self.numbers(node, "translation", [0.0, 0.0, 0.0])
        return matrix

    def rotation(self, node: Json) -> np.ndarray:
        """A node's own rotation, a unit quaternion xyzw."""
        rotation = self.numbers(node, "rotation", [0.0, 0.0, 0.0, 1.0])
        length = np.linalg.norm(rotation)
        if not 1e-6 < length < 1e6:
            raise self.error("a node's rotation is not a unit quaternion")
        return np.asarray(rotation / length)

    def _indices(self, parent: Json, name: str) -> list[int]:
        found = parent.get(name, [])
        if not isinstance(found, list) or not all(map(_whole, found)):
            raise self.error(f"{name} is not a list of indices")
        return found

    def _read(self) -> bytes:
        try:
            if self.path.exists() and not self.path.is_file():
                raise UserError(f"{self.path} is not a regular file")
            return self.path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from error

    def _chunks(self, data: memoryview) -> tuple[Json, memoryview]:
        """The JSON chunk, parsed, and the binary one, empty where there is none."""
        if len(data) < 20 or struct.unpack_from("<I", data)[0] != MAGIC:
            raise self.error("it is not a .glb")
        _, version, length, text_length, kind = struct.unpack_from("<5I", data)
        if version != VERSION:
            raise self.error(f"it is glTF {version}; only glTF 2 is supported")
        if length > len(data) or 20 + text_length > length or kind != JSON_CHUNK:
            raise self.error("it is cut short or damaged")
        if text_length > MAX_JSON:
            raise self.error(f"its JSON has {text_length >> 20} MiB; at most {MAX_JSON >> 20} are read")
        try:
            document = parse_object(bytes(data[20 : 20 + text_length]))
        except DamagedFile as error:
            raise self.error(f"its JSON is damaged: {error}") from None
        start = 20 + text_length
        if start + 8 > length:
            return document, data[:0]
        binary_length, kind = struct.unpack_from("<2I", data, start)
        if kind != BINARY_CHUNK or start + 8 + binary_length > length:
            raise self.error("its binary chunk is cut short or damaged")
        return document, data[start + 8 : start + 8 + binary_length]

    def _check_views(self) -> None:
        """Views lie within the binary chunk, and do not overlap unless they interleave: then they have the
        same stride."""
        for buffer in self.items("buffers"):
            if "uri" in buffer:
                raise self.error("its data are in other files: export it as one .glb")
        spans = []
        for index, view in enumerate(self.items("bufferViews")):
            start = self.whole(view, "byteOffset", 0, 0)
            end = start + self.whole(view, "byteLength", 1)
            if view.get("buffer") != 0 or end > len(self._binary):
                raise self.error(f"bufferViews[{index}] is outside of the binary chunk")
            stride = self.whole(view, "byteStride", 4) if "byteStride" in view else 0
            spans.append((start, end, stride, index))
        reached, stride, before = 0, 0, 0
        for start, end, own, index in sorted(spans):
            if start < reached and (own == 0 or own != stride):
                raise self.error(f"bufferViews[{index}] and [{before}] overlap")
            if end > reached:
                reached, stride, before = end, own, index

    def _stored(self, index: Any, kind: str) -> np.ndarray:
        """The elements of an accessor as they are in the file."""
        accessor = self.item("accessors", index)
        name = f"accessors[{index}]"
        if accessor.get("type") != kind:
            raise self.error(f"{name} should be {kind}, not {quoted(accessor.get('type'), 40)}")
        code = COMPONENT_TYPES.get(self.whole(accessor, "componentType", 0))
        if code is None:
            raise self.error(f"{name} has an unknown componentType")
        if "sparse" in accessor or "bufferView" not in accessor:
            raise self.error(f"{name} is sparse or has no data, which is not supported")
        view = self.item("bufferViews", accessor["bufferView"])
        count, offset = self.count(index), self.whole(accessor, "byteOffset", 0, 0)
        shape, dtype = SHAPES[kind], np.dtype("<" + code)
        size = dtype.itemsize * math.prod(shape)
        stride = view.get("byteStride", size)
        if stride < size or offset + (count - 1) * stride + size > view["byteLength"]:
            raise self.error(f"{name} is outside of its bufferView")
        inner = np.empty(shape, dtype).strides
        start = view.get("byteOffset", 0) + offset
        array = np.ndarray((count, *shape), dtype, self._binary, start, (stride, *inner))
        return array.swapaxes(1, 2) if kind == "MAT4" else array


def _padded(length: int) -> int:
    """Chunks and arrays begin at multiples of four bytes."""
    return -(-length // 4) * 4


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
