"""Density control: right ones grow, right ones go, Adam's moments follow, and nothing depends on chance."""

import pytest
import torch
from specularip.training.density import (
    Change,
    DensityConfig,
    DensityStats,
    accumulate,
    densify_and_prune,
    prune,
)

from specularip.errors import UserError
from specularip.gaussians import PARAMETERS, Gaussians

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


def trained(gaussians: Gaussians) -> torch.optim.Adam:
    """An Adam that has taken two steps, with different moments in every row."""
    groups = [
        {"params": [tensor], "name": name, "lr": 1e-4} for name, tensor in gaussians.parameters().items()
    ]
    optimizer = torch.optim.Adam(groups)
    for _ in range(2):
        optimizer.zero_grad()
        sum(
            (tensor * torch.randn_like(tensor)).sum() for tensor in gaussians.parameters().values()
        ).backward()
        optimizer.step()
    return optimizer


def strained(*indices: int, count: int = COUNT) -> DensityStats:
    """Stats in which the given Gaussians have a gradient of 1, later ones a little less."""
    stats = DensityStats.zeros(count)
    stats.views += 4
    for rank, index in enumerate(indices):
        stats.grad_sum[index] = 4 - 0.01 * rank
    return stats


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_accumulate_is_the_mean_over_views_that_see(seed):
    grad, radii = torch.randn(3, COUNT, 2), torch.randint(0, 3, (3, COUNT))
    grad[0, 5], radii[:, 5] = float("nan"), 2
    stats = DensityStats.zeros(COUNT)
    for _ in range(2):
        accumulate(stats, grad, radii, (100, 40))
    for n in range(COUNT):
        seen = [
            ((float(grad[b, n, 0]) * 50) ** 2 + (float(grad[b, n, 1]) * 20) ** 2) ** 0.5
            for b in range(3)
            if radii[b, n] > 0 and not (n == 5 and b == 0)
        ]
        assert stats.views[n] == 2 * len(seen), seed
        assert abs(float(stats.grad_sum[n]) - 2 * sum(seen)) < 1e-2, seed
    with pytest.raises(ValueError, match="means2d_grad"):
        accumulate(stats, grad[:, :4], radii, (100, 40))
    with pytest.raises(ValueError, match="radii"):
        accumulate(stats, grad, radii[:2], (100, 40))


def test_clone_split_and_prune_with_their_moments(seed):
    gaussians = cloud()
    with torch.no_grad():
        gaussians.log_scales[7, 1] = -3.0  # 5 cm: splits
        gaussians.opacity_logits[11] = -9.0  # faded
        gaussians.log_scales[12] = 0.0  # a metre wide
        gaussians.means[13] = float("nan")
    optimizer = trained(gaussians)
    with torch.no_grad():
        gaussians.means[13] = float("nan")
    before = {name: tensor.detach().clone() for name, tensor in gaussians.tensors().items()}
    moments = {
        name: optimizer.state[tensor]["exp_avg"].clone() for name, tensor in gaussians.parameters().items()
    }
    stats = strained(3, 7, 11)

    change = densify_and_prune(gaussians, optimizer, stats, ROOMY, generator(seed))
    assert (change.cloned, change.split, change.pruned) == (1, 1, 3), seed
    assert len(gaussians) == len(change.parents) == COUNT - 3 - 1 + 1 + 2
    assert not {11, 12, 13} & set(change.parents.tolist())
    assert change.parents.tolist().count(3) == 2 and change.parents.tolist().count(7) == 2
    assert stats.grad_sum.shape == stats.views.shape == (len(gaussians),) and not stats.grad_sum.any()

    fresh = torch.zeros(len(gaussians), dtype=torch.bool)
    fresh[-3:] = True  # the clone and the two halves stand last
    for name, tensor in gaussians.tensors().items():
        expected = before[name][change.parents]
        if name not in ("means", "log_scales", "opacity_logits"):
            assert torch.equal(tensor.detach(), expected), f"seed {seed}: {name}"
        plain = ~fresh & (change.parents != 3)
        assert torch.equal(tensor.detach()[plain], expected[plain]), f"seed {seed}: {name} of bystanders"
    halves = change.parents == 7
    assert torch.allclose(gaussians.scales[halves], before["log_scales"][7].exp() / 1.6)
    assert (gaussians.means[halves] - before["means"][7]).norm(dim=-1).max() < 0.5
    for index in (3, 7):  # two in one place cover what one did
        alpha = gaussians.opacities[change.parents == index]
        assert torch.allclose(1 - (1 - alpha).prod(), before["opacity_logits"][index].sigmoid(), atol=1e-5), (
            seed
        )

    assert len(optimizer.state) == len(PARAMETERS)
    for group in optimizer.param_groups:
        tensor = getattr(gaussians, group["name"])
        assert group["params"][0] is tensor and tensor.is_leaf and tensor.requires_grad
        state = optimizer.state[tensor]
        assert not state["exp_avg"][fresh].any() and not state["exp_avg_sq"][fresh].any()
        assert torch.equal(state["exp_avg"][~fresh], moments[group["name"]][change.parents[~fresh]]), seed
        assert float(state["step"]) == 2
    gaussians.means.sum().backward()
    optimizer.step()


def test_never_more_than_max_points_and_the_most_strained_first(seed):
    gaussians = cloud()
    config = DensityConfig(max_points=COUNT + 2, grow_share=1.0, isolation_limit=10.0, distance_limit=10.0)
    change = densify_and_prune(
        gaussians, trained(gaussians), strained(*range(20, 40)), config, generator(seed)
    )
    assert (
        len(gaussians) == COUNT + 2
        and change.parents.tolist().count(20) == change.parents.tolist().count(21) == 2
    )
    over = cloud()
    full = DensityConfig(max_points=10, isolation_limit=10.0, distance_limit=10.0)
    assert densify_and_prune(over, trained(over), strained(5), full, generator(seed)).cloned == 0
    calm = cloud()
    assert (
        densify_and_prune(calm, trained(calm), DensityStats.zeros(COUNT), ROOMY, generator(seed)).cloned == 0
    )
    share = cloud()
    tenth = DensityConfig(max_points=500, grow_share=0.1, isolation_limit=10.0, distance_limit=10.0)
    densify_and_prune(share, trained(share), strained(*range(COUNT)), tenth, generator(seed))
    assert len(share) == COUNT + COUNT // 10


def test_strays_go(seed):
    gaussians = cloud()
    with torch.no_grad():
        gaussians.means *= 0.05  # all within a few centimetres of each other
        gaussians.means[4] += 0.2  # alone, yet near the surface given below
        gaussians.means[50:] += 5.0  # a flock far from the body
    surface = torch.zeros(1, 3)
    near = DensityConfig(distance_limit=1.0, isolation_limit=10.0)
    together = DensityConfig(distance_limit=10.0, isolation_limit=0.1)

    def survivors(config: DensityConfig) -> set[int]:
        copy = gaussians.select(torch.arange(COUNT)).requires_grad_()
        optimizer = torch.optim.Adam(
            [{"params": [copy.means], "name": "means"}]
        )  # other fields not optimised
        return set(prune(copy, optimizer, DensityStats.zeros(COUNT), config, surface).parents.tolist())

    assert survivors(near) == set(range(50)), seed
    assert survivors(together) == set(range(COUNT)) - {4}, seed


def test_same_seed_same_cloud_and_resume(seed, tmp_path):
    def run(interrupt: bool) -> tuple[Gaussians, Change]:
        torch.manual_seed(seed)
        gaussians = cloud()
        optimizer, stats = trained(gaussians), strained(1, 2, 3)
        if interrupt:  # through state_dict and tensors(), as a checkpoint does
            state, saved = optimizer.state_dict(), {k: v.clone() for k, v in stats.tensors().items()}
            gaussians = gaussians.select(torch.arange(COUNT)).requires_grad_()
            groups = [{"params": [t], "name": n, "lr": 1e-4} for n, t in gaussians.parameters().items()]
            optimizer, stats = torch.optim.Adam(groups), DensityStats(**saved)
            optimizer.load_state_dict(state)
        return gaussians, densify_and_prune(gaussians, optimizer, stats, ROOMY, generator(seed))

    first, second = run(False), run(True)
    assert torch.equal(first[1].parents, second[1].parents), seed
    for name, tensor in first[0].tensors().items():
        assert torch.equal(tensor, second[0].tensors()[name]), f"seed {seed}: {name}"


def test_a_cloud_that_vanishes_says_so(seed):
    gaussians = cloud()
    with torch.no_grad():
        gaussians.opacity_logits.fill_(-20.0)
    with pytest.raises(UserError, match="every Gaussian"):
        prune(gaussians, trained(gaussians), DensityStats.zeros(COUNT), ROOMY)
    assert len(gaussians) == COUNT, "nothing was touched"


def test_an_optimizer_that_is_not_this_clouds_is_refused():
    gaussians, other = cloud(), cloud()
    with pytest.raises(ValueError, match="optimizer group 'means'"):
        prune(gaussians, trained(other), DensityStats.zeros(COUNT), ROOMY)
