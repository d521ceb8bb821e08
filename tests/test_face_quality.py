"""What is said about faces that are badly lit, blurred or covered: the shipped portrait, painted on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from portraits import PORTRAIT, portrait

from specularip.faces.landmarks import Landmarks, find_faces
from specularip.faces.quality import LEFT_LID, LIPS, OVAL, RIGHT_LID, faults, is_grey
from specularip.inputs import check_inputs

PIXELS = np.asarray(portrait())
(FACE,) = find_faces(PIXELS)
POINTS = FACE.points[:, :2]
WIDTH = 101
"""Of the portrait's face, in pixels; the eyes' outer corners are 62 apart."""
Edit = Callable[[], np.ndarray]
Color = tuple[int, int, int]


def said(pixels: np.ndarray) -> list[str]:
    """About its largest face, up to the colon."""
    return [line.split(":")[0] for line in faults(pixels, find_faces(pixels)[0])]


def painted(
    outlines: list[np.ndarray], color: Color, alpha: float = 1.0, on: np.ndarray = PIXELS
) -> np.ndarray:
    """Over polygons of points [n,2]; some grain makes it cloth or glass."""
    mask = Image.new("L", (512, 512))
    for outline in outlines:
        ImageDraw.Draw(mask).polygon([(x, y) for x, y in outline], fill=255)
    cover = alpha / 255 * np.asarray(mask.filter(ImageFilter.GaussianBlur(0.7)), dtype=float)[..., None]
    grain = np.random.default_rng(0).normal(0, 3, on.shape)
    return np.clip(on * (1 - cover) + cover * (np.array(color) + grain), 0, 255).astype(np.uint8)


def glasses(color: Color, alpha: float = 1.0, size: float = 2.0) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 40)
    lens = np.stack([np.cos(turn), 0.75 * np.sin(turn)], 1)
    lids = [POINTS[list(lid)] for lid in (RIGHT_LID, LEFT_LID)]
    return painted([lid.mean(0) + size / 2 * np.ptp(lid[:, 0]) * lens for lid in lids], color, alpha)


def frames() -> np.ndarray:
    photo = portrait()
    for lid in (RIGHT_LID, LEFT_LID):
        middle, reach = POINTS[list(lid)].mean(0), 0.9 * np.ptp(POINTS[list(lid), 0]) * np.array([1, 0.8])
        ImageDraw.Draw(photo).ellipse((*(middle - reach), *(middle + reach)), outline=(20, 20, 20), width=2)
    return np.asarray(photo)


def jaw(*top: int) -> np.ndarray:
    """Below these landmarks, from the right to the left cheek."""
    return POINTS[[*top, *OVAL[9:28]]]


UP_TO_THE_NOSE, UP_TO_THE_LIP = (227, 117, 118, 197, 347, 346, 447), (58, 207, 2, 427, 288)


def beard() -> np.ndarray:
    bearded = painted([jaw(*UP_TO_THE_LIP)], (45, 32, 25))
    lips = Image.new("L", (512, 512))
    ImageDraw.Draw(lips).polygon([(x, y) for x, y in POINTS[list(LIPS)]], fill=1)
    return np.where(np.asarray(lips, dtype=bool)[..., None], PIXELS, bearded)


def skin(factor: float) -> np.ndarray:
    """The portrait's face in a darker tone; the rest of the photo is as it was."""
    mask = Image.new("L", (512, 512))
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in POINTS[list(OVAL)]], fill=1)
    for part in (RIGHT_LID, LEFT_LID):
        ImageDraw.Draw(mask).polygon([(x, y) for x, y in POINTS[list(part)]], fill=0)
    tone = factor * np.array([1.0, 0.85, 0.8])
    return np.where(np.asarray(mask)[..., None] > 0, PIXELS * tone, PIXELS).astype(np.uint8)


def stops(count: float, pixels: np.ndarray = PIXELS) -> np.ndarray:
    """Exposed more (fewer, if negative) by these."""
    return np.clip(255 * ((pixels / 255) ** 2.2 * 2**count) ** (1 / 2.2), 0, 255).astype(np.uint8)


def side_light(ratio: float) -> np.ndarray:
    """The light falls by this ratio from the person's right to the left; below 1, from the left."""
    x = np.clip((np.arange(512) - POINTS[:, 0].min()) / np.ptp(POINTS[:, 0]), 0, 1)
    gain = (ratio**-x / max(1.0, 1 / ratio)) ** (1 / 2.2)
    return (PIXELS * gain[None, :, None]).astype(np.uint8)


def blurred(pixels: float) -> np.ndarray:
    return np.asarray(portrait().filter(ImageFilter.GaussianBlur(pixels)))


def scaled(eyes: float) -> np.ndarray:
    """To that many pixels between the outer corners of the eyes."""
    side = round(512 * eyes / 62.5)
    return np.asarray(portrait().resize((side, side), Image.Resampling.LANCZOS))


def turned(degrees: float) -> np.ndarray:
    return np.asarray(portrait().rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(200, 195, 190)))


@pytest.mark.parametrize(
    "good",
    [
        lambda: PIXELS,
        lambda: np.ascontiguousarray(PIXELS[:, ::-1]),
        partial(turned, 35),
        partial(scaled, 190),
        partial(scaled, 47),
        partial(blurred, 0.6),
        partial(stops, -2),
        partial(stops, 0.5),
        partial(side_light, 2),
        partial(side_light, 0.5),
        partial(skin, 0.42),
        lambda: stops(-0.5, skin(0.42)),
        frames,
        beard,
        partial(painted, [POINTS[list(LIPS)]], (150, 20, 40), 0.7),
    ],
)
def test_nothing_is_said_about_good_photos(good: Edit) -> None:
    assert said(good()) == []


SUNGLASSES = "the eyes seem to be hidden, as by sunglasses"
MASK = "the mouth seems to be covered, as by a mask"
NOSE, LIP = [jaw(*UP_TO_THE_NOSE)], [jaw(*UP_TO_THE_LIP)]


@pytest.mark.parametrize(
    ("edit", "about"),
    [
        (partial(stops, -4.5), "the face is very dark"),
        (partial(stops, 1.5), "the face is overexposed"),
        (partial(side_light, 12), "the face is lit from one side"),
        (partial(side_light, 1 / 16), "the face is lit from one side"),
        (partial(blurred, 1.8), "the face is blurred"),
        (partial(scaled, 40.3), "the face is small (40 pixels between the outer corners of the eyes)"),
        (partial(glasses, (18, 18, 20)), SUNGLASSES),
        (partial(glasses, (18, 18, 20), 1.0, 1.5), SUNGLASSES),
        (partial(glasses, (60, 40, 30), 0.85), SUNGLASSES),
        (partial(painted, NOSE, (120, 160, 190)), MASK),
        (partial(painted, NOSE, (25, 25, 27)), MASK),
        (partial(painted, NOSE, (205, 208, 210)), MASK),
        (partial(painted, LIP, (190, 50, 50)), MASK),
        # The eyes are compared with the cheeks, which the mask covers.
        (lambda: painted(NOSE, (220, 225, 228), on=stops(-2.5)), MASK),
    ],
)
def test_each_fault_is_said(edit: Edit, about: str) -> None:
    assert said(edit()) == [about]


def test_a_beard_is_no_mask_because_the_lips_are_seen() -> None:
    bearded = beard()
    (face,) = find_faces(bearded)
    assert faults(bearded, Landmarks(face.points, 10.0)) == []


def test_light_from_aside_is_not_judged_where_one_side_is_hardly_seen() -> None:
    dramatic = side_light(12)
    (face,) = find_faces(dramatic)
    angle = np.radians(50)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    middle = face.points.mean(0)
    aside = Landmarks(np.float32((face.points - middle) @ turn.T + middle), face.score)
    assert abs(aside.yaw_deg) > 45
    assert not any("one side" in line for line in faults(dramatic, aside))


def test_faces_without_colour() -> None:
    grey = np.asarray(portrait().convert("L").convert("RGB"))
    noise = np.random.default_rng(0).normal(0, 3, grey.shape)
    assert is_grey(grey, FACE)
    assert is_grey(np.clip(grey + noise, 0, 255).astype(np.uint8), FACE), "a scan in colour"
    assert is_grey(stops(-3, grey), FACE)
    faded = 0.35 * PIXELS + 0.65 * grey
    masked = painted([jaw(*UP_TO_THE_NOSE)], (200, 200, 200))
    for coloured in (PIXELS, faded.astype(np.uint8), masked, stops(-3), stops(3), skin(0.42)):
        assert not is_grey(coloured, FACE)


def test_faults_are_notes_and_another_photo_is_preferred(tmp_path: Path) -> None:
    cool = tmp_path / "cool.png"
    Image.fromarray(glasses((18, 18, 20))).save(cool)
    inputs = check_inputs("a woman", [cool, PORTRAIT], tmp_path / "out")
    note, reason = inputs.notes
    assert note == f"{cool}: the eyes seem to be hidden, as by sunglasses: they are guessed"
    assert inputs.photos[0].notes == (note,) and inputs.photos[1].notes == ()
    assert inputs.identity is inputs.photos[1] and f"read from {PORTRAIT}" in reason
