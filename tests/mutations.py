"""Damage to files: the same seed damages in the same way."""

from __future__ import annotations

import copy
import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Damage = Callable[[bytes, int], bytes]
"""A file's bytes and a seed -> the bytes of a damaged file."""

EXTREMES = (
    b"0", b"-1", b"nan", b"inf", b"-inf", b"1e308", b"1e-320", b"1099511627776", b"18446744073709551616", b"",
    b"0x10", b"1.0.0", b"--3", b"\xff\xfe", b"1e", b"65535",
)  # fmt: skip
"""Numbers that readers stumble over."""
WHOLE = (
    0,
    1,
    -1,
    127,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
"""Whole numbers that readers stumble over, as sizes above all."""
DEEP = "@deep@"
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "\0", "\x1b[31mred\n", "../../x", "é" * 9000, "\ud800", 0, -1, 1, 2, 65536),
    *(2**31, 2**63, 2**64, 10**30, 10**400, -(10**400), 1e308, -1e308, 1e-320, float("nan"), float("inf")),
    *([], {}, [[]], [None], [0], [1, 2, 3], [1e308] * 3, {"a": 1}, ["x"], [10**20] * 4, DEEP),
)
"""JSON that readers stumble over."""
_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def mutate(data: bytes, seed: int) -> bytes:
    """`data` with one to four kinds of damage: flipped bits, bytes set, chunks cut out, doubled, moved or
    inserted, the end cut off, numbers of the text replaced by extreme ones."""
    generator = np.random.default_rng(seed)
    damaged = bytearray(data)
    kinds = (_flip, _set, _cut, _double, _insert, _truncate, _edit, _whole)
    for _ in range(int(generator.integers(1, 5))):
        kinds[int(generator.integers(len(kinds)))](damaged, generator)
    return bytes(damaged)


def _chunk(data: bytearray, generator: np.random.Generator) -> slice:
    """Somewhere, more often at the start, where headers are; short chunks more often than long ones."""
    start = int(len(data) * generator.random() ** 3)
    return slice(start, start + int(2 ** (generator.random() * np.log2(len(data) + 2))))


def _flip(data: bytearray, generator: np.random.Generator) -> None:
    for _ in range(int(generator.integers(1, 9))):
        if data:
            data[_chunk(data, generator).start] ^= 1 << int(generator.integers(8))


def _set(data: bytearray, generator: np.random.Generator) -> None:
    start = _chunk(data, generator).start
    count = min(int(generator.choice([1, 2, 4, 8])), len(data) - start)
    data[start : start + count] = bytes([int(generator.choice([0, 255, 127, 128]))]) * count


def _cut(data: bytearray, generator: np.random.Generator) -> None:
    del data[_chunk(data, generator)]


def _double(data: bytearray, generator: np.random.Generator) -> None:
    chunk = _chunk(data, generator)
    to = _chunk(data, generator).start
    data[to:to] = data[chunk]


def _insert(data: bytearray, generator: np.random.Generator) -> None:
    to = _chunk(data, generator).start
    data[to:to] = generator.bytes(int(generator.integers(1, 65)))


def _truncate(data: bytearray, generator: np.random.Generator) -> None:
    del data[int(len(data) * generator.random()) :]


def _edit(data: bytearray, generator: np.random.Generator) -> None:
    start = _chunk(data, generator).start
    if match := _NUMBER.search(data, start, start + 4096):
        data[match.start() : match.end()] = EXTREMES[int(generator.integers(len(EXTREMES)))]


def _whole(data: bytearray, generator: np.random.Generator) -> None:
    """A whole number of one to eight bytes, in either byte order, at a multiple of its size."""
    size = int(generator.choice([1, 2, 4, 8]))
    start = _chunk(data, generator).start // size * size
    number = WHOLE[int(generator.integers(len(WHOLE)))] % 256**size
    number = max(0, number + int(generator.integers(-1, 2))) % 256**size
    if start + size <= len(data):
        data[start : start + size] = number.to_bytes(size, "little" if generator.random() < 0.7 else "big")


def spliced(other: bytes) -> Damage:
    """The start of a file, and the end of `other`."""

    def damage(data: bytes, seed: int) -> bytes:
        generator = np.random.default_rng(seed)
        cuts = [int(len(one) * generator.random() ** 2) for one in (data, other)]
        return data[: cuts[0]] + other[cuts[int(generator.integers(2))] :]

    return damage


def in_json(data: bytes, seed: int) -> bytes:
    """JSON with one to three values replaced, removed, repeated or renamed; every third time as text."""
    if seed % 3 == 0:
        return mutate(data, seed)
    generator = np.random.default_rng(seed)
    value = json.loads(data)
    for _ in range(int(generator.integers(1, 4))):
        value = _changed(value, generator)
    depth = int(generator.choice([70, 500, 100_000]))
    text = json.dumps(value).replace(f'"{DEEP}"', "[" * depth + "]" * depth)
    if generator.random() < 0.05:
        text = text.replace("{", '{"format": 1, "format": 2,', 1)
    return text.encode("utf-8", "surrogatepass")


def _changed(value: Any, generator: np.random.Generator) -> Any:
    """A copy of `value` with a change somewhere: each step goes into an element, or changes what is there."""
    place: Any = value
    if not isinstance(value, dict | list) or not value:
        return _value(generator)
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = keys[int(len(keys) * generator.random() ** 1.5)]
        inner = place[key]
        if isinstance(inner, dict | list) and inner and generator.random() < 0.8:
            place = inner
            continue
        match int(generator.integers(8)):
            case 0:
                del place[key]
            case 1 if isinstance(place, dict):
                place[f"{key}x"] = place.pop(key)
            case 1:
                place.append(inner)
            case 2 if isinstance(inner, str):
                text = bytearray(inner.encode("utf-8", "surrogatepass"))
                _flip(text, generator)
                place[key] = text.decode("latin-1")
            case 2:
                place[key] = [inner]
            case 3 if isinstance(inner, int | float):
                place[key] = WHOLE[int(generator.integers(len(WHOLE)))]
            case _:
                place[key] = _value(generator)
        return value


def _value(generator: np.random.Generator) -> Any:
    return copy.deepcopy(VALUES[int(generator.integers(len(VALUES)))])


def in_gzip(damage: Damage = mutate) -> Damage:
    """What a gzip file holds, packed again."""
    return lambda data, seed: gzip.compress(damage(gzip.decompress(data), seed), 1)


def in_zip(first: Damage = mutate) -> Damage:
    """A file within a zip, packed again with the right sums. Half of the time it is the first, which is
    damaged in this way; in JSON, say, if it says how to read all others."""

    def damage(data: bytes, seed: int) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as sound, zipfile.ZipFile(out, "w") as archive:
            names = sound.namelist()
            hit = 0 if seed % 2 else seed // 2 % len(names)
            for index, name in enumerate(names):
                content = sound.read(name)
                if index == hit:
                    content = (first if index == 0 else mutate)(content, seed // 2)
                archive.writestr(name, content)
        return out.getvalue()

    return damage


def in_npz(data: bytes, seed: int) -> bytes:
    """An array of an .npz, packed again: its header every second time."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as sound,
        zipfile.ZipFile(out, "w", 8 * (seed % 3 == 0)) as archive,
    ):
        names = sound.namelist()
        hit = seed % len(names)
        for index, name in enumerate(names):
            content = sound.read(name)
            if index == hit:
                end = content.index(b"\n") + 1 if seed // len(names) % 2 else len(content)
                content = mutate(content[:end], seed) + content[end:]
            archive.writestr(name, content)
    return out.getvalue()


def in_zstd(data: bytes, seed: int) -> bytes:
    """SPZ 4 with one stream damaged, and a table that fits it every second time."""
    import zstandard

    number, table = data[15], struct.unpack_from("<I", data, 16)[0]
    position, streams = table + 16 * number, []
    for index in range(number):
        packed, _ = struct.unpack_from("<QQ", data, table + 16 * index)
        streams.append(zstandard.ZstdDecompressor().decompress(data[position : position + packed]))
        position += packed
    hit = seed % number
    size = len(streams[hit])
    streams[hit] = mutate(streams[hit], seed)
    if seed // number % 2:
        streams[hit] = streams[hit][:size].ljust(size, b"\7")
    packed_streams = [zstandard.ZstdCompressor(level=1).compress(stream) for stream in streams]
    rows = [struct.pack("<QQ", len(a), len(b)) for a, b in zip(packed_streams, streams)]
    return data[:table] + b"".join(rows) + b"".join(packed_streams)


def in_safetensors(data: bytes, seed: int) -> bytes:
    """The JSON of a safetensors header, or the JSON that its metadata hold; the length is right."""
    length = struct.unpack_from("<Q", data)[0]
    text, after = data[8 : 8 + length], data[8 + length :]
    header = json.loads(text)
    if seed % 2 and "specularip" in header.get("__metadata__", {}):
        inner = in_json(header["__metadata__"]["specularip"].encode(), seed // 2)
        header["__metadata__"]["specularip"] = inner.decode("utf-8", "replace")
        text = json.dumps(header).encode()
    else:
        text = in_json(text, seed // 2)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + after


def in_glb(data: bytes, seed: int) -> bytes:
    """The JSON of a .glb; its lengths are right."""
    length = struct.unpack_from("<I", data, 12)[0]
    text = in_json(data[20 : 20 + length], seed)
    text += b" " * (-len(text) % 4)
    after = data[20 + length :]
    total = struct.pack("<I", 20 + len(text) + len(after))
    return data[:8] + total + struct.pack("<I", len(text)) + data[16:20] + text + after


def in_png(data: bytes, seed: int) -> bytes:
    """One chunk of a PNG, with the right checksum: its content, or what that holds once it is inflated."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    generator = np.random.default_rng(seed)
    hit = 0 if generator.random() < 0.3 else int(generator.integers(len(chunks)))
    kind, content = chunks[hit]
    if kind == b"IDAT" and seed % 2:
        content = zlib.compress(mutate(zlib.decompress(content), seed), 1)
    else:
        content = mutate(content, seed)
    chunks[hit] = (kind, content)
    if generator.random() < 0.2:
        chunks.insert(int(generator.integers(len(chunks))), chunks[int(generator.integers(len(chunks)))])
    body = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:8] + b"".join(body)


def in_jpeg(data: bytes, seed: int) -> bytes:
    """One segment of a JPEG: its length, or what it holds with the right length."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 255:
        length = struct.unpack_from(">H", data, at + 2)[0]
        segments.append((at, length))
        at += 2 + length
        if data[segments[-1][0] + 1] == 0xDA:
            break
    generator = np.random.default_rng(seed)
    start, length = segments[int(generator.integers(len(segments)))]
    content = data[start + 4 : start + 2 + length]
    size = length
    if generator.random() < 0.3:
        size = WHOLE[int(generator.integers(len(WHOLE)))] % 65536
    else:
        content = mutate(content, seed)[:65533]
        size = len(content) + 2
    return data[: start + 2] + struct.pack(">H", size) + content + data[start + 2 + length :]
