"""Posed images are read as written; any defect raises a one-line error."""

import copy
import math
import os
import random
import zlib
from pathlib import Path

import captures
import numpy as np
import pytest
import torch
from avatars import random_avatar
from captures import HEIGHT, WIDTH, orbit, save, write
from PIL import Image

from specularip.cameras import Cameras
from specularip.captures import mesh as mesh_file
from specularip.captures import pixels as pixels_file
from specularip.captures.load import load_posed_images
from specularip.captures.mesh import load_body_mesh, load_points, points_inside
from specularip.captures.views import PosedImages
from specularip.cli import main
from specularip.errors import UserError
from specularip.fitting.fit import _shared

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")


def cube(radius: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    vertices = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64) * radius
    faces = []
    for axis in range(3):
        for side in (0, 1):
            corners = [i for i in range(8) if (i >> (2 - axis)) & 1 == side]
            a, b, c, d = corners  # in the order 00, 01, 10, 11
            faces += [[a, b, d], [a, d, c]] if side != axis % 2 else [[a, d, b], [a, c, d]]
    return vertices, np.array(faces)


def cameras_of(posed: PosedImages) -> Cameras:
    return Cameras.joined([view.camera for view in posed])


def error(folder: Path, split: str = "train") -> str:
    with pytest.raises(UserError) as raised:
        load_posed_images(folder, split)  # type: ignore[arg-type]
    message = str(raised.value)
    assert "\n" not in message and message.isprintable(), repr(message)
    return message


def test_images_and_cameras_are_read_as_written(tmp_path):
    table = write(tmp_path, colour="sRGB, premultiplied by alpha, black background")
    posed = load_posed_images(tmp_path, "train")
    assert posed[0].image.shape == (HEIGHT, WIDTH, 3) and posed[0].alpha.shape == (HEIGHT, WIDTH, 1)
    assert posed[0].image.dtype == posed[0].alpha.dtype == torch.float32 and len(posed) == 5
    assert [view.name for view in posed] == [
        f"train/r_{index}.png" for index in range(5)
    ] and posed.notes == ()
    expected, cameras = orbit(), cameras_of(posed)
    assert torch.allclose(cameras.viewmats, expected.viewmats, atol=1e-6)
    assert torch.allclose(cameras.Ks, expected.Ks, atol=1e-4)
    assert (cameras.width, cameras.height) == (WIDTH, HEIGHT)
    pixels = np.array(Image.open(tmp_path / "train" / "r_3.png"))
    read = torch.cat([posed[3].image, posed[3].alpha], -1) * 255
    assert torch.allclose(read, torch.from_numpy(pixels).float(), atol=1e-4)

    third = posed.select(range(1, 5, 2))
    assert [view.name for view in third] == ["train/r_1.png", "train/r_3.png"]
    assert torch.equal(third[1].image, posed[3].image)
    assert torch.equal(cameras_of(third).viewmats, cameras.viewmats[1::2])

    # A point above the origin appears in the upper half of the image: the axes are not flipped.
    pixel, depth = cameras.project(torch.tensor([[0.0, 0.0, 0.2]]))
    assert (depth > 0).all() and (pixel[..., 1] < HEIGHT / 2).all()
    assert table["frames"][0]["file_path"] == "./train/r_0"


@pytest.mark.parametrize(
    ("keys", "premultiplied"),
    [
        ({}, False),
        ({"color": "Premultiplied"}, True),
        ({"colour": "pre-multiplied"}, True),
        ({"colour": "unpremultiplied"}, False),
        ({"colour": "sRGB, not premultiplied"}, False),
        ({"colour": "non-premultiplied"}, False),
        ({"colour": 3}, False),
        ({"colour": ["premultiplied"]}, True),
    ],
)
def test_straight_colours_are_multiplied_by_alpha(tmp_path, keys, premultiplied):
    write(tmp_path, **keys)
    posed = load_posed_images(tmp_path)
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "train" / "r_0.png"))).float() / 255
    expected = pixels[..., :3] * (1 if premultiplied else pixels[..., 3:])
    assert torch.allclose(posed[0].image, expected, atol=1e-6)
    is_said = any("multiplied" in str(value).lower() for value in keys.values())
    assert any("straight" in note for note in posed.notes) is not is_said


def test_missing_alpha_is_noted(tmp_path):
    write(tmp_path)
    for index in range(5):
        file = tmp_path / "train" / f"r_{index}.png"
        Image.open(file).convert("RGB").save(file.with_suffix(".jpg"), quality=100, subsampling=0)
        file.unlink()
    posed = load_posed_images(tmp_path)
    assert posed[0].name == "train/r_0.jpg" and all(bool((view.alpha == 1).all()) for view in posed)
    [note] = posed.notes
    assert "no alpha" in note and "opaque" in note
    grey = Image.fromarray(np.full((HEIGHT, WIDTH), 30_000, np.uint16))
    (tmp_path / "train" / "r_0.jpg").unlink()
    grey.save(tmp_path / "train" / "r_0.png")
    assert float(load_posed_images(tmp_path)[0].image.mean()) == pytest.approx(30_000 / 65_535, abs=0.004)


def test_intrinsics_in_all_notations(tmp_path):
    table = write(tmp_path)
    del table["camera_angle_x"]
    cases = [
        ({"fl_x": 30, "fl_y": 32.5, "cx": 11, "cy": 8.5}, (30, 32.5, 11, 8.5)),
        ({"fl_x": 30}, (30, 30, WIDTH / 2, HEIGHT / 2)),
        # Images downscaled to a quarter of the size given in the file.
        ({"fl_x": 120, "cx": 44, "cy": 34, "w": 4 * WIDTH, "h": 4 * HEIGHT}, (30, 30, 11, 8.5)),
        ({"camera_angle_x": 1.0, "fl_x": 30, "k1": 0, "p2": 0.0}, (30, 30, 12, 9)),
        (
            {"camera_angle_x": 1.0, "camera_angle_y": 0.5},
            (12 / math.tan(0.5), 9 / math.tan(0.25), 12, 9),
        ),
    ]
    for keys, (fx, fy, cx, cy) in cases:
        for where in ("top", "frames"):
            changed = copy.deepcopy(table)
            for target in [changed] if where == "top" else changed["frames"]:
                target.update(keys)
            save(tmp_path, changed)
            expected = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]).float()
            assert torch.allclose(cameras_of(load_posed_images(tmp_path)).Ks, expected.expand(5, 3, 3)), keys
    changed["fl_x"] = 50
    changed["frames"] = [{**frame, "fl_x": 30 + k} for k, frame in enumerate(table["frames"])]
    save(tmp_path, changed)
    assert cameras_of(load_posed_images(tmp_path)).Ks[:, 0, 0].tolist() == [30, 31, 32, 33, 34]


def test_an_empty_or_missing_test_split_is_no_error(tmp_path):
    write(tmp_path)
    for split in ("test", "val"):
        posed = load_posed_images(tmp_path, split)
        assert len(posed) == 0
        assert "nothing to evaluate" in posed.notes[0]
    save(tmp_path, {"camera_angle_x": 0.7, "frames": []}, "test")
    assert "no frames" in load_posed_images(tmp_path, "test").notes[0]
    save(tmp_path, {"frames": 3}, "test")
    assert "must be a list" in error(tmp_path, "test")


def test_duplicates_suffixes_and_backslashes_are_accepted(tmp_path):
    table = write(tmp_path)
    for frame, name in zip(
        table["frames"], ("train/r_0.png", "train\\r_1", ".\\train\\r_2", "train/../train/r_3")
    ):
        frame["file_path"] = name
    table["frames"] += copy.deepcopy(table["frames"][:2])
    save(tmp_path, table)
    posed = load_posed_images(tmp_path)
    assert len(posed) == 7 and torch.equal(posed[0].image, posed[5].image)
    assert [view.name for view in posed][:4] == [f"train/r_{k}.png" for k in range(4)]
    (tmp_path / "train" / "r_0.png").rename(tmp_path / "elsewhere.png")
    (tmp_path / "train" / "r_0.png").symlink_to(tmp_path / "elsewhere.png")
    assert len(load_posed_images(tmp_path)) == 7


def changed_pose(function):
    def change(table):
        matrix = np.array(table["frames"][2]["transform_matrix"])
        table["frames"][2]["transform_matrix"] = np.array(function(matrix)).tolist()

    return change


def scaled(matrix):
    matrix[:3, :3] *= 2
    return matrix


def sheared(matrix):
    # Shear one axis towards another, keeping its length.
    axis = matrix[:3, 0] + 0.1 * matrix[:3, 1]
    matrix[:3, 0] = axis / np.linalg.norm(axis)
    return matrix


def mirrored(matrix):
    matrix[:3, 0] *= -1
    return matrix


def far(matrix):
    matrix[0, 3] = 1e30
    return matrix


def tilted_row(matrix):
    matrix[3] = (0, 0, 1, 0)
    return matrix


def frame_key(key, value, index=2):
    return lambda table: table["frames"][index].update({key: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed_pose(scaled), "scales"),
        (changed_pose(sheared), "shears"),
        (changed_pose(mirrored), "mirrors"),
        (changed_pose(far), "beyond"),
        (changed_pose(tilted_row), "row 0 0 0 1"),
        (changed_pose(lambda m: m * math.nan), "NaN"),
        (changed_pose(lambda m: m[:2]), "four rows"),
        (changed_pose(lambda m: m.T[:3].T), "four rows"),
        (frame_key("transform_matrix", [[10**400] * 4] * 4), "infinite"),
        (frame_key("transform_matrix", [[True] * 4] * 4), "four rows"),
        (frame_key("transform_matrix", None), "four rows"),
        (frame_key("file_path", None), "file_path"),
        (frame_key("file_path", 7), "file_path"),
        (frame_key("file_path", " "), "file_path"),
        (frame_key("file_path", "train/none"), "no image"),
        (frame_key("file_path", "train"), "no image"),
        (frame_key("file_path", "a\0b"), "'a\\x00b'"),
        (frame_key("file_path", "\ud800"), "half a surrogate pair"),
        (frame_key("file_path", "x" * 5000), "not a usable file name"),
        (frame_key("file_path", "two\nlines"), "no image 'two\\nlines'"),
        (frame_key("file_path", "../secret.png"), "out of the folder"),
        (frame_key("file_path", "/etc/hostname"), "out of the folder"),
        (frame_key("file_path", "train/../../secret.png"), "out of the folder"),
        (frame_key("fl_x", "thirty"), "fl_x must be a number"),
        (frame_key("fl_x", math.nan), "below 1e9"),
        (frame_key("fl_x", 10**4000), "below 1e9"),
        (frame_key("fl_x", -30), "focal"),
        (frame_key("fl_x", 1e8), "focal"),
        (frame_key("cx", 1e6), "outside"),
        (frame_key("k1", -9), "undistort"),
        (lambda t: t.update(w=WIDTH, h=WIDTH), "another aspect ratio"),
        (lambda t: t.update(w=-WIDTH, h=HEIGHT), "positive"),
        (lambda t: t.update(camera_angle_x=40.1), "radians"),
        (lambda t: t.update(camera_angle_x=0), "radians"),
        (lambda t: t.pop("camera_angle_x"), "no focal length"),
        (lambda t: t.update(frames=t["frames"][:2]), "at least 3"),
        (lambda t: t.update(frames=[t["frames"][0]] * 9), "at least 3"),
        (lambda t: t.update(frames=[]), "at least 3"),
        (lambda t: t.update(frames={"a": 1}), "must be a list"),
        (lambda t: t.pop("frames"), "must be a list"),
        (lambda t: t["frames"].insert(1, [1, 2]), "must be an object"),
        (lambda t: t["frames"].insert(1, None), "must be an object"),
    ],
)
def test_invalid_tables_raise_one_line_errors(tmp_path, change, words):
    table = write(tmp_path / "data")
    Image.new("RGBA", (WIDTH, HEIGHT)).save(tmp_path / "secret.png")
    change(table)
    save(tmp_path / "data", table)
    message = error(tmp_path / "data")
    assert words in message and "transforms_train.json" in message, message


def test_invalid_files_raise_one_line_errors(tmp_path):
    assert "is no folder" in error(tmp_path / "none")
    assert "transforms_train.json is missing" in error(tmp_path)
    path = tmp_path / "transforms_train.json"
    for content, words in (
        (b"", "not a JSON object with 'frames' (line 1: Expecting value)"),
        (b'{"frames": [', "line 1"),
        (b"[1, 2]", "an object is expected, not [1, 2]"),
        (b'"text"', "an object is expected, not 'text'"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[" * 100_000, "more than 64 levels"),
        (b'{"frames": ' + b"9" * 10_000 + b"}", "'frames' must be a list"),
        (b'{"frames": [], "frames": []}', "the key 'frames' is there twice"),
    ):
        path.write_bytes(content)
        assert words in error(tmp_path), content[:20]
    path.unlink()
    path.mkdir()
    assert "not a regular file" in error(tmp_path)
    path.rmdir()
    os.mkfifo(path)  # opening it would block
    assert "not a regular file" in error(tmp_path)


def test_invalid_images_raise_one_line_errors(tmp_path, monkeypatch):
    write(tmp_path)
    file = tmp_path / "train" / "r_2.png"
    whole = file.read_bytes()
    for content, words in (
        (b"", "damaged or not an image"),
        (b"%PDF-1.4 nothing", "damaged or not an image"),
        (whole[:40], "damaged or not an image"),
        (whole[: len(whole) // 2], "cut short"),
        (whole[:60] + bytes(200) + whole[260:], "damaged"),
    ):
        file.write_bytes(content)
        message = error(tmp_path)
        assert words in message and "r_2.png" in message, message
    # Headers of images that Pillow itself refuses, and that it only warns about.
    for side in (60_000, 11_000):
        bomb = whole[:16] + side.to_bytes(4) * 2 + whole[24:]
        file.write_bytes(bomb[:29] + zlib.crc32(bomb[12:29]).to_bytes(4) + bomb[33:])
        assert "100 megapixels is the limit" in error(tmp_path)
    file.unlink()
    os.mkfifo(file)
    assert "not a regular file" in error(tmp_path)
    file.unlink()
    assert "no image './train/r_2'" in error(tmp_path)
    for index in range(5):
        Image.new("RGBA", (8, 8)).save(tmp_path / "train" / f"r_{index}.png")
    assert "at least 16" in error(tmp_path)
    for index in range(5):
        Image.new("RGBA", (20, 20)).save(tmp_path / "train" / f"r_{index}.png")
    assert "fully transparent" in error(tmp_path)
    monkeypatch.setattr(pixels_file, "memory_bytes", lambda: 10_000)
    assert "GiB" in error(tmp_path)


def test_camera_inside_the_body(tmp_path):
    table = write(tmp_path)
    vertices, faces = cube()
    np.savez(tmp_path / "body.npz", v=vertices, f=faces)
    assert len(load_posed_images(tmp_path)) == 5
    matrix = table["frames"][3]["transform_matrix"]
    for axis in range(3):
        matrix[axis][3] = 0.1
    save(tmp_path, table)
    message = error(tmp_path)
    assert "is inside the body" in message and "train/r_3.png" in message and "body.npz" in message
    (tmp_path / "body.npz").unlink()
    assert len(load_posed_images(tmp_path)) == 5


def test_points_inside_a_concave_mesh():
    """The notch of an L-shaped prism is outside, but within the bounding box."""
    vertices, faces = cube(0.5)
    rng = np.random.default_rng(SEED)
    points = rng.uniform(-0.7, 0.7, (300, 3))
    expected = (np.abs(points) < 0.5).all(1)
    assert (points_inside(points, vertices, faces) == expected).all(), SEED
    assert (points_inside(points, vertices, faces[:, ::-1]) == expected).all(), SEED
    hole = points_inside(np.zeros((1, 3)), vertices, faces[1:])
    assert hole.all(), "a small hole must not change the result"
    outer = 0.5 * np.array([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]])  # an L
    flat = [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]
    prism = np.concatenate([np.c_[outer, np.zeros(6)], np.c_[outer, np.ones(6)]])
    sides = [[[k, (k + 1) % 6, (k + 1) % 6 + 6], [k, (k + 1) % 6 + 6, k + 6]] for k in range(6)]
    triangles = np.array(
        [t[::-1] for t in flat] + [[i + 6 for i in t] for t in flat] + [t for pair in sides for t in pair]
    )
    points = rng.uniform(-0.1, 1.1, (300, 3))
    x, y, z = points.T
    expected = (x > 0) & (y > 0) & (z > 0) & (z < 1) & (x < 1) & (y < 1) & ~((x > 0.5) & (y > 0.5))
    assert (points_inside(points, prism, triangles) == expected).all(), SEED


def test_body_mesh(tmp_path):
    assert load_body_mesh(tmp_path) is None
    vertices, faces = cube()
    path = tmp_path / "body.npz"
    for names in (("v", "f"), ("vertices", "faces")):
        np.savez(path, **dict(zip(names, (vertices, faces.astype(np.uint16)))))
        mesh = load_body_mesh(tmp_path)
        assert mesh is not None
        assert torch.equal(mesh[0], torch.from_numpy(vertices).double()) and mesh[0].dtype == torch.float64
        assert torch.equal(mesh[1], torch.from_numpy(faces)) and mesh[1].dtype == torch.int64
    whole = path.read_bytes()
    wrong = [
        ({"v": vertices}, "no arrays v and f"),
        ({"v": vertices[:, :2], "f": faces}, "[V,3]"),
        ({"v": vertices.astype(complex), "f": faces}, "of numbers"),
        ({"v": vertices * math.nan, "f": faces}, "NaN"),
        ({"v": vertices * 1e30, "f": faces}, "beyond"),
        ({"v": vertices, "f": faces[:0]}, "[F,3]"),
        ({"v": vertices, "f": faces.astype(float)}, "[F,3]"),
        ({"v": vertices, "f": faces[0]}, "[F,3]"),
        ({"v": vertices, "f": faces + 1}, "from 0"),
        ({"v": vertices, "f": faces - 1}, "from 0"),
        ({"v": vertices, "f": np.full((2, 3), 2**63, np.uint64)}, "from 0"),
        ({"v": vertices * 0, "f": faces}, "zero area"),
        ({"v": np.array([{"a": 1}], dtype=object), "f": faces}, "of numbers"),  # not unpickled
    ]
    for arrays, words in wrong:
        np.savez(path, **arrays)
        with pytest.raises(UserError) as raised:
            load_body_mesh(tmp_path)
        assert words in str(raised.value) and "body.npz" in str(raised.value), str(raised.value)
    for content in (b"", b"PK\x03\x04junk", whole[: len(whole) // 2], whole[:50] + bytes(60) + whole[110:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"body\.npz (is not|as) .*npz.*: save it with"):
            load_body_mesh(tmp_path)
    path.write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh_file, "MAX_FACES", 5)
        with pytest.raises(UserError, match="simplify the mesh"):
            load_body_mesh(tmp_path)


def write_cloud(path: Path, dtype: list, rows: np.ndarray) -> None:
    kinds = {"f4": "float", "f8": "double", "u1": "uchar", "i4": "int"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property {kinds[kind]} {name}" for name, kind in dtype] + ["end_header", ""]
    data = rows.astype([(name, "<" + kind) for name, kind in dtype])
    path.write_bytes("\n".join(header).encode() + data.tobytes())


def test_points(tmp_path):
    write(tmp_path)
    assert load_points(tmp_path) is None
    path = tmp_path / "points3d.ply"
    dtype = [("x", "f4"), ("y", "f8"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    rows = np.array([(1, 2, 3, 255, 0, 51), (4, 5, 6, 0, 102, 255)], dtype)
    write_cloud(path, dtype, rows)
    points, colors = load_points(tmp_path)
    assert points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert torch.allclose(colors, torch.tensor([[1, 0, 0.2], [0, 0.4, 1]]))
    write_cloud(path, dtype[:3], rows[["x", "y", "z"]])
    points, colors = load_points(tmp_path)
    assert points.tolist() == [[1, 2, 3], [4, 5, 6]] and colors is None
    whole = path.read_bytes()
    for content, words in ((whole[:-3], "cut short"), (b"ply\nx", "header"), (b"no", "not a PLY")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            load_points(tmp_path)
    for value, words in ((math.nan, "NaN"), (math.inf, "infinite"), (1e300, "beyond")):
        rows["y"] = value
        write_cloud(path, dtype, rows)
        with pytest.raises(UserError, match=words):
            load_points(tmp_path)
    write_cloud(path, dtype[:2], rows[["x", "y"]])
    with pytest.raises(UserError, match="has no z"):
        load_points(tmp_path)


JUNK = [
    None, True, -1, 0, 1e308, -1e308, 10**400, math.nan, math.inf, "", "x", "\0", "\ud800\n", "../..", ".",
    "/dev/zero", "/dev/stdin", [], [[]], {}, {"frames": []}, [1, 2, 3], [[1.0] * 4] * 4, [[[[]]]],
    "premultiplied" * 99,
]  # fmt: skip


def mutate(value: object, rng: random.Random) -> object:
    """`value` with one node of its tree replaced, removed, repeated or scaled."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(list(keys))
        action = rng.random()
        if action < 0.1:
            del value[key]  # type: ignore[arg-type]
        elif action < 0.15 and isinstance(value, list):
            value.extend(copy.deepcopy(value[key]) for _ in range(rng.choice([1, 5000])))  # type: ignore[index]
        else:
            value[key] = mutate(value[key], rng)  # type: ignore[index]
        return value
    if isinstance(value, float) and rng.random() < 0.5:
        return value * rng.choice([1.001, -1, 0, 1e6, 1e300])
    return copy.deepcopy(rng.choice(JUNK))


def damaged(data: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(1 if kind == 1 else rng.randrange(1, 20)):
        # Half of the changes hit the header, which has lengths and sizes.
        at = rng.randrange(min(len(changed), 64)) if rng.random() < 0.5 else rng.randrange(len(changed))
        changed[at] = rng.choice([0, 255, rng.randrange(256)])
    if kind == 3:
        at = rng.randrange(len(changed))
        changed[at:at] = rng.randbytes(rng.randrange(1, 50))
    return bytes(changed)


def survives(folder: Path) -> bool:
    """Whether it loads. A one-line UserError is accepted; any other exception fails the test."""
    try:
        posed = load_posed_images(folder)
        if (folder / "points3d.ply").exists():
            load_points(folder)
    except UserError as problem:
        assert "\n" not in str(problem) and str(problem).isprintable(), (SEED, str(problem))
        return False
    assert all(torch.isfinite(view.image).all() for view in posed), SEED
    assert all(torch.isfinite(view.camera.viewmats).all() for view in posed), SEED
    assert all(torch.isfinite(view.camera.Ks).all() for view in posed), SEED
    return True


@pytest.fixture
def untouched(tmp_path):
    table = write(tmp_path)
    vertices, faces = cube()
    np.savez_compressed(tmp_path / "body.npz", v=vertices, f=faces)
    dtype = [("x", "f4"), ("y", "f4"), ("z", "f4")]
    write_cloud(tmp_path / "points3d.ply", dtype, np.zeros(5, dtype))
    Image.open(tmp_path / "train" / "r_1.png").convert("RGB").save(tmp_path / "train" / "r_1.jpg")
    table["frames"][1]["file_path"] += ".jpg"
    Image.open(tmp_path / "train" / "r_4.png").save(tmp_path / "train" / "r_4.webp", lossless=True)
    table["frames"][4]["file_path"] += ".webp"
    save(tmp_path, table)
    assert survives(tmp_path)
    return tmp_path, table


def test_fuzzed_tables_raise_only_user_errors(untouched):
    folder, table = untouched
    rng = random.Random(SEED)
    path = folder / "transforms_train.json"
    whole = path.read_bytes()
    outcomes = []
    for round_ in range(200):
        if round_ % 3:
            changed = copy.deepcopy(table)
            for _ in range(rng.randrange(1, 3)):
                changed = mutate(changed, rng)  # type: ignore[assignment]
            save(folder, changed)
        else:
            path.write_bytes(damaged(whole, rng))
        outcomes.append(survives(folder))
    assert any(outcomes) and not all(outcomes), SEED


def test_fuzzed_files_raise_only_user_errors(untouched):
    folder, _ = untouched
    rng = random.Random(SEED)
    names = ("train/r_0.png", "train/r_1.jpg", "train/r_4.webp", "body.npz", "points3d.ply")
    outcomes = []
    for round_ in range(300):
        file = folder / names[round_ % len(names)]
        whole = file.read_bytes()
        file.write_bytes(damaged(whole, rng))
        outcomes.append(survives(folder))
        file.write_bytes(whole)
    assert any(outcomes) and not all(outcomes), SEED


def test_the_command_line_prints_one_line(tmp_path, capsys):
    """`eval` reads the data before it renders; the avatar is any PLY."""
    random_avatar(False).export(tmp_path / "avatar.ply")
    table = write(tmp_path / "data", "test")
    rng = random.Random(SEED)
    codes = []
    for round_ in range(8):
        changed = copy.deepcopy(table)
        for frame in changed["frames"]:
            frame["transform_matrix"] = None if round_ % 2 else "[]"
        save(tmp_path / "data", mutate(changed, rng), "test")
        with pytest.raises(SystemExit) as stopped:
            main(["eval", str(tmp_path / "avatar.ply"), "--data", str(tmp_path / "data"), "--device", "cpu"])
        message = capsys.readouterr().err
        codes.append(stopped.value.code)
        assert message.startswith("specularip: error: ") and message.count("\n") == 1, (SEED, message)
    assert codes == [2] * 8, SEED


def test_images_that_are_fitted_and_tested_on_are_said(tmp_path):
    table = captures.write(tmp_path / "a")
    assert _shared(load_posed_images(tmp_path / "a"), load_posed_images(tmp_path / "a", "test")) == ""
    captures.save(tmp_path / "a", table | {"frames": table["frames"][:2]}, "test")
    line = _shared(load_posed_images(tmp_path / "a"), load_posed_images(tmp_path / "a", "test"))
    assert line.startswith("2 of 2 test images are also fitted")
