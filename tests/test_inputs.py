"""The inputs of `generate`: one photo or several, and which of them the person is recognised by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from colour_profiles import DISPLAY_P3, profile
from PIL import Image
from portraits import PORTRAIT, portrait

from specularip.errors import UserError
from specularip.faces import landmarks
from specularip.faces.landmarks import Landmarks, face_box, find_face, usable_faces
from specularip.faces.photo import Photo, clearest
from specularip.inputs import MAX_PHOTOS, Inputs, check_inputs


def check(tmp_path: Path, *images: Path, **options: bool) -> Inputs:
    return check_inputs("a woman", images, tmp_path / "out", **options)


def error(tmp_path: Path, *images: Path) -> str:
    with pytest.raises(UserError) as caught:
        check(tmp_path, *images)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


@pytest.mark.parametrize("image", [PORTRAIT, str(PORTRAIT), [PORTRAIT]])
def test_one_photo_is_given_as_a_path_or_a_list(tmp_path: Path, image: object) -> None:
    inputs = check_inputs(" a \n woman", image, tmp_path / "out")  # type: ignore[arg-type]
    (photo,) = inputs.photos
    assert inputs.text == "a woman" and inputs.identity is photo and inputs.notes == ()
    assert photo.path == PORTRAIT and not photo.grey and not photo.pixels.flags.writeable
    assert np.array_equal(photo.pixels, np.asarray(portrait()))
    assert photo.face == find_face(photo.pixels)
    assert photo.landmarks is not None
    assert np.array_equal(photo.landmarks.points, usable_faces(photo.pixels)[0].points)


def test_each_photo_is_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    search = landmarks.find_faces
    monkeypatch.setattr(landmarks, "find_faces", lambda image: searched.append(image) or search(image))
    files = [saved(tmp_path / f"{i}.png", portrait().rotate(5 * i)) for i in range(MAX_PHOTOS)]
    first, second = check(tmp_path, *files), check(tmp_path, *files)
    assert len(searched) == MAX_PHOTOS and first.photos == second.photos
    saved(files[3], portrait().rotate(7))
    assert check(tmp_path, *files).photos[3] is not first.photos[3] and len(searched) == MAX_PHOTOS + 1


def test_insightface_searches_itself(tmp_path: Path) -> None:
    blank = saved(tmp_path / "blank.png", Image.new("RGB", (200, 200)))
    inputs = check(tmp_path, blank, PORTRAIT, look_for_face=False)
    assert all(photo.face is None and photo.landmarks is None for photo in inputs.photos)
    assert inputs.identity is inputs.photos[0]


def test_number_of_photos(tmp_path: Path) -> None:
    assert "0 photos given: give 1 to 8" in error(tmp_path)
    assert "9 photos given: give 1 to 8" in error(tmp_path, *[tmp_path / str(i) for i in range(9)])


def test_the_same_photo_twice(tmp_path: Path) -> None:
    one = saved(tmp_path / "one.png", portrait())
    link = tmp_path / "link.png"
    link.symlink_to(one)
    for again in (one, tmp_path / "." / "one.png", link):
        assert error(tmp_path, one, again) == f"{one} and {again} are the same photo: give each only once"
    missing = [tmp_path / "a.png", tmp_path / "b.png"]
    assert f"{missing[0]} does not exist" in error(tmp_path, *missing)


def test_the_photo_without_a_face_is_named(tmp_path: Path) -> None:
    blank = saved(tmp_path / "blank.png", Image.new("RGB", (200, 200), (90, 90, 90)))
    assert f"no face found in {blank}" in error(tmp_path, PORTRAIT, blank)


def test_faces_without_colour_and_further_faces_are_told(tmp_path: Path) -> None:
    head = portrait().crop((130, 0, 320, 210))
    two = Image.new("RGB", (640, 420), head.getpixel((2, 2)))
    two.paste(head, (20, 20))
    two.paste(head.resize((285, 315), Image.Resampling.BICUBIC), (300, 60))
    grey = saved(tmp_path / "grey.png", portrait().convert("L"))
    inputs = check(tmp_path, saved(tmp_path / "two.png", two), grey)
    assert [photo.grey for photo in inputs.photos] == [False, True]
    assert inputs.notes == (
        f"2 faces in {tmp_path / 'two.png'}: taking the largest",
        f"{grey} is black and white: the tones of skin and hair are guessed",
    )
    dark = saved(tmp_path / "dark.png", portrait().point(lambda value: round(0.15 * value)))
    assert not check(tmp_path, dark).photos[0].grey


def test_faces_are_found_in_all_kinds_of_files(tmp_path: Path) -> None:
    """Files as phones, scanners, layout programs and messengers make them."""
    image = portrait()
    turned = Image.Exif()
    turned[0x0112] = 8
    image.rotate(-90).save(tmp_path / "phone.jpg", exif=turned, quality=92)
    image.convert("CMYK").save(tmp_path / "print.jpg", quality=92)
    image.save(tmp_path / "wide.png", icc_profile=profile(DISPLAY_P3, 2.25))
    clear = image.convert("RGBA")
    clear.putalpha(Image.new("L", image.size, 255))
    clear.paste((0, 0, 0, 0), (300, 0, 512, 512))
    clear.save(tmp_path / "cut out.webp", quality=92)
    image.save(tmp_path / "moving.gif", save_all=True, append_images=[image.rotate(90)])
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(tmp_path / "scan.tif")
    names = ["phone.jpg", "print.jpg", "wide.png", "cut out.webp", "moving.gif", "scan.tif"]
    inputs = check(tmp_path, *[tmp_path / name for name in names])
    expected = find_face(np.asarray(image))
    for photo in inputs.photos:
        assert photo.face is not None
        assert np.abs(np.array(photo.face.eyes) - expected.eyes).max() < 1.5, photo.path
    assert inputs.notes == (
        f"{tmp_path / 'moving.gif'} holds several images: taking the first",
        f"{tmp_path / 'scan.tif'} is black and white: the tones of skin and hair are guessed",
    )


PIXELS = np.zeros((64, 64, 3), np.uint8)
POINTS = usable_faces(np.asarray(portrait()))[0].points


def seen(size: float = 1.0, turn_deg: float = 0.0, notes: tuple[str, ...] = ()) -> Photo:
    """The portrait's face, 100 pixels wide, enlarged and turned aside; without its pixels."""
    cos, sin = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    rotation = size * np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    face = Landmarks(np.float32(POINTS @ rotation.T), 20.0)
    return Photo(Path("face.png"), PIXELS, face_box(face), face, False, notes)


@pytest.mark.parametrize(
    ("first", "second", "better"),
    [
        (seen(), seen(4), False),  # large enough
        (seen(0.6), seen(), True),
        (seen(turn_deg=15), seen(), False),
        (seen(turn_deg=40), seen(), True),
        (seen(turn_deg=-40), seen(turn_deg=40), False),
        (seen(turn_deg=40), seen(0.6), False),
        (seen(notes=("sunglasses",)), seen(turn_deg=20), True),
    ],
)
def test_the_first_photo_counts_unless_another_is_clearly_better(
    first: Photo, second: Photo, better: bool
) -> None:
    assert clearest([first, second]) is (second if better else first)


def test_another_photo_for_the_identity_is_told(tmp_path: Path) -> None:
    small = saved(tmp_path / "small.png", portrait().resize((300, 300), Image.Resampling.LANCZOS))
    inputs = check(tmp_path, small, PORTRAIT)
    assert inputs.identity is inputs.photos[1]
    assert inputs.notes[-1] == f"the face is read from {PORTRAIT}: it shows more of it than {small}"
