"""What people bring, and what becomes of it: captures, splat files, words, photos, and the world around.

    python benchmarks/inputs.py [--only GROUP ...] [--list] [--keep FOLDER]
    python benchmarks/inputs.py --fit SCENE [--iterations 1500] [--points 20000] [--out out/inputs]

Every input is made by program, small, in a temporary folder; then the command line runs in a process of its
own, or the function behind it in this one. Prints a table of what was given, expected and got, and at the end
how many rows were as expected; exit code 1 unless all were. Takes minutes on two cores.

Images are judged by `made_captures.agreement`: PSNR of what the reader returns against the subject as drawn
for the cameras that it returns. A lens, pose, mask, orientation or profile that is misread costs tens of dB.

--fit compares two fits of a scene of NeRF-synthetic's layout with alpha (see `fit_in_the_wild.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import made_captures as made
import numpy as np
import torch
from made_captures import ELSEWHERE, FISHEYE, HERE, OPENCV, PINHOLE, PORTRAIT, SIZE, nerfstudio, shots
from PIL import Image, ImageDraw, ImageFilter

from specularip.avatar import Avatar, load
from specularip.body import phenotype_from_text
from specularip.body.phenotype import Phenotype
from specularip.cameras import Cameras
from specularip.captures.layout import read_capture
from specularip.captures.load import load_posed_images
from specularip.errors import UserError
from specularip.faces.hair import told_hair
from specularip.faces.photo import read_photo
from specularip.metrics import psnr
from specularip.placement import Placement
from specularip.sentences import without_denials

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from colour_profiles import DISPLAY_P3, PROPHOTO, SRGB, Primaries, profile  # noqa: E402
from splat_files import columns_of, element, table  # noqa: E402
from splat_files import write as write_ply  # noqa: E402

FACE = ROOT / "examples" / "eileen_collins.jpg"
EXACT, UNDISTORTED, COMPRESSED = 45.0, 34.0, 35.0
"""Least agreement in dB of images that nothing but 8 bits separates from the truth, of those that were
resampled twice, and of JPEG and WebP."""
QUICK = """seid.steps=2 seid.points=500 scr.orbit_views=4 scr.close_ups=false scr.refine_steps=1 scr.fit_steps=2
turntable_frames=2 turntable_size=64""".split()
"""Settings of a `generate` that shows nothing, soon."""
BROWN = (120, 96, 80)


class Unexpected(Exception):
    """What was got, where it is not what was expected."""


@dataclass(frozen=True)
class Row:
    """run: makes the input in an empty folder, tries it, and returns in a few words what was got; raises
    Unexpected, or the exception of the function that was tried."""

    situation: str
    given: str
    expected: str
    run: Callable[[Path], str]


# The command line


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """That of this process with this checkout in front, and changes; None removes."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    merged: dict[str, str | None] = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **changes}
    return {name: value for name, value in merged.items() if value is not None}


def specularip(*arguments: str | bytes | Path, timeout: float = 300, **changes: str | None) -> Ran:
    """Run the command line. A traceback is never expected."""
    command = [sys.executable, "-m", "specularip", *(os.fsdecode(argument) for argument in arguments)]
    return ran(command, timeout, changes)


def shell(script: str, timeout: float = 300, **changes: str | None) -> Ran:
    """Run a script of bash, in which $S is the command."""
    changes = {"S": f"{sys.executable} -m specularip", **changes}
    return ran(["bash", "-c", script], timeout, changes)


def ran(command: Sequence[str], timeout: float, changes: Mapping[str, str | None]) -> Ran:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=environment(changes),
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise Unexpected(f"nothing after {timeout:.0f} s") from None
    out, err = (text.decode(errors="backslashreplace") for text in (done.stdout, done.stderr))
    if "Traceback" in out + err:
        raise Unexpected(f"a traceback: {err.strip().splitlines()[-1]}")
    return Ran(done.returncode, out, err)


def refusal(result: Ran, *words: str) -> str:
    """The one line of an error of the user, which must hold the words."""
    last = (result.err.strip().splitlines() or [""])[-1]
    line = last.removeprefix("specularip: error: ")
    if result.code != 2 or line == last or not all(word in line for word in words):
        raise Unexpected(f"exit code {result.code}: {last or result.out.strip()[-200:]}")
    return line


def success(result: Ran, *said: str) -> str:
    """Exit code 0, and the words in what was printed."""
    printed = result.out + result.err
    missing = [words for words in said if words not in printed]
    if result.code != 0 or missing:
        lines = result.err.strip().splitlines() or [""]
        raise Unexpected(f"exit code {result.code}, not said: {missing or 'nothing'}: {lines[-1]}")
    return "done" + (f", said: {', '.join(said)}" if said else "")


def colors_in(picture: Path) -> int:
    """How many different colours a picture has: plain grey is one."""
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    return len(np.unique(pixels.reshape(-1, 3), axis=0))


def shows_something(avatar: Path, folder: Path, *options: str) -> str:
    """What `render` makes of an avatar."""
    picture = folder / "shown.png"
    success(specularip("render", avatar, "--out", picture, "--size", "96", *options))
    if (count := colors_in(picture)) < 50:
        raise Unexpected(f"a picture of {count} colours")
    return "a picture of it"


# Captures: nothing is fitted, only read


def reads(
    situation: str,
    given: str,
    expected: str,
    write: Callable[[Path], object],
    *said: str,
    least: float = EXACT,
    views: int = 8,
    world: Placement = HERE,
    background: tuple[int, int, int] | None = None,
) -> Row:
    """A capture that is read as it was meant. said: words that notes must have."""

    def run(folder: Path) -> str:
        write(folder)
        found = load_posed_images(folder, "train")
        over = None if background is None else [value / 255 for value in background]
        agreement = made.agreement(found, world, over)
        got = f"{len(found)} views, {agreement:.1f} dB"
        missing = [words for words in said if not any(words in note.lower() for note in found.notes)]
        if len(found) != views or agreement < least or missing:
            raise Unexpected(f"{got}; not said: {', '.join(missing) or 'nothing'}")
        return got + (f"; said: {', '.join(said)}" if said else "")

    return Row(situation, given, expected, run)


def refuses(situation: str, given: str, write: Callable[[Path], object], *words: str) -> Row:
    """A capture that is refused with one line that has the words."""

    def run(folder: Path) -> str:
        write(folder)
        return refused(lambda: load_posed_images(folder, "train"), *words)

    return Row(situation, given, "refused, and why", run)


def refused(call: Callable[[], object], *words: str) -> str:
    try:
        got = call()
    except UserError as error:
        line = str(error)
        if "\n" in line or not all(word in line for word in words):
            raise Unexpected(f"refused, but: {line}") from None
        return f"refused: {line}"
    raise Unexpected(f"not refused: {got!r:.100}")


def starts_on_points(situation: str, given: str, write: Callable[[Path], object]) -> Row:
    def run(folder: Path) -> str:
        write(folder)
        points = read_capture(folder, "train").points
        if points is None:
            raise Unexpected("no points")
        return "starts on " + (points.name if isinstance(points, Path) else f"{len(points.positions)} points")

    return Row(situation, given, "the fit starts on them", run)


def with_masks(folder: Path, invert: bool = False, named: bool = True, **options: Any) -> None:
    """JPEGs over a colour, and masks as PNG, which the frames name or not."""
    taken = shots()
    if invert:
        masks = [replace(shot, pixels=255 - shot.pixels) for shot in taken]
    else:
        masks = list(taken)
    names = made.write_masks(folder, masks)
    save = made.save_opaque(BROWN, quality=98, subsampling=0)
    each = {"mask_path": names} if named else {}
    nerfstudio(folder, taken, name="images/frame_{:05d}.jpg", save=save, each=each, **options)


def with_points(folder: Path, **keys: Any) -> None:
    nerfstudio(folder, shots(), **keys)
    made.write_cloud(folder / "sparse_pc.ply")


def two_sizes(folder: Path) -> None:
    """Upright and square images in one capture, with lenses of their own."""
    taken = [(shots(10, PORTRAIT) if k % 2 else shots())[k] for k in range(10)]
    lenses = [made.lens_keys(PORTRAIT if k % 2 else PINHOLE) for k in range(10)]
    nerfstudio(folder, taken, None, each={key: [lens[key] for lens in lenses] for key in lenses[0]})


def deep_png(path: Path, pixels: np.ndarray) -> None:
    """16 bits a channel, which Pillow does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in (pixels.astype(np.uint16) * 257).astype(">u2"))
    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def in_profile(primaries: Primaries, gamma: float, path: Path, pixels: np.ndarray) -> None:
    """A PNG in another colour space, whose profile it has."""
    value = pixels[..., :3] / 255
    linear = np.where(value < 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    other = (linear @ np.array(SRGB) @ np.linalg.inv(np.array(primaries))).clip(0, 1) ** (1 / gamma)
    encoded = np.concatenate([np.rint(255 * other).astype(np.uint8), pixels[..., 3:]], -1)
    Image.fromarray(encoded).save(path, icc_profile=profile(primaries, gamma))


def turned(path: Path, pixels: np.ndarray) -> None:
    """A photo that is stored lying, and whose EXIF says so, as phones do."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels))).save(path, exif=exif)


def distorted_list(folder: Path) -> None:
    k1, k2, p1, p2 = OPENCV.distortion
    lens = {key: value for key, value in made.lens_keys(OPENCV).items() if key[0] not in "kp"}
    nerfstudio(folder, shots(10, OPENCV), None, distortion_params=[k1, k2, 0, 0, p1, p2], **lens)


def fisheye_flag(folder: Path) -> None:
    lens = {**made.lens_keys(FISHEYE), "is_fisheye": True}
    del lens["camera_model"]
    nerfstudio(folder, shots(10, FISHEYE), None, **lens)


def per_frame(folder: Path) -> None:
    lens = made.lens_keys(OPENCV)
    nerfstudio(folder, shots(10, OPENCV), None, each={key: [value] * 10 for key, value in lens.items()})


def own_split(folder: Path) -> None:
    names = [f"images/frame_{k:05d}.png" for k in range(10)]
    nerfstudio(folder, shots(), train_filenames=names[:7], test_filenames=names[7:])


def blender(folder: Path) -> None:
    angle = 2 * math.atan(SIZE / 2 / made.FOCAL)
    table_ = nerfstudio(folder, shots(), None, camera_angle_x=angle, told=lambda name: f"./{name[:-4]}")
    (folder / "transforms.json").rename(folder / "transforms_train.json")
    made.write_table(folder, {**table_, "frames": table_["frames"][:2]}, "transforms_test.json")


def named(situation: str, file: str, told: Callable[[str], str]) -> Row:
    def write(folder: Path) -> None:
        save = made.save_opaque(BROWN, quality=98, subsampling=0) if "png" not in file else made.save_png
        nerfstudio(folder, shots(), name=file, told=told, save=save)

    opaque = "png" not in file
    return reads(
        situation,
        told(file.format(0)),
        "found",
        write,
        least=COMPRESSED if opaque else EXACT,
        background=BROWN if opaque else None,
    )


def captures() -> list[Row]:
    lossy = {"quality": 98, "subsampling": 0}
    jpeg = made.save_opaque(BROWN, **lossy)
    files = made.save_opaque(BROWN, format="JPEG", **lossy)
    webp = lambda path, pixels: Image.fromarray(pixels).save(path, quality=98)  # noqa: E731
    panorama = {**made.lens_keys(PINHOLE), "camera_model": "EQUIRECTANGULAR"}
    depth = {"depth_file_path": [f"depth/{k}.png" for k in range(10)]}
    applied = {"applied_transform": [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]], "aabb_scale": 16}
    distorted = {"least": UNDISTORTED}
    return [
        reads("nerfstudio", "transforms.json alone", "every 8th to test, said",
              lambda d: nerfstudio(d, shots()), "every 8th image"),
        reads("nerfstudio", "train_filenames, test_filenames", "its own split", own_split, views=7),
        reads("nerfstudio", "applied_transform, aabb_scale", "as without",
              lambda d: nerfstudio(d, shots(), **applied)),
        reads("nerfstudio", "depth_file_path", "ignored, said",
              lambda d: nerfstudio(d, shots(), each=depth), "depth"),
        starts_on_points("nerfstudio", "ply_file_path", partial(with_points, ply_file_path="sparse_pc.ply")),
        starts_on_points("nerfstudio", "sparse_pc.ply, not named", with_points),
        reads("NeRF-synthetic", "transforms_train.json, names without suffix", "as before", blender, views=10),
        reads("COLMAP", "binary", "read", lambda d: made.colmap(d, shots())),
        reads("COLMAP", "text, OPENCV", "read, undistorted, said",
              lambda d: made.colmap(d, shots(10, OPENCV), OPENCV, False), "undistorted", **distorted),
        reads("COLMAP", "binary, OPENCV_FISHEYE", "read, undistorted, said",
              lambda d: made.colmap(d, shots(10, FISHEYE), FISHEYE), "undistorted", **distorted),
        starts_on_points("COLMAP", "points3D.bin", lambda d: made.colmap(d, shots())),
        reads("Polycam", "raw data", "read", lambda d: made.polycam(d, shots())),
        reads("Record3D", "EXR + RGB", "read", lambda d: made.record3d(d, shots())),
        reads("lens", "OPENCV, k1 k2 p1 p2", "undistorted, cut said",
              lambda d: nerfstudio(d, shots(10, OPENCV), OPENCV), "undistorted, which cuts", **distorted),
        reads("lens", "the same in every frame", "undistorted", per_frame, "undistorted", **distorted),
        reads("lens", "distortion_params", "undistorted", distorted_list, "undistorted", **distorted),
        reads("lens", "OPENCV_FISHEYE, k1 to k4", "undistorted, cut said",
              lambda d: nerfstudio(d, shots(10, FISHEYE), FISHEYE), "undistorted, which cuts", **distorted),
        reads("lens", "is_fisheye", "undistorted", fisheye_flag, "undistorted", **distorted),
        refuses("lens", "EQUIRECTANGULAR", lambda d: nerfstudio(d, shots(), None, **panorama), "panorama"),
        refuses("lens", "k7", lambda d: nerfstudio(d, shots(), k7=0.1), "k7"),
        reads("masks", "mask_path, JPEG", "used, said", with_masks, "masks:", least=28),
        reads("masks", "masks/", "used, said", partial(with_masks, named=False), "masks:", least=28),
        reads("masks", "inverted", "used, said", partial(with_masks, invert=True), "inverted", least=28),
        reads("no alpha", "RGB, no masks", "taken as opaque, said",
              lambda d: nerfstudio(d, shots(), save=made.save_opaque(BROWN)), "taken as opaque",
              background=BROWN),
        named("names", "images/{:03d}.png", lambda name: f"/home/ann/capture/{name}"),
        named("names", "images/{:03d}.png", lambda name: "C:\\Users\\Ann\\" + name.replace("/", "\\")),
        named("names", "images/{:03d}.png", lambda name: f"../capture/{name}"),
        named("names", "images/{:03d}.JPG", lambda name: name.replace(".JPG", ".jpg")),
        named("names", "images/{:03d}.png", lambda name: name[:-4]),
        reads("files", "JPEG", "read", lambda d: nerfstudio(d, shots(), name="{}.jpeg", save=jpeg),
              background=BROWN, least=COMPRESSED),
        reads("files", "WebP with alpha", "read", lambda d: nerfstudio(d, shots(), name="{}.webp", save=webp),
              least=COMPRESSED),
        reads("files", "PNG of 16 bits", "read", lambda d: nerfstudio(d, shots(), save=deep_png)),
        reads("files", "a JPEG named .png", "read", lambda d: nerfstudio(d, shots(), save=files),
              background=BROWN, least=COMPRESSED),
        reads("EXIF orientation", "w and h upright", "turned, said",
              lambda d: nerfstudio(d, shots(10, PORTRAIT), PORTRAIT, save=turned), "turned upright"),
        reads("EXIF orientation", "no w and h", "turned",
              lambda d: nerfstudio(d, shots(10, PORTRAIT), None, fl_x=PORTRAIT.fx, save=turned)),
        reads("colours", "Display P3", "in sRGB",
              lambda d: nerfstudio(d, shots(), save=partial(in_profile, DISPLAY_P3, 2.2)), least=40),
        reads("colours", "ProPhoto RGB", "in sRGB",
              lambda d: nerfstudio(d, shots(), save=partial(in_profile, PROPHOTO, 1.8)), least=38),
        reads("sizes", "96x96 and 72x96", "read", two_sizes),
        reads("a subject anywhere", "y down, centimetres, 3 m off", "read",
              lambda d: nerfstudio(d, shots(), world=ELSEWHERE), world=ELSEWHERE),
        reads("a subject anywhere", "5 km off (UTM)", "read", lambda d: nerfstudio(
            d, shots(), world=replace(HERE, translation=torch.tensor([5e3, -4e3, 70.0]))),
            world=replace(HERE, translation=torch.tensor([5e3, -4e3, 70.0]))),
    ]  # fmt: skip


# Splat files


COUNT = 300
FACES = (
    "element face 2\nproperty list uchar int vertex_indices\n",
    struct.pack("<B3iB4i", 3, 0, 1, 2, 4, *range(4)),
)


@cache
def plain(degree: int) -> dict[str, np.ndarray]:
    return columns_of(COUNT, 0, degree)


def looks(avatar: Avatar) -> torch.Tensor:
    """Four views [4,S,S,4] from fixed cameras, with alpha."""
    cameras = Cameras.orbit([0.0, 90.0, 180.0, 270.0], 10.0, 3.5, 40.0, SIZE, SIZE)
    with torch.no_grad():
        frame = avatar.prepare().render(cameras, 0.0)
    return torch.cat([frame.image, frame.alpha], -1)


def like(
    given: str,
    write: Callable[[Path], Path],
    columns: Mapping[str, np.ndarray],
    *said: str,
    least: float = 50.0,
) -> Row:
    """A file that shows the same as a plain 3DGS file of `columns`. said: words of warnings; none may come
    otherwise."""

    def run(folder: Path) -> str:
        path = write(folder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            avatar = load(path)
        notes = [str(one.message) for one in caught]
        truth = load(write_ply(folder / "plain.ply", columns))
        agreement = min(99.0, float(psnr(looks(avatar), looks(truth)).min()))
        got = f"{len(avatar.gaussians)} Gaussians, {agreement:.0f} dB"
        missing = [words for words in said if not any(words in note for note in notes)]
        if agreement < least or missing or (notes and not said):
            raise Unexpected(f"{got}; not said: {', '.join(missing) or 'nothing'}; said: {notes}")
        return got + (f"; said: {', '.join(said)}" if said else "")

    expected = "as a plain file" + (", said" if said else "")
    return Row("splat files", given, expected, run)


def changed(columns: Mapping[str, np.ndarray], **values: tuple[int, float]) -> dict[str, np.ndarray]:
    """Columns with single entries set: (row, value) by name."""
    found = {name: column.copy() for name, column in columns.items()}
    for name, (row, value) in values.items():
        found[name][row] = value
    return found


def without(columns: Mapping[str, np.ndarray], *rows: int) -> dict[str, np.ndarray]:
    return {name: np.delete(column, rows) for name, column in columns.items()}


def supersplat(path: Path) -> Path:
    """SuperSplat's compressed PLY of the plain file of degree 0."""
    columns, chunks = plain(0), -(-COUNT // 256)
    chunk = np.arange(COUNT) // 256
    limits: dict[str, np.ndarray] = {}

    def parts(names: Sequence[str], stored: Sequence[str], values: np.ndarray) -> np.ndarray:
        for name, column in zip(stored, values):
            for side, pick in (("min", np.min), ("max", np.max)):
                limits[f"{side}_{name}"] = np.array([pick(column[chunk == k]) for k in range(chunks)])
        low, high = (
            np.stack([limits[f"{side}_{name}"] for name in stored])[:, chunk] for side in ("min", "max")
        )
        return (values - low) / (high - low)

    def packed(values: np.ndarray, bits: Sequence[int]) -> np.ndarray:
        word = np.zeros(COUNT, np.uint32)
        for value, width in zip(values, bits):
            word = word << np.uint32(width) | np.rint(value * (2**width - 1)).astype(np.uint32)
        return word

    position = parts("xyz", "xyz", np.stack([columns[name] for name in "xyz"]))
    names = [f"scale_{k}" for k in range(3)]
    scale = parts(names, [f"scale_{axis}" for axis in "xyz"], np.stack([columns[name] for name in names]))
    color = 0.5 + 0.28209479 * np.stack([columns[f"f_dc_{k}"] for k in range(3)])
    color = parts("rgb", "rgb", color)
    opacity = 1 / (1 + np.exp(-columns["opacity"]))
    quats = np.stack([columns[f"rot_{k}"] for k in range(4)], -1)
    quats /= np.linalg.norm(quats, axis=-1, keepdims=True)
    largest = np.abs(quats).argmax(1)
    quats *= np.sign(quats[np.arange(COUNT), largest])[:, None]
    others = np.stack([np.delete(quat, k) for quat, k in zip(quats, largest)]).T
    vertices = {
        "packed_position": packed(position, (11, 10, 11)),
        "packed_rotation": largest.astype(np.uint32) << np.uint32(30)
        | packed(others / 2**0.5 + 0.5, (10,) * 3),
        "packed_scale": packed(scale, (11, 10, 11)),
        "packed_color": packed([*color, opacity], (8,) * 4),
    }
    rows = table(limits)
    return write_ply(path, vertices, before=(element("chunk", rows), rows.tobytes()))


def splats() -> list[Row]:
    base, rich = plain(0), plain(3)
    reverse = dict(reversed(list(rich.items())))
    scalar = {name if name in "xyz" else f"scalar_{name}": column for name, column in rich.items()}
    flat_logs = changed(base, scale_2=(7, -np.inf))
    flat_disc = changed(base, scale_2=(7, -20.0))
    two = {name: column for name, column in base.items() if name != "scale_2"}
    thin = {**base, "scale_2": np.full(COUNT, -11.0)}
    fourth = plain(4)
    third = {name: column for name, column in fourth.items() if not name.startswith("f_rest")}
    for channel in range(3):
        third |= {f"f_rest_{15 * channel + k}": fourth[f"f_rest_{24 * channel + k}"] for k in range(15)}
    no_turn = changed(base, **{f"rot_{k}": (5, 0.0) for k in range(4)})
    left = "Gaussians left out"

    def written(
        columns: Mapping[str, np.ndarray], name: str = "a.ply", **options: Any
    ) -> Callable[[Path], Path]:
        return lambda folder: write_ply(folder / name, columns, **options)

    def shown(given: str, columns: Mapping[str, np.ndarray], *options: str) -> Row:
        return Row("splat files", given, "a picture",
                   lambda d: shows_something(write_ply(d / "a.ply", columns), d, *options))  # fmt: skip

    def nothing(folder: Path) -> str:
        path = write_ply(folder / "a.ply", {**base, "opacity": np.full(COUNT, -np.inf)})
        result = specularip("render", path, "--out", folder / "a.png", "--size", "64")
        if "transparent" not in result.err:
            raise Unexpected(f"exit code {result.code}: {result.err.strip()}")
        return f"exit code {result.code}, said: transparent"

    return [
        like("a NaN position", written(changed(base, x=(3, np.nan))), without(base, 3), f"1 of {COUNT} {left}"),
        like("a NaN colour, an infinite position", written(changed(base, f_dc_1=(3, np.nan), z=(9, np.inf))),
             without(base, 3, 9), f"2 of {COUNT} {left}"),
        like("a rotation of length 0", written(no_turn), without(base, 5), f"1 of {COUNT} {left}"),
        like("opacity +inf", written(changed(base, opacity=(7, np.inf))), changed(base, opacity=(7, 16.0))),
        like("opacity -inf", written(changed(base, opacity=(7, -np.inf))), without(base, 7)),
        like("scale -inf", written(flat_logs), flat_disc, least=40),
        like("ASCII", written(rich, order=""), rich),
        like("big-endian", written(rich, order=">"), rich),
        like("ASCII with CRLF", written(rich, order="", newline="\r\n"), rich),
        like(".PLY", written(rich, "A.PLY"), rich),
        *(like(f"degree {degree}", written(plain(degree)), plain(degree)) for degree in (0, 1, 2, 3)),
        like("degree 4", written(fourth), third, "above degree 3"),
        like("properties in another order", written(reverse), rich),
        like("elements before vertex", written(rich, before=FACES), rich),
        like("scalar_ prefixes", written(scalar), rich),
        like("float64", written(rich, kind="f8"), rich),
        like("2DGS", written(two), thin, least=40),
        like("SuperSplat's compressed PLY", lambda d: supersplat(d / "a.compressed.ply"), base, least=30),
        shown("one Gaussian", {name: column[:1] for name, column in base.items()}),
        shown("all in one plane", {**base, "z": np.zeros(COUNT)}),
        shown("all in one place", {**base, **{axis: np.zeros(COUNT) for axis in "xyz"}}),
        shown("3.6 m from the origin", {**base, "x": base["x"] + 3.0, "z": base["z"] + 2.0}),
        shown("1 km from the origin, in millimetres", {
            **base, "x": 1000 * base["x"] + 1e6, "y": 1000 * base["y"], "z": 1000 * base["z"],
            **{f"scale_{k}": base[f"scale_{k}"] + math.log(1000) for k in range(3)},
        }),
        Row("splat files", "all transparent", "said", nothing),
    ]  # fmt: skip


# Words


def body_of(text: str, **expected: float) -> Row:
    """A text of which the body is read. expected: what differs from the default body."""

    def run(_: Path) -> str:
        found, default = phenotype_from_text(text), Phenotype()
        got = {
            name: value
            for name, value in vars(found).items()
            if name != "matched" and abs(value - getattr(default, name)) > 1e-6
        }
        words = ", ".join(f"{name} {value:.2f}" for name, value in got.items()) or "the average body"
        # The height of the sexes differs by itself.
        wrong = {name for name in got.keys() | expected.keys() if name != "height" or "height" in expected}
        if any(abs(got.get(name, -1.0) - expected.get(name, -1.0)) > 0.02 for name in wrong):
            raise Unexpected(words)
        return words

    wanted = ", ".join(f"{name} {value:.2f}" for name, value in expected.items()) or "the average body"
    return Row("body", text, wanted, run)


def hair_of(text: str, told: bool) -> Row:
    def run(_: Path) -> str:
        found = told_hair(text, torch.full((3, 64, 64), 0.5))
        got = "none told" if found is None else "told"
        if (found is not None) != told:
            raise Unexpected(got)
        return got

    return Row("hair", text, "told" if told else "none told", run)


def draws(text: str, kept: str) -> Row:
    def run(_: Path) -> str:
        got, _denials = without_denials(text)
        if got != kept:
            raise Unexpected(got)
        return got

    return Row("denials", text, kept, run)


def stops(text: str) -> Row:
    def run(folder: Path) -> str:
        result = specularip("generate", text, "--image", FACE, "--out", folder / "out", timeout=60)
        line = refusal(result, "understood", "--force")
        if (folder / "out").exists():
            raise Unexpected("the folder was made")
        return line[:60] + "..."

    return Row("not understood", text, "stops, names --force", run)


def words() -> list[Row]:
    woman, man = {"gender": 1.0}, {"gender": 0.0}
    return [
        body_of("A woman in a baby blue dress", **woman),
        body_of("A man named Brown", **man),
        body_of("A man called Young, in a suit", **man),
        body_of("A guy in a grandpa sweater", **man),
        body_of("A woman in boyfriend jeans", **woman),
        body_of("A person in a fireman's helmet"),
        body_of("a person in King's red coat"),
        body_of("A woman in a man's shirt", **woman),
        body_of("A woman's silk dress", **woman),
        body_of("A man wearing his grandmother's scarf", **man),
        body_of("An adult woman, not elderly", **woman),
        body_of("A man, not muscular", **man),
        body_of("A man without a baby", **man),
        body_of("A man in a slim tie and a heavy coat", **man),
        body_of("A woman in tall boots", **woman),
        body_of("she’s in jeans", **woman),
        body_of("A policewoman", **woman),
        body_of("Ａ ｗｏｍａｎ ｉｎ ｒｅｄ", **woman),
        body_of("a red-haired woman in green", **woman),
        hair_of("a red-haired woman in green", True),
        hair_of("a woman with long blonde hair", True),
        hair_of("A man named Brown", False),
        hair_of("a man in a brown coat", False),
        hair_of("a woman without red hair", False),
        hair_of("a brown camel hair coat", False),
        draws("a woman without a jacket", "a woman"),
        draws("a man with no shirt, in jeans", "a man, in jeans"),
        draws("a woman in a red dress", "a woman in a red dress"),
        stops("👗👩"),
        stops("一个穿红色缎面连衣裙的女人"),
        stops("asdf qwer"),
    ]


# Photos


@cache
def portrait() -> Image.Image:
    return Image.open(FACE).convert("RGB")


@cache
def eyes() -> np.ndarray:
    """Where the eyes of the portrait are, [2,2], in pixels."""
    face = read_photo(FACE).landmarks
    assert face is not None
    return np.asarray(face.eyes)[:, :2]


def in_glasses(scale: int, dark: bool) -> Image.Image:
    """The portrait in thick glasses; dark: sunglasses."""
    size = portrait().width * scale
    image = portrait().resize((size, size), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    places = eyes() * scale
    apart = float(np.linalg.norm(places[1] - places[0]))
    for x, y in places:
        box = (x - 0.4 * apart, y - 0.3 * apart, x + 0.4 * apart, y + 0.3 * apart)
        draw.ellipse(box, (20, 20, 25) if dark else None, (15, 15, 15), max(2, round(0.07 * apart)))
    draw.line(
        [tuple(places[0]), tuple(places[1])], (15, 15, 15), max(2, round(0.05 * apart))
    ) if dark else None
    return image


def photo(given: str, make: Callable[[Path], tuple[Path, Sequence[float]]], may_refuse: bool = False) -> Row:
    """A photo whose face is found at (x, y), or refused if that may be."""

    def run(folder: Path) -> str:
        path, truth = make(folder)
        try:
            found = read_photo(path)
        except UserError as error:
            if may_refuse and "\n" not in str(error):
                return f"refused: {str(error).replace(str(path), path.name)}"
            raise Unexpected(f"refused: {str(error).replace(str(path), path.name)}") from None
        assert found.landmarks is not None and found.face is not None
        centre = np.asarray(found.landmarks.eyes)[:, :2].mean(0)
        off = float(np.linalg.norm(centre - truth)) / found.face.side
        got = f"a face of {found.face.side:.0f} pixels, eyes {off:.2f} of it from the true ones"
        if off > 0.2:
            raise Unexpected(got)
        return got

    return Row("photos", given, "the face, or a refusal" if may_refuse else "the face", run)


def pasted(width: int, height: int, side: int, folder: Path) -> tuple[Path, Sequence[float]]:
    """The portrait's face, so many pixels wide, in a large photo of something else."""
    scene = Image.effect_noise((width // 40, height // 40), 60).convert("RGB")
    scene = scene.resize((width, height), Image.Resampling.BICUBIC)
    small = portrait().resize((round(side * 5.1),) * 2, Image.Resampling.LANCZOS)  # its face is a fifth
    at = (width * 3 // 5, height // 3)
    scene.paste(small, at)
    scene.save(folder / "photo.jpg", quality=92)
    return folder / "photo.jpg", np.array(at) + eyes().mean(0) * small.width / portrait().width


def photos() -> list[Row]:
    def saved(scale: int, dark: bool, folder: Path) -> tuple[Path, Sequence[float]]:
        in_glasses(scale, dark).save(folder / "photo.png")
        return folder / "photo.png", scale * eyes().mean(0)

    def profiled(folder: Path) -> str:
        in_profile(DISPLAY_P3, 2.2, folder / "p3.png", np.asarray(portrait().convert("RGBA")))
        difference = np.abs(read_photo(folder / "p3.png").pixels.astype(int) - np.asarray(portrait()))
        if difference.mean() > 1.0:
            raise Unexpected(f"colours differ by {difference.mean():.1f} of 255")
        return f"colours differ by {difference.mean():.2f} of 255"

    def landscape(folder: Path) -> str:
        noise = Image.effect_noise((512, 512), 80).filter(ImageFilter.GaussianBlur(3))
        noise.save(folder / "photo.png")
        return refused(lambda: read_photo(folder / "photo.png"), "no face")

    def masked_face(folder: Path) -> tuple[Path, Sequence[float]]:
        """The face is grey: what else looks like one, such as a reflection, must not be taken for it."""
        image, (x, y) = portrait().copy(), eyes().mean(0)
        apart = float(np.linalg.norm(eyes()[1] - eyes()[0]))
        ImageDraw.Draw(image).ellipse(
            (x - 1.4 * apart, y - 1.2 * apart, x + 1.4 * apart, y + 2.2 * apart), (96,) * 3
        )
        image.resize((1024, 1024), Image.Resampling.LANCZOS).save(folder / "photo.png")
        return folder / "photo.png", 2 * eyes().mean(0)

    return [
        photo("glasses, 512 pixels", partial(saved, 1, False)),
        photo("glasses, 1024 pixels", partial(saved, 2, False)),
        photo("sunglasses, 1024 pixels", partial(saved, 2, True), may_refuse=True),
        photo("a face painted over", masked_face, may_refuse=True),
        photo("a face of 100 pixels in 12 megapixels", partial(pasted, 4000, 3000, 100)),
        photo("a face of 60 pixels in 12 megapixels", partial(pasted, 4000, 3000, 60)),
        photo("a face of 60 pixels in 1 megapixel", partial(pasted, 1200, 900, 60)),
        Row("photos", "Display P3", "its colours in sRGB", profiled),
        Row("photos", "no face", "refused", landscape),
    ]


# Fits by the command line, of the same captures


SHORT = ("--iterations", "60", "--points", "800", "--device", "cpu")


def fits() -> list[Row]:
    def anywhere(folder: Path) -> str:
        nerfstudio(folder, shots(), world=ELSEWHERE)
        run = folder / "run"
        success(specularip("fit", folder, "--out", run, *SHORT), "units from the origin")
        shows_something(run, folder)
        success(specularip("eval", run, "--data", folder, "--device", "cpu", "--out", folder / "m.json"))
        quality = json.loads((folder / "m.json").read_text())["psnr"]
        truth = ELSEWHERE.points(made.subject().gaussians.means)
        exported = load(run / "avatar.ply")
        world = exported.placement or HERE
        found = world.points(exported.gaussians.means)
        off = float((found.median(0).values - truth.median(0).values).norm()) / ELSEWHERE.scale
        got = f"a picture of it; eval {quality:.1f} dB; the .ply is {off:.2f} m from the capture's subject"
        if quality < 15 or off > 0.2:
            raise Unexpected(got)
        return got

    def exposed(folder: Path) -> str:
        gains = np.random.default_rng(0).uniform(0.6, 1.0, (10, 1, 1, 3))
        darker = [
            replace(
                shot,
                pixels=np.concatenate([shot.pixels[..., :3] * gain, shot.pixels[..., 3:]], -1).astype(
                    np.uint8
                ),
            )
            for shot, gain in zip(shots(), gains[:, 0])
        ]
        nerfstudio(folder, darker)
        result = specularip("fit", folder, "--out", folder / "run", *SHORT)
        return success(result, "exposure and white balance differ")

    def alike(folder: Path) -> str:
        nerfstudio(folder, shots())
        result = specularip("fit", folder, "--out", folder / "run", *SHORT)
        if "white balance" in result.out + result.err:
            raise Unexpected("compensated")
        return success(result)

    def rigged(folder: Path) -> str:
        nerfstudio(folder, shots(16))
        result = specularip("fit", folder, "--out", folder / "run", "--body", *SHORT, timeout=400)
        success(result)
        picture = folder / "walk.png"
        success(specularip("animate", folder / "run", "--motion", "walk", "--size", "96", "--out", picture))
        if (count := colors_in(picture)) < 50:
            raise Unexpected(f"a picture of {count} colours")
        return "it walks"

    def splats_of(folder: Path) -> Path:
        return made.subject().export(folder / "person.ply")

    def fit_init(folder: Path) -> str:
        nerfstudio(folder, shots(16))
        result = specularip("fit", folder, "--out", folder / "run", "--init", splats_of(folder), *SHORT)
        success(result)
        return shows_something(folder / "run", folder)

    def generate_init(folder: Path) -> str:
        ply, run = splats_of(folder), folder / "run"
        text = "A woman in a red satin dress"
        arguments = ("generate", text, "--image", FACE, "--out", run, "--init", ply, "--set", *QUICK)
        success(specularip(*arguments, timeout=500))
        return shows_something(run, folder)

    return [
        Row("a subject anywhere", "fit, render, eval, .ply", "shown; .ply in the capture's world", anywhere),
        Row("exposure", "gains of 0.6 to 1 a channel", "compensated, said", exposed),
        Row("exposure", "the same in all images", "left alone", alike),
        Row("fit --body", "16 views of a person", "an avatar that walks", rigged),
        Row("fit --init", "a person's .ply, A-pose", "an avatar", fit_init),
        Row("generate --init", "a person's .ply, A-pose", "an avatar", generate_init),
    ]


# The world around


def finished(folder: Path) -> tuple[Path, dict[str, bytes]]:
    """A run folder, and what is in it."""
    run = folder / "run"
    run.mkdir()
    made.subject().save(run / "avatar.safetensors")
    made.write_table(run, {"seed": 0}, "report.json")
    return run, {path.name: path.read_bytes() for path in run.iterdir()}


def keeps(given: str, run: Callable[[Path, Path], str]) -> Row:
    """Something that goes wrong with --overwrite: the finished run stays. run: gets the folder of the input and
    that of the run."""

    def checked(folder: Path) -> str:
        out, before = finished(folder)
        got = run(folder, out)
        after = {name: (out / name).read_bytes() if (out / name).is_file() else b"" for name in before}
        if after != before:
            raise Unexpected(f"the finished run was changed; {got}")
        return got

    return Row("--overwrite", given, "refused or stopped; the old run is whole", checked)


def until_it_runs(out: Path, process: subprocess.Popen[bytes], patience: float = 200.0) -> None:
    """Wait for the first line of metrics."""
    end = time.monotonic() + patience
    while not any(path.stat().st_size for path in out.rglob("metrics.jsonl")):
        if process.poll() is not None or time.monotonic() > end:
            raise Unexpected("the first run did not start")
        time.sleep(0.1)


def long_fit(folder: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "specularip", "fit", str(folder), "--out", str(out), "--device", "cpu"]
    command += ["--iterations", "100000", "--points", "500", *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment({}), **quiet)  # type: ignore[call-overload,no-any-return]


def without_ffmpeg(folder: Path) -> dict[str, str]:
    """imageio-ffmpeg as its wheel is on platforms for which it has no program."""
    package = folder / "shim" / "imageio_ffmpeg"
    package.mkdir(parents=True)
    code = "def get_ffmpeg_exe():\n    raise RuntimeError('No ffmpeg exe could be found.')\n"
    (package / "__init__.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder / "shim"), str(ROOT / "src")]), "PATH": "/nonexistent"}


def world() -> list[Row]:
    generate = ("generate", "A woman", "--image", FACE)

    def number(*options: str, names: str) -> Row:
        return keeps(" ".join(options), lambda d, out: refusal(
            specularip(*generate, "--out", out, "--overwrite", *options), names))  # fmt: skip

    def fit_number(*options: str) -> Row:
        def run(folder: Path, out: Path) -> str:
            nerfstudio(folder, shots())
            return refusal(specularip("fit", folder, "--out", out, "--overwrite", *options), options[0])

        return keeps(" ".join(options), run)

    def drawing(*options: str, names: str) -> Row:
        def run(folder: Path) -> str:
            made.subject().save(folder / "a.safetensors")
            result = specularip("render", folder / "a.safetensors", "--out", folder / "o.png", *options)
            return refusal(result, names)

        return Row("numbers", f"render {' '.join(options)}", "refused", run)

    def killed(folder: Path, out: Path) -> str:
        nerfstudio(folder, shots())
        process = long_fit(folder, out, "--overwrite")
        try:
            until_it_runs(out, process)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        return f"the old avatar of {len(load(out).gaussians)} Gaussians"

    def second(folder: Path) -> str:
        nerfstudio(folder, shots())
        out = folder / "run"
        process = long_fit(folder, out)
        try:
            until_it_runs(out, process)
            lines = [
                refusal(specularip("fit", folder, "--out", out, *SHORT, option), str(out))
                for option in ("--overwrite", "--resume")
            ]
            if process.poll() is not None:
                raise Unexpected("the first run ended")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        success(specularip("fit", folder, "--out", out, *SHORT, "--overwrite"))
        return f"{lines[0].split(' (')[0].replace(str(out), out.name)}; after its end: done"

    def no_ffmpeg(folder: Path) -> str:
        result = specularip(*generate, "--out", folder / "out", "--set", *QUICK, **without_ffmpeg(folder))
        line = refusal(result, "ffmpeg")
        if (folder / "out").exists():
            raise Unexpected("the folder was made")
        return line

    def no_ffmpeg_render(folder: Path) -> str:
        made.subject().save(folder / "a.safetensors")
        video = folder / "o.mp4"
        result = specularip(
            "render", folder / "a.safetensors", "--out", video, IMAGEIO_FFMPEG_EXE="/nonexistent/ffmpeg"
        )
        return refusal(result, "ffmpeg")

    def below_a_file(folder: Path) -> str:
        (folder / "file").write_text("text")
        return refusal(specularip(*generate, "--out", folder / "file" / "out", "--set", *QUICK), "file")

    def tilde(folder: Path) -> str:
        made.subject().save(folder / "a.safetensors")
        success(specularip("render", "~/a.safetensors", "--out=~/o.png", "--size", "64", HOME=str(folder)))
        if not (folder / "o.png").exists():
            raise Unexpected("no picture in the home folder")
        return "in the home folder"

    def no_utf8(folder: Path, **changes: str | None) -> str:
        name = os.fsencode(folder) + b"/caf\xe9"
        made.subject().save(os.fsdecode(name + b".safetensors"))
        result = specularip(
            "render", name + b".safetensors", "--out", name + b".png", "--size", "64", **changes
        )
        success(result)
        if not os.path.exists(name + b".png"):
            raise Unexpected("no picture")
        return "a picture"

    def photo_no_utf8(folder: Path) -> str:
        photo_name = os.fsencode(folder) + b"/caf\xe9.jpg"
        shutil.copy(FACE, photo_name)
        result = specularip(
            "generate", "A woman in a red satin dress, café", "--image", photo_name, "--out", folder / "out",
            "--set", *QUICK, timeout=500, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0",
        )  # fmt: skip
        return success(result)

    def help_in(encoding: str, _: Path) -> str:
        return success(specularip("generate", "--help", PYTHONIOENCODING=encoding))

    def piped(script: str, _: Path) -> str:
        result = shell(script)
        if result.err.strip():
            raise Unexpected(result.err.strip().splitlines()[-1])
        return "quiet"

    def rendered(folder: Path, **changes: str | None) -> str:
        made.subject().save(folder / "a.safetensors")
        picture = folder / "o.png"
        success(specularip("render", folder / "a.safetensors", "--out", picture, "--size", "64", **changes))
        return f"a picture of {colors_in(picture)} colours"

    def fault(debug: bool, folder: Path) -> str:
        """An error of our own, made by breaking a function."""
        code = (
            "import sys\nfrom specularip import cli, exporting\n"
            "def broken(*arguments, **options): raise ValueError('a surprise')\n"
            "exporting.export = broken\n"
            "cli.main(['export', 'a.ply', 'b.ply', *sys.argv[1:]])"
        )
        command = [sys.executable, "-c", code, *(["--debug"] if debug else [])]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment({}), cwd=folder, timeout=120
        )
        lines = done.stderr.strip().splitlines()
        shown = "Traceback" in done.stderr
        if (
            done.returncode != 70
            or shown != debug
            or (not debug and len(lines) != 1)
            or "--debug" not in lines[-1]
        ):
            raise Unexpected(f"exit code {done.returncode}: {lines[-1:]}")
        return "a traceback, then the line" if debug else lines[0].removeprefix("specularip: ")

    c_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    nowhere = {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none", "NUMBA_CACHE_DIR": "/proc/none"}
    settings = """seid.steps=0 seid.points=0 seid.render_size=0 seid.views_per_step=0 scr.refine_batch=0
    scr.orbit_views=2 turntable_frames=0 turntable_size=0 seid.points=1e99 seid.steps=-5""".split()
    return [
        *(number("--set", one, names=one.split("=")[0]) for one in settings),
        number("--photo-weight", "nan", names="--photo-weight"),
        number("--seed", "-1", names="--seed"),
        fit_number("--iterations", "0"),
        fit_number("--points", "0"),
        drawing("--azimuth-deg", "nan", names="--azimuth-deg"),
        drawing("--fov-y-deg", "0", names="--fov-y-deg"),
        drawing("--distance", "inf", names="--distance"),
        drawing("--size", "0", names="--size"),
        drawing("--background", "nan", names="--background"),
        keeps("kill -9 during the new run", killed),
        Row("two runs", "a second one into the first's folder", "refused until the first ends", second),
        Row("no ffmpeg", "generate", "refused before it starts", no_ffmpeg),
        Row("no ffmpeg", "render to .mp4", "refused", no_ffmpeg_render),
        Row("not writable", "generate --out FILE/out", "refused before it starts", below_a_file),
        Row("~", "--out=~/o.png", "in the home folder", tilde),
        Row("encodings", "a file name that is no UTF-8", "a picture", no_utf8),
        Row("encodings", "the same, C locale", "a picture", partial(no_utf8, **c_locale)),
        Row("encodings", "generate: such a photo, café, C locale", "an avatar", photo_no_utf8),
        Row("encodings", "--help, Latin-1", "done", partial(help_in, "latin-1")),
        Row("encodings", "--help, ASCII", "done", partial(help_in, "ascii")),
        Row("streams", "--help | head -1", "quiet", partial(piped, "$S generate --help | head -1")),
        Row("streams", "models | head -1", "quiet", partial(piped, "$S models --quick | head -1")),
        Row("streams", "--version >&-", "quiet", partial(piped, "$S --version >&-")),
        Row("no HOME", "render", "a picture", partial(rendered, HOME=None)),
        Row("caches", "none can be written", "a picture", partial(rendered, **nowhere)),
        Row("a fault of ours", "render", "one line, how to report it", partial(fault, False)),
        Row("a fault of ours", "--debug", "the traceback", partial(fault, True)),
    ]


# The table


GROUPS: dict[str, Callable[[], list[Row]]] = {
    "captures": captures,
    "splats": splats,
    "words": words,
    "photos": photos,
    "world": world,
    "fits": fits,
}
WIDTHS = (19, 40, 36, 70)
"""Of the table's columns: situation, given, expected, got."""


def tried(row: Row, folder: Path) -> tuple[str, bool]:
    """What was got, and whether it was expected."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return row.run(folder), True
    except Unexpected as error:
        return str(error), False
    except Exception as error:  # of the function that is tried: the table says so, and goes on
        return f"{type(error).__name__}: {error}", False


def line_of(*cells: str, ok: str) -> str:
    cut = [
        (cell if len(cell) <= width else cell[: width - 3] + "...").ljust(width)
        for cell, width in zip(cells, WIDTHS)
    ]
    return " | ".join([*cut, ok])


def table_of(names: Sequence[str], keep: Path | None) -> bool:
    """Try the rows of groups, print the table, and whether all were as expected. keep: a folder that keeps the
    inputs; None: they are temporary."""
    good = total = 0
    failed = []
    for name in names:
        began = time.perf_counter()
        print(f"\n{name}\n{line_of('situation', 'given', 'expected', 'got', ok='ok')}")
        for index, row in enumerate(GROUPS[name]()):
            with tempfile.TemporaryDirectory(prefix="specularip-", ignore_cleanup_errors=True) as temporary:
                folder = Path(temporary) if keep is None else keep / f"{name}-{index:02d}"
                folder.mkdir(parents=True, exist_ok=True)
                got, ok = tried(row, folder)
                got = " ".join(got.replace(str(folder), ".").split())
            print(line_of(row.situation, row.given, row.expected, got, ok="yes" if ok else "NO"), flush=True)
            if not ok:
                failed.append(f"{name}: {row.situation}: {row.given}: {got}")
            total, good = total + 1, good + ok
        print(f"{time.perf_counter() - began:.0f} s")
    if failed:
        print("\nnot as expected")
        print("\n".join(failed))
    print(f"\n{good} of {total} as expected")
    return good == total


def main() -> None:
    parser = argparse.ArgumentParser(description="What people bring, and what becomes of it")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--list", action="store_true", help="print the rows, and try none")
    parser.add_argument("--keep", type=Path, help="keep the inputs in this folder")
    parser.add_argument("--fit", type=Path, metavar="SCENE", help="compare two fits of this scene instead")
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("out/inputs"), help="where --fit writes")
    arguments = parser.parse_args()
    if arguments.fit is not None:
        from fit_in_the_wild import compare

        sys.exit(not compare(arguments.fit, arguments.out, arguments.iterations, arguments.points))
    if arguments.list:
        for name in arguments.only:
            for row in GROUPS[name]():
                print(f"{name}: {row.situation}: {row.given} -> {row.expected}")
        return
    sys.exit(not table_of(arguments.only, arguments.keep))


if __name__ == "__main__":
    main()
