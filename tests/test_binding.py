"""Skinning weights of Gaussians: on skin the skin's, on cloth and hair even."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from specularip.body import AnnyModel, Body, anny_body, phenotype_from_text
from specularip.body.binding import smooth_bindings, whole_skeleton
from specularip.body.regions import HIPS, LOWER_LEG, TORSO, UPPER_LEG
from specularip.gaussians import Binding, Gaussians, turned_to

STRIDE_DEG = 25.0


@pytest.fixture(scope="module")
def body() -> Body:
    return anny_body()


def at(body: Body, name: str) -> Tensor:
    return body.joints[body.joint_names.index(name)]


def skirt(body: Body) -> Tensor:
    """Points [n,3] of a bell from the hips to below the knees, 8 mm apart, closed all around the legs."""
    top, bottom = float(at(body, "upperleg01.L")[2]) + 0.03, float(at(body, "lowerleg01.L")[2]) - 0.08
    middle = (at(body, "upperleg01.L") + at(body, "upperleg01.R")) / 2
    points = []
    for height in torch.arange(bottom, top, 0.008).tolist():
        down = (top - height) / (top - bottom)
        radius = torch.tensor([0.19 + 0.08 * down, 0.15 + 0.10 * down])
        angle = torch.linspace(0, 2 * math.pi, int(2 * math.pi * float(radius.max()) / 0.008))[:-1]
        ring = torch.stack([radius[0] * angle.sin(), -radius[1] * angle.cos()], 1) + middle[:2]
        points.append(torch.cat([ring, torch.full((len(ring), 1), height)], 1))
    return torch.cat(points)


def stride(points: Tensor, joints: Tensor, weights: Tensor, body: Body) -> Tensor:
    """Points [n,3] as legs swing forth and back: linear blend skinning, in float64."""
    names, rest = body.joint_names, body.joints.double()
    linear, place = [], []
    for j, parent in enumerate(body.joint_parents):
        turn, here = torch.eye(3, dtype=torch.float64), rest[j]
        if names[j].startswith("upperleg01"):
            a = math.radians(STRIDE_DEG * (1 if names[j].endswith("L") else -1))
            turn = torch.tensor(
                [[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]]
            ).double()
        if parent >= 0:
            here = place[parent] + linear[parent] @ (rest[j] - rest[parent])
            turn = linear[parent] @ turn
        linear.append(turn)
        place.append(here)
    turns, places = torch.stack(linear)[joints], torch.stack(place)[joints]
    moved = (turns @ (points.double()[:, None] - rest[joints])[..., None])[..., 0] + places
    return (moved * weights.double()[..., None]).sum(1)


def widest_gap(before: Tensor, after: Tensor) -> float:
    """By how much neighbours move apart, at most, in metres."""
    distance, index = cKDTree(before.numpy()).query(before.numpy(), 5)
    apart = (after[index[:, 1:]] - after[:, None]).norm(dim=-1).numpy() - distance[:, 1:]
    return float(apart.max())


def test_skin_has_the_weights_of_the_skin(body):
    samples = body.sample_surface(3000, torch.Generator().manual_seed(0))
    joints, weights = smooth_bindings(samples.points, torch.full((3000, 3), 0.5), body)
    torch.testing.assert_close(weights.sum(1), torch.ones(3000))
    ours, theirs = (torch.zeros(3000, len(body.joints)) for _ in range(2))
    ours.scatter_add_(1, joints, weights)
    theirs.scatter_add_(1, samples.bind_joints, samples.bind_weights)
    assert (ours - theirs).abs().sum(1).quantile(0.99) < 0.01


def test_a_skirt_does_not_tear_between_the_legs(body):
    points = skirt(body)
    nearest = cKDTree(body.vertices.numpy()).query(points.numpy())[1]
    as_skin = stride(points, body.skin_joints[nearest], body.skin_weights[nearest], body)
    joints, weights = smooth_bindings(points, torch.full((len(points), 3), 0.4), body)
    torn, whole = widest_gap(points, as_skin), widest_gap(points, stride(points, joints, weights, body))
    assert torn > 0.10, "the weights of the nearest skin tear it"
    assert whole < 0.025
    middle = points[:, 0].abs() < 0.01
    share = torch.zeros(len(points), len(body.joints)).scatter_add_(1, joints, weights)
    left, right = (
        share[:, [n.endswith(side) and "leg" in n for n in body.joint_names]].sum(1) for side in (".L", ".R")
    )
    assert (left - right)[middle].abs().max() < 0.15, "the middle follows both legs alike"
    outside = points[:, 0] > 0.18
    assert (left - right)[outside].min() > 0.3


def test_trousers_follow_their_leg(body):
    samples = body.sample_surface(6000, torch.Generator().manual_seed(3))
    legs = samples.select((samples.regions == UPPER_LEG) | (samples.regions == LOWER_LEG))
    cloth = legs.points + 0.015 * legs.normals
    points = torch.cat([legs.points, cloth])
    colors = torch.cat([torch.full((len(cloth), 3), 0.7), torch.full((len(cloth), 3), 0.1)])
    joints, weights = smooth_bindings(points, colors, body)
    skin, trousers = stride(points, joints, weights, body).split(len(cloth))
    assert (trousers - skin).norm(dim=-1).quantile(0.95) < 0.022, "they stay around the leg"


def test_a_hand_near_wide_cloth_does_not_take_it_along(body):
    """A flap that is fastened to the waist and reaches beneath a hand, whose skin is the nearest there."""
    trunk = body.vertices[(body.regions == TORSO) | (body.regions == HIPS)]
    side = trunk[(trunk - torch.tensor([0.2, 0.0, 0.1])).norm(dim=-1).argmin()]
    rim = at(body, "wrist.L") - torch.tensor([0.0, 0.0, 0.08])
    along = side + torch.linspace(0, 1, 60)[:, None] * (rim - side)
    points = torch.cat([along + torch.tensor([0.0, 0.0, -0.006 * k]) for k in range(8)])
    nearest = body.skin_joints[cKDTree(body.vertices.numpy()).query(points.numpy())[1], 0]
    arm = torch.tensor(
        [n.startswith(("lowerarm", "wrist", "finger", "metacarpal")) for n in body.joint_names]
    )
    assert arm[nearest].float().mean() > 0.2, "the weights of the nearest skin take it along"
    joints, weights = smooth_bindings(points, torch.full((len(points), 3), 0.4), body)
    assert (weights * arm[joints]).sum(1).max() < 0.05


def hair(body: Body) -> Tensor:
    """Points [n,3] of a sheet of hair, from the back of the head to below the shoulder blades."""
    head, spine = at(body, "head"), at(body, "spine02")
    grid = torch.cartesian_prod(
        torch.arange(-0.09, 0.09, 0.008), torch.arange(spine[2], head[2] + 0.08, 0.008)
    )
    beside = (body.vertices[:, 0].abs() < 0.1) & ((body.vertices[:, 2] - grid[:, 1:]).abs() < 0.02)
    back = torch.where(beside, body.vertices[:, 1], -1.0).amax(1) + 0.012
    return torch.stack([grid[:, 0], back, grid[:, 1]], 1)


def test_long_hair_passes_evenly_from_head_to_back(body):
    points = hair(body)
    skull = body.vertices[(body.regions == 0)]
    points = torch.cat([points, skull])
    dark = torch.full((len(points), 3), 0.05)
    joints, weights = smooth_bindings(points, dark, body)
    share = torch.zeros(len(points), len(body.joints)).scatter_add_(1, joints, weights)
    arm = [n.startswith(("upperarm", "lowerarm", "wrist")) for n in body.joint_names]
    assert share[: len(hair(body)), arm].sum(1).max() < 0.1
    sheet = hair(body)
    _, index = cKDTree(sheet.numpy()).query(sheet.numpy(), 5)
    own = share[: len(sheet)]
    steps = (own[index[:, 1:]] - own[:, None]).abs().sum(-1)
    assert steps.max() < 0.5, "no strand is cut between two neighbours"
    head = own[:, body.joint_names.index("head")]
    assert (
        head[sheet[:, 2] > sheet[:, 2].max() - 0.03].mean()
        > head[sheet[:, 2] < sheet[:, 2].min() + 0.05].mean()
    )


def gaussians_at(points: Tensor) -> Gaussians:
    count = len(points)
    return Gaussians(
        means=points,
        quats=turned_to(torch.tensor([[0.0, -1.0, 0.0]]).repeat(count, 1)),
        log_scales=torch.full((count, 3), -5.0),
        opacity_logits=torch.zeros(count),
        color_logits=torch.zeros(count, 3),
        latents=torch.zeros(count, 34),
        normal_residuals=torch.zeros(count, 3),
        regions=torch.zeros(count, dtype=torch.int64),
        bind_joints=torch.zeros(count, 4, dtype=torch.int64),
        bind_weights=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
    )


def test_avatars_with_36_joints_get_the_whole_skeleton(seed):
    model = AnnyModel.load()
    body = model.body(phenotype_from_text("a heavy middle-aged man"))
    old = Binding(list(body.joint_names[:36]), list(body.joint_parents[:36]), body.joints[:36])
    samples = body.sample_surface(2000, torch.Generator().manual_seed(4))
    bound, binding = whole_skeleton(gaussians_at(samples.points), old)
    assert binding.joint_names == list(body.joint_names)
    torch.testing.assert_close(binding.joints[:36], body.joints[:36], atol=1e-5, rtol=0)
    assert (binding.joints - body.joints).norm(dim=-1).max() < 0.01
    swung, truth = (
        stride(samples.points, g[0], g[1], body)
        for g in ((bound.bind_joints, bound.bind_weights), (samples.bind_joints, samples.bind_weights))
    )
    assert (swung - truth).norm(dim=-1).quantile(0.99) < 0.01
    same = whole_skeleton(bound, binding)
    assert same[0] is bound and same[1] is binding
    other = Binding(["root", "hip"], [-1, 0], torch.zeros(2, 3))
    assert whole_skeleton(bound, other)[1] is other
