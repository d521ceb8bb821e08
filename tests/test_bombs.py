"""Small files that would become large: refused, or read within four times their size and 200 MB, in seconds.

All are read in one other process, whose memory is measured. The limits themselves are constants of the
readers, each with its reason.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from damaged_formats import ACCEPTED, FAULT, FORMATS, trials_elsewhere
from PIL import Image, PngImagePlugin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")

ANY = ""
"""Refused or read: its cost is what counts."""
READ = "read"
Bomb = tuple[str, bytes, str]
"""The format as which it is read, its bytes, and what is said of it."""


def png(
    width: int,
    height: int,
    depth: int,
    kind: int,
    rows: bool = True,
    chunks: bytes = b"",
    interlaced: int = 0,
) -> bytes:
    """A PNG of zeros. rows: with its pixels; depth: bits of a number; kind: 0 grey, 2 RGB, 6 RGBA."""
    line = bytes(1 + (width * depth * {0: 1, 2: 3, 6: 4}[kind] + 7) // 8)
    coder = zlib.compressobj(9)
    data = b"".join(coder.compress(line) for _ in range(height if rows else 1)) + coder.flush()
    header = struct.pack(">2I5B", width, height, depth, kind, 0, 0, interlaced)
    body = png_chunk(b"IHDR", header) + chunks + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encoded(kind: str, size: tuple[int, int] = (64, 64), **options: object) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (90, 120, 30)).save(data, kind, **options)
    return data.getvalue()


def jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    data = encoded("JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">2H", height, width) + data[at + 4 :]


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times."""
    data = encoded("JPEG", (2000, 2000), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def tiff(tags: dict[int, tuple[int, int]]) -> bytes:
    """A TIFF of 64x64 grey pixels; tags: (type, value) to replace or add."""
    usual = {
        256: (4, 64), 257: (4, 64), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1),
        278: (4, 64), 279: (4, 64 * 64),
    } | tags  # fmt: skip
    rows = [struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(usual.items())]
    start = 8 + 64 * 64
    head = b"II*\0" + struct.pack("<I", start) + bytes(64 * 64)
    return head + struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4)


def images() -> dict[str, Bomb]:
    texts = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 << 20), 9))
    profile = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(64 << 20), 9))
    frames = [Image.new("P", (64, 64), k % 7) for k in range(2000)]
    gif, pages, moving = io.BytesIO(), io.BytesIO(), io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    frames[0].save(pages, "TIFF", save_all=True, append_images=frames[1:500])
    frames[0].save(moving, "PNG", save_all=True, append_images=frames[1:500], default_image=False)
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 900_000, zip=True)
    wide_gif = bytearray(gif.getvalue())
    wide_gif[6:10] = struct.pack("<2H", 65535, 65535)
    beyond = bytearray(gif.getvalue())
    at = beyond.index(b"\x2c")
    beyond[at + 5 : at + 9] = struct.pack("<2H", 65535, 65535)
    huge = "limit is 100"
    return {
        "png of bits": ("photo, png", png(10_000, 10_000, 1, 0), "damaged or empty"),
        "png of bits that is read": ("photo, png", png(6_300, 6_300, 1, 0), READ),
        "png of 16 bits": ("photo, png", png(10_000, 10_000, 16, 0, rows=False), "damaged or empty"),
        "png of 16 bits that is read": ("photo, png", png(5_000, 5_000, 16, 0), READ),
        "png of 16 bits, 3 colours": ("photo, png", png(4_000, 5_000, 16, 2), READ),
        "interlaced png": ("photo, png", png(4_000, 5_000, 8, 6, interlaced=1), ANY),
        "png beyond the limit": ("photo, png", png(2**31 - 1, 2**31 - 1, 1, 0, rows=False), huge),
        "text in png": ("photo, png", png(64, 64, 8, 2, chunks=texts), ANY),
        "texts in png": ("photo, png", encoded("PNG", pnginfo=info), READ),
        "profile in png": ("photo, png", png(64, 64, 8, 2, chunks=profile), ANY),
        "animated png": ("photo, png", moving.getvalue(), READ),
        "capture of bits": ("capture, png", png(10_000, 10_000, 1, 0), "damaged or empty"),
        "mask of bits": ("capture, mask", png(10_000, 10_000, 1, 0), "damaged or empty"),
        "jpeg's size": ("photo, jpeg", jpeg_of(65_500, 65_500), huge),
        "jpeg's size within the limit": ("photo, jpeg", jpeg_of(10_000, 9_000), "damaged or empty"),
        "jpeg of many scans": ("photo, jpeg", scans(5_000), "scans, at most 100"),
        "progressive jpeg": ("photo, jpeg", encoded("JPEG", (3_700, 3_700), progressive=True), READ),
        "jpeg": ("photo, jpeg", encoded("JPEG", (5_000, 4_900)), READ),
        "webp": (
            "photo, webp",
            encoded("WEBP", (16_000, 6_000), lossless=True, method=0, quality=0),
            "empty",
        ),
        "webp that is read": ("photo, webp", encoded("WEBP", (4_000, 3_100), quality=20, method=0), READ),
        "avif that is read": ("photo, avif", encoded("AVIF", (3_000, 3_000), speed=10), READ),
        "jpeg 2000": ("photo, jpeg 2000", encoded("JPEG2000", (3_000, 3_000)), READ),
        "gif": ("photo, gif", bytes(wide_gif), huge),
        "gif beyond its canvas": ("photo, gif", bytes(beyond), huge),
        "animated gif": ("photo, gif", gif.getvalue(), READ),
        "tiff of many pages": ("photo, tiff", pages.getvalue(), READ),
        "tiff's size": ("photo, tiff", tiff({256: (4, 2**31), 257: (4, 2**31)}), huge),
        "tiff's strips": ("photo, tiff", tiff({279: (4, 2**32 - 1), 278: (4, 2**32 - 1)}), ANY),
        "tiff's compressed strips": ("photo, tiff", tiff({259: (3, 8), 279: (4, 2**31)}), ANY),
        "tiff's tiles": (
            "photo, tiff",
            tiff({259: (3, 8), 322: (4, 2**20), 323: (4, 2**20), 324: (4, 8), 325: (4, 4096)}),
            ANY,
        ),
        "tiff's numbers a pixel": ("photo, tiff", tiff({277: (3, 65_535)}), ANY),
    }


def npy(shape: tuple[int, ...] | str, kind: str, data: bytes = b"") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def zipped(files: dict[str, bytes], level: int = 9) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def lying(data: bytes) -> bytes:
    """A zip whose files have 100 bytes each, as it says."""
    changed = bytearray(data)
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = -1
        while (at := changed.find(mark, at + 1)) >= 0:
            changed[at + offset : at + offset + 4] = struct.pack("<I", 100)
    return bytes(changed)


def encrypted(data: bytes) -> bytes:
    changed = bytearray(data)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := changed.find(mark, at + 1)) >= 0:
            changed[at + offset] |= 1
    return bytes(changed)


def arrays(form: str, first: str, second: str) -> dict[str, Bomb]:
    """Of a format of two arrays with these names."""
    small = npy((4, 3), "<f8", bytes(96))
    count = 50_000_000
    bytes_ = zipped({f"{first}.npy": npy((count, 3), "|i1", bytes(3 * count)), f"{second}.npy": small}, 1)
    floats = zipped(
        {f"{first}.npy": npy((count // 4, 3), "<f4", bytes(3 * count)), f"{second}.npy": small}, 1
    )
    within = zipped({f"{first}.npy": npy((690_000, 3), "|i1", bytes(2_070_000)), f"{second}.npy": small})
    many = zipped({f"{k}": b"" for k in range(20_000)})
    objects = npy((10**6,), "|O", bytes(10**6))
    return {
        f"{form}: bytes": (form, bytes_, "too large for a file of its size"),
        f"{form}: floats": (form, floats, "too large for a file of its size"),
        f"{form}: bytes within the limit": (form, within, ANY),
        f"{form}: sizes that lie": (form, lying(floats), ANY),
        f"{form}: encrypted": (form, encrypted(within), "cannot read|as .npz"),
        f"{form}: many files": (form, many, "too many arrays"),
        f"{form}: a zip in it": (
            form,
            zipped({f"{first}.npy": bytes_, f"{second}.npy": small}),
            "not a .npy",
        ),
        f"{form}: objects": (form, zipped({f"{first}.npy": objects, f"{second}.npy": objects}), ANY),
        f"{form}: claims": (
            form,
            zipped({f"{first}.npy": npy((10**12, 3), "<f8"), f"{second}.npy": small}),
            "hold",
        ),
        f"{form}: no numbers": (form, zipped({f"{first}.npy": npy("(0, 10000000000000)", "<f8")}), ANY),
        f"{form}: long header": (
            form,
            zipped({f"{first}.npy": npy("(1," * 10**4, "<f8")}),
            "too long|damaged",
        ),
    }


def sound(form: str, folder: Path) -> bytes:
    inner = folder / form.replace(",", "").replace(" ", "-")
    inner.mkdir()
    return FORMATS[form].make(inner).read_bytes()


def tensors(header: dict[str, object], text: str | None = None) -> bytes:
    data = (json.dumps(header) if text is None else text).encode()
    return struct.pack("<Q", len(data)) + data


def others(folder: Path) -> dict[str, Bomb]:
    spz = struct.pack("<IIIBBBB", 0x5053474E, 3, 50_000_000, 3, 12, 0, 0)
    coder = zlib.compressobj(9, wbits=31)
    spz_bomb = b"".join(
        [coder.compress(spz), *(coder.compress(bytes(2**20)) for _ in range(400)), coder.flush()]
    )
    sog = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sound("sog", folder))) as archive, zipfile.ZipFile(sog, "w", 8) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name) if name == "meta.json" else bytes(10**8))
    empty = {"dtype": "F32", "shape": [0, 10**18], "data_offsets": [0, 0]}
    ply, text_ply = sound("ply", folder), sound("ply, text", folder)
    lists = b"ply\nformat binary_little_endian 1.0\nelement a 900000000\nproperty list uint int b\n"
    lists += (
        b"element vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n" + b"\xff" * 64
    )
    bvh = sound("bvh", folder)
    cameras, poses, points = (
        sound(f"colmap, {name}.bin", folder) for name in ("cameras", "images", "points3D")
    )
    many = struct.pack("<Q", 2**60)
    packed = gzip.decompress(sound("viewer's pack", folder))
    grown = gzip.compress(packed + bytes(400 << 20), 9)
    lists_json = b'{"frames": [' + b"[]," * 10**7 + b"[]]}"
    objects = b'{"frames": [' + b"{}," * 600_000 + b"{}]}"
    path = b'{"keyframes": [{"time": 0, "distance": ' + b"9" * 10**6 + b'}, {"time": 1}]}'
    weights = zipped({"a/data.pkl": bytes(300 << 20), "a/version": b"3"}, 1)

    def glb(change: Callable[[dict], object]) -> bytes:
        data = sound_glb
        length = struct.unpack_from("<I", data, 12)[0]
        table = json.loads(data[20 : 20 + length])
        change(table)
        text = json.dumps(table).encode()
        text += b" " * (-len(text) % 4)
        after = data[20 + length :]
        lengths = struct.pack("<2I", 20 + len(text) + len(after), len(text))
        return data[:8] + lengths + data[16:20] + text + after

    sound_glb, normal = sound("glb", folder), b"property float nx\n"
    joints = b"JOINT a\n{\nOFFSET 0 0 0\n" * 30_000
    deep_bvh = b"HIERARCHY\nROOT a\n{\n" + joints + b"MOTION\nFrames: 1\nFrame Time: 0.1\n1\n"
    return {
        "ply's rows": ("ply", ply.replace(b"vertex 150", b"vertex 1099511627776"), "cut short"),
        "ply's columns": ("ply", ply.replace(normal, normal * 4000), "no end|twice"),
        "rows of text": ("ply, text", text_ply.replace(b"vertex 40", b"vertex 900000000000"), "cut short"),
        "ply's lists": ("ply", lists, "cut short|no "),
        "spz": ("spz 3", spz_bomb, "claims 50000000 Gaussians"),
        "sog": ("sog", sog.getvalue(), "too large"),
        "header's length": ("avatar", struct.pack("<Q", 2**62) + b"{}", "damaged or cut short"),
        "tensor's shape": (
            "avatar",
            tensors({"a": {"dtype": "F32", "shape": [2**28], "data_offsets": [0, 2**30]}}),
            "damaged or cut short",
        ),
        "no numbers": ("avatar", tensors({"gaussians.means": empty}), "no specularip header|damaged"),
        "many tensors": ("avatar", tensors({f"{k}": empty for k in range(20_000)}), "damaged|no specularip"),
        "depth of a header": (
            "avatar",
            tensors({"__metadata__": {"specularip": '{"format":' + "[" * 10**5}}),
            "its header is damaged",
        ),
        "digits in a header": (
            "avatar",
            tensors({"__metadata__": {"specularip": '{"format":' + "9" * 10**6 + "}"}}),
            "format inf",
        ),
        "accessor's count": (
            "glb",
            glb(lambda t: t["accessors"][0].update(count=10**9)),
            "outside|another number",
        ),
        "accessors without data": (
            "glb",
            glb(lambda t: [one.pop("bufferView") and one.update(count=10**9) for one in t["accessors"]]),
            "sparse or has no data|outside",
        ),
        "sparse accessors": (
            "glb",
            glb(lambda t: [one.update(sparse={"count": 10**9}) for one in t["accessors"]]),
            "sparse",
        ),
        "strides": (
            "glb",
            glb(lambda t: [view.update(byteStride=2**31) for view in t["bufferViews"]]),
            "outside|overlap",
        ),
        "bvh's frames": ("bvh", bvh.replace(b"Frames: 6", b"Frames: 1000000000"), "more than the file holds"),
        "bvh's channels": ("bvh", bvh.replace(b"CHANNELS 6", b"CHANNELS 1000000000"), "another number"),
        "bvh's depth": ("bvh", deep_bvh, "more than 1000 joints"),
        "colmap's cameras": ("colmap, cameras.bin", many + cameras[8:], "cut short"),
        "colmap's images": ("colmap, images.bin", many + poses[8:], "cut short"),
        "colmap's points": ("colmap, points3D.bin", many + points[8:], "cut short"),
        "pack": ("viewer's pack", grown, "not a packed avatar|damaged"),
        "lists": ("transforms.json", lists_json, "more than 1500000 values"),
        "objects": ("transforms.json", objects, "frame 0 has no file_path"),
        "depth": ("transforms.json", b"[" * 10**6, "more than 64 levels"),
        "digits": ("camera path", path, "must be a number|finite"),
        "torch's weights": ("weights, torch", weights, "compressed"),
    }  # fmt: skip


def test_what_small_files_become(tmp_path: Path) -> None:
    bombs = {
        **images(),
        **arrays("body.npz", "v", "f"),
        **arrays("amass", "poses", "trans"),
        **others(tmp_path),
    }
    files = []
    for number, (form, data, _) in enumerate(bombs.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = FORMATS[form].make(folder)
        path.write_bytes(data)
        files.append((form, path))
    problems = []
    for (name, (_, data, expected)), found in zip(bombs.items(), trials_elsewhere(files), strict=True):
        cost = f"{len(data):,} bytes, {found.memory >> 20} MB, {found.seconds:.1f} s"
        said = READ if found.outcome == ACCEPTED else found.message
        if found.outcome == FAULT or not any(part in said for part in expected.split("|")):
            problems.append(f"{name}: {found.outcome}, {said[:300]} ({cost})")
    assert not problems, "\n" + "\n".join(problems)
