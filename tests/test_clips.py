"""Clips: their checks, sampling, joints of other skeletons; the built-in clips on bodies of all ages."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from avatars import random_avatar
from bodies import anny_binding
from torch import Tensor
from torch.nn import functional as F

from specularip.body.phenotype import Phenotype
from specularip.errors import UserError
from specularip.gaussians import Binding
from specularip.motion.clip import Clip
from specularip.motion.clips import CLIPS, built_in
from specularip.motion.figure import ANKLE, BALL, HEEL, eased
from specularip.motion.gait import RUN, WALK, Gait
from specularip.motion.load import load_clip
from specularip.motion.quaternions import about
from specularip.motion.skinning import joint_transforms

pytestmark = pytest.mark.usefixtures("seed")
BODIES = {
    "adult": Phenotype(),
    "child": Phenotype(age=0.3, height=0.3),
    "heavy": Phenotype(gender=1.0, weight=1.0, height=0.8),
}


def some_clip(loops: bool = False) -> Clip:
    """A joint that turns by 0.3 radians, and moves by 0.1 m, a frame."""
    angles = 0.3 * torch.arange(4.0)
    rotations = torch.stack(
        [about(torch.tensor([0.0, 0.0, 1.0]), angles), about(torch.tensor([1.0, 0, 0]), 0 * angles)], 1
    )
    translation = torch.stack([0.1 * torch.arange(4.0), torch.zeros(4), torch.zeros(4)], 1)
    return Clip(
        "some",
        10.0,
        ("knee", "hip"),
        rotations,
        translation,
        ("smile",),
        torch.arange(4.0)[:, None] / 3,
        loops,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": 0.0}, "fps"),
        ({"fps": math.nan}, "fps"),
        ({"rotations": torch.zeros(4, 2, 4)}, "unit"),
        ({"rotations": torch.full((4, 2, 4), math.nan)}, "NaN"),
        ({"rotations": torch.zeros(0, 2, 4)}, "at least one frame"),
        ({"translation": torch.zeros(3, 3)}, "translation"),
        ({"translation": torch.full((4, 3), math.inf)}, "infinite"),
        ({"joint_names": ("knee",)}, "rotations"),
        ({"joint_names": ("knee", "knee")}, "twice"),
        ({"expressions": None}, "expressions"),
        ({"expressions": torch.zeros(4, 2)}, "expressions"),
    ],
)
def test_contradictory_clips(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(some_clip(), **changes)


def angle_of(clip: Clip) -> list[float]:
    """Of the knee."""
    return [round(2 * math.atan2(float(q[3]), float(q[0])), 4) for q in clip.rotations[:, 0]]


def test_sampling() -> None:
    clip = some_clip()
    assert clip.seconds == pytest.approx(0.3) and some_clip(True).seconds == pytest.approx(0.4)
    between = clip.at(torch.tensor([-1.0, 0.0, 0.05, 0.22, 9.0]))
    assert angle_of(between) == pytest.approx([0.0, 0.0, 0.15, 0.66, 0.9], abs=1e-3)
    assert between.translation[:, 0].tolist() == pytest.approx([0.0, 0.0, 0.05, 0.22, 0.3])
    assert between.expressions is not None
    assert between.expressions[:, 0].tolist() == pytest.approx([0.0, 0.0, 1 / 6, 2.2 / 3, 1.0])
    looped = some_clip(True).at(torch.tensor([0.35, 0.4, 0.45, -0.05]))
    assert angle_of(looped) == pytest.approx([0.45, 0.0, 0.15, 0.45], abs=1e-3)


def test_resampling() -> None:
    assert len(some_clip().resampled(20.0)) == 7 and len(some_clip(True).resampled(20.0)) == 8
    assert angle_of(some_clip().resampled(20.0))[:3] == pytest.approx([0.0, 0.15, 0.3], abs=1e-3)
    odd = some_clip(True).resampled(7.0)
    assert len(odd) == 3 and odd.loops and angle_of(odd)[1] == pytest.approx(0.4, abs=1e-3)


def test_joints_of_another_skeleton() -> None:
    binding = Binding(["root", "hip", "knee"], [-1, 0, 1], torch.randn(3, 3))
    clip = some_clip().on(binding)
    assert clip.joint_names == ("root", "hip", "knee")
    assert torch.equal(clip.rotations[:, 2], some_clip().rotations[:, 0])
    assert torch.equal(clip.rotations[:, 0], torch.tensor([[1.0, 0, 0, 0]]).expand(4, 4))
    assert some_clip().on(Binding([], [], torch.zeros(0, 3))).rotations.shape == (4, 0, 4)
    weights = some_clip().expression_weights(("blink", "smile"))
    assert torch.equal(weights[:, 0], torch.zeros(4)) and torch.equal(weights[:, 1], torch.arange(4.0) / 3)


def places(
    binding: Binding, clip: Clip, joint: str, offset: tuple[float, float, float] = (0, 0, 0)
) -> Tensor:
    """Positions [T,3] of a point near a joint, `offset` away from it at rest, in legs."""
    index = binding.joint_names.index(joint)
    transforms = joint_transforms(binding, clip.rotations.double(), clip.translation.double())[:, index]
    point = binding.joints[index].double() + leg_length(binding) * torch.tensor(offset, dtype=torch.float64)
    return transforms[:, :3, :3] @ point + transforms[:, :3, 3]


def leg_length(binding: Binding) -> float:
    joints = dict(zip(binding.joint_names, binding.joints))
    hip, knee, ankle = (joints[f"{name}.L"] for name in ("upperleg01", "lowerleg01", "foot"))
    return float((knee - hip).norm() + (ankle - knee).norm())


@pytest.mark.parametrize("body", list(BODIES))
@pytest.mark.parametrize("name", list(CLIPS))
def test_built_in_clips_move_smoothly_and_loop(name: str, body: str) -> None:
    binding = anny_binding(BODIES[body])
    clip = built_in(name, binding)
    assert (
        clip.name == name
        and clip.loops
        and clip.fps == 30.0
        and clip.joint_names == tuple(binding.joint_names)
    )
    for joint in ("head", "wrist.L", "wrist.R", "foot.L", "lowerleg01.R"):
        path = places(binding, clip, joint)
        steps = (path.roll(-1, 0) - path).norm(dim=1)
        assert steps[-1] < 1.5 * steps[:-1].max() + 1e-6, joint  # the loop's end is a step as any other
        speed = float(steps.max()) * clip.fps / leg_length(binding)
        assert speed < (8.0 if name == "run" else 5.0), joint  # legs a second


@pytest.mark.parametrize("body", list(BODIES))
@pytest.mark.parametrize("name", list(CLIPS))
def test_feet_stay_on_the_ground_and_apart(name: str, body: str) -> None:
    binding = anny_binding(BODIES[body])
    clip, leg = built_in(name, binding), leg_length(binding)
    floor = float(binding.joints[binding.joint_names.index("foot.L"), 2]) - ANKLE * leg
    soles = [
        places(binding, clip, f"foot.{side}", offset)[:, 2] - floor
        for side in "LR"
        for offset in ((0.0, -BALL, -ANKLE), (0.0, HEEL, -ANKLE))
    ]
    lowest = torch.stack(soles).amin(0)
    assert lowest.min() > -0.01 * leg
    if name != "run":  # which flies
        assert lowest.max() < 0.01 * leg
    left, right = places(binding, clip, "foot.L"), places(binding, clip, "foot.R")
    assert (left - right)[:, 0].min() > 0.09 * leg


@pytest.mark.parametrize("name", ["idle", "wave", "turn"])
def test_standing_feet_do_not_move(name: str) -> None:
    binding = anny_binding()
    clip = built_in(name, binding)
    for joint in ("foot.L", "foot.R"):
        path = places(binding, clip, joint)
        assert (path - binding.joints[binding.joint_names.index(joint)]).norm(dim=1).max() < 1e-3


@pytest.mark.parametrize(("name", "gait"), [("walk", WALK), ("run", RUN)])
def test_feet_move_with_the_ground(name: str, gait: Gait) -> None:
    """While a foot stands, its lowest point moves back at one speed: that of the gait."""
    binding = anny_binding()
    clip, leg = built_in(name, binding), leg_length(binding)
    speed = gait.stride * leg / gait.frames
    heel, ball = (places(binding, clip, "foot.L", (0.0, at, -ANKLE)) for at in (HEEL, -BALL))
    standing = int(gait.stance * gait.frames)
    for frame in range(standing - 1):
        point = min((heel, ball), key=lambda point: float(point[frame, 2]))
        step = point[frame + 1] - point[frame]
        assert abs(float(step[1]) - speed) < 0.01 * leg and abs(float(step[0])) < 1e-3


@pytest.mark.parametrize("name", list(CLIPS))
def test_knees_and_elbows_bend_their_way(name: str) -> None:
    binding = anny_binding()
    clip = built_in(name, binding)
    for side in "LR":
        hip, knee, ankle = (
            places(binding, clip, f"{j}.{side}") for j in ("upperleg01", "lowerleg01", "foot")
        )
        shoulder, elbow, wrist = (
            places(binding, clip, f"{j}.{side}") for j in ("upperarm01", "lowerarm01", "wrist")
        )
        turn = clip.rotations[:, 0].double()
        left = torch.stack(
            [
                1 - 2 * (turn[:, 2] ** 2 + turn[:, 3] ** 2),
                2 * (turn[:, 1] * turn[:, 2] + turn[:, 0] * turn[:, 3]),
            ],
            1,
        )
        left = F.normalize(F.pad(left, (0, 1)), dim=1)
        bent = torch.linalg.cross(knee - hip, ankle - knee)
        assert ((bent * left).sum(1) > -1e-3).all()  # the shin goes back
        angle = torch.acos(F.cosine_similarity(elbow - shoulder, wrist - elbow, dim=1))
        assert math.radians(5) < angle.min() and angle.max() < math.radians(140)


def test_arms_swing_against_legs() -> None:
    binding = anny_binding()
    clip = built_in("walk", binding)
    hand, foot = (places(binding, clip, joint)[:, 1] for joint in ("wrist.L", "foot.L"))
    assert torch.corrcoef(torch.stack([hand, foot]))[0, 1] < -0.8


def test_wave_raises_the_right_hand() -> None:
    binding = anny_binding()
    hand, head = (places(binding, built_in("wave", binding), joint)[:, 2] for joint in ("wrist.R", "head"))
    assert hand[60] > head[60] - 0.05 and hand[0] < head[0] - 0.4


def test_eased_keys() -> None:
    phases = torch.tensor([0.1, 0.3, 0.5, 0.9, 0.0])
    assert eased(phases, ((0.1, 2.0), (0.5, 4.0))).tolist() == pytest.approx(
        [2.0, 3.0, 4.0, 2.519, 2.148], abs=1e-3
    )


def test_what_is_no_motion() -> None:
    binding = anny_binding()
    with pytest.raises(UserError, match="choose walk, run"):
        load_clip("jump", binding)
    with pytest.raises(UserError, match=r"dance\.fbx"):
        load_clip("dance.fbx", binding)
    with pytest.raises(UserError, match=r"Anny's skeleton.*spine05"):
        load_clip("walk", random_avatar().binding or binding)
    assert load_clip("run", binding).name == "run"
