"""SPZ (Niantic): 3D Gaussians in a tenth of a PLY's bytes.

Integers, one attribute after the other: positions (24-bit fixed point), opacities, colours, logarithms of
scales (8 bits), rotations (three components, 10 bits each), spherical harmonics (8 bits). Versions
1 to 3 are one gzip stream with a header of 16 bytes; version 4 has a header of 32 bytes, a table, and a zstd
stream for each attribute. Version 3 is written unless 4 is asked for: Spark 2 and three.js refuse 4. Axes are
those that SPZ names RUB: x right, y up, z back.
"""

from __future__ import annotations

import itertools
import math
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.colors.harmonics import SH_0, HarmonicColors
from specularip.errors import DamagedFile, UserError
from specularip.export.axes import Y_UP, turned
from specularip.export.splats import ABOVE_3, TERMS, Splats, splats_from
from specularip.files import write_bytes
from specularip.gaussians import Gaussians

MAGIC = 0x5053474E
"""NGSP."""
ANTIALIASED = 1
"""The flag for Gaussians that are rendered antialiased."""
COLOR_SCALE = 0.15
"""f_dc times this, plus 0.5, is what the colour's byte holds."""
FRACTIONAL_BITS, MOST_BITS = 14, 24
"""Bits behind the point of a position: 0.06 mm. Fewer where positions beyond 256 m need it, more for subjects
smaller than a metre."""
LEAST_STEPS = 256
"""A subject that is smaller than this many steps of its positions is not written: it would be lumps."""
LOG_SCALES = (-10.0, 255 / 16 - 10)
"""What a byte holds of the logarithms of scales."""
COEFFICIENTS = (1, 4, 9, 16, 25)
"""Number of harmonics by degree, the constant one included. Those of degree 4 are left out on reading."""
GROWTH, SMALL = 16, 2**24
"""A file that claims to hold more than this many times its own bytes, and more than SMALL, is refused: real
ones compress two- to threefold."""


@torch.no_grad()
def write_spz(
    path: str | os.PathLike[str],
    gaussians: Gaussians,
    colors: HarmonicColors | None = None,
    *,
    antialiased: bool = False,
    version: Literal[3, 4] = 3,
) -> None:
    """Write Gaussians as SPZ, atomically: with their diffuse colour, or with spherical harmonics.

    Raises UserError if the file cannot be written, or for version 4 without the zstandard package; ValueError
    for another version.
    """
    if version not in (3, 4):
        raise ValueError(f"version must be 3 or 4, got {version}")
    coefficients = (gaussians.diffuse[:, None] - 0.5) / SH_0 if colors is None else colors.coefficients
    means, quats, coefficients = turned(gaussians.means, gaussians.quats, coefficients, Y_UP)
    bits = _fractional_bits(path, means, gaussians.log_scales.detach().cpu())
    fixed = (means * 2.0**bits).round().clamp(-(2**23), 2**23 - 1).numpy().astype("<i4")
    rest = coefficients[:, 1:].flatten(1)
    streams = [
        np.ascontiguousarray(fixed).view(np.uint8).reshape(len(means), 3, 4)[..., :3].tobytes(),
        _bytes(255 * gaussians.opacities),
        _bytes(255 * (COLOR_SCALE * coefficients[:, 0] + 0.5)),
        _bytes(16 * (gaussians.log_scales - LOG_SCALES[0])),
        _packed_quats(quats).tobytes(),
        _bytes(128 * rest + 128),
    ]
    degree = COEFFICIENTS.index(coefficients.shape[1])
    flags = ANTIALIASED if antialiased else 0
    header = struct.pack("<IIIBBB", MAGIC, version, len(means), degree, bits, flags)
    if version == 3:
        coder = zlib.compressobj(6, wbits=31)  # 31: with gzip's header
        write_bytes(path, coder.compress(header + b"\0" + b"".join(streams)) + coder.flush())
        return
    kept = streams if degree else streams[:-1]
    packed = [_zstandard().ZstdCompressor(level=9).compress(stream) for stream in kept]
    table = b"".join(struct.pack("<QQ", len(small), len(stream)) for small, stream in zip(packed, kept))
    header += struct.pack("<BI12x", len(kept), 32)
    write_bytes(path, header + table + b"".join(packed))


def _fractional_bits(path: str | os.PathLike[str], means: Tensor, log_scales: Tensor) -> int:
    """For positions of these means [N,3] on the CPU; log_scales [N,3]. Raises UserError where the format is
    too coarse for the subject, or holds no Gaussians of such a size."""
    some = means[:: max(1, len(means) // 100_000)]
    first, last = torch.quantile(some, torch.tensor([0.05, 0.95]), dim=0)
    usual = float(log_scales.amax(1).median())
    size = max(float((last - first).max()), math.exp(usual))
    fitting = 22 - math.ceil(math.log2(max(float(means.abs().max()), 1e-9)))
    bits = max(
        0, min(max(FRACTIONAL_BITS, FRACTIONAL_BITS - math.floor(math.log2(size))), fitting, MOST_BITS)
    )
    advice = "use .ply, .sog or .glb, or move and scale the avatar"
    if size * 2.0**bits < LEAST_STEPS:
        raise UserError(
            f"cannot write {path}: SPZ has positions in steps of {2.0**-bits:.2g} here, too coarse for an "
            f"avatar {size:.2g} wide that lies {float(means.abs().max()):.2g} from the origin: {advice}"
        )
    if not LOG_SCALES[0] <= usual <= LOG_SCALES[1]:
        low, high = map(math.exp, LOG_SCALES)
        raise UserError(
            f"cannot write {path}: SPZ has Gaussians of sizes from {low:.1g} to {high:.0f}, and the avatar's "
            f"are about {math.exp(usual):.2g}: {advice}"
        )
    return bits


def read_spz(path: str | os.PathLike[str]) -> Splats:
    """Read SPZ of versions 1 to 4, harmonics of degrees 0 to 4, of which 4 is left out.

    Raises UserError if the file is missing, damaged or another kind of file, or for version 4 without the
    zstandard package.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        if data[:2] == b"\x1f\x8b":
            data = _inflated(data)
        return _parse(data)
    except DamagedFile as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _parse(data: bytes) -> Splats:
    if len(data) < 16 or struct.unpack_from("<I", data)[0] != MAGIC:
        raise DamagedFile("it is not SPZ, or cut short")
    version, count, degree, bits, flags = struct.unpack_from("<IIBBB", data, 4)
    if not 1 <= version <= 4:
        raise DamagedFile(f"it has version {version}; versions 1 to 4 are known")
    if degree >= len(COEFFICIENTS):
        raise DamagedFile(f"it has harmonics of degree {degree}, and 4 is the highest that is known")
    if count < 1 or bits > 24:
        raise DamagedFile("it contains no Gaussians" if count < 1 else "its positions have no valid scale")
    rest = COEFFICIENTS[degree] - 1
    sizes = [6 if version == 1 else 9, 1, 3, 3, 3 if version < 3 else 4, 3 * rest]
    streams = _streams(data, [size * count for size in sizes], version, degree)
    columns = [np.frombuffer(one, np.uint8).reshape(count, size) for one, size in zip(streams, sizes)]
    places, opacities, base, scales, quats, harmonics = columns
    if version == 1:
        means = places.copy().view("<f2").astype(np.float32)
    else:
        wide = np.zeros((count, 3, 4), np.uint8)
        wide[..., 1:] = places.reshape(count, 3, 3)
        means = (wide.view("<i4")[..., 0] >> 8).astype(np.float32) / 2.0**bits
    turns = _unpacked_quats(quats.copy().view("<u4")[:, 0]) if version >= 3 else _three_quats(quats)
    alphas = torch.from_numpy(opacities[:, 0] / np.float32(255))
    coefficients = torch.empty(count, 1 + rest, 3)
    coefficients[:, 0] = torch.from_numpy((base / np.float32(255) - 0.5) / COLOR_SCALE)
    coefficients[:, 1:] = torch.from_numpy((harmonics.reshape(count, rest, 3) - np.float32(128)) / 128)
    back = turned(torch.from_numpy(means), turns, coefficients[:, :TERMS], Y_UP.T)
    splats = splats_from(
        back[0],
        back[1],
        torch.from_numpy(scales / np.float32(16) - 10),
        torch.logit(alphas, eps=1e-3),
        back[2],
        antialiased=bool(flags & ANTIALIASED),
    )
    return splats if 1 + rest <= TERMS else replace(splats, notes=(ABOVE_3, *splats.notes))


def _streams(data: bytes, sizes: list[int], version: int, degree: int) -> list[bytes]:
    """The bytes of each attribute, which have these sizes."""
    if version < 4:
        if len(data) < 16 + sum(sizes):
            raise DamagedFile(f"it is cut short: {len(data)} of {16 + sum(sizes)} bytes")
        ends = np.cumsum([16, *sizes])
        return [data[start:end] for start, end in itertools.pairwise(ends.tolist())]
    if len(data) < 32:
        raise DamagedFile("it is cut short")
    number, table = data[15], struct.unpack_from("<I", data, 16)[0]
    if number != (6 if degree else 5) or not 32 <= table <= len(data) - 16 * number:
        raise DamagedFile("its table of contents is damaged")
    if sizes[1]:
        _check_claim(sizes[1], sum(sizes) // sizes[1], data)
    position, found = table + 16 * number, []
    for index, size in enumerate(sizes[:number]):
        packed, unpacked = struct.unpack_from("<QQ", data, table + 16 * index)
        if unpacked != size or packed > len(data) - position:
            raise DamagedFile("its table of contents is damaged")
        found.append(_decompressed(data[position : position + packed], size))
        position += packed
    return [*found, b""] if degree == 0 else found


def _inflated(data: bytes) -> bytes:
    """What a gzip file holds, as much of it as its own header says."""
    coder = zlib.decompressobj(wbits=31)
    try:
        head = coder.decompress(data, 16)
        if len(head) < 16:
            raise DamagedFile("it is cut short")
        magic, version, count, degree = struct.unpack_from("<IIIB", head)
        if magic != MAGIC or degree >= len(COEFFICIENTS):
            return head  # `_parse` says what is wrong
        each = (6 if version == 1 else 9) + 7 + (3 if version < 3 else 4) + 3 * (COEFFICIENTS[degree] - 1)
        _check_claim(count, each, data)
        return head + (coder.decompress(coder.unconsumed_tail, each * count) if count else b"")
    except zlib.error as error:
        raise DamagedFile(f"its compression is damaged ({error})") from None


def _check_claim(count: int, each: int, data: bytes) -> None:
    if each * count > max(GROWTH * len(data), SMALL):
        raise DamagedFile(f"it claims {count} Gaussians, and is too small for them")


def _decompressed(data: bytes, size: int) -> bytes:
    zstandard = _zstandard()
    try:
        if zstandard.frame_content_size(data) not in (-1, size):
            raise DamagedFile("a stream has another size than its table says")
        with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(data) as reader:
            found: bytes = reader.read(size)
    except zstandard.ZstdError as error:
        raise DamagedFile(f"its compression is damaged ({error})") from None
    if len(found) < size:
        raise DamagedFile("a stream is cut short")
    return found


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise UserError("SPZ version 4 needs the zstandard package: pip install zstandard") from None
    return zstandard


def _bytes(values: Tensor) -> bytes:
    return values.detach().cpu().round().clamp(0, 255).to(torch.uint8).numpy().tobytes()


def _packed_quats(quats: Tensor) -> np.ndarray:
    """uint32 [N] of quats [N,4] wxyz: two bits for the largest component of x, y, z, w, and of each other a
    sign and nine bits of size, relative to √½."""
    xyzw = F.normalize(quats, dim=-1)[:, [1, 2, 3, 0]].numpy()
    largest = np.abs(xyzw).argmax(1)
    packed = largest.astype(np.uint32)
    flipped = np.take_along_axis(xyzw, largest[:, None], 1)[:, 0] < 0
    for axis in range(4):
        value = np.where(flipped, -xyzw[:, axis], xyzw[:, axis])
        size = np.minimum(np.abs(value) * math.sqrt(2) * 511 + 0.5, 511).astype(np.uint32)
        packed = np.where(largest == axis, packed, packed << 10 | (value < 0).astype(np.uint32) << 9 | size)
    return packed.astype("<u4")


def _unpacked_quats(packed: np.ndarray) -> Tensor:
    packed = packed.astype(np.uint32)
    largest = packed >> 30
    xyzw = np.zeros((len(packed), 4), np.float32)
    for axis in (3, 2, 1, 0):
        others = largest != axis
        size = (packed & 511).astype(np.float32) / np.float32(511 * math.sqrt(2))
        xyzw[:, axis] = np.where(others, np.where(packed >> 9 & 1, -size, size), 0)
        packed = np.where(others, packed >> 10, packed)
    rest = np.sqrt(np.clip(1 - np.square(xyzw).sum(1), 0, None))
    np.put_along_axis(xyzw, largest[:, None].astype(np.int64), rest[:, None], 1)
    return torch.from_numpy(xyzw[:, [3, 0, 1, 2]])


def _three_quats(xyz: np.ndarray) -> Tensor:
    """Quaternions of versions 1 and 2: three bytes, and w ≥ 0."""
    parts = torch.from_numpy(xyz / np.float32(127.5) - 1)
    w = (1 - parts.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
    return torch.cat([w, parts], 1)
