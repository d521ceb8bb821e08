"""Reading image files of all formats; invalid ones raise one-line errors."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from specularip.errors import UserError
from specularip.faces.image_file import GREY, read_image

PORTRAIT = os.path.join(os.path.dirname(__file__), "..", "examples", "eileen_collins.jpg")


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    return Image.open(PORTRAIT).convert("RGB")


def _pattern(seed: int) -> np.ndarray:
    """uint8 [60,80,3], smooth and asymmetric, so that rotations and swapped channels are detected."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(30, 225, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((80, 60), Image.Resampling.BICUBIC))


def _error(path) -> str:
    with pytest.raises(UserError) as caught:
        read_image(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def test_modes_become_rgb(tmp_path, seed):
    pixels = _pattern(seed)
    image = Image.fromarray(pixels)
    grey = np.asarray(image.convert("L"))
    cases: dict[str, tuple[Image.Image, np.ndarray, int]] = {
        "rgb.png": (image, pixels, 0),
        "rgb.jpg": (image, pixels, 6),
        "rgb.webp": (image, pixels, 8),
        "grey.png": (image.convert("L"), grey[..., None].repeat(3, -1), 0),
        "cmyk.jpg": (image.convert("CMYK"), pixels, 6),
        "cmyk.tif": (image.convert("CMYK"), pixels, 2),
        "palette.png": (image.quantize(256), np.asarray(image.quantize(256).convert("RGB")), 0),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), grey[..., None].repeat(3, -1), 1),
        "float.tif": (Image.fromarray(grey.astype(np.float32) / 255), grey[..., None].repeat(3, -1), 1),
        "one_bit.png": (image.convert("1"), np.asarray(image.convert("1").convert("RGB")), 0),
    }
    for name, (stored, expected, tolerance) in cases.items():
        stored.save(tmp_path / name)
        got = read_image(tmp_path / name)
        assert got.dtype == np.uint8 and got.shape == (60, 80, 3), (name, seed)
        difference = np.abs(got.astype(int) - expected)
        worst = difference.mean() if name.endswith(("jpg", "webp")) else difference.max()
        assert worst <= tolerance, f"{name} seed {seed}: off by {worst}"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_composited_over_grey(tmp_path, mode):
    pixels = np.full((50, 60, 4), (200, 200, 200, 255), np.uint8)
    pixels[:, 30:, 3] = 0
    image = Image.fromarray(pixels)
    (image.quantize(8) if mode == "P" else image.convert(mode)).save(tmp_path / "clear.png")
    got = read_image(tmp_path / "clear.png")
    assert np.abs(got[:, :30].astype(int) - 200).max() <= 1
    assert np.abs(got[:, 30:].astype(int) - GREY[0]).max() <= 1


def test_every_exif_orientation_is_undone(tmp_path, seed):
    pixels = _pattern(seed)
    upright = Image.fromarray(pixels)
    turn = Image.Transpose
    stored_as = {  # how the upright image is stored for each tag
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
        6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270,
    }  # fmt: skip
    for tag, transpose in stored_as.items():
        exif = Image.Exif()
        exif[0x0112] = tag
        upright.transpose(transpose).save(tmp_path / "turned.png", exif=exif)
        got = read_image(tmp_path / "turned.png")
        assert np.array_equal(got, pixels), f"orientation {tag} seed {seed}"


def test_missing_files_folders_and_other_formats(tmp_path):
    assert "does not exist" in _error(tmp_path / "nowhere.jpg")
    assert "folder" in _error(tmp_path)
    (tmp_path / "words.jpg").write_text("no pixels here")
    (tmp_path / "empty.png").touch()
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n")
    for name in ("words.jpg", "empty.png", "script.eps"):
        assert "not an image" in _error(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would block
    assert "regular file" in _error(tmp_path / "pipe.jpg")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root can read everything")
def test_unreadable_file(tmp_path, portrait):
    portrait.save(tmp_path / "locked.png")
    os.chmod(tmp_path / "locked.png", 0)
    assert "cannot be read" in _error(tmp_path / "locked.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_truncated_files_are_rejected(tmp_path, portrait, suffix, seed):
    whole = tmp_path / f"whole.{suffix}"
    portrait.save(whole)
    data = whole.read_bytes()
    cuts = [len(data) // 3, len(data) - 200, *np.random.default_rng(seed).integers(20, len(data) - 200, 4)]
    for cut in cuts:
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(data[:cut])
        with pytest.raises(UserError, match=r"cut short|damaged|not an image"):
            read_image(path)
            pytest.fail(f"accepted {cut} of {len(data)} bytes, seed {seed}")


def test_damaged_files_raise_only_user_errors(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for suffix in ("jpg", "png", "tif", "gif", "webp", "bmp"):
        path = tmp_path / f"noise.{suffix}"
        Image.fromarray(_pattern(seed)).save(path)
        data = bytearray(path.read_bytes())
        for _ in range(10):
            for position in rng.integers(0, len(data), 12):
                data[position] = rng.integers(256)
            path.write_bytes(data)
            try:
                read_image(path)
            except UserError:
                pass
            except Exception as error:
                pytest.fail(f"{suffix} seed {seed}: {error!r}")


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_huge_image_is_rejected_by_its_header(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    (tmp_path / "bomb.png").write_bytes(_png_header(30_000, 30_000))
    message = _error(tmp_path / "bomb.png")
    assert "30000x30000" in message and "900 megapixels" in message
    (tmp_path / "edge.png").write_bytes(_png_header(10_001, 10_000))
    assert "10001x10000" in _error(tmp_path / "edge.png")
    assert Image.MAX_IMAGE_PIXELS == limit


def test_tiny_image(tmp_path):
    Image.new("RGB", (47, 300)).save(tmp_path / "tiny.png")
    assert "47x300" in _error(tmp_path / "tiny.png")
