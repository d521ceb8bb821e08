"""`generate` with a prior of the compact layout, which starts from sampled views; here of a known person."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_prior import compact_prior
from tiny_runs import FACE, SEID, TEXT, TINY, difference

from specularip import pipeline
from specularip.avatar import Avatar
from specularip.body import anny_body, phenotype_from_text
from specularip.cameras import FULL, Cameras
from specularip.diffusion.loading.folder import save_prior
from specularip.diffusion.prompts import PromptBook
from specularip.gaussians import Gaussians
from specularip.metrics import psnr
from specularip.progress import Progress
from specularip.specular import SpecularConfig, SpecularHead
from specularip.specular.head import PACE
from specularip.specular.shading import ROUGHNESS
from specularip.stages.guide import Guide, as_images, draw
from specularip.stages.initial_state import initial_state
from specularip.stages.settings import Config, StartConfig, ViewFitConfig
from specularip.stages.start import sample_start, start_from
from specularip.stages.view_start import start_views

SHORT = replace(
    TINY,
    start=StartConfig(
        ddim_steps=2, last_timesteps=(20,), shading_steps=20, fit=ViewFitConfig(steps=8, views_per_step=2)
    ),
    seid=replace(SEID, steps=3, points=3000, max_points=3200),
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("prior") / "prior"
    save_prior(compact_prior(), folder, int8=True)
    return replace(SHORT, prior=replace(SHORT.prior, path=str(folder)))


def striped(guide: Guide) -> Gaussians:
    """A bare body in colours that vary with height."""
    gaussians = initial_state(guide.body, replace(SEID, points=6000), 0).gaussians
    heights = gaussians.means[:, 2:].detach()
    return replace(gaussians, color_logits=2 * torch.sin(6 * heights + torch.tensor([0.0, 1.0, 2.0])))


def views_of_a_body(guide: Guide, *_: object) -> torch.Tensor:
    views = start_views(guide.body.height, guide.prior.image_size)
    raster, _ = draw(striped(guide), None, views.cameras, guide.config.background, depth=True)
    return as_images(raster, 5, views.distances).detach()


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Avatar]:
    out = tmp_path_factory.mktemp("run") / "avatar"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "sample_start", views_of_a_body)
        return out, pipeline.generate(TEXT, FACE, out=out, config=config)


def test_the_avatar_shows_the_person_of_the_sampled_views(
    config: Config, finished: tuple[Path, Avatar]
) -> None:
    out, avatar = finished
    report = json.loads((out / "report.json").read_text())
    assert {"views", "start", "seid", "refine", "fit"} <= set(report["seconds"])
    assert report["perceptual_loss"] == "encoder-features"
    prior = compact_prior()
    body = anny_body(phenotype_from_text(TEXT))
    guide = Guide(prior, PromptBook(prior), TEXT, prior.encode_face(torch.rand(1, 3, 16, 16)), body, config)
    views = start_views(body.height, 128)
    truth = draw(striped(guide), None, views.cameras, config.background)[0]
    shown = avatar.render(views.cameras, config.background)
    both = ((truth.alpha > 0.5) & (shown.alpha > 0.5)).sum() / (
        (truth.alpha > 0.5) | (shown.alpha > 0.5)
    ).sum()
    assert both > 0.85, both
    assert psnr(shown.image, truth.image.detach()).mean() > 17


@pytest.mark.parametrize(("stage", "step"), [("SEID start", 4), ("SEID", 2)])
def test_a_stopped_run_resumes_to_the_same_avatar(
    config: Config,
    finished: tuple[Path, Avatar],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    step: int,
) -> None:
    class Interrupting(Progress):
        def step(self, done: int, loss: float | None = None) -> None:
            super().step(done, loss)
            if self._stage == stage and done == step:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(pipeline, "sample_start", views_of_a_body)
    with pytest.raises(KeyboardInterrupt):
        pipeline.generate(TEXT, FACE, out=tmp_path / "run", config=config, progress=Interrupting())
    resumed = pipeline.generate(TEXT, FACE, out=tmp_path / "run", config=config, resume=True)
    assert difference(resumed, finished[1]) <= 1e-3
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len([line for line in lines if line["stage"] == "seid"]) == config.seid.steps


def test_highlights_in_the_sampled_views_move_with_the_camera(config: Config) -> None:
    """A glossy body under one lamp, seen in between the views from which it was made: a fit alone paints the
    highlights of those views onto the surface."""
    prior = compact_prior()
    body = anny_body(phenotype_from_text(TEXT))
    guide = Guide(prior, PromptBook(prior), TEXT, prior.encode_face(torch.rand(1, 3, 16, 16)), body, config)
    lamp = SpecularHead(SpecularConfig(lights=1))
    with torch.no_grad():
        lamp.axes.copy_(torch.tensor([[0.4, -0.8, 0.45]]))
        lamp.raw_colors.fill_(math.log(5.0) / PACE)
        lamp.raw_widths.fill_(math.log(0.03) / PACE)
    config = replace(config, seid=replace(config.seid, points=9000))  # a third of them are the face's
    person = striped(guide)
    latents = person.latents.clone()
    latents[:, :2], latents[:, 3:6] = math.log(0.25 / ROUGHNESS), 1.5
    person = replace(person, latents=latents, color_logits=torch.full_like(person.color_logits, -1.0))

    views = start_views(body.height, 128)
    raster, _ = draw(person, lamp, views.cameras, config.background, depth=True)
    images = as_images(raster, 5, views.distances).detach()
    between = Cameras.orbit([-20.0, 20.0], 8.0, FULL.distance * body.height, FULL.fov_y_deg, 128, 128)
    dull, true = (draw(person, lamp, between, config.background, gain)[0].image for gain in (0.0, 1.0))
    lit = (true - dull).amax(-1) > 0.1
    errors = []
    for steps in (0, 150):
        guide.config = replace(config, start=replace(config.start, shading_steps=steps))
        state = start_from(images, guide, torch.device("cpu"), lambda *_: None)
        own = draw(state.gaussians, state.shared, between, config.background)[0].image
        errors.append(float((own - true)[lit].abs().mean()))
    assert lit.sum() > 1000 and errors[1] < 0.8 * errors[0], errors


def test_views_are_sampled_together_and_depend_on_each_other(config: Config) -> None:
    prior = compact_prior()
    body = anny_body(phenotype_from_text(TEXT))
    guide = Guide(prior, PromptBook(prior), TEXT, prior.encode_face(torch.rand(1, 3, 16, 16)), body, config)
    done: list[tuple[int, int]] = []
    images = sample_start(guide, lambda step, total: done.append((step, total)))
    assert images.shape == (16, 5, 64, 64) and done == [(1, 2), (2, 2)]
    maps = guide.body_map(start_views(body.height, 64))
    assert maps.shape == (16, 4, 16, 16) and 0 < float(maps[:, 3].mean()) < 1
    with torch.no_grad():
        noisy = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        condition = guide.condition(start_views(body.height, 64))[:2]
        at = torch.full((2,), 500)
        first = pipeline_noise(prior, noisy, at, condition)
        noisy[1] += 1
        assert (pipeline_noise(prior, noisy, at, condition)[0] - first[0]).abs().max() > 1e-6


def pipeline_noise(prior, noisy, at, condition):  # type: ignore[no-untyped-def]
    from specularip.diffusion.guidance import cfg_noise

    return cfg_noise(prior, noisy, at, condition, 2.0)
