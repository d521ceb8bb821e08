"""The photo: reading an image file safely, finding its largest face, framing every face the same way.

The cascade (Liao et al. 2007, multi-block LBP, shipped with scikit-image) fires on many things that are no
face, but rarely twice on the same thing; a face answers at many positions, scales, sizes and in the mirror.
So detections are counted, and only places with enough of them are faces.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from specularip.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 100_000_000
"""Larger images are refused from their header, before anything is decoded."""
MIN_FACE = 48
"""Smallest usable face, in pixels of the photo; it is also the smallest usable photo."""
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
"""What Pillow may try. Its other readers are never reached, least of all those that start other programs."""
GREY = (153, 153, 153)
"""Behind transparent pixels: the grey (0.6) that the compact prior knows as background."""

# The canonical crop, in shares of its side.
EYE_LINE = 0.42
EYE_SPACING = 0.255
CROP_PER_BOX = 1.70
"""Crop side over detector box: puts the chin near 0.88 and makes the face about 0.6 wide."""
# Where the eyes sit in the detector's box, in shares of its side.
BOX_EYE_Y = 0.36
BOX_EYE_SPACING = CROP_PER_BOX * EYE_SPACING

_header_lock = threading.Lock()


@dataclass(frozen=True)
class Face:
    """The largest face of a photo. Pixel coordinates, x to the right and y down.

    center, side, tilt_deg: the detector's square, about brow to chin and ear to ear; a positive tilt turns
    it clockwise. eyes: (x, y) of the eye at the image's left, then of the one at its right. eyes_found:
    False where the eyes are only where the square expects them. count: how many faces the photo shows.
    """

    center: tuple[float, float]
    side: float
    tilt_deg: float
    eyes: tuple[tuple[float, float], tuple[float, float]]
    eyes_found: bool
    count: int


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as uint8 [H,W,3], sRGB, the way up that its EXIF says.

    Grey, palette, CMYK and 16-bit images become RGB; transparent ones are laid over grey. Only the first
    frame of an animation is read. Raises UserError with one line where the file is no whole, sane image.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder: give the image file itself")
        if not path.exists():
            raise UserError(f"{path} does not exist: check the path of the photo")
        if not path.is_file():
            raise UserError(f"{path} is not a regular file: give an image file such as a JPEG or PNG")
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata that nothing here reads
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
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
            reason = "cut short" if "truncated" in str(error) else "damaged"
            raise UserError(
                f"{path} is {reason} and cannot be decoded: save or download the photo again"
            ) from None


def _open_header(file, path: Path) -> Image.Image:
    """Parse the header only. Pillow's own size guard is off meanwhile: ours names the size."""
    Image.init()  # registers all of Pillow's readers, of which FORMATS picks
    with _header_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
        except Exception:  # also struct.error, SyntaxError, ValueError on malformed headers
            raise UserError(f"{path} is not an image this program reads: use a JPEG, PNG or WebP") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16-bit and float grey; Pillow's own conversion clips at 255
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode != "F" or values.max() > 255 else 255.0 if values.max() > 1 else 1.0
        image = Image.fromarray(np.clip(np.nan_to_num(values) / top * 255 + 0.5, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*GREY, 255)), image).convert("RGB")
    return image.convert("RGB")


def find_face(image: np.ndarray, name: str = "the photo") -> Face:
    """The largest roughly frontal face of a photo, upright or tilted by up to about 25 degrees.

    image: uint8 [H,W,3]. name: what a message calls the photo. Raises UserError where there is no face, or
    where the largest is under MIN_FACE pixels.
    """
    # A place with a clear pair of eyes is a face for sure; without one, only where the detector insists.
    faces: list[Face] = []
    doubtful: list[Face] = []
    for size, tilt in SEARCHES:
        if size > SEARCHES[0][0] >= max(image.shape[:2]):
            continue  # enlarging would show nothing new
        for center, side, votes in _detect(image, size, tilt):
            face = _refine_eyes(image, _box_face(center, side, tilt))
            if face.eyes_found:
                faces.append(face)
            elif votes >= 1.5 * MIN_VOTES:
                doubtful.append(face)
        if faces:
            break
    faces = faces or doubtful
    if not faces:
        raise UserError(
            f"no face found in {name}: use an upright, well-lit photo that looks into the camera, "
            "with the face not too small in the frame"
        )
    face = max(faces, key=lambda face: face.side)
    if face.side < MIN_FACE:
        raise UserError(
            f"the largest face in {name} is only {face.side:.0f} pixels across, {MIN_FACE} are needed: "
            "use a closer or larger photo"
        )
    return replace(face, count=len(faces))


SEARCHES = ((400, 0.0), (320, 18.0), (320, -18.0), (800, 0.0))
"""Long side of the searched image and tilt of the face, tried in turn until there is a face."""
MIN_VOTES = 26
"""Detections over four passes that make a face."""


def _box_face(center: tuple[float, float], side: float, tilt_deg: float) -> Face:
    """A face whose eyes are where the detector's square expects them."""
    half, up = 0.5 * BOX_EYE_SPACING * side, (0.5 - BOX_EYE_Y) * side
    eyes = (_from_square(center, tilt_deg, -half, -up), _from_square(center, tilt_deg, half, -up))
    return Face(center, side, tilt_deg, eyes, False, 1)


def _from_square(center: tuple[float, float], tilt_deg: float, x: float, y: float) -> tuple[float, float]:
    """Photo coordinates of a point given in the tilted square's axes, from its centre."""
    cos, sin = np.cos(np.radians(tilt_deg)), np.sin(np.radians(tilt_deg))
    return float(center[0] + cos * x - sin * y), float(center[1] + sin * x + cos * y)


def _detect(image: np.ndarray, size: int, tilt_deg: float) -> list[tuple[tuple[float, float], float, int]]:
    """Places as (center (x, y), side, votes) in pixels of `image`: two sizes, each also mirrored."""
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    cascade = Cascade(lbp_frontal_face_cascade_filename())
    height, width = image.shape[:2]
    found: list[tuple[float, float, float]] = []
    largest = min(1.0, size / max(height, width))
    for scale in (largest, 0.75 * largest):
        extent = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = Image.fromarray(image).resize(extent, Image.Resampling.BOX, reducing_gap=2.0)
        margin = max(small.size) // 8  # a face may fill the photo up to its border
        padded = np.pad(np.asarray(small), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        if tilt_deg:  # turns the content back to upright about the centre
            turned = Image.fromarray(padded).rotate(tilt_deg, Image.Resampling.BILINEAR, fillcolor=GREY)
            padded = np.asarray(turned)
        for mirrored in (False, True):
            view = np.ascontiguousarray(padded[:, ::-1]) if mirrored else padded
            for hit in cascade.detect_multi_scale(
                view,
                scale_factor=1.1,
                step_ratio=1,
                min_size=(24, 24),
                max_size=view.shape[:2],
                min_neighbor_number=1,
                intersection_score_threshold=2.0,  # no two overlap that much: keeps every hit on its own
            ):
                x = hit["c"] + hit["width"] / 2 - view.shape[1] / 2
                y = hit["r"] + hit["width"] / 2 - view.shape[0] / 2
                found.append(((-x if mirrored else x) / scale, y / scale, hit["width"] / scale))
    places = []
    for group in _group(found):
        if len(group) >= MIN_VOTES:
            x, y, side = (float(value) for value in np.mean(group, 0))
            places.append((_from_square((width / 2, height / 2), tilt_deg, x, y), side, len(group)))
    return places


def _group(found: list[tuple[float, float, float]]) -> list[list[tuple[float, float, float]]]:
    """Sets of detections (x, y, side) whose centres and sizes agree, the largest boxes first."""
    groups: list[list[tuple[float, float, float]]] = []
    for hit in sorted(found, key=lambda hit: -hit[2]):
        for group in groups:
            x, y, side = np.mean(group, 0)
            if hit[2] > side / 1.6 and max(abs(hit[0] - x), abs(hit[1] - y)) < 0.25 * side:
                group.append(hit)
                break
        else:
            groups.append([hit])
    return groups


def _refine_eyes(image: np.ndarray, face: Face) -> Face:
    """Move the eyes to the best pair of dark round blobs near where the box expects them, if there is one.

    A pair counts only when it is level to within 17°, as far apart as eyes are, and clearly dark.
    """
    from scipy.ndimage import gaussian_filter, maximum_filter

    n = 64
    corner = _from_square(face.center, face.tilt_deg, -face.side / 2, -face.side / 2)
    right = _from_square(face.center, face.tilt_deg, face.side / 2, -face.side / 2)
    patch = _warp(image, corner, (right[0] - corner[0], right[1] - corner[1]), n)
    grey = patch @ np.array([0.299, 0.587, 0.114])
    grey = (grey - gaussian_filter(grey, n / 4)) / (gaussian_filter(grey, n / 4) + 0.05)  # even out the light
    # Darker than its surroundings at the size of an eye; taller than wide surroundings play brows down.
    blob = gaussian_filter(grey, (5.0, 5.5)) - gaussian_filter(grey, 2.0)
    y, x = np.mgrid[:n, :n] / n + 0.5 / n
    candidates = []
    for expected in (0.5 - BOX_EYE_SPACING / 2, 0.5 + BOX_EYE_SPACING / 2):
        near = np.exp(-(((x - expected) / 0.12) ** 2) - ((y - BOX_EYE_Y - 0.01) / 0.11) ** 2)
        score = np.where((blob == maximum_filter(blob, 5)) & (blob > 0), blob * near, 0.0)
        best = np.argsort(score, axis=None)[-4:]
        candidates.append([(float(score.flat[i]), *_subpixel(blob, int(i) // n, int(i) % n)) for i in best])
    best_pair, best_score = None, 0.0
    for left_score, left_y, left_x in candidates[0]:
        for right_score, right_y, right_x in candidates[1]:
            across, down = (right_x - left_x) / n, (right_y - left_y) / n
            if not (0.30 < across < 0.58 and abs(down) < 0.31 * across):
                continue
            # Both must be eyes, and level heads are likelier than tilted ones.
            score = np.sqrt(left_score * right_score) * np.exp(-((down / across / 0.36) ** 2))
            if score > best_score:
                best_pair, best_score = ((left_x, left_y), (right_x, right_y)), score
    if best_pair is None or best_score < 0.015:
        return face
    left_eye, right_eye = (
        _from_square(
            face.center, face.tilt_deg, ((x + 0.5) / n - 0.5) * face.side, ((y + 0.5) / n - 0.5) * face.side
        )
        for x, y in best_pair
    )
    return replace(face, eyes=(left_eye, right_eye), eyes_found=True)


def _subpixel(values: np.ndarray, row: int, column: int) -> tuple[float, float]:
    """The peak of a parabola through a maximum and its neighbours, per axis."""
    if not (0 < row < values.shape[0] - 1 and 0 < column < values.shape[1] - 1):
        return float(row), float(column)

    def offset(before: float, at: float, after: float) -> float:
        bend = before - 2 * at + after
        return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0

    return (
        row + offset(*values[row - 1 : row + 2, column]),
        column + offset(*values[row, column - 1 : column + 2]),
    )


def align_face(image: np.ndarray, face: Face, size: int = 96) -> Tensor:
    """The face cut out upright and framed as every other: float32 [3,size,size] in 0..1.

    The eye line lies at 42 % of the height, the chin near 88 %, the face is about 60 % wide. Beyond the
    photo's border its content is mirrored.
    """
    import torch

    (left_x, left_y), (right_x, right_y) = face.eyes
    spacing = float(np.hypot(right_x - left_x, right_y - left_y))
    across = np.array([right_x - left_x, right_y - left_y]) / spacing
    down = np.array([-across[1], across[0]])
    # The box is steadier than the eyes about size, the eyes about place and tilt.
    side = 0.65 * CROP_PER_BOX * face.side + 0.35 * spacing / EYE_SPACING
    middle = np.array([(left_x + right_x) / 2, (left_y + right_y) / 2])
    corner = middle - 0.5 * side * across - EYE_LINE * side * down
    crop = _warp(image, tuple(corner), tuple(side * across), size)
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1), dtype=np.float32))


def face_mask(size: int = 96) -> Tensor:
    """Soft ellipse over the face of an `align_face` crop, brow to chin: float32 [1,size,size] in 0..1."""
    import torch

    at = (torch.arange(size) + 0.5) / size
    radius = torch.hypot((at[None, :] - 0.5) / 0.29, (at[:, None] - 0.57) / 0.34)
    return torch.clamp((1.12 - radius) / 0.34, 0.0, 1.0).square()[None]


def _warp(image: np.ndarray, corner: tuple[float, float], edge: tuple[float, float], size: int) -> np.ndarray:
    """Sample a tilted square of an image, antialiased: uint8 [H,W,3] -> float64 [size,size,3] in 0..1.

    corner: (x, y) of the square's upper left; edge: (x, y) from there to its upper right.
    """
    from scipy.ndimage import map_coordinates

    side = float(np.hypot(*edge))
    shrink = max(1, int(side / size / 2))  # whole blocks first, cheap; the rest by supersampling
    small = np.asarray(Image.fromarray(image).reduce(shrink)) if shrink > 1 else image
    per_pixel = max(1, round(side / shrink / size + 0.4))
    at = (np.arange(size * per_pixel) + 0.5) / (size * per_pixel)
    x = corner[0] + edge[0] * at[None, :] - edge[1] * at[:, None]
    y = corner[1] + edge[1] * at[None, :] + edge[0] * at[:, None]
    where = np.stack([y, x]) / shrink - 0.5
    channels = [
        map_coordinates(small[..., c].astype(np.float32), where, order=1, mode="reflect") for c in range(3)
    ]
    blocks = np.stack(channels, -1).reshape(size, per_pixel, size, per_pixel, 3)
    return blocks.mean((1, 3)) / 255.0
