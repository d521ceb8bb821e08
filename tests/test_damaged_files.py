"""Damaged avatar files: an avatar or one line, whatever happened to them.

`python tests/test_damaged_files.py 10000` tries as many of each format and prints what came of them.
"""

from __future__ import annotations

import gzip
import io
import json
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from avatars import random_avatar
from mutations import mutate
from PIL import Image
from splat_files import columns_of, write
from torch.nn import functional as F

from specularip.avatar import Avatar, load
from specularip.colors import Asgs, HarmonicColors, SphericalBetas
from specularip.errors import UserError
from specularip.export.glb import write_glb
from specularip.export.glb_skeleton import read_clips
from specularip.export.ply import write_ply
from specularip.export.sog import write_sog
from specularip.export.spz import write_spz
from specularip.gaussians import Expressions, Gaussians
from specularip.motion.clip import Clip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
SECONDS = 10
SLACK = 200 << 20
"""Bytes that a reader may take beyond four times the file's honest size."""


def _plain(data: bytes, seed: int) -> bytes:
    return mutate(data, seed)


def _in_gzip(data: bytes, seed: int) -> bytes:
    return gzip.compress(mutate(gzip.decompress(data), seed), 1)


def _in_zip(data: bytes, seed: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as sound, zipfile.ZipFile(out, "w") as archive:
        names = sound.namelist()
        for index, name in enumerate(names):
            content = sound.read(name)
            # Every second time the JSON, which says how to read all else.
            hit = index == 0 if seed % 2 else seed // 2 % len(names) == index
            archive.writestr(name, mutate(content, seed) if hit else content)
    return out.getvalue()


def _in_zstd(data: bytes, seed: int) -> bytes:
    """SPZ 4 with one stream damaged, and a table that fits it every second time."""
    import zstandard

    number, table = data[15], struct.unpack_from("<I", data, 16)[0]
    position, streams = table + 16 * number, []
    for index in range(number):
        packed, _ = struct.unpack_from("<QQ", data, table + 16 * index)
        streams.append(zstandard.ZstdDecompressor().decompress(data[position : position + packed]))
        position += packed
    hit = seed % number
    size = len(streams[hit])
    streams[hit] = mutate(streams[hit], seed)
    if seed // number % 2:
        streams[hit] = streams[hit][:size].ljust(size, b"\7")
    packed_streams = [zstandard.ZstdCompressor(level=1).compress(stream) for stream in streams]
    rows = [struct.pack("<QQ", len(a), len(b)) for a, b in zip(packed_streams, streams)]
    return data[:table] + b"".join(rows) + b"".join(packed_streams)


def _in_json(start: int) -> Callable[[bytes, int], bytes]:
    """Damages JSON whose length is stored before it at `start`; the length is corrected."""

    def damage(data: bytes, seed: int) -> bytes:
        form = "<Q" if start == 0 else "<I"
        length = struct.unpack_from(form, data, start)[0]
        body = 8 + start
        text = mutate(data[body : body + length], seed)
        text += b" " * (-len(text) % 8)
        after = data[body + length :]
        if start == 0:
            return struct.pack("<Q", len(text)) + text + after
        total = struct.pack("<I", body + len(text) + len(after))
        return data[:8] + total + struct.pack("<I", len(text)) + data[16:20] + text + after

    return damage


FORMS: dict[str, tuple[str, Callable[[bytes, int], bytes]]] = {
    "ply": (".ply", _plain),
    "ply with lobes": (".ply", _plain),
    "compressed ply": (".ply", _plain),
    "ply in text": (".ply", _plain),
    "ply with other elements": (".ply", _plain),
    "ply of cloudcompare": (".ply", _plain),
    "spz 3": (".spz", _plain),
    "spz 3 unpacked": (".spz", _in_gzip),
    "spz 4": (".spz", _plain),
    "spz 4 unpacked": (".spz", _in_zstd),
    "sog": (".sog", _plain),
    "sog unpacked": (".sog", _in_zip),
    "glb": (".glb", _plain),
    "glb json": (".glb", _in_json(12)),
    "safetensors": (".safetensors", _plain),
    "safetensors header": (".safetensors", _in_json(0)),
}
"""Suffix, and how the bytes are damaged: as they are, or what they hold once unpacked."""


def sound(form: str, folder: Path) -> bytes:
    """A file without damage."""
    torch.manual_seed(0)
    avatar = random_avatar(with_head=form == "safetensors")
    cloud, count = avatar.gaussians, len(avatar.gaussians)
    harmonics = HarmonicColors(0.2 * torch.randn(count, 16, 3))
    path = folder / f"sound{FORMS[form][0]}"
    if form == "ply":
        write_ply(path, cloud, harmonics)
    elif form == "ply with lobes":
        write_ply(path, cloud, SphericalBetas(0.2 * torch.randn(count, 1, 3), torch.randn(count, 2, 6)))
    elif form == "compressed ply":
        path.write_bytes(_compressed_ply())
    elif form == "ply in text":
        write(path, columns_of(40, 0, 1), "")
    elif form == "ply with other elements":
        before = "element face 3\nproperty list uchar int corners\nproperty uchar flags\n"
        uneven = b"".join(bytes([n]) + bytes(4 * n + 1) for n in (3, 0, 4))
        write(path, columns_of(40, 0, 4), ">", before=(before, uneven))
    elif form == "ply of cloudcompare":  # of 2DGS, with infinite numbers and plain colours
        columns = {name: c for name, c in columns_of(40, 0).items() if name[:4] not in ("f_dc", "scale_2")}
        columns["opacity"][::3], columns["scale_0"][::5] = np.inf, -np.inf
        columns = {name if name in "xyz" else f"scalar_{name}": column for name, column in columns.items()}
        write(
            path, columns | {name: np.full(40, 99, np.uint8) for name in ("red", "green", "blue")}, kind="f8"
        )
    elif form.startswith("spz"):
        if "4" in form:
            pytest.importorskip("zstandard", reason="SPZ version 4 needs the zstandard package")
        write_spz(path, cloud, harmonics, version=4 if "4" in form else 3)
    elif form.startswith("sog"):
        write_sog(path, cloud, harmonics)
    elif form.startswith("glb"):
        lobes = [torch.randn(count, 4, 3) for _ in range(3)]
        asgs = Asgs(F.normalize(torch.randn(count, 4), dim=-1), torch.randn(count, 10, 3), *lobes)
        turns = F.normalize(torch.randn(5, 3, 4), dim=-1)
        clip = Clip("wave", 24.0, tuple(avatar.binding.joint_names), turns, torch.randn(5, 3))
        write_glb(path, cloud, harmonics, asgs=asgs, binding=avatar.binding, clips=[clip])
    else:
        expressions = Expressions(("smile",), torch.arange(5), torch.randn(1, 5, 3))
        colors = None if avatar.head is not None else harmonics
        Avatar(
            cloud, avatar.head, avatar.provenance, avatar.binding, colors=colors, expressions=expressions
        ).save(path)
    return path.read_bytes()


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


def outcome(path: Path) -> str:
    """ "read", or the message of the UserError. All else is raised, and TimeoutError after some seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"{path} takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning that is not ours would be a second, puzzling line
            warnings.filterwarnings("ignore", message=".*damaged\\.")
            avatar = load(path)
            if path.suffix == ".glb" and avatar.binding is not None:
                read_clips(path)
        tensors = avatar.gaussians.tensors() | (avatar.colors.tensors() if avatar.colors else {})
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
        assert len(avatar.gaussians) > 0
        return "read"
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 600, str(error)[:2000]
        return str(error).replace(str(path), "FILE")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fresh_peak() -> int:
    """Forgets the largest size that this process had; bytes of its present size."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Bytes, the most that this process had in memory. Not `ru_maxrss`, which begins with the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def try_all(form: str, seeds: range, folder: Path) -> Counter[str]:
    """What came of each seed's file; the damaged file stays in the folder if something was raised."""
    suffix, damage = FORMS[form]
    data = sound(form, folder)
    path = folder / f"damaged{suffix}"
    path.write_bytes(data)
    assert outcome(path) == "read"
    found: Counter[str] = Counter()
    for seed in seeds:
        path.write_bytes(damage(data, seed))
        try:
            found[outcome(path)] += 1
        except Exception as error:
            raise AssertionError(f"{form}, seed {seed}: {error!r}") from error
    return found


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_give_an_avatar_or_one_line(form: str, tmp_path: Path, seed: int) -> None:
    before = fresh_peak()
    first = seed % 10_000 * 1000
    found = try_all(form, range(first, first + 300), tmp_path)
    assert found["read"] < 300, "most damage does harm"
    assert peak() - before < SLACK


def read_elsewhere(paths: list[Path]) -> list[tuple[str, int]]:
    """What came of files in another process, and the bytes by which each made it grow."""
    command = [sys.executable, __file__, "--read", *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [tuple(found) for found in json.loads(done.stdout)]


def greedy_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Small files that claim to be large, and what is said of each."""
    ply, sog = sound("ply", folder), sound("sog", folder)
    header = struct.pack("<IIIBBBB", 0x5053474E, 3, 50_000_000, 3, 12, 0, 0)
    coder = zlib.compressobj(9, wbits=31)
    bomb = b"".join([coder.compress(header), *(coder.compress(bytes(2**20)) for _ in range(800))])
    text = json.dumps({"specularip": "x"}).encode()
    claims = json.dumps({"a": {"dtype": "F32", "shape": [2**28], "data_offsets": [0, 2**30]}}).encode()
    zeros = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sog)) as archive, zipfile.ZipFile(zeros, "w", 8) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name) if name == "meta.json" else bytes(10**8))
    many = ply.replace(b"element vertex 150", b"element vertex 1099511627776")
    return {
        "many.ply": (many, "cut short"),
        "wide.ply": (ply.replace(b"property float nx\n", b"property float nx\n" * 4000), "no end|twice"),
        "bomb.spz": (bomb + coder.flush(), "claims 50000000 Gaussians"),
        "bomb.sog": (zeros.getvalue(), "too large"),
        "header.safetensors": (struct.pack("<Q", 2**30) + text, "damaged or cut short"),
        "tensor.safetensors": (struct.pack("<Q", len(claims)) + claims, "damaged or cut short"),
    }


def test_files_that_claim_to_be_large(tmp_path: Path) -> None:
    files = greedy_files(tmp_path)
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    outcomes = read_elsewhere([tmp_path / name for name in files])
    for (name, (data, message)), (found, grown) in zip(files.items(), outcomes, strict=True):
        assert any(part in found for part in message.split("|")), f"{name}: {found}"
        assert grown < 4 * len(data) + SLACK, f"{name}: {grown >> 20} MB"


def test_memory_of_sound_files(tmp_path: Path) -> None:
    """100 thousand Gaussians: honest is what they take as float32."""
    cloud = random_avatar(with_head=False).gaussians
    cloud = cloud.select(torch.arange(100_000) % len(cloud))
    avatar = Avatar(cloud, colors=HarmonicColors(0.2 * torch.randn(100_000, 16, 3)))
    paths = [tmp_path / f"a{suffix}" for suffix in (".ply", ".spz", ".sog", ".glb", ".safetensors")]
    for path in paths:
        avatar.export(path)
    for path, (found, grown) in zip(paths, read_elsewhere(paths), strict=True):
        assert found == "read" and grown < 4 * (4 * 59 * 100_000) + SLACK, f"{path}: {grown >> 20} MB"


@pytest.mark.parametrize("suffix", [".ply", ".spz", ".sog", ".glb"])
def test_rows_with_nan_are_left_out_counted_and_said(suffix: str, tmp_path: Path, seed: int) -> None:
    cloud = random_avatar(with_head=False).gaussians
    path = tmp_path / f"a{suffix}"
    if suffix in (".ply", ".glb"):
        cloud.means[3, 0], cloud.quats[9] = 123.4375, 0
        (write_ply if suffix == ".ply" else write_glb)(path, cloud)
        data = path.read_bytes().replace(struct.pack("<f", 123.4375), struct.pack("<f", torch.nan))
    elif suffix == ".spz":  # version 1 has half floats
        body = struct.pack("<6e", 0, float("nan"), 0, 1, 2, 3) + bytes(2 + 6) + bytes([160] * 6 + [128] * 6)
        data = gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, 1, 2, 0, 0, 0, 0) + body)
    else:  # SOG has no NaN, but rotations of no kind
        data = _sog_without_a_tag(cloud, path)
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"\d of \d+ Gaussians left out"):
        avatar = load(path)
    left_out = {".ply": 2, ".glb": 2, ".spz": 1, ".sog": 2}[suffix]
    assert len(avatar.gaussians) == (2 if suffix == ".spz" else len(cloud)) - left_out
    assert bool(avatar.gaussians.means.isfinite().all()), f"seed {seed}"


def _sog_without_a_tag(cloud: Gaussians, path: Path) -> bytes:
    write_sog(path, cloud)
    out = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "quats.webp":
                image = np.asarray(Image.open(io.BytesIO(content))).copy()
                image[0, :2, 3] = 9
                data = io.BytesIO()
                Image.fromarray(image).save(data, "WEBP", lossless=True, exact=True)
                content = data.getvalue()
            other.writestr(name, content)
    return out.getvalue()


def main() -> None:
    if sys.argv[1:2] == ["--read"]:
        found = []
        for path in map(Path, sys.argv[2:]):
            before = fresh_peak()
            found.append((outcome(path), peak() - before))
        print(json.dumps(found))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for form in sys.argv[2:] or FORMS:
        before = fresh_peak()
        with tempfile.TemporaryDirectory() as folder:
            found = try_all(form, range(count), Path(folder))
        counts = f"{count} files, {found['read']} read, {len(found) - 1} messages"
        print(f"{form}: {counts}, {peak() - before >> 20} MB", flush=True)


if __name__ == "__main__":
    main()
