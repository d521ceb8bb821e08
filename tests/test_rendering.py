"""The render command: framings, layers, sheets, camera paths, and its errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from avatars import random_avatar
from PIL import Image
from splat_files import columns_of, write

from specularip.avatar import Avatar
from specularip.body import anny_body
from specularip.camera_path import read_path
from specularip.cameras import FULL, Cameras
from specularip.cli import main
from specularip.errors import UserError
from specularip.framing import frame_subject, part_of
from specularip.gaussians import Gaussians, turned_to
from specularip.options import parse_background, parse_size
from specularip.pictures import draw, grid


def person(shift: tuple[float, float, float] = (0.0, 0.0, 0.0), count: int = 3000) -> Avatar:
    """Opaque Gaussians on the default body, coloured by region."""
    samples = anny_body().sample_surface(count, torch.Generator().manual_seed(0))
    gaussians = Gaussians(
        means=samples.points + torch.tensor(shift),
        quats=turned_to(samples.normals),
        log_scales=torch.log(samples.spacing[:, None] * torch.tensor([0.8, 0.8, 0.1])),
        opacity_logits=torch.full((count,), 5.0),
        color_logits=samples.regions[:, None] * torch.tensor([0.3, -0.3, 0.1]) - 1,
        latents=torch.zeros(count, 0),
        normal_residuals=torch.zeros(count, 3),
        regions=samples.regions,
        bind_joints=samples.bind_joints,
        bind_weights=samples.bind_weights,
    )
    return Avatar(gaussians)


def inside(avatar: Avatar, framing: str, aspect: float, elevation: float = 0.0) -> torch.Tensor:
    """Pixel positions [8,n,2] of what is framed, in units of half the picture from its centre, all around."""
    fov = 30.0
    distance, target = frame_subject(avatar.gaussians, framing, fov_y_deg=fov, aspect=aspect)
    height = 100
    cameras = Cameras.orbit(
        torch.arange(8) * 45.0, elevation, distance, fov, round(aspect * height), height, target
    )
    pixels, depth = cameras.project(part_of(avatar.gaussians, framing))
    assert bool((depth > 0).all())
    half = torch.tensor([cameras.width / 2, height / 2])
    return (pixels - half) / half


@pytest.mark.parametrize("framing", ["full", "upper", "head", "hands"])
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (3.6, -2.0, 7.0)])
def test_framing_contains_the_part_and_little_else(framing, shift):
    avatar = person(shift)
    for aspect in (0.6, 1.0, 16 / 9):
        seen = inside(avatar, framing, aspect).abs()
        allowed = {"full": 1.02, "head": 1.15}.get(framing, 1.4)  # elbows may be cut off
        assert float(seen.amax((0, 1)).max()) < allowed, (framing, aspect)
        assert float(seen.amax((0, 1)).max()) > 0.6, (framing, aspect)


def test_framing_without_regions_takes_shares_of_the_height():
    avatar = person()
    known = part_of(avatar.gaussians, "head")
    avatar.gaussians.regions.zero_()
    guessed = part_of(avatar.gaussians, "head")
    assert abs(float(guessed[:, 2].min() - known[:, 2].min())) < 0.06
    with pytest.raises(UserError, match="where the hands are"):
        frame_subject(avatar.gaussians, "hands")


def test_framing_ignores_strays():
    avatar = person()
    distance, target = frame_subject(avatar.gaussians)
    avatar.gaussians.means[:3] = torch.tensor([[0, 0, 80.0], [0, 0, -50.0], [90.0, 0, 0]])
    far, moved = frame_subject(avatar.gaussians)
    assert far == pytest.approx(distance, rel=0.03) and moved == pytest.approx(target, abs=0.03)
    points = avatar.gaussians.select(torch.zeros(1, dtype=torch.int64))
    assert frame_subject(points)[0] > 0, "a point still has a distance"
    assert distance == pytest.approx(FULL.distance * 1.0, rel=1.0)


def test_layers(seed):
    avatar = random_avatar()
    prepared, camera = avatar.prepare(), Cameras.orbit(30.0, 10.0, 1.5, 45.0, 40, 30)
    frame = avatar.render(camera, 0.0)
    pictures = {
        layer: draw(prepared, camera, layer, (0.0, 0.0, 0.0)).astype(float) / 255
        for layer in ("final", "diffuse", "specular", "normal", "alpha", "depth")
    }
    assert all(picture.shape == (30, 40, 3) for picture in pictures.values())
    assert np.abs(pictures["final"] - frame.image[0].numpy()).max() < 0.003, seed
    assert np.abs(pictures["alpha"] - frame.alpha[0].numpy()).max() < 0.003, seed
    expected = frame.specular[0].clamp(0, 1).numpy()
    assert np.abs(pictures["specular"] - expected).max() < 0.003, seed
    plain = Avatar(avatar.gaussians).render(camera, 0.0).image[0].numpy()
    assert np.abs(pictures["diffuse"] - plain).max() < 0.003, seed
    near = frame.depth[0, ..., 0].numpy()
    sure = frame.alpha[0, ..., 0].numpy() > 0.9
    if sure.sum() > 5:
        assert np.corrcoef(near[sure], pictures["depth"][sure, 0])[0, 1] < -0.9, seed
    clear = draw(prepared, camera, "final", None).astype(float) / 255
    over = clear[..., :3] * clear[..., 3:]
    assert clear.shape == (30, 40, 4) and np.abs(over - frame.image[0].numpy()).max() < 0.01, seed


def test_grid_keeps_every_picture():
    pictures = [np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30, 40, 50)]
    sheet = grid(pictures)
    assert sorted(set(sheet.ravel().tolist())) == [10, 20, 30, 40, 50] and sheet.shape[0] % 4 == 0
    assert grid(pictures[:1]).shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", (512, 512)), ("640x360", (640, 360)), ("1080p", (1920, 1080)), ("4K", (3840, 2160))],
)
def test_sizes(text, size):
    assert parse_size(text) == size


def test_sizes_and_backgrounds_that_make_no_sense():
    for text in ("", "0", "15", "640x", "x4", "99999", "640x360x3", "big", "-5"):
        with pytest.raises(UserError, match="--size"):
            parse_size(text)
    for text in ("", "2", "-0.1", "nan", "#12345", "red"):
        with pytest.raises(UserError, match="--background"):
            parse_background(text)
    assert parse_background("#ff0000") == (1, 0, 0) and parse_background("transparent") is None


START = {
    **{"azimuth_deg": 5.0, "elevation_deg": 8.0, "distance": 2.0, "fov_y_deg": 45.0},
    **{"x": 0.0, "y": 0.0, "z": 0.1},
}


def test_camera_paths_pass_their_key_frames_and_rest_at_the_ends(tmp_path):
    keys = [
        {"time": 0},
        {"time": 1, "azimuth_deg": 90, "target": [0, 0.5, 0.6]},
        {"time": 3, "azimuth_deg": 360, "distance": 1.0},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"keyframes": keys}))
    path = read_path(tmp_path / "a.json", START, 20.0)
    assert len(path) == 61 and path.fps == 20
    azimuth = path.values["azimuth_deg"]
    assert azimuth[[0, 20, 60]] == pytest.approx([5, 90, 360])
    assert path.values["y"][[0, 20, 40, 60]] == pytest.approx([0, 0.5, 0.5, 0.5])
    assert (np.diff(azimuth) >= 0).all() and np.diff(azimuth)[[0, -1]].max() < 1, "no overshoot, a soft start"
    expected = Cameras.orbit(90.0, 8.0, 2.0, 45.0, 64, 48, (0.0, 0.5, 0.6))
    assert torch.allclose(path.camera(20, 64, 48).viewmats, expected.viewmats, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not a JSON object"),
        ("[]", "an object is expected"),
        ('{"keyframes": [{"time": 0}]}', "at least two"),
        ('{"keyframes": [{"time": 0}, {"time": 0}]}', "must increase"),
        ('{"keyframes": [{"time": 0}, {}]}', r"keyframes\[1\].time must be a number"),
        ('{"keyframes": [{"time": 0}, {"time": 1, "zoom": 2}]}', "unknown 'zoom'"),
        ('{"keyframes": [{"time": 0}, {"time": 1, "distance": -2}]}', "distance must lie"),
        ('{"keyframes": [{"time": 0}, {"time": 1, "distance": NaN}]}', "must be a number"),
        ('{"keyframes": [{"time": 0}, {"time": 1, "target": [0, 1]}]}', "three numbers"),
        ('{"keyframes": [{"time": 0}, {"time": 90000}]}', "more than"),
        ('{"fps": 0, "keyframes": [{"time": 0}, {"time": 1}]}', "fps must lie"),
    ],
)
def test_bad_camera_paths_are_one_line(tmp_path, data, message):
    (tmp_path / "a.json").write_text(data)
    with pytest.raises(UserError, match=message) as caught:
        read_path(tmp_path / "a.json", START, 30.0)
    assert "\n" not in str(caught.value)


def test_command_draws_pictures_and_videos(tmp_path, capsys):
    file = person((3.6, 0.0, 0.0), 800).save(tmp_path)
    path = tmp_path / "path.json"
    path.write_text('{"fps": 10, "keyframes": [{"time": 0}, {"time": 0.3, "azimuth_deg": 60}]}')
    common = ["render", str(file), "--size", "48x64", "--device", "cpu"]
    for name, options, shape in (
        ("a.png", [], (64, 48, 3)),
        ("b.png", ["--views", "8"], (2 * 64, 4 * 48, 3)),
        ("c.png", ["--framing", "head", "--background", "transparent"], (64, 48, 4)),
        ("d.png", ["--compare", "--layer", "final"], (64, 96, 3)),
    ):
        main([*common, "--out", str(tmp_path / name), *options])
        image = np.asarray(Image.open(tmp_path / name))
        assert image.shape == shape and len(np.unique(image.reshape(-1, shape[2]), axis=0)) > 50, name
    for name, options in (("a.mp4", ["--frames", "3"]), ("b.mp4", ["--path", str(path), "--compare"])):
        main([*common, "--out", str(tmp_path / name), *options])
        assert (tmp_path / name).stat().st_size > 1000
    assert "render 4/4" in capsys.readouterr().out, "three tenths of a second at 10 frames a second"


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("a.gif", [], ".png"),
        ("a.png", ["--elevation-deg", "90"], "--elevation-deg"),
        ("a.png", ["--distance", "0"], "--distance"),
        ("a.mp4", ["--background", "transparent"], "no transparency"),
        ("a.mp4", ["--views", "4"], "contact sheet"),
        ("a.png", ["--path", "p.json"], "makes a video"),
        ("a.png", ["--views", "64", "--size", "4k"], "too large"),
        ("a.png", ["--size", "huge"], "--size"),
    ],
)
def test_command_checks_its_options(tmp_path, capsys, out, options, message):
    with pytest.raises(SystemExit) as stop:
        main(["render", str(tmp_path), "--out", str(tmp_path / out), *options])
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and message in said and "\n" not in said


def _odd(name: str) -> dict[str, np.ndarray]:
    """Columns of a PLY in which something is out of the ordinary."""
    columns = columns_of(2 if name == "two" else 1 if name.startswith("one") else 300, 0)
    columns["opacity"][:] = 4.0
    if name.startswith("plane"):
        columns[name[-1]][:] = 0.3
    elif name == "all at a point":
        for axis in "xyz":
            columns[axis][:] = 5.0
    elif name == "one of no size":
        for axis in range(3):
            columns[f"scale_{axis}"][:] = -np.inf
    elif name == "flat":
        columns["scale_1"][:] = -np.inf
    elif name == "far strays":
        columns["x"][::150] = 1e6
    elif name == "faint strays":
        columns["y"][:60], columns["opacity"][:60] = 500.0, -np.inf
    elif name.startswith("of"):
        size = float(name.split()[-1])
        columns |= {axis: size * (columns[axis] + 3) for axis in "xyz"}
        columns |= {f"scale_{k}": columns[f"scale_{k}"] + np.log(size) for k in range(3)}
    elif name.startswith("at"):
        columns["y"] += float(name.split()[-1])
    return columns


@pytest.mark.parametrize(
    "name",
    [
        *("one", "one of no size", "two", "all at a point", "plane x", "plane y", "plane z", "flat"),
        *("far strays", "faint strays", "of size 1e-6", "of size 1e-3", "of size 1e3", "of size 1e6"),
        *("at 100", "at 1e6"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is shown about the origin")
def test_odd_subjects_are_drawn_exported_and_packed(tmp_path, name):
    file = write(tmp_path / "a.ply", _odd(name), kind="f8")
    main(["render", str(file), "--out", str(tmp_path / "a.png"), "--size", "64", "--device", "cpu"])
    picture = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    drawn = (np.abs(picture - picture[0, 0]).max(-1) > 8).mean()
    assert drawn > (0 if name == "one of no size" else 0.02), name
    for suffix in (".ply", ".glb", ".sog", ".html"):
        main(["export", str(file), str(tmp_path / f"b{suffix}")])
        if suffix != ".html":
            again = tmp_path / "b.png"
            main(
                [
                    "render",
                    str(tmp_path / f"b{suffix}"),
                    "--out",
                    str(again),
                    "--size",
                    "64",
                    "--device",
                    "cpu",
                ]
            )
            difference = np.abs(np.asarray(Image.open(again)).astype(int) - picture).mean()
            assert difference < 1, (name, suffix)


def test_pictures_that_show_nothing_say_so(tmp_path, capsys):
    file = write(tmp_path / "a.ply", _odd("one"))
    look_away = tmp_path / "path.json"
    look_away.write_text(json.dumps({"keyframes": [{"time": t, "target": [0, 90, 0]} for t in (0, 0.1)]}))
    common = ["render", str(file), "--size", "32", "--device", "cpu"]
    for name, options in (
        ("a.png", ["--distance", "0.005"]),
        ("b.png", ["--views", "2", "--distance", "0.005", "--background", "transparent"]),
        ("a.mp4", ["--path", str(look_away)]),
    ):
        main([*common, "--out", str(tmp_path / name), *options])
        assert f"{tmp_path / name}: not one pixel shows the avatar" in capsys.readouterr().err
        assert (tmp_path / name).is_file()
    columns = _odd("")
    columns["opacity"][:] = -np.inf
    write(file, columns)
    main([*common, "--out", str(tmp_path / "c.png")])
    first, second = capsys.readouterr().err.strip().splitlines()
    assert "every Gaussian is transparent" in first and "not one pixel shows the avatar" in second
