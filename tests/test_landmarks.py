"""Faces and their landmarks, against MediaPipe's own output (tools/face_landmarks/reference.py)."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from portraits import portrait, variants
from safetensors.numpy import load_file

from specularip.errors import UserError
from specularip.faces import landmarks
from specularip.faces.detection import MESH_PER_BOX, Square, detect
from specularip.faces.image_file import read_image
from specularip.faces.landmarks import (
    SURE,
    Landmarks,
    face_box,
    find_face,
    find_faces,
    read_landmarks,
)
from specularip.faces.networks import MESH_SIZE, Detector, load
from specularip.faces.photo import read_photo

REFERENCE = load_file(Path(__file__).parent / "data" / "face_landmarks.safetensors")
PHOTOS = variants()
WIDTH = 101
"""Of the portrait's face, in pixels."""


def distance(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.hypot(*(points[:, :2] - others[:, :2]).T)


def reference_square(name: str) -> Square:
    """What MediaPipe cuts out for the mesh."""
    box, six = REFERENCE[f"{name}/box"].astype(float), REFERENCE[f"{name}/six"].astype(float)
    return Square.along(box[:2] + box[2:] / 2, MESH_PER_BOX * box[2:].max(), six[1] - six[0])


@pytest.mark.parametrize("name", PHOTOS)
def test_mesh_agrees_with_mediapipe_on_the_same_crop(name):
    square = reference_square(name)
    # MediaPipe takes a pixel's place for that of its corner, in the photo as in the crop.
    shift = 0.5 - 0.5 * square.axes.sum(0) / MESH_SIZE
    found = read_landmarks(np.asarray(PHOTOS[name]), Square(square.middle + shift, square.edge))
    expected = REFERENCE[f"{name}/points"]
    assert distance(found.points - np.append(shift, 0), expected).max() < 0.1
    assert np.abs(found.points - expected)[:, 2].max() < 0.6


@pytest.mark.parametrize("name", PHOTOS)
def test_detector_agrees_with_mediapipe(name):
    """It averages overlapping boxes and scales the photo without filtering, so this is not exact."""
    expected = reference_square(name)
    square, _ = max(detect(PHOTOS[name], 1, 0.0), key=lambda found: found[1])
    side, expected_side = np.hypot(*square.edge), np.hypot(*expected.edge)
    assert np.abs(square.middle - expected.middle).max() < 0.1 * expected_side
    assert abs(np.log(side / expected_side)) < 0.12


@pytest.mark.parametrize("name", [name for name in PHOTOS if name != "covered"])
def test_faces_are_where_mediapipe_finds_them(name):
    (face,) = find_faces(np.asarray(PHOTOS[name]))
    width = WIDTH * PHOTOS[name].width / 512
    assert face.score > SURE and abs(face.yaw_deg) < 4
    assert distance(face.points, REFERENCE[f"{name}/points"]).mean() < 0.02 * width


def test_half_of_a_face_is_enough():
    (face,) = find_faces(np.asarray(PHOTOS["covered"]))
    visible = face.points[list(landmarks.RIGHT_EYE)] - REFERENCE["plain/points"][list(landmarks.RIGHT_EYE)]
    assert np.abs(visible[:, :2]).max() < 0.06 * WIDTH


@pytest.mark.parametrize("turn", [50, -90, 120, 180])
def test_lying_and_upside_down_faces(turn):
    """The landmarks turn with the photo: nothing is read upside down."""
    whole = portrait()
    turned = whole.rotate(turn, Image.Resampling.BICUBIC, fillcolor=whole.getpixel((5, 5)))
    (face,) = find_faces(np.asarray(turned))
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    upright = (face.points[:, :2] - 256) @ np.array([[cos, sin], [-sin, cos]]) + 256
    assert distance(upright, REFERENCE["plain/points"]).mean() < 0.02 * WIDTH


def test_small_face_in_a_large_photo():
    head = portrait().crop((130, 0, 320, 210)).resize((113, 125), Image.Resampling.LANCZOS)
    photo = Image.new("RGB", (2400, 1600), head.getpixel((2, 2)))
    photo.paste(head, (1511, 407))
    face = find_face(np.asarray(photo))
    assert 55 < face.side < 65
    assert np.abs(np.array(face.center) - (1511 + 56, 407 + 70)).max() < 6


@pytest.mark.parametrize("dark_glasses", [False, True])
def test_glasses(dark_glasses):
    photo = portrait()
    draw = ImageDraw.Draw(photo)
    for x in (203, 247):
        glass = (x - 19, 88, x + 19, 117)
        draw.ellipse(glass, (15, 15, 15) if dark_glasses else None, (20, 20, 20), 3)
    draw.line((222, 100, 228, 100), (20, 20, 20), 3)
    face, plain = find_face(np.asarray(photo)), find_face(np.asarray(portrait()))
    assert np.abs(np.array(face.eyes) - plain.eyes).max() < 0.05 * WIDTH


@pytest.mark.parametrize("dark", [False, True])
def test_faces_reflected_in_glasses_are_not_taken(dark):
    photo = portrait().resize((2048, 2048), Image.Resampling.BICUBIC)
    head = portrait().crop((150, 40, 300, 180)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((75, 70))
    draw = ImageDraw.Draw(photo)
    for x in (812, 988):
        if dark:
            draw.ellipse((x - 76, 350, x + 76, 468), (15, 15, 15))
        draw.ellipse((x - 76, 350, x + 76, 468), None, (20, 20, 20), 18)
        photo.paste(head, (x - 37, 372))
    faces = find_faces(np.asarray(photo))
    assert len(faces) == 1 and face_box(faces[0]).side == pytest.approx(4 * WIDTH, rel=0.06)


def test_a_reflection_beside_a_hidden_face_is_not_taken_for_it(tmp_path):
    """Which of them a helmet shows cannot be known: the user is told."""
    photo = portrait().resize((1024, 1024), Image.Resampling.BICUBIC)
    ImageDraw.Draw(photo).rectangle((330, 240, 560, 420), (60, 60, 60))
    (hidden,) = find_faces(np.asarray(photo))
    head = portrait().crop((130, 0, 320, 210)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert hidden.doubtful
    photo.paste(head.resize((67, 74)), (700, 800))  # too small to use
    (again,) = find_faces(np.asarray(photo))
    assert again.radius == pytest.approx(hidden.radius, rel=0.05)
    photo.save(tmp_path / "a.png")
    assert "is hard to recognise" in read_photo(tmp_path / "a.png").notes[0]
    photo.paste(head.resize((124, 137)), (700, 800))
    taken, larger = find_faces(np.asarray(photo))
    assert taken.score > SURE and not taken.doubtful and larger.doubtful
    photo.save(tmp_path / "a.png")
    assert any("this may be its reflection" in note for note in read_photo(tmp_path / "a.png").notes)


@pytest.mark.parametrize(
    ("width", "places"),
    [(50, [(0, 0)]), (75, [(3890, 1500)]), (60, [(1990, 2906)]), (98, [(500, 700), (3200, 99)])],
)
def test_small_faces_in_twelve_megapixels(width, places, tmp_path):
    scale = width / WIDTH
    head = portrait().crop((130, 0, 320, 210))
    head = head.resize((round(190 * scale), round(210 * scale)), Image.Resampling.LANCZOS)
    photo = Image.new("RGB", (4000, 3000), head.getpixel((2, 2)))
    for place in places:
        photo.paste(head, place)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95)
    start = time.process_time()
    faces = find_faces(read_image(tmp_path / "a.jpg"))
    assert time.process_time() - start < 10, "on an idle core it takes a second"
    assert len(faces) == len(places)
    for face in faces:
        assert face_box(face).side == pytest.approx(width, rel=0.06)
        middle = np.array(face_box(face).center) - scale * np.array([92, 117])
        assert min(np.hypot(*(middle - place)) for place in places) < 0.1 * width


def test_faces_too_small_are_refused_with_their_size():
    head = portrait().crop((130, 0, 320, 210)).resize((57, 63), Image.Resampling.LANCZOS)
    photo = Image.new("RGB", (4000, 3000), head.getpixel((2, 2)))
    photo.paste(head, (2911, 1407))
    with pytest.raises(UserError, match=r"only (29|30|31) pixels wide, 48 are needed"):
        find_face(np.asarray(photo))


def test_two_faces_the_largest_first():
    head = portrait().crop((130, 0, 320, 210))
    photo = Image.new("RGB", (640, 420), head.getpixel((2, 2)))
    photo.paste(head, (20, 20))
    photo.paste(head.resize((285, 315), Image.Resampling.BICUBIC), (300, 60))
    large, small = find_faces(np.asarray(photo))
    assert large.radius == pytest.approx(1.5 * small.radius, rel=0.04)
    assert large.points[:, 0].min() > 320 > small.points[:, 0].max()


def test_no_face_in_a_texture(seed):
    rng = np.random.default_rng(seed)
    texture = np.zeros((360, 480, 3))
    for cells in (4, 12, 36, 108):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        texture += np.asarray(noise.resize((480, 360), Image.Resampling.BICUBIC)) / 4
    assert find_faces(texture.astype(np.uint8)) == [], seed


def test_exif_orientation_is_the_readers_task(tmp_path):
    upright = portrait()
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    face, expected = find_face(read_image(tmp_path / "turned.png")), find_face(np.asarray(upright))
    np.testing.assert_allclose(face.eyes, expected.eyes, atol=1e-3)


def turned_aside(face: Landmarks, angle_deg: float, score: float) -> Landmarks:
    """The same face, its right turned to the camera."""
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    rotation = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    middle = face.points.mean(0)
    return Landmarks(np.float32((face.points - middle) @ rotation.T + middle), score)


def test_yaw_and_radius(seed):
    face = Landmarks(REFERENCE["plain/points"], 20.0)
    for angle in np.random.default_rng(seed).uniform(-80, 80, 5):
        aside = turned_aside(face, angle, 20.0)
        assert abs(abs(aside.yaw_deg) - abs(angle)) < 2.5
        assert aside.radius == pytest.approx(face.radius, rel=1e-4)


@pytest.mark.parametrize(
    "angle, score, accepted", [(45, 2, True), (55, 8, True), (55, 2, False), (-65, 9, False)]
)
def test_profiles_are_refused(monkeypatch, angle, score, accepted):
    face = turned_aside(Landmarks(REFERENCE["plain/points"], 20.0), angle, score)
    monkeypatch.setattr(landmarks, "find_faces", lambda image: [face])
    image = np.asarray(portrait())
    if accepted:
        assert find_face(image) == face_box(face)
    else:
        with pytest.raises(
            UserError, match=r"^the largest face in me.jpg looks too far aside.*: use [^\n]*$"
        ):
            find_face(image, "me.jpg")


def test_networks_keep_no_gradients_and_see_one_row_per_cell():
    detector, mesh = load()
    assert not any(parameter.requires_grad for parameter in (*detector.parameters(), *mesh.parameters()))
    scores, boxes = detector(torch.zeros(2, 3, 128, 128))
    assert scores.shape == (2, 896) and boxes.shape == (2, 896, 16)
    cells = Detector.cells()
    assert cells[[0, 1, 2, 511, 512, 895]].tolist() == [
        [4, 4],
        [4, 4],
        [12, 4],
        [124, 124],
        [8, 8],
        [120, 120],
    ]
