"""What all readers of image files share: opening safely, turning upright, colours in eight bits of sRGB."""

from __future__ import annotations

import io
import threading
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

_header_lock = threading.Lock()


def open_image(file: BinaryIO, path: Path) -> Image.Image:
    """Parse the header only. Pillow's own size limit is disabled meanwhile: the caller checks `size`.

    Raises UserError if it is not the header of an image of FORMATS.
    """
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


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says. `ImageOps.exif_transpose` does more: it rewrites all other EXIF
    data, and fails if any of them are damaged."""
    turn = TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def in_srgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """A decoded image of any mode as RGB or, if it has alpha, as RGBA of straight colours, in sRGB; and False
    if it has a colour profile that is unusable, so that its colours are taken as sRGB."""
    image = _in_eight_bits(image)
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


def _in_eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image
    # 16-bit and float greyscale: Pillow's own conversion clips at 255.
    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode != "F" or values.max() > 255 else 255.0 if values.max() > 1 else 1.0
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
