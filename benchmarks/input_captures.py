"""Captures as tools and phones write them. Nothing is fitted here, only read."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import made_captures as made
import numpy as np
import torch
from input_rows import (
    Row,
    Unexpected,
    refused,
)
from made_captures import (
    DISPLAY_P3,
    ELSEWHERE,
    FISHEYE,
    HERE,
    OPENCV,
    PINHOLE,
    PORTRAIT,
    PROPHOTO,
    SIZE,
    in_profile,
    nerfstudio,
    shots,
)
from PIL import Image

from specularip.captures.layout import read_capture
from specularip.captures.load import load_posed_images
from specularip.placement import Placement

EXACT, UNDISTORTED, COMPRESSED = 45.0, 34.0, 35.0
"""Least agreement in dB of images that nothing but 8 bits separates from the truth, of those that were
resampled twice, and of JPEG and WebP."""
BROWN = (120, 96, 80)


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
        reads("NeRF-synthetic", "transforms_train.json, no suffixes", "as before", blender, views=10),
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
        reads("a subject anywhere", "y up, centimetres, 3 m off", "read",
              lambda d: nerfstudio(d, shots(), world=ELSEWHERE), world=ELSEWHERE),
        reads("a subject anywhere", "5 km off (UTM)", "read", lambda d: nerfstudio(
            d, shots(), world=replace(HERE, translation=torch.tensor([5e3, -4e3, 70.0]))),
            world=replace(HERE, translation=torch.tensor([5e3, -4e3, 70.0]))),
    ]  # fmt: skip
