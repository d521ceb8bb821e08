"""SOG (PlayCanvas, version 2): 3D Gaussians as textures, a fifteenth of a PLY's bytes.

A zip of meta.json and lossless WebP images, in which a pixel is a Gaussian: positions (16 bits a coordinate,
log-transformed), rotations (three components of 8 bits), scales and base colours (indices of codebooks of 256
numbers), opacities (8 bits), and spherical harmonics as indices of a palette. Axes are those of the PLY.
Gaussians are stored in Morton order, which compresses better and changes nothing else.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from specularip.colors.harmonics import SH_0, HarmonicColors
from specularip.errors import DamagedFile, UserError, quoted
from specularip.export.palettes import CODES, codebook, palette
from specularip.export.splats import Splats, splats_from
from specularip.files import write_bytes
from specularip.gaussians import Gaussians, morton_order
from specularip.json_reading import parse_object
from specularip.version import __version__

BANDS = (0, 3, 8, 15)
"""Number of harmonics by degree, without the constant one."""
PALETTE_WIDTH = 64
"""Entries in a row of the palette's image."""
MAX_PALETTE = 2**16
OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
"""The components of a quaternion wxyz that are stored, by the largest, which is not."""
FIRST_TAG = 252
"""The fourth byte of a rotation is this plus the index of its largest component."""
LARGEST, LARGEST_LOG = 1e38, 80.0
"""Bounds of the numbers of a codebook, and of the logarithms of positions: float32 ends beyond."""
MAX_MEMBERS, MAX_META = 256, 2**20
GROWTH, SMALL = 64, 2**25
"""A file whose Gaussians would fill more than this many times its own bytes as float32, and more than SMALL,
is refused: real ones fill up to twentyfold."""


@torch.no_grad()
def write_sog(
    path: str | os.PathLike[str],
    gaussians: Gaussians,
    colors: HarmonicColors | None = None,
    *,
    antialiased: bool = False,
) -> None:
    """Write Gaussians as a bundled SOG, atomically: with their diffuse colour, or with spherical harmonics.

    Raises UserError if the file cannot be written.
    """
    order = morton_order(gaussians.means)
    cloud = gaussians.select(order)
    count = len(cloud)
    width = 4 * math.ceil(math.sqrt(count) / 4)
    images: dict[str, np.ndarray] = {}

    def add(name: str, pixels: np.ndarray) -> str:
        height = 4 * math.ceil(count / width / 4)
        padded = np.zeros((height * width, pixels.shape[1]), np.uint8)
        padded[:count] = pixels
        images[f"{name}.webp"] = padded.reshape(height, width, -1)
        return f"{name}.webp"

    means = cloud.means.detach().cpu().double().numpy()
    logs = np.copysign(np.log1p(np.abs(means)), means)
    lowest, highest = logs.min(0), logs.max(0)
    fixed = np.round((logs - lowest) / np.maximum(highest - lowest, 1e-12) * 65535).astype(np.uint16)
    meta: dict[str, Any] = {"version": 2, "asset": {"generator": f"specularip {__version__}"}, "count": count}
    if antialiased:
        meta["model"] = "antialiased"
    files = [add("means_l", fixed & 255), add("means_u", fixed >> 8)]
    meta["means"] = {"mins": lowest.tolist(), "maxs": highest.tolist(), "files": files}
    codes, indices = codebook(cloud.log_scales.detach().cpu().numpy())
    meta["scales"] = {"codebook": codes.tolist(), "files": [add("scales", indices)]}
    meta["quats"] = {"files": [add("quats", _packed_quats(cloud.quats))]}
    base = (cloud.diffuse - 0.5) / SH_0 if colors is None else colors.coefficients[order, 0]
    codes, indices = codebook(base.detach().cpu().numpy())
    alphas = (255 * cloud.opacities).round().detach().cpu().to(torch.uint8).numpy()
    files = [add("sh0", np.column_stack([indices, alphas]))]
    meta["sh0"] = {"codebook": codes.tolist(), "files": files}
    if colors is not None:
        rest = colors.coefficients[order, 1:].detach().cpu().flatten(1).numpy()
        entries, labels = palette(rest, palette_size(count))
        codes, indices = codebook(entries)
        rows = math.ceil(len(entries) / PALETTE_WIDTH)
        pixels = np.zeros((rows * PALETTE_WIDTH, BANDS[3] * 3), np.uint8)
        pixels[: len(entries)] = indices
        images["shN_centroids.webp"] = pixels.reshape(rows, PALETTE_WIDTH * BANDS[3], 3)
        files = [
            "shN_centroids.webp",
            add("shN_labels", np.stack([labels & 255, labels >> 8, 0 * labels], 1)),
        ]
        meta["shN"] = {"count": len(entries), "bands": 3, "codebook": codes.tolist(), "files": files}
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:  # a ZipInfo of its own has a fixed date
        archive.writestr(zipfile.ZipInfo("meta.json"), json.dumps(meta))
        for name, image in images.items():
            archive.writestr(zipfile.ZipInfo(name), _webp(image))
    write_bytes(path, data.getvalue())


def read_sog(path: str | os.PathLike[str]) -> Splats:
    """Read a bundled SOG of version 2.

    Raises UserError if the file is missing, damaged, or of another kind or version.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return _parse(_Bundle(data), len(data))
    except DamagedFile as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def palette_size(count: int) -> int:
    """Entries of the palette for `count` Gaussians, a quarter to a half of them: with twice as many, files
    grow by half; with half as many, pictures lose 7 dB."""
    return int(min(MAX_PALETTE, max(1024, 2 ** (int(math.log2(count)) - 1))))


class _Bundle:
    """The files in a zip, none of which is unpacked before its size is known."""

    BROKEN = (
        *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, OverflowError),
        *(RuntimeError, NotImplementedError, IndexError),  # encrypted, or of an unknown compression
    )

    def __init__(self, data: bytes):
        # zipfile makes an object of each entry, however many there are.
        if data.count(b"PK\1\2") > MAX_MEMBERS:
            raise DamagedFile(f"it contains more than {MAX_MEMBERS} files")
        try:
            self.archive = zipfile.ZipFile(io.BytesIO(data))
        except self.BROKEN:
            raise DamagedFile("it is not a zip, as SOG is, or cut short") from None

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a file, which are at most `limit`."""
        try:
            info = self.archive.getinfo(name)
        except KeyError:
            raise DamagedFile(f"it contains no {quoted(name, 60)}") from None
        if info.file_size > limit:
            raise DamagedFile(f"{quoted(name, 60)} is too large for what it should be")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DamagedFile(f"{quoted(name, 60)} is compressed in an unusual way: export it again")
        try:
            return self.archive.read(info)
        except self.BROKEN:
            raise DamagedFile(f"{quoted(name, 60)} is damaged") from None

    def image(self, name: str, smallest: int, largest: int, width: int | None = None) -> np.ndarray:
        """The pixels of a lossless WebP, uint8 [H·W,4], between `smallest` and `largest` of them."""
        data = self.read(name, 8 * largest + 2**16)
        # The size is read from the header, as decoders allocate what it says.
        if data[:4] + data[8:16] != b"RIFFWEBPVP8L" or len(data) < 25:
            raise DamagedFile(f"{quoted(name, 60)} is not a lossless WebP image")
        bits = int.from_bytes(data[21:25], "little")
        size = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
        if not smallest <= size[0] * size[1] <= largest or width not in (None, size[0]):
            raise DamagedFile(f"{quoted(name, 60)} has the wrong size, {size[0]}x{size[1]}")
        try:
            with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
                pixels = np.asarray(image.convert("RGBA"))
        except (*self.BROKEN, SyntaxError):
            raise DamagedFile(f"{quoted(name, 60)} is damaged") from None
        if pixels.shape != (size[1], size[0], 4):
            raise DamagedFile(f"{quoted(name, 60)} is damaged")
        return pixels.reshape(-1, 4)


def _parse(bundle: _Bundle, size: int) -> Splats:
    text = bundle.read("meta.json", MAX_META)
    try:
        meta = parse_object(text)
    except DamagedFile as error:
        raise DamagedFile(f"its meta.json is damaged: {error}") from None
    if meta.get("version") != 2:
        raise DamagedFile(
            f"it has version {quoted(meta.get('version', 1), 20)}, and 2 is supported: convert it again"
        )
    count, higher = meta.get("count"), meta.get("shN")
    if type(count) is not int or count < 1:
        raise DamagedFile("it contains no Gaussians")
    bands = _section(meta, "shN").get("bands") if higher is not None else 0
    if type(bands) is not int or not 0 <= bands < len(BANDS):
        raise DamagedFile(
            f"it has harmonics of degree {quoted(bands, 20)}, and 3 is the highest that is supported"
        )
    if 4 * count * (14 + 3 * BANDS[bands]) > max(GROWTH * size, SMALL):
        raise DamagedFile(f"it claims {count} Gaussians, and is too small for them")

    def image(name: str, index: int = 0) -> np.ndarray:
        return bundle.image(_file(meta, name, index), count, 2 * count + 4096)[:count]

    low, high = (image("means", index)[:, :3].astype(np.float64) for index in (0, 1))
    lowest, highest = _numbers(meta, "means", "mins", 3), _numbers(meta, "means", "maxs", 3)
    if max(np.abs(lowest).max(), np.abs(highest).max()) > LARGEST_LOG:
        raise DamagedFile("its positions are out of range")
    logs = lowest + (low + 256 * high) / 65535 * (highest - lowest)
    means = torch.from_numpy(np.copysign(np.expm1(np.abs(logs)), logs))
    sh0 = image("sh0")
    coefficients = torch.zeros(count, 1 + BANDS[bands], 3)
    coefficients[:, 0] = torch.from_numpy(_decoded(meta, "sh0", sh0[:, :3]))
    if bands:
        rows = math.ceil(MAX_PALETTE / PALETTE_WIDTH)
        width = PALETTE_WIDTH * BANDS[bands]
        pixels = bundle.image(_file(meta, "shN", 0), width, width * rows, width)[:, :3]
        entries = torch.from_numpy(_decoded(meta, "shN", pixels)).unflatten(0, (-1, BANDS[bands]))
        labels = image("shN", 1).astype(np.int64)
        labels = labels[:, 0] | labels[:, 1] << 8
        if labels.max() >= len(entries):
            raise DamagedFile("its Gaussians have harmonics that its palette lacks")
        coefficients[:, 1:] = entries[torch.from_numpy(labels)]
    model = meta.get("model", "antialiased" if meta.get("antialias") is True else "default")
    splats = splats_from(
        means,
        _unpacked_quats(image("quats")),
        torch.from_numpy(_decoded(meta, "scales", image("scales")[:, :3])),
        torch.logit(torch.from_numpy(sh0[:, 3] / np.float32(255)), eps=1e-3),
        coefficients,
        antialiased=model == "antialiased",
    )
    if model in ("default", "antialiased"):
        return splats
    note = f"the kind {quoted(model, 40)} of Gaussians is drawn as ordinary ones"
    return replace(splats, antialiased=False, notes=(*splats.notes, note))


def _section(meta: dict[str, Any], name: str) -> dict[str, Any]:
    section = meta.get(name)
    if not isinstance(section, dict):
        raise DamagedFile(f"its meta.json has no {name}")
    return section


def _file(meta: dict[str, Any], name: str, index: int) -> str:
    files = _section(meta, name).get("files")
    if not isinstance(files, list) or len(files) <= index or not isinstance(files[index], str):
        raise DamagedFile(f"its meta.json does not name the files of {name}")
    return str(files[index])


def _numbers(meta: dict[str, Any], name: str, key: str, count: int | None = None) -> np.ndarray:
    """float64, `count` of them, or 1 to CODES."""
    values = _section(meta, name).get(key)
    if isinstance(values, list) and all(type(value) in (int, float) for value in values):
        sizes = (count,) if count else range(1, CODES + 1)
        if len(values) in sizes and all(abs(value) < LARGEST for value in values):
            return np.array(values, np.float64)
    raise DamagedFile(f"its meta.json has no valid {key} of {name}")


def _decoded(meta: dict[str, Any], name: str, indices: np.ndarray) -> np.ndarray:
    """The numbers of a codebook that the indices mean; 0 where it has none."""
    codes = np.zeros(CODES, np.float32)
    found = _numbers(meta, name, "codebook")
    codes[: len(found)] = found
    return codes[indices]


def _webp(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    # exact: colours under an alpha of 0 are kept.
    Image.fromarray(pixels).save(data, "WEBP", lossless=True, exact=True)
    return data.getvalue()


def _packed_quats(quats: Tensor) -> np.ndarray:
    """uint8 [N,4] of quats [N,4] wxyz: the components but the largest, from -√½ to √½, and which that is."""
    wxyz = F.normalize(quats.detach().cpu().float(), dim=-1).numpy()
    largest = np.abs(wxyz).argmax(1)
    sign = np.where(np.take_along_axis(wxyz, largest[:, None], 1) < 0, -1, 1)
    others = sign * np.take_along_axis(wxyz, OTHERS[largest], 1)
    packed = np.round(255 * (others / math.sqrt(2) + 0.5)).clip(0, 255)
    return np.column_stack([packed, FIRST_TAG + largest]).astype(np.uint8)


def _unpacked_quats(packed: np.ndarray) -> Tensor:
    """Quaternions [N,4] wxyz; of length zero, so that they are left out, where a tag is wrong."""
    largest = packed[:, 3].astype(np.int64) - FIRST_TAG
    sound = largest >= 0
    largest = np.where(sound, largest, 0)
    others = (packed[:, :3] / np.float32(255) - np.float32(0.5)) * np.float32(math.sqrt(2))
    wxyz = np.zeros((len(packed), 4), np.float32)
    np.put_along_axis(wxyz, OTHERS[largest], others, 1)
    rest = np.sqrt(np.clip(1 - np.square(others).sum(1), 0, None))
    np.put_along_axis(wxyz, largest[:, None], rest[:, None], 1)
    return torch.from_numpy(wxyz * sound[:, None])
