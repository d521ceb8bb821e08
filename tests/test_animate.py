"""The animate command: videos, contact sheets, framing over a whole motion, and its errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from bodies import bound_avatar
from PIL import Image

from specularip.animate import AnimateOptions, framing, pictures, played
from specularip.avatar import Avatar
from specularip.cli import main
from specularip.motion.clips import built_in
from specularip.posable import Posable
from specularip.progress import Progress

pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return bound_avatar()


@pytest.fixture(scope="module")
def file(avatar: Avatar, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return avatar.save(tmp_path_factory.mktemp("avatar") / "person.safetensors")


def test_video(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "walk.mp4"
    main(["animate", str(file), "--out", str(out), "--size", "96", "--seconds", "0.5", "--fps", "20"])
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(out))
    assert count == 10 and seconds == pytest.approx(0.5, abs=0.05)
    assert "animate 10/10" in capsys.readouterr().out


def test_contact_sheet(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "wave.png"
    main(
        [
            "animate",
            str(file),
            "--motion",
            "wave",
            "--out",
            str(out),
            "--size",
            "48",
            "--background",
            "transparent",
        ]
    )
    sheet = np.asarray(Image.open(out))
    assert sheet.shape[2] == 4 and sheet.shape[0] * sheet.shape[1] == 12 * 48 * 48
    tiles = sheet.reshape(sheet.shape[0] // 48, 48, -1, 48, 4).swapaxes(1, 2).reshape(-1, 48, 48, 4)
    assert all((tile[..., 3] > 128).any() for tile in tiles)
    assert np.abs(tiles[0].astype(int) - tiles[6].astype(int)).max() > 100


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize(("name", "size"), [("run", "96x128"), ("wave", "160x90")])
def test_the_subject_stays_in_the_picture(avatar: Avatar, name: str, size: str, follow: bool) -> None:
    """Also one that walks two metres away; and it fills the picture."""
    clip = built_in(name, avatar.skeleton())
    away = torch.linspace(0, 2, len(clip))[:, None] * torch.tensor([0.3, -1.0, 0.0])
    clip = replace(clip, translation=clip.translation + away, loops=False)
    clip = clip.at(torch.linspace(0, clip.seconds, 8))
    options = AnimateOptions(size=size, background="transparent", follow=follow)
    frames = torch.from_numpy(np.stack(list(pictures(Posable(avatar), clip, options, Progress()))))
    opaque = frames[..., 3] > 64
    border = opaque.clone()
    border[:, 2:-2, 2:-2] = False
    assert not border.any() and opaque.any((1, 2)).all()
    rows, columns = opaque.any(0).any(1).nonzero()[:, 0], opaque.any(0).any(0).nonzero()[:, 0]
    filled = max((rows[-1] - rows[0]) / opaque.shape[1], (columns[-1] - columns[0]) / opaque.shape[2])
    assert filled > 0.8


def test_following_cameras_are_nearer(avatar: Avatar) -> None:
    posable = Posable(avatar)
    clip = built_in("walk", posable.binding)
    clip = replace(
        clip,
        translation=clip.translation + torch.linspace(0, 4, len(clip))[:, None] * torch.tensor([1.0, 0, 0]),
    )
    path = clip.translation * torch.tensor([1.0, 1.0, 0.0])
    bones = posable.bones(clip)
    still = framing(posable, bones, torch.zeros_like(path), AnimateOptions(), 1.0)
    along = framing(posable, bones, path, AnimateOptions(follow=True), 1.0)
    assert along.distance < 0.8 * still.distance
    assert torch.allclose(along.targets - along.targets[:1], path - path[:1], atol=1e-5)


def test_how_long_motions_play(avatar: Avatar) -> None:
    walk, idle = (built_in(name, avatar.skeleton()) for name in ("walk", "idle"))
    assert played(walk, None) == pytest.approx(4 * walk.seconds) and played(idle, None) == idle.seconds
    assert played(walk, 0.3) == 0.3 and played(walk, 60.0) == 60.0
    once = replace(walk, loops=False)
    assert played(once, None) == pytest.approx(len(once) / once.fps) == played(once, 60.0)
    assert played(once, 0.3) == 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "a.gif"], "end the name in .mp4, .png"),
        (["--out", "a.mp4", "--motion", "jump"], "choose walk, run"),
        (["--out", "a.mp4", "--motion", "absent.bvh"], "absent.bvh"),
        (["--out", "a.mp4", "--background", "transparent"], "no transparency"),
        (["--out", "a.mp4", "--seconds", "0"], "--seconds"),
        (["--out", "a.mp4", "--fps", "nan"], "--fps"),
        (["--out", "a.mp4", "--file-fps", "-1"], "--file-fps"),
        (["--out", "a.mp4", "--elevation-deg", "90"], "--elevation-deg"),
        (["--out", "a.mp4", "--azimuth-deg", "inf"], "--azimuth-deg"),
        (["--out", "a.mp4", "--size", "7"], "--size"),
        (["--out", "a.mp4", "--seconds", "3600", "--fps", "100"], "too many"),
    ],
)
def test_errors(
    file: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(["animate", str(file), *arguments])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_avatars_without_skeleton(avatar: Avatar, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = replace(avatar, binding=None).save(tmp_path / "still.safetensors")
    with pytest.raises(SystemExit):
        main(["animate", str(file), "--out", str(tmp_path / "a.mp4")])
    assert "no skeleton" in capsys.readouterr().err


def test_explicit_colours_move_too(avatar: Avatar) -> None:
    """Harmonics turn with the body: a diffuse colour stays, and so does the picture's brightness."""
    from specularip.colors import HarmonicColors

    cloud = replace(avatar.gaussians, latents=avatar.gaussians.latents[:, :0])
    coefficients = torch.zeros(len(cloud), 16, 3)
    coefficients[:, 0] = (cloud.diffuse - 0.5) / 0.28209479177387814
    colored = replace(avatar, gaussians=cloud, head=None, colors=HarmonicColors(coefficients))
    plain = replace(colored, colors=None)
    clip = built_in("wave", avatar.skeleton()).at(torch.tensor([2.0]))
    shown = [
        next(pictures(Posable(some), clip, AnimateOptions(size="64"), Progress())).astype(int)
        for some in (colored, plain)
    ]
    assert np.abs(shown[0] - shown[1]).max() <= 1
