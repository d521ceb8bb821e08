"""Reading image files safely, whatever their format and state."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from specularip.errors import UserError

MAX_PIXELS = 100_000_000
"""Larger images are rejected by their header, before anything is decoded."""
MIN_FACE = 48
"""Width of the smallest usable face in pixels, and so the smallest usable photo."""
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
"""Formats that Pillow may try. Its other readers are never reached, above all those that start programs."""
GREY = (153, 153, 153)
"""Background of transparent pixels: the grey (0.6) on which the compact prior was trained."""

_header_lock = threading.Lock()


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as uint8 [H,W,3], sRGB, with its EXIF orientation applied.

    Greyscale, palette, CMYK and 16-bit images become RGB; transparent ones are composited over GREY. Only the
    first frame of an animation is read. Raises UserError, in one line, if the file is not a complete image of
    at least MIN_FACE and at most MAX_PIXELS pixels.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder: give an image file")
        if not path.exists():
            raise UserError(f"{path} does not exist: check the path of the photo")
        if not path.is_file():
            raise UserError(f"{path} is not a regular file: give an image file such as a JPEG or PNG")
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata that is not used here
        image = _open_header(file, path)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UserError(
                f"{path} is {width}x{height}, {width * height / 1e6:,.0f} megapixels: "
                f"the limit is {MAX_PIXELS // 1_000_000}, scale it down first"
            )
        if min(width, height) < MIN_FACE:
            raise UserError(
                f"{path} is only {width}x{height} pixels: use a photo whose face is at least {MIN_FACE} wide"
            )
        try:
            image.load()
            image = ImageOps.exif_transpose(image)
            return np.array(_to_rgb(image))
        except Exception as error:  # Pillow's decoders raise all kinds of exceptions on damaged data
            reason = "cut short" if "truncated" in str(error) else "damaged"
            raise UserError(
                f"{path} is {reason} and cannot be decoded: save or download the photo again"
            ) from None


def _open_header(file, path: Path) -> Image.Image:
    """Parse the header only. Pillow's own size limit is disabled meanwhile, as ours reports the size."""
    Image.init()  # registers all of Pillow's readers; FORMATS selects from them
    with _header_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
        except Exception:  # also struct.error, SyntaxError, ValueError on malformed headers
            raise UserError(f"{path} is not an image of a supported format: use JPEG, PNG or WebP") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16-bit and float greyscale: Pillow's own conversion clips at 255
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode != "F" or values.max() > 255 else 255.0 if values.max() > 1 else 1.0
        image = Image.fromarray(np.clip(np.nan_to_num(values) / top * 255 + 0.5, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*GREY, 255)), image).convert("RGB")
    return image.convert("RGB")
