"""COLMAP's reconstructions, binary and text, are read as written; any defect raises a one-line error."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from captures import HEIGHT, WIDTH, orbit
from PIL import Image

from specularip.captures import colmap
from specularip.captures.frames import Capture, Lens, PointCloud
from specularip.captures.layout import read_capture
from specularip.errors import UserError

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")

PINHOLE = (1, (30.0, 31.0, 12.5, 8.5))
NAMES = """
SIMPLE_PINHOLE PINHOLE SIMPLE_RADIAL RADIAL OPENCV OPENCV_FISHEYE FULL_OPENCV FOV SIMPLE_RADIAL_FISHEYE
RADIAL_FISHEYE THIN_PRISM_FISHEYE RAD_TAN_THIN_PRISM_FISHEYE SIMPLE_DIVISION DIVISION SIMPLE_FISHEYE FISHEYE
EUCM EQUIRECTANGULAR
""".split()


@dataclass
class Model:
    """A reconstruction. cameras: number -> model and parameters. images: name and camera."""

    images: list[tuple[str, int]]
    cameras: dict[int, tuple[int, tuple[float, ...]]] = field(default_factory=lambda: {1: PINHOLE})
    points: int = 20

    def poses(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Quaternions wxyz and translations of an orbit."""
        found = []
        for view in orbit(len(self.images)).viewmats.double().numpy():
            R = view[:3, :3]
            # The eigenvector of the largest eigenvalue (Bar-Itzhack 2000): right for every angle.
            K = np.array(
                [
                    [np.trace(R), R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]],
                    [0, R[0, 0] - R[1, 1] - R[2, 2], R[0, 1] + R[1, 0], R[0, 2] + R[2, 0]],
                    [0, 0, R[1, 1] - R[0, 0] - R[2, 2], R[1, 2] + R[2, 1]],
                    [0, 0, 0, R[2, 2] - R[0, 0] - R[1, 1]],
                ]
            )
            found.append((np.linalg.eigh(np.triu(K) + np.triu(K, 1).T)[1][:, -1], view[:3, 3]))
        return found

    def cloud(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(1)
        return rng.normal(size=(self.points, 3)), rng.integers(0, 256, (self.points, 3), dtype=np.uint8)

    def write_binary(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        data = struct.pack("<Q", len(self.cameras))
        for number, (model, parameters) in self.cameras.items():
            data += struct.pack("<IiQQ", number, model, WIDTH, HEIGHT)
            data += struct.pack(f"<{len(parameters)}d", *parameters)
        (folder / "cameras.bin").write_bytes(data)
        data = struct.pack("<Q", len(self.images))
        for index, ((name, camera), (quat, shift)) in enumerate(zip(self.images, self.poses())):
            data += struct.pack("<I7dI", index + 1, *quat, *shift, camera) + name.encode() + b"\0"
            data += struct.pack("<Q", index % 3) + struct.pack("<ddQ", 3.5, 4.5, 2**64 - 1) * (index % 3)
        (folder / "images.bin").write_bytes(data)
        data = struct.pack("<Q", self.points)
        for index, (position, color) in enumerate(zip(*self.cloud())):
            data += struct.pack("<Q3d3Bd", index, *position, *color, 0.7)
            data += struct.pack("<Q", index % 4) + struct.pack("<II", 1, 2) * (index % 4)
        (folder / "points3D.bin").write_bytes(data)

    def write_text(self, folder: Path, second_lines: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["# Camera list with one line of data per camera:"]
        for number, (model, parameters) in self.cameras.items():
            lines.append(f"{number} {NAMES[model]} {WIDTH} {HEIGHT} {' '.join(map(repr, parameters))}")
        (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
        lines = ["# Image list with two lines of data per image:", "#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ"]
        for index, ((name, camera), (quat, shift)) in enumerate(zip(self.images, self.poses())):
            lines.append(f"{index + 1} {' '.join(str(float(x)) for x in (*quat, *shift))} {camera} {name}")
            if second_lines:
                lines.append(" ".join(["12.5 3.25 -1", "", "7 8 4"][: index % 4]) if index % 4 else "")
        (folder / "images.txt").write_text("\r\n".join(lines) + "\r\n")
        lines = ["# 3D point list"]
        for index, (position, color) in enumerate(zip(*self.cloud())):
            track = " ".join(["1 2"] * (index % 4))
            lines.append(
                f"{index} {' '.join(map(repr, position.tolist()))} {' '.join(map(str, color))} 0.7 {track}"
            )
        (folder / "points3D.txt").write_text("\n".join(lines))


def pictures(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (90, 60, 30)).save(path)


def reconstruction(
    folder: Path, count: int = 17, kind: str = "binary", place: str = "sparse/0", **keys
) -> Model:
    names = [f"{index:04d}.jpg" for index in range(count)]
    pictures(folder / "images", names)
    model = Model([(name, 1) for name in names], **keys)
    getattr(model, f"write_{kind}")(folder / place)
    return model


def error(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        read_capture(folder, "train")
    message = str(raised.value)
    assert "\n" not in message and message.isprintable(), repr(message)
    return message


def viewmats(capture: Capture) -> np.ndarray:
    return np.stack([frame.viewmat for frame in capture.frames])


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", ""])
@pytest.mark.parametrize("kind", ["binary", "text"])
def test_a_reconstruction_is_read_as_written(tmp_path, kind, place):
    model = reconstruction(tmp_path, kind=kind, place=place)
    train, test = read_capture(tmp_path, "train"), read_capture(tmp_path, "test")
    assert train.layout == "COLMAP" and train.premultiplied is None
    assert [frame.name for frame in test.frames] == [f"images/{k:04d}.jpg" for k in (0, 8, 16)]
    kept = [k for k in range(17) if k % 8]
    assert [frame.name for frame in train.frames] == [f"images/{k:04d}.jpg" for k in kept]
    assert any("every 8th image" in note for note in train.notes)
    assert np.allclose(viewmats(train), orbit(17).viewmats.numpy()[kept], atol=1e-6)
    assert {frame.lens for frame in train.frames} == {Lens("pinhole", WIDTH, HEIGHT, 30, 31, 12.5, 8.5)}
    assert isinstance(train.points, PointCloud)
    positions, colors = model.cloud()
    assert np.array_equal(train.points.positions, positions) and np.array_equal(train.points.colors, colors)


def test_text_without_second_lines_and_with_odd_names(tmp_path):
    names = ["1.jpg", "a b c.jpg", "sub folder/0002.jpg", "10 20 30.png", "5 6 7", "ü.jpg", "7.png"]
    pictures(tmp_path / "images", [name if "." in name else f"{name}.jpg" for name in names])
    model = Model([(name, 1) for name in names])
    for second_lines in (True, False):
        model.write_text(tmp_path / "sparse/0", second_lines)
        assert [pose.name for pose in colmap.read_poses(tmp_path / "sparse/0")][:3] == names[:3]
        found = colmap.read_poses(tmp_path / "sparse/0")
        assert [pose.name for pose in found if pose.name != "5 6 7"] == [
            name for name in names if name != "5 6 7"
        ]
        assert len(read_capture(tmp_path, "train").frames) >= 6


@pytest.mark.parametrize(
    ("model", "parameters", "lens"),
    [
        (0, (30, 12, 9), ("pinhole", 30, ())),
        (1, (30, 31, 12, 9), ("pinhole", 31, ())),
        (2, (30, 12, 9, 0.1), ("opencv", 30, (0.1, 0, 0, 0, 0, 0, 0, 0))),
        (3, (30, 12, 9, 0.1, 0.2), ("opencv", 30, (0.1, 0.2, 0, 0, 0, 0, 0, 0))),
        (4, (30, 31, 12, 9, 0.1, 0.2, 0.3, 0.4), ("opencv", 31, (0.1, 0.2, 0.3, 0.4, 0, 0, 0, 0))),
        (5, (30, 31, 12, 9, 0.1, 0.2, 0.3, 0.4), ("fisheye", 31, (0.1, 0.2, 0.3, 0.4))),
        (6, (30, 31, 12, 9, *range(1, 9)), ("opencv", 31, tuple(range(1, 9)))),
        (7, (30, 31, 12, 9, 0), ("pinhole", 31, ())),
        (8, (30, 12, 9, 0.1), ("fisheye", 30, (0.1, 0, 0, 0))),
        (9, (30, 12, 9, 0.1, 0.2), ("fisheye", 30, (0.1, 0.2, 0, 0))),
        (10, (30, 31, 12, 9, 0.1, 0.2, 0, 0, 0.3, 0.4, 0, 0), ("fisheye", 31, (0.1, 0.2, 0.3, 0.4))),
        (11, (30, 31, 12, 9, 0.1, 0.2, 0.3, 0.4, *[0] * 8), ("fisheye", 31, (0.1, 0.2, 0.3, 0.4))),
        (12, (30, 12, 9, 0), ("pinhole", 30, ())),
        (14, (30, 12, 9), ("fisheye", 30, (0, 0, 0, 0))),
        (15, (30, 31, 12, 9), ("fisheye", 31, (0, 0, 0, 0))),
        (16, (30, 31, 12, 9, 0, 1), ("pinhole", 31, ())),
        (7, (30, 31, 12, 9, 0.9), "omega"),
        (10, (30, 31, 12, 9, 0.1, 0.2, 0.3, 0, 0, 0, 0, 0), "p1"),
        (10, (30, 31, 12, 9, 0.1, 0.2, 0, 0, 0, 0, 0.3, 0), "sx1"),
        (11, (30, 31, 12, 9, *[0] * 4, 0.1, *[0] * 7), "k5"),
        (11, (30, 31, 12, 9, *[0] * 11, 0.1), "s4"),
        (12, (30, 12, 9, -0.1), "k = -0.1"),
        (13, (30, 31, 12, 9, -0.1), "k = -0.1"),
        (16, (30, 31, 12, 9, 0.5, 1), "alpha"),
        (17, (24, 18), "panoramas"),
    ],
)
def test_lens_models(tmp_path, model, parameters, lens):
    """The conventions were checked against pycolmap 4.2's `Camera.img_from_cam`, model by model."""
    parameters = tuple(map(float, parameters))
    for kind in ("binary", "text"):
        folder = tmp_path / kind
        reconstruction(folder, 4, kind, cameras={1: (model, parameters)})
        if isinstance(lens, str):
            message = error(folder)
            assert lens in message and "camera 1" in message and ("undistort" in message or model == 17)
            continue
        name, fy, distortion = lens
        found = read_capture(folder, "train").frames[0].lens
        assert (found.model, found.fx, found.fy, found.cx, found.cy) == (name, 30, fy, 12, 9)
        assert found.distortion == pytest.approx(distortion)


def test_cameras_of_each_image_and_images_in_folders(tmp_path):
    names = [f"cam{index % 2}/{index // 2}.JPG" for index in range(6)]
    pictures(tmp_path / "images", names)
    cameras = {3: PINHOLE, 7: (2, (30.0, 12.0, 9.0, 0.1))}
    model = Model([(name, (3, 7)[index % 2]) for index, name in enumerate(names)], cameras)
    model.write_binary(tmp_path / "sparse/0")
    pictures(tmp_path / "images", ["cam0/unregistered.JPG"])
    pictures(tmp_path / "masks", [f"{name}.png" for name in names])
    frames = {frame.name: frame for frame in read_capture(tmp_path, "train").frames}
    assert sorted(frames) == sorted(f"images/{name}" for name in names)
    assert (
        frames["images/cam0/2.JPG"].lens.model == "pinhole"
        and frames["images/cam1/2.JPG"].lens.model == "opencv"
    )
    assert frames["images/cam1/2.JPG"].mask == tmp_path / "masks/cam1/2.JPG.png"
    expected = dict(zip(names, orbit(6).viewmats.numpy()))
    for name, frame in frames.items():
        assert np.allclose(frame.viewmat, expected[name.removeprefix("images/")], atol=1e-6)
    Model([*model.images, ("cam0/gone.JPG", 3)], cameras).write_binary(tmp_path / "sparse/0")
    assert "no image 'cam0/gone.JPG'" in error(tmp_path)
    Model(model.images, {3: PINHOLE}).write_binary(tmp_path / "sparse/0")
    assert "has camera 7, which" in error(tmp_path)


def test_the_largest_of_several_models_is_used(tmp_path):
    reconstruction(tmp_path, 12)
    reconstruction(tmp_path, 4, place="sparse/1")
    reconstruction(tmp_path, 17, "text", place="sparse/2")
    (tmp_path / "sparse/3").mkdir()
    capture = read_capture(tmp_path, "train")
    assert capture.source == tmp_path / "sparse/2/images.txt"
    assert any("3 models" in note and "sparse/2" in note and "16 images" in note for note in capture.notes)
    (tmp_path / "sparse/2/images.txt").write_text("damaged")
    assert read_capture(tmp_path, "train").source == tmp_path / "sparse/0/images.bin"


def test_images_at_other_places(tmp_path):
    model = reconstruction(tmp_path, 4)
    for place in ("input", "pictures", "images_2"):
        (tmp_path / "images").rename(tmp_path / place)
        assert read_capture(tmp_path, "train").frames[0].name == f"{place}/0000.jpg"
        (tmp_path / place).rename(tmp_path / "images")
    Model([(f"C:\\x\\{name}", camera) for name, camera in model.images]).write_binary(tmp_path / "sparse/0")
    capture = read_capture(tmp_path, "train")
    assert capture.frames[0].name == "images/0000.jpg" and any(
        "ends of their names" in note for note in capture.notes
    )


def test_points_that_are_not_finite_are_dropped(tmp_path):
    reconstruction(tmp_path, 4, points=3)
    path = tmp_path / "sparse/0/points3D.bin"
    data = bytearray(path.read_bytes())
    struct.pack_into("<d", data, 16, float("nan"))
    path.write_bytes(data)
    points = read_capture(tmp_path, "train").points
    assert isinstance(points, PointCloud) and len(points.positions) == 2
    path.unlink()
    assert read_capture(tmp_path, "train").points is None
    path.write_bytes(struct.pack("<Q", 0))
    assert read_capture(tmp_path, "train").points is None
    (tmp_path / "sparse/0/points3D.ply").write_bytes(b"ply")  # as 3DGS has it
    assert read_capture(tmp_path, "train").points == tmp_path / "sparse/0/points3D.ply"


def test_sizes_are_checked_before_anything_is_allocated(tmp_path):
    reconstruction(tmp_path, 4)
    model = tmp_path / "sparse/0"
    for name in ("cameras", "images", "points3D"):
        path = model / f"{name}.bin"
        whole = path.read_bytes()
        for content, words in (
            (b"", "is empty"),
            (whole[:5], "cut short"),
            (whole[: len(whole) // 2], "cut short"),
            (struct.pack("<Q", 2**63) + whole[8:], "cut short"),
        ):
            path.write_bytes(content)
            message = error(tmp_path)
            assert words in message and path.name in message, message
        path.unlink()
        os.mkfifo(path)  # opening it would block
        assert "not a regular file" in error(tmp_path)
        path.unlink()
        path.write_bytes(whole)
    whole = (model / "images.bin").read_bytes()
    (model / "images.bin").write_bytes(struct.pack("<Q", 0))
    assert "has no images" in error(tmp_path)
    (model / "images.bin").write_bytes(whole[:12] + struct.pack("<4d", 0, 0, 0, 0) + whole[44:])
    assert "no valid pose" in error(tmp_path)


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("cameras", "1 MYLENS 24 18 30 12 9", "line that is no camera"),
        ("cameras", "1 PINHOLE 24 18 30 12 9", "3 parameters instead of 4"),
        ("cameras", "1 PINHOLE 24 18 30 x 12 9", "else than numbers"),
        ("cameras", "1 PINHOLE nan 18 30 30 12 9", "camera 1"),
        ("cameras", "-1 PINHOLE 24 18 30 30 12 9", "instead of a number"),
        ("cameras", "1 PINHOLE 0 18 30 30 12 9", "positive"),
        ("images", "1 1 0 0 0 0 0 0 1", "cameras"),
        ("images", "1 1 0 0 0 0 0 x 1 0000.jpg", "else than numbers"),
        ("images", "1 1 0 0 0 0 0 nan 1 0000.jpg", "no valid pose"),
        ("images", "1 1 0 0 0 0 0 1e300 1 0000.jpg", "no valid pose"),
        ("images", "1 1 0 0 0 0 0 0 1 ../../0000.jpg", "at least 3"),
        ("points3D", "1 2 3", "line that is no point"),
        ("points3D", "1 2 3 x 4 5 6", "else than numbers"),
    ],
)
def test_damaged_text_raises_one_line_errors(tmp_path, name, line, words):
    reconstruction(tmp_path, 4, "text")
    path = tmp_path / f"sparse/0/{name}.txt"
    path.write_text(line + "\n")
    message = error(tmp_path)
    if line != "1 1 0 0 0 0 0 0 1":  # nine fields: a line of points, so that no image is left
        assert words in message, message


def test_names_lead_nowhere_outside(tmp_path):
    folder = tmp_path / "data"
    model = reconstruction(folder, 4)
    pictures(tmp_path, ["secret.png"])
    for name in ("../secret.png", "../../secret.png", str(tmp_path / "secret.png")):
        Model([*model.images, (name, 1)]).write_binary(folder / "sparse/0")
        message = error(folder)
        assert "out of the folder" in message or "no image" in message


# Mutations


def damaged(data: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(1 if kind == 1 else rng.randrange(1, 20)):
        at = rng.randrange(min(len(changed), 90)) if rng.random() < 0.5 else rng.randrange(len(changed))
        changed[at] = rng.choice([0, 255, 0x20, 0x0A, 0x2D, rng.randrange(256)])
    if kind == 3:
        at = rng.randrange(len(changed))
        changed[at:at] = rng.randbytes(rng.randrange(1, 50))
    return bytes(changed)


@pytest.mark.parametrize("kind", ["binary", "text"])
def test_mutated_files_raise_only_user_errors(tmp_path, kind):
    rng = random.Random(SEED)
    reconstruction(tmp_path, 4, kind, cameras={1: (4, (30.0, 31.0, 12.0, 9.0, 0.1, 0.0, 0.0, 0.0))})
    files = sorted((tmp_path / "sparse/0").iterdir())
    outcomes = []
    for round_ in range(int(os.environ.get("MUTATIONS", 150))):
        file = files[round_ % len(files)]
        whole = file.read_bytes()
        file.write_bytes(damaged(whole, rng))
        try:
            capture = read_capture(tmp_path, "train")
            assert np.isfinite(viewmats(capture)).all()
            assert all(np.isfinite([f.lens.fx, f.lens.cx, *f.lens.distortion]).all() for f in capture.frames)
            assert all(tmp_path in frame.image.parents for frame in capture.frames)
            outcomes.append(True)
        except UserError as problem:
            assert "\n" not in str(problem) and str(problem).isprintable(), (SEED, str(problem))
            outcomes.append(False)
        file.write_bytes(whole)
    assert any(outcomes) and not all(outcomes), SEED
