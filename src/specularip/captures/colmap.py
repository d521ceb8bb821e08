"""Captures of COLMAP, and of the many programs that write its files: cameras, images and points3D.

Binary and text, of any version since 3.0 (https://colmap.github.io/format.html). The files are mapped into
memory, and every length in them is checked against what the file holds before anything is made of it.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specularip.captures.frames import Capture, Frame, PointCloud, Split
from specularip.captures.intrinsics import Said, lens_of
from specularip.captures.names import Finder, cloud_in, relative_name
from specularip.captures.splits import rule_of
from specularip.errors import DamagedFile, UserError, quoted

PLACES = ("sparse", "colmap/sparse", "colmap", "")
"""Folders that may hold a model, or numbered ones with one each."""
MAX_DISTANCE = 1e7
"""Of cameras and points from the origin; farther points are dropped."""
MAX_NAME = 4096
MAX_TEXT_BYTES = 4 << 30
_F, _C = ("fl_x", "cx", "cy"), ("fl_x", "fl_y", "cx", "cy")
MODELS = (
    ("SIMPLE_PINHOLE", _F),
    ("PINHOLE", _C),
    ("SIMPLE_RADIAL", (*_F, "k1")),
    ("RADIAL", (*_F, "k1", "k2")),
    ("OPENCV", (*_C, "k1", "k2", "p1", "p2")),
    ("OPENCV_FISHEYE", (*_C, "k1", "k2", "k3", "k4")),
    ("FULL_OPENCV", (*_C, "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    ("FOV", (*_C, "omega")),
    ("SIMPLE_RADIAL_FISHEYE", (*_F, "k1")),
    ("RADIAL_FISHEYE", (*_F, "k1", "k2")),
    ("THIN_PRISM_FISHEYE", (*_C, "k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1")),
    (
        "RAD_TAN_THIN_PRISM_FISHEYE",
        (*_C, "k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "s1", "s2", "s3", "s4"),
    ),
    ("SIMPLE_DIVISION", (*_F, "k")),
    ("DIVISION", (*_C, "k")),
    ("SIMPLE_FISHEYE", _F),
    ("FISHEYE", _C),
    ("EUCM", (*_C, "alpha", "beta")),
    ("EQUIRECTANGULAR", ("w", "h")),
)
"""By the number of the model: its name, and what its parameters are in the words of `intrinsics`."""


@dataclass(frozen=True)
class Pose:
    """A registered image. quat wxyz and translation [3]: world to camera, OpenCV axes."""

    name: str
    camera: int
    quat: np.ndarray
    translation: np.ndarray


def find_model(folder: Path) -> Path | None:
    """The folder with cameras, images and points: the one with most images if there are several."""
    models = find_models(folder)
    return models[0] if models else None


def find_models(folder: Path) -> list[Path]:
    """The folders of all models of a reconstruction, the one with most images first."""
    for place in PLACES:
        start = folder / place if place else folder
        if not start.is_dir():
            continue
        numbered = [start / name for name in os.listdir(start) if place and re.fullmatch(r"\d{1,4}", name)]
        found = [model for model in (*sorted(numbered, key=lambda p: int(p.name)), start) if _is_model(model)]
        if found:
            return found if len(found) == 1 else sorted(found, key=lambda model: -count_images(model))
    return []


def _is_model(folder: Path) -> bool:
    return any(
        (folder / f"cameras{end}").exists() and (folder / f"images{end}").exists() for end in (".bin", ".txt")
    )


def count_images(model: Path) -> int:
    """How many images a model has; 0 if it cannot be read."""
    try:
        return len(read_poses(model))
    except UserError:
        return 0


def read_colmap(folder: Path, split: Split) -> Capture:
    """A split of a reconstruction in `folder`: every eighth image is for testing.

    Raises UserError for files that are damaged, for lenses that are not supported, and for images that are
    missing or ambiguous.
    """
    models = find_models(folder)
    model = models[0]
    lenses, poses = read_lenses(model), read_poses(model)
    source = _file(model, "images")
    notes = []
    if len(models) > 1:
        others = sum(count_images(other) for other in models[1:])
        notes.append(
            f"{folder} has {len(models)} models of COLMAP: {relative_name(model, folder)} is used, which "
            f"has most images ({len(poses)}); the others ({others} images) are not"
        )
    finder = Finder(folder, under=("images", "input"))
    files = [finder.find(pose.name, f"{source}: image {index}") for index, pose in enumerate(poses)]
    names = [relative_name(file, folder) for file in files]
    indices, line = rule_of(names, split)
    notes.append(f"{relative_name(source, folder)}: {line}")
    if not indices and split != "train":
        return Capture("COLMAP", source, (), notes=(f"{notes[-1]}: nothing to evaluate on",))
    frames = []
    for index in indices:
        pose = poses[index]
        where = f"{source}: image {quoted(pose.name)}"
        if pose.camera not in lenses:
            raise UserError(
                f"{where} has camera {pose.camera}, which {_file(model, 'cameras')} lacks: export it again"
            )
        lens = lens_of(lenses[pose.camera], f"{where}: camera {pose.camera}", lambda: (0, 0))
        frames.append(Frame(files[index], names[index], lens, _viewmat(pose, where)))
    points = read_points(model) or cloud_in(model) or cloud_in(folder)
    return Capture("COLMAP", source, tuple(frames), points, notes=(*notes, *finder.moved_note()))


def _viewmat(pose: Pose, where: str) -> np.ndarray:
    numbers = np.concatenate([pose.quat, pose.translation])
    length = float(np.linalg.norm(pose.quat)) if np.isfinite(numbers).all() else 0.0
    if not 0.5 < length < 2 or np.abs(pose.translation).max() > MAX_DISTANCE:
        raise UserError(f"{where} has no valid pose ({', '.join(f'{number:.4g}' for number in numbers)})")
    w, x, y, z = pose.quat / length
    viewmat = np.eye(4)
    viewmat[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    viewmat[:3, 3] = pose.translation
    return viewmat


def _file(model: Path, name: str) -> Path:
    """The binary file if there is one, as COLMAP prefers it."""
    binary = model / f"{name}.bin"
    return binary if binary.exists() else model / f"{name}.txt"


def read_lenses(model: Path) -> dict[int, Said]:
    """What the cameras of a model are, by their numbers."""
    path = _file(model, "cameras")
    with _opened(path) as data:
        return dict(_binary_cameras(data) if path.suffix == ".bin" else _text_cameras(data))


def read_poses(model: Path) -> list[Pose]:
    """The registered images of a model, in the order of the file."""
    path = _file(model, "images")
    with _opened(path) as data:
        poses = list(_binary_images(data) if path.suffix == ".bin" else _text_images(data))
    if not poses:
        raise UserError(f"{path} has no images: COLMAP has registered none")
    return poses


def read_points(model: Path) -> PointCloud | None:
    """The points of a model that are finite; None if it has none."""
    path = _file(model, "points3D")
    if not path.exists():
        return None
    with _opened(path) as data:
        positions, colors = _binary_points(data) if path.suffix == ".bin" else _text_points(data)
    with np.errstate(invalid="ignore"):
        usable = (np.abs(positions) <= MAX_DISTANCE).all(1)
    return PointCloud(positions[usable], colors[usable]) if usable.any() else None


class Data:
    """Bytes of a file, read from the start. Every read is checked against the end."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data, self.at, self.size = data, 0, len(data)

    def numbers(self, form: str) -> tuple:
        """As `struct.unpack` gives them. Little-endian."""
        size = struct.calcsize("<" + form)
        self.need(size)
        found = struct.unpack_from("<" + form, self.data, self.at)
        self.at += size
        return found

    def need(self, size: int) -> None:
        if not 0 <= size <= self.size - self.at:
            raise DamagedFile("is cut short or damaged")

    def skip(self, size: int) -> None:
        self.need(size)
        self.at += size

    def text(self) -> str:
        """Up to the next zero byte."""
        end = self.data.find(b"\0", self.at, min(self.at + MAX_NAME, self.size))
        if end < 0:
            raise DamagedFile("is cut short or damaged")
        found = os.fsdecode(self.data[self.at : end])
        self.at = end + 1
        return found

    def lines(self) -> Iterator[str]:
        """Of text, without comments. Blank ones too."""
        while self.at < self.size:
            end = self.data.find(b"\n", self.at)
            end = self.size if end < 0 else end
            line = os.fsdecode(self.data[self.at : end]).strip("\r\ufeff \t")
            self.at = end + 1
            if not line.startswith("#"):
                yield line


@contextmanager
def _opened(path: Path) -> Iterator[Data]:
    """The file in memory, without reading all of it. Damage becomes a UserError with the file's name."""
    try:
        if not path.exists():
            raise UserError(f"{path} is missing: export the model again")
        if not path.is_file():
            raise UserError(f"{path} is not a regular file")
        if path.suffix == ".txt" and path.stat().st_size > MAX_TEXT_BYTES:
            raise UserError(f"{path} is over {MAX_TEXT_BYTES >> 30} GiB: export the model as binary")
        with open(path, "rb") as file:
            if path.stat().st_size == 0:
                raise DamagedFile("is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield Data(data)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except DamagedFile as error:
        raise UserError(f"{path} {error}: export the model again") from None


def _said(
    number: int, model: str, names: tuple[str, ...], width: float, height: float, values: tuple
) -> Said:
    if len(values) != len(names):
        raise DamagedFile(f"gives camera {number} ({model}) {len(values)} parameters instead of {len(names)}")
    said = Said({"camera_model": model, "w": width, "h": height})
    said.values.update(zip(names, values))
    return said


def _binary_cameras(data: Data) -> Iterator[tuple[int, Said]]:
    for _ in range(data.numbers("Q")[0]):
        number, model, width, height = data.numbers("IiQQ")
        if not 0 <= model < len(MODELS):
            raise DamagedFile(
                f"has a camera of the unknown model {model}: convert it with `colmap model_converter`"
            )
        name, names = MODELS[model]
        yield number, _said(number, name, names, width, height, data.numbers(f"{len(names)}d"))


def _text_cameras(data: Data) -> Iterator[tuple[int, Said]]:
    known = dict(MODELS)
    for line in data.lines():
        if not line:
            continue
        fields = line.split()
        if len(fields) < 4 or fields[1] not in known:
            raise DamagedFile(f"has a line that is no camera ({quoted(line)})")
        width, height, *values = _floats(fields[2:])
        number = _whole(fields[0])
        yield number, _said(number, fields[1], known[fields[1]], width, height, tuple(values))


def _binary_images(data: Data) -> Iterator[Pose]:
    for _ in range(data.numbers("Q")[0]):
        _, *pose, camera = data.numbers("I7dI")
        name = data.text()
        yield Pose(name, camera, np.array(pose[:4]), np.array(pose[4:]))
        data.skip(24 * data.numbers("Q")[0])


def _text_images(data: Data) -> Iterator[Pose]:
    """Each image has two lines; the second, of its points, may be empty, and some exporters leave it out."""
    for line in data.lines():
        fields = line.split(maxsplit=9)
        if not fields or _is_points(fields):
            continue
        if len(fields) < 10:
            raise DamagedFile(f"has a line that is no image ({quoted(line)})")
        numbers = _floats(fields[1:8])
        yield Pose(fields[9], _whole(fields[8]), np.array(numbers[:4]), np.array(numbers[4:]))


def _is_points(fields: list[str]) -> bool:
    """Whether a line of images.txt, split at most nine times, is one of X Y POINT3D_ID again and again."""
    if len(fields) < 10:
        return len(fields) % 3 == 0
    rest = fields[9].split(maxsplit=3)
    if len(rest) == 1:  # ten fields: an image, whose name is in one word
        return False
    return all(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", field) for field in rest[:3])


def _binary_points(data: Data) -> tuple[np.ndarray, np.ndarray]:
    count = data.numbers("Q")[0]
    if count > (data.size - data.at) // 51:
        raise DamagedFile("is cut short or damaged")
    starts = np.empty(count, np.int64)
    for index in range(count):
        starts[index] = data.at
        data.skip(43)  # number, x y z, red green blue, error
        data.skip(8 * data.numbers("Q")[0])
    rows = np.empty((count, 27), np.uint8)
    whole = np.frombuffer(data.data, np.uint8)
    for start in range(0, count, 100_000):
        part = starts[start : start + 100_000, None]
        rows[start : start + 100_000] = whole[part + np.arange(8, 35)]
    del whole  # it would keep the file open
    return np.ascontiguousarray(rows[:, :24]).view("<f8").astype(np.float64), rows[:, 24:].copy()


def _text_points(data: Data) -> tuple[np.ndarray, np.ndarray]:
    positions, colors = [], []
    for line in data.lines():
        if not line:
            continue
        fields = line.split(maxsplit=7)
        if len(fields) < 7:
            raise DamagedFile(f"has a line that is no point ({quoted(line)})")
        numbers = _floats(fields[1:7])
        positions.append(numbers[:3])
        colors.append([min(max(round(value), 0), 255) if abs(value) < 1e9 else 0 for value in numbers[3:]])
    return np.array(positions, np.float64).reshape(-1, 3), np.array(colors, np.uint8).reshape(-1, 3)


def _floats(fields: list[str]) -> list[float]:
    try:
        return [float(field) for field in fields]
    except ValueError:
        raise DamagedFile(f"has something else than numbers ({quoted(' '.join(fields))})") from None


def _whole(field: str) -> int:
    if not re.fullmatch(r"\d{1,18}", field):
        raise DamagedFile(f"has {quoted(field)} instead of a number")
    return int(field)
