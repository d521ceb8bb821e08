"""Reading image files of all formats; invalid ones raise one-line errors."""

import os
import struct
import sys
import types
import zlib

import numpy as np
import pytest
from colour_profiles import ADOBE_RGB, DISPLAY_P3, PROPHOTO, in_srgb, profile
from PIL import Image, ImageOps

from specularip.errors import UserError
from specularip.faces.image_file import GREY, read_image, read_image_file

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


def test_sixteen_bits_a_colour(tmp_path, seed):
    pixels = _pattern(seed)
    deep = pixels.astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    (tmp_path / "deep.png").write_bytes(_png(80, 60, 16, zlib.compress(rows)))
    entries = [(256, 80), (257, 60), (258, 8), (259, 1), (262, 2), (273, 128), (277, 3), (278, 60)]
    tags = [struct.pack(">HHIHxx", tag, 3, 1, value) for tag, value in (*entries, (279, deep.nbytes))]
    tags[2] = struct.pack(">HHII", 258, 3, 3, 122)
    tiff = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + b"".join(tags) + bytes(4)
    (tmp_path / "deep.tif").write_bytes(tiff + struct.pack(">HHH", 16, 16, 16) + deep.tobytes())
    for name in ("deep.png", "deep.tif"):
        assert np.abs(read_image(tmp_path / name).astype(int) - pixels).max() <= 1, (name, seed)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize(("primaries", "gamma"), [(DISPLAY_P3, 2.25), (ADOBE_RGB, 2.203125), (PROPHOTO, 1.8)])
def test_colours_of_other_profiles_become_srgb(tmp_path, name, primaries, gamma, seed):
    pixels = _pattern(seed)
    expected = in_srgb(pixels, primaries, gamma)
    assert np.abs(expected - pixels).mean() > 4
    Image.fromarray(pixels).save(tmp_path / name, icc_profile=profile(primaries, gamma))
    got, notes = read_image_file(tmp_path / name)
    assert np.abs(got - expected).max() < 4 and np.abs(got - expected).mean() < 0.6 and not notes, seed


def test_profiles_of_transparent_palette_and_grey_images(tmp_path, seed):
    grey = np.asarray(Image.fromarray(_pattern(seed)).convert("L"))
    linear, adobe = profile(None, 1.0), profile(ADOBE_RGB, 2.203125)
    expected = in_srgb(grey[..., None].repeat(3, -1), ADOBE_RGB, 1.0)
    for mode in ("L", "LA"):
        Image.fromarray(grey).convert(mode).save(tmp_path / "grey.png", icc_profile=linear)
        assert np.abs(read_image(tmp_path / "grey.png") - expected).max() < 3, mode
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png", icc_profile=linear)
    assert np.abs(read_image(tmp_path / "deep.png") - expected).max() < 3
    few = Image.fromarray(_pattern(seed)).quantize(16)
    few.save(tmp_path / "few.png", icc_profile=adobe)
    expected = in_srgb(np.asarray(few.convert("RGB")), ADOBE_RGB, 2.203125)
    assert np.abs(read_image(tmp_path / "few.png") - expected).max() < 4
    clear = Image.fromarray(_pattern(seed)).convert("RGBA")
    clear.paste((0, 0, 0, 0), (40, 0, 80, 60))
    clear.save(tmp_path / "clear.png", icc_profile=adobe)
    got = read_image(tmp_path / "clear.png")
    assert np.abs(got[:, :40] - in_srgb(_pattern(seed), ADOBE_RGB, 2.203125)[:, :40]).max() < 4
    assert (got[:, 40:] == GREY).all(), "the background is no colour of the photo's"


@pytest.mark.parametrize("damage", ["cut", "noise", "of another kind"])
def test_unusable_profiles_are_ignored(tmp_path, damage, seed):
    pixels = _pattern(seed)
    icc = profile(DISPLAY_P3, 2.25)
    icc = {"cut": icc[:200], "noise": b"\1\2\3" * 99, "of another kind": profile(None, 1.0)}[damage]
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=icc)
    got, (note,) = read_image_file(tmp_path / "a.png")
    assert np.array_equal(got, pixels)
    assert note.startswith(f"{tmp_path / 'a.png'} has an unusable colour profile")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_the_first_image_of_several_is_taken_and_told(tmp_path, suffix):
    first, second = (Image.new("RGB", (60, 50), colour) for colour in ("red", "blue"))
    path = tmp_path / f"some.{suffix}"
    first.save(path)
    assert read_image_file(path)[1] == []
    first.save(path, save_all=True, append_images=[second])
    got, notes = read_image_file(path)
    assert got[..., 0].min() > 250 and got[..., 2].max() < 5
    assert notes == [f"{path} holds several images: taking the first"]


def test_previews_in_a_photo_are_not_told(tmp_path):
    image = Image.new("RGB", (60, 50), "red")
    image.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[image.resize((30, 25))])
    with Image.open(tmp_path / "phone.jpg") as written:
        assert written.format == "MPO"
    assert read_image_file(tmp_path / "phone.jpg")[1] == []


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(200)


@pytest.mark.parametrize("name", ["photo.heic", "photo.jpg"])
def test_heic_photos_are_recognised_by_their_header(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(HEIC)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "HEIC photo, which cannot be read: save it as JPEG" in _error(tmp_path / name)
    plugin = types.ModuleType("pillow_heif")  # what the real one does, with one photo for all files
    plugin.register_heif_opener = (
        lambda: Image.register_open(  # type: ignore[attr-defined]
            "HEIF", lambda file, name: Image.new("RGB", (70, 60), "red"), lambda start: start[4:8] == b"ftyp"
        )
    )
    monkeypatch.setitem(Image.OPEN, "HEIF", None)
    monkeypatch.setattr(Image, "ID", [*Image.ID])
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    assert read_image(tmp_path / name).shape == (60, 70, 3)


def test_damaged_exif_data_are_ignored(tmp_path):
    pixels = _pattern(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    whole = exif.tobytes()
    wrong_type, no_header = whole.replace(b"\0\2\0\5", b"\0\2\0\1"), b"Exif\0\0?" + whole[7:]
    for damaged, turned in ((wrong_type, True), (no_header, False)):
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=damaged)
        with pytest.raises((SyntaxError, TypeError)):
            ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
        assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(pixels, -1) if turned else pixels)


def test_every_exif_orientation_is_undone(tmp_path, seed):
    pixels = _pattern(seed)
    upright = Image.fromarray(pixels)
    turn = Image.Transpose
    stored_as = {  # how the upright image is stored for each tag but 1; there is no 9
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
        6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270,
    }  # fmt: skip
    for tag in range(1, 10):
        exif = Image.Exif()
        exif[0x0112] = tag
        stored = upright.transpose(stored_as[tag]) if tag in stored_as else upright
        for suffix in ("png", "tif"):  # of a TIFF, Pillow itself turns the pixels
            stored.save(tmp_path / f"turned.{suffix}", exif=exif)
            got = read_image(tmp_path / f"turned.{suffix}")
            assert np.array_equal(got, pixels), f"orientation {tag} of {suffix} seed {seed}"


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


def _png(width: int, height: int, bits: int, data: bytes) -> bytes:
    """An RGB image; data: compressed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_huge_image_is_rejected_by_its_header(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    (tmp_path / "bomb.png").write_bytes(_png(30_000, 30_000, 8, zlib.compress(bytes(1000))))
    message = _error(tmp_path / "bomb.png")
    assert "30000x30000" in message and "900 megapixels" in message
    (tmp_path / "edge.png").write_bytes(_png(10_001, 10_000, 8, zlib.compress(bytes(1000))))
    assert "10001x10000" in _error(tmp_path / "edge.png")
    assert Image.MAX_IMAGE_PIXELS == limit


def test_tiny_image(tmp_path):
    Image.new("RGB", (47, 300)).save(tmp_path / "tiny.png")
    assert "47x300" in _error(tmp_path / "tiny.png")
