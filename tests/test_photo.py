"""Reading image files of every kind, refusing bad ones in one line, and framing faces alike."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from specularip.errors import UserError
from specularip.faces.photo import GREY, align_face, face_mask, find_face, read_image

PORTRAIT = os.path.join(os.path.dirname(__file__), "..", "examples", "eileen_collins.jpg")
EYES = np.array([(203.5, 100.5), (246.5, 101.5)])
"""Pupils in the portrait, found by eye, good to about 1.5 pixels."""


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    return Image.open(PORTRAIT).convert("RGB")


def _pattern(seed: int) -> np.ndarray:
    """uint8 [60,80,3], smooth, without symmetry: rotations and swapped channels show."""
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
def test_transparency_is_laid_over_grey(tmp_path, mode):
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
    stored_as = {  # how a camera that writes this tag has stored the upright picture
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
        6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270,
    }  # fmt: skip
    for tag, transpose in stored_as.items():
        exif = Image.Exif()
        exif[0x0112] = tag
        upright.transpose(transpose).save(tmp_path / "turned.png", exif=exif)
        got = read_image(tmp_path / "turned.png")
        assert np.array_equal(got, pixels), f"orientation {tag} seed {seed}"


def test_missing_folder_and_foreign_files(tmp_path):
    assert "does not exist" in _error(tmp_path / "nowhere.jpg")
    assert "folder" in _error(tmp_path)
    (tmp_path / "words.jpg").write_text("no pixels here")
    (tmp_path / "empty.png").touch()
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n")
    for name in ("words.jpg", "empty.png", "script.eps"):
        assert "not an image" in _error(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    assert "regular file" in _error(tmp_path / "pipe.jpg")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path, portrait):
    portrait.save(tmp_path / "locked.png")
    os.chmod(tmp_path / "locked.png", 0)
    assert "cannot be read" in _error(tmp_path / "locked.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_truncated_files_are_refused_wherever_they_end(tmp_path, portrait, suffix, seed):
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


def test_damaged_bytes_never_escape_as_another_error(tmp_path, seed):
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


def test_huge_image_is_refused_from_its_header(tmp_path):
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


def test_portrait_has_one_face_with_eyes_where_they_are(portrait):
    face = find_face(np.asarray(portrait))
    assert face.count == 1 and face.eyes_found
    assert np.abs(np.array(face.eyes) - EYES).max() < 3.0, face.eyes
    assert 85 < face.side < 120


def test_every_photo_of_a_face_gives_the_same_crop(portrait, seed):
    """Size, tilt, place and border in the photo leave the crop nearly as it is."""
    rng = np.random.default_rng(seed)
    straight = align_face(np.asarray(portrait), find_face(np.asarray(portrait)))
    assert straight.shape == (3, 96, 96) and 0 <= straight.min() and straight.max() <= 1
    mask = face_mask()
    edge = portrait.getpixel((5, 5))
    scale, angle = rng.uniform(0.6, 2.0), rng.uniform(-12, 12)
    side = round(300 * scale)
    photos = {
        "scaled": portrait.resize((round(512 * scale),) * 2, Image.Resampling.LANCZOS),
        "tilted": portrait.rotate(angle, Image.Resampling.BICUBIC, fillcolor=edge),
        "close": portrait.crop((160, 40, 290, 180)).resize((side, side * 14 // 13), Image.Resampling.BICUBIC),
    }
    for name, photo in photos.items():
        crop = align_face(np.asarray(photo), find_face(np.asarray(photo)))
        difference = float(((crop - straight).abs() * mask).sum() / mask.sum() / 3)
        assert difference < 0.05, f"{name} scale {scale:.2f} angle {angle:.1f} seed {seed}: {difference:.3f}"


def test_crop_is_framed_as_documented(portrait):
    """Eyes at 42 % of the height, level and centred: the darkest places of the two eye patches."""
    crop = align_face(np.asarray(portrait), find_face(np.asarray(portrait)), size=200).mean(0).numpy()
    for x in (0.5 - 0.128, 0.5 + 0.128):
        rows, columns = slice(76, 92), slice(int((x - 0.05) * 200), int((x + 0.05) * 200))
        patch = crop[rows, columns]
        dark = np.argwhere(patch < np.quantile(patch, 0.12)).mean(0)
        assert abs((dark[0] + rows.start) / 200 - 0.42) < 0.02
        assert abs((dark[1] + columns.start) / 200 - x) < 0.03


def test_mask_covers_the_face_only():
    mask = face_mask(96)
    assert mask.shape == (1, 96, 96) and float(mask.min()) == 0 and float(mask.max()) == 1
    at = lambda x, y: float(mask[0, int(y * 96), int(x * 96)])  # noqa: E731
    assert at(0.5, 0.42) > 0.9 and at(0.37, 0.42) > 0.7 and at(0.5, 0.75) > 0.9
    assert at(0.05, 0.5) == at(0.5, 0.05) == at(0.5, 0.98) == 0


def test_largest_of_several_faces(portrait):
    whole = np.full((420, 640, 3), np.array(portrait.getpixel((5, 5)), np.uint8))
    head = portrait.crop((130, 0, 320, 210))
    whole[20 : 20 + 210, 20 : 20 + 190] = np.asarray(head)
    whole[60 : 60 + 315, 300 : 300 + 285] = np.asarray(head.resize((285, 315), Image.Resampling.BICUBIC))
    face = find_face(whole)
    assert face.count == 2
    assert face.center[0] > 320 and 125 < face.side < 180


def test_small_face_is_refused_with_its_size(portrait):
    small = portrait.resize((160, 160), Image.Resampling.LANCZOS)
    with pytest.raises(UserError, match=r"only (2\d|3\d) pixels.*48"):
        find_face(np.asarray(small))


@pytest.mark.parametrize("picture", ["coins", "plain", "noise"])
def test_no_face(picture):
    if picture == "coins":
        import skimage.data

        image = skimage.data.coins()[..., None].repeat(3, -1)
    elif picture == "plain":
        image = np.full((300, 300, 3), 128, np.uint8)
    else:
        image = np.random.default_rng().integers(0, 256, (300, 300, 3), dtype=np.uint8)
    with pytest.raises(UserError, match=r"no face found in holiday.jpg"):
        find_face(image, "holiday.jpg")
