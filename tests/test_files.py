"""Files appear complete or not at all, and hold what was written."""

import json
import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from specularip.errors import UserError
from specularip.files import atomic_path, to_uint8, write_json, write_png


def test_written_files_have_default_permissions(tmp_path):
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("a")
        temporary.chmod(0o600)
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_atomic_path_keeps_the_old_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a.txt"]
    with pytest.raises(UserError, match="cannot write"):
        with atomic_path(path / "below_a_file"):
            pass
    with pytest.raises(UserError, match="No space left"):
        with atomic_path(path) as temporary:
            raise OSError(28, "No space left on device")


def test_json_of_all_types_in_a_report(tmp_path):
    @dataclass
    class Settings:
        steps: int
        shares: tuple[float, ...]

    value = {"s": Settings(3, (0.5, float("inf"))), "p": tmp_path, "t": torch.arange(2), "n": np.float32(1)}
    write_json(tmp_path / "r.json", value)
    assert json.loads((tmp_path / "r.json").read_text()) == {
        "s": {"steps": 3, "shares": [0.5, None]}, "p": str(tmp_path), "t": [0, 1], "n": 1.0,
    }  # fmt: skip


def test_png(tmp_path, seed):
    image = torch.rand(9, 7, 3)
    image[0, 0, 0] = 2.0
    got = np.asarray(Image.open(write_png(tmp_path / "a.png", image)))
    assert np.abs(got / 255.0 - image.clamp(0, 1).numpy()).max() < 0.51 / 255
    assert Image.open(write_png(tmp_path / "g.png", np.zeros((4, 5, 1), np.uint8))).size == (5, 4)
    with pytest.raises(ValueError, match=r"\[3, 9, 7\]"):
        write_png(tmp_path / "b.png", image.permute(2, 0, 1))
    assert sorted(os.listdir(tmp_path)) == ["a.png", "g.png"]


@pytest.mark.parametrize("convert", [torch.Tensor.numpy, torch.Tensor.clone], ids=["array", "tensor"])
def test_bytes_are_rounded_and_clipped(convert):
    image = torch.tensor([[0.0, 1.0, 0.5, -3.0], [7.0, float("nan"), float("inf"), 1 / 255]])
    assert to_uint8(convert(image)).tolist() == [[0, 255, 128, 0], [255, 0, 255, 1]]
    assert to_uint8(convert(torch.tensor([3, 200], dtype=torch.uint8))).tolist() == [3, 200]
