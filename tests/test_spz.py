"""SPZ files: round trips, the layout, versions, axes, and damage."""

from __future__ import annotations

import gzip
import math
import struct
import zlib

import numpy as np
import pytest
import torch
from avatars import random_avatar
from torch.nn import functional as F

from specularip.avatar import Avatar, load
from specularip.cameras import Cameras
from specularip.colors import HarmonicColors
from specularip.errors import UserError
from specularip.export.spz import read_spz, write_spz
from specularip.gaussians import rotation_matrices
from specularip.metrics import psnr

VERSIONS = (3, 4)


def needs_zstandard(version: int) -> None:
    if version == 4:
        pytest.importorskip("zstandard", reason="SPZ version 4 needs the zstandard package")


def colored(seed: int) -> tuple[Avatar, HarmonicColors]:
    avatar = random_avatar(with_head=False)
    generator = torch.Generator().manual_seed(seed)
    coefficients = 0.15 * torch.randn(len(avatar.gaussians), 16, 3, generator=generator)
    coefficients[:, 0] += 0.5
    return avatar, HarmonicColors(coefficients)


@pytest.mark.parametrize("version", VERSIONS)
def test_round_trip_within_quantisation(seed, tmp_path, version):
    needs_zstandard(version)
    avatar, colors = colored(seed)
    write_spz(tmp_path / "a.spz", avatar.gaussians, colors, antialiased=True, version=version)
    back, cloud = read_spz(tmp_path / "a.spz"), avatar.gaussians
    assert back.antialiased and not back.notes
    assert (back.gaussians.means - cloud.means).abs().max() < 1.01 * 2**-15 * math.sqrt(3), "half a step"
    assert (back.gaussians.log_scales - cloud.log_scales).abs().max() < 1 / 32 + 1e-5
    assert (back.gaussians.opacities - cloud.opacities).abs().max() < 0.5 / 255 + 1.1e-3
    turns = rotation_matrices(back.gaussians.quats).mT @ rotation_matrices(cloud.quats)
    angle = torch.rad2deg(torch.arccos(((turns.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)))
    assert float(angle.max()) < 0.4, f"seed {seed}"
    # Turning the axes mixes the quantisation errors of a degree.
    assert (back.colors.coefficients - colors.coefficients).abs().max() < 3 / 128
    camera = Cameras.orbit(30.0, 10.0, 1.5, 45.0, 96, 96)
    pair = (Avatar(back.gaussians, colors=back.colors), Avatar(cloud, colors=colors))
    ours, theirs = (one.render(camera, 0.0).image for one in pair)
    assert float(psnr(ours, theirs)) > 38, f"seed {seed}"


def test_axes_are_right_up_back(tmp_path):
    """The person's left stays +x, up becomes +y, and the front +z; the shortest axis turns along."""
    avatar, _ = colored(0)
    cloud = avatar.gaussians.select(torch.tensor([0]))
    cloud.means[0] = torch.tensor([0.25, -0.5, 1.5])
    write_spz(tmp_path / "a.spz", cloud)
    data = zlib.decompress((tmp_path / "a.spz").read_bytes(), wbits=31)
    magic, version, count, degree, bits, flags, _ = struct.unpack_from("<IIIBBBB", data)
    assert (magic, version, count, degree, flags) == (0x5053474E, 3, 1, 0, 0)
    place = [int.from_bytes(data[16 + 3 * k : 19 + 3 * k], "little", signed=True) for k in range(3)]
    assert np.array(place) / 2.0**bits == pytest.approx([0.25, 1.5, 0.5], abs=1e-4)
    assert len(data) == 16 + 9 + 1 + 3 + 3 + 4


def test_colours_without_harmonics(seed, tmp_path):
    avatar, _ = colored(seed)
    back = load(avatar.export(tmp_path / "a.spz"))
    assert back.colors is None
    assert (back.gaussians.diffuse - avatar.gaussians.diffuse).abs().max() < 0.02, f"seed {seed}"


@pytest.mark.parametrize("version", [1, 2])
def test_older_versions(version, tmp_path):
    places, xyz = np.array([[0.5, 1.25, -0.75]]), np.array([[0.1, -0.3, 0.5]])
    if version == 1:
        position = places.astype("<f2").tobytes()
    else:
        fixed = (places * 4096).astype(int)[0]
        position = b"".join(int(one).to_bytes(3, "little", signed=True) for one in fixed)
    body = position + bytes([128, 200, 127, 10, 96, 80, 112])
    body += ((xyz + 1) * 127.5).round().astype(np.uint8).tobytes()
    header = struct.pack("<IIIBBBB", 0x5053474E, version, 1, 0, 12, 0, 0)
    (tmp_path / "a.spz").write_bytes(gzip.compress(header + body))
    found = read_spz(tmp_path / "a.spz").gaussians
    assert found.means[0].tolist() == pytest.approx([0.5, 0.75, 1.25], abs=1e-3)
    assert found.log_scales[0].tolist() == pytest.approx([-4, -5, -3])
    w = math.sqrt(1 - float(np.square(xyz).sum()))
    theirs = F.normalize(torch.tensor([[w, *xyz[0]]]).float(), dim=-1)
    # y up to z up: their x, y, z are our x, z, -y.
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    expected = turn @ rotation_matrices(theirs)[0]
    assert torch.allclose(rotation_matrices(found.quats)[0], expected, atol=0.02)


@pytest.mark.parametrize("version", VERSIONS)
def test_damaged_files_are_one_line(tmp_path, version):
    needs_zstandard(version)
    avatar, colors = colored(0)
    file = tmp_path / "a.spz"
    write_spz(file, avatar.gaussians, colors, version=version)
    whole = file.read_bytes()
    plain = whole if version == 4 else zlib.decompress(whole, wbits=31)

    def edited(offset: int, value: bytes) -> bytes:
        data = plain[:offset] + value + plain[offset + len(value) :]
        return data if version == 4 else gzip.compress(data)

    cases = [
        (b"", "cut short"),
        (whole[: len(whole) // 2], "cut short|damaged"),
        (b"PK\3\4" + whole, "not SPZ"),
        (edited(4, b"\x09"), "has version 9"),
        (edited(8, b"\xff\xff\xff\xff"), "too small for them|table of contents"),
        (edited(8, b"\0\0\0\0"), "no Gaussians|cut short"),
        (edited(12, b"\5"), "degree 5"),
        (edited(13, b"\x60"), "no valid scale"),
    ]
    for data, message in cases:
        file.write_bytes(data)
        with pytest.raises(UserError, match=message) as caught:
            read_spz(file)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot read"):
        read_spz(tmp_path / "none.spz")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    header = struct.pack("<IIIBBBB", 0x5053474E, 3, 50_000_000, 3, 12, 0, 0)
    coder = zlib.compressobj(9, wbits=31)
    data = coder.compress(header)
    for _ in range(200):
        data += coder.compress(bytes(2**20))
    (tmp_path / "a.spz").write_bytes(data + coder.flush())
    with pytest.raises(UserError, match="claims 50000000 Gaussians"):
        read_spz(tmp_path / "a.spz")


def test_version_4_without_zstandard_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    avatar, _ = colored(0)
    with pytest.raises(UserError, match="pip install zstandard"):
        write_spz(tmp_path / "a.spz", avatar.gaussians, version=4)
    with pytest.raises(ValueError, match="version"):
        write_spz(tmp_path / "a.spz", avatar.gaussians, version=5)  # type: ignore[arg-type]
