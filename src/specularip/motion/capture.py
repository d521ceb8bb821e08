"""A captured motion on the skeleton of its file, turned to this project's axes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from specularip.errors import UserError
from specularip.motion.kinematics import forward_kinematics
from specularip.motion.quaternions import about, between, conjugate, multiply, rotate
from specularip.motion.skeletons import parts_of, trunk

SNAP_DEG = 10.0
"""A skeleton that faces along an axis within this angle is taken to face along it exactly."""
UPRIGHT = 0.6
"""Least length of the mean of unit vectors from feet to head, for the up axis to be read off the motion."""
SAMPLES = 512
"""Frames at which the up axis is read off the motion."""

_AXES = ("x", "y", "z")
_Z = torch.tensor([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Capture:
    """T frames of J joints at `fps` a second, as a file has them, in world axes: z up, at rest the body faces
    −y.

    joints [J,3]: positions at rest; parents come before their children, the first joint is the root (parent
    −1). rotations [T,J,4] wxyz float32, each relative to the rest pose and to its parent, in world-aligned
    axes; translation [T,3] of the root from its rest position. Lengths are in the file's unit, whichever that
    is: `retarget` measures in legs. notes: what was guessed or left out, a sentence each, for the user.
    """

    name: str
    fps: float
    joint_names: tuple[str, ...]
    joint_parents: tuple[int, ...]
    joints: Tensor
    rotations: Tensor
    translation: Tensor
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rotations)

    def at(self, frames: Tensor | list[int]) -> Capture:
        """Only these frames."""
        return replace(self, rotations=self.rotations[frames], translation=self.translation[frames])

    def pose(self) -> tuple[Tensor, Tensor]:
        """Rotations in the world [T,J,4] and positions [T,J,3] of the joints."""
        return forward_kinematics(self.joint_parents, self.joints, self.rotations, self.translation)


def upright(capture: Capture, where: str, usual_up: Tensor | None = None) -> Capture:
    """A capture in the axes of its file, turned to world axes.

    Two things turn: the rest pose, so that it stands upright and faces −y, and the world in which it moves.
    Their axes differ in AMASS, whose bodies are defined with y up and move with z up. The world's up axis is
    the one along which heads are above feet, over all frames; for motions that are not upright on the whole
    it is `usual_up` [3], or else the rest pose's. A rest pose that does not stand is replaced by the first
    frame.

    Raises UserError for unknown skeletons, limbs of no length, and where neither the rest pose nor the first
    frame stands. `where` is the file, for messages.
    """
    kind, parts = parts_of(capture.joint_names, where)
    if not trunk(capture.joint_parents, parts)[0]:
        raise UserError(f"{where}: the arms or the head do not hang below the pelvis: damaged skeleton")
    notes = [f"{kind} skeleton"]
    problem = not_standing(capture.joints, parts)
    if problem:
        capture = _rest_at_first_frame(capture)
        if not_standing(capture.joints, parts):
            raise UserError(
                f"{where}: {problem} in the rest pose, and the first frame does not stand straight either: "
                "export it with a rest pose or first frame in T-pose"
            )
        notes.append(f"{problem} in the rest pose: the first frame is taken for it")
    rest_up = nearest_axis(_upwards(capture.joints, parts))
    to_rest = _facing(rest_up, capture.joints[parts["upperleg01.L"]] - capture.joints[parts["upperleg01.R"]])

    chosen = torch.linspace(0, len(capture) - 1, min(len(capture), SAMPLES)).long()
    mean = torch.nn.functional.normalize(_upwards(capture.at(chosen).pose()[1], parts), dim=-1).mean(0)
    if mean.abs().max() >= UPRIGHT:
        up = nearest_axis(mean)
    else:
        up = rest_up if usual_up is None else usual_up
        notes.append("the body is seldom upright")
    axis = int(up.abs().argmax())
    notes.append(f"{'−' if up[axis] < 0 else ''}{_AXES[axis]} is taken as up")
    to_world = to_rest if torch.equal(up, rest_up) else between(up, _Z)

    root = capture.joints[0]
    rotations = multiply(multiply(to_rest, capture.rotations), conjugate(to_rest))
    rotations[:, 0] = multiply(multiply(to_world, capture.rotations[:, 0]), conjugate(to_rest))
    joints = rotate(to_rest, capture.joints)
    return replace(
        capture,
        joints=joints,
        rotations=rotations,
        translation=rotate(to_world, root + capture.translation) - joints[0],
        notes=(*notes, *capture.notes),
    )


def not_standing(joints: Tensor, parts: dict[str, int]) -> str:
    """What a rest pose [J,3] lacks to be a standing person, "" if nothing. In whichever axes."""
    place = {part: joints[joint] for part, joint in parts.items()}
    up = nearest_axis(_upwards(joints, parts))
    height = float((_upwards(joints, parts) * up).sum())
    for side in ("L", "R"):
        for top, bottom in (
            ("upperarm01", "lowerarm01"), ("lowerarm01", "wrist"),
            ("upperleg01", "lowerleg01"), ("lowerleg01", "foot"),
        ):  # fmt: skip
            bone = place[f"{bottom}.{side}"] - place[f"{top}.{side}"]
            if not float(bone.norm()) > 0.03 * height:
                return "limbs have no length"
            if top.startswith("upperleg") or top.startswith("lowerleg"):
                if not -float(bone @ up) > 0.8 * float(bone.norm()):
                    return "the legs are not straight down"
    trunk_up = place["head"] - place["root"]
    if not float(trunk_up @ up) > 0.8 * float(trunk_up.norm()):
        return "the head is not above the pelvis"
    hips = place["upperleg01.L"] - place["upperleg01.R"]
    shoulders = place["upperarm01.L"] - place["upperarm01.R"]
    level = all(abs(float(line @ up)) < 0.3 * float(line.norm()) for line in (hips, shoulders))
    if not level or not float(hips @ shoulders) > 0.9 * float(hips.norm() * shoulders.norm()):
        return "hips and shoulders are not level"
    return ""


def nearest_axis(direction: Tensor) -> Tensor:
    """The signed unit axis [3] nearest to a direction [3]."""
    axis = torch.zeros(3)
    largest = int(direction.abs().argmax())
    axis[largest] = 1.0 if direction[largest] >= 0 else -1.0
    return axis


def _upwards(places: Tensor, parts: dict[str, int]) -> Tensor:
    """From the middle of the feet to the head, [...,3], of positions [...,J,3]."""
    feet = (places[..., parts["foot.L"], :] + places[..., parts["foot.R"], :]) / 2
    return places[..., parts["head"], :] - feet


def _facing(up: Tensor, left: Tensor) -> Tensor:
    """The rotation [4] that turns the axis `up` to z, and then `left`, as seen from above, to x."""
    upwards = between(up, _Z)
    x, y, _ = rotate(upwards, left).unbind()
    angle = torch.rad2deg(torch.atan2(y, x))
    snapped = 90 * (angle / 90).round()
    angle = torch.where((angle - snapped).abs() < SNAP_DEG, snapped, angle)
    return multiply(about(_Z, -torch.deg2rad(angle)), upwards)


def _rest_at_first_frame(capture: Capture) -> Capture:
    """The same motion, relative to its first frame as rest pose."""
    turns, places = capture.pose()
    turns = multiply(turns, conjugate(turns[:1]))
    rotations = turns.clone()
    for joint, parent in enumerate(capture.joint_parents[1:], 1):
        rotations[:, joint] = multiply(conjugate(turns[:, parent]), turns[:, joint])
    return replace(
        capture,
        joints=places[0],
        rotations=rotations,
        translation=capture.translation - capture.translation[:1],
    )
