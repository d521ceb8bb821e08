"""Image files of captures as pixels: decoding, masks, sizes.

Orientation: a camera belongs to the image of its own width and height. COLMAP, nerfstudio and what they write
ignore the orientation in a photo's EXIF data and take its pixels as they are stored; other tools turn photos
upright first. The size that the camera is for tells which; where both have it, the pixels are as stored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

from specularip.errors import UserError
from specularip.image_reading import MAX_PIXELS, QUARTER_TURNS, TURNS, decoded, open_image, orientation

MIN_SIDE = 16
"""Smallest side of an image."""
MAX_LABEL = 15
"""Brightest value of a mask that holds numbers of parts or of people rather than grey levels."""
MEMORY_SHARE = 0.7
"""How much of the computer's memory images may fill."""
OUTSIDE = 0.01
"""Alpha below which a pixel is background alone."""
BACKGROUND_SIZE = 9
"""Side in pixels of the square in which the background at an outline is looked for."""
_INVERSE = {6: 8, 8: 6}
"""Orientations that undo one another; all others undo themselves."""


@dataclass(frozen=True)
class Header:
    """Of an image file: the size of what is stored, and its EXIF orientation, 1 if it has none."""

    width: int
    height: int
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height after turning it as its orientation says."""
        turned = self.orientation in QUARTER_TURNS
        return (self.height, self.width) if turned else (self.width, self.height)


def read_header(file: Path) -> Header:
    """Raises UserError if the file cannot be read, is no image, or one that is too small or too large."""
    with _opened(file) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UserError(
                f"{file} is {width}x{height}: {MAX_PIXELS // 1_000_000} megapixels is the limit; scale it"
            )
        if min(width, height) < MIN_SIDE:
            raise UserError(f"{file} is only {width}x{height} pixels: at least {MIN_SIDE} a side are needed")
        return Header(width, height, orientation(image))


def is_turned(header: Header, width: int, height: int) -> bool:
    """Whether a camera for images of width x height, or of another size of that shape, has seen the image
    upright and not as it is stored.

    Raises UserError if neither has that shape.
    """
    if same_shape((header.width, header.height), (width, height)):
        return False
    if same_shape(header.upright, (width, height)):
        return True
    raise UserError(
        f"the image is {header.width}x{header.height}, but its camera is for images of {width}x{height}, of "
        "another aspect ratio"
    )


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one is the other scaled, up to rounding to whole pixels."""
    tolerance = 2 / min(*size, *other)
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= tolerance


def read_pixels(file: Path, *, turned: bool = False) -> tuple[np.ndarray, bool]:
    """uint8 [H,W,4]: colours in sRGB and alpha, 255 where the image has none; and False if its colour profile
    is unusable, so that its colours are taken as sRGB.

    turned: upright, as its EXIF orientation says; otherwise as it is stored. Images of 16 bits become 8,
    colours of other profiles (Display P3, Adobe RGB, CMYK) sRGB. Of several images in a file, the first.
    Raises UserError if it is damaged.
    """
    with _opened(file) as image:
        with _decoding(file):
            return decoded(image, file, turned, lambda colours: colours.convert("RGBA"))


def read_mask(file: Path, size: tuple[int, int], photo: Header, *, turned: bool = False) -> np.ndarray:
    """How much of each pixel the subject covers, uint8 [H,W] of this size (width, height).

    White is the subject, in grey levels or colours; if the mask has an alpha channel, that is the mask. Two
    values are black and white, whatever they are (0 and 1, say); of labels up to MAX_LABEL, the lowest is the
    background. A mask of another size is scaled. photo: of
    the image it belongs to; turned: whether that was. The mask may be of the image as stored or upright.
    Raises UserError if it is damaged or of another shape.
    """
    mask = _coverage(file)
    if not same_shape(mask.shape[::-1], size) and photo.orientation in QUARTER_TURNS:
        turn = TURNS[photo.orientation if turned else _INVERSE.get(photo.orientation, photo.orientation)]
        mask = np.array(Image.fromarray(mask).transpose(turn))
    height, width = mask.shape
    if not same_shape((width, height), size):
        raise UserError(
            f"{file} is {width}x{height}, but its image is {size[0]}x{size[1]}, of another aspect ratio"
        )
    return mask if (width, height) == size else scaled(mask[..., None], *size)[..., 0]


def are_inverted(masks: Sequence[Path]) -> bool:
    """Whether masks are black on the subject: in almost all of a dozen, the border is white and what lies
    within is darker. Raises UserError if one is damaged."""
    votes = []
    for file in masks[:: max(1, len(masks) // 12)]:
        mask = _coverage(file)
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        height, width = mask.shape
        middle = mask[height // 4 : height - height // 4, width // 4 : width - width // 4]
        votes.append(border.mean() > 0.9 * 255 and middle.mean() < 0.75 * 255)
    return bool(votes) and sum(votes) >= 0.8 * len(votes)


def masked(pixels: np.ndarray, mask: np.ndarray, premultiplied: bool) -> np.ndarray:
    """Pixels [H,W,4] with alpha, and premultiplied colours, multiplied by a mask [H,W]."""
    result = pixels.copy()
    first = 0 if premultiplied else 3
    result[..., first:] = _product(pixels[..., first:], mask[..., None])
    return result


def foreground(pixels: np.ndarray) -> np.ndarray:
    """The subject alone, premultiplied by alpha, of a photograph whose alpha is a mask: uint8 [H,W,4].

    At its outline, a photograph I shows subject F and background B: I = a F + (1 - a) B. Multiplied by the
    mask, it would keep the background's colour along the whole outline. So a F = I - (1 - a) B, where B is
    the mean of the background nearby; where none is near, a F = a I.
    """
    alpha = pixels[..., 3:].astype(np.float32) / 255
    if not ((alpha > OUTSIDE) & (alpha < 1 - OUTSIDE)).any():
        return multiplied(pixels)
    image = pixels[..., :3].astype(np.float32) / 255
    outside = (alpha < OUTSIDE).astype(np.float32)
    size = (BACKGROUND_SIZE, BACKGROUND_SIZE, 1)
    near = uniform_filter(outside, size)
    background = uniform_filter(outside * image, size) / np.maximum(near, 1e-6)
    subject = np.clip(image - (1 - alpha) * background, 0, alpha)
    found = np.where(near > 0.5 / BACKGROUND_SIZE**2, subject, alpha * image)
    result = pixels.copy()
    result[..., :3] = (255 * found + 0.5).astype(np.uint8)
    return result


def multiplied(pixels: np.ndarray) -> np.ndarray:
    """Straight pixels [H,W,4] with colours multiplied by alpha."""
    if pixels[..., 3].min() == 255:
        return pixels
    result = pixels.copy()
    result[..., :3] = _product(pixels[..., :3], pixels[..., 3:])
    return result


def scaled(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 [H,W,C], premultiplied, at another size: the average over the area of each new pixel, and linear
    between pixels where it grows."""
    across = _resampled(pixels, height)  # the rows first: fewer floats in memory
    return (_resampled(across.swapaxes(0, 1), width).swapaxes(0, 1) + 0.5).astype(np.uint8)


def check_memory(source: Path, sizes: Sequence[tuple[int, int]]) -> None:
    """Raises UserError if images of these sizes (width, height), four bytes a pixel, exceed the memory."""
    need, have = 4 * sum(width * height for width, height in sizes), memory_bytes()
    if need > MEMORY_SHARE * have:
        raise UserError(
            f"{source}: {len(sizes)} images of up to {max(w for w, _ in sizes)}x{max(h for _, h in sizes)} "
            f"take {need / 2**30:.1f} GiB of memory, of {have / 2**30:.1f}: scale them down or use fewer"
        )


def memory_bytes() -> int:
    """The computer's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 32 << 30  # unknown on this system: assume enough


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """An image of which only the header is read yet."""
    try:
        if not file.is_file():
            raise UserError(f"{file} is {'not a regular file' if file.exists() else 'missing'}")
        stream = file.open("rb")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
    with stream, open_image(stream, file) as image:
        yield image


@contextmanager
def _decoding(file: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise all kinds of exceptions on damaged data
        reason = "cut short" if "truncated" in str(error) else "damaged"
        raise UserError(f"{file} is {reason} and cannot be decoded: export it again") from None


def _coverage(file: Path) -> np.ndarray:
    """A mask as it is stored, uint8 [H,W], not of two values other than 0 and 255, nor of labels."""
    with _opened(file) as image:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(f"{file} is {image.width}x{image.height}, too large for a mask: scale it")
        with _decoding(file):
            image.info.pop("icc_profile", None)  # these are numbers, not colours
            pixels, _ = decoded(image, file, False, lambda colours: colours.convert("RGBA"))
    # Labels are often painted in one pure colour.
    mask = pixels[..., :3].max(-1) if pixels[..., 3].min() == 255 else pixels[..., 3]
    low, high = int(mask.min()), int(mask.max())
    if low == high:
        return np.full_like(mask, 255 if high else 0)
    if high <= MAX_LABEL:
        return np.where(mask > low, np.uint8(255), np.uint8(0))
    if not ((mask == low) | (mask == high)).all():
        return mask
    return np.where(mask == high, np.uint8(255), np.uint8(0))


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rounded a * b / 255 of uint8 arrays."""
    return ((a.astype(np.uint16) * b + 127) // 255).astype(np.uint8)


def _resampled(values: np.ndarray, count: int) -> np.ndarray:
    """[N,M,C] -> float32 [count,M,C]."""
    length = len(values)
    flat = values.reshape(length, -1)
    result = np.empty((count, flat.shape[1]), np.float32)
    for row in range(count):
        # A new pixel's extent in old ones; at least one wide, which is linear interpolation.
        middle, half = (row + 0.5) * length / count, 0.5 * max(1.0, length / count)
        first, last = max(0, int(middle - half)), min(length, int(np.ceil(middle + half)))
        index = np.arange(first, last)
        weights = np.minimum(index + 1, middle + half) - np.maximum(index, middle - half)
        weights = (weights / weights.sum()).astype(np.float32)
        np.matmul(weights, flat[first:last].astype(np.float32), out=result[row])
    return result.reshape(count, *values.shape[1:])
