"""What all readers of image files share: opening safely, turning upright, colours in eight bits of sRGB.

An image becomes far more bytes than its file has, and how many is known from its header. What is allowed is
decided there, before anything is decoded, and the colours are converted in bands of rows.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms

from specularip.errors import UserError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
"""Formats that Pillow may try. Its other readers are never reached, above all those that start programs."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""First brands in the header of HEIC and HEIF files, and of some AVIF files."""
ORIENTATION = 0x0112
_turn = Image.Transpose
TURNS = {
    2: _turn.FLIP_LEFT_RIGHT, 3: _turn.ROTATE_180, 4: _turn.FLIP_TOP_BOTTOM, 5: _turn.TRANSPOSE,
    6: _turn.ROTATE_270, 7: _turn.TRANSVERSE, 8: _turn.ROTATE_90,
}  # fmt: skip
"""What turns an image upright, by its EXIF orientation. From 5 on, width and height are exchanged."""
QUARTER_TURNS = (5, 6, 7, 8)

STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1], 3: lambda pixels: pixels[::-1, ::-1], 4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1), 6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1), 8: lambda pixels: np.rot90(pixels, -1),
}  # fmt: skip
"""Upright pixels [H,W,...], by EXIF orientation, as a view of them as they are stored."""
MAX_PIXELS = 100_000_000
"""Larger images are rejected: at most 16 bytes a pixel make 1.6 GB."""
GROWTH, SMALL = 1000, 192 << 20
"""An image that takes more than SMALL bytes while it is decoded, and more than GROWTH times those of its
file, is refused. Photos take up to 200 times theirs."""
COSTLY = {"WEBP": 16, "AVIF": 16, "HEIF": 16, "JPEG2000": 20}
"""Bytes that a pixel takes while these formats are decoded; with others what Pillow stores, and our copy."""
STORED_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2, "LA": 4}
PROGRESSIVE = 6
"""More bytes a pixel: all coefficients of a progressive JPEG are kept until its last scan."""
MAX_SCANS = 100
"""Of a JPEG. Progressive ones have about ten, and each goes over all pixels, however short it is."""
BAND = 1 << 20
"""Pixels whose colours are converted at once."""

_header_lock = threading.Lock()
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # not a byte 255 of the data, nor a restart


def open_image(file: BinaryIO, path: Path) -> Image.Image:
    """Parse the header only. Pillow's own size limit is disabled meanwhile: the caller checks `size`.

    Raises UserError if it is not the header of an image of FORMATS, or of one that would become more bytes
    than its file may.
    """
    image = _parsed(file, path)
    width, height = image.size
    taken, length = width * height * _bytes_per_pixel(image), file.seek(0, os.SEEK_END)
    if width * height <= MAX_PIXELS and taken > max(SMALL, GROWTH * length):  # callers refuse larger ones
        raise UserError(
            f"{path} is damaged or empty: its {width}x{height} pixels would take {taken >> 20} MB, and the "
            f"file has {length:,} bytes; save it again, or scale it down"
        )
    return image


def _bytes_per_pixel(image: Image.Image) -> int:
    """What a pixel takes while the image is decoded, at most, with the four bytes that are made of it."""
    if image.format in COSTLY:
        return COSTLY[image.format]
    progressive = PROGRESSIVE if image.info.get("progressive") else 0
    return STORED_BYTES.get(image.mode, 4) + 4 + progressive


def _check_scans(file: BinaryIO, path: Path) -> None:
    """Raise UserError if the first image in a JPEG file has more than MAX_SCANS. What follows it, such as a
    phone's film, is not looked at."""
    file.seek(0)
    data, at, scans = file.read(), 2, 0
    while (marker := _MARKER.search(data, at)) is not None and data[marker.start() + 1] != 0xD9:
        scans += data[marker.start() + 1] == 0xDA
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    if scans > MAX_SCANS:
        raise UserError(f"{path} has {scans} scans, at most {MAX_SCANS} are read: save it again as JPEG")


def _parsed(file: BinaryIO, path: Path) -> Image.Image:
    Image.init()  # registers all of Pillow's readers; FORMATS selects from them
    start = file.read(64)
    file.seek(0)
    heif = start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS
    if heif:
        try:
            import_module("pillow_heif").register_heif_opener()
        except ImportError:
            pass
    with _header_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
        except Exception:  # also struct.error, SyntaxError, ValueError on malformed headers
            if heif and "HEIF" not in Image.OPEN:
                raise UserError(
                    f"{path} is a HEIC photo, which cannot be read: save it as JPEG in a photo viewer, "
                    "or run 'pip install pillow-heif' to have it read"
                ) from None
            raise UserError(
                f"{path} is damaged or not an image of a supported format: use JPEG, PNG or WebP"
            ) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def orientation(image: Image.Image) -> int:
    """Its EXIF orientation, 1 to 8; 1, upright as it is stored, where none is given or it cannot be read."""
    # Pillow decodes all of a PNG to look for EXIF data behind its pixels: only those before them count.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # all kinds of exceptions on damaged data
        return 1
    return found if found in TURNS else 1


def decoded(
    image: Image.Image, path: Path, turned: bool, finish: Callable[[Image.Image], Image.Image]
) -> tuple[np.ndarray, bool]:
    """The pixels of an opened image, uint8 [H,W,C], upright if `turned`; and False as `in_srgb` returns it.

    finish: makes of colours, RGB or RGBA, what is returned of them. Raises UserError for a JPEG of too many
    scans, and all kinds of exceptions if the image is damaged.
    """
    if image.format in ("JPEG", "MPO"):
        with path.open("rb") as file:
            _check_scans(file, path)
    size = image.size
    image.load()
    if image.size != size:
        raise ValueError("the image has another size than its header says")
    width, height = size
    top = _top(image)
    turn = orientation(image) if turned else 1
    rows, usable = max(1, BAND // width), True
    result = stored = np.empty(0, np.uint8)
    for start in range(0, height, rows):
        band = image.crop((0, start, width, min(start + rows, height)))
        colours, usable = in_srgb(band, top)
        pixels = np.asarray(finish(colours))
        if start == 0:
            upright_size = size if turn in QUARTER_TURNS else (height, width)
            result = np.empty((*upright_size, *pixels.shape[2:]), np.uint8)
            stored = STORED[turn](result) if turn in STORED else result
        stored[start : start + rows] = pixels
    return result, usable


def _top(image: Image.Image) -> float:
    """The number that stands for white in an image whose mode is for numbers of more than eight bits."""
    if image.mode != "F":
        return 65535.0
    rows = max(1, BAND // image.width)
    highest = 0.0
    for start in range(0, image.height, rows):
        values = np.asarray(image.crop((0, start, image.width, min(start + rows, image.height))))
        highest = max(highest, float(np.max(values, initial=0.0, where=np.isfinite(values))))
    return 65535.0 if highest > 255 else 255.0 if highest > 1 else 1.0


def in_srgb(image: Image.Image, top: float = 65535.0) -> tuple[Image.Image, bool]:
    """A decoded image of any mode as RGB or, if it has alpha, as RGBA of straight colours, in sRGB; and False
    if it has a colour profile that is unusable, so that its colours are taken as sRGB.

    top: what stands for white if the mode is for numbers of more than eight bits.
    """
    image = _in_eight_bits(image, top)
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info
    result = image.convert("RGBA" if has_alpha else "RGB")
    profile = image.info.get("icc_profile")
    if not profile:
        return result, True
    # A profile is one for grey, CMYK or RGB.
    colours = image if image.mode == "CMYK" else result.convert("RGB")
    if image.mode in ("1", "L", "LA"):
        colours = colours.convert("L")
    try:
        transform = _to_srgb(profile, colours.mode)
        if transform is None:
            return result, True
        converted = ImageCms.applyTransform(colours, transform)
        assert converted is not None
    except (ImageCms.PyCMSError, OSError):
        return result, False
    if has_alpha:
        converted.putalpha(result.getchannel("A"))
    return converted, True


def _in_eight_bits(image: Image.Image, top: float) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image
    # 16-bit and float greyscale: Pillow's own conversion clips at 255.
    values = np.asarray(image, dtype=np.float64)
    grey = Image.fromarray(np.clip(np.nan_to_num(values) / top * 255 + 0.5, 0, 255).astype(np.uint8))
    if "icc_profile" in image.info:
        grey.info["icc_profile"] = image.info["icc_profile"]
    return grey


@lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What converts images of this mode and profile; None if the profile is sRGB itself, as most are, up to
    rounding. Raises PyCMSError or OSError if the profile is damaged or one for other modes."""
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    transform = ImageCms.buildTransform(source, srgb, mode, "RGB", intent, flags)
    if mode == "RGB":
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
        converted = ImageCms.applyTransform(Image.fromarray(colours), transform)
        if np.abs(np.asarray(converted).astype(int) - colours).max() <= 1:
            return None
    return transform
