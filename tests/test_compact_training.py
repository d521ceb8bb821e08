"""The training of the compact prior: its state, its weight files, its store of people, its loss."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_prior import compact_prior
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "compact"))

from data import Examples, training_views
from denoising import DenoiserTask, Guided, draw_timesteps
from latents import Batch, Latents
from optimisation import STEPS_BETWEEN, Run, Trainer
from preview import Sheet
from weight_files import LIMIT, load_autoencoder, load_trained, save_weights, trained

from specularip.stages.view_start import ELEVATION_DEG

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, tmp_path, CPU)


def test_training_goes_on_where_it_was_stopped(run: Run, seed: int) -> None:
    torch.manual_seed(seed)
    layer, kept = nn.Linear(4, 4), []
    inputs, path = torch.randn(64, 4), run.work / "layer.pt"

    def loss() -> Tensor:
        return (layer(inputs) - inputs).square().mean()

    before = float(loss().detach())
    run.ends = time.monotonic() + 0.2
    trainer = Trainer(run, layer, path, rate=0.02, seconds=60)
    complete = trainer.train(loss, lambda: None, lambda: kept.append(layer.weight.detach().clone()))
    assert not complete and trainer.steps >= STEPS_BETWEEN and float(loss().detach()) < before, seed
    assert torch.equal(kept[-1], trainer.ema[0]) and not torch.equal(kept[-1], layer.weight), seed
    stopped = layer.weight.detach().clone()

    layer = nn.Linear(4, 4)
    run.ends = float("inf")
    again = Trainer(run, layer, path, rate=0.02, seconds=trainer.elapsed + 0.3)
    assert again.steps == trainer.steps and torch.equal(layer.weight, stopped)
    assert again.train(loss, lambda: None, lambda: None) and again.steps > trainer.steps


def test_biases_do_not_decay_and_pretrained_layers_learn_slowly(run: Run) -> None:
    new, old = nn.Linear(3, 3), nn.Linear(3, 3)
    module = nn.ModuleList([new, old])
    trainer = Trainer(run, module, run.work / "x.pt", rate=1.0, seconds=1, slow=tuple(old.parameters()))
    groups = {id(p): g for g in trainer.optimizer.param_groups for p in g["params"]}
    assert len(groups) == 4
    assert [groups[id(p)]["weight_decay"] > 0 for p in module.parameters()] == [True, False] * 2
    assert [groups[id(p)]["factor"] for p in module.parameters()] == [1.0, 1.0, 0.2, 0.2]


def test_weight_files_hold_what_is_trained(tmp_path: Path, seed: int) -> None:
    prior, other = compact_prior(seed), compact_prior(seed + 1)
    save_weights(trained(prior), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["weights-0.safetensors"]
    load_trained(other, tmp_path.iterdir())
    for name, value in trained(prior).items():
        assert torch.allclose(trained(other)[name], value, atol=0.01 * float(value.abs().max()) + 1e-4), (
            seed,
            name,
        )
    third = compact_prior(seed + 2)
    load_autoencoder(third, tmp_path.iterdir())
    assert torch.equal(third.autoencoder.decoder[0].weight, other.autoencoder.decoder[0].weight)
    save_weights({"strange": torch.zeros(2)}, tmp_path, "strange")
    with pytest.raises(ValueError, match="strange"):
        load_trained(prior, tmp_path.iterdir())


def test_weight_files_are_small(tmp_path: Path) -> None:
    save_weights({f"m{i}": torch.ones(2048, 2048) for i in range(5)}, tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2 and max(sizes) <= LIMIT


def test_new_people_take_the_place_of_the_oldest(run: Run, seed: int) -> None:
    prior = compact_prior(seed)

    def rendered(value: int) -> Path:
        """Two people in three views, whose faces have this value."""
        examples = Examples(
            images=torch.randint(0, 256, (2, 3, 4, 64, 64), dtype=torch.uint8),
            depth=torch.rand(2, 3, 64, 64).half(),
            maps=torch.full((2, 3, 4, 16, 16), value, dtype=torch.uint8),
            faces=torch.full((2, 3, 8, 8), value, dtype=torch.uint8),
            tokens=torch.full((2, 5, 3, 7), value, dtype=torch.int16),
        )
        path = run.work / f"{value}.safetensors"
        save_file(vars(examples), path)
        return path

    data = Latents(run, prior, capacity=4)
    assert len(data) == 0
    data.take([rendered(value) for value in (1, 2, 3)])
    assert len(data) == 4 and not list(run.work.glob("*.safetensors"))
    for store in (data, Latents(run, prior, capacity=4)):  # and as read by the next process
        assert sorted(store.tensors["faces"][:, 0, 0, 0].tolist()) == [2, 2, 3, 3]
        batch = store.draw(people=8, together=2)
        assert batch.latents.shape == (16, 16, 8, 8) and batch.tokens.shape == (16, 7)
        of_maps = (batch.maps[::2, 0, 0, 0] * 255).round()
        assert torch.equal(of_maps, (batch.faces[:, 0, 0, 0] * 255).round()), seed
        assert torch.equal(of_maps.long(), batch.tokens[::2, 0])


def test_views_are_those_of_sampling_or_random(generator: torch.Generator) -> None:
    about = 0
    for _ in range(40):
        views = training_views(10, 1.7, generator)
        assert len(views.cameras) == 10 and torch.allclose(
            views.cameras.viewmats[:, 2, 3] + (views.cameras.viewmats[:, 2, :3] * views.targets).sum(1),
            views.distances,
            atol=1e-4,
        )
        about += bool((views.elevation_deg - ELEVATION_DEG).abs().max() <= 5)
    assert 8 < about < 32


def test_timesteps_cover_all_noise_and_mostly_agree(seed: int) -> None:
    torch.manual_seed(seed)
    steps = draw_timesteps(200, 6, CPU).view(200, 6)
    assert steps.min() >= 0 and steps.max() <= 999
    same = (steps == steps[:, :1]).all(1)
    assert 0.6 < same.float().mean() < 0.95
    counts = torch.histc(steps[same].float()[:, 0], 5, 0, 1000)
    assert counts.min() > 0.5 * counts.mean(), seed


def test_loss_reaches_every_network_but_not_clean_views(seed: int) -> None:
    prior = compact_prior(seed, size=8)
    task = DenoiserTask(prior.requires_grad_(True), people=4, together=2)
    tokens = prior.tokenize(["a woman in a red dress"]).expand(8, -1)
    batch = Batch(torch.randn(8, 16, 8, 8), torch.rand(8, 4, 16, 16), torch.rand(4, 3, 16, 16), tokens)
    task.loss(batch).backward()
    for network in (prior.denoiser, prior.image_projection, prior.image_encoder, prior.text_encoder):
        assert any(p.grad is not None and bool(p.grad.any()) for p in network.parameters()), seed
    timesteps, noisy, target, weight = task.noised(batch)
    alpha = prior.alphas(timesteps)
    assert torch.allclose(alpha.sqrt() * noisy - (1 - alpha).sqrt() * target, batch.latents, atol=1e-4)
    assert not weight[timesteps == 0].any() and float(weight.mean()) == pytest.approx(1)
    conditions = task.conditions(batch)
    guided = Guided(task, 2.5).target(noisy, batch.maps, timesteps, conditions)
    assert guided.shape == noisy.shape and bool(guided.isfinite().all())


def test_sheets_have_whole_rows(tmp_path: Path) -> None:
    sheet = Sheet.of(3, 8)
    sheet.add(torch.rand(7, 3, 16, 16))
    sheet.add(torch.rand(2, 1, 4, 4))
    assert [band.shape for band in sheet.bands] == [(16, 24, 3), (8, 24, 3)]
    sheet.save(tmp_path / "sheet.jpg")
