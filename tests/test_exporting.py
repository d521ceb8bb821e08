"""The export command: every suffix, kept bakes, and its errors."""

from __future__ import annotations

import pytest
import torch
from avatars import random_avatar

from specularip.avatar import Avatar, load
from specularip.cameras import Cameras
from specularip.cli import main
from specularip.colors import Asgs, HarmonicColors
from specularip.metrics import psnr
from specularip.run_folder import BAKED


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    avatar = random_avatar()
    avatar.gaussians.bind_weights /= avatar.gaussians.bind_weights.sum(1, keepdim=True)
    avatar.save(folder)
    return folder


def export(run, out, *options: str) -> None:
    main(["export", str(run), str(out), "--device", "cpu", *options])


@pytest.mark.parametrize(
    ("suffix", "colors", "least"),
    [
        (".safetensors", None, 90),
        (".ply", HarmonicColors, 20),
        (".spz", HarmonicColors, 20),
        (".glb", Asgs, 25),
    ],
)
def test_every_file_loads_and_looks_alike(run, tmp_path, suffix, colors, least):
    export(run, tmp_path / f"a{suffix}")
    whole, back = load(run), load(tmp_path / f"a{suffix}")
    assert (back.head is not None) if colors is None else isinstance(back.colors, colors)
    camera = Cameras.orbit(30.0, 10.0, 1.5, 45.0, 64, 64)
    likeness = float(psnr(back.render(camera).image, whole.render(camera).image).clamp_max(100))
    plain = float(psnr(Avatar(whole.gaussians).render(camera).image, whole.render(camera).image))
    assert likeness > max(least, plain + 3), (likeness, plain)
    if suffix == ".glb":
        assert back.binding is not None and back.binding.joint_names == whole.binding.joint_names


def test_without_highlights(run, tmp_path):
    for suffix in (".ply", ".spz", ".glb"):
        export(run, tmp_path / f"a{suffix}", "--no-bake")
        back = load(tmp_path / f"a{suffix}")
        assert back.colors is None
        assert (back.gaussians.diffuse - load(run).gaussians.diffuse).abs().max() < 0.02


def test_html_is_one_page_with_the_bake_that_is_kept(run, tmp_path):
    export(run, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "a test — ünïcode" not in page, "the text of this avatar is under another key"
    assert "Content-Security-Policy" in page and 'src="http' not in page and 'id="avatar-data"' in page
    kept = (run / BAKED).stat().st_mtime_ns
    export(run, tmp_path / "b.html")
    assert (run / BAKED).stat().st_mtime_ns == kept, "baked once"
    assert (tmp_path / "b.html").stat().st_size == (tmp_path / "a.html").stat().st_size


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.obj", [], "end the name in"),
        ("a.ply", ["--motion", "walk"], "only .glb and .html"),
        ("a.glb", ["--motion", "none.bvh"], "none.bvh"),
    ],
)
def test_errors_are_one_line(run, tmp_path, capsys, name, options, message):
    with pytest.raises(SystemExit) as stop:
        export(run, tmp_path / name, *options)
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and message in said and "\n" not in said and not list(tmp_path.iterdir())


def test_the_avatar_is_not_overwritten(run, capsys):
    with pytest.raises(SystemExit):
        export(run, run / "avatar.safetensors")
    assert "is the avatar itself" in capsys.readouterr().err
