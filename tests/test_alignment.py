"""Finding the largest face of a photo, and framing all faces alike."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from specularip.errors import UserError
from specularip.faces.alignment import align_face, face_mask, framed_by_hair
from specularip.faces.landmarks import find_face

PORTRAIT = os.path.join(os.path.dirname(__file__), "..", "examples", "eileen_collins.jpg")
EYES = np.array([(203.5, 100.5), (246.5, 101.5)])
"""Pupils in the portrait, located by hand to about 1.5 pixels."""


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    return Image.open(PORTRAIT).convert("RGB")


def test_portrait_has_one_face_with_located_eyes(portrait):
    face = find_face(np.asarray(portrait))
    assert np.abs(np.array(face.eyes) - EYES).max() < 3.0, face.eyes
    assert 85 < face.side < 120


def test_crop_is_independent_of_scale_tilt_and_framing(portrait, seed):
    """Size, tilt, position and border of the face in the photo hardly change the crop."""
    rng = np.random.default_rng(seed)
    straight = align_face(np.asarray(portrait), find_face(np.asarray(portrait)))
    assert straight.shape == (3, 96, 96) and 0 <= straight.min() and straight.max() <= 1
    mask = face_mask()
    edge = portrait.getpixel((5, 5))
    scale, angle = rng.uniform(0.6, 2.0), rng.uniform(-12, 12)
    side = round(300 * scale)
    photos = {
        "scaled": portrait.resize((round(512 * scale),) * 2, Image.Resampling.LANCZOS),
        "tilted": portrait.rotate(angle, Image.Resampling.BICUBIC, fillcolor=edge),
        "close": portrait.crop((160, 40, 290, 180)).resize((side, side * 14 // 13), Image.Resampling.BICUBIC),
    }
    for name, photo in photos.items():
        crop = align_face(np.asarray(photo), find_face(np.asarray(photo)))
        difference = float(((crop - straight).abs() * mask).sum() / mask.sum() / 3)
        assert difference < 0.05, f"{name} scale {scale:.2f} angle {angle:.1f} seed {seed}: {difference:.3f}"


def test_crop_is_framed_as_documented(portrait):
    """Eyes at 42 % of the height, level and centred: the darkest pixels of two patches."""
    crop = align_face(np.asarray(portrait), find_face(np.asarray(portrait)), size=200).mean(0).numpy()
    for x in (0.5 - 0.128, 0.5 + 0.128):
        rows, columns = slice(76, 92), slice(int((x - 0.05) * 200), int((x + 0.05) * 200))
        patch = crop[rows, columns]
        dark = np.argwhere(patch < np.quantile(patch, 0.12)).mean(0)
        assert abs((dark[0] + rows.start) / 200 - 0.42) < 0.02
        assert abs((dark[1] + columns.start) / 200 - x) < 0.03


def test_mask_covers_the_face_only():
    mask = face_mask(96)
    assert mask.shape == (1, 96, 96) and float(mask.min()) == 0 and float(mask.max()) == 1
    at = lambda x, y: float(mask[0, int(y * 96), int(x * 96)])  # noqa: E731
    assert at(0.5, 0.42) > 0.9 and at(0.37, 0.42) > 0.7 and at(0.5, 0.75) > 0.9
    assert at(0.05, 0.5) == at(0.5, 0.05) == at(0.5, 0.98) == 0


def test_largest_of_several_faces(portrait):
    whole = np.full((420, 640, 3), np.array(portrait.getpixel((5, 5)), np.uint8))
    head = portrait.crop((130, 0, 320, 210))
    whole[20 : 20 + 210, 20 : 20 + 190] = np.asarray(head)
    whole[60 : 60 + 315, 300 : 300 + 285] = np.asarray(head.resize((285, 315), Image.Resampling.BICUBIC))
    face = find_face(whole)
    assert face.center[0] > 320 and 125 < face.side < 180


def test_small_face_is_rejected_with_its_size(portrait):
    small = portrait.resize((160, 160), Image.Resampling.LANCZOS)
    with pytest.raises(UserError, match=r"only (2\d|3\d) pixels.*48"):
        find_face(np.asarray(small))


@pytest.mark.parametrize("picture", ["coins", "plain", "noise"])
def test_no_face(picture):
    if picture == "coins":
        import skimage.data

        image = skimage.data.coins()[..., None].repeat(3, -1)
    elif picture == "plain":
        image = np.full((300, 300, 3), 128, np.uint8)
    else:
        image = np.random.default_rng().integers(0, 256, (300, 300, 3), dtype=np.uint8)
    with pytest.raises(UserError, match=r"no face found in holiday.jpg"):
        find_face(image, "holiday.jpg")


def test_around_the_face_there_is_the_colour_of_the_hair(portrait):
    crop = align_face(np.asarray(portrait), find_face(np.asarray(portrait)), 96)
    framed = framed_by_hair(crop)
    assert torch.equal(framed[:, 40:70, 36:60], crop[:, 40:70, 36:60]), "the face is as it was"
    corners = framed[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert float(corners.std(1).max()) < 1e-6
    red, green, blue = corners[:, 0].tolist()
    assert 0.2 < blue < green < red < 0.6, "brown"
    plain = torch.full((3, 96, 96), 0.5)
    assert torch.allclose(framed_by_hair(plain)[:, 0, 0], torch.full((3,), 0.35))
