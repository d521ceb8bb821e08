"""Every format that is read: an honest file, how it is damaged, and by what it is read.

`benchmarks/damaged_files.py` tries thousands of damaged files of each, `test_damaged_files.py` some.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import captures
import numpy as np
import torch
from avatars import random_avatar
from colour_profiles import profile
from motion_files import CMU, bvh_text, random_turns, smpl_motion, write_amass
from mutations import (
    Damage,
    in_glb,
    in_gzip,
    in_jpeg,
    in_json,
    in_npz,
    in_png,
    in_safetensors,
    in_zip,
    in_zstd,
    mutate,
    spliced,
)
from PIL import Image
from splat_files import columns_of, write
from torch.nn import functional as F

from specularip.avatar import Avatar, load
from specularip.batch.figures import notes_of, read_report, stage_seconds
from specularip.batch.journal import read_events
from specularip.batch.read_jobs import read_jobs
from specularip.body import anny_body
from specularip.camera_path import read_path
from specularip.captures.load import load_posed_images
from specularip.captures.mesh import load_body_mesh, load_points
from specularip.colors import Asgs, HarmonicColors, SphericalBetas
from specularip.diffusion.loading.weights import read_weights
from specularip.errors import UserError, escaped
from specularip.export.glb import write_glb
from specularip.export.glb_skeleton import read_clips
from specularip.export.ply import write_ply
from specularip.export.sog import write_sog
from specularip.export.spz import write_spz
from specularip.faces.image_file import read_image_file
from specularip.gaussians import Binding, Expressions
from specularip.models.check import inspect_file
from specularip.motion.clip import Clip
from specularip.motion.load import load_clip
from specularip.run_folder import RunFolder
from specularip.viewer.pack import pack, unpack

SECONDS, SLACK, RATIO = 10, 200 << 20, 4
"""What the reading of a file may take: time; memory beyond RATIO times the file."""
ACCEPTED, REFUSED, FAULT = "accepted", "refused", "fault"


@dataclass(frozen=True)
class Format:
    """make: writes an honest file, and what else its reader needs, to an empty folder, and returns its path.
    read: what the product does with it; UserError is all that it may raise. damages: taken in turn. chatty:
    the library that reads it prints what is wrong with it to stderr, as libtiff does."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    damages: tuple[Damage, ...] = (mutate,)
    chatty: bool = False


def _avatar(folder: Path, kind: str = "") -> Path:
    """avatar.safetensors of a kind of colours; "" for one with a head."""
    avatar = random_avatar(with_head=not kind)
    count = len(avatar.gaussians)
    colors: Any = None
    if kind == "asg":
        colors = _asgs(count)
    elif kind == "betas":
        colors = SphericalBetas(0.2 * torch.randn(count, 4, 3), torch.randn(count, 2, 6))
    elif kind == "harmonics":
        colors = HarmonicColors(0.2 * torch.randn(count, 16, 3))
    expressions = Expressions(("smile",), torch.arange(5), torch.randn(1, 5, 3))
    path = folder / "avatar.safetensors"
    Avatar(
        avatar.gaussians,
        avatar.head,
        avatar.provenance,
        avatar.binding,
        colors=colors,
        expressions=expressions,
    ).save(path)
    return path


def _asgs(count: int) -> Asgs:
    lobes = [torch.randn(count, 4, 3) for _ in range(3)]
    lobes[1][..., [0, 2]] = lobes[1][..., [0, 2]].abs() + 0.1
    return Asgs(F.normalize(torch.randn(count, 4), dim=-1), torch.randn(count, 10, 3), *lobes)


def _splats(kind: str, folder: Path) -> Path:
    """A file of Gaussians for other programs."""
    avatar = random_avatar()
    cloud, count = avatar.gaussians, len(avatar.gaussians)
    harmonics = HarmonicColors(0.2 * torch.randn(count, 16, 3))
    path = folder / f"sound.{kind.split()[0]}"
    if kind == "ply":
        write_ply(path, cloud, harmonics)
    elif kind == "ply lobes":
        write_ply(path, cloud, SphericalBetas(0.2 * torch.randn(count, 1, 3), torch.randn(count, 2, 6)))
    elif kind == "ply compressed":
        path.write_bytes(_compressed_ply())
    elif kind == "ply text":
        write(path, columns_of(40, 0, 1), "")
    elif kind == "ply elements":  # of the other byte order
        before = "element face 3\nproperty list uchar int corners\nproperty uchar flags\n"
        uneven = b"".join(bytes([n]) + bytes(4 * n + 1) for n in (3, 0, 4))
        write(path, columns_of(40, 0, 4), ">", before=(before, uneven))
    elif kind == "ply cloudcompare":  # of 2DGS, with infinite numbers and plain colours
        columns = {name: c for name, c in columns_of(40, 0).items() if name[:4] not in ("f_dc", "scale_2")}
        columns["opacity"][::3], columns["scale_0"][::5] = np.inf, -np.inf
        columns = {name if name in "xyz" else f"scalar_{name}": column for name, column in columns.items()}
        plain = {name: np.full(40, 99, np.uint8) for name in ("red", "green", "blue")}
        write(path, columns | plain, kind="f8")
    elif kind == "spz":
        write_spz(path, cloud, harmonics)
    elif kind == "spz 4":
        write_spz(path, cloud, harmonics, version=4)
    elif kind == "sog":
        write_sog(path, cloud, harmonics)
    else:
        clip = Clip(
            "wave",
            24.0,
            ("root", "hip", "knee"),
            F.normalize(torch.randn(5, 3, 4), dim=-1),
            torch.randn(5, 3),
        )
        write_glb(path, cloud, harmonics, asgs=_asgs(count), binding=avatar.binding, clips=[clip])
    return path


def _compressed_ply() -> bytes:
    """SuperSplat's: 300 Gaussians in two chunks, with harmonics of degree 1."""
    limits = [f"{side}_{name}" for name in ("x", "y", "z", "scale_x", "scale_y", "scale_z", "r", "g", "b")
              for side in ("min", "max")]  # fmt: skip
    packed = [f"packed_{name}" for name in ("position", "rotation", "scale", "color")]
    lines = ["ply", "format binary_little_endian 1.0", "element chunk 2"]
    lines += [f"property float {name}" for name in limits] + ["element vertex 300"]
    lines += [f"property uint {name}" for name in packed] + ["element sh 300"]
    lines += [f"property uchar f_rest_{k}" for k in range(9)] + ["end_header", ""]
    numbers = torch.tensor([-1.0, 1.0] * 9).repeat(2).numpy().astype("<f4").tobytes()
    noise = torch.randint(0, 256, (300 * 25,), dtype=torch.uint8).numpy().tobytes()
    return "\n".join(lines).encode() + numbers + noise


def read_avatar(path: Path) -> None:
    """As every command reads one, with what `animate` reads of a .glb."""
    avatar = load(path)
    if path.suffix == ".glb" and avatar.binding is not None:
        read_clips(path)
    tensors = avatar.gaussians.tensors() | (avatar.colors.tensors() if avatar.colors else {})
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    assert len(avatar.gaussians) > 0


def _pack(folder: Path) -> Path:
    avatar = random_avatar()
    data = pack(avatar.gaussians, _asgs(len(avatar.gaussians)), binding=avatar.binding, meta={"text": "a"})
    path = folder / "avatar.pack"
    path.write_bytes(data)
    return path


def _read_pack(path: Path) -> None:
    unpack(path.read_bytes())


def _photo(suffix: str, folder: Path, size: tuple[int, int] = (64, 80), **options: Any) -> Path:
    """A photo of a smooth picture, with EXIF orientation and a colour profile."""
    across, down = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    pixels = np.stack([across, down, across * down], -1) * 255
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    path = folder / f"photo.{suffix}"
    more: dict[str, Any] = (
        {} if suffix in ("gif", "bmp") else {"exif": exif.tobytes(), "icc_profile": profile(None, 2.2)}
    )
    Image.fromarray(pixels.astype(np.uint8)).save(path, **more, **options)
    return path


def _deep_png(folder: Path) -> Path:
    """16 bits of grey, interlaced by no one: Pillow writes none."""
    path = folder / "photo.png"
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16).save(path)
    return path


def _float_tiff(folder: Path) -> Path:
    path = folder / "photo.tiff"
    values = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    Image.fromarray(values).save(path, compression="tiff_lzw")
    return path


def _capture(folder: Path) -> Path:
    """A NeRF-synthetic folder of three images, each in a format of its own, with masks; its JSON."""
    captures.write(folder, count=3)
    table = json.loads((folder / "transforms_train.json").read_text())
    for index, suffix in enumerate(("png", "jpg", "webp")):
        with Image.open(folder / "train" / f"r_{index}.png") as image:
            picture = image.convert("RGB")
        (folder / "train" / f"r_{index}.png").unlink()
        picture.save(folder / "train" / f"r_{index}.{suffix}")
        table["frames"][index]["file_path"] = f"train/r_{index}.{suffix}"
        table["frames"][index]["mask_path"] = f"masks/r_{index}.png"
        mask = np.zeros((captures.HEIGHT, captures.WIDTH), np.uint8)
        mask[4:14, 6:18] = 255
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / "masks" / f"r_{index}.png")
    table |= {"w": captures.WIDTH, "h": captures.HEIGHT, "k1": 0.01, "aabb_scale": 4}
    captures.save(folder, table)
    return folder / "transforms_train.json"


def _beside(make: Callable[[Path], Path], name: str) -> Callable[[Path], Path]:
    """Another file of the folder that `make` writes."""

    def other(folder: Path) -> Path:
        make(folder)
        return folder / name

    return other


def _colmap(end: str, name: str, folder: Path) -> Path:
    """A reconstruction of three images and 20 points, in binary or text; one of its files."""
    captures.write(folder, count=3)
    (folder / "train").rename(folder / "images")
    (folder / "transforms_train.json").unlink()
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    views = captures.orbit(3).viewmats.double().numpy()
    points = np.random.default_rng(0).normal(size=(20, 3)) * 0.2
    files: dict[str, bytes] = {}
    if end == "bin":
        camera = struct.pack("<QIiQQ4d", 1, 1, 1, captures.WIDTH, captures.HEIGHT, 32.9, 32.9, 12, 9)
        images = struct.pack("<Q", 3)
        for index, view in enumerate(views):
            images += struct.pack("<I7dI", index + 1, *_quaternion(view), *view[:3, 3], 1)
            images += f"r_{index}.png".encode() + b"\0" + struct.pack("<Q2dq", 1, 3.5, 4.5, 1)
        cloud = struct.pack("<Q", 20)
        for index, point in enumerate(points):
            cloud += struct.pack("<Q3d3BdQ2I", index, *point, 200, 100, 50, 0.1, 1, 1, 0)
        files = {"cameras": camera, "images": images, "points3D": cloud}
    else:
        size = f"{captures.WIDTH} {captures.HEIGHT}"
        files["cameras"] = f"# cameras\n1 OPENCV {size} 32.9 32.9 12 9 0.01 0 0 0\n".encode()
        rows = []
        for index, view in enumerate(views):
            numbers = " ".join(f"{x:.8f}" for x in (*_quaternion(view), *view[:3, 3]))
            rows.append(f"{index + 1} {numbers} 1 r_{index}.png\n3.5 4.5 1\n")
        files["images"] = "".join(rows).encode()
        rows = [f"{k} {p[0]:.6f} {p[1]:.6f} {p[2]:.6f} 200 100 50 0.1 1 0\n" for k, p in enumerate(points)]
        files["points3D"] = "".join(rows).encode()
    for stem, data in files.items():
        (model / f"{stem}.{end}").write_bytes(data)
    return model / f"{name}.{end}"


def _quaternion(view: np.ndarray) -> np.ndarray:
    """wxyz of a rotation whose w is not 0, as orbits have."""
    w = np.sqrt(max(1 + np.trace(view[:3, :3]), 1e-9)) / 2
    m = view[:3, :3]
    return np.array([w, *(np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]) / (4 * w))])


def _read_capture(root: str, path: Path) -> None:
    """As `fit` reads a folder of images; root: from the damaged file to that folder."""
    folder = path.parent / root
    load_posed_images(folder)
    load_points(folder)
    load_body_mesh(folder)


def _body_mesh(folder: Path) -> Path:
    body = np.random.default_rng(0).normal(size=(30, 3))
    faces = np.random.default_rng(1).integers(0, 30, (50, 3))
    np.savez(folder / "body.npz", v=body, f=faces)
    return folder / "body.npz"


def _amass(folder: Path) -> Path:
    poses, moved = smpl_motion("walk", 22, 10)
    return write_amass(folder / "walk.npz", poses, moved)


def _bvh(folder: Path) -> Path:
    turns = random_turns(6, len(CMU), 0)
    moved = np.tile([0.0, 17.0, 0.0], (6, 1))
    path = folder / "walk.bvh"
    path.write_text(bvh_text(CMU, turns, moved))
    return path


def _read_motion(path: Path) -> None:
    load_clip(str(path), _binding())


_bindings: list[Binding] = []


def _binding() -> Binding:
    """The body's skeleton, read once."""
    if not _bindings:
        body = anny_body()
        _bindings.append(Binding(list(body.joint_names), list(body.joint_parents), body.joints))
    return _bindings[0]


def _camera_path(folder: Path) -> Path:
    frames = [
        {"time": 0, "azimuth_deg": 0, "distance": 2.5},
        {"time": 2, "azimuth_deg": 90, "target": [0, 0, 1]},
    ]
    path = folder / "path.json"
    path.write_text(json.dumps({"fps": 24, "keyframes": frames}))
    return path


def _read_path(path: Path) -> None:
    start = {"azimuth_deg": 0.0, "elevation_deg": 0.0, "distance": 2.0, "fov_y_deg": 40.0}
    read_path(path, start | {"x": 0.0, "y": 0.0, "z": 0.0}, 30.0)


def _torch_weights(folder: Path) -> Path:
    path = folder / "model.bin"
    torch.save({"a": torch.randn(8, 8), "b": torch.arange(5)}, path)
    return path


def _small_weights(folder: Path) -> Path:
    from safetensors.torch import save_file

    path = folder / "model.safetensors"
    save_file({"a": torch.randn(8, 8), "b": torch.arange(5)}, path)
    return path


def _read_weights(path: Path) -> None:
    inspect_file(path)
    read_weights(path)


def _json_file(make: Callable[[Path], Path], read: Callable[[Path], object]) -> Format:
    return Format(make, read, (in_json, mutate))


def _image(suffix: str, *damages: Damage, **options: Any) -> Format:
    return Format(partial(_photo, suffix, **options), read_image_file, (mutate, *damages))


JPEG = io.BytesIO()
Image.new("RGB", (32, 32), (9, 99, 199)).save(JPEG, "JPEG")
_in_capture = partial(_read_capture, "..")


def _jobs(suffix: str, folder: Path) -> Path:
    """A file of jobs and their photos."""
    for name in ("anna.png", "bo.png"):
        Image.new("RGB", (64, 64), (90, 120, 30)).save(folder / name)
    rows = [
        {"name": "anna", "text": "A woman, in red", "image": "anna.png", "seed": "3"},
        {"name": "bo", "text": 'A man with a "tall" hat', "image": "bo.png", "seed": "4"},
    ]
    path = folder / f"jobs.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        path.write_text("".join(f"- {json.dumps(row)}\n" for row in rows))  # YAML's flow style
    return path


def _report(folder: Path) -> Path:
    path = folder / "report.json"
    times = {"seconds": {"seid": 3.5, "scr": 6.0}, "peak_memory": 123456789}
    path.write_text(json.dumps({"prompt": "a", "gaussians": 150, "notes": ["a line"], **times}))
    return path


def _read_report(path: Path) -> None:
    report = read_report(path)
    if report is None:
        raise UserError("no report")
    notes_of(report), stage_seconds(report)


def _journal(folder: Path) -> Path:
    events = [
        {"job": f"a{k}", "event": event, "digest": "x", "attempt": 1, "worker": "node-1"}
        for k in range(4)
        for event in ("begun", "done")
    ]
    path = folder / "batch.jsonl"
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    return path


def _read_journal(path: Path) -> None:
    if not read_events(path.read_bytes()):
        raise UserError("no events")


def _checkpoint(folder: Path) -> Path:
    """A run's folder with one checkpoint, of a nested state as training has it."""
    avatar = random_avatar()
    assert avatar.head is not None
    tensors = avatar.head.state_dict()
    moments = {name: {"step": 5, "moments": (tensor, 0.5)} for name, tensor in tensors.items()}
    state = {"params": avatar.gaussians.tensors(), "optimizer": moments, "order": [3, 1, 2]}
    meta = {"step": 5, "inputs": {"text": "a"}, "seconds": {"seid": 3.5}}
    return RunFolder(folder).save_checkpoint("seid-0005", state, meta)


def _read_checkpoint(path: Path) -> None:
    if RunFolder(path.parents[1]).load_checkpoint() is None:
        raise UserError("no checkpoint is whole")


_TENSORS = (mutate, in_safetensors, in_safetensors)
FORMATS: Mapping[str, Format] = {
    "avatar": Format(_avatar, read_avatar, _TENSORS),
    **{
        f"baked, {kind}": Format(partial(_avatar, kind=kind), read_avatar, _TENSORS)
        for kind in ("asg", "betas", "harmonics")
    },
    **{
        kind.replace("ply ", "ply, "): Format(partial(_splats, kind), read_avatar)
        for kind in ("ply", "ply lobes", "ply compressed", "ply text", "ply elements", "ply cloudcompare")
    },
    "spz 3": Format(partial(_splats, "spz"), read_avatar, (mutate, in_gzip())),
    "spz 4": Format(partial(_splats, "spz 4"), read_avatar, (mutate, in_zstd)),
    "sog": Format(partial(_splats, "sog"), read_avatar, (mutate, in_zip(in_json), in_zip(in_json))),
    "glb": Format(partial(_splats, "glb"), read_avatar, (mutate, in_glb, in_glb)),
    "viewer's pack": Format(_pack, _read_pack, (mutate, in_gzip(), in_gzip())),
    "photo, png": _image("png", in_png, in_png, spliced(JPEG.getvalue())),
    "photo, png of 16 bits": Format(_deep_png, read_image_file, (mutate, in_png, in_png)),
    "photo, jpeg": _image("jpg", in_jpeg, in_jpeg, spliced(JPEG.getvalue())),
    "photo, progressive jpeg": _image("jpg", in_jpeg, progressive=True),
    "photo, webp": _image("webp"),
    "photo, lossless webp": _image("webp", lossless=True),
    "photo, avif": _image("avif", speed=10),
    "photo, tiff": Format(partial(_photo, "tiff"), read_image_file, chatty=True),
    "photo, tiff of floats": Format(_float_tiff, read_image_file, chatty=True),
    "photo, gif": _image("gif"),
    "photo, bmp": _image("bmp"),
    "photo, jpeg 2000": _image("jp2"),
    "transforms.json": _json_file(_capture, partial(_read_capture, ".")),
    "capture, png": Format(_beside(_capture, "train/r_0.png"), _in_capture, (mutate, in_png, in_png)),
    "capture, jpeg": Format(_beside(_capture, "train/r_1.jpg"), _in_capture, (mutate, in_jpeg)),
    "capture, webp": Format(_beside(_capture, "train/r_2.webp"), _in_capture),
    "capture, mask": Format(_beside(_capture, "masks/r_0.png"), _in_capture, (mutate, in_png, in_png)),
    **{
        f"colmap, {name}.{end}": Format(partial(_colmap, end, name), partial(_read_capture, "../.."))
        for end in ("bin", "txt")
        for name in ("cameras", "images", "points3D")
    },
    "body.npz": Format(_body_mesh, lambda path: load_body_mesh(path.parent), (mutate, in_npz, in_npz)),
    "amass": Format(_amass, _read_motion, (mutate, in_npz, in_npz)),
    "bvh": Format(_bvh, _read_motion),
    "camera path": _json_file(_camera_path, _read_path),
    "weights, safetensors": Format(_small_weights, _read_weights, _TENSORS),
    "weights, torch": Format(_torch_weights, _read_weights, (mutate, in_zip())),
    "checkpoint": Format(_checkpoint, _read_checkpoint, _TENSORS),
    "jobs, csv": Format(partial(_jobs, "csv"), read_jobs),
    "jobs, jsonl": Format(partial(_jobs, "jsonl"), read_jobs),
    "jobs, yaml": Format(partial(_jobs, "yaml"), read_jobs),
    "report.json": _json_file(_report, _read_report),
    "batch.jsonl": Format(_journal, _read_journal),
}


@dataclass(frozen=True)
class Trial:
    """What came of a file. message: why it was refused, or what is wrong."""

    outcome: str
    message: str
    seconds: float
    memory: int


def fresh_peak() -> int:
    """Forgets the largest size that this process had; bytes of its present size."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Bytes, the most that this process had in memory. Not `ru_maxrss`, which begins with the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def damaged(name: str, sound: bytes, number: int) -> bytes:
    """The file of a trial."""
    damages = FORMATS[name].damages
    return damages[number % len(damages)](sound, number // len(damages))


def read(name: str, path: Path) -> str:
    """What is said of a file, "" if it is accepted. All else is raised, and TimeoutError after SECONDS."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning that is not ours would be a second, puzzling line
            warnings.filterwarnings("ignore", message=re.escape(f"{path}: "))  # ours
            FORMATS[name].read(path)
        return ""
    except UserError as error:
        said = str(error).replace(str(path), "FILE").replace(str(path.parent), "FOLDER")
        if said != escaped(said) or len(said) > 600 or not said:
            raise AssertionError(f"not one clean line: {said[:2000]!r}") from None
        return said
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def trial(name: str, path: Path, data: bytes, printed: int) -> Trial:
    """What comes of a file of this format with these bytes, written to `path`. printed: a file that stdout
    and stderr go to."""
    path.write_bytes(data)
    names = sorted(path.parent.rglob("*"))
    before, start = fresh_peak(), time.perf_counter()
    try:
        message = read(name, path)
        outcome = REFUSED if message else ACCEPTED
    except Exception as error:
        outcome, message = FAULT, f"{_place(error)} {type(error).__name__}: {error}"
    seconds, memory = time.perf_counter() - start, max(0, peak() - before)  # the kernel counts in batches
    if outcome != FAULT:
        sys.stdout.flush()
        if seconds > SECONDS:
            outcome, message = FAULT, f"{seconds:.1f} s"
        elif memory > RATIO * len(data) + SLACK:
            outcome, message = FAULT, f"{memory >> 20} MB of memory for {len(data)} bytes"
        elif sorted(path.parent.rglob("*")) != names or path.read_bytes() != data:
            outcome, message = FAULT, "it has written to the folder"
        elif os.fstat(printed).st_size and not FORMATS[name].chatty:
            outcome, message = FAULT, f"it has printed {os.pread(printed, 200, 0)!r}"
    os.ftruncate(printed, 0)
    os.lseek(printed, 0, os.SEEK_SET)
    return Trial(outcome, message, seconds, memory)


def _place(error: BaseException) -> str:
    """The innermost line of ours that an error has passed."""
    frame, place = error.__traceback__, ""
    while frame is not None:
        file = Path(frame.tb_frame.f_code.co_filename)
        if "specularip" in file.parts:
            place = f"{file.name}:{frame.tb_lineno}"
        frame = frame.tb_next
    return place


def trials_elsewhere(files: Sequence[tuple[str, Path]]) -> list[Trial]:
    """What comes of files, each with its format, in another process."""
    command = [sys.executable, __file__, *(str(word) for file in files for word in file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return [Trial(*found) for found in json.loads(done.stdout)]


def main() -> None:
    results = os.dup(1)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        found = []
        for name, path in zip(sys.argv[1::2], map(Path, sys.argv[2::2])):
            with tempfile.TemporaryDirectory() as folder:  # what is loaded once is not the file's
                FORMATS[name].read(FORMATS[name].make(Path(folder)))
            found.append(trial(name, path, path.read_bytes(), printed.fileno()))
    os.write(results, json.dumps([dataclasses.astuple(one) for one in found]).encode())


if __name__ == "__main__":
    main()
