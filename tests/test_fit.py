"""`fit`, end to end on the CPU, on renders of a known glossy ball."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from event_files import read_events
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from specularip.avatar import Avatar, load, shade
from specularip.cameras import Cameras
from specularip.captures.load import load_posed_images
from specularip.captures.mesh import load_body_mesh, load_points
from specularip.errors import UserError
from specularip.fitting.accessories import find_accessories
from specularip.fitting.appearance import SpecularAppearance
from specularip.fitting.fit import begin, fit
from specularip.fitting.observations import Observations, quantile_colors
from specularip.fitting.point_init import init_points, sample_mesh
from specularip.fitting.settings import FitConfig
from specularip.gaussians import Gaussians, turned_to
from specularip.placement import Placement
from specularip.progress import Progress
from specularip.run_folder import FILES
from specularip.specular import LATENTS, SpecularConfig, SpecularHead, in_view
from specularip.training.relocate import relocate
from specularip.training.state import TrainState

SIZE, RADIUS = 48, 0.4
TINY = FitConfig(iterations=240, points=700, lights=16, initial_shading_steps=80, relocate_every=20)


def ball_mesh(rings: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """A sphere of RADIUS as latitudes and longitudes: vertices [V,3], faces [F,3]."""
    theta, phi = np.meshgrid(
        np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings + 1), indexing="ij"
    )
    v = RADIUS * np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)
    index = np.arange(v[..., 0].size).reshape(theta.shape)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return v.reshape(-1, 3).astype(np.float32), faces


def ball() -> Avatar:
    """A red ball under one lamp in a dim room."""
    vertices, faces = (torch.from_numpy(x) for x in ball_mesh())
    count = 2500
    points, normals, area = sample_mesh(vertices, faces, count, torch.Generator().manual_seed(1))
    head = SpecularHead(SpecularConfig(lights=1))
    with torch.no_grad():
        head.axes.copy_(torch.tensor([[0.3, -0.8, 0.5]]))
        head.raw_colors.fill_(math.log(6.0) / 3)
        head.raw_widths.fill_(math.log(0.01) / 3)
    latents = torch.zeros(count, LATENTS)
    latents[:, :2] = math.log(0.22 / 0.12)
    latents[:, 3:6] = 1.5
    spacing = math.sqrt(area / count)
    weights = torch.zeros(count, 4)
    weights[:, 0] = 1
    cloud = Gaussians(
        means=points,
        quats=turned_to(normals),
        log_scales=torch.log(torch.tensor([0.8, 0.8, 0.1]) * spacing).repeat(count, 1),
        opacity_logits=torch.full((count,), 4.0),
        color_logits=torch.tensor([0.2, -1.5, -1.5]).repeat(count, 1),
        latents=latents,
        normal_residuals=normals - turned_axis(turned_to(normals)),
        regions=torch.zeros(count, dtype=torch.int64),
        bind_joints=torch.zeros(count, 4, dtype=torch.int64),
        bind_weights=weights,
    )
    return Avatar(cloud, head.requires_grad_(False), antialiased=True)


def turned_axis(quats: torch.Tensor) -> torch.Tensor:
    w, x, y, z = quats.unbind(-1)
    return torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], -1)


def views(count: int, turn: float) -> Cameras:
    azimuth = [turn + 130 * (k / (count - 1) - 0.5) for k in range(count)]
    elevation = [8 + 22 * (k % 3) for k in range(count)]
    return Cameras.orbit(azimuth, elevation, 1.4, 45.0, SIZE, SIZE)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ball")
    vertices, faces = ball_mesh()
    np.savez(folder / "body.npz", v=vertices, f=faces)
    for split, cameras in (("train", views(14, 0.0)), ("test", views(5, 11.0))):
        (folder / split).mkdir()
        frame = ball().render(cameras, 0.0)
        poses = np.linalg.inv(cameras.viewmats.double().numpy())
        poses[:, :3, 1:3] *= -1
        frames = []
        for index, (image, alpha) in enumerate(zip(frame.image, frame.alpha)):
            pixels = (torch.cat([image, alpha], -1) * 255 + 0.5).clamp(0, 255).byte().numpy()
            Image.fromarray(pixels).save(folder / split / f"{index}.png")
            frames.append({"file_path": f"{split}/{index}", "transform_matrix": poses[index].tolist()})
        table = {"camera_angle_x": math.radians(45), "colour": "sRGB, premultiplied", "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(table))
    return folder


@pytest.fixture(scope="module")
def fitted(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Avatar, Path]:
    out = tmp_path_factory.mktemp("fit") / "ball"
    return fit(scene, out, config=TINY, device="cpu", progress=Progress(open(os.devnull, "w"))), out


def test_it_reconstructs_the_ball_and_its_highlights(scene, fitted, tmp_path):
    avatar, out = fitted
    report = json.loads((out / "report.json").read_text())
    untrained = replace(TINY, iterations=1, initial_shading_steps=0)
    fit(scene, tmp_path / "u", config=untrained, device="cpu")
    before = json.loads((tmp_path / "u" / "report.json").read_text())["metrics"]
    after = report["metrics"]
    assert after["psnr"] > 27 and after["psnr"] > before["psnr"] + 5, (before, after)
    assert after["highlight_psnr"] > before["highlight_psnr"] + 5, (before, after)
    assert report["start"] == "mesh" and report["gaussians"] == TINY.points == len(avatar.gaussians)
    assert set(report["seconds"]) == {"start", "compile", "fit", "write", "evaluate"}
    assert report["settings"]["lights"] == 16
    written = {path.name for path in out.iterdir()}
    assert written <= {*FILES, "checkpoints"} and {"avatar.safetensors", "avatar.ply"} <= written


def test_exposures_that_differ_are_compensated(scene, fitted, tmp_path):
    """The images of a phone: fitted as they are, the avatar is worse and its light wrong."""
    data = shutil.copytree(scene, tmp_path / "data")
    gains = np.exp(0.25 * np.random.default_rng(1).standard_normal((14, 1)))
    for path, gain in zip(sorted((data / "train").glob("*.png")), gains):
        pixels = np.asarray(Image.open(path)).astype(np.float32)
        pixels[..., :3] *= gain
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(path)
    scores = {}
    for exposure in ("auto", "off"):
        config = replace(TINY, exposure=exposure)
        avatar = fit(data, tmp_path / exposure, config=config, device="cpu")
        report = json.loads((tmp_path / exposure / "report.json").read_text())
        assert any("exposure" in note for note in report["notes"]) is (exposure == "auto")
        assert (avatar.provenance.get("exposure") == "matched") is (exposure == "auto")
        scores[exposure] = report["metrics"]["psnr"]
    clean = json.loads((fitted[1] / "report.json").read_text())
    assert "exposure" not in fitted[0].provenance
    assert scores["auto"] > scores["off"] + 2 and scores["auto"] > clean["metrics"]["psnr"] - 2


def test_the_saved_avatar_renders_the_same(scene, fitted):
    avatar, out = fitted
    test = load_posed_images(scene, "test")
    again = load(out)
    assert again.antialiased
    for camera in (view.camera for view in test):
        assert torch.equal(avatar.render(camera, 0.0).image, again.render(camera, 0.0).image)


def test_the_finished_avatar_shades_as_in_training(seed):
    """Anisotropic surfaces, normals of either sign: flipping one would mirror its tangent."""
    g = torch.Generator().manual_seed(seed)
    count = 60
    latents = torch.randn(count, LATENTS, generator=g)
    latents[:, 0] += 2  # much rougher along the tangent than across
    fields = {
        "means": 0.3 * torch.randn(count, 3, generator=g),
        "quats": torch.randn(count, 4, generator=g),
        "log_scales": torch.randn(count, 3, generator=g) - 3,
        "opacity_logits": torch.zeros(count),
        "color_logits": torch.randn(count, 3, generator=g),
        "latents": latents,
        "normal_residuals": 0.3 * torch.randn(count, 3, generator=g),
    }
    normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    fields["initial_normals"] = normals
    head = SpecularHead(SpecularConfig(lights=8))
    camera = views(2, 0.0)[0]
    with torch.no_grad():
        trained = SpecularAppearance(head).colors(fields, camera, 1.0)
        finished, _ = shade(SpecularAppearance(head).gaussians(fields), head, camera)
    seen = in_view(fields["means"], fields["log_scales"].exp(), camera)
    assert seen.sum() > 10
    assert (trained - finished)[seen].abs().max() < 1e-4


def test_the_highlight_moves_with_the_camera_as_the_true_one_does(fitted):
    avatar, _ = fitted
    cameras = views(4, 5.0)

    def centers(drawn: Avatar) -> torch.Tensor:
        """Where the specular layer is brightest, [B,2] pixels."""
        layer = drawn.render(cameras, 0.0).specular.mean(-1).flatten(1)
        weight = (layer - layer.quantile(0.99, dim=1, keepdim=True)).clamp_min(0)
        place = torch.stack(torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij"), -1)
        return (weight[..., None] * place.reshape(1, -1, 2)).sum(1) / weight.sum(1, keepdim=True)

    true, found = centers(ball()), centers(avatar)
    assert (true[0] - true[-1]).norm() > 6, "the highlight does not move enough"
    assert (true - found).norm(dim=-1).max() < 3, (true, found)


class Interrupting(Progress):
    """Sends SIGINT at the first progress of a stage."""

    def __init__(self, stage: str) -> None:
        super().__init__(open(os.devnull, "w"))
        self.at, self.steps = stage, 0

    def step(self, done: int, loss: float | None = None) -> None:
        super().step(done, loss)
        if self.stage().name == self.at:
            self.steps += 1
            os.kill(os.getpid(), signal.SIGINT)


def test_a_resumed_fit_ends_where_an_uninterrupted_one_does(scene, fitted, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(scene, out, config=TINY, device="cpu", progress=Interrupting("fit"), tensorboard=True)
    assert not (out / "avatar.safetensors").exists()
    with pytest.raises(UserError, match="another settings"):
        fit(scene, out, config=replace(TINY, lights=8), device="cpu", resume=True)
    fit(scene, out, config=TINY, device="cpu", resume=True, tensorboard=True)
    one, two = (load_file(folder / "avatar.safetensors") for folder in (fitted[1], out))
    assert set(one) == set(two)
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    whole, resumed = ((folder / "metrics.jsonl").read_text() for folder in (fitted[1], out))
    assert resumed == whole
    steps = [json.loads(line)["step"] for line in whole.splitlines()]
    assert steps[-1] == TINY.iterations
    events = read_events(out)
    assert [scalar.step for scalar in events.Scalars("fit/loss")] == steps
    assert events.Scalars("test/psnr")[0].step == TINY.iterations


def test_a_stop_while_it_starts_is_heeded_between_its_parts(scene, tmp_path):
    stopped = Interrupting("start")
    with pytest.raises(KeyboardInterrupt):
        fit(scene, tmp_path / "x", config=TINY, device="cpu", progress=stopped)
    assert stopped.steps == 1 and stopped.stage().done < 50
    quick = replace(TINY, iterations=1, initial_shading_steps=0)
    fit(scene, tmp_path / "x", config=quick, device="cpu", resume=True)
    assert (tmp_path / "x" / "avatar.safetensors").exists()


def moved_capture(scene: Path, folder: Path, placement: Placement) -> Path:
    """The same images, with cameras and mesh in the world that `placement` leads to."""
    shutil.copytree(scene, folder)
    for path in folder.glob("transforms_*.json"):
        table = json.loads(path.read_text())
        for frame in table["frames"]:
            pose = np.array(frame["transform_matrix"])
            pose[:3, :3] = placement.rotation.numpy() @ pose[:3, :3]
            pose[:3, 3] = placement.points(torch.from_numpy(pose[:3, 3])).numpy()
            frame["transform_matrix"] = pose.tolist()
        path.write_text(json.dumps(table))
    vertices, faces = ball_mesh()
    moved = placement.points(torch.from_numpy(vertices))
    np.savez(folder / "body.npz", v=moved.numpy(), f=faces)
    return folder


def test_a_capture_anywhere_is_fitted_as_well(scene, fitted, tmp_path):
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # z up becomes y up
    data = moved_capture(scene, tmp_path / "data", Placement(100.0, turn, torch.tensor([300.0, -40.0, 70.0])))
    avatar = fit(data, tmp_path / "out", config=TINY, device="cpu")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    clean = json.loads((fitted[1] / "report.json").read_text())
    assert clean["placement"] is None and report["placement"]["scale"] == pytest.approx(80 / 1.7, rel=0.01)
    assert abs(report["metrics"]["psnr"] - clean["metrics"]["psnr"]) < 1.5
    assert report["metrics"]["empty_views"] == 0
    assert any("units from the origin" in note for note in report["notes"])
    assert avatar.gaussians.means.norm(dim=-1).max() < 2
    # The file for other programs shows the capture's cameras what the avatar shows the moved ones.
    test = load_posed_images(data, "test")
    ply = load(tmp_path / "out" / "avatar.ply")
    for far, near in zip(test.placed(None), test.placed(avatar.placement)):
        seen, expected = (one.render(view.camera, 0.0) for one, view in ((ply, far), (avatar, near)))
        assert (seen.alpha > 0.5).any() and (seen.alpha - expected.alpha).abs().mean() < 0.03
        assert (seen.image - expected.image).abs().mean() < 0.03  # it does not say that it is antialiased


def test_a_fit_of_nothing_says_so(scene, tmp_path):
    """Cameras that look away from the mesh: there is nothing of it in the pictures."""
    data = moved_capture(scene, tmp_path / "data", Placement.identity())
    vertices, faces = ball_mesh()
    np.savez(data / "body.npz", v=vertices + np.array([0.0, 0.0, 30.0]), f=faces)
    fit(data, tmp_path / "out", config=replace(TINY, iterations=1, initial_shading_steps=0), device="cpu")
    notes = json.loads((tmp_path / "out" / "report.json").read_text())["notes"]
    assert any("preview.png is empty" in note for note in notes)
    assert any(note.startswith("test split: no view shows the avatar") for note in notes)


def test_without_a_mesh_points_fill_the_silhouettes(scene, tmp_path):
    for path in scene.rglob("*"):
        if path.is_file() and path.name != "body.npz":
            target = tmp_path / "data" / path.relative_to(scene)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    fit(tmp_path / "data", tmp_path / "out", config=replace(TINY, iterations=60), device="cpu")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["start"] == "random" and any("random points" in note for note in report["notes"])
    assert report["metrics"]["psnr"] > 18


@pytest.mark.parametrize("field", [{"points": 5}, {"iterations": -1}, {"lights": 2000}])
def test_impossible_numbers_are_refused(scene, tmp_path, field):
    with pytest.raises(UserError, match="must lie between"):
        fit(scene, tmp_path / "x", config=replace(TINY, **field), device="cpu")
    assert not (tmp_path / "x").exists()


def test_images_may_be_very_wide(scene, tmp_path):
    """Scaled to 320 pixels, they would be less than half a pixel high."""
    shutil.copytree(scene, tmp_path / "data")
    (tmp_path / "data" / "transforms_test.json").unlink()
    for path in (tmp_path / "data" / "train").iterdir():
        Image.open(path).resize((12_000, 16)).save(path)
    fit(tmp_path / "data", tmp_path / "out", config=replace(TINY, iterations=2, points=100), device="cpu")
    assert Image.open(tmp_path / "out" / "preview.png").size == (4 * 320, 1)


def surface(scene: Path) -> tuple[torch.Tensor, torch.Tensor]:
    mesh = load_body_mesh(scene)
    assert mesh is not None
    return mesh[0].float(), mesh[1]


def test_relocation_keeps_the_number_and_moves_transparent_gaussians(scene):
    generator = torch.Generator().manual_seed(0)
    init = init_points(load_posed_images(scene, "train"), 200, generator, surface(scene))
    params, ties = init.params(), {"row": torch.arange(200)}
    state = TrainState.create(params, ties, nn.Module(), dict.fromkeys(params, 1e-3), generator)
    sum(tensor.square().sum() for tensor in state.params.values()).backward()
    state.optimizer.step()
    with torch.no_grad():
        state.params["opacity_logits"][:20] = -8
    gradients = state.screen_gradients
    gradients.grad_sum[100:110], gradients.views[:] = 1.0, 1.0
    gradients.grad_sum[110:180] = 1e-3
    before = state.params["means"].detach().clone()
    moved = relocate(state)
    assert set(moved.tolist()) == set(range(20)) and len(state) == 200
    assert bool((state.ties["row"][moved] >= 100).all())
    assert bool((state.params["opacity_logits"].sigmoid()[moved] > 0.02).all())
    near = torch.cdist(state.params["means"][moved], before[100:180]).amin(1)
    assert float(near.detach().max()) < 6 * init.spacing
    for tensor in state.params.values():
        assert bool((state.optimizer.state[tensor]["exp_avg"][moved] == 0).all())
    assert float(state.screen_gradients.grad_sum.sum()) == 0


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 2, 1]])
def test_normals_of_a_mesh_point_outwards(order):
    vertices, faces = (torch.from_numpy(x) for x in ball_mesh())
    moved = vertices + torch.tensor([5.0, -3.0, 2.0])
    points, normals, area = sample_mesh(moved, faces[:, order], 300, torch.Generator().manual_seed(2))
    directions = torch.nn.functional.normalize(points - moved.mean(0), dim=-1)
    assert (normals * directions).sum(-1).min() > 0.9
    assert abs(area - 4 * math.pi * RADIUS**2) < 0.02 * area


def test_unseen_points_take_the_color_of_the_nearest_seen_one():
    points = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [1.1, 0, 0]])
    colors = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(0)).half()
    seen = torch.tensor([[1, 1, 0]] * 3 + [[1, 0, 0]]).bool()
    found = quantile_colors(Observations(colors, seen), 0.5, points)
    assert torch.allclose(found[1], colors[:3, 1].float().median(0).values)
    assert torch.equal(found[2], found[1]) and not torch.equal(found[0], found[1])


def test_a_small_point_cloud_is_repeated_with_distinct_points(scene, tmp_path):
    """Copies must neither coincide nor count as nearest neighbours: they would be too small to see."""
    data = shutil.copytree(scene, tmp_path / "data")
    (data / "body.npz").unlink()
    vertices, faces = (torch.from_numpy(x) for x in ball_mesh())
    points, _, _ = sample_mesh(vertices, faces, 120, torch.Generator().manual_seed(3))
    colors = torch.zeros(120, 3, dtype=torch.uint8)
    rows = np.empty(120, [(n, "<f4") for n in "xyz"] + [(n, "u1") for n in ("red", "green", "blue")])
    for k, name in enumerate("xyz"):
        rows[name] = points[:, k].numpy()
    for k, name in enumerate(("red", "green", "blue")):
        rows[name] = colors[:, k].numpy()
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 120\n"
    header += "".join(f"property float {n}\n" for n in "xyz")
    header += "".join(f"property uchar {n}\n" for n in ("red", "green", "blue")) + "end_header\n"
    (data / "points3d.ply").write_bytes(header.encode() + rows.tobytes())
    cloud = load_points(data)
    assert cloud is not None
    generator = torch.Generator().manual_seed(0)
    init = init_points(load_posed_images(data), 700, generator, cloud=cloud[0].float())
    assert init.source == "points" and len(init) == 700
    assert len(init.points.unique(dim=0)) == 700
    assert init.spacing > 0.01


def test_images_without_an_empty_pixel_show_no_accessories(scene):
    posed = load_posed_images(scene)
    vertices, faces = (torch.from_numpy(x) for x in ball_mesh())
    points, normals, _ = sample_mesh(vertices, faces, 400, torch.Generator().manual_seed(3))
    for view in posed:
        view.pixels[..., 3] = 255
    assert len(find_accessories(points, normals, posed)) == 0


def test_initial_shading_leaves_no_gradients(scene):
    posed = load_posed_images(scene)
    head = SpecularHead(SpecularConfig(lights=4))
    appearance = SpecularAppearance(head, initial_shading_steps=8)
    generator = torch.Generator().manual_seed(0)
    init = init_points(posed, 300, generator, surface(scene))
    fitting = begin(init, posed, appearance, generator, torch.device("cpu"))
    tensors = [*fitting.state.params.values(), *head.parameters()]
    assert all(tensor.grad is None for tensor in tensors)


def test_a_run_is_not_continued_on_other_images(scene, tmp_path):
    settings = replace(TINY, iterations=3, initial_shading_steps=0)
    fit(scene, tmp_path / "out", config=settings, device="cpu")
    (tmp_path / "out" / "report.json").unlink()
    other = shutil.copytree(scene, tmp_path / "other")
    picture = next((other / "train").glob("*.png"))
    Image.fromarray(255 - np.asarray(Image.open(picture))[..., [2, 1, 0, 3]]).save(picture)
    with pytest.raises(UserError, match=r"another image\.train/"):
        fit(other, tmp_path / "out", config=settings, device="cpu", resume=True)


def test_a_folder_may_have_the_suffix_of_a_file(scene, tmp_path):
    fit(
        scene,
        tmp_path / "ball.ply",
        config=replace(TINY, iterations=2, initial_shading_steps=0),
        device="cpu",
    )
    assert (tmp_path / "ball.ply" / "avatar.safetensors").is_file()


def test_the_neighbour_penalty_has_the_gradient_of_autograd(seed):
    generator = torch.Generator().manual_seed(seed)
    appearance = SpecularAppearance(SpecularHead(SpecularConfig(lights=4)), material_tie=0.7)
    latents, colors = (
        torch.randn(9, size, generator=generator).double().requires_grad_() for size in (34, 3)
    )
    near = torch.randint(9, (9,), generator=generator)

    def plain():
        materials = (latents[:, :10] - latents.detach()[near, :10]).abs().mean()
        tints = (colors - colors.detach()[near]).abs().mean()
        return 0.7 * (materials + 0.3 * tints) + 1e-5 * latents[:, 10:].square().mean()

    found = appearance._penalty(latents, colors, near)
    assert torch.allclose(found, plain())
    for scale in (1.0, -2.5):
        gradients = [
            torch.autograd.grad(scale * loss, [latents, colors], retain_graph=True)
            for loss in (found, plain())
        ]
        assert all(torch.allclose(a, b) for a, b in zip(*gradients))
