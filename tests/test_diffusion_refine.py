"""SCR's refinement: which view attends to which, and what that changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_prior import compact_prior, latent_prior, make_condition, pixel_prior

from specularip.diffusion.attention import KeyViews, shares_keys
from specularip.diffusion.conditioning import Condition
from specularip.diffusion.guidance import cfg_noise
from specularip.diffusion.prior import Prior
from specularip.diffusion.refine import plan_views, refine

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")
ORBIT = torch.arange(16) * 22.5 - 180.0


@pytest.fixture(scope="module", params=["pixel", "latent"])
def prior(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, seed: int) -> Prior:
    if request.param == "pixel":
        return pixel_prior(seed)
    return latent_prior(tmp_path_factory.mktemp("latent"), seed)


def inputs(prior: Prior, count: int = 16) -> tuple[torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(SEED)
    size = prior.image_size
    images = torch.rand(count, prior.image_channels, size, size, generator=generator)
    text = prior.encode_text(["a red dress"] * count)
    empty = prior.encode_text([""] * count)
    return images, Condition(text, empty, empty, torch.rand(count, 3, size, size, generator=generator))


def run(
    prior: Prior, images: torch.Tensor, condition: Condition, azimuth: torch.Tensor = ORBIT, **options: int
):
    settings = {"refine_steps": 2, "ddim_steps": 10, "scale": 3.0, "own_share": 0.55} | options
    return refine(
        prior, images, condition, azimuth, generator=torch.Generator().manual_seed(SEED), **settings
    )


def independent(prior: Prior, images: torch.Tensor, condition: Condition) -> torch.Tensor:
    """The same denoising with every view on its own."""
    times = prior.ddim_timesteps(10)[-2:].tolist()
    latents = prior.encode_image(images)
    noise = torch.randn((1, *latents.shape[1:]), generator=torch.Generator().manual_seed(SEED))
    noisy = prior.add_noise(latents, noise, torch.tensor(times[:1]))
    for t, previous in zip(times, [times[1], -1]):
        guided = cfg_noise(prior, noisy, torch.full((len(images),), t), condition, 3.0)
        noisy = prior.ddim_step(noisy, guided, t, previous)
    return prior.decode(noisy)


@pytest.mark.parametrize("count", [4, 6, 8, 16, 32])
def test_plan_assigns_each_view_one_role_and_normalised_weights(count: int) -> None:
    generator = torch.Generator().manual_seed(SEED)
    azimuth = (torch.arange(count) * 360.0 / count)[torch.randperm(count, generator=generator)]
    plan = plan_views(azimuth, 0.55)
    assert sorted([*plan.keys.tolist(), *plan.diagonals.tolist(), *plan.others.tolist()]) == list(
        range(count)
    )
    assert len(plan.diagonals) == (4 if count >= 8 else 0)
    assert torch.allclose(plan.weights.sum(1), torch.tensor(0.45)), SEED
    if count >= 8:
        assert azimuth[plan.keys].tolist() == [0.0, 180.0, 90.0, 270.0]
        facing = azimuth[plan.diagonals].tolist()
        assert dict(zip(facing, plan.joined.tolist())) == {45.0: 0, 315.0: 0, 135.0: 1, 225.0: 1}


def test_other_views_attend_to_their_neighbours() -> None:
    azimuth = torch.arange(32) * 11.25
    plan = plan_views(azimuth, 0.55)
    stored = azimuth[torch.cat([plan.keys, plan.diagonals])]
    for view, pair, weights in zip(plan.others, plan.neighbours, plan.weights):
        distance = ((stored[pair] - azimuth[view] + 180) % 360 - 180).abs()
        assert distance.sum() == 45 and (distance < 45).all()
        assert torch.allclose(weights, 0.45 * (45 - distance) / 45)


def test_sharing_layers_are_the_later_up_blocks(prior: Prior) -> None:
    shared = [name for name in prior.denoiser.unet.attn_processors if shares_keys(name)]
    assert shared and all(name.startswith("up_blocks.1.") and "attn1" in name for name in shared)
    assert shares_keys("up_blocks.3.attentions.2.transformer_blocks.0.attn1.processor")
    assert not shares_keys("up_blocks.0.attentions.0.transformer_blocks.0.attn1.processor")
    assert not shares_keys("down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor")


def test_key_views_are_independent_and_the_others_are_not(prior: Prior) -> None:
    images, condition = inputs(prior)
    together, alone = run(prior, images, condition), independent(prior, images, condition)
    plan = plan_views(ORBIT, 0.55)
    assert torch.allclose(together[plan.keys], alone[plan.keys], atol=1e-4), SEED
    for views in (plan.diagonals, plan.others):
        change = (together[views] - alone[views]).flatten(1).abs().amax(1)
        assert (change > 1e-5).all(), (SEED, change)


def test_views_depend_only_on_their_own_key_views() -> None:
    prior = pixel_prior(SEED)
    images, condition = inputs(prior)
    before = run(prior, images, condition)
    plan = plan_views(ORBIT, 0.55)
    changed = images.clone()
    changed[plan.keys[1]] = 1 - changed[plan.keys[1]]  # the back
    after = run(prior, changed, condition)
    moved = (after - before).flatten(1).abs().amax(1) > 1e-7
    behind = ORBIT.abs() > 90
    assert moved[plan.keys[1]] and torch.equal(moved, behind), (SEED, ORBIT[moved])


def test_result_depends_on_seed_but_not_on_batch_size_or_order(prior: Prior) -> None:
    images, condition = inputs(prior)
    wanted = run(prior, images, condition)
    assert torch.equal(run(prior, images, condition), wanted), SEED
    assert torch.allclose(run(prior, images, condition, batch=3), wanted, atol=2e-5), SEED
    order = torch.randperm(16, generator=torch.Generator().manual_seed(SEED))
    shuffled = run(prior, images[order], condition[order], ORBIT[order])
    assert torch.allclose(shuffled, wanted[order], atol=1e-4), SEED
    other = refine(
        prior, images, condition, ORBIT, refine_steps=2, ddim_steps=10, scale=3.0, own_share=0.55,
        generator=torch.Generator().manual_seed(SEED + 1),
    )  # fmt: skip
    assert not torch.allclose(other, wanted, atol=1e-3), SEED


def test_views_that_attend_to_each_other_are_grouped_whatever_the_batch_size() -> None:
    prior = compact_prior(SEED)
    condition = make_condition(prior, ORBIT.tolist(), SEED)
    size = prior.image_size
    images = torch.rand(16, 5, size, size, generator=torch.Generator().manual_seed(SEED))
    wanted = run(prior, images, condition)
    assert torch.allclose(run(prior, images, condition, batch=2, vae_batch=1), wanted, atol=1e-5), SEED
    assert not torch.allclose(run(prior, images, condition, together=2), wanted, atol=1e-3), SEED


def test_mixing_is_linear_in_the_neighbours_weights() -> None:
    """Of one layer; a key view whose only neighbour is itself gets its own attention."""
    prior = pixel_prior(SEED)
    name = next(n for n in prior.denoiser.unet.attn_processors if shares_keys(n))
    attn = prior.denoiser.unet.get_submodule(name.removesuffix(".processor"))
    generator = torch.Generator().manual_seed(SEED)
    keys = torch.randn(2 * 3, 10, attn.to_q.in_features, generator=generator)
    views = torch.randn(2 * 2, 10, attn.to_q.in_features, generator=generator)
    record = KeyViews(2, record=True)
    plain = attn(keys, key_views=record)
    assert torch.allclose(plain, attn(keys), atol=1e-5)

    def mixed(weights: list[list[float]]) -> torch.Tensor:
        chosen = torch.tensor([[0, 1], [1, 2]])
        return attn(
            views, key_views=KeyViews(2, neighbours=chosen, weights=torch.tensor(weights), store=record.store)
        )

    own = attn(views)
    assert torch.allclose(mixed([[0.0, 0.0], [0.0, 0.0]]), own, atol=1e-5), SEED
    first, second = mixed([[1.0, 0.0]] * 2), mixed([[0.0, 1.0]] * 2)
    blend = mixed([[0.3, 0.15]] * 2)
    assert torch.allclose(blend, 0.55 * own + 0.3 * first + 0.15 * second, atol=1e-5), SEED
    itself = KeyViews(
        2, neighbours=torch.tensor([[0], [1], [2]]), weights=torch.ones(3, 1), store=record.store
    )
    assert torch.allclose(attn(keys, key_views=itself), plain, atol=1e-5), SEED
    twice = KeyViews(2, joined=torch.tensor([0, 1, 2]), store=record.store)
    assert torch.allclose(attn(keys, key_views=twice), plain, atol=1e-5), (
        "joining a view to itself changes nothing"
    )


def test_errors_name_the_argument(tmp_path: Path) -> None:
    prior = pixel_prior(SEED)
    images, condition = inputs(prior)
    with pytest.raises(ValueError, match="azimuth_deg"):
        run(prior, images, condition, ORBIT[:5])
    with pytest.raises(ValueError, match="refine_steps"):
        run(prior, images, condition, refine_steps=11)
    with pytest.raises(ValueError, match="at least 4"):
        plan_views(torch.zeros(3), 0.55)
