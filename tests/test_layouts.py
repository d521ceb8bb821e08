"""Captures of nerfstudio, instant-ngp, Polycam and Record3D are read as meant, or one line is raised."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from captures import FOV_X, HEIGHT, WIDTH, opengl_poses, orbit
from PIL import Image

from specularip.captures.frames import Capture, Lens, PointCloud
from specularip.captures.intrinsics import lens_of, said_in
from specularip.captures.layout import read_capture
from specularip.errors import UserError

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")
FOCAL = 0.5 * WIDTH / math.tan(FOV_X / 2)


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 60, 30)).save(path)


def frames(count: int, names: str = "images/frame_{:03d}.jpg") -> list[dict]:
    poses = opengl_poses(orbit(count))
    return [{"file_path": names.format(index), "transform_matrix": pose} for index, pose in enumerate(poses)]


def nerfstudio(folder: Path, count: int = 17, **keys: object) -> dict:
    """As `ns-process-data` writes it. Returns the table."""
    table = {
        "w": WIDTH, "h": HEIGHT, "fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2,
        "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0, "camera_model": "OPENCV", **keys, "frames": frames(count),
    }  # fmt: skip
    for frame in table["frames"]:
        picture(folder / frame["file_path"])
    save(folder, table)
    return table


def save(folder: Path, table: object, name: str = "transforms.json") -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(table))


def error(folder: Path, split: str = "train") -> str:
    with pytest.raises(UserError) as raised:
        read_capture(folder, split)  # type: ignore[arg-type]
    message = str(raised.value)
    assert "\n" not in message and message.isprintable(), repr(message)
    return message


def numbers(capture: Capture) -> list[int]:
    return [int(frame.name[-7:-4]) for frame in capture.frames]


def lens(table: dict) -> Lens:
    said = said_in({"w": 640, "h": 480, "fl_x": 500, **table}, "cameras.json")
    return lens_of(said, "cameras.json", lambda: (640, 480))


# Splits


def test_every_eighth_image_is_held_out_and_that_is_said(tmp_path):
    table = nerfstudio(tmp_path)
    random.Random(0).shuffle(table["frames"])
    save(tmp_path, table)
    train, test = read_capture(tmp_path, "train"), read_capture(tmp_path, "test")
    assert train.layout == "nerfstudio" and train.premultiplied is None
    assert numbers(test) == [0, 8, 16] and numbers(train) == [k for k in range(17) if k % 8]
    assert numbers(read_capture(tmp_path, "val")) == [0, 8, 16]
    assert any("every 8th image" in note and "3 of 17" in note for note in train.notes)
    expected = orbit(17).viewmats.double().numpy()
    assert np.allclose([frame.viewmat for frame in train.frames], expected[numbers(train)], atol=1e-6)
    assert all(frame.viewmat.dtype == np.float64 for frame in train.frames)
    pinhole = Lens("pinhole", WIDTH, HEIGHT, FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
    assert {frame.lens for frame in train.frames} == {pinhole}


def test_the_files_own_lists_take_precedence(tmp_path):
    table = nerfstudio(tmp_path, 9)
    names = [frame["file_path"] for frame in table["frames"]]
    save(tmp_path, table | {"train_filenames": names[:6], "val_filenames": names[6:8]})
    assert numbers(read_capture(tmp_path, "train")) == list(range(6))
    assert numbers(read_capture(tmp_path, "val")) == [6, 7]
    test = read_capture(tmp_path, "test")
    assert numbers(test) == [6, 7] and "val_filenames are used" in test.notes[0]
    save(tmp_path, table | {"test_filenames": names[7:]})
    assert numbers(read_capture(tmp_path, "train")) == list(range(7))
    save(tmp_path, table | {"train_filenames": names})
    assert "no test_filenames" in read_capture(tmp_path, "test").notes[0]
    save(tmp_path, table | {"train_filenames": [*names, "images/other.jpg"]})
    assert "no image 'images/other.jpg'" in error(tmp_path)
    picture(tmp_path / "images/other.jpg")
    assert "train_filenames has 'images/other.jpg', which is no frame" in error(tmp_path)
    save(tmp_path, table | {"train_filenames": None, "test_filenames": None})
    assert numbers(read_capture(tmp_path, "test")) == [0, 8]  # as if it had none
    save(tmp_path, table | {"train_filenames": 3})
    assert "list of file names" in error(tmp_path)


def test_cameras_at_one_place_are_refused(tmp_path):
    table = nerfstudio(tmp_path, 4)
    for frame in table["frames"]:
        for row, number in zip(frame["transform_matrix"], (1.0, 2.0, 3.0)):
            row[3] = number
    save(tmp_path, table)
    assert "all cameras are at one place" in error(tmp_path)


def test_few_images_and_test_files_beside(tmp_path):
    table = nerfstudio(tmp_path, 7)
    assert numbers(read_capture(tmp_path, "train")) == list(range(7))
    assert "too few to hold some out" in read_capture(tmp_path, "test").notes[0]
    save(tmp_path, table | {"frames": table["frames"][:2]})
    assert "at least 3" in error(tmp_path)
    save(tmp_path, table)
    save(tmp_path, table | {"frames": table["frames"][:3]}, "transforms_test.json")
    assert (
        numbers(read_capture(tmp_path, "test")) == [0, 1, 2]
        and len(read_capture(tmp_path, "train").frames) == 7
    )
    (tmp_path / "transforms.json").unlink()
    assert numbers(read_capture(tmp_path, "test")) == [0, 1, 2]
    assert "transforms_train.json is missing" in error(tmp_path)
    save(tmp_path, table)
    save(tmp_path, table | {"frames": table["frames"][:4]}, "transforms_train.json")
    train = read_capture(tmp_path, "train")
    assert train.layout == "NeRF-synthetic" and numbers(train) == [0, 1, 2, 3]
    assert any("transforms_train.json is used" in note for note in train.notes)


# Lenses


@pytest.mark.parametrize(
    ("table", "model", "distortion"),
    [
        ({}, "pinhole", ()),
        ({"camera_model": "OPENCV", "k1": 0, "p2": 1e-9}, "pinhole", ()),
        ({"camera_model": "SIMPLE_PINHOLE"}, "pinhole", ()),
        ({"camera_model": "PERSPECTIVE", "k1": 0.1}, "opencv", (0.1, 0, 0, 0, 0, 0, 0, 0)),
        ({"camera_model": "PINHOLE", "k1": "0.1"}, "opencv", (0.1, 0, 0, 0, 0, 0, 0, 0)),
        (
            {"k1": 0.1, "k2": 0.2, "p1": 0.3, "p2": 0.4, "k3": 0.5},
            "opencv",
            (0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0),
        ),
        ({"camera_model": "Simple_Radial", "k1": 0.1}, "opencv", (0.1, 0, 0, 0, 0, 0, 0, 0)),
        (
            {"camera_model": "FULL_OPENCV", **{f"k{k}": k / 10 for k in range(1, 7)}},
            "opencv",
            (0.1, 0.2, 0, 0, 0.3, 0.4, 0.5, 0.6),
        ),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.4}, "fisheye", (0.1, 0, 0, 0.4)),
        ({"camera_model": "fisheye"}, "fisheye", (0, 0, 0, 0)),
        ({"camera_type": "equidistant"}, "fisheye", (0, 0, 0, 0)),
        ({"is_fisheye": True, "k1": 0.1, "k2": 0.2, "k3": 0.3, "k4": 0.4}, "fisheye", (0.1, 0.2, 0.3, 0.4)),
        ({"is_fisheye": False, "k1": 0.1}, "opencv", (0.1, 0, 0, 0, 0, 0, 0, 0)),
        ({"camera_model": "OPENCV", "is_fisheye": 1}, "fisheye", (0, 0, 0, 0)),
        ({"lens": "fisheye"}, "fisheye", (0, 0, 0, 0)),
        ({"lens_model": "iPhone 15 back camera 6.8mm f/1.8"}, "pinhole", ()),
        ({"distortion_params": [0.1, 0.2, 0.3, 0, 0.5, 0.6]}, "opencv", (0.1, 0.2, 0.5, 0.6, 0.3, 0, 0, 0)),
        ({"distortion_params": [0.1, 0.2, 0.3, 0.4]}, "opencv", (0.1, 0.2, 0.3, 0.4, 0, 0, 0, 0)),
        ({"distortion": [0.1, 0.2, 0.3, 0.4, 0.5]}, "opencv", (0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0)),
        ({"dist_coeffs": [[0.1, 0.2, 0.3, 0.4, 0.5]]}, "opencv", (0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0)),
        ({"distortion": [0.1, 0.2] + [0] * 10}, "opencv", (0.1, 0.2, 0, 0, 0, 0, 0, 0)),
        ({"is_fisheye": True, "D": [0.1, 0.2, 0.3, 0.4]}, "fisheye", (0.1, 0.2, 0.3, 0.4)),
        ({"distortion": {"k1": 0.1, "p1": 0.2}}, "opencv", (0.1, 0, 0.2, 0, 0, 0, 0, 0)),
        ({"radial_distortion": [0.1, 0.2, 0.3]}, "opencv", (0.1, 0.2, 0, 0, 0.3, 0, 0, 0)),
        ({"camera": {"model": "OPENCV_FISHEYE", "k1": 0.1, "fl_x": 500}}, "fisheye", (0.1, 0, 0, 0)),
        ({"intrinsics": {"fx": 500, "distortion": [0.1, 0, 0, 0]}}, "opencv", (0.1, 0, 0, 0, 0, 0, 0, 0)),
        ({"calibration": {"fx": 500, "k1": 0.1}}, "opencv", (0.1, 0, 0, 0, 0, 0, 0, 0)),
        ({"pose": {"w": 0.7, "x": 0.1}, "alpha": True}, "pinhole", ()),
        ({"rolling_shutter": [0, 0, 0, 0], "skew": 0, "b1": 0.0}, "pinhole", ()),
    ],
)
def test_lenses_in_all_notations(table, model, distortion):
    found = lens(table)
    assert found.model == model and (found.width, found.height, found.fx, found.fy) == (640, 480, 500, 500)
    assert found.distortion == pytest.approx(distortion)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"camera_model": "EQUIRECTANGULAR"}, "panoramas"),
        ({"camera_model": "OMNIDIRECTIONALSTEREO_L"}, "panoramas"),
        ({"equirectangular": True}, "panoramas"),
        ({"latlong": 1}, "panoramas"),
        ({"projection": "spherical"}, "panoramas"),
        ({"camera_model": "ORTHOPHOTO"}, "orthographic"),
        ({"camera_model": "FISHEYE624"}, "'FISHEYE624' is not supported"),
        ({"camera_model": "my lens"}, "undistort"),
        ({"camera_model": 3}, "name of a lens model"),
        ({"camera_model": "FOV", "omega": 0.9}, "omega"),
        ({"camera_model": "OPENCV", "k5": 0.1}, "k5 = 0.1"),
        ({"camera_model": "OPENCV_FISHEYE", "p1": 0.1}, "p1 = 0.1"),
        ({"camera_model": "THIN_PRISM_FISHEYE", "sx1": 0.1}, "'sx1' is 0.1"),
        ({"ftheta_p0": 0.1, "ftheta_p1": 0}, "ftheta_p0"),
        ({"rolling_shutter": [0, 0, 0.1]}, "rolling_shutter"),
        ({"skew": 2.0}, "skew"),
        ({"tangential": [0.1, 0.2]}, "tangential"),
        ({"lens_distortion": {"a": 0.2}}, "lens_distortion"),
        ({"calibration": {"skew": 0.2}}, "'skew' is 0.2"),
        ({"alpha": 0.6}, "'alpha' is 0.6"),
        ({"distortion_type": "division"}, "distortion_type"),
        ({"distortion": [0.1, 0.2, 0.3]}, "not clear which"),
        ({"distortion": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}, "not clear which"),
        ({"distortion": list(range(1, 20))}, "up to 14"),
        ({"distortion": ["x"]}, "must be a number"),
        ({"k1": 0.1, "distortion_params": [0.2]}, "remove one"),
        ({"fx": 400}, "fl_x is both"),
        ({"intrinsics": [[500, 3, 320], [0, 500, 240], [0, 0, 1]]}, "skew"),
        ({"K": [1, 2]}, "3x3"),
        ({"shift_x": 0.1}, "'shift_x' is 0.1"),
        ({"fl_x": 350, "k1": -0.146, "k2": 0.004, "k3": -0.007, "k4": 0.016}, "too strong"),
        ({"k1": math.nan}, "below 1e9"),
        ({"k1": True}, "must be a number"),
        ({"w": 0}, "positive"),
        ({"w": 1e8}, "below 1000000"),
        ({"x_fov": 200, "fl_x": None}, "degrees"),
    ],
)
def test_lenses_that_are_not_read_are_refused(table, words):
    with pytest.raises(UserError) as raised:
        lens(table)
    assert words in str(raised.value) and "\n" not in str(raised.value), str(raised.value)
    assert str(raised.value).startswith("cameras.json")


def test_focal_lengths_and_centres_in_all_notations():
    def said(**table: object) -> tuple[float, ...]:
        found = lens_of(said_in({"w": 640, "h": 480, **table}, "x"), "x", lambda: (640, 480))
        return found.fx, found.fy, found.cx, found.cy

    expected = pytest.approx((500, 510, 300, 200))
    assert said(fl_x=500, fl_y=510, cx=300, cy=200) == expected
    assert said(intrinsics={"fx": 500, "fy": 510, "cx": 300, "cy": 200}) == expected
    assert said(intrinsics=[500, 510, 300, 200]) == expected
    assert said(camera_matrix=[[500, 0, 300], [0, 510, 200], [0, 0, 1]]) == expected
    assert said(intrinsics=[[500, 0, 300, 0], [0, 510, 200, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) == expected
    assert said(K=[500, 0, 300, 0, 510, 200, 0, 0, 1]) == expected
    assert said(K=[500, 0, 0, 0, 510, 0, 300, 200, 1]) == expected
    angles = 2 * math.atan(320 / 500), 2 * math.atan(240 / 510)
    middle = pytest.approx((500, 510, 320, 240))
    assert said(camera_angle_x=angles[0], camera_angle_y=angles[1]) == middle
    assert said(x_fov=math.degrees(angles[0]), y_fov=math.degrees(angles[1])) == middle
    assert said(camera_angle_x=angles[0]) == pytest.approx((500, 500, 320, 240))
    assert said(fl_y=510) == pytest.approx((510, 510, 320, 240))
    half = lens_of(said_in({"w": 320, "fl_x": 250}, "x"), "x", lambda: (640, 480))
    assert (half.width, half.height, half.fx, half.cx, half.cy) == (320, 240, 250, 160, 120)


def test_a_frames_own_lens_replaces_the_general_one(tmp_path):
    table = nerfstudio(tmp_path, 4, k1=0.1)
    table["frames"][1] |= {"camera_angle_x": 1.0}
    table["frames"][2] |= {"distortion_params": [0, 0, 0, 0, 0, 0], "w": 2 * WIDTH, "h": 2 * HEIGHT}
    table["frames"][3] |= {"camera_model": "FISHEYE", "fl_x": 30, "fl_y": 31}
    save(tmp_path, table)
    found = [frame.lens for frame in read_capture(tmp_path, "train").frames]
    assert [each.model for each in found] == ["opencv", "opencv", "pinhole", "fisheye"]
    assert found[1].fx == found[1].fy == pytest.approx(WIDTH / 2 / math.tan(0.5))
    assert (found[2].width, found[2].height) == (2 * WIDTH, 2 * HEIGHT)
    assert (found[3].fx, found[3].fy, found[3].distortion) == (30, 31, (0.1, 0, 0, 0))


def test_cameras_that_frames_refer_to(tmp_path):
    table = nerfstudio(tmp_path, 4)
    for key in ("fl_x", "fl_y", "k1", "k2", "p1", "p2", "camera_model"):
        del table[key]
    cameras = {"7": {"fx": 30, "k1": 0.1}, "8": {"fx": 40, "model": "OPENCV_FISHEYE"}}
    for shared in (cameras, [{"id": int(key), **entry} for key, entry in cameras.items()]):
        for index, frame in enumerate(table["frames"]):
            frame["camera_id"] = 7 + index % 2
        save(tmp_path, table | {"cameras": shared})
        found = [frame.lens for frame in read_capture(tmp_path, "train").frames]
        assert [(each.model, each.fx) for each in found] == [("opencv", 30), ("fisheye", 40)] * 2
    table["frames"][2]["camera_id"] = 9
    save(tmp_path, table | {"cameras": cameras})
    assert "frame 2: its camera_id is 9" in error(tmp_path)
    for frame in table["frames"]:
        del frame["camera_id"]
    save(tmp_path, table | {"cameras": [cameras["7"]]})
    assert read_capture(tmp_path, "train").frames[3].lens.fx == 30


def test_k4_is_the_eighth_power_of_the_radius():
    """nerfstudio, Metashape and RealityScan mean 1 + k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸."""
    k = (-0.2, 0.1, -0.04, 0.02)
    found = lens({f"k{index + 1}": value for index, value in enumerate(k)})
    k1, k2, _, _, k3, k4, k5, k6 = found.distortion
    r = np.linspace(0, 0.88, 50)  # to the corner of the image
    s = r * r
    wanted = 1 + k[0] * s + k[1] * s**2 + k[2] * s**3 + k[3] * s**4
    rational = (1 + k1 * s + k2 * s**2 + k3 * s**3) / (1 + k4 * s + k5 * s**2 + k6 * s**3)
    assert np.abs((rational - wanted) * r * found.fx).max() < 0.01
    assert np.abs(k[3] * s**4 * r * found.fx).max() > 1  # which leaving it out would shift


def test_sizes_come_from_the_images_if_the_file_has_none(tmp_path):
    table = nerfstudio(tmp_path, 4)
    for key in ("w", "h", "cx", "cy"):
        del table[key]
    save(tmp_path, table)
    turned = Image.new("RGB", (HEIGHT, WIDTH))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "images/frame_001.jpg", exif=exif)
    picture(tmp_path / "images/frame_002.jpg", (40, 30))
    found = [frame.lens for frame in read_capture(tmp_path, "train").frames]
    assert [(each.width, each.height) for each in found] == [
        (WIDTH, HEIGHT),
        (WIDTH, HEIGHT),
        (40, 30),
        (WIDTH, HEIGHT),
    ]
    assert (found[2].cx, found[2].cy, found[2].fx) == (20, 15, FOCAL)
    (tmp_path / "images/frame_002.jpg").write_bytes(b"no image")
    assert "frame_002.jpg is damaged or not an image" in error(tmp_path)


def test_what_is_not_used_is_said(tmp_path):
    table = nerfstudio(tmp_path, 4, aabb_scale=16, scale=0.3, offset=[0, 1, 0], mystery=3, author="me")
    for frame in table["frames"]:
        frame |= {"sharpness": 12.0, "depth_file_path": "depths/a.png", "exposure": 0.01}
    save(tmp_path, table)
    notes = read_capture(tmp_path, "train").notes
    assert sum("depth maps" in note for note in notes) == 1
    assert sum("not used: exposure, mystery" in note for note in notes) == 1 and len(notes) == 3


# Transforms


def test_transforms_of_three_rows_and_of_one_scale(tmp_path):
    table = nerfstudio(tmp_path, 4)
    plain = read_capture(tmp_path, "train")
    for frame in table["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"])[:3] * ([2.5] * 3 + [1])).tolist()
    save(tmp_path, table)
    scaled = read_capture(tmp_path, "train")
    for one, other in zip(plain.frames, scaled.frames):
        assert np.allclose(one.viewmat, other.viewmat, atol=1e-6)
    assert any("scale by 2.5" in note for note in scaled.notes)
    table["frames"][2]["transform_matrix"][0][0] *= 1.5
    save(tmp_path, table)
    assert "frame 2" in error(tmp_path) and "scales" in error(tmp_path)


def test_scenes_far_away_keep_their_precision(tmp_path):
    table = nerfstudio(tmp_path, 4)
    for frame in table["frames"]:
        for axis, shift in enumerate((4.5e5, 5.4e6, 300.0)):
            frame["transform_matrix"][axis][3] += shift
    save(tmp_path, table)
    for frame, given in zip(read_capture(tmp_path, "train").frames, table["frames"]):
        position = -frame.viewmat[:3, :3].T @ frame.viewmat[:3, 3]
        assert np.abs(position - np.array(given["transform_matrix"])[:3, 3]).max() < 1e-8


# Names


@pytest.mark.parametrize(
    "name",
    [
        "images/a.jpg", "./images/a.jpg", "images\\a.jpg", "images/a", "images/a.JPG", "IMAGES/A.JPEG",
        "/home/x/data/images/a.jpg", "C:\\Users\\x\\my data\\images\\a.JPG", "../images/a.jpg",
        "../../a.jpg",
        "images//a.jpg", "images/../images/a.jpg", "images/a.png", "file:///data/images/a.jpg", "a.jpg",
        "images%2Fa.jpg",
    ],
)  # fmt: skip
def test_names_of_other_machines(tmp_path, name):
    table = nerfstudio(tmp_path, 4)
    picture(tmp_path / "images/a.jpg")
    picture(tmp_path / "masks/a.jpg")
    table["frames"][0]["file_path"] = name
    save(tmp_path, table)
    assert read_capture(tmp_path, "train").frames[0].name in ("images/a.jpg", "IMAGES/A.JPEG")


def test_unicode_and_spaces_in_names(tmp_path):
    table = nerfstudio(tmp_path, 4)
    composed, decomposed = (unicodedata.normalize(form, "Porträt é.jpg") for form in ("NFC", "NFD"))
    for there, said in ((composed, decomposed), (decomposed, composed)):
        picture(tmp_path / "images" / there)
        table["frames"][0]["file_path"] = f"/data/{said}"
        save(tmp_path, table)
        assert read_capture(tmp_path, "train").frames[0].name == f"images/{there}"
        (tmp_path / "images" / there).unlink()


def test_the_longest_end_of_a_path_decides(tmp_path):
    table = nerfstudio(tmp_path, 4)
    for place in ("cam1", "cam2", "images/cam1", "images/cam2"):
        picture(tmp_path / place / "0001.jpg")
    table["frames"][0]["file_path"] = "/data/images/cam2/0001.jpg"
    table["frames"][1]["file_path"] = "C:\\other\\cam1\\0001.jpg"
    save(tmp_path, table)
    message = error(tmp_path)
    assert "frame 1" in message and "'cam1/0001.jpg'" in message and "'images/cam1/0001.jpg'" in message
    (tmp_path / "cam1/0001.jpg").unlink()
    capture = read_capture(tmp_path, "train")
    assert [frame.name for frame in capture.frames[:2]] == ["images/cam1/0001.jpg", "images/cam2/0001.jpg"]
    assert any("2 images were found by the ends of their names" in note for note in capture.notes)
    # Both cameras' images cannot be the one that is left.
    (tmp_path / "images/cam1/0001.jpg").unlink()
    table["frames"][1]["file_path"] = "/data/images/cam1/0001.jpg"
    (tmp_path / "images/cam2/0001.jpg").rename(tmp_path / "images/0001.jpg")
    (tmp_path / "cam2/0001.jpg").unlink()
    save(tmp_path, table)
    assert "would both be 'images/0001.jpg'" in error(tmp_path)


def test_smaller_copies_do_not_make_names_ambiguous(tmp_path):
    table = nerfstudio(tmp_path, 4)
    for factor in ("", "_2", "_4"):
        picture(tmp_path / f"images{factor}/a.jpg")
    table["frames"][0]["file_path"] = "/data/pictures/a.jpg"
    save(tmp_path, table)
    assert read_capture(tmp_path, "train").frames[0].name == "images/a.jpg"
    (tmp_path / "images/a.jpg").unlink()
    assert read_capture(tmp_path, "train").frames[-1].name == "images_2/a.jpg"


def test_nothing_outside_the_folder_is_read(tmp_path):
    folder = tmp_path / "data"
    table = nerfstudio(folder, 4)
    picture(tmp_path / "secret.png")
    for name in ("../secret.png", "images/../../secret.png", str(tmp_path / "secret.png"), "..\\secret.png"):
        for key in ("file_path", "mask_path"):
            changed = copy.deepcopy(table)
            changed["frames"][1][key] = name
            save(folder, changed)
            assert "out of the folder" in error(folder), name
    changed = copy.deepcopy(table) | {"ply_file_path": "../cloud.ply"}
    (tmp_path / "cloud.ply").write_bytes(b"ply")
    save(folder, changed)
    assert read_capture(folder, "train").points is None
    # The user's own links lead where they will, also in circles.
    (tmp_path / "elsewhere").mkdir()
    picture(tmp_path / "elsewhere/linked.png")
    (folder / "photos").symlink_to(tmp_path / "elsewhere")
    (folder / "photos/loop").symlink_to(folder)
    table["frames"][1]["file_path"] = "/x/linked.png"
    save(folder, table)
    assert read_capture(folder, "train").frames[-1].name == "photos/linked.png"


# Masks


def test_masks_that_are_named(tmp_path):
    table = nerfstudio(tmp_path, 4)
    for index, frame in enumerate(table["frames"]):
        picture(tmp_path / f"masks/m{index}.png")
        frame["mask_path"] = ("masks/m{}.png", "masks\\m{}", "/data/masks/m{}.png", "")[index].format(index)
    save(tmp_path, table)
    capture = read_capture(tmp_path, "train")
    masks = [frame.mask and frame.mask.name for frame in capture.frames]
    assert masks == ["m0.png", "m1.png", "m2.png", None]
    assert any("3 of 4 images have a mask" in note for note in capture.notes)
    for frame in table["frames"]:
        frame["mask_path"] = "masks/m0.png"
    save(tmp_path, table)
    assert any("the same mask" in note for note in read_capture(tmp_path, "train").notes)
    for name, words in (
        ("masks/none.png", "no mask 'masks/none.png'"),
        (3, "mask_path must"),
        ("a\0", "'a\\x00'"),
    ):
        table["frames"][0]["mask_path"] = name
        save(tmp_path, table)
        assert words in error(tmp_path)


@pytest.mark.parametrize(
    "style", ["masks/{stem}.png", "mask/{stem}.jpg", "masks/{name}.png", "masks/images/{stem}.png"]
)
def test_masks_of_the_same_name(tmp_path, style):
    table = nerfstudio(tmp_path, 4)
    for frame in table["frames"]:
        name = Path(frame["file_path"]).name
        picture(tmp_path / style.format(name=name, stem=name[:-4]))
    found = read_capture(tmp_path, "train").frames
    assert [frame.mask and frame.mask.name[:9] for frame in found] == [
        Path(frame.name).stem for frame in found
    ]


def test_masks_of_images_in_folders(tmp_path):
    table = nerfstudio(tmp_path, 4)
    for index, frame in enumerate(table["frames"]):
        frame["file_path"] = f"images/cam{index % 2}/{index // 2}.jpg"
        picture(tmp_path / frame["file_path"])
        if index < 3:
            picture(tmp_path / f"masks/cam{index % 2}/{index // 2}.jpg.png")
    save(tmp_path, table)
    capture = read_capture(tmp_path, "train")
    found = {frame.name: frame.mask and str(frame.mask.relative_to(tmp_path)) for frame in capture.frames}
    assert found == {
        "images/cam0/0.jpg": "masks/cam0/0.jpg.png", "images/cam1/0.jpg": "masks/cam1/0.jpg.png",
        "images/cam0/1.jpg": "masks/cam0/1.jpg.png", "images/cam1/1.jpg": None,
    }  # fmt: skip
    picture(tmp_path / "masks/1.png")
    (tmp_path / "masks/cam0/1.jpg.png").unlink()
    assert "may be the mask of 'images/cam0/1.jpg' and 'images/cam1/1.jpg'" in error(tmp_path)


def test_masks_of_nothing_are_said(tmp_path):
    nerfstudio(tmp_path, 4)
    picture(tmp_path / "masks/other.png")
    capture = read_capture(tmp_path, "train")
    assert all(frame.mask is None for frame in capture.frames)
    assert any("no mask in masks/ has the name" in note for note in capture.notes)


# Clouds


def test_the_point_cloud(tmp_path):
    table = nerfstudio(tmp_path, 4)
    assert read_capture(tmp_path, "train").points is None
    (tmp_path / "Points3D.PLY").write_bytes(b"ply")
    assert read_capture(tmp_path, "train").points == tmp_path / "Points3D.PLY"
    for name in ("sparse_pc.ply", "other.ply"):
        (tmp_path / name).write_bytes(b"ply")
    assert read_capture(tmp_path, "train").points == tmp_path / "sparse_pc.ply"
    for name in ("other.ply", "C:\\data\\other.ply"):
        save(tmp_path, table | {"ply_file_path": name})
        assert read_capture(tmp_path, "train").points == tmp_path / "other.ply"
    save(tmp_path, table | {"ply_file_path": "gone.ply"})
    capture = read_capture(tmp_path, "train")
    assert capture.points == tmp_path / "sparse_pc.ply" and any(
        "'gone.ply'" in note for note in capture.notes
    )


def test_colmaps_points_are_moved_as_its_cameras_were(tmp_path):
    """nerfstudio makes the cloud anew from colmap/sparse/0 where transforms.json names none."""
    moved = [[0, 1, 0, 1], [1, 0, 0, 2], [0, 0, -1, 3]]
    nerfstudio(tmp_path, 4, applied_transform=moved, applied_scale=2.0)
    model = tmp_path / "colmap/sparse/0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 PINHOLE 24 18 30 30 12 9\n")
    (model / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.jpg\n\n")
    (model / "points3D.txt").write_text("# X Y Z\n1 10 20 30 255 0 7 0.5 1 2\n")
    points = read_capture(tmp_path, "train").points
    assert isinstance(points, PointCloud)
    assert points.positions.tolist() == [[42, 24, -54]] and points.colors.tolist() == [[255, 0, 7]]


# Phones


def polycam(folder: Path, count: int = 8, corrected: bool = True) -> None:
    places = [""] + ["corrected_"] * corrected
    for place in places:
        (folder / f"keyframes/{place}cameras").mkdir(parents=True)
        for index, pose in enumerate(opengl_poses(orbit(count))):
            entries = {f"t_{row}{column}": pose[row][column] for row in range(3) for column in range(4)}
            lens = {"fx": FOCAL + index, "fy": FOCAL, "cx": 12, "cy": 9, "width": WIDTH, "height": HEIGHT}
            path = folder / f"keyframes/{place}cameras/{1000 + index}.json"
            path.write_text(json.dumps(entries | lens | {"blur_score": 8.1, "timestamp": 1000 + index}))
            picture(folder / f"keyframes/{place}images/{1000 + index}.jpg")


def test_polycams_raw_data(tmp_path):
    polycam(tmp_path)
    capture = read_capture(tmp_path, "train")
    assert capture.layout == "Polycam" and len(capture.frames) == 7
    assert capture.frames[0].name == "keyframes/corrected_images/1001.jpg"
    assert capture.frames[0].lens == Lens("pinhole", WIDTH, HEIGHT, FOCAL + 1, FOCAL, 12, 9)
    assert np.allclose(capture.frames[0].viewmat, orbit(8).viewmats[1].numpy(), atol=1e-6)
    assert any("dark border" in note for note in capture.notes)
    path = tmp_path / "keyframes/corrected_cameras/1003.json"
    table = json.loads(path.read_text())
    for change, words in (({"t_12": None}, "four numbers"), ({"fx": "x"}, "must be a number")):
        path.write_text(json.dumps(table | change))
        assert words in error(tmp_path)
    del table["t_22"]
    path.write_text(json.dumps(table))
    assert "1003.json has no 't_22'" in error(tmp_path)


def test_record3d(tmp_path):
    quats, positions = [], []
    for pose in opengl_poses(orbit(9)):
        R = np.array(pose)[:3, :3]
        w = math.sqrt(max(1 + np.trace(R), 1e-12)) / 2
        quats.append(
            [(R[2, 1] - R[1, 2]) / (4 * w), (R[0, 2] - R[2, 0]) / (4 * w), (R[1, 0] - R[0, 1]) / (4 * w), w]
        )
        positions.append([row[3] for row in pose[:3]])
    for index in range(9):
        picture(tmp_path / f"rgb/{index}.jpg")
    table = {"w": WIDTH, "h": HEIGHT, "fps": 30, "K": [FOCAL, 0, 0, 0, FOCAL, 0, 12, 9, 1]}
    table["poses"] = [[*quat, *position] for quat, position in zip(quats, positions)]
    save(tmp_path, table, "metadata.json")
    capture = read_capture(tmp_path, "train")
    assert capture.layout == "Record3D" and capture.frames[0].name == "rgb/1.jpg"
    assert capture.frames[0].lens == Lens("pinhole", WIDTH, HEIGHT, FOCAL, FOCAL, 12, 9)
    for frame in capture.frames:
        expected = orbit(9).viewmats[int(Path(frame.name).stem)].numpy()
        assert np.allclose(frame.viewmat, expected, atol=1e-5), frame.name
    save(
        tmp_path,
        table | {"perFrameIntrinsicCoeffs": [[FOCAL + k, FOCAL, 12, 9] for k in range(9)]},
        "metadata.json",
    )
    assert [frame.lens.fx - FOCAL for frame in read_capture(tmp_path, "train").frames] == pytest.approx(
        range(1, 8)
    )
    save(tmp_path, table | {"poses": table["poses"][:5]}, "metadata.json")
    assert "has no pose" in error(tmp_path)


# Other folders


def test_folders_without_a_capture_say_what_to_do(tmp_path):
    assert "is no folder" in error(tmp_path / "none")
    assert "transforms_train.json is missing" in error(tmp_path)
    picture(tmp_path / "images/a.jpg")
    assert "images alone" in error(tmp_path)
    for name, words in (
        ("scan.r3d", "Record3D"), ("database.db", "mapper"), ("poses_bounds.npy", "LLFF"),
        ("cameras.xml", "Metashape"),
        ("images/a.xmp", "RealityScan"), ("clip.MOV", "video"), ("cameras.sfm", "Meshroom"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(b"")
        assert words in error(tmp_path), name
        (tmp_path / name).unlink()
    (tmp_path / "sparse/0").mkdir(parents=True)
    assert "sparse/ holds no cameras" in error(tmp_path)
    nerfstudio(tmp_path / "inner", 4)
    assert f"did you mean {tmp_path / 'inner'}?" in error(tmp_path)
    assert f"give the one that it is in, {tmp_path / 'inner'}" in error(tmp_path / "inner/transforms.json")
    assert f"did you mean {tmp_path / 'inner'}?" in error(tmp_path / "inner/images")


# Mutations

JUNK = [
    None, True, -1, 0, 1e308, 10**400, math.nan, math.inf, "", "x", "\0", "\ud800\n", "../..", ".",
    "/dev/zero", [], [[]], {}, {"frames": []}, [1, 2, 3], [[1.0] * 4] * 4, [0.1] * 6, "FISHEYE", "OPENCV",
    {"k1": 0.1}, "0.5", "a" * 300,
]  # fmt: skip
KEYS = [
    "k1", "k4", "is_fisheye", "camera", "intrinsics", "K", "distortion", "distortion_params", "lens", "w",
    "x_fov", "mask_path", "ply_file_path", "applied_transform", "train_filenames", "test_filenames",
    "rolling_shutter", "omega", "file_path", "cameras", "camera_id", "transform_matrix", "camera_model",
    "radial_distortion", "depth_file_path", "D", "colour",
]  # fmt: skip


def mutated(value: object, rng: random.Random) -> object:
    """`value` with one node of its tree replaced, removed, repeated, scaled or added."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))  # type: ignore[arg-type]
        action = rng.random()
        if action < 0.08:
            del value[key]  # type: ignore[arg-type]
        elif action < 0.14 and isinstance(value, list):
            value.extend(copy.deepcopy(value[key]) for _ in range(rng.choice([1, 30])))  # type: ignore[index]
        elif action < 0.3 and isinstance(value, dict):
            value[rng.choice(KEYS)] = copy.deepcopy(rng.choice(JUNK))
        else:
            value[key] = mutated(value[key], rng)  # type: ignore[index]
        return value
    if isinstance(value, float) and rng.random() < 0.5:
        return value * rng.choice([1.001, -1, 0, 1e6, 1e300])
    return copy.deepcopy(rng.choice(JUNK))


def survives(folder: Path) -> bool:
    """Whether it is read. A one-line UserError is accepted; any other exception fails the test."""
    try:
        for split in ("train", "test"):
            for frame in read_capture(folder, split).frames:  # type: ignore[arg-type]
                lens = frame.lens
                assert np.isfinite([lens.fx, lens.fy, lens.cx, lens.cy, *lens.distortion]).all()
                assert min(lens.width, lens.height) >= 1
                assert np.abs(frame.viewmat[:3, :3] @ frame.viewmat[:3, :3].T - np.eye(3)).max() < 1e-6
                assert np.isfinite(frame.viewmat).all() and folder in frame.image.parents
    except UserError as problem:
        assert "\n" not in str(problem) and str(problem).isprintable(), (SEED, str(problem))
        return False
    return True


def mutations(folder: Path, rounds: int, rng: random.Random) -> list[bool]:
    table = nerfstudio(folder, 4, ply_file_path="sparse_pc.ply", applied_transform=np.eye(4)[:3].tolist())
    for index, frame in enumerate(table["frames"]):
        picture(folder / f"masks/{index}.png")
        frame["mask_path"] = f"masks/{index}.png"
    outcomes = []
    for _ in range(rounds):
        changed: object = copy.deepcopy(table)
        for _ in range(rng.randrange(1, 4)):
            changed = mutated(changed, rng)
        save(folder, changed)
        outcomes.append(survives(folder))
    return outcomes


def test_mutated_tables_raise_only_user_errors(tmp_path):
    outcomes = mutations(tmp_path, int(os.environ.get("MUTATIONS", 150)), random.Random(SEED))
    assert any(outcomes) and not all(outcomes), SEED


def test_mutated_phone_captures_raise_only_user_errors(tmp_path):
    rng = random.Random(SEED)
    polycam(tmp_path / "p", 4, corrected=False)
    save(tmp_path / "r", {})
    for index in range(4):
        picture(tmp_path / f"r/rgb/{index}.jpg")
    poses = [[0.0, 0.0, 0.0, 1.0, float(index), 0.0, 0.0] for index in range(4)]
    record = {
        "w": WIDTH,
        "h": HEIGHT,
        "K": [FOCAL, 0.0, 0.0, 0.0, FOCAL, 0.0, 12.0, 9.0, 1.0],
        "poses": poses,
    }
    record["perFrameIntrinsicCoeffs"] = [[FOCAL, FOCAL, 12.0, 9.0]] * 4
    (tmp_path / "r/transforms.json").unlink()
    path = tmp_path / "p/keyframes/cameras/1001.json"
    camera = json.loads(path.read_text())
    outcomes = []
    for _ in range(int(os.environ.get("MUTATIONS", 80))):
        save(tmp_path / "r", mutated(copy.deepcopy(record), rng), "metadata.json")
        path.write_text(json.dumps(mutated(copy.deepcopy(camera), rng)))
        outcomes += [survives(tmp_path / "r"), survives(tmp_path / "p")]
    assert any(outcomes) and not all(outcomes), SEED


def test_deep_nesting_is_one_line(tmp_path):
    table = nerfstudio(tmp_path, 4)
    for key in ("camera", "rolling_shutter", "K", "file_path", "transform_matrix"):
        changed = json.dumps(table | {"frames": [table["frames"][0] | {key: "here"}] * 4})
        for opening, closing in (("[", "]"), ('{"camera":', "}")):
            deep = opening * 900 + "1" + closing * 900
            (tmp_path / "transforms.json").write_text(changed.replace('"here"', deep))
            survives(tmp_path)
