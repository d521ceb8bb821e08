"""Our files in readers that nobody here wrote, and their files in ours: splat-transform and plyfile."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from avatars import random_avatar
from node_packages import node_packages
from torch.nn import functional as F

from specularip.avatar import Avatar, load
from specularip.cameras import Cameras
from specularip.colors import HarmonicColors
from specularip.export.axes import Y_UP, turned
from specularip.export.ply import FIELDS, REST, read_ply, write_ply
from specularip.export.sog import write_sog
from specularip.export.splats import Splats, splats_from
from specularip.export.spz import write_spz
from specularip.metrics import psnr

SEEDED = (
    "data:text/javascript,"
    "let state = 1; Math.random = () => (state = (state * 16807) %25 2147483647) / 2147483647;"
)
"""A module that makes node's random numbers the same in each run: palettes of splat-transform start there."""


@pytest.fixture
def avatar(seed) -> Avatar:
    plain = random_avatar(with_head=False)
    coefficients = 0.15 * torch.randn(len(plain.gaussians), 16, 3)
    coefficients[:, 0] += 0.5
    return Avatar(plain.gaussians, colors=HarmonicColors(coefficients))


def convert(source: Path, to: Path) -> Path:
    """By splat-transform's command line."""
    cli = node_packages() / "node_modules" / "@playcanvas" / "splat-transform" / "bin" / "cli.mjs"
    command = ["node", "--import", SEEDED, cli, "--overwrite", "--quiet", "--gpu", "cpu", source, to]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    return to


def y_up(splats: Splats) -> Splats:
    """With SPZ's axes, as which splat-transform writes its numbers into a PLY unchanged."""
    cloud = splats.gaussians
    means, quats, coefficients = turned(cloud.means, cloud.quats, splats.colors.coefficients, Y_UP)
    return splats_from(means, quats, cloud.log_scales, cloud.opacity_logits, coefficients)


def assert_same(ours: Splats | Avatar, theirs: Splats) -> None:
    """Two readers of one file: they agree to rounding."""
    one, other = ours.gaussians, theirs.gaussians
    assert len(one) == len(other) and not theirs.notes
    assert torch.allclose(one.means, other.means, atol=2e-6)
    assert torch.allclose(one.log_scales, other.log_scales, atol=1e-5)
    assert torch.allclose(one.opacities, other.opacities, atol=1.1e-3), "0 and 1 have no logit"
    aligned = (F.normalize(one.quats, dim=-1) * F.normalize(other.quats, dim=-1)).sum(-1).abs()
    assert float(aligned.min()) > 1 - 1e-5
    assert torch.allclose(ours.colors.coefficients, theirs.colors.coefficients, atol=1e-4)


def assert_looks_like(found: Splats | Avatar, expected: Avatar, least: float) -> None:
    camera = Cameras.orbit(30.0, 10.0, 1.5, 45.0, 96, 96)
    image = Avatar(found.gaussians, colors=found.colors).render(camera, 0.0).image
    assert float(psnr(image, expected.render(camera, 0.0).image)) > least


def test_our_sog_in_splat_transform(avatar, tmp_path):
    write_sog(tmp_path / "a.sog", avatar.gaussians, avatar.colors)
    assert_same(load(tmp_path / "a.sog"), read_ply(convert(tmp_path / "a.sog", tmp_path / "a.ply")))


def test_sog_of_splat_transform(avatar, tmp_path):
    write_ply(tmp_path / "a.ply", avatar.gaussians, avatar.colors)
    file = convert(tmp_path / "a.ply", tmp_path / "a.sog")
    assert_same(load(file), read_ply(convert(file, tmp_path / "b.ply")))
    assert_looks_like(load(file), avatar, 33)


@pytest.mark.parametrize("version", [3, 4])
def test_our_spz_in_splat_transform(avatar, tmp_path, version):
    if version == 4:
        pytest.importorskip("zstandard", reason="SPZ version 4 needs the zstandard package")
    write_spz(tmp_path / "a.spz", avatar.gaussians, avatar.colors, version=version)
    assert_same(y_up(load(tmp_path / "a.spz")), read_ply(convert(tmp_path / "a.spz", tmp_path / "a.ply")))


def test_spz_of_splat_transform(avatar, tmp_path):
    pytest.importorskip("zstandard", reason="splat-transform writes SPZ of version 4")
    write_ply(tmp_path / "a.ply", avatar.gaussians, avatar.colors)
    file = convert(tmp_path / "a.ply", tmp_path / "a.spz")
    assert_same(y_up(load(file)), read_ply(convert(file, tmp_path / "b.ply")))
    assert_looks_like(y_up(load(file)), avatar, 34)


def test_compressed_ply_of_splat_transform(avatar, tmp_path):
    write_ply(tmp_path / "a.ply", avatar.gaussians, avatar.colors)
    file = convert(tmp_path / "a.ply", tmp_path / "a.compressed.ply")
    theirs = read_ply(convert(file, tmp_path / "b.ply"))
    assert_same(load(file), theirs)


def test_our_ply_in_plyfile(avatar, tmp_path):
    plyfile = pytest.importorskip("plyfile")
    write_ply(tmp_path / "a.ply", avatar.gaussians, avatar.colors)
    vertices = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"]
    names = [entry.name for entry in vertices.properties]
    place = FIELDS.index("opacity")
    assert names == [*FIELDS[:place], *(f"f_rest_{k}" for k in range(REST)), *FIELDS[place:]]
    cloud = avatar.gaussians

    def column(*names: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([vertices[name] for name in names], -1))

    assert torch.equal(column("x", "y", "z"), cloud.means)
    assert torch.equal(column("scale_0", "scale_1", "scale_2"), cloud.log_scales)
    assert torch.equal(column("opacity")[:, 0], cloud.opacity_logits)
    assert torch.equal(column("f_dc_0", "f_dc_1", "f_dc_2"), avatar.colors.coefficients[:, 0])
    for channel in range(3):
        rest = column(*(f"f_rest_{15 * channel + k}" for k in range(15)))
        assert torch.equal(rest, avatar.colors.coefficients[:, 1:, channel])
    quats = column("rot_0", "rot_1", "rot_2", "rot_3")
    assert torch.allclose(quats, F.normalize(cloud.quats, dim=-1), atol=1e-7)
    assert math.isclose(float(quats.norm(dim=-1).max()), 1, abs_tol=1e-6)


def test_plyfiles_ply_in_ours(avatar, tmp_path):
    """Big-endian, doubles, and columns in another order."""
    plyfile = pytest.importorskip("plyfile")
    write_ply(tmp_path / "a.ply", avatar.gaussians, avatar.colors)
    rows = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"].data
    names = sorted(rows.dtype.names)
    other = np.empty(len(rows), [(name, ">f8") for name in names])
    for name in names:
        other[name] = rows[name]
    element = plyfile.PlyElement.describe(other, "vertex")
    plyfile.PlyData([element], byte_order=">").write(tmp_path / "b.ply")
    assert_same(read_ply(tmp_path / "a.ply"), read_ply(tmp_path / "b.ply"))
