"""Density control: which Gaussians are cloned, split and pruned, Adam's moments, reproducibility."""

import pytest
import torch
from torch import nn

from specularip.errors import UserError
from specularip.gaussians import PARAMETERS, Gaussians
from specularip.training.densify import Change, DensityConfig, densify_and_prune, prune
from specularip.training.gradients import ScreenGradients
from specularip.training.optimizer import select_rows, set_rates, zero_rows
from specularip.training.state import TrainState

COUNT = 60
ROOMY = DensityConfig(
    max_points=200, grow_share=1.0, grad_threshold=0.5, isolation_limit=10.0, distance_limit=10.0
)


def cloud(count: int = COUNT) -> Gaussians:
    return Gaussians(
        means=torch.rand(count, 3),
        quats=torch.randn(count, 4),
        log_scales=torch.full((count, 3), -5.0) + 0.1 * torch.randn(count, 3),
        opacity_logits=torch.rand(count),
        color_logits=torch.randn(count, 3),
        latents=torch.randn(count, 8),
        normal_residuals=torch.randn(count, 3),
        regions=torch.arange(count),
        bind_joints=torch.randint(0, 9, (count, 4)),
        bind_weights=torch.rand(count, 4),
    ).requires_grad_()


def trained(gaussians: Gaussians, seed: int = 0) -> TrainState[nn.Module]:
    """A state after two steps of Adam, with different moments in every row."""
    params = gaussians.parameters()
    ties = {name: t for name, t in gaussians.tensors().items() if name not in params}
    generator = torch.Generator().manual_seed(seed)
    state = TrainState.create(params, ties, nn.Module(), dict.fromkeys(params, 1e-4), generator)
    for _ in range(2):
        state.optimizer.zero_grad()
        sum((tensor * torch.randn_like(tensor)).sum() for tensor in state.params.values()).backward()
        state.optimizer.step()
    return state


def gradients_of(*indices: int, count: int = COUNT) -> ScreenGradients:
    """Mean screen-space gradients of 1 for the given Gaussians, later ones a little less; 0 for others."""
    gradients = ScreenGradients.zeros(count)
    gradients.views += 4
    for rank, index in enumerate(indices):
        gradients.grad_sum[index] = 4 - 0.01 * rank
    return gradients


def densified(
    gaussians: Gaussians, gradients: ScreenGradients, config: DensityConfig, seed: int
) -> tuple[TrainState[nn.Module], Change]:
    state = trained(gaussians, seed)
    state.screen_gradients = gradients
    return state, densify_and_prune(state, config)


def test_accumulated_gradients_are_summed_over_the_views_that_see(seed):
    grad, radii = torch.randn(3, COUNT, 2), torch.randint(0, 3, (3, COUNT))
    grad[0, 5], radii[:, 5] = float("nan"), 2
    per_half_image, per_pixel = ScreenGradients.zeros(COUNT), ScreenGradients.zeros(COUNT)
    for _ in range(2):
        per_half_image.accumulate(grad, radii, (100, 40))
        per_pixel.accumulate(grad, radii)
    for gradients, (x, y) in ((per_half_image, (50, 20)), (per_pixel, (1, 1))):
        for n in range(COUNT):
            seen = [
                ((float(grad[b, n, 0]) * x) ** 2 + (float(grad[b, n, 1]) * y) ** 2) ** 0.5
                for b in range(3)
                if radii[b, n] > 0 and not (n == 5 and b == 0)
            ]
            assert gradients.views[n] == 2 * len(seen), seed
            assert abs(float(gradients.grad_sum[n]) - 2 * sum(seen)) < 1e-2, seed
    with pytest.raises(ValueError, match="means2d_grad"):
        per_pixel.accumulate(grad[:, :4], radii)
    with pytest.raises(ValueError, match="radii"):
        per_pixel.accumulate(grad, radii[:2])


def test_clones_splits_and_pruning_with_their_moments(seed):
    gaussians = cloud()
    with torch.no_grad():
        gaussians.log_scales[7, 1] = -3.0  # 5 cm: splits
        gaussians.opacity_logits[11] = -9.0  # transparent
        gaussians.log_scales[12] = 0.0  # a metre wide
    state = trained(gaussians, seed)
    with torch.no_grad():
        state.params["means"][13] = float("nan")
    before = {name: tensor.detach().clone() for name, tensor in state.fields.items()}
    moments = {n: state.optimizer.state[t]["exp_avg"].clone() for n, t in state.params.items()}
    state.screen_gradients = gradients_of(3, 7, 11)

    change = densify_and_prune(state, ROOMY)
    assert (change.cloned, change.split, change.pruned) == (1, 1, 3), seed
    assert len(state) == len(change.parents) == COUNT - 3 - 1 + 1 + 2
    assert not {11, 12, 13} & set(change.parents.tolist())
    assert change.parents.tolist().count(3) == 2 and change.parents.tolist().count(7) == 2
    gradients = state.screen_gradients
    assert gradients.grad_sum.shape == gradients.views.shape == (len(state),) and not gradients.grad_sum.any()

    fresh = torch.zeros(len(state), dtype=torch.bool)
    fresh[-3:] = True  # the clone and the two halves come last
    for name, tensor in state.fields.items():
        expected = before[name][change.parents]
        if name not in ("means", "log_scales", "opacity_logits"):
            assert torch.equal(tensor.detach(), expected), f"seed {seed}: {name}"
        plain = ~fresh & (change.parents != 3)
        assert torch.equal(tensor.detach()[plain], expected[plain]), f"seed {seed}: {name} of bystanders"
    halves = change.parents == 7
    scales, opacities = state.params["log_scales"].exp(), state.params["opacity_logits"].sigmoid()
    assert torch.allclose(scales[halves], before["log_scales"][7].exp() / 1.6)
    assert (state.params["means"][halves] - before["means"][7]).norm(dim=-1).max() < 0.5
    for index in (3, 7):  # two copies in one place composite to the opacity of the original
        alpha = opacities[change.parents == index]
        opaque = before["opacity_logits"][index].sigmoid()
        assert torch.allclose(1 - (1 - alpha).prod(), opaque, atol=1e-5), seed

    assert len(state.optimizer.state) == len(PARAMETERS)
    for group in state.optimizer.param_groups:
        tensor = state.params[group["name"]]
        assert group["params"][0] is tensor and tensor.is_leaf and tensor.requires_grad
        adam = state.optimizer.state[tensor]
        assert not adam["exp_avg"][fresh].any() and not adam["exp_avg_sq"][fresh].any()
        assert torch.equal(adam["exp_avg"][~fresh], moments[group["name"]][change.parents[~fresh]]), seed
        assert float(adam["step"]) == 2
    state.params["means"].sum().backward()
    state.optimizer.step()


def test_never_more_than_max_points_and_the_largest_gradients_first(seed):
    def config(**options: float) -> DensityConfig:
        return DensityConfig(isolation_limit=10.0, distance_limit=10.0, **options)

    two_more = config(max_points=COUNT + 2, grow_share=1.0)
    state, change = densified(cloud(), gradients_of(*range(20, 40)), two_more, seed)
    parents = change.parents.tolist()
    assert len(state) == COUNT + 2 and parents.count(20) == parents.count(21) == 2
    _, change = densified(cloud(), gradients_of(5), config(max_points=10), seed)
    assert change.cloned == 0, "the maximum was exceeded before"
    _, change = densified(cloud(), ScreenGradients.zeros(COUNT), ROOMY, seed)
    assert change.cloned == 0, "no gradient exceeds the threshold"
    state, _ = densified(cloud(), gradients_of(*range(COUNT)), config(max_points=500, grow_share=0.1), seed)
    assert len(state) == COUNT + COUNT // 10


def test_stray_gaussians_are_pruned(seed):
    gaussians = cloud()
    with torch.no_grad():
        gaussians.means *= 0.05  # all within a few centimetres of each other
        gaussians.means[4] += 0.2  # isolated, yet near the surface given below
        gaussians.means[50:] += 5.0  # a cluster far from the surface
    surface = torch.zeros(1, 3)

    def survivors(config: DensityConfig) -> set[int]:
        return set(prune(trained(gaussians.select(torch.arange(COUNT))), config, surface).parents.tolist())

    assert survivors(DensityConfig(distance_limit=1.0, isolation_limit=10.0)) == set(range(50)), seed
    alone = DensityConfig(distance_limit=10.0, isolation_limit=0.1)
    assert survivors(alone) == set(range(COUNT)) - {4}, seed


def test_the_same_seed_densifies_alike_after_packing_too(seed):
    def run(packed: bool) -> tuple[TrainState[nn.Module], Change]:
        torch.manual_seed(seed)
        state = trained(cloud(), seed)
        state.screen_gradients = gradients_of(1, 2, 3)
        if packed:
            state = TrainState.unpack(state.pack(), nn.Module())
        return state, densify_and_prune(state, ROOMY)

    first, second = run(False), run(True)
    assert torch.equal(first[1].parents, second[1].parents), seed
    for name, tensor in first[0].fields.items():
        assert torch.equal(tensor, second[0].fields[name]), f"seed {seed}: {name}"


def test_pruning_all_gaussians_is_an_error(seed):
    gaussians = cloud()
    with torch.no_grad():
        gaussians.opacity_logits.fill_(-20.0)
    state = trained(gaussians)
    with pytest.raises(UserError, match="pruning left no Gaussians"):
        prune(state, ROOMY)
    assert len(state) == COUNT, "nothing was changed"


def test_the_optimizer_of_other_parameters_is_refused():
    state, other = trained(cloud()), trained(cloud())
    rows = torch.arange(COUNT)
    with pytest.raises(ValueError, match="optimizer group 'means'"):
        select_rows(state.params, other.optimizer, rows, torch.zeros(COUNT, dtype=torch.bool))


def test_zeroed_rows_lose_their_moments_only():
    state = trained(cloud())
    before = {name: tensor.detach().clone() for name, tensor in state.params.items()}
    zero_rows(state.params, state.optimizer, torch.tensor([2, 5]))
    for name, tensor in state.params.items():
        assert torch.equal(tensor.detach(), before[name])
        rows = state.optimizer.state[tensor]["exp_avg"].reshape(COUNT, -1).any(-1)
        assert not rows[[2, 5]].any() and rows.sum() == COUNT - 2


def test_rates_are_factors_of_the_initial_ones():
    state = trained(cloud())
    for _ in range(2):  # not of those before
        set_rates(state.optimizer, 0.5, {"means": 0.25})
    rates = {group["name"]: group["lr"] for group in state.optimizer.param_groups}
    assert rates == {name: (0.25 if name == "means" else 0.5) * 1e-4 for name in PARAMETERS}
