"""The size of an image from its header."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from specularip.errors import UserError

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "AVIF")


def image_size(file: Path) -> tuple[int, int]:
    """Width and height, upright: as EXIF says that the image is to be turned.

    Raises UserError if the header cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warning for large images
        try:
            with Image.open(file, formats=FORMATS) as image:
                turned = image.format != "PNG" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                return image.size[::-1] if turned else image.size
        except OSError as error:
            if error.errno is not None:
                raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
            raise UserError(f"{file} is damaged or not a PNG, JPEG or WebP image: export it again") from None
        except Exception:  # struct.error, SyntaxError, ValueError on malformed headers
            raise UserError(f"{file} is damaged or not a PNG, JPEG or WebP image: export it again") from None
