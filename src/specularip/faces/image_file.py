"""Reading image files safely, whatever their format and state."""

from __future__ import annotations

import io
import threading
import warnings
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms

from specularip.errors import UserError

MAX_PIXELS = 100_000_000
"""Larger images are rejected by their header, before anything is decoded."""
MIN_FACE = 48
"""Width of the smallest usable face in pixels, and so the smallest usable photo."""
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
"""Formats that Pillow may try. Its other readers are never reached, above all those that start programs."""
GREY = (153, 153, 153)
"""Background of transparent pixels: the grey (0.6) on which the compact prior was trained."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""First brands in the header of HEIC and HEIF files, and of some AVIF files."""
ORIENTATION = 0x0112
_turn = Image.Transpose
TURNS = {
    2: _turn.FLIP_LEFT_RIGHT, 3: _turn.ROTATE_180, 4: _turn.FLIP_TOP_BOTTOM, 5: _turn.TRANSPOSE,
    6: _turn.ROTATE_270, 7: _turn.TRANSVERSE, 8: _turn.ROTATE_90,
}  # fmt: skip
"""What turns an image upright, by its EXIF orientation."""

_header_lock = threading.Lock()


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
            rgb = _on_grey(_in_eight_bits(_upright(image)), path, notes)
        except Exception as error:  # Pillow's decoders raise all kinds of exceptions on damaged data
            reason = "cut short" if "truncated" in str(error) else "damaged"
            raise UserError(
                f"{path} is {reason} and cannot be decoded: save or download the photo again"
            ) from None
        if _has_more_images(image):
            notes.append(f"{path} holds several images: taking the first")
    return np.array(rgb), notes


def _open_header(file: BinaryIO, path: Path) -> Image.Image:
    """Parse the header only. Pillow's own size limit is disabled meanwhile, as ours reports the size."""
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
            raise UserError(f"{path} is not an image of a supported format: use JPEG, PNG or WebP") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says. `ImageOps.exif_transpose` does more: it rewrites all other EXIF
    data, and fails if any of them are damaged."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # the orientation cannot be read either
        return image
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _in_eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image
    # 16-bit and float greyscale: Pillow's own conversion clips at 255.
    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode != "F" or values.max() > 255 else 255.0 if values.max() > 1 else 1.0
    grey = Image.fromarray(np.clip(np.nan_to_num(values) / top * 255 + 0.5, 0, 255).astype(np.uint8))
    grey.info["icc_profile"] = image.info.get("icc_profile")
    return grey


def _on_grey(image: Image.Image, path: Path, notes: list[str]) -> Image.Image:
    """In sRGB, over GREY where transparent."""
    if image.mode not in ("RGBA", "LA", "PA", "RGBa") and "transparency" not in image.info:
        return _in_srgb(image, path, notes)
    clear = image.convert("RGBA")
    colours = clear.convert("RGB")
    if image.mode in ("L", "LA"):  # its profile is one for grey
        colours = colours.convert("L")
    behind = Image.new("RGB", image.size, GREY)
    return Image.composite(_in_srgb(colours, path, notes), behind, clear.getchannel("A"))


def _in_srgb(image: Image.Image, path: Path, notes: list[str]) -> Image.Image:
    """The RGB image that an image without alpha and its colour profile describe."""
    profile = image.info.get("icc_profile")
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, srgb, intent, "RGB", flags=flags)
            assert converted is not None
            return converted
        except (ImageCms.PyCMSError, OSError):
            notes.append(f"{path} has an unusable colour profile, which is ignored: its colours may be off")
    return image.convert("RGB")


def _has_more_images(image: Image.Image) -> bool:
    """Asked after all else: looking for a second one changes the image. MPO files hold previews."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # damaged behind the first frame, which is all that is used
        return False
