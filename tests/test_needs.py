"""What a command will need at its end is tried at its start: ffmpeg, a place to write, disk and memory."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import imageio_ffmpeg
import pytest
from avatars import COUNT, random_avatar
from tiny_runs import FACE, TEXT

from specularip import ffmpeg, resources
from specularip.animate import animate
from specularip.cli import main
from specularip.errors import UserError
from specularip.exporting import export
from specularip.ffmpeg import VARIABLE, find_ffmpeg
from specularip.files import check_writable
from specularip.fitting.fit import fit
from specularip.fitting.settings import FitConfig
from specularip.inputs import check_run
from specularip.options import AnimateOptions, RenderOptions
from specularip.pipeline import generate
from specularip.presets import preset_config
from specularip.progress import Progress
from specularip.rendering import render
from specularip.resources import check_memory, check_space, total_memory
from specularip.stages.settings import Config

Usage = namedtuple("Usage", "total used free")


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


def test_the_ffmpeg_of_the_package_works() -> None:
    assert Path(find_ffmpeg()).name.startswith("ffmpeg")


posix = pytest.mark.skipif(os.name == "nt", reason="needs a shell")


@posix
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exit 0", "it wrote no video"),
        ("echo 'Unknown encoder libx264' >&2; exit 1", "Unknown encoder libx264"),
        ('touch "$(eval echo \\${$#})"; exit 0', "it wrote no video"),
        ("exec sleep 60", "does not end within"),
        ("exec yes", "does not end within"),
    ],
)
def test_programs_that_are_no_ffmpeg(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, words: str
) -> None:
    monkeypatch.setenv(VARIABLE, str(script(tmp_path / "program", text)))
    monkeypatch.setattr(ffmpeg, "TRIAL_SECONDS", 0.5)
    with pytest.raises(UserError, match=rf"{words}.*: unset {VARIABLE}, or set it to an ffmpeg") as caught:
        find_ffmpeg()
    assert "\n" not in str(caught.value)


def test_every_command_that_makes_a_video_asks_for_ffmpeg_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before anything is read: the avatar and the photo do not exist."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nothing"))
    missing, progress = tmp_path / "avatar", Progress(open(os.devnull, "w"))
    for make in (
        lambda: generate(TEXT, tmp_path / "no.jpg", out=tmp_path / "run"),
        lambda: render(missing, tmp_path / "x.mp4", RenderOptions(), None, progress),
        lambda: animate(missing, tmp_path / "x.mp4", AnimateOptions(), None, progress),
    ):
        with pytest.raises(UserError, match=rf"{VARIABLE}=.*nothing cannot write videos \(No such file"):
            make()
    with pytest.raises(UserError, match="avatar"):  # an image needs none
        render(missing, tmp_path / "x.png", RenderOptions(), None, progress)
    assert not list(tmp_path.iterdir())


def test_a_wheel_without_its_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise RuntimeError("No ffmpeg exe could be found. Install ffmpeg on your system, or set ...")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    with pytest.raises(UserError, match=r"there is no ffmpeg to write videos: install ffmpeg .*apt install"):
        find_ffmpeg()


def test_a_place_to_write_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder" / "x.png")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("old")
    check_writable(tmp_path / "file")
    for path, words in (
        (tmp_path, "it is a folder"),
        (tmp_path / "file" / "x.png", "is a file"),
        (tmp_path / ("x" * 250 + ".png"), "File name too long"),
    ):
        with pytest.raises(UserError, match=words):
            check_writable(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "old"


def test_every_command_tries_its_place_first(tmp_path: Path) -> None:
    """The inputs do not exist: with them read first, the message would be about them."""
    (tmp_path / "file").touch()
    missing, below, progress = tmp_path / "avatar", tmp_path / "file" / "below", Progress()
    for make in (
        lambda: render(missing, below / "x.png", RenderOptions(), None, progress),
        lambda: animate(missing, below / "x.glb", AnimateOptions(), None, progress),
        lambda: export(missing, below / "x.ply", progress=progress),
        lambda: fit(missing, below, device="cpu"),
    ):
        with pytest.raises(UserError, match=r"cannot write.*is a file"):
            make()


@pytest.mark.parametrize(
    "arguments",
    [("eval", "avatar", "--data", "data", "--out", "file/m.json"), ("bake", "avatar", "--out", "file/b.ply")],
)
def test_eval_and_bake_do_too(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit):
        main([*arguments, *(("--to", "sh3") if arguments[0] == "bake" else ())])
    assert "is a file" in capsys.readouterr().err


def test_too_little_disk_is_told_with_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = [10e6]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1e12, 0, free[0]))
    words = r"the run may take \d+\.\d [MG]B and the disk of .*run has 10\.0 MB free: make room"
    with pytest.raises(UserError, match=words):
        check_run(Config(), tmp_path / "run")
    with pytest.raises(UserError, match=words):
        fit(tmp_path, tmp_path / "run", device="cpu")
    with pytest.raises(UserError, match=r"x\.mp4 may take .* GB"):
        render(tmp_path, tmp_path / "x.mp4", RenderOptions(size="4k", frames=10_000), None, Progress())
    free[0] = 500 * COUNT
    small = random_avatar().save(tmp_path / "small.safetensors")
    with pytest.raises(UserError, match=r"x\.ply may take"):
        export(small, tmp_path / "x.ply", progress=Progress())
    free[0] = 1e10
    check_run(Config(), tmp_path / "run")
    check_run(preset_config("sd15"), tmp_path / "run")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 0))  # a file system that does not say
    check_space(tmp_path, 1e9, "the run")


def test_what_cannot_fit_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(resources, "MEMORY_LIMIT", limit)
    total = total_memory()
    limit.write_text("max\n")
    assert total_memory() == total
    limit.write_text("8000000000\n")
    assert total_memory() == 8e9
    with pytest.raises(UserError, match=r"a fit of 10000000 points takes at least 40.0 GB .* has 8.0 GB"):
        fit(tmp_path, tmp_path / "run", config=FitConfig(points=10_000_000), device="cpu")
    check_memory(7e9, "this")
    assert not (tmp_path / "run").exists()


@posix
def test_the_command_says_it_before_torch_loads(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom specularip.cli import main\n"
        f"try: main({['generate', TEXT, '--image', str(FACE), '--out', str(tmp_path / 'run')]!r})\n"
        "except SystemExit as stopped: print(stopped.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, VARIABLE: "/nonexistent"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.endswith("2 False\n"), done
    assert done.stderr.count("\n") == 1 and "cannot write videos" in done.stderr
