"""A captured motion on another skeleton.

Skeletons rest in different poses: Anny with her arms lowered, SMPL with them spread, BVH files as their
offsets say. A bone of Anny's is first turned from her rest direction to the source's, by A; after that it
turns as the source's does, so that it points where that one points in every frame:

    G_target(t) = G_source(t) · A,   A · rest direction of the target = rest direction of the source

Along a limb A is the smallest rotation that does so on top of its parent's A. The trunk keeps its shape: A is
the identity there, because both skeletons stand upright and face the same way at rest.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from specularip.gaussians import Binding
from specularip.motion.capture import Capture
from specularip.motion.clip import Clip
from specularip.motion.kinematics import forward_kinematics
from specularip.motion.quaternions import (
    about,
    between,
    conjugate,
    continuous,
    multiply,
    rotate,
    slerp,
    twist,
)
from specularip.motion.skeletons import SIDES, parts_of, trunk

NEXT = {
    "upperarm01": "lowerarm01", "lowerarm01": "wrist", "wrist": "finger3-1", "upperleg01": "lowerleg01",
    "lowerleg01": "foot", "foot": "toe3-1",
    **{f"finger{k}-{n}": f"finger{k}-{n + 1}" for k in range(1, 6) for n in (1, 2)},
}  # fmt: skip
"""The part at whose joint a limb's bone ends."""

TOES = (0.10, -0.94, -0.32)
"""Direction from ankle to toes of Anny's left foot at rest; avatars may have no joints of toes."""
FOOT = 0.17
"""Length from ankle to toes, in legs."""
FLOOR = 0.02
"""The floor lies where the lower foot is in the lowest of this share of frames."""
PRONATION = 0.5
"""The forearm's middle turns by this share of the wrist's twist."""


def retarget(capture: Capture, binding: Binding) -> Clip:
    """The motion on the skeleton of an avatar: Anny's, or one that `skeletons` knows.

    Bones of arms, hands, legs and feet point where the capture's do. Rotations of spine and neck are spread
    over their joints; half of a wrist's twist is in the forearm. Joints that the capture lacks stay at rest.
    The clip starts above the origin, facing −y; paths and heights are scaled by the length of the legs, and
    the lower foot is as high above the floor as the capture's is in legs.

    Raises UserError for an unknown skeleton.
    """
    _, source = parts_of(capture.joint_names, capture.name)
    _, target = parts_of(binding.joint_names, "the avatar")
    joints = binding.joints.float().cpu()
    capture = _facing_front(capture, source)
    turns, places = capture.pose()

    spread = _spread(capture, source, binding, target, turns)
    align: list[Tensor] = []
    world: list[Tensor] = []
    identity = torch.tensor([1.0, 0.0, 0.0, 0.0])
    for joint, parent in enumerate(binding.joint_parents):
        parts = [part for part, index in target.items() if index == joint and part in source]
        aligned = align[parent] if parent >= 0 else identity
        if joint in spread:
            aligned, turned = identity, spread[joint]
        elif parts:
            part = parts[0]
            bones = _bones(part, capture.joints, source, joints, target)
            if bones is not None:
                aligned = multiply(between(rotate(aligned, bones[1]), bones[0]), aligned)
            turned = multiply(turns[:, source[part]], aligned)
        else:
            turned = world[parent] if parent >= 0 else turns[:, 0]
        align.append(aligned)
        world.append(turned)
    for side in SIDES:
        middle = target.get(f"lowerarm02.{side}")
        if middle is not None and f"lowerarm02.{side}" not in source:
            elbow, wrist = target[f"lowerarm01.{side}"], target[f"wrist.{side}"]
            axis = torch.nn.functional.normalize(joints[wrist] - joints[elbow], dim=-1)
            turn = twist(multiply(conjugate(world[elbow]), world[wrist]), axis)
            half = slerp(identity, turn, torch.tensor(PRONATION))
            world[middle] = multiply(world[elbow], half)

    rotations = torch.stack(
        [
            turned if parent < 0 else multiply(conjugate(world[parent]), turned)
            for turned, parent in zip(world, binding.joint_parents)
        ],
        1,
    )
    rotations = continuous(torch.nn.functional.normalize(rotations, dim=-1))
    translation = _translation(capture, source, turns, places, binding, target, rotations)
    return Clip(capture.name, capture.fps, tuple(binding.joint_names), rotations, translation)


def _facing_front(capture: Capture, parts: dict[str, int]) -> Capture:
    """The capture turned about the vertical, so that its first frame faces −y. Hips and shoulders vote: they
    swing in opposite directions when a person walks. Someone who lies on their side is left as they are."""
    place = capture.at([0]).pose()[1][0]
    left = sum(place[parts[f"{part}.L"]] - place[parts[f"{part}.R"]] for part in ("upperleg01", "upperarm01"))
    assert isinstance(left, Tensor)
    if float(left[:2].norm()) < 0.3 * float(left.norm()):
        return capture
    turn = about(torch.tensor([0.0, 0.0, 1.0]), -torch.atan2(left[1], left[0]))
    rotations, root = capture.rotations.clone(), capture.joints[0]
    rotations[:, 0] = multiply(turn, rotations[:, 0])
    return replace(capture, rotations=rotations, translation=rotate(turn, root + capture.translation) - root)


def _spread(
    capture: Capture, source: dict[str, int], binding: Binding, target: dict[str, int], turns: Tensor
) -> dict[int, Tensor]:
    """World rotations [T,4] of the target's spine and neck: at equal steps between those of the source's, so
    that pelvis, chest and head turn as the source's do."""
    found = {}
    chains = zip(trunk(capture.joint_parents, source), trunk(binding.joint_parents, target))
    for theirs, ours in chains:
        for step, joint in enumerate(ours):
            place = step / max(1, len(ours) - 1) * (len(theirs) - 1)
            below = min(int(place), max(0, len(theirs) - 2))
            above = min(below + 1, len(theirs) - 1)
            share = torch.tensor(place - below)
            found[joint] = slerp(turns[:, theirs[below]], turns[:, theirs[above]], share)
    return found


def _bones(
    part: str, theirs: Tensor, source: dict[str, int], ours: Tensor, target: dict[str, int]
) -> tuple[Tensor, Tensor] | None:
    """Directions at rest [3] of the bone that starts at a part, of the source and of the target."""
    name, _, side = part.partition(".")
    end = f"{NEXT.get(name)}.{side}"
    if end not in source:
        return None
    their_bone = theirs[source[end]] - theirs[source[part]]
    if end in target:
        our_bone = ours[target[end]] - ours[target[part]]
    elif name == "foot":
        our_bone = _toes(side)
    else:
        return None
    return (their_bone, our_bone) if float(their_bone.norm()) > 0 else None


def _toes(side: str) -> Tensor:
    return torch.tensor(TOES) * torch.tensor([1.0 if side == "L" else -1.0, 1.0, 1.0])


def _leg(joints: Tensor, parts: dict[str, int]) -> float:
    """Length of hip to knee to ankle, mean of both sides."""
    lengths = [
        (joints[parts[f"{a}.{side}"]] - joints[parts[f"{b}.{side}"]]).norm()
        for side in SIDES
        for a, b in (("upperleg01", "lowerleg01"), ("lowerleg01", "foot"))
    ]
    return float(sum(lengths)) / 2


def _lowest(joints: Tensor, parts: dict[str, int], turns: Tensor, places: Tensor, with_toes: bool) -> Tensor:
    """Height [T] of the lowest of both feet's ankles and toes, each above where it is at rest."""
    heights = []
    for side in SIDES:
        foot, toes = parts[f"foot.{side}"], parts.get(f"toe3-1.{side}")
        heights.append(places[:, foot, 2] - joints[foot, 2])
        if with_toes:
            bone = _toes(side) * FOOT * _leg(joints, parts) if toes is None else joints[toes] - joints[foot]
            heights.append(heights[-1] + rotate(turns[:, foot], bone)[:, 2] - bone[2])
    return torch.stack(heights).amin(0)


def _translation(
    capture: Capture,
    source: dict[str, int],
    turns: Tensor,
    places: Tensor,
    binding: Binding,
    target: dict[str, int],
    rotations: Tensor,
) -> Tensor:
    """The root's translation [T,3]. Across the floor, the middle of the hips takes the source's path; the
    height follows from the feet, because thighs and shins differ in proportion."""
    joints = binding.joints.float().cpu()
    scale = _leg(joints, target) / _leg(capture.joints, source)
    still = torch.zeros(len(capture), 3)
    our_turns, our_places = forward_kinematics(binding.joint_parents, joints, rotations, still)

    def hips(places: Tensor, parts: dict[str, int]) -> Tensor:
        return (places[..., parts["upperleg01.L"], :] + places[..., parts["upperleg01.R"], :]) / 2

    path = hips(places, source)
    translation = hips(joints, target) + scale * (path - path[:1]) - hips(our_places, target)
    with_toes = all(f"toe3-1.{side}" in source for side in SIDES)
    theirs = _lowest(capture.joints, source, turns, places, with_toes)
    ours = _lowest(joints, target, our_turns, our_places, with_toes)
    floor = torch.quantile(theirs[:: 1 + len(theirs) // 100_000], FLOOR)
    translation[:, 2] = scale * (theirs - floor) - ours
    return translation
