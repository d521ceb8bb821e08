"""The whole skeleton: joints, their weights, and poses against Anny's own kinematics and skinning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from specularip.body import PHENOTYPE_NAMES, AnnyModel, Phenotype, anny_body
from specularip.body.regions import FOOT, HAND
from specularip.gaussians import rotation_matrices

POSES = Path(__file__).parent / "data" / "anny_poses.safetensors"


@pytest.fixture(scope="module")
def model() -> AnnyModel:
    return AnnyModel.load()


def posed(vertices: Tensor, joints: Tensor, model: AnnyModel, rotations: Tensor) -> Tensor:
    """Vertices [V,3] by linear blend skinning, the obvious way, in float64. rotations [J,3,3]."""
    vertices, joints = vertices.double(), joints.double()
    linear, translation = [], []
    for j, parent in enumerate(model.joint_parents):
        turn, place = rotations[j].double(), joints[j]
        if parent >= 0:
            place = linear[parent] @ (joints[j] - joints[parent]) + translation[parent]
            turn = linear[parent] @ turn
        linear.append(turn)
        translation.append(place)
    result = torch.zeros_like(vertices)
    for k in range(model.skin_joints.shape[1]):
        j = model.skin_joints[:, k]
        from_joint = (vertices - joints[j])[..., None]
        moved = (torch.stack(linear)[j] @ from_joint)[..., 0] + torch.stack(translation)[j]
        result += model.skin_weights[:, k, None].double() * moved
    return result


def test_poses_agree_with_anny(model):
    with safe_open(POSES, framework="pt") as file:
        raw = {name: file.get_tensor(name) for name in file.keys()}
        names = json.loads(file.metadata()["phenotype_names"])
    columns = [names.index(name) for name in PHENOTYPE_NAMES]
    vertices, joints = model.evaluate(raw["phenotypes"][:, columns])
    for body in range(len(vertices)):
        lift = raw["roots"][body] - joints[body, 0]
        assert lift[:2].abs().max() < 1e-4
        for pose, truth in zip(raw["rotations"][body], raw["vertices"][body]):
            rotations = rotation_matrices(pose)
            ours = posed(vertices[body], joints[body], model, rotations)[raw["rows"].long()] + lift
            error = (ours - truth).norm(dim=-1)
            assert error.max() < 1e-3


def test_skeleton(model):
    names = model.joint_names
    assert len(names) == 104 and len(set(names)) == 104
    assert names[:2] == ("root", "pelvis.L") and names[35] == "head", "avatars made before have these first"
    assert model.joint_parents[0] == -1
    assert all(parent < j for j, parent in enumerate(model.joint_parents)), "parents come first"
    for side in "LR":
        chain = [f"finger2-{k}.{side}" for k in (3, 2, 1)] + [f"metacarpal1.{side}", f"wrist.{side}"]
        for child, parent in zip(chain, chain[1:]):
            assert names[model.joint_parents[names.index(child)]] == parent
        assert names[model.joint_parents[names.index(f"eye.{side}")]] == "head"


def test_weights(model):
    torch.testing.assert_close(model.skin_weights.sum(1), torch.ones(len(model.regions)))
    assert model.skin_weights.min() >= 0
    assert (model.skin_weights[:, 1:] <= model.skin_weights[:, :-1]).all(), "the heaviest first"
    strongest = [model.joint_names[j] for j in model.skin_joints[:, 0].tolist()]
    for region, stems in ((HAND, ("wrist", "finger", "metacarpal")), (FOOT, ("foot", "toe", "lowerleg"))):
        there = [strongest[v] for v in (model.regions == region).nonzero()[:, 0].tolist()]
        assert all(name.startswith(stems) for name in there)
    for row, name in zip(model.eyeballs, ("eye.R", "eye.L")):
        assert all(strongest[v] == name for v in row.tolist())
        assert model.skin_weights[row, 0].min() > 0.95


def test_joints_lie_inside_of_what_they_turn():
    body = anny_body(Phenotype(gender=1.0, weight=0.8, age=0.4))
    for j, name in enumerate(body.joint_names):
        mine = (body.skin_weights * (body.skin_joints == j)).sum(1) > 0.2
        if name.startswith(("finger", "toe")):
            points = body.vertices[mine]
            low, high = points.amin(0) - 0.01, points.amax(0) + 0.01
            assert ((body.joints[j] > low) & (body.joints[j] < high)).all(), name


def test_eyes_turn_about_the_middle_of_the_eyeballs_wherever_they_are(model):
    offsets = torch.zeros_like(model.template)
    offsets[model.eyeballs[1]] = torch.tensor([0.004, -0.002, 0.003])
    before, after = anny_body(), anny_body(offsets=offsets)
    moved = after.joints - before.joints
    eye = before.joint_names.index("eye.L")
    torch.testing.assert_close(moved[eye], torch.tensor([0.004, -0.002, 0.003]))
    assert moved[[j for j in range(len(moved)) if j != eye]].abs().max() == 0
    for row, name in zip(model.eyeballs, ("eye.R", "eye.L")):
        joint = after.joints[after.joint_names.index(name)]
        radii = (after.vertices[row] - joint).norm(dim=-1)
        assert radii.std() < 0.0005, "the visible part of an eyeball stays in its place as it turns"
