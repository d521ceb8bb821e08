"""Prompts, timesteps, guidance and the gradient of score distillation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_prior import compact_prior, latent_prior, make_condition, pixel_prior
from torch import Tensor

from specularip.cameras import sample_views
from specularip.diffusion.conditioning import condition_views, face_weight
from specularip.diffusion.denoiser import DenoiserInputs
from specularip.diffusion.guidance import anpg_direction, branch_noise, cfg_noise
from specularip.diffusion.prior import Prior
from specularip.diffusion.prompts import PromptBook, view_prompt, view_prompts
from specularip.diffusion.sample import sample, sampling_timesteps
from specularip.diffusion.sds import clip_pixels, sds
from specularip.diffusion.settings import GuidanceConfig
from specularip.diffusion.timesteps import ahds_bounds, sample_timesteps

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture(scope="module", params=["pixel", "latent"])
def prior(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, seed: int) -> Prior:
    if request.param == "pixel":
        return pixel_prior(seed)
    return latent_prior(tmp_path_factory.mktemp("latent"), seed)


def test_prompts_name_framing_and_view() -> None:
    assert view_prompt("A man in a suit. ", "head", "back") == "A man in a suit, head close-up, back view"
    views = sample_views(
        40,
        size=8,
        body_height=1.7,
        weights=(1.0, 1.0, 1.0, 1.0),
        generator=torch.Generator().manual_seed(SEED),
    )
    prompts = view_prompts("a man", views)
    for prompt, framing, azimuth in zip(prompts, views.framings, views.azimuth_deg.tolist()):
        phrase = {"full": "full body", "upper": "upper body", "lower": "legs", "head": "head close-up"}[
            framing.name
        ]
        word = "front" if abs(azimuth) <= 50 else "back" if abs(azimuth) >= 130 else "side"
        assert prompt == f"a man, {phrase}, {word} view", SEED


def test_each_prompt_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, encoded = pixel_prior(SEED), []
    encode = prior.encode_text
    monkeypatch.setattr(prior, "encode_text", lambda texts: encoded.extend(texts) or encode(texts))
    book = PromptBook(prior)
    embeds = book.encode(["a man", "red", "a man"])
    book.encode(["red", "blue"])
    assert encoded == ["a man", "red", "blue"]
    assert torch.equal(embeds[0], embeds[2]) and not torch.equal(embeds[0], embeds[1])


def test_ahds_distributes_its_steps_as_stated() -> None:
    bounds = ahds_bounds(2400).double()
    assert bounds.shape == (2400,) and (bounds.diff() <= 0).all()
    assert 790 <= bounds[0] < 800 and 0 <= bounds[-1] < 10
    below, above = (bounds < 350).double().mean(), (bounds > 450).double().mean()
    assert abs(below - 0.41) < 0.01 and abs(above - 0.375) < 0.01
    assert abs(1 - below - above - 0.21) < 0.01


def test_ahds_top_and_bottom() -> None:
    bounds = ahds_bounds(300, top=980, bottom=200)
    assert bounds[0] <= 980 and bounds[0] > 940 and bounds[-1] >= 200 and bounds[-1] < 210
    assert len(ahds_bounds(1)) == 1
    with pytest.raises(ValueError, match="bottom"):
        ahds_bounds(10, top=100, bottom=100)


def test_timesteps_are_stratified_below_the_bound() -> None:
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.cat([sample_timesteps(500, 8, generator) for _ in range(200)])
    assert drawn.min() >= 20 and drawn.max() <= 500, SEED
    assert drawn.min() < 30 and drawn.max() > 490 and abs(drawn.double().mean() - 260) < 15, SEED
    one = sample_timesteps(500, 8, generator).sort().values
    slices = (one - 20) / 481 * 8  # rounding down takes up to 8/481 of a slice
    assert ((slices > torch.arange(8) - 0.02) & (slices < torch.arange(8) + 1)).all(), (SEED, slices)
    assert sample_timesteps(5, 3, generator).tolist() == [20, 20, 20]


def test_identity_scale_falls_as_the_face_turns_away() -> None:
    weight = face_weight(torch.tensor([0.0, 90.0, -90.0, 180.0]), 0.5)
    assert weight[0] == 0.5 and weight[3] == 0 and 0 < weight[1] < 0.5 and weight[1] == weight[2]
    assert face_weight(torch.tensor([180.0]), 0.5, hidden=0.2) == pytest.approx(0.2)


def test_one_batched_call_equals_separate_calls(prior: Prior) -> None:
    condition = make_condition(prior, [0.0, 70.0, 180.0], SEED)
    generator = torch.Generator().manual_seed(SEED)
    noisy = torch.randn(3, 4, prior.latent_size, prior.latent_size, generator=generator)
    t = torch.tensor([50, 400, 900])
    together = branch_noise(prior, noisy, t, condition, ("positive", "negative", "null"))
    scale = condition.identity_scale
    for noise, text, face in zip(
        together,
        (condition.positive, condition.negative, condition.null),
        (condition.identity, condition.null_identity, condition.null_identity),
    ):
        alone = prior.predict_noise(DenoiserInputs(noisy, t, text, condition.pose, face, scale))
        assert torch.allclose(noise, alone, atol=1e-5), SEED


def test_cfg_of_scale_one_is_the_positive_prediction_and_rescale_keeps_its_deviation() -> None:
    prior = pixel_prior(SEED)
    condition = make_condition(prior, [0.0, 70.0], SEED)
    noisy = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(SEED))
    t = torch.tensor([300, 600])
    (positive,) = branch_noise(prior, noisy, t, condition, ("positive",))
    assert torch.allclose(cfg_noise(prior, noisy, t, condition, 1.0), positive, atol=1e-5), SEED
    alpha = prior.alphas(t)
    full = cfg_noise(prior, noisy, t, condition, 30.0, rescale=1.0)
    clean, wanted = ((noisy - (1 - alpha).sqrt() * e) / alpha.sqrt() for e in (full, positive))
    assert torch.allclose(clean.std((1, 2, 3)), wanted.std((1, 2, 3)), rtol=1e-3), SEED
    assert not torch.allclose(full, positive, atol=1e-3), SEED


@pytest.mark.parametrize(
    ("kind", "times"),
    [("cfg", [60, 169, 700])] + [("anpg", times) for times in ([60, 169, 700], [700, 60, 169], [60, 9, 169])],
)
def test_gradient_is_the_stated_formula(prior: Prior, kind: str, times: list[int]) -> None:
    """Whichever views use the negative prompt."""
    generator = torch.Generator().manual_seed(SEED)
    condition = make_condition(prior, [0.0, 90.0, 180.0], SEED)
    size = prior.image_size
    images = torch.rand(3, prior.image_channels, size, size, generator=generator, requires_grad=True)
    noise = torch.randn(3, 4, prior.latent_size, prior.latent_size, generator=generator)
    t = torch.tensor(times)
    config = GuidanceConfig(kind=kind, scale=7.5, pixel_clip=0.3)  # type: ignore[arg-type]
    result = sds(prior, images, condition, t, noise, config)
    (found,) = torch.autograd.grad(result.loss, images)

    latents = prior.encode_image(images)
    x, eps = latents.detach().double(), noise.double()
    alpha = prior.scheduler.alphas_cumprod.double()[t][:, None, None, None]
    noisy = alpha.sqrt() * x + (1 - alpha).sqrt() * eps
    pos, neg, null = (
        e.double() for e in branch_noise(prior, noisy.float(), t, condition, ("positive", "negative", "null"))
    )
    if kind == "cfg":
        direction = neg + 7.5 * (pos - neg) - eps
    else:
        low_noise = torch.tensor([1.0 if t < 170 else 0.0 for t in times], dtype=torch.float64)[
            :, None, None, None
        ]
        direction = 7.5 * (pos - null) + low_noise * null + (1 - low_noise) * (null - neg)
    gradient = (1 - alpha) * direction
    if prior.clip_sample:
        x0 = (x - ((1 - alpha) / alpha).sqrt() * direction).clamp(-1, 1)
        gradient = (alpha * (1 - alpha)).sqrt() * (x - x0)
    norm = gradient.norm(dim=1, keepdim=True)
    gradient = torch.where(norm > 0.3, gradient * 0.3 / norm, gradient)
    (wanted,) = torch.autograd.grad(latents, images, gradient.float() / 3)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()) + 1e-6), (
        SEED,
        kind,
        float((found - wanted).abs().max()),
    )
    assert result.x0.shape == x.shape and torch.isfinite(result.loss)
    assert result.grad_norm == pytest.approx(float(gradient.square().sum(1).mean().sqrt()), rel=1e-3)


def test_views_that_attend_to_each_other_stay_in_one_batch() -> None:
    prior = compact_prior(SEED)
    generator = torch.Generator().manual_seed(SEED)
    condition = make_condition(prior, [0.0, 80.0, -80.0, 180.0], SEED)
    images = torch.rand(4, 5, prior.image_size, prior.image_size, generator=generator, requires_grad=True)
    noise = torch.randn(4, prior.latent_channels, prior.latent_size, prior.latent_size, generator=generator)
    arguments = (
        prior,
        images,
        condition,
        torch.full((4,), 200),
        noise,
        GuidanceConfig(kind="cfg", scale=3.0),
    )

    def gradient(**options: int) -> Tensor:
        return torch.autograd.grad(sds(*arguments, **options).loss, images)[0]

    wanted = gradient()
    assert torch.allclose(gradient(at_once=2), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max())), SEED
    parts = [sds(prior, images[rows], condition[rows], torch.full((2,), 200), noise[rows], arguments[-1]).loss
             for rows in (slice(0, 2), slice(2, 4))]  # fmt: skip
    (alone,) = torch.autograd.grad(sum(parts) / 2, images)
    assert float((alone - wanted).norm()) > 1e-3 * float(wanted.norm()), SEED


@pytest.mark.parametrize(
    ("times", "evaluations"),
    [([700, 300, 200], 9), ([700, 60, 169], 7), ([60, 700, 169], 8), ([60, 9, 169], 6)],
)
def test_negative_predictions_without_weight_are_not_evaluated(
    prior: Prior, times: list[int], evaluations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition, counts = make_condition(prior, [0.0, 90.0, 180.0], SEED), []
    predict = prior.predict_noise

    def counted(inputs: DenoiserInputs) -> Tensor:
        counts.append(len(inputs.text))
        return predict(inputs)

    monkeypatch.setattr(prior, "predict_noise", counted)
    images = torch.rand(3, prior.image_channels, prior.image_size, prior.image_size)
    noise = torch.randn(3, 4, prior.latent_size, prior.latent_size)
    sds(prior, images, condition, torch.tensor(times), noise, GuidanceConfig(kind="anpg"))
    anpg_direction(prior, noise, torch.tensor(times), condition, 7.5, 170)
    assert counts == [evaluations, 9]


def test_without_clamping_or_clipping_it_is_plain_sds(tmp_path: Path) -> None:
    """(1 − ᾱ)(ε̂ − ε), DreamFusion's equation 3."""
    prior = latent_prior(tmp_path, SEED)
    generator = torch.Generator().manual_seed(SEED)
    condition = make_condition(prior, [0.0, 120.0], SEED)
    images = torch.rand(2, 3, 16, 16, generator=generator, requires_grad=True)
    noise = torch.randn(2, 4, 8, 8, generator=generator)
    t = torch.tensor([100, 800])
    result = sds(prior, images, condition, t, noise, GuidanceConfig(scale=4.0, pixel_clip=1e9))
    (found,) = torch.autograd.grad(result.loss, images)
    latents = prior.encode_image(images)
    guided = cfg_noise(prior, prior.add_noise(latents.detach(), noise, t), t, condition, 4.0)
    (wanted,) = torch.autograd.grad(latents, images, (1 - prior.alphas(t)) * (guided - noise) / 2)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())), SEED


def test_pixel_clipping_keeps_directions() -> None:
    gradient = 3 * torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(SEED))
    clipped = clip_pixels(gradient, 1.0)
    norm, before = clipped.norm(dim=1), gradient.norm(dim=1)
    assert (norm <= 1 + 1e-5).all() and torch.equal(norm[before <= 1], before[before <= 1]), SEED
    assert torch.allclose(clipped * (before / norm)[:, None], gradient, atol=1e-5), SEED
    assert torch.equal(clip_pixels(torch.zeros(1, 4, 2, 2), 1.0), torch.zeros(1, 4, 2, 2))


def test_one_gradient_step_reaches_the_estimate() -> None:
    """A gradient step of the right length lands on x0, which settles the sign."""
    prior = pixel_prior(SEED)
    generator = torch.Generator().manual_seed(SEED)
    condition = make_condition(prior, [0.0], SEED)
    images = torch.rand(1, 4, 16, 16, generator=generator, requires_grad=True)
    t = torch.tensor([500])
    noise = torch.randn(1, 4, 16, 16, generator=generator)
    result = sds(prior, images, condition, t, noise, GuidanceConfig(pixel_clip=1e9))
    (gradient,) = torch.autograd.grad(result.loss, images)
    alpha = prior.alphas(t)
    # images are in 0..1 and latents in -1..1, so the chain rule gives 2, and a step in images counts double.
    moved = images.detach() - gradient / (4 * (alpha * (1 - alpha)).sqrt())
    assert torch.allclose(prior.encode_image(moved), result.x0, atol=1e-4), SEED


def test_sampling_is_reproducible(prior: Prior) -> None:
    condition = make_condition(prior, [0.0, 180.0, 90.0], SEED)
    a, b, c = (
        sample(prior, condition, steps=4, generator=torch.Generator().manual_seed(seed), batch=2)
        for seed in (SEED, SEED, SEED + 1)
    )
    assert a.shape == (3, prior.image_channels, prior.image_size, prior.image_size)
    assert torch.equal(a, b) and not torch.allclose(a, c), SEED


def test_sampling_ends_with_unguided_steps_of_little_noise(prior: Prior) -> None:
    even = sampling_timesteps(prior, 4)
    assert len(even) == 4
    assert even[-1] == 1  # of this schedule: what is not below is left out
    assert sampling_timesteps(prior, 4, (40, 1, 0)) == [*even, 0]
    condition = make_condition(prior, [0.0, 180.0], SEED)

    def drawn(**options: object) -> torch.Tensor:
        return sample(prior, condition, steps=2, generator=torch.Generator().manual_seed(SEED), **options)

    plain, longer = drawn(scale=4.0), drawn(scale=4.0, last=(0,))
    assert not torch.allclose(plain, longer), SEED
    calls = []
    drawn(scale=4.0, last=(40, 0), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_condition_checks_identity_scale() -> None:
    prior = pixel_prior(SEED)
    views = sample_views(
        2, size=16, body_height=1.7, weights=(1.0, 1.0, 1.0, 1.0), generator=torch.Generator()
    )
    with pytest.raises(ValueError, match="identity_scale"):
        condition_views(PromptBook(prior), "a man", "", views, None, None, torch.zeros(3))
