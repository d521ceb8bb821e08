"""Shapes, expressions and landmarks of the head, and the fine mesh that photos are painted on."""

from __future__ import annotations

from importlib.resources import files
from itertools import pairwise

import pytest
import torch
from painted_heads import places

from specularip.body import AnnyModel, anny_body
from specularip.body.dense_head import DIVISIONS, DenseHead
from specularip.body.head import HeadModel
from specularip.body.regions import HEAD, NECK
from specularip.faces.projection import BROWS, EYES, LIPS, OVAL

MIRRORED = torch.tensor([-1.0, 1.0, 1.0])
RIGHT_CORNERS, LEFT_CORNERS = (33, 133), (263, 362)
NOSE_TIP, CHIN, FOREHEAD, NOSE_ROOT = 1, 152, 10, 168


@pytest.fixture(scope="module")
def landmarks() -> torch.Tensor:
    return places(AnnyModel.load().template)


def test_the_asset_is_small_and_finite() -> None:
    assert (files("specularip") / "assets" / "head.safetensors").stat().st_size <= 3e6  # type: ignore[attr-defined]
    head, model = HeadModel.load(), AnnyModel.load()
    rows = len(head.rows)
    assert head.shapes.shape[1:] == head.expressions.shape[1:] == (rows, 3)
    assert head.landmark_faces.shape == head.landmark_spread.shape == (468,)
    for values in (head.shapes, head.expressions, head.landmark_barycentric, head.landmark_spread):
        assert bool(values.isfinite().all())
    assert set(model.regions[head.rows].tolist()) == {HEAD, NECK} and len(head.rows.unique()) == rows
    assert bool((head.landmark_barycentric >= 0).all())
    assert torch.allclose(head.landmark_barycentric.sum(1), torch.ones(468), atol=1e-5)
    assert 0.005 < float(head.landmark_spread.min()) and float(head.landmark_spread.max()) < 0.3


def test_components_are_sorted_and_a_usual_weight_changes_millimetres() -> None:
    for components in (HeadModel.load().shapes, HeadModel.load().expressions):
        sizes = components.norm(dim=-1).square().mean(1).sqrt()
        assert all(float(b) < 1.01 * float(a) for a, b in pairwise(sizes))
        assert 5e-4 < float(sizes[0]) and float(components.norm(dim=-1).max()) < 0.03


def test_no_weights_change_nothing_and_offsets_are_linear(generator: torch.Generator, seed: int) -> None:
    head = HeadModel.load()
    shape = torch.randn(len(head.shapes), generator=generator)
    expression = torch.randn(len(head.expressions), generator=generator)
    none = head.offsets(0 * shape)
    assert none.shape == AnnyModel.load().template.shape and not none.any()
    assert torch.equal(head.offsets(0 * shape, 0 * expression), none)
    apart = head.offsets(shape) + head.offsets(0 * shape, expression)
    assert torch.allclose(head.offsets(shape, expression), apart, atol=1e-7), seed
    twice = anny_body(offsets=head.offsets(2 * shape)).vertices - anny_body().vertices
    assert torch.allclose(twice, 2 * head.offsets(shape), atol=1e-6), seed


def test_expressions_move_the_face_and_nothing_below_the_head(generator: torch.Generator, seed: int) -> None:
    head, model = HeadModel.load(), AnnyModel.load()
    weights = torch.randn(8, len(head.expressions), generator=generator)
    moved = torch.stack([head.offsets(torch.zeros(len(head.shapes)), w) for w in weights]).norm(dim=-1)
    assert not moved[:, model.regions > NECK].any()
    on_neck, on_head = moved[:, model.regions == NECK], moved[:, model.regions == HEAD]
    assert float(on_neck.mean()) < 0.1 * float(on_head.mean()), seed
    points = model.template
    mouth = (points - places(points)[list(LIPS)].mean(0)).norm(dim=1) < 0.025
    crown = points[:, 2] > points[:, 2].max() - 0.04
    assert float(moved[:, mouth].mean()) > 1e-3, seed
    assert float(moved[:, crown].mean()) < 0.1 * float(moved[:, mouth].mean()), seed


def test_landmarks_are_symmetric(landmarks: torch.Tensor) -> None:
    pairs = [*zip(OVAL[1:18], OVAL[:-18:-1]), *zip(BROWS[0], BROWS[1]), *zip(EYES[0], EYES[1])]
    right, left = landmarks[[a for a, _ in pairs]], landmarks[[b for _, b in pairs]]
    away = (right * MIRRORED - left).norm(dim=1)
    assert float(away.max()) < 0.006 and float(away.median()) < 0.001
    assert float(landmarks[[NOSE_TIP, CHIN, FOREHEAD, NOSE_ROOT], 0].abs().max()) < 0.001


def test_landmarks_lie_where_they_belong(landmarks: torch.Tensor) -> None:
    model = AnnyModel.load()
    balls = model.template[model.eyeballs]
    for corners, ball in zip((RIGHT_CORNERS, LEFT_CORNERS), balls):
        outer, inner = landmarks[list(corners)]
        assert float((landmarks[list(corners)] - ball.mean(0)).norm(dim=1).max()) < 0.02
        assert abs(float(outer[0])) > abs(float(ball[:, 0].mean())) > abs(float(inner[0]))
    loops = torch.stack([landmarks[list(loop)].mean(0) for loop in EYES])
    assert float((loops - balls.mean(1)).norm(dim=1).max()) < 0.015
    assert bool((loops[:, 0].sign() == torch.tensor([-1.0, 1.0])).all())  # the person's right is at -x
    brows = landmarks[list(BROWS[0] + BROWS[1]), 2]
    mouth = landmarks[list(LIPS)]
    heights = [landmarks[FOREHEAD, 2], brows.mean(), loops[:, 2].mean(), landmarks[NOSE_TIP, 2]]
    heights += [mouth[:, 2].mean(), landmarks[CHIN, 2]]
    assert all(float(lower) < float(upper) - 0.01 for upper, lower in pairwise(heights))
    assert int(landmarks[:, 1].argmin()) in (1, 4, 44, 274, 19)  # the tip of the nose; bodies face -y
    assert int(landmarks[:, 2].argmin()) == CHIN
    skin = model.regions == HEAD
    assert float(model.template[skin, 1].min()) > float(landmarks[NOSE_TIP, 1]) - 0.002


def key(corners: list[int], weights: list[int]) -> frozenset[tuple[int, int]]:
    return frozenset((corner, weight) for corner, weight in zip(corners, weights) if weight)


def turned(triangle: list[frozenset[tuple[int, int]]]) -> tuple[frozenset[tuple[int, int]], ...]:
    """The same triangle, its corners in the same order, from a fixed corner on."""
    first = min(range(3), key=lambda k: sorted(triangle[k]))
    return tuple(triangle[first:] + triangle[:first])


def test_the_fine_mesh_divides_each_triangle_of_head_and_neck_into_sixteen() -> None:
    """Against the obvious way: a grid of steps of a quarter in each triangle."""
    model, dense = AnnyModel.load(), DenseHead.load()
    coarse = model.faces[(model.regions[model.faces] <= NECK).all(1)].tolist()
    sides = 2**DIVISIONS
    assert sides == 4 and len(dense.faces) == 16 * len(coarse)
    expected = set()
    for corners in coarse:

        def at(i: int, j: int, corners: list[int] = corners) -> frozenset[tuple[int, int]]:
            return key(corners, [sides - i - j, i, j])

        for i in range(sides):
            for j in range(sides - i):
                expected.add(turned([at(i, j), at(i + 1, j), at(i, j + 1)]))
                if i + j < sides - 1:
                    expected.add(turned([at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)]))
    weights = dense.barycentric * sides
    assert torch.equal(weights, weights.round())
    keys = [key(c, w) for c, w in zip(dense.corners.tolist(), weights.int().tolist())]
    assert len(set(keys)) == len(keys)
    assert {turned([keys[k] for k in face]) for face in dense.faces.tolist()} == expected


def test_vertices_of_the_fine_mesh_keep_their_places_on_every_body(generator: torch.Generator) -> None:
    dense, model, head = DenseHead.load(), AnnyModel.load(), HeadModel.load()
    assert torch.equal(dense.barycentric.sum(1), torch.ones(len(dense.corners)))
    assert bool((dense.barycentric >= 0).all())
    assert torch.allclose(dense.at(model.template), dense.template, atol=1e-6)
    vertices = model.template + head.offsets(torch.randn(len(head.shapes), generator=generator))
    positions = dense.at(vertices)
    for k in torch.randint(len(positions), (50,), generator=generator).tolist():
        expected = sum(w * vertices[c] for c, w in zip(dense.corners[k], dense.barycentric[k]))
        assert torch.allclose(positions[k], torch.as_tensor(expected), atol=1e-6)
    corner = dense.barycentric.amax(1) == 1
    own = dense.corners[corner].gather(1, dense.barycentric[corner].argmax(1, keepdim=True))[:, 0]
    assert torch.equal(positions[corner], vertices[own])
    assert len(own) == int((model.regions <= NECK).sum())


def test_the_mirror_image_is_the_nearest_vertex_and_mirrors_back(generator: torch.Generator) -> None:
    dense = DenseHead.load()
    flipped = dense.template * MIRRORED
    some = torch.randint(len(flipped), (300,), generator=generator)
    assert torch.equal(
        (flipped[some] - dense.template[dense.mirror[some]]).norm(dim=1),
        torch.cdist(flipped[some], dense.template, compute_mode="donot_use_mm_for_euclid_dist").amin(1),
    )
    away = (dense.template[dense.mirror] - flipped).norm(dim=1)
    assert float(away.max()) < 0.004
    back = (dense.template[dense.mirror[dense.mirror]] - dense.template).norm(dim=1)
    assert bool((back <= 2 * away + 1e-6).all())
    assert float((dense.mirror[dense.mirror] == torch.arange(len(away))).float().mean()) > 0.9


def test_eyeballs_of_the_fine_mesh_are_those_of_the_body() -> None:
    dense, model = DenseHead.load(), AnnyModel.load()
    ball = torch.zeros(len(model.regions))
    ball[model.eyeballs.flatten()] = 1
    assert torch.equal(dense.eyeball, dense.at(ball[:, None])[:, 0] > 0.999)
    sides = 2**DIVISIONS
    whole = int(ball[model.faces].all(1).sum())
    assert int(dense.eyeball[dense.faces].all(1).sum()) == sides**2 * whole
