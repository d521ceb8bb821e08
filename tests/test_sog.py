"""SOG files: round trips, the layout, codebooks and palettes, and damage."""

from __future__ import annotations

import io
import json
import math
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from avatars import random_avatar
from PIL import Image

from specularip.avatar import Avatar, load
from specularip.cameras import Cameras
from specularip.colors import HarmonicColors
from specularip.errors import UserError
from specularip.export.palettes import codebook, palette
from specularip.export.sog import read_sog, write_sog
from specularip.gaussians import Gaussians, morton_order, rotation_matrices
from specularip.metrics import psnr


def colored(seed: int) -> tuple[Avatar, HarmonicColors]:
    avatar = random_avatar(with_head=False)
    generator = torch.Generator().manual_seed(seed)
    coefficients = 0.15 * torch.randn(len(avatar.gaussians), 16, 3, generator=generator)
    coefficients[:, 0] += 0.5
    return avatar, HarmonicColors(coefficients)


def sorted_like_the_file(cloud: Gaussians) -> Gaussians:
    return cloud.select(morton_order(cloud.means))


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def bundled(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).reshape(-1, 4)


def webp(image: np.ndarray, lossless: bool = True) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "WEBP", lossless=lossless, exact=True)
    return data.getvalue()


def test_round_trip_within_quantisation(seed, tmp_path):
    avatar, colors = colored(seed)
    write_sog(tmp_path / "a.sog", avatar.gaussians, colors, antialiased=True)
    back = read_sog(tmp_path / "a.sog")
    order = morton_order(avatar.gaussians.means)
    cloud, colors = avatar.gaussians.select(order), HarmonicColors(colors.coefficients[order])
    assert back.antialiased and not back.notes
    logs = [torch.copysign(torch.log1p(m.abs()), m) for m in (back.gaussians.means, cloud.means)]
    reach = logs[1].amax(0) - logs[1].amin(0)
    assert ((logs[0] - logs[1]).abs() < 0.51 * reach / 65535 + 1e-6).all(), "half a step"
    assert (back.gaussians.log_scales - cloud.log_scales).abs().max() < 0.02
    assert (back.gaussians.opacities - cloud.opacities).abs().max() < 0.5 / 255 + 1.1e-3
    turns = rotation_matrices(back.gaussians.quats).mT @ rotation_matrices(cloud.quats)
    angle = torch.rad2deg(torch.arccos(((turns.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)))
    assert float(angle.max()) < 1.0, f"seed {seed}"
    # So few Gaussians have a palette entry each: what is left is the codebooks' error.
    assert (back.colors.coefficients - colors.coefficients).abs().max() < 0.03
    camera = Cameras.orbit(30.0, 10.0, 1.5, 45.0, 96, 96)
    pair = (Avatar(back.gaussians, colors=back.colors), Avatar(cloud, colors=colors))
    ours, theirs = (one.render(camera, 0.0).image for one in pair)
    assert float(psnr(ours, theirs)) > 42, f"seed {seed}"


def test_written_twice_it_is_the_same(seed, tmp_path):
    avatar, colors = colored(seed)
    write_sog(tmp_path / "a.sog", avatar.gaussians, colors)
    write_sog(tmp_path / "b.sog", avatar.gaussians, colors)
    assert (tmp_path / "a.sog").read_bytes() == (tmp_path / "b.sog").read_bytes()


def test_colours_without_harmonics(seed, tmp_path):
    avatar, _ = colored(seed)
    back = load(avatar.export(tmp_path / "a.sog"))
    assert back.colors is None and "shN" not in json.loads(
        members((tmp_path / "a.sog").read_bytes())["meta.json"]
    )
    expected = sorted_like_the_file(avatar.gaussians).diffuse
    assert (back.gaussians.diffuse - expected).abs().max() < 0.01, f"seed {seed}"


def test_the_layout_is_that_of_the_specification(seed, tmp_path):
    """The file decoded by hand, a Gaussian at a time."""
    avatar, colors = colored(seed)
    write_sog(tmp_path / "a.sog", avatar.gaussians, colors)
    files = members((tmp_path / "a.sog").read_bytes())
    meta = json.loads(files["meta.json"])
    assert meta["version"] == 2 and meta["count"] == len(avatar.gaussians) and "model" not in meta
    low, high, quats, scales, sh0, labels = (
        pixels(files[f"{name}.webp"]).astype(int)
        for name in ("means_l", "means_u", "quats", "scales", "sh0", "shN_labels")
    )
    centroids = np.asarray(Image.open(io.BytesIO(files["shN_centroids.webp"])))
    assert centroids.shape[1] == 64 * 15
    order = morton_order(avatar.gaussians.means)
    cloud = avatar.gaussians.select(order)
    for row in (0, 1, 77, len(cloud) - 1):
        for axis in range(3):
            share = (low[row, axis] + 256 * high[row, axis]) / 65535
            least, most = meta["means"]["mins"][axis], meta["means"]["maxs"][axis]
            log = least + share * (most - least)
            place = math.copysign(math.exp(abs(log)) - 1, log)
            assert place == pytest.approx(float(cloud.means[row, axis]), abs=1e-4)
            scale = meta["scales"]["codebook"][scales[row, axis]]
            assert scale == pytest.approx(float(cloud.log_scales[row, axis]), abs=0.02)
            base = meta["sh0"]["codebook"][sh0[row, axis]]
            assert base == pytest.approx(float(colors.coefficients[order[row], 0, axis]), abs=0.02)
            label = labels[row, 0] + 256 * labels[row, 1]
            for k in range(15):
                code = centroids[label // 64, label % 64 * 15 + k, axis]
                expected = float(colors.coefficients[order[row], 1 + k, axis])
                assert meta["shN"]["codebook"][code] == pytest.approx(expected, abs=0.03)
        assert sh0[row, 3] / 255 == pytest.approx(float(cloud.opacities[row]), abs=0.003)
        largest = quats[row, 3] - 252
        three = [(byte / 255 - 0.5) * math.sqrt(2) for byte in quats[row, :3]]
        rest = math.sqrt(max(0, 1 - sum(x * x for x in three)))
        found = np.array([*three[:largest], rest, *three[largest:]])
        unit = cloud.quats[row] / cloud.quats[row].norm()
        assert abs(found @ unit.numpy()) > 0.9999


def test_codebook_is_nearly_as_good_as_brute_force(seed):
    generator = np.random.default_rng(seed)
    values = np.concatenate([generator.normal(-6, 0.7, 5000), generator.normal(2, 0.1, 20)]).reshape(-1, 2)
    codes, indices = codebook(values)
    nearest = np.abs(values[..., None] - codes.astype(np.float64)).argmin(-1)
    assert codes.shape == (256,) and (np.diff(codes) >= 0).all()
    assert np.allclose(codes[indices], codes[nearest], atol=1e-5)
    steps = np.ptp(values) / 255
    assert np.square(codes[indices] - values).mean() < 0.5 * steps**2 / 12, f"seed {seed}"
    assert (codebook(np.full(7, 3.25))[0] == 3.25).all()


def test_palette(seed):
    generator = np.random.default_rng(seed)
    centres = generator.normal(0, 1, (40, 9))
    which = np.concatenate([np.arange(40), generator.integers(0, 40, 600)])
    rows = (centres[which] + generator.normal(0, 1e-3, (640, 9))).astype(np.float32)
    entries, labels = palette(rows, 256)
    assert len(entries) == 256 and labels.shape == (640,)
    for cell in (0, 11, 255):  # an entry is the mean of its rows
        assert np.allclose(entries[cell], rows[labels == cell].mean(0), atol=1e-5)
    error = np.square(entries[labels] - rows).sum(1).mean()
    assert error < 9 * 1e-6, f"more entries than clusters: less than their spread; seed {seed}"
    coarse, coarse_labels = palette(rows, 8)
    assert len(coarse) == 8
    assert np.square(coarse[coarse_labels] - rows).sum() < 0.85 * np.square(rows - rows.mean(0)).sum()
    same, zeros = palette(np.ones((5, 9), np.float32), 4)
    assert np.allclose(same, 1) and same.shape == (1, 9) and not zeros.any()


def test_a_rotation_without_a_tag_is_left_out(tmp_path):
    avatar, colors = colored(0)
    write_sog(tmp_path / "a.sog", avatar.gaussians, colors)
    files = members((tmp_path / "a.sog").read_bytes())
    image = np.asarray(Image.open(io.BytesIO(files["quats.webp"]))).copy()
    image[0, :3, 3] = 17
    files["quats.webp"] = webp(image)
    (tmp_path / "a.sog").write_bytes(bundled(files))
    back = read_sog(tmp_path / "a.sog")
    assert len(back.gaussians) == len(avatar.gaussians) - 3
    assert back.notes == (f"3 of {len(avatar.gaussians)} Gaussians left out: NaN, infinite, or no rotation",)


def test_damaged_files_are_one_line(tmp_path):
    avatar, colors = colored(0)
    file = tmp_path / "a.sog"
    write_sog(file, avatar.gaussians, colors)
    whole = file.read_bytes()
    files = members(whole)
    meta = json.loads(files["meta.json"])

    def edited(**changes: object) -> bytes:
        return bundled({**files, "meta.json": json.dumps(meta | changes).encode()})

    def replaced(name: str, data: bytes) -> bytes:
        return bundled({**files, name: data})

    small = np.zeros((4, 4, 4), np.uint8)
    huge = bytearray(files["sh0.webp"])
    huge[21:25] = b"\xff\xff\xff\x1f"  # 16384 squared
    cases = [
        (b"", "not a zip"),
        (whole[: len(whole) // 2], "not a zip"),
        (bundled({"a.webp": b"x"}), "contains no 'meta.json'"),
        (replaced("meta.json", b"{"), "meta.json is damaged: "),
        (replaced("meta.json", b"[" * 100_000), "meta.json is damaged: "),
        (replaced("meta.json", b" " * 2_000_000), "too large"),
        (replaced("meta.json", b"3"), "an object is expected"),
        (edited(version=1), "version 1"),
        (edited(count=0), "no Gaussians"),
        (edited(count=True), "no Gaussians"),
        (edited(count=2**40), "too small for them"),
        (edited(count=len(avatar.gaussians) + 1000), "wrong size"),
        (edited(means={}), "does not name the files of means"),
        (edited(means=meta["means"] | {"mins": [0, 0]}), "valid mins of means"),
        (edited(means=meta["means"] | {"maxs": [0, 0, 10**400]}), "valid maxs of means"),
        (edited(means=meta["means"] | {"maxs": [0, 0, float("nan")]}), "valid maxs of means"),
        (edited(means=meta["means"] | {"maxs": [0, 0, 200]}), "out of range"),
        (edited(scales=meta["scales"] | {"codebook": []}), "valid codebook of scales"),
        (edited(scales=meta["scales"] | {"files": ["../x"]}), "contains no '../x'"),
        (edited(sh0=None), "no sh0"),
        (edited(shN=meta["shN"] | {"bands": 4}), "degree 4"),
        (edited(shN=meta["shN"] | {"bands": 2}), "wrong size"),
        (replaced("sh0.webp", webp(small)), "wrong size, 4x4"),
        (replaced("sh0.webp", bytes(huge)), "wrong size, 16384x"),
        (replaced("sh0.webp", webp(np.zeros((16, 16, 4), np.uint8), lossless=False)), "not a lossless WebP"),
        (replaced("sh0.webp", files["sh0.webp"][:-40]), "damaged"),
        (bundled({f"{k}.webp": b"" for k in range(300)}), "more than 256 files"),
    ]
    for data, message in cases:
        file.write_bytes(data)
        with pytest.raises(UserError, match=message) as caught:
            read_sog(file)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot read"):
        read_sog(tmp_path / "none.sog")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    avatar, colors = colored(0)
    file = tmp_path / "a.sog"
    write_sog(file, avatar.gaussians, colors)
    files = members(file.read_bytes())
    data = bundled({**files, "sh0.webp": bytes(10**8)})
    assert len(data) < 200_000
    file.write_bytes(data)
    del data
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"'sh0.webp' is too large"):
            read_sog(file)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
