"""Damaged files of every format that is read: accepted, or one line, whatever happened to them.

`benchmarks/damaged_files.py` tries thousands of each.
"""

from __future__ import annotations

import gzip
import io
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from avatars import random_avatar
from damaged_formats import ACCEPTED, FAULT, FORMATS, REFUSED, SLACK, damaged, trial, trials_elsewhere
from PIL import Image

from specularip.avatar import Avatar, load
from specularip.colors import HarmonicColors
from specularip.export.glb import write_glb
from specularip.export.ply import write_ply
from specularip.export.sog import write_sog
from specularip.gaussians import Gaussians

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
TRIALS = 40
"""Of each format."""


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused_in_one_line(name: str, tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    path = FORMATS[name].make(folder)
    sound = path.read_bytes()
    first = seed % 10_000 * 1000
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryFile() as printed:
        assert trial(name, path, sound, printed.fileno()).outcome == ACCEPTED
        for number in range(first, first + TRIALS):
            found = trial(name, path, damaged(name, sound, number), printed.fileno())
            assert found.outcome != FAULT, f"{name}, trial {number}: {found.message}"
            outcomes[found.outcome] += 1
    assert outcomes[REFUSED], "some damage does harm"


def test_memory_of_sound_files(tmp_path: Path) -> None:
    """100 thousand Gaussians: honest is what they take as float32."""
    cloud = random_avatar(with_head=False).gaussians
    cloud = cloud.select(torch.arange(100_000) % len(cloud))
    avatar = Avatar(cloud, colors=HarmonicColors(0.2 * torch.randn(100_000, 16, 3)))
    paths = [tmp_path / f"a{suffix}" for suffix in (".ply", ".spz", ".sog", ".glb", ".safetensors")]
    for path in paths:
        avatar.export(path)
    names = ("ply", "spz 3", "sog", "glb", "avatar")
    for path, found in zip(paths, trials_elsewhere(list(zip(names, paths))), strict=True):
        grown = found.memory
        assert grown < 4 * (4 * 59 * 100_000) + SLACK, f"{path}: {grown >> 20} MB"
        assert found.outcome == ACCEPTED or "MB of memory" in found.message, found.message


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
