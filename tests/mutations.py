"""Damage to files: the same seed damages in the same way."""

from __future__ import annotations

import re

import numpy as np

EXTREMES = (
    b"0", b"-1", b"nan", b"inf", b"-inf", b"1e308", b"1e-320", b"1099511627776", b"18446744073709551616", b"",
    b"0x10", b"1.0.0", b"--3", b"\xff\xfe", b"1e", b"65535",
)  # fmt: skip
"""Numbers that readers stumble over."""
_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def mutate(data: bytes, seed: int) -> bytes:
    """`data` with one to four kinds of damage: flipped bits, bytes set, chunks cut out, doubled, moved or
    inserted, the end cut off, numbers of the text replaced by extreme ones."""
    generator = np.random.default_rng(seed)
    damaged = bytearray(data)
    kinds = (_flip, _set, _cut, _double, _insert, _truncate, _edit)
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
