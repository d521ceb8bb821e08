"""What about a photo of a face spoils the likeness: light, sharpness, things in front of it, missing colour.

The face is cut out upright, at one scale for all photos. The thresholds lie between a hundred faces as they
are (photographs and renders, of all skin tones, with and without beards, turned by up to 60 degrees) and
faces that were darkened, lit from aside, blurred, or had glasses and masks painted on.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from specularip.faces.alignment import sample_square
from specularip.faces.landmarks import Landmarks

SIZE, PIXELS_PER_RADIUS = 144, 36.0
"""Of the crop: its side, and pixels per `Landmarks.radius`, which makes a pixel 1.4 mm."""

GREY_SATURATION = 0.08
"""(Largest - smallest channel) / largest, which a quarter of the face exceeds. Skin of all tones has 0.2 to
0.6, a black-and-white photo 0, or 0.03 if it is a noisy scan in colour."""
DARK = 65 / 255
"""Luma that 2 % of the face exceed. Very dark skin in good light has 90 to 110 of 255, light skin 200; light
skin in photos four stops too dark has 62 at most."""
BLOWN_LUMA, BLOWN_SHARE = 0.96, 0.15
"""Good photos have such luma on 0.1 % of the face, those a stop too bright on up to 60 %."""
ASIDE = np.log2(3.0)
"""Light on one side of the face over that on the other, in stops: at most 1.3 in photos that are not meant to
be dramatic."""
MAX_YAW_DEG = 35.0
"""Of heads turned further, the far side is not compared with the near one."""
SMALL_EYES = 45.0
"""Pixels between the outer corners of the eyes: as many as Gaussians of the avatar, which are 2 mm apart."""
BLURRED = 0.41
"""Contrast of eyes and mouth in details of 2 mm over that in details of 4 mm. Sharp photos have 0.5 to 1,
those blurred by 2 mm 0.37 to 0.46, by 3 mm 0.32 to 0.37."""
HIDDEN_EYES = 0.55
"""Luma of the brightest parts of both eyes over that of the cheeks: at least 0.75 in all kinds of photos,
behind sunglasses 0.1 to 0.5."""
ALIKE, FLAT_LIPS, OTHER_COLOR, UNSURE = 8.0, 0.10, 20.0, 15.0
"""A mouth is covered if lips and what is around them differ by no more than ALIKE, and two of three hold: the
lips are flat (deviation of their lightness, relative to it), mouth and chin differ from the upper face by
OTHER_COLOR, the landmarks' score is less than UNSURE. Colours are compared in CIELAB."""

LUMA = np.array([0.299, 0.587, 0.114])

# Numbers of landmarks. Left and right are the person's.
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
RIGHT_LID = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
LEFT_LID = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
RIGHT_SKIN = (108, 69, 50, 101, 118, 205, 207, 210, 214, 36)
LEFT_SKIN = (337, 299, 280, 330, 347, 425, 427, 430, 434, 266)
CHEEKS = (50, 101, 205, 280, 330, 425)
UPPER_FACE = (168, 6, 9, 151, 118, 347, 119, 348, 50, 280)
LOWER_FACE = (164, 37, 267, 199, 200, 175, 208, 428, 210, 430, 57, 287)


def is_grey(pixels: np.ndarray, face: Landmarks) -> bool:
    """Whether the face has hardly any colour: a black-and-white photo, a drawing or a statue.

    pixels: uint8 [H,W,3]. Photos toned brown have colour.
    """
    crop, points = _upright(pixels, face)
    skin = crop[_inside(points[list(OVAL)])]
    exposed = skin[skin @ LUMA < BLOWN_LUMA]
    if not len(exposed):
        return False
    brightest = np.maximum(exposed.max(-1), 16 / 255)  # the noise of black pixels is no colour
    return float(np.quantile(np.ptp(exposed, axis=-1) / brightest, 0.75)) < GREY_SATURATION


def faults(pixels: np.ndarray, face: Landmarks) -> list[str]:
    """Lines for the user about what spoils the likeness; none for a good photo.

    pixels: uint8 [H,W,3]. Nothing else is looked for in faces too dark or too bright.
    """
    crop, points = _upright(pixels, face)
    luma = crop @ LUMA
    skin = luma[_inside(points[list(OVAL)])]
    if np.percentile(skin, 98) < DARK:
        return ["the face is very dark: a brighter photo gives more likeness"]
    if (skin > BLOWN_LUMA).mean() > BLOWN_SHARE:
        return ["the face is overexposed: a darker photo gives more likeness"]
    found = []
    if abs(face.yaw_deg) < MAX_YAW_DEG and abs(_stops_aside(crop, points)) > ASIDE:
        found.append("the face is lit from one side: even light gives more likeness")
    right, left = face.points[[RIGHT_LID[0], LEFT_LID[0]]]
    eyes = float(np.linalg.norm(left - right))
    if eyes < SMALL_EYES:
        size = f"{int(eyes)} pixels between the outer corners of the eyes"
        found.append(f"the face is small ({size}): one of {SMALL_EYES:.0f} or more gives more likeness")
    elif _sharpness(luma, points) < BLURRED:
        found.append("the face is blurred: a sharp photo gives more likeness")
    if _mouth_is_covered(crop, points, face.score):
        found.append("the mouth seems to be covered, as by a mask: it is guessed")
    elif _brightest_eye(luma, points) < HIDDEN_EYES:  # relative to cheeks, which a mask covers
        found.append("the eyes seem to be hidden, as by sunglasses: they are guessed")
    return found


def _stops_aside(crop: np.ndarray, points: np.ndarray) -> float:
    """How much more light the person's right side gets; median over pairs of places."""
    light = _linear(crop) @ np.array([0.2126, 0.7152, 0.0722]) + 0.002
    sides = [[light[_discs(points[[i]], 4.0)].mean() for i in side] for side in (RIGHT_SKIN, LEFT_SKIN)]
    return float(np.median(np.log2(sides[0]) - np.log2(sides[1])))


def _sharpness(luma: np.ndarray, points: np.ndarray) -> float:
    from scipy.ndimage import gaussian_filter

    where = _inside(points[list(LIPS)], 1.3)
    for lid in (RIGHT_LID, LEFT_LID):
        where |= _inside(points[list(lid)], 1.6)
    fine, middle, coarse = (gaussian_filter(luma, sigma) for sigma in (0.5, 1.0, 2.0))
    small, large = (np.square(band)[where].mean() for band in (fine - middle, middle - coarse))
    return float(np.sqrt(small / max(large, 1e-12)))


def _brightest_eye(luma: np.ndarray, points: np.ndarray) -> float:
    eyes = [np.percentile(luma[_inside(points[list(lid)], 1.5)], 95) for lid in (RIGHT_LID, LEFT_LID)]
    return float(max(eyes) / max(np.median(luma[_discs(points[list(CHEEKS)], 4.0)]), 1 / 255))


def _mouth_is_covered(crop: np.ndarray, points: np.ndarray, score: float) -> bool:
    lab = _cielab(crop)
    outline = points[list(LIPS)]
    lips = lab[_inside(outline)]
    around = lab[_inside(outline, 1.5) & ~_inside(outline, 1.15)]
    upper, lower = (lab[_discs(points[list(at)], 3.0)] for at in (UPPER_FACE, LOWER_FACE))
    if np.linalg.norm(np.median(lips, 0) - np.median(around, 0)) > ALIKE:
        return False
    flat = lips[:, 0].std() < FLAT_LIPS * max(float(np.median(lips[:, 0])), 25.0)
    other = np.linalg.norm(np.median(lower, 0) - np.median(upper, 0)) > OTHER_COLOR
    return int(flat) + int(other) + int(score < UNSURE) >= 2


def _upright(pixels: np.ndarray, face: Landmarks) -> tuple[np.ndarray, np.ndarray]:
    """The face: float64 [SIZE,SIZE,3] in 0..1, and its landmarks in there, [468,2]."""
    points = face.points[:, :2].astype(np.float64)
    across = points[LEFT_LID[0]] - points[RIGHT_LID[0]]
    across /= max(float(np.hypot(*across)), 1e-6)
    axes = np.stack([across, [-across[1], across[0]]])
    side = SIZE / PIXELS_PER_RADIUS * face.radius
    x, y = points.mean(0) - side / 2 * axes.sum(0)
    crop = sample_square(pixels, (x, y), (side * across[0], side * across[1]), SIZE)
    return crop, (points - (x, y)) @ axes.T * (SIZE / side)


def _inside(outline: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """bool [SIZE,SIZE]: the polygon of points [n,2], enlarged about its middle."""
    middle = outline.mean(0)
    mask = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in middle + scale * (outline - middle)], fill=1)
    return np.asarray(mask, dtype=bool)


def _discs(middles: np.ndarray, radius: float) -> np.ndarray:
    """bool [SIZE,SIZE]: within the radius of any of these points [n,2]."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    distances = np.hypot(x - middles[:, 0, None, None], y - middles[:, 1, None, None])
    return (distances < radius).any(0)


def _linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb < 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _cielab(srgb: np.ndarray) -> np.ndarray:
    """sRGB in 0..1 to CIELAB under D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = _linear(srgb) @ to_xyz.T / to_xyz.sum(1)
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
