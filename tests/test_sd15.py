"""The sd15 preset on a tiny prior of its layout: settings, views, timesteps, parts, sizes, the whole run."""

from __future__ import annotations

import json
import re
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sd15_files import EMBED, write_sources
from tiny_prior import make_condition, sd15_prior

from specularip import machine, pipeline, run_networks
from specularip.cameras import Cameras
from specularip.diffusion.attention import KeyViews
from specularip.diffusion.conditioning import identity
from specularip.diffusion.denoiser import DenoiserInputs
from specularip.diffusion.guidance import branch_noise
from specularip.diffusion.loading.folder import save_prior
from specularip.diffusion.prior import Prior
from specularip.diffusion.refine import refine
from specularip.diffusion.sds import sds
from specularip.errors import UserError
from specularip.lpips import VGG_CONVOLUTIONS, Lpips
from specularip.overrides import with_settings
from specularip.pipeline import generate
from specularip.presets import sd15, with_low_memory
from specularip.stages.scr import Targets, comparison, cropped
from specularip.stages.seid import timestep_range
from specularip.stages.settings import Config, ScrConfig
from specularip.stages.views import step_views

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")
FACE = Path(__file__).parent.parent / "examples" / "eileen_collins.jpg"


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Prior:
    return sd15_prior(tmp_path_factory.mktemp("sd15"), seed)


def small(folder: Path) -> Config:
    """The preset, scaled down to a prior in `folder` and a handful of steps; what it does stays."""
    return with_settings(
        sd15(),
        [
            f"prior.path={folder}",
            "prior.dtype=float32",
            "device=cpu",
            "seid.steps=6",
            "seid.points=700",
            "seid.max_points=900",
            "seid.render_size=64",
            "seid.lights=8",
            "seid.densify_every=2",
            "seid.max_scale=0.2",
            "scr.orbit_views=10",
            "scr.render_size=64",
            "scr.refine_size=128",
            "scr.refine_steps=1",
            "scr.crop=0,1,0,1",
            "scr.fit_steps=3",
            "scr.perceptual=any",
            "turntable_frames=2",
            "turntable_size=48",
        ],
    )


def test_timesteps_stay_in_the_published_windows() -> None:
    config = sd15().seid
    bounds = {100: 760, 800: 500, 1000: 420, 2000: 130, 2399: 1}
    ranges = {step: timestep_range(config, step / config.steps, bound) for step, bound in bounds.items()}
    assert ranges == {100: (500, 800), 800: (400, 550), 1000: (150, 470), 2000: (20, 180), 2399: (20, 51)}
    compact = Config().seid
    assert timestep_range(compact, 0.5, 400) == (120, 400)


def test_views_lie_in_the_published_ranges_and_close_ups_come_late() -> None:
    config = replace(sd15().seid, views_per_step=4)
    generator = torch.Generator().manual_seed(SEED)
    height = 1.75
    names: dict[bool, list[str]] = {False: [], True: []}
    for step in range(0, config.steps, 4):
        views = step_views(config, step, height, generator)
        name = views.framings[0].name
        names[step >= 1200].append(name)
        distance = (views.cameras.positions - views.cameras.positions.new_tensor(
            [0, 0, 0 if name == "full" else 0.65 / 1.5 * height]
        )).norm(dim=-1) / height * 1.5  # fmt: skip
        low, high = {"full": (1.3, 1.7), "head": (0.4, 0.6), "upper": (0.6, 0.8)}[name]
        assert (distance > low - 1e-4).all() and (distance < high + 1e-4).all(), (SEED, step)
        assert (views.elevation_deg.abs() <= 30).all()
        turned = views.azimuth_deg.abs()
        assert name == "full" or ((turned <= 90) if name == "head" else (turned >= 90)).all(), (SEED, step)
    assert set(names[False]) == {"full"}
    late = names[True]
    assert abs(late.count("head") / len(late) - 0.25) < 0.11, SEED
    assert abs(late.count("upper") / len(late) - 0.15) < 0.1, SEED


@pytest.mark.parametrize("at_once", [1, 3])
def test_parts_make_the_same_gradient(prior: Prior, at_once: int) -> None:
    generator = torch.Generator().manual_seed(SEED)
    condition = make_condition(prior, [0.0, 80.0, -80.0, 180.0], SEED)
    images = torch.rand(4, 3, 96, 96, generator=generator, requires_grad=True)
    noise = torch.randn(4, 4, 8, 8, generator=generator)
    arguments = (condition, torch.tensor([60, 200, 500, 750]), noise, sd15().guidance)
    whole = sds(prior, images, *arguments)
    (wanted,) = torch.autograd.grad(3.0 * whole.loss, images)
    split = sds(prior, images, *arguments, at_once=at_once)
    (found,) = torch.autograd.grad(3.0 * split.loss, images)
    assert float(wanted.norm()) > 0
    assert float((found - wanted).norm() / wanted.norm()) < 1e-3, SEED
    assert split.loss.item() == pytest.approx(whole.loss.item(), rel=1e-3), SEED
    assert float(split.grad_norm) == pytest.approx(float(whole.grad_norm), rel=1e-3), SEED
    assert torch.allclose(split.x0, whole.x0, atol=1e-3 * float(whole.x0.abs().max())), SEED


def test_each_branch_sees_its_own_face(prior: Prior) -> None:
    generator = torch.Generator().manual_seed(SEED)
    person, other = (prior.encode_face(torch.rand(1, 3, 16, 16, generator=generator)) for _ in range(2))
    tokens = identity(prior, person, negative=other)
    assert tokens is not None
    plain = make_condition(prior, [0.0], SEED)
    condition = replace(
        plain, identity=tokens.positive, null_identity=tokens.null, negative_identity=tokens.negative,
        negative=plain.positive, null=plain.positive,
    )  # fmt: skip
    noisy = torch.randn(1, 4, 8, 8, generator=generator)
    t = torch.tensor([300])
    found = branch_noise(prior, noisy, t, condition, ("positive", "negative", "null"))
    for noise, face in zip(found, (tokens.positive, tokens.negative, tokens.null)):
        given = DenoiserInputs(noisy, t, plain.positive, plain.pose, face, plain.identity_scale)
        alone = prior.predict_noise(given)
        assert torch.allclose(noise, alone, atol=1e-4), SEED
    assert not torch.allclose(found[0], found[1], atol=1e-4) and not torch.allclose(
        found[1], found[2], atol=1e-4
    )
    alike = identity(prior, person, guided=False)
    assert alike is not None and torch.equal(alike.positive, alike.negative)


def test_refinement_works_above_the_priors_own_size_and_in_any_batches(prior: Prior) -> None:
    generator = torch.Generator().manual_seed(SEED)
    azimuth = torch.arange(12) * 30.0 - 180.0
    condition = make_condition(prior, azimuth.tolist(), SEED)
    images = torch.rand(12, 3, 128, 128, generator=generator)

    def run(**options: Any) -> torch.Tensor:
        return refine(
            prior, images, condition, azimuth, refine_steps=2, ddim_steps=50, scale=3.0, size=128,
            generator=torch.Generator().manual_seed(SEED), **{"own_share": 0.55, **options},
        )  # fmt: skip

    wanted = run()
    assert wanted.shape == (12, 3, 128, 128)
    assert torch.allclose(run(batch=3, vae_batch=1), wanted, atol=1e-3), SEED
    assert not torch.allclose(run(own_share=1), wanted, atol=1e-3), SEED


def test_a_crop_sees_the_same_points() -> None:
    cameras = Cameras.orbit([0.0, 90.0], 17.0, 1.7, 70.0, 256, 256)
    config = ScrConfig(crop=(0.25, 0.75, 0.125, 0.625), shrink=0.5)
    images = torch.rand(2, 3, 512, 512, generator=torch.Generator().manual_seed(SEED))
    looking, part = cropped(cameras, images, config)
    assert (looking.height, looking.width, *part.shape[2:]) == (128, 128, 128, 128)
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(SEED)) - 0.5
    moved = cameras.project(points)[0] - looking.project(points)[0]
    assert torch.allclose(moved, torch.tensor([32.0, 64.0]).expand_as(moved), atol=1e-3), SEED
    assert torch.allclose(part[0, :, 0, 0], images[0, :, 128:130, 64:66].mean((1, 2)), atol=1e-6), SEED


def test_the_whole_run(prior: Prior, tmp_path: Path) -> None:
    save_prior(prior, tmp_path / "prior", torch.float32)
    config = small(tmp_path / "prior")
    made = generate("A woman in a red dress", FACE, out=tmp_path / "run", config=config)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["settings"]["preset"] == "sd15" and report["settings"]["guidance"]["kind"] == "anpg"
    assert (
        report["device"] == "cpu"
        and report["processes"] == 1
        and report["perceptual_loss"] == "unet-features"
    )
    assert len(made.gaussians) == report["gaussians"] > 500
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["seid"] * 6 + ["fit"] * 3
    assert "photo" not in lines[0] and lines[-1]["l1"] < lines[-3]["l1"] * 1.5
    assert (tmp_path / "run" / "turntable.mp4").stat().st_size > 0

    # Less memory is the same avatar, also in the middle of a run.
    (tmp_path / "run" / "report.json").unlink()
    for old in sorted((tmp_path / "run" / "checkpoints").glob("*-fit.safetensors")):
        old.unlink()
    again = generate(
        "A woman in a red dress", FACE, out=tmp_path / "run", config=config, resume=True, low_memory=True
    )
    settings = json.loads((tmp_path / "run" / "report.json").read_text())["settings"]
    assert (
        settings["low_memory"] and settings["scr"]["refine_batch"] == with_low_memory(config).scr.refine_batch
    )
    difference = (again.gaussians.color_logits - made.gaussians.color_logits).abs().mean()
    assert float(difference) < 1e-3, SEED


def test_the_run_from_files_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, _ = write_sources(tmp_path / "models", SEED)
    recognised: list[str] = []

    class Recogniser:
        """In place of insightface's models: an embedding as long as the small adapter's."""

        def portrait(self, photo: np.ndarray, name: str) -> types.SimpleNamespace:
            recognised.append(name)
            generator = torch.Generator().manual_seed(SEED + len(recognised))
            embedding = torch.nn.functional.normalize(torch.randn(EMBED, generator=generator), dim=0)
            crop = torch.rand(3, 224, 224, generator=generator)
            return types.SimpleNamespace(embedding=embedding, crop=crop, note="2 faces, of which the largest")

    monkeypatch.setattr(run_networks.InsightFace, "load", staticmethod(lambda folder, device: Recogniser()))
    config = with_settings(small(tmp_path), ["prior.path=sd15", "seid.steps=2", "scr.fit_steps=1"])
    config = replace(config, prior=replace(config.prior, sources=sources))
    config = with_settings(config, [f"guidance.negative_face={FACE}", "scr.guidance.identity_structure=0.9"])
    generate("A man in a suit", FACE, out=tmp_path / "run", config=config)
    assert recognised == [str(FACE), str(FACE)]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "2 faces, of which the largest" in report["notes"]
    assert report["settings"]["prior"]["sources"]["vae"] == sources.vae
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines) and len(lines) == 3


def test_without_insightface_the_landmarks_align_the_face_and_the_loss_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, _ = write_sources(tmp_path / "models", SEED)
    config = with_settings(small(tmp_path), ["prior.path=sd15", "seid.steps=1", "scr.fit_steps=1"])
    config = replace(config, prior=replace(config.prior, sources=sources, faces=str(tmp_path / "none")))
    given: list[tuple[torch.Tensor, torch.Tensor]] = []
    encode = Prior.encode_face

    def encode_face(prior: Prior, crop: torch.Tensor, embeds: torch.Tensor) -> object:
        given.append((crop, embeds))
        return encode(prior, crop, embeds)

    monkeypatch.setattr(Prior, "encode_face", encode_face)
    generate("A man in a suit", FACE, out=tmp_path / "run", config=config)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert any("buffalo_l" in note and "loss of likeness" in note for note in report["notes"])
    ((crop, embeds),) = given
    assert crop.shape == (1, 3, 224, 224) and not embeds.any()
    # ArcFace's template: the face is in the middle, upright, skin all over.
    middle = crop[0, :, 90:150, 70:154].flatten(1).mean(1)
    assert middle[0] > middle[1] > middle[2] and float(middle[0]) > 0.5


def test_missing_input_is_reported_before_the_first_step(
    prior: Prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error_of(config: Config, **options: object) -> str:
        with pytest.raises(UserError) as caught:
            generate("a man", FACE, out=tmp_path / "never", config=config, **options)  # type: ignore[arg-type]
        assert not (tmp_path / "never").exists() and "\n" not in str(caught.value)
        return str(caught.value)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert re.search("NVIDIA GPU with 16 GB.*--low-memory.*--preset compact", error_of(sd15()))
    monkeypatch.setenv("SPECULARIP_LPIPS", "")
    monkeypatch.setattr(run_networks, "find_lpips", lambda device: None)
    cpu = replace(sd15(), device="cpu")
    assert "LPIPS" in error_of(cpu) and "perceptual_weight=0" in error_of(cpu)
    folder = with_settings(cpu, ["scr.perceptual_weight=0", f"prior.sources.base={tmp_path / 'nothing'}"])
    (tmp_path / "zipped").touch()
    assert "unpack it" in error_of(
        replace(folder, prior=replace(folder.prior, faces=str(tmp_path / "zipped")))
    )
    monkeypatch.setattr(run_networks.InsightFace, "load", staticmethod(lambda folder, device: None))
    assert "nothing" in error_of(folder)
    assert "photo-weight" in error_of(cpu, photo_weight=-1.0)
    save_prior(prior, tmp_path / "prior", torch.float32)
    smplx = with_settings(small(tmp_path / "prior"), [f"body={tmp_path / 'smplx'}"])
    assert "SMPLX_NEUTRAL.npz" in error_of(smplx)
    crop = with_settings(small(tmp_path / "prior"), ["scr.crop=0,1,0.25,0.75"])
    assert "square" in error_of(crop)


def test_the_command_takes_the_preset_and_any_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from specularip.cli import main

    command = ["generate", "a man", "--image", str(FACE), "--out", str(tmp_path / "out"), "--preset", "sd15"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options, words in (
        ([], "--preset compact needs no GPU"),
        (["--set", "seid.step=1"], "no setting 'step'"),
        (["--low-memory", "--set", "seid.steps=many"], "whole number"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*command, *options])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and words in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()

    given: dict[str, Any] = {}
    monkeypatch.setattr(pipeline, "generate", lambda *arguments, **options: given.update(options))
    main([*command, "--low-memory", "--photo-weight", "0.5", "--set", "seid.steps=9", "body=/models/smplx"])
    assert given["low_memory"] and given["photo_weight"] == 0.5
    assert given["config"].seid.steps == 9 and given["config"].body == "/models/smplx"
    assert given["config"].prior.path == "sd15" and given["config"].detects_face


@pytest.mark.gpu
def test_the_whole_run_on_a_gpu(prior: Prior, tmp_path: Path) -> None:
    save_prior(prior, tmp_path / "prior", torch.float32)
    config = with_settings(small(tmp_path / "prior"), ["device=cuda", "prior.fast=false"])
    made = generate("A woman in a red dress", FACE, out=tmp_path / "run", config=config)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["device"].startswith("cuda") and report["peak_gpu_gib"] > 0
    assert made.gaussians.means.device.type == "cpu" and len(made.gaussians) == report["gaussians"]


@pytest.mark.gpu
def test_the_captured_comparison_equals_the_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    generator = torch.Generator().manual_seed(SEED)
    weights: dict[str, torch.Tensor] = {}
    channels = 3
    for k, (group, width) in enumerate(zip(VGG_CONVOLUTIONS, (64, 128, 256, 512, 512))):
        for n in group:
            weights[f"features.{n}.weight"] = 0.1 * torch.randn(width, channels, 3, 3, generator=generator)
            weights[f"features.{n}.bias"], channels = torch.zeros(width), width
        weights[f"lin{k}"] = torch.rand(width, generator=generator)
    lpips = Lpips(weights, device)
    images = torch.rand(6, 3, 24, 32, generator=generator).to(device)
    targets = Targets(torch.eye(4).expand(6, 4, 4), torch.eye(3).expand(6, 3, 3), images, 64, 48)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # else each may take other kernels
    compare = comparison(targets, lpips)
    for rows in (torch.tensor([0, 4]), torch.tensor([5, 1])):
        renders = torch.rand(2, 3, 48, 64, generator=generator).to(device).requires_grad_()
        found = compare(renders, rows.to(device))
        small_renders = torch.nn.functional.avg_pool2d(renders, 2)
        wanted = (
            (small_renders - images[rows]).abs().mean(),
            lpips.distance(lpips.features(small_renders), lpips.features(images[rows])),
        )
        for a, b in zip(found, wanted):
            assert float((a - b).detach().abs() / b.detach()) < 1e-3, (SEED, float(a), float(b))
        gradients = [torch.autograd.grad(sum(pair), renders)[0] for pair in (found, wanted)]
        assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 1e-2, SEED


def test_too_little_gpu_memory_is_reported_with_the_remedy() -> None:
    assert machine.memory_problem(15.5, "a GPU", False) == "" == machine.memory_problem(11.2, "a GPU", True)
    assert "add --low-memory" in machine.memory_problem(12.0, "a GPU", False)
    for low in (False, True):
        line = machine.memory_problem(8.0, "a GPU", low)
        assert "8.0 GiB free" in line and "compact" in line and "add --low-memory" not in line


def test_keys_recorded_in_two_batches_are_kept_in_order() -> None:
    views = KeyViews(2, record=True)
    keys = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(SEED))
    for rows in (slice(0, 2), slice(2, 3)):
        views.add("layer", keys[:, rows].flatten(0, 1), -keys[:, rows].flatten(0, 1))
    assert torch.equal(views.store["layer"][0], keys) and torch.equal(views.store["layer"][1], -keys)
