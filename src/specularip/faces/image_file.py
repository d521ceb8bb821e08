"""Reading image files safely, whatever their format and state."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from specularip.errors import UserError
from specularip.image_reading import MAX_PIXELS, decoded, open_image

MIN_FACE = 48
"""Width of the smallest usable face in pixels, and so the smallest usable photo."""
GREY = (153, 153, 153)
"""Background of transparent pixels: the grey (0.6) on which the compact prior was trained."""


def read_image(path: str | Path) -> np.ndarray:
    """`read_image_file` without its notes."""
    return read_image_file(path)[0]


def read_image_file(path: str | Path) -> tuple[np.ndarray, list[str]]:
    """Read an image file as uint8 [H,W,3], sRGB, with its EXIF orientation applied; and lines for the user.

    Greyscale, palette, CMYK and 16-bit images become RGB, colours of other profiles sRGB; transparent pixels
    are composited over GREY. Of animations and several pages, only the first is read, and a note says so.
    Raises UserError, in one line, if the file is not a complete image of at least MIN_FACE and at most
    MAX_PIXELS pixels.
    """
    path = Path(path)
    notes: list[str] = []
    with _opened(path) as image:
        try:
            pixels, profile_usable = decoded(image, path, True, _on_grey)
        except UserError:
            raise
        except Exception as error:  # Pillow's decoders raise all kinds of exceptions on damaged data
            reason = "cut short" if "truncated" in str(error) else "damaged"
            raise UserError(
                f"{path} is {reason} and cannot be decoded: save or download the photo again"
            ) from None
        if not profile_usable:
            notes.append(f"{path} has an unusable colour profile, which is ignored: its colours may be off")
        if _has_more_images(image):
            notes.append(f"{path} holds several images: taking the first")
    return pixels, notes


def check_image_file(path: str | Path) -> None:
    """Raise UserError where `read_image` would by a file's kind, its header or its size. Decodes nothing."""
    with _opened(Path(path)):
        pass


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image of which only the header is read. Raises UserError as `read_image_file` says."""
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
        image = open_image(file, path)
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
        yield image


def _on_grey(colours: Image.Image) -> Image.Image:
    """Over GREY where transparent."""
    if colours.mode == "RGB":
        return colours
    behind = Image.new("RGB", colours.size, GREY)
    return Image.composite(colours.convert("RGB"), behind, colours.getchannel("A"))


def _has_more_images(image: Image.Image) -> bool:
    """Asked after all else: looking for a second one changes the image. MPO files hold previews."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # damaged behind the first frame, which is all that is used
        return False
