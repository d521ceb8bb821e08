"""A figure to animate by program: the skeleton of `AnnyModel`, with arms that reach and legs that stand.

A `Figure` collects the rotations of a clip of T frames. Lengths that suit any body are given in legs: the
distance from hip over knee to ankle. The body faces −y, its left is +x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.errors import UserError
from specularip.gaussians import Binding
from specularip.motion.clip import Clip
from specularip.motion.quaternions import about, between, conjugate, from_matrices, multiply, rotate

X, Y, Z = torch.eye(3, dtype=torch.float64)
ANKLE = 0.092
"""Height of the ankle over the sole, in legs, on Anny's bodies from child to adult."""
BALL, HEEL = 0.16, 0.05
"""Distances from the ankle to the ball of the foot and back to the heel, in legs."""
STRETCHED = 0.999
"""Share of its length that a leg reaches at most, so that a knee does not snap straight."""
SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
NECK = ("neck01", "neck02", "neck03", "head")
NEEDED = (
    "root", *SPINE, *NECK,
    *(f"{name}.{side}" for side in "LR" for name in (
        "upperleg01", "lowerleg01", "foot", "clavicle", "shoulder01", "upperarm01", "lowerarm01", "wrist",
    )),
)  # fmt: skip


class Figure:
    """Raises UserError for a skeleton without the joints `NEEDED`."""

    def __init__(self, binding: Binding, frames: int) -> None:
        self.binding, self.frames = binding, frames
        self.index = {name: joint for joint, name in enumerate(binding.joint_names)}
        missing = [name for name in NEEDED if name not in self.index]
        if missing:
            raise UserError(
                f"the built-in motions are for Anny's skeleton, and this avatar's has no {missing[0]}: "
                "give a motion file"
            )
        self.rest = binding.joints.double().cpu()
        self.rotations = F.pad(torch.zeros(frames, len(self.rest), 3, dtype=torch.float64), (1, 0), value=1.0)
        self.translation = torch.zeros(frames, 3, dtype=torch.float64)
        thigh, shin = self.bone("upperleg01.L", "lowerleg01.L"), self.bone("lowerleg01.L", "foot.L")
        self.leg = float(thigh.norm() + shin.norm())
        self.floor = float(self.place("foot.L")[2]) - ANKLE * self.leg

    def place(self, joint: str) -> Tensor:
        """Position [3] at rest."""
        return self.rest[self.index[joint]]

    def bone(self, joint: str, end: str) -> Tensor:
        """Vector [3] from one joint to another at rest."""
        return self.place(end) - self.place(joint)

    def turn(self, joint: str, quats: Tensor) -> None:
        """Turn a joint by `quats` [T,4] or [4], in its parent's frame, after what turned it before."""
        j = self.index[joint]
        self.rotations[:, j] = multiply(quats, self.rotations[:, j])

    def bend(self, joints: Sequence[str], axis: Tensor, angles: Tensor) -> None:
        """Turn about `axis` [3] by `angles` [T] in radians, shared evenly among the joints of a chain."""
        for joint in joints:
            self.turn(joint, about(axis, angles / len(joints)))

    def arm(self, side: str, upper: Tensor, fore: Tensor) -> None:
        """Point the upper arm and the forearm along `upper` and `fore` [T,3], in the frame of the chest. They
        must not be parallel: their plane is where the elbow bends. The shoulder follows by a fifth."""
        upper, fore = F.normalize(upper, dim=-1), F.normalize(fore, dim=-1)
        a = F.normalize(self.bone(f"upperarm01.{side}", f"lowerarm01.{side}"), dim=0)
        b = F.normalize(self.bone(f"lowerarm01.{side}", f"wrist.{side}"), dim=0)
        hinge = F.normalize(torch.linalg.cross(a, b), dim=0)
        bent = torch.acos((a * b).sum())
        target = F.normalize(torch.linalg.cross(upper, fore), dim=-1)
        whole = multiply(from_matrices(_frame(upper, target)), conjugate(from_matrices(_frame(a, hinge))))
        shoulder = between(a.expand_as(upper), F.normalize(4 * a + upper, dim=-1))
        self.turn(f"shoulder01.{side}", shoulder)
        self.turn(f"upperarm01.{side}", multiply(conjugate(shoulder), whole))
        self.turn(f"lowerarm01.{side}", about(hinge, torch.acos((upper * fore).sum(-1)) - bent))

    def hip(self, side: str) -> Tensor:
        """Positions [T,3] of a hip joint, for the rotations and translations of the root so far."""
        turned = rotate(self.rotations[:, self.index["root"]], self.bone("root", f"upperleg01.{side}"))
        return self.place("root") + self.translation + turned

    def highest(self, side: str, ankles: Tensor) -> Tensor:
        """How far [T] the root may rise from where it is, until the leg to `ankles` [T,3] is straight."""
        hip = self.hip(side)
        reach = STRETCHED * self.bone(f"upperleg01.{side}", f"foot.{side}").norm()
        away = (hip - ankles)[:, :2].square().sum(-1)
        return ankles[:, 2] + (reach.square() - away).clamp_min(0).sqrt() - hip[:, 2]

    def leg_to(self, side: str, ankles: Tensor, feet: Tensor, knees: Tensor) -> None:
        """Put a leg's ankle at `ankles` [T,3], by the law of cosines, and turn its foot to `feet` [T,4] in
        the world. knees [T,3]: the knee's axis, to the body's left; made perpendicular to the leg."""
        thigh = self.bone(f"upperleg01.{side}", f"lowerleg01.{side}")
        shin = self.bone(f"lowerleg01.{side}", f"foot.{side}")
        along = F.normalize(thigh + shin, dim=0)
        axis = F.normalize(X - (X * along).sum() * along, dim=0)
        wanted = ankles - self.hip(side)
        distance = wanted.norm(dim=-1)
        # |thigh + R(angle) shin| = distance: thigh · R shin = a cos + b sin + c.
        level = (shin * axis).sum() * axis
        a = (thigh * (shin - level)).sum()
        b = (thigh * torch.linalg.cross(axis, shin)).sum()
        c = (thigh * level).sum()
        dot = 0.5 * (distance.square() - thigh.square().sum() - shin.square().sum())
        angle = torch.atan2(b, a) + torch.acos(((dot - c) / torch.hypot(a, b)).clamp(-1, 1))
        bend = about(axis, angle)
        straight = F.normalize(thigh + rotate(bend, shin), dim=-1)
        there = F.normalize(wanted, dim=-1)
        knees = F.normalize(knees - (knees * there).sum(-1, keepdim=True) * there, dim=-1)
        own = axis - (axis * straight).sum(-1, keepdim=True) * straight
        whole = from_matrices(_frame(there, knees) @ _frame(straight, F.normalize(own, dim=-1)).mT)
        root = self.rotations[:, self.index["root"]]
        self.turn(f"upperleg01.{side}", multiply(conjugate(root), whole))
        self.turn(f"lowerleg01.{side}", bend)
        self.turn(f"foot.{side}", multiply(conjugate(multiply(whole, bend)), feet))

    def clip(self, name: str, fps: float, expressions: dict[str, Tensor] | None = None) -> Clip:
        """The looping clip. expressions: strengths [T] by the name of the facial action."""
        tracks = expressions or {}
        return Clip(
            name=name,
            fps=fps,
            joint_names=tuple(self.binding.joint_names),
            rotations=F.normalize(self.rotations, dim=-1).float(),
            translation=self.translation.float(),
            expression_names=tuple(tracks),
            expressions=torch.stack(list(tracks.values()), 1).float() if tracks else None,
            loops=True,
        )


def eased(phases: Tensor, keys: Sequence[tuple[float, float]]) -> Tensor:
    """Values at `phases`, between keys (phase from 0 to 1, value) of a cycle: at rest at each key, and by a
    smooth step from one to the next."""
    times = torch.tensor([phase for phase, _ in keys], dtype=phases.dtype)
    values = torch.tensor([value for _, value in keys], dtype=phases.dtype)
    times, values = torch.cat([times[-1:] - 1, times, times[:1] + 1]), values[[-1, *range(len(keys)), 0]]
    after = torch.searchsorted(times, phases.contiguous(), right=True).clamp(1, len(times) - 1)
    share = (phases - times[after - 1]) / (times[after] - times[after - 1])
    share = share * share * (3 - 2 * share)
    return torch.lerp(values[after - 1], values[after], share)


def wave(phases: Tensor, peak: float = 0.0) -> Tensor:
    """A cosine that is 1 at the phase `peak`."""
    return torch.cos(math.tau * (phases - peak))


def _frame(first: Tensor, second: Tensor) -> Tensor:
    """Rotation matrices [...,3,3] whose first two columns are these perpendicular unit vectors."""
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)
