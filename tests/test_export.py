"""Exporters: PLY that other viewers read, video that browsers play."""

import os
import re
import struct
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from specularip.colors import HarmonicColors
from specularip.errors import UserError
from specularip.export import read_ply, write_ply, write_video
from specularip.gaussians import Gaussians


def cloud(count: int = 40) -> Gaussians:
    return Gaussians(
        means=torch.randn(count, 3) * 0.2,
        quats=torch.nn.functional.normalize(torch.randn(count, 4), dim=-1),
        log_scales=-3 + 0.5 * torch.randn(count, 3),
        opacity_logits=torch.randn(count),
        color_logits=torch.randn(count, 3),
        latents=torch.randn(count, 8),
        normal_residuals=torch.randn(count, 3),
        regions=torch.zeros(count, dtype=torch.int64),
        bind_joints=torch.zeros(count, 4, dtype=torch.int64),
        bind_weights=torch.zeros(count, 4),
    )


def test_ply_round_trip(seed, tmp_path):
    gaussians = cloud()
    write_ply(tmp_path / "a.ply", gaussians)
    back = read_ply(tmp_path / "a.ply").gaussians
    for name in ("means", "quats", "log_scales", "opacity_logits"):
        assert torch.equal(getattr(back, name), getattr(gaussians, name)) or torch.allclose(
            getattr(back, name), getattr(gaussians, name), atol=1e-6
        ), f"seed {seed}: {name}"
    assert torch.allclose(back.diffuse, gaussians.diffuse.clamp(1 / 512, 511 / 512), atol=1e-5), seed


def test_ply_is_the_layout_of_3dgs(seed, tmp_path):
    gaussians = cloud(2)
    write_ply(tmp_path / "a.ply", gaussians)
    header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n", 1)
    names = re.findall(r"property float (\w+)", header.decode())
    expected = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
    assert names == expected.split() and b"element vertex 2\n" in header
    row = dict(zip(names, struct.unpack("<17f", body[:68])))
    assert len(body) == 2 * 68
    assert abs(0.5 + 0.28209479177387814 * row["f_dc_1"] - float(gaussians.diffuse[0, 1])) < 1e-6
    assert row["opacity"] == float(gaussians.opacity_logits[0]) and row["rot_0"] == pytest.approx(
        float(gaussians.quats[0, 0])
    )
    assert abs(row["nx"] ** 2 + row["ny"] ** 2 + row["nz"] ** 2 - 1) < 1e-5


def foreign_ply(path, count=5, order="<", extra=("filter", "label"), spoil=None, kind="float", **changes):
    """A PLY as other programs write it: additional properties, either byte order; damaged on request."""
    names = ["x", "y", "z", *extra, *(f"f_dc_{i}" for i in range(3)), "opacity"]
    names += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    rows = np.random.default_rng(0).normal(size=(count, len(names)))
    if spoil is not None:
        rows[-1, names.index("opacity")] = spoil
    fmt = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
    header = f"ply\nformat {fmt} 1.0\ncomment by someone\nelement vertex {count}\n"
    header += "".join(f"property {kind} {n}\n" for n in names) + "end_header\n"
    data = header.encode() + rows.astype(order + {"float": "f4", "double": "f8"}[kind]).tobytes()
    path.write_bytes(data)
    return rows, names


@pytest.mark.parametrize(("order", "kind"), [("<", "float"), (">", "float"), ("<", "double")])
def test_ply_of_other_programs_is_read(order, kind, tmp_path):
    rows, names = foreign_ply(tmp_path / "a.ply", order=order, kind=kind)
    cloud = read_ply(tmp_path / "a.ply").gaussians
    assert np.allclose(cloud.means.numpy(), rows[:, :3], atol=1e-6)
    assert np.allclose(cloud.opacity_logits.numpy(), rows[:, names.index("opacity")], atol=1e-6)
    assert torch.isfinite(cloud.color_logits).all() and len(cloud) == 5


def test_harmonics_round_trip(seed, tmp_path):
    gaussians, harmonics = cloud(20), HarmonicColors(0.2 * torch.randn(20, 16, 3))
    write_ply(tmp_path / "a.ply", gaussians, harmonics)
    back = read_ply(tmp_path / "a.ply")
    assert torch.equal(back.colors.coefficients, harmonics.coefficients), seed
    base = (harmonics.coefficients[:, 0] * 0.28209479177387814 + 0.5).clamp(1 / 512, 511 / 512)
    assert torch.allclose(back.gaussians.diffuse, base, atol=1e-5), seed
    write_ply(tmp_path / "b.ply", gaussians)
    assert read_ply(tmp_path / "b.ply").colors is None


def test_harmonics_of_other_programs(tmp_path):
    rest = [f"f_rest_{k}" for k in range(9)]
    rows, names = foreign_ply(tmp_path / "a.ply", extra=rest[::-1])
    found = read_ply(tmp_path / "a.ply").colors.coefficients
    assert found.shape == (5, 16, 3) and bool((found[:, 4:] == 0).all())
    green = rows[:, [names.index(f"f_rest_{k}") for k in (3, 4, 5)]]
    assert np.allclose(found[:, 1:4, 1].numpy(), green, atol=1e-6)
    for extra in (rest[:5], ["f_rest_1", "f_rest_9", *rest[2:]]):
        foreign_ply(tmp_path / "a.ply", extra=extra)
        with pytest.raises(UserError, match="no degree up to 4"):
            read_ply(tmp_path / "a.ply")


def test_damaged_ply_raises_one_line_errors(tmp_path):
    path = tmp_path / "a.ply"
    foreign_ply(path)
    whole = path.read_bytes()
    cases = {
        "not a PLY": b"\x89PNG....",
        "cut short: ": whole[:-7],
        "has no end": whole[:60],
        "row 0 of 'vertex' is not a number": whole.replace(b"binary_little_endian", b"ascii"),
        "has no rot_2": whole.replace(b"rot_2", b"spin2"),
        "it has no vertices": whole.replace(b"vertex 5", b"vertex 0"),
        "cut short: it has 0 of 5": whole.replace(b"float rot_3", b"list uchar int rot_3"),
        "cannot read the property": whole.replace(b"float rot_3", b"float128 rot_3"),
        "header's line": whole.replace(b"vertex 5", b"vertex -5"),
        "does not say how numbers": whole.replace(b"format", b"fOrmat"),
        "twice": whole.replace(b"filter", b"label"),
        "is not a PLY": b"",
    }
    for message, data in cases.items():
        path.write_bytes(data)
        with pytest.raises(UserError, match=message) as caught:
            read_ply(path)
        assert "\n" not in str(caught.value)
    for value in (np.nan, 1e30):
        foreign_ply(path, spoil=value)
        found = read_ply(path)
        assert len(found.gaussians) == 4 and "1 of 5 Gaussians left out" in found.notes[0]
        foreign_ply(path, count=1, spoil=value)
        with pytest.raises(UserError, match="NaN"):
            read_ply(path)
    with pytest.raises(UserError, match="cannot read"):
        read_ply(tmp_path / "none.ply")
    path.write_bytes(whole.replace(b"vertex 5", b"vertex 99999999999"))
    with pytest.raises(UserError, match="cut short"):
        read_ply(path)


def test_other_elements_are_skipped(tmp_path):
    path = tmp_path / "a.ply"
    foreign_ply(path)
    head, body = path.read_bytes().split(b"end_header\n", 1)
    before = b"element camera 2\nproperty double f\nproperty uchar k\nelement nothing 0\nproperty int a\n"
    before += b"element vertex"
    after = b"element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    head = head.replace(b"element vertex", before) + after
    path.write_bytes(head + bytes(18) + body + b"\3" + bytes(12))
    found = read_ply(path).gaussians
    foreign_ply(path)
    assert torch.equal(found.means, read_ply(path).gaussians.means)


def frames(count: int, height: int, width: int):
    for index in range(count):
        frame = np.full((height, width, 3), 40, np.uint8)
        frame[:, : width // 2] = (200, 60, 20 + 4 * index)
        yield frame


def test_video_plays_in_browsers(tmp_path):
    path = tmp_path / "out" / "a.mp4"
    assert write_video(frames(12, 33, 47), path, fps=24) == 12
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat"), "the index must come first"
    listing = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True
    ).stderr
    assert "h264" in listing and "yuv420p" in listing and "48x34" in listing and "24 fps" in listing, listing
    assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] == 12
    reader = imageio_ffmpeg.read_frames(str(path))
    next(reader)
    first = np.frombuffer(next(reader), np.uint8).reshape(34, 48, 3)
    reader.close()
    assert np.abs(first[5:25, 5:18].astype(int) - (200, 60, 20)).max() < 12, "colours must be preserved"
    assert os.listdir(path.parent) == ["a.mp4"]


def test_video_errors(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        write_video([], tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="uint8"):
        write_video([np.zeros((8, 8, 3))], tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="one size"):
        write_video([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], tmp_path / "a.mp4")
    with pytest.raises(UserError, match="ffmpeg: "):
        write_video(frames(3, 16, 16), tmp_path / "a.nonsense")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_video(frames(3, 16, 16), tmp_path / "file" / "a.mp4")
    assert os.listdir(tmp_path) == ["file"]
