"""Baking: explicit colours against a float64 oracle, the fit, files, and the command."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from specularip.avatar import Avatar, bake, load
from specularip.baking.asg import _moved, _Samples, fit_asgs
from specularip.baking.bake import harmonics_of
from specularip.cameras import Cameras
from specularip.cli import main
from specularip.colors import Asgs, HarmonicColors
from specularip.errors import UserError
from specularip.gaussians import Gaussians, rotation_matrices, turned_to
from specularip.metrics import agreement
from specularip.specular import LATENTS, SpecularConfig, SpecularHead, fibonacci_directions


def random_asgs(count: int, lobes: int = 4, seed: int = 0) -> Asgs:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Asgs(
        quats=F.normalize(normal(count, 4), dim=-1),
        smooth=torch.tensor([[0.5]] + 9 * [[0.0]]) + 0.05 * normal(count, 10, 3),
        lights=F.normalize(torch.tensor([0.0, 0.0, 1.0]) + 0.5 * normal(count, lobes, 3), dim=-1),
        shapes=torch.tensor([5.0, 0.0, 5.0]) + normal(count, lobes, 3) * torch.tensor([1.0, 1.5, 1.0]),
        amplitudes=0.1 * normal(count, lobes, 3),
    )


def shader(asgs: Asgs, index: int, view: np.ndarray) -> np.ndarray:
    """One colour in float64, as the shader in docs/baking.md computes it."""
    tensors = (tensor[index].double().numpy() for tensor in vars(asgs).values())
    (w, i, j, k), smooth, lights, shapes, amplitudes = tensors
    x = np.array([1 - 2 * (j * j + k * k), 2 * (i * j + w * k), 2 * (i * k - w * j)])
    z = np.array([2 * (i * k + w * j), 2 * (j * k - w * i), 1 - 2 * (i * i + j * j)])
    v = np.array([view @ x, view @ np.cross(z, x), view @ z])
    x, y, z = v
    color = np.array([1, x, y, z, x * y, y * z, z * x, x * x - y * y, z * z, (1 - abs(z)) ** 5]) @ smooth
    for light, (a, q, b), amplitude in zip(lights, shapes, amplitudes):
        if v[2] * light[2] > 0:
            m = (v + light) / 2
            near = max(m @ m, 0.02)
            color = (
                color + amplitude * math.exp(-((a * m[0] + q * m[1]) ** 2 + (b * m[1]) ** 2) / near) / near
            )
    return np.where(color > 1, 0.95 + 0.05 * color, color)


def ball(count: int = 300) -> Avatar:
    """A red, glossy ball under two lights and a dim ambient."""
    normals = fibonacci_directions(count)
    head = SpecularHead(SpecularConfig(lights=2))
    with torch.no_grad():
        head.axes.copy_(torch.tensor([[0.3, -0.8, 0.5], [-0.9, 0.1, 0.4]]))
        head.raw_colors.fill_(math.log(3.0) / 3)
        head.raw_widths.fill_(math.log(0.02) / 3)
    latents = torch.zeros(count, LATENTS)
    latents[:, :2] = torch.tensor([math.log(2.0), math.log(3.5)])
    latents[:, 3:6] = 1.0
    weights = torch.zeros(count, 4)
    weights[:, 0] = 1
    cloud = Gaussians(
        means=0.4 * normals,
        quats=turned_to(normals),
        log_scales=torch.log(torch.tensor([0.8, 0.8, 0.1]) * 0.4 * math.sqrt(4 * math.pi / count)).repeat(
            count, 1
        ),
        opacity_logits=torch.full((count,), 4.0),
        color_logits=torch.tensor([0.2, -1.5, -1.5]).repeat(count, 1),
        latents=latents,
        normal_residuals=torch.zeros(count, 3),
        regions=torch.zeros(count, dtype=torch.int64),
        bind_joints=torch.zeros(count, 4, dtype=torch.int64),
        bind_weights=weights,
    )
    return Avatar(cloud, head.requires_grad_(False), {"seed": 3}, antialiased=True)


@pytest.fixture(scope="module")
def baked() -> dict[str, Avatar]:
    return {"asg": bake(ball(), "asg"), "sh3": bake(ball(), "sh3")}


def test_colours_match_the_shader():
    asgs = random_asgs(20)
    asgs = replace(asgs, amplitudes=5 * asgs.amplitudes)
    views = F.normalize(torch.randn(3, 20, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    found = asgs(views)
    assert bool((found > 1).any()) and bool((found < 1).any()), "both sides of the shoulder"
    expected = [[shader(asgs, n, views[b, n].double().numpy()) for n in range(20)] for b in range(3)]
    assert np.abs(found.numpy() - np.array(expected)).max() < 2e-6


def test_derivatives_match_finite_differences():
    directions, targets, weights, _ = (t.double() for t in samples_of(random_asgs(1), 60))
    samples = _Samples.of(directions, targets, weights)
    frames = rotation_matrices(torch.tensor([[0.3, -0.5, 0.7, 0.4]], dtype=torch.float64)).mT[:, None]
    shapes = torch.tensor([[[0.4, -0.6, 0.9]]], dtype=torch.float64)

    def values(*moved: torch.Tensor, slopes: torch.Tensor | None = None) -> torch.Tensor:
        found = torch.empty(1, 1, 60).double()
        samples.write_lobes(*moved, samples.roots, found, slopes)
        return found

    slopes = torch.empty(1, 1, 5, 60).double()
    value = values(frames, shapes, slopes=slopes)
    state = samples.state(frames, shapes, samples.targets, torch.ones_like(samples.roots))
    numbers = torch.stack([shapes[..., 0].exp(), shapes[..., 1], shapes[..., 2].exp()], -1)
    no_smooth, dim = torch.zeros(1, 10, 3).double(), torch.full((1, 1, 3), 0.01).double()
    one = Asgs(torch.tensor([[1.0, 0, 0, 0]]).double(), no_smooth, frames[:, :, 2], numbers, dim)
    assert torch.allclose(0.01 * value[0, 0], one(directions.transpose(0, 1))[:, 0, 0] * samples.roots[0])
    for number in range(5):
        ends = []
        for sign in (1, -1):
            # _moved takes the solution of hessian · step = descent.
            step = torch.zeros(1, 5).double()
            step[0, number] = sign * 1e-5
            eye = torch.eye(5).double()[None]
            ends.append(values(*_moved(replace(state, hessian=eye, descent=step), torch.zeros(1))))
        numeric = (ends[0] - ends[1]) / 2e-5
        error = (numeric - slopes[:, :, number]).abs().max() / numeric.abs().max()
        assert error < 1e-3, f"number {number}: {error}"


def samples_of(asgs: Asgs, count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Directions [n,M,3], colours in these directions, weights, and frames."""
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(count, len(asgs.quats), 3, generator=generator), dim=-1)
    weights = torch.rand(len(asgs.quats), count, generator=generator)
    return directions.transpose(0, 1), asgs(directions).transpose(0, 1), weights, asgs.quats


def rms_error(asgs: Asgs, samples: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Root mean square error of each Gaussian, [n]."""
    directions, targets, *_ = samples
    return (asgs(directions.transpose(0, 1)).transpose(0, 1) - targets).square().mean((1, 2)).sqrt()


def test_fit_recovers_known_lobes():
    truth = random_asgs(64, lobes=2, seed=2)
    seen, unseen = samples_of(truth, 500), samples_of(truth, 300, seed=5)
    found = fit_asgs(*seen, lobes=2)
    assert float(rms_error(found, unseen).median()) < 1e-3
    tensors = list(vars(truth).values())
    nothing = Asgs(*tensors[:2], *(tensor[:, :0] for tensor in tensors[2:]))
    assert float(rms_error(found, unseen).mean()) < 0.1 * float(rms_error(nothing, unseen).mean())
    again = fit_asgs(*seen, lobes=2)
    assert all(torch.equal(a, b) for a, b in zip(vars(found).values(), vars(again).values()))


def test_fit_accounts_for_the_shoulder():
    truth = random_asgs(64, lobes=1, seed=4)
    truth = replace(truth, amplitudes=torch.ones_like(truth.amplitudes))
    seen, unseen = samples_of(truth, 500), samples_of(truth, 300, seed=5)
    assert float((seen[1] > 1.01).float().mean()) > 0.02
    assert float(rms_error(fit_asgs(*seen, lobes=1), unseen).median()) < 3e-3


def test_fit_respects_weights_and_stays_finite():
    directions, targets, weights, frames = samples_of(random_asgs(8, seed=3), 200)
    half = directions[..., 2] > 0
    corrupted = torch.where(half[..., None], targets, targets.flip(1))
    found = fit_asgs(directions, corrupted, weights * half, frames)
    error = (found(directions.transpose(0, 1)).transpose(0, 1) - targets).square().mean(-1)
    assert float((error * half).sum() / half.sum()) < 1e-3, "samples of weight 0 must not matter"
    for unusual in (torch.zeros_like(targets), torch.full_like(targets, 0.7), 1e3 * targets):
        found = fit_asgs(directions, unusual, weights, frames)
        assert all(bool(t.isfinite().all()) for t in vars(found).values())
    constant = fit_asgs(directions, torch.full_like(targets, 0.7), weights, frames)
    assert torch.allclose(constant(directions.transpose(0, 1)), torch.tensor(0.7), atol=1e-4)


def test_baked_images_match_the_head(baked):
    avatar = ball()
    asg, sh3 = (agreement(avatar, baked[to], 96) for to in ("asg", "sh3"))
    plain = agreement(avatar, replace(avatar, head=None), 96)
    assert plain < 30 and sh3 > plain + 8 and asg > 42 and asg > sh3 + 5, (plain, sh3, asg)
    assert baked["asg"].colors.amplitudes.shape == (300, 4, 3) and baked["asg"].provenance == {"seed": 3}
    assert baked["asg"].gaussians.latents.shape == (300, 0), "baked Gaussians have no latents"


@pytest.mark.parametrize("to", ["asg", "sh3"])
def test_threads_do_not_change_the_result(baked, to, monkeypatch):
    usual = torch.get_num_threads()
    monkeypatch.setenv("SPECULARIP_NUM_THREADS", "3")
    try:
        torch.set_num_threads(3)
        again = bake(ball(), to)
    finally:
        torch.set_num_threads(usual)
    pairs = zip(vars(baked[to].colors).values(), vars(again.colors).values())
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("to", ["asg", "sh3"])
def test_files_keep_the_colours(baked, to, tmp_path):
    camera = Cameras.orbit(20.0, 10.0, 1.4, 45.0, 64, 64)
    for suffix in (".safetensors", ".ply"):
        back = load(baked[to].export(tmp_path / f"a{suffix}"))
        whole = suffix == ".safetensors"
        assert back.antialiased == whole, "a PLY does not record it"
        back.antialiased = True
        if whole or to == "sh3":
            error = (back.render(camera).image - baked[to].render(camera).image).abs().max()
            assert error < (1e-6 if whole else 2e-3)
    with pytest.raises(UserError, match="end the name in"):
        baked[to].export(tmp_path / "a.obj")


def test_diffuse_and_specular_layers_of_baked_avatars(baked):
    camera = Cameras.orbit(20.0, 10.0, 1.4, 45.0, 64, 64)
    plain, head = replace(ball(), head=None).render(camera, 0.0), ball().render(camera, 0.0)
    frame = baked["asg"].render(camera, 0.0)
    assert torch.allclose(frame.image - frame.specular, plain.image, atol=1e-5)
    assert (frame.specular - head.specular).abs().max() < 0.1 * head.specular.abs().max()


def test_harmonics_of_asgs_are_the_closest(seed):
    asgs = random_asgs(30, seed=seed)
    found = harmonics_of(asgs, chunk=20)
    views = F.normalize(torch.randn(4000, 30, 3), dim=-1)
    error = (found(views) - asgs(views)).square().mean()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        other = found.coefficients + 0.02 * torch.randn(30, 16, 3, generator=generator)
        assert (HarmonicColors(other)(views) - asgs(views)).square().mean() > error


def test_ply_follows_the_3dgs_convention(baked, tmp_path):
    """The file, evaluated as in 3DGS's own code: coefficients by channel, direction from the camera."""
    file = baked["sh3"].export(tmp_path / "a.ply")
    header, body = file.read_bytes().split(b"end_header\n", 1)
    names = re.findall(r"property float (\w+)", header.decode())
    expected = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2".split() + [f"f_rest_{k}" for k in range(45)]
    assert names == [*expected, *"opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()]
    rows = np.frombuffer(body, "<f4").reshape(-1, len(names)).astype(np.float64)
    center = np.array([0.5, -1.0, 0.4])
    x, y, z = ((d := rows[:, :3] - center) / np.linalg.norm(d, axis=1, keepdims=True)).T
    rest = rows[:, 9:54].reshape(-1, 3, 15).transpose(0, 2, 1)
    c1, c2, c3 = 0.4886025119029199, 1.0925484305920792, 0.5900435899266435
    color = 0.28209479177387814 * rows[:, 6:9]
    for k, basis in enumerate(
        [
            -c1 * y, c1 * z, -c1 * x,
            c2 * x * y, -c2 * y * z, 0.31539156525252005 * (2 * z * z - x * x - y * y), -c2 * x * z,
            0.5462742152960396 * (x * x - y * y),
            -c3 * y * (3 * x * x - y * y), 2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * z * z - x * x - y * y),
            0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -0.4570457994644658 * x * (4 * z * z - x * x - y * y), 1.445305721320277 * z * (x * x - y * y),
            -c3 * x * (x * x - 3 * y * y),
        ]
    ):  # fmt: skip
        color = color + basis[:, None] * rest[:, k]
    views = F.normalize(torch.from_numpy(center).float() - baked["sh3"].gaussians.means, dim=-1)[None]
    assert np.abs(np.maximum(color + 0.5, 0) - baked["sh3"].colors(views)[0].numpy()).max() < 1e-5


def test_broken_files_are_one_clear_line(baked, tmp_path):
    file = baked["asg"].save(tmp_path / "baked.safetensors")
    whole = file.read_bytes()
    for data, message in (
        (whole[: len(whole) // 2], "damaged"),
        (whole.replace(b"colors.smooth", b"colors.smoosh"), "colors.smooth is missing"),
        (whole.replace(b'\\"asg\\"', b'\\"ash\\"'), "unknown kind, 'ash'"),
        (whole.replace(b'\\"format\\": 4', b'\\"format\\": 9'), "format 9 .* update specularip"),
        (whole.replace(b'"specularip"', b'"specularip_baked"'), "damaged|bake the avatar again"),
    ):
        assert data != whole
        file.write_bytes(data)
        with pytest.raises(UserError, match=message) as caught:
            load(file)
        assert "\n" not in str(caught.value)
    for path, message in (
        (tmp_path / "none.ply", "no avatar at"),
        (tmp_path / "none.safetensors", "no avatar"),
    ):
        with pytest.raises(UserError, match=message):
            load(path)
    with pytest.raises(UserError, match="no highlights to bake"):
        bake(replace(ball(), head=None))
    with pytest.raises(ValueError, match="not both"):
        replace(ball(), colors=baked["asg"].colors)
    with pytest.raises(ValueError, match="asg"):
        bake(ball(), "sh4")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four posed images of the ball, as a test split."""
    folder = tmp_path_factory.mktemp("ball")
    ball(90).save(folder)
    cameras = Cameras.orbit([0.0, 70.0, 150.0, 250.0], 15.0, 1.4, 45.0, 48, 48)
    frame = ball(90).render(cameras, 0.0)
    poses = np.linalg.inv(cameras.viewmats.double().numpy())
    poses[:, :3, 1:3] *= -1
    frames = []
    for index, (image, alpha) in enumerate(zip(frame.image, frame.alpha)):
        pixels = (torch.cat([image, alpha], -1) * 255 + 0.5).clamp(0, 255).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{index}.png")
        frames.append({"file_path": str(index), "transform_matrix": poses[index].tolist()})
    table = {"camera_angle_x": math.radians(45), "colour": "sRGB, premultiplied", "frames": frames}
    (folder / "transforms_test.json").write_text(json.dumps(table))
    return folder


def test_command_bakes_and_prints_the_loss(scene, tmp_path, capsys):
    out = tmp_path / "look.safetensors"
    main(["bake", str(scene), "--out", str(out), "--data", str(scene), "--device", "cpu"])
    said = capsys.readouterr().out
    lost = re.search(
        r"4 held-out views: ([\d.]+) dB with the head, ([\d.]+) dB baked: (-?[\d.]+) dB lost", said
    )
    assert lost and float(lost[1]) > 45, said
    assert isinstance(load(out).colors, Asgs)
    main(
        ["bake", str(scene / "avatar.safetensors"), "--out", str(tmp_path), "--to", "sh3", "--device", "cpu"]
    )
    assert "dB against renders with the head" in capsys.readouterr().out
    assert isinstance(load(tmp_path / "baked.ply").colors, HarmonicColors)


def test_command_renders_baked_avatars(baked, tmp_path):
    files = {"head": ball().save(tmp_path / "avatar.safetensors")}
    files["asg"] = baked["asg"].save(tmp_path / "baked.safetensors")
    files["sh3"] = baked["sh3"].export(tmp_path / "baked.ply")
    files["base"] = baked["sh3"].export(tmp_path / "plain.ply", bake=False)
    images = {}
    for name, file in files.items():
        out = tmp_path / f"{name}.png"
        main(["render", str(file), "--out", str(out), "--size", "64"])
        images[name] = np.asarray(Image.open(out), dtype=np.float64)
    off = {name: np.abs(image - images["head"]).mean() for name, image in images.items()}
    assert off["asg"] < off["sh3"] < off["base"], off


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{scene}", "--out", "{scene}/avatar.safetensors"], "is the avatar itself"),
        (["{scene}", "--out", "a.ply"], "ends in .safetensors"),
        (["{scene}/none", "--out", "out"], "no avatar at"),
        (["{scene}", "--out", "out", "--data", "{scene}/none"], "none"),
    ],
)
def test_command_errors_are_one_clear_line(scene, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["bake", *(a.format(scene=scene) for a in arguments)])
    lines = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and len(lines) == 1 and words in lines[0], lines
    assert not list(tmp_path.iterdir())
