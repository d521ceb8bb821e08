"""Facial actions: on the body, on Gaussians, and what they uncover."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from specularip.avatar import Avatar, load
from specularip.body import AnnyModel, Body, anny_body
from specularip.body.facial_actions import (
    SIDES,
    bind_expressions,
    facial_actions,
    fitted_actions,
    lid_edges,
)
from specularip.body.head import HeadModel
from specularip.body.mesh import closest_barycentric, nearest_places
from specularip.body.regions import HEAD, NECK
from specularip.body.uncovered import with_expressions
from specularip.cameras import HEAD as HEAD_FRAMING
from specularip.cameras import Cameras, orbit_views
from specularip.errors import UserError
from specularip.gaussians import Expressions, Gaussians, turned_to
from specularip.specular import LATENTS

SLIDERS = """
mouthSmileLeft mouthSmileRight eyeBlinkLeft eyeBlinkRight jawOpen browInnerUp browDownLeft browDownRight
browOuterUpLeft browOuterUpRight mouthPucker mouthFunnel mouthFrownLeft mouthFrownRight cheekPuff eyeWideLeft
eyeWideRight eyeSquintLeft eyeSquintRight noseSneerLeft noseSneerRight
""".split()


@pytest.fixture(scope="module")
def body() -> Body:
    """With the shape of somebody's head."""
    generator = torch.Generator().manual_seed(2)
    return anny_body(offsets=HeadModel.load().offsets(torch.randn(60, generator=generator) * 0.6))


def face_of(body: Body, count: int = 30_000) -> Gaussians:
    """A painted head: skin, lips red, eyeballs blue."""
    weights = {"head": 1.0, "neck": 0.5}
    samples = body.sample_surface(
        count, torch.Generator().manual_seed(1), {**dict.fromkeys(OTHERS, 0.0), **weights}
    )
    model = AnnyModel.load()
    colors = torch.tensor([0.8, 0.6, 0.5]).repeat(count, 1)
    colors[torch.isin(body.faces[samples.faces], model.eyeballs).all(1)] = torch.tensor([0.1, 0.2, 0.9])
    return Gaussians(
        means=samples.points,
        quats=turned_to(samples.normals),
        log_scales=torch.log(samples.spacing[:, None] * torch.tensor([0.65, 0.65, 0.2])),
        opacity_logits=torch.full((count,), 4.0),
        color_logits=torch.logit(colors),
        latents=torch.zeros(count, LATENTS),
        normal_residuals=torch.zeros(count, 3),
        regions=samples.regions,
        bind_joints=samples.bind_joints,
        bind_weights=samples.bind_weights,
    )


OTHERS = ("torso", "upper_arm", "lower_arm", "hand", "hips", "upper_leg", "lower_leg", "foot")


@pytest.fixture(scope="module")
def face(body) -> tuple[Gaussians, Expressions]:
    return with_expressions(face_of(body), body)


def offsets_of(expressions: Expressions, name: str, count: int) -> Tensor:
    """Of all Gaussians, [count,3]."""
    result = torch.zeros(count, 3)
    result[expressions.index] = expressions.offsets[expressions.names.index(name)]
    return result


def acting(gaussians: Gaussians, expressions: Expressions, **strengths: float) -> Gaussians:
    moved = gaussians.means.clone()
    for name, strength in strengths.items():
        moved += strength * offsets_of(expressions, name, len(moved))
    return replace(gaussians, means=moved)


def eyes_of(gaussians: Gaussians, body: Body, side: str) -> Tensor:
    """A close-up of one eye, [64,64,3]."""
    middle = body.joints[body.joint_names.index(f"eye.{side[0]}")]
    camera = Cameras.orbit(0.0, 0.0, 0.5, 5.0, 64, 64, middle[None])
    return Avatar(gaussians).render(camera, 0.0).image[0]


def test_nearest_places_are_those_that_a_search_of_all_triangles_finds(seed, body):
    faces = body.faces[(body.regions[body.faces] <= NECK).all(1)]
    middles = body.vertices[faces].mean(1)
    picks = torch.randint(0, len(faces), (60,))
    points = middles[picks] + 0.01 * torch.randn(60, 3)
    _, _, distances = nearest_places(points, body.vertices, faces)
    corners = body.vertices[faces].double()
    weights = closest_barycentric(points[:, None].double(), corners[None])
    truth = ((weights[..., None] * corners).sum(-2) - points[:, None]).norm(dim=-1).amin(1)
    torch.testing.assert_close(distances.double(), truth, atol=2e-5, rtol=0)


def test_closest_points_on_a_triangle(seed):
    corners = torch.randn(40, 3, 3, dtype=torch.float64)
    points = 2 * torch.randn(40, 3, dtype=torch.float64)
    weights = closest_barycentric(points, corners)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(40, dtype=torch.float64))
    found = ((weights[..., None] * corners).sum(-2) - points).norm(dim=-1)
    steps = torch.linspace(0, 1, 61, dtype=torch.float64)
    grid = torch.stack([torch.stack([a, b, 1 - a - b]) for a in steps for b in steps if a + b <= 1 + 1e-9])
    searched = ((grid @ corners) - points[:, None]).norm(dim=-1).amin(1)
    assert (found <= searched + 1e-12).all()
    assert (searched - found).max() < 0.05


def test_actions_on_the_body():
    names, offsets = facial_actions()
    model = AnnyModel.load()
    assert set(SLIDERS) <= set(names) and len(set(names)) == len(names)
    assert offsets[:, model.eyeballs.flatten()].abs().max() == 0
    assert offsets[:, model.regions > NECK].norm(dim=-1).max() < 0.002, "actions are the head's"
    sizes = offsets.norm(dim=-1).amax(1)
    assert sizes.min() > 0.002 and sizes.max() < 0.05
    flipped = torch.tensor([-1.0, 1, 1])
    partner = torch.cdist(model.template[::7] * flipped, model.template).argmin(1)
    for name in ("mouthSmile", "eyeBlink", "browDown"):
        left, right = (offsets[names.index(name + side)] for side in SIDES)
        assert (left[::7] * flipped - right[partner]).norm(dim=-1).max() < 0.002
    lower, upper = model.lips[1], model.lips[0]
    jaw = offsets[names.index("jawOpen"), :, 2]
    assert jaw[lower].mean() < -0.015 and jaw[upper[8:-8]].mean() > -0.003


def test_a_blink_closes_the_eyes_of_any_head(seed):
    names = facial_actions()[0]
    for _ in range(3):
        body = anny_body(offsets=HeadModel.load().offsets(0.7 * torch.randn(60)))
        actions = fitted_actions(body)
        for side in SIDES:
            upper, lower = lid_edges(side)
            open_gap = (body.vertices[upper] - body.vertices[lower])[:, 2]
            closed = body.vertices + actions[names.index(f"eyeBlink{side}")]
            assert open_gap.mean() > 0.004
            assert (closed[upper] - closed[lower])[:, 2].mean().abs() < 1e-4


def test_lips_part_and_eyeballs_stay(body, face):
    gaussians, expressions = face
    model = AnnyModel.load()
    painted = face_of(body)
    count = len(painted)
    triangles, _, _ = nearest_places(painted.means, body.vertices, body.faces)
    eyeball = torch.isin(body.faces[triangles], model.eyeballs).all(1)
    assert int(eyeball.sum()) > 20
    for name in ("eyeBlinkLeft", "jawOpen", "eyeSquintRight"):
        assert offsets_of(expressions, name, len(gaussians))[:count][eyeball].abs().max() == 0
    jaw = offsets_of(expressions, "jawOpen", len(gaussians))[:count, 2]
    middle = body.vertices[torch.cat(model.lips)].mean(0)
    x, y, z = (painted.means - middle).unbind(-1)
    lips = (x.abs() < 0.008) & (y < 0.005) & (z.abs() < 0.012)
    over, under = lips & (z > 0.003), lips & (z < -0.003)
    assert int(over.sum()) > 5 and int(under.sum()) > 5
    assert jaw[over].min() > -0.006 and jaw[under].max() < -0.012


def test_hair_far_from_the_skin_stays(body):
    forehead = body.vertices[(body.regions == HEAD)].mean(0) + torch.tensor([0.0, -0.2, 0.06])
    far = bind_expressions(forehead[None], torch.tensor([HEAD]), body)
    assert len(far.index) == 0
    with pytest.raises(ValueError, match="Anny"):
        bind_expressions(forehead[None], torch.tensor([HEAD]), replace(body, template=None))


def test_gaussians_on_vertices_move_as_these(seed, body):
    actions = fitted_actions(body)
    model = AnnyModel.load()
    moved = actions.norm(dim=-1).amax(0) > 0.004
    inner = torch.isin(torch.arange(len(moved)), torch.cat([*model.lips, model.eyeballs.flatten()]))
    inner |= (body.vertices - body.vertices[torch.cat(model.lips)].mean(0)).norm(
        dim=-1
    ) < 0.035  # tongue-thin
    picked = (moved & ~inner).nonzero()[:, 0]
    picked = picked[torch.randperm(len(picked))[:200]]
    bound = bind_expressions(body.vertices[picked], body.regions[picked], body)
    assert torch.equal(bound.index, torch.arange(200))
    error = (bound.offsets - actions[:, picked]).norm(dim=-1)
    assert error.quantile(0.99) < 1e-5 and error.max() < 1e-3


def test_the_rest_picture_hardly_changes(body, face):
    gaussians, _ = face
    painted = face_of(body)
    assert 500 < len(gaussians) - len(painted) < 2000
    torch.testing.assert_close(gaussians.means[: len(painted)], painted.means)
    views = orbit_views(2, HEAD_FRAMING, size=96, body_height=body.height, elevation_deg=4.0).cameras
    before, after = (Avatar(g).render(views).image for g in (painted, gaussians))
    psnr = -10 * (before - after).square().mean().log10()
    assert psnr > 45


def test_closed_eyes_hide_the_eyeballs(body, face):
    """No blue of an eyeball shines through a closed lid, and open eyes show it."""
    gaussians, expressions = face

    def blue(picture: Tensor) -> float:
        return float((picture[..., 2] - picture[..., 0]).clamp_min(0).mean())

    for side in SIDES:
        blink = {f"eyeBlink{side}": 1.0}
        opened = blue(eyes_of(gaussians, body, side))
        closed = blue(eyes_of(acting(gaussians, expressions, **blink), body, side))
        painted = face_of(body)
        without = blue(eyes_of(acting(painted, of_the_first(expressions, len(painted)), **blink), body, side))
        assert opened > 0.02 and closed < 0.03 * opened
        assert without > 0.1 * opened, "without the hidden skin there are holes"


def of_the_first(expressions: Expressions, count: int) -> Expressions:
    """Of the first `count` Gaussians alone."""
    kept = expressions.index < count
    return Expressions(expressions.names, expressions.index[kept], expressions.offsets[:, kept])


def test_an_open_mouth_is_dark_inside_and_shows_teeth(body, face):
    gaussians, expressions = face
    model = AnnyModel.load()
    middle = body.vertices[torch.cat(model.lips)].mean(0) - torch.tensor([0.0, 0.0, 0.012])
    camera = Cameras.orbit(0.0, 0.0, 0.5, 5.0, 64, 64, middle[None])
    picture = Avatar(acting(gaussians, expressions, jawOpen=1.0)).render(camera, 0.6).image[0]
    assert picture[28:36, 28:36].max() < 0.25, "the ground"
    assert Avatar(gaussians).render(camera, 0.6).image[0, 28:36, 28:36].min() > 0.4, (
        "skin, while it is closed"
    )


def test_coarse_faces_get_no_hidden_gaussians(body):
    coarse = face_of(body, 200)
    gaussians, expressions = with_expressions(coarse, body)
    assert len(gaussians) == 200 and 0 < len(expressions.index) <= 200


def test_saved_and_loaded(body, face, tmp_path):
    gaussians, expressions = face
    avatar = Avatar(gaussians, expressions=expressions)
    again = load(avatar.save(tmp_path / "a.safetensors"))
    assert again.expressions is not None
    assert again.expressions.names == expressions.names
    assert torch.equal(again.expressions.index, expressions.index)
    assert torch.equal(again.expressions.offsets, expressions.offsets)
    assert load(Avatar(gaussians).save(tmp_path / "b.safetensors")).expressions is None


@pytest.mark.parametrize("kind", ["no names", "same name", "does not have", "one twice", "offsets"])
def test_damaged_facial_actions_are_refused_in_one_line(face, tmp_path, kind):
    gaussians, expressions = face
    names, index, offsets = list(expressions.names), expressions.index.clone(), expressions.offsets
    match kind:
        case "no names":
            names[0] = 3
        case "same name":
            names[1] = names[0]
        case "does not have":
            index[-1] = len(gaussians)
        case "one twice":
            index[1] = index[0]
        case "offsets":
            offsets = offsets.clone()
            offsets[0, 0, 0] = torch.nan
    path = Avatar(gaussians, expressions=Expressions(tuple(names), index, offsets)).save(
        tmp_path / "x.safetensors"
    )
    with pytest.raises(UserError) as caught:
        load(path)
    assert "\n" not in str(caught.value) and "cannot be read" in str(caught.value)


def test_lengths_must_match():
    with pytest.raises(ValueError, match="offsets"):
        Expressions(("a",), torch.arange(3), torch.zeros(2, 3, 3))
