"""Image files of captures become pixels: formats, profiles, orientation, masks, sizes; and notes say so."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captures import opengl_poses
from colour_profiles import DISPLAY_P3, in_srgb, profile
from PIL import Image, ImageCms, ImageOps

from specularip.cameras import Cameras
from specularip.captures import pixels as pixels_file
from specularip.captures.load import load_posed_images
from specularip.captures.pixels import (
    Header,
    are_inverted,
    foreground,
    is_turned,
    masked,
    multiplied,
    read_header,
    read_mask,
    read_pixels,
    same_shape,
    scaled,
)
from specularip.errors import UserError

WIDTH, HEIGHT, VIEWS = 40, 30, 6
ORIENTATION = 0x0112


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """[H,W,3] without detail, which JPEG keeps."""
    y, x = np.mgrid[:height, :width]
    return np.stack([60 + 150 * x / width, 200 - 150 * y / height, 90 + 60 * x / width], -1).astype(np.uint8)


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits, which Pillow does not write: values uint16 [H,W,1 to 4]."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return png(struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0), zlib.compress(rows))


def png(header: bytes, data: bytes) -> bytes:
    parts = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def turned_file(path: Path, image: Image.Image, orientation: int, **options: Any) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif, **options)


def capture(folder: Path, **keys: Any) -> list[Path]:
    """transforms_train.json and random images; cameras on an orbit. Returns the images."""
    folder.mkdir(exist_ok=True)
    cameras = Cameras.orbit([60.0 * k for k in range(VIEWS)], 10.0, 2.0, 40.0, WIDTH, HEIGHT)
    files, frames = [], []
    for index, pose in enumerate(opengl_poses(cameras)):
        files.append(folder / f"{index}.png")
        Image.fromarray(noise(index, HEIGHT, WIDTH, 4)).save(files[-1])
        frames.append({"file_path": files[-1].name, "transform_matrix": pose})
    size = {"w": WIDTH, "h": HEIGHT, "fl_x": 40.0, "fl_y": 41.0, "cx": 21.0, "cy": 14.0}
    write(folder, {**size, **keys, "frames": frames})
    return files


def read(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((folder / "transforms_train.json").read_text())
    return table


def write(folder: Path, table: dict[str, Any]) -> None:
    (folder / "transforms_train.json").write_text(json.dumps(table))


def change(folder: Path, **keys: Any) -> None:
    write(folder, {**read(folder), **keys})


def each(folder: Path, **keys: list[Any]) -> None:
    """Sets keys of all frames to one of these values."""
    table = read(folder)
    for key, values in keys.items():
        for frame, value in zip(table["frames"], values):
            frame[key] = value
    write(folder, table)


def error(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        load_posed_images(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "bmp"])
def test_lossless_formats_are_read_exactly(tmp_path, suffix, seed):
    pixels = noise(seed, 20, 24, 3 if suffix == "bmp" else 4)
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(file, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    got, usable = read_pixels(file)
    assert np.array_equal(got[..., : pixels.shape[2]], pixels) and usable
    assert pixels.shape[2] == 4 or (got[..., 3] == 255).all()
    assert read_header(file) == Header(24, 20)


LOSSY = (("a.jpg", "RGB"), ("a.jpg", "L"), ("a.jpg", "CMYK"), ("a.webp", "RGB"))


@pytest.mark.parametrize(("name", "mode"), LOSSY)
def test_lossy_formats_are_read_closely(tmp_path, name, mode):
    image = Image.fromarray(smooth()).convert(mode)
    image.save(tmp_path / name, quality=97)
    got, _ = read_pixels(tmp_path / name)
    assert np.abs(got[..., :3].astype(int) - np.asarray(image.convert("RGB"))).mean() < 2.5
    assert (got[..., 3] == 255).all()


def test_pngs_of_all_depths(tmp_path, seed):
    grey, file = noise(seed, 20, 24), tmp_path / "a.png"
    for depth in (1, 2, 4, 8):
        levels = (grey >> (8 - depth)).astype(np.uint8)
        rows = [
            bytes([0]) + np.packbits(np.unpackbits(row[:, None], 1)[:, -depth:]).tobytes() for row in levels
        ]
        header = struct.pack(">IIBBBBB", 24, 20, depth, 0, 0, 0, 0)
        file.write_bytes(png(header, zlib.compress(b"".join(rows))))
        expected = levels * (255 // (2**depth - 1))
        assert np.array_equal(read_pixels(file)[0][..., 0], expected), depth
    few = Image.fromarray(noise(seed, 20, 24, 3)).quantize(16)
    few.save(file, transparency=3)
    got, expected = read_pixels(file)[0], np.array(few.convert("RGB"))
    assert np.array_equal(got[..., :3], expected)
    assert np.array_equal(got[..., 3] == 0, np.array(few) == 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_become_eight(tmp_path, channels, seed):
    values = np.random.default_rng(seed).integers(0, 65536, (20, 24, channels))
    (tmp_path / "a.png").write_bytes(deep_png(values))
    got = read_pixels(tmp_path / "a.png")[0].astype(float)
    colours = values[..., : max(1, channels - 1 + channels % 2)]
    assert np.abs(got[..., :3] - colours / 257).max() <= 1
    alpha = values[..., -1] / 257 if channels in (2, 4) else 255
    assert np.abs(got[..., 3] - alpha).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_orientation(tmp_path, orientation, suffix):
    file = tmp_path / f"a.{suffix}"
    turned_file(file, Image.fromarray(smooth()), orientation)
    header = read_header(file)
    assert header == Header(WIDTH, HEIGHT, orientation)
    with Image.open(file) as image:
        stored, upright = (
            np.array(image.convert("RGB")),
            np.array(ImageOps.exif_transpose(image).convert("RGB")),
        )
    assert np.array_equal(read_pixels(file)[0][..., :3], stored)
    assert np.array_equal(read_pixels(file, turned=True)[0][..., :3], upright)
    assert header.upright == upright.shape[1::-1]
    # The camera's size tells, at any scale.
    assert not is_turned(header, 4 * WIDTH, 4 * HEIGHT)
    if orientation >= 5:
        assert is_turned(header, HEIGHT, WIDTH)
    else:
        with pytest.raises(UserError, match="of another aspect ratio"):
            is_turned(header, HEIGHT, WIDTH)


def test_orientations_that_are_none(tmp_path):
    for value in (0, 9, 77):
        turned_file(tmp_path / "a.jpg", Image.fromarray(smooth()), value)
        assert read_header(tmp_path / "a.jpg").orientation == 1
    Image.fromarray(smooth()).save(
        tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(range(40))
    )
    assert read_header(tmp_path / "a.jpg").orientation == 1


def test_colours_become_srgb(tmp_path, seed):
    pixels, file = noise(seed, 20, 24, 4), tmp_path / "a.png"
    Image.fromarray(pixels).save(file, icc_profile=profile(DISPLAY_P3, 2.25))
    got, usable = read_pixels(file)
    assert usable and np.array_equal(got[..., 3], pixels[..., 3])
    assert np.abs(got[..., :3] - in_srgb(pixels[..., :3], DISPLAY_P3, 2.25)).max() < 3
    assert np.abs(got[..., :3].astype(int) - pixels[..., :3]).max() > 20
    # sRGB itself changes no bit.
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(file, icc_profile=srgb)
    assert np.array_equal(read_pixels(file)[0], pixels)
    Image.fromarray(pixels).save(file, icc_profile=profile(DISPLAY_P3, 2.25)[:200])
    got, usable = read_pixels(file)
    assert not usable and np.array_equal(got, pixels)


def test_a_bomb_is_refused_by_its_header(tmp_path):
    """A few kilobytes that would unfold to gigabytes are not even begun."""
    side = 50_000
    data = zlib.compress(bytes(side + 1)) * 20
    bomb = png(struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0), data)
    (tmp_path / "a.png").write_bytes(bomb)
    with pytest.raises(UserError, match="50000x50000: 100 megapixels is the limit"):
        read_header(tmp_path / "a.png")
    with pytest.raises(UserError, match="too large for a mask"):
        read_mask(tmp_path / "a.png", (40, 30), Header(40, 30))
    with pytest.raises(UserError, match="too large for a mask"):
        are_inverted([tmp_path / "a.png"])


def disc(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.hypot((x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5) < 0.3


def mask_images(inside: np.ndarray) -> dict[str, Image.Image]:
    """One mask as files of all kinds."""
    white, colours = inside * np.uint8(255), noise(1, *inside.shape, 3)
    label = Image.fromarray(inside.astype(np.uint8), "P")
    label.putpalette([0, 0, 0, 128, 0, 0])
    return {
        "black and white": Image.fromarray(white),
        "of one bit": Image.fromarray(inside),
        "0 and 1": Image.fromarray(inside.astype(np.uint8)),
        "of colours": Image.fromarray(np.repeat(white[..., None], 3, -1)),
        "of one pure colour": Image.fromarray(white[..., None] * np.array([1, 0, 0], np.uint8)),
        "a label": label,
        "16 bits": Image.fromarray(inside.astype(np.uint16) * 65535),
        "of video levels": Image.fromarray(np.where(inside, np.uint8(235), np.uint8(16))),
        "alpha of a cut-out": Image.fromarray(np.concatenate([colours, white[..., None]], -1)),
        "alpha of black": Image.fromarray(np.concatenate([0 * colours, white[..., None]], -1)),
        "alpha of grey": Image.fromarray(np.stack([colours[..., 0], white], -1), "LA"),
    }


@pytest.mark.parametrize("kind", mask_images(disc()))
def test_masks_of_all_kinds(tmp_path, kind):
    mask_images(disc())[kind].save(tmp_path / "m.png", icc_profile=profile(None, 1.0))
    got = read_mask(tmp_path / "m.png", (WIDTH, HEIGHT), Header(WIDTH, HEIGHT))
    assert got.dtype == np.uint8 and np.array_equal(got, disc() * np.uint8(255))


def test_soft_masks_and_masks_of_another_size(tmp_path):
    file, header = tmp_path / "m.png", Header(WIDTH, HEIGHT)
    soft = smooth()[..., 0]
    Image.fromarray(soft).save(file)
    assert np.array_equal(read_mask(file, (WIDTH, HEIGHT), header), soft)
    Image.fromarray(disc(4 * WIDTH, 4 * HEIGHT) * np.uint8(255)).save(file)
    small = disc(4 * WIDTH, 4 * HEIGHT).reshape(HEIGHT, 4, WIDTH, 4).mean((1, 3)) * 255
    assert np.abs(read_mask(file, (WIDTH, HEIGHT), header) - small).max() <= 0.51
    Image.fromarray(disc(WIDTH // 2, HEIGHT // 2) * np.uint8(255)).save(file)
    large = read_mask(file, (WIDTH, HEIGHT), header)
    assert large.mean() / 255 == pytest.approx(disc().mean(), abs=0.02)
    Image.fromarray(disc(WIDTH, WIDTH)).save(file)
    with pytest.raises(UserError, match=f"{WIDTH}x{WIDTH}, but its image is {WIDTH}x{HEIGHT}"):
        read_mask(file, (WIDTH, HEIGHT), header)
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(UserError, match=r"cannot be decoded|not an image"):
        read_mask(file, (WIDTH, HEIGHT), header)


@pytest.mark.parametrize("orientation", range(5, 9))
def test_masks_of_turned_photos(tmp_path, orientation, seed):
    """Made from the stored image or from the upright one, for a photo that is taken either way."""
    stored = noise(seed, HEIGHT, WIDTH)
    turned_file(tmp_path / "a.png", Image.fromarray(stored), orientation)
    header, upright = read_header(tmp_path / "a.png"), read_pixels(tmp_path / "a.png", turned=True)[0][..., 0]
    for mask in (stored, upright):
        Image.fromarray(mask).save(tmp_path / "m.png")
        for turned, size, expected in ((False, (WIDTH, HEIGHT), stored), (True, (HEIGHT, WIDTH), upright)):
            assert np.array_equal(read_mask(tmp_path / "m.png", size, header, turned=turned), expected)


def test_inverted_masks_are_told_apart(tmp_path):
    def files(*masks: np.ndarray) -> list[Path]:
        for index, mask in enumerate(masks):
            Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{index}.png")
        return [tmp_path / f"{index}.png" for index in range(len(masks))]

    cut_off, everything = disc(), np.ones_like(disc())
    cut_off[HEIGHT // 2 :, 10:30] = True
    assert not are_inverted(files(disc(), cut_off, disc(), everything))
    assert are_inverted(files(~disc(), ~disc(), ~cut_off | (np.arange(WIDTH) < 12), ~disc(), ~disc()))
    assert not are_inverted(files(everything, everything)) and not are_inverted([])
    assert not are_inverted(files(~disc(), disc()))


def test_colours_and_masks_are_multiplied_with_rounding(seed):
    pixels, mask = noise(seed, 9, 9, 4), noise(seed + 1, 9, 9)
    product = lambda a, b: np.floor(a.astype(float) * b / 255 + 0.5)  # noqa: E731
    assert np.array_equal(multiplied(pixels)[..., :3], product(pixels[..., :3], pixels[..., 3:]))
    straight, premultiplied = masked(pixels, mask, False), masked(pixels, mask, True)
    assert np.array_equal(straight[..., :3], pixels[..., :3])
    assert np.array_equal(premultiplied, product(pixels, mask[..., None]))
    assert np.array_equal(straight[..., 3], premultiplied[..., 3])


def test_scaling_averages_areas(seed):
    pixels = noise(seed, 30, 42, 4)
    assert np.array_equal(scaled(pixels, 42, 30), pixels)
    thirds = pixels.reshape(10, 3, 14, 3, 4).mean((1, 3))
    assert np.abs(scaled(pixels, 14, 10) - thirds).max() <= 0.51
    # By a fraction: each old pixel counts by its share of the new one.
    fine = pixels.repeat(4, 0).repeat(4, 1).reshape(20, 6, 28, 6, 4).mean((1, 3))
    assert np.abs(scaled(pixels, 28, 20) - fine).max() <= 0.51


def test_plain_images_are_kept_bit_for_bit(tmp_path, monkeypatch):
    """The values are those of the file, as float32: RGB/255 times alpha/255."""
    files = capture(tmp_path)
    posed = load_posed_images(tmp_path)
    for view, file in zip(posed, files):
        pixels = np.array(Image.open(file)).astype(np.float32)
        alpha = pixels[..., 3:] * np.float32(1 / 255)
        assert np.array_equal(view.image.numpy(), pixels[..., :3] * np.float32(1 / 255) * alpha)
        assert np.array_equal(view.alpha.numpy(), alpha) and view.name == file.name
        assert view.camera.Ks.tolist() == [[[40, 0, 21], [0, 41, 14], [0, 0, 1]]]
        assert (view.camera.width, view.camera.height) == (WIDTH, HEIGHT)
    monkeypatch.setenv("SPECULARIP_NUM_THREADS", "3")
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(posed, load_posed_images(tmp_path)))


def test_views_keep_their_own_sizes(tmp_path):
    files = capture(tmp_path, fl_x=None, fl_y=None, cx=None, cy=None, w=None, h=None, camera_angle_x=0.8)
    sizes = [(40, 30), (64, 48), (30, 40), (40, 40), (40, 30), (33, 21)]
    for file, (width, height) in zip(files, sizes):
        Image.fromarray(noise(0, height, width, 4)).save(file)
    posed = load_posed_images(tmp_path)
    assert [(view.camera.width, view.camera.height) for view in posed] == sizes
    assert [tuple(view.pixels.shape) for view in posed] == [(h, w, 4) for w, h in sizes]
    for view, (width, height) in zip(posed, sizes):
        K = view.camera.Ks[0]
        assert float(K[0, 0]) == pytest.approx(0.5 * width / np.tan(0.4)) and float(K[1, 2]) == height / 2


def test_large_images_are_scaled_with_their_cameras(tmp_path, monkeypatch):
    capture(tmp_path, w=2 * WIDTH, h=2 * HEIGHT)  # as the file has it, for twice the size
    full = load_posed_images(tmp_path)
    assert float(full[0].camera.Ks[0, 0, 0]) == 20 and not any("scaled" in note for note in full.notes)
    small = load_posed_images(tmp_path, max_side=20)
    assert any("40x30" in note and "scaled down" in note for note in small.notes)
    for one, other in zip(full, small):
        assert other.pixels.shape == (15, 20, 4) and other.premultiplied
        assert torch.allclose(other.camera.Ks[0, :2], one.camera.Ks[0, :2] / 2)
        mean = one.image.reshape(15, 2, 20, 2, 3).mean((1, 3))
        assert float((other.image - mean).abs().max()) < 1.6 / 255
    monkeypatch.setattr(pixels_file, "memory_bytes", lambda: 6 * WIDTH * HEIGHT * 4)
    assert "6 images of up to 40x30 take" in error(tmp_path)
    assert len(load_posed_images(tmp_path, max_side=20)) == VIEWS


def test_masks_make_what_they_hide_empty(tmp_path):
    files = capture(tmp_path)
    for index, file in enumerate(files):
        Image.fromarray(smooth()).save(file.with_suffix(".jpg"))
        Image.fromarray(disc()).save(tmp_path / f"m{index}.png")
    each(tmp_path, file_path=[f.stem + ".jpg" for f in files], mask_path=[f"m{k}.png" for k in range(VIEWS)])
    posed = load_posed_images(tmp_path)
    assert all(np.array_equal(view.alpha[..., 0].numpy(), disc()) for view in posed)
    assert all(float(view.image[torch.from_numpy(~disc())].abs().max()) == 0 for view in posed)
    assert any("masks" in note for note in posed.notes) and not any("opaque" in note for note in posed.notes)
    assert not any("straight" in note for note in posed.notes)  # there is no alpha to ask about

    for index in range(VIEWS):
        Image.fromarray(~disc()).save(tmp_path / f"m{index}.png")
    other = load_posed_images(tmp_path)
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(posed, other))
    assert any("inverted" in note for note in other.notes)

    for index in range(VIEWS):
        Image.fromarray(disc() & (index > 1) | (index == 1)).save(tmp_path / f"m{index}.png")
    notes = load_posed_images(tmp_path).notes
    assert any("'0.jpg' are all black" in note for note in notes)
    assert any("'1.jpg' are all white" in note for note in notes)
    for index in range(VIEWS):
        Image.fromarray(disc() & False).save(tmp_path / f"m{index}.png")
    assert "fully transparent or hidden by masks" in error(tmp_path)
    Image.fromarray(np.ones((40, 40), bool)).save(tmp_path / "m3.png")
    assert "m3.png is 40x40, but its image is 40x30" in error(tmp_path)


@pytest.mark.parametrize(
    ("size", "turned"),
    [((WIDTH, HEIGHT), False), ((HEIGHT, WIDTH), True), ((3 * HEIGHT, 3 * WIDTH), True), (None, True)],
)
def test_the_cameras_size_tells_whether_photos_are_turned(tmp_path, size, turned):
    files = capture(tmp_path, fl_y=None, cx=None, cy=None)
    for index, file in enumerate(files):
        turned_file(file.with_suffix(".jpg"), Image.fromarray(smooth()), 6 if index else 1)
    first = Image.fromarray(smooth())
    (first.rotate(-90, expand=True) if turned else first).save(files[0].with_suffix(".jpg"))
    each(tmp_path, file_path=[f.stem + ".jpg" for f in files])
    change(tmp_path, w=size and size[0], h=size and size[1])
    posed = load_posed_images(tmp_path)
    expected = (HEIGHT, WIDTH) if turned else (WIDTH, HEIGHT)
    assert all((view.camera.width, view.camera.height) == expected for view in posed)
    # They show the same as the one that needs no turning.
    for view in posed:
        assert view.pixels.shape == (*expected[::-1], 4)
        assert float((view.image - posed[0].image).abs().mean()) < 0.02
    [note] = [note for note in posed.notes if "EXIF" in note]
    assert ("turned upright to 30x40" in note) is turned and "5 more" not in note and "and 2 more" in note


def test_distorted_images_become_pinhole_images(tmp_path):
    capture(tmp_path, camera_model="OPENCV", k1=-0.2, k2=0.02, p1=0.001)
    posed = load_posed_images(tmp_path)
    for view in posed:
        assert view.pixels.shape == (view.camera.height, view.camera.width, 4) and view.premultiplied
        assert view.camera.width > WIDTH and float(view.camera.Ks[0, 0, 0]) == 40
        assert bool((view.pixels[..., :3] <= view.pixels[..., 3:]).all())
    [note] = [note for note in posed.notes if "distortion" in note]
    assert "opencv" in note and "% of their area" in note
    small = load_posed_images(tmp_path, max_side=24)
    assert all(max(view.camera.width, view.camera.height) in (23, 24) for view in small)
    change(tmp_path, camera_model="OPENCV_FISHEYE", p1=0)
    assert any("fisheye" in note for note in load_posed_images(tmp_path).notes)
    change(tmp_path, camera_model="OPENCV", k1=-2, k2=0)
    message = error(tmp_path)
    assert "transforms_train.json: '0.png': the lens distortion (opencv k1 -2" in message


def test_unusable_profiles_are_said(tmp_path):
    files = capture(tmp_path)
    Image.open(files[2]).save(files[2], icc_profile=b"\1\2\3" * 99)
    assert any("'2.png': unusable colour profile" in note for note in load_posed_images(tmp_path).notes)


def test_same_shape():
    assert same_shape((4032, 3024), (1600, 1200)) and same_shape((4000, 3000), (33, 25))
    assert not same_shape((40, 30), (30, 40)) and not same_shape((1920, 1080), (1600, 1200))
    assert not same_shape((400, 300), (400, 304))


def test_the_background_does_not_show_through_an_outline():
    """A disc of another colour on a wall whose brightness varies; the mask is soft, as of a camera."""
    rows, columns = np.mgrid[:60, :80] + 0.5
    alpha = np.clip(18.5 - np.hypot(rows - 30, columns - 40), 0, 1)[..., None]
    wall = np.array([0.2, 0.7, 0.3]) + 0.002 * columns[..., None]
    subject = np.array([0.8, 0.1, 0.4])
    image = alpha * subject + (1 - alpha) * wall
    pixels = (255 * np.concatenate([image, alpha], -1) + 0.5).astype(np.uint8)
    found = foreground(pixels).astype(float) / 255
    assert np.abs(found[..., :3] - alpha * subject).max() < 0.02
    assert np.abs(image * alpha - alpha * subject).max() > 0.1, "multiplied by the mask, the wall is seen"
    assert np.array_equal(foreground(pixels)[..., 3], pixels[..., 3])
    hard = pixels.copy()
    hard[..., 3] = np.where(hard[..., 3] > 127, 255, 0)
    assert np.array_equal(foreground(hard), multiplied(hard)), "a hard mask says nothing of mixtures"
