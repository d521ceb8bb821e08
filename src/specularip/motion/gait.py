"""Walking and running on the spot, as on a treadmill.

A gait says what feet, pelvis and arms do; the legs follow by inverse kinematics. While a foot stands, it
moves back at the speed of the ground, rolling over heel, sole and ball without sliding; then it swings
forward. The body is as high as the legs allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from specularip.gaussians import Binding
from specularip.motion.clip import Clip
from specularip.motion.figure import ANKLE, BALL, HEEL, NECK, SPINE, Figure, X, Y, Z, eased, wave
from specularip.motion.quaternions import about, multiply, rotate


@dataclass(frozen=True)
class Gait:
    """One cycle, two steps. Phases run from 0, where the foot lands, to 1. Lengths in legs, angles in
    degrees.

    frames: of the cycle. stance: share of the cycle that a foot stands. stride: distance per cycle. ahead:
    how much farther in front than behind the foot stands. apart: distance of each foot from the middle.
    pitch: keys of the foot's pitch, toes up positive. lift: height that the ankle rises in the swing, beside
    what the pitch takes; lift_at: keys of that, as shares. bob, sway: of the pelvis, up and to the sides;
    highest: phase, of each step, of the highest point. yaw, list: of the pelvis. lean: forward. counter: yaw
    of the shoulders against the pelvis. swing, swing_bias: of the upper arms, forward positive. elbow,
    elbow_swing: bending, and how much more when the arm is in front. out: of the arms from the body.
    """

    frames: int
    stance: float
    stride: float
    ahead: float
    apart: float
    pitch: tuple[tuple[float, float], ...]
    lift: float
    lift_at: tuple[tuple[float, float], ...]
    bob: float
    highest: float
    sway: float
    yaw: float
    list: float
    lean: float
    counter: float
    swing: float
    swing_bias: float
    elbow: float
    elbow_swing: float
    out: float


WALK = Gait(
    frames=32, stance=0.61, stride=1.22, ahead=-0.05, apart=0.085,
    pitch=((0.0, 18.0), (0.1, 0.0), (0.38, 0.0), (0.62, -42.0), (0.9, 16.0)),
    lift=0.03, lift_at=((0.61, 0.0), (0.8, 1.0), (1.0, 0.0)),
    bob=0.024, highest=0.3, sway=0.022, yaw=5.0, list=2.5, lean=2.0, counter=5.0,
    swing=20.0, swing_bias=2.0, elbow=22.0, elbow_swing=12.0, out=14.0,
)  # fmt: skip
RUN = Gait(
    frames=21, stance=0.34, stride=2.0, ahead=-0.25, apart=0.055,
    pitch=((0.0, 6.0), (0.08, 0.0), (0.16, 0.0), (0.38, -55.0), (0.55, -75.0), (0.92, 8.0)),
    lift=0.34, lift_at=((0.34, 0.0), (0.58, 1.0), (1.0, 0.0)),
    bob=0.03, highest=0.45, sway=0.008, yaw=8.0, list=3.0, lean=9.0, counter=9.0,
    swing=38.0, swing_bias=-8.0, elbow=88.0, elbow_swing=14.0, out=12.0,
)  # fmt: skip


def walking(binding: Binding, gait: Gait, name: str, fps: float = 30.0) -> Clip:
    """One cycle on the spot; the left foot lands at its beginning."""
    figure = Figure(binding, gait.frames)
    phases = torch.arange(gait.frames, dtype=torch.float64) / gait.frames
    sides = {"L": phases, "R": (phases + 0.5) % 1}

    yaw = -math.radians(gait.yaw) * wave(phases)  # the hip of the foot that lands is in front
    tilt = -math.radians(gait.list) * wave(phases, gait.stance / 2)  # the hip of the foot that swings drops
    lean = torch.full_like(phases, math.radians(gait.lean))
    figure.turn("root", multiply(about(Z, yaw), multiply(about(Y, tilt), about(X, 0.5 * lean))))
    figure.translation[:, 0] = gait.sway * figure.leg * wave(phases, gait.stance / 2)
    figure.translation[:, 2] = gait.bob * figure.leg * wave(2 * phases, 2 * gait.highest)

    feet = {side: _foot(figure, gait, side, own) for side, own in sides.items()}
    room = torch.stack([figure.highest(side, ankles) for side, (ankles, _) in feet.items()])
    figure.translation[:, 2] += room.min()
    forward = Z.new_tensor([1.0, 0.0, 0.0]).expand(gait.frames, 3)
    for side, (ankles, pitch) in feet.items():
        figure.leg_to(side, ankles, about(X, -pitch), rotate(about(Z, 0.5 * yaw), forward))
        for toe in (f"toe{k}-1.{side}" for k in range(1, 6)):
            if toe in figure.index:  # stays on the ground while the heel rises
                figure.turn(toe, about(X, pitch.clamp(-0.6, 0)))

    counter = math.radians(gait.counter) * wave(phases)
    figure.bend(SPINE, Z, counter - yaw)
    figure.bend(SPINE, Y, -tilt)
    figure.bend(SPINE, X, 0.5 * lean)
    figure.bend(NECK, Z, -counter)
    figure.bend(NECK, X, -0.8 * lean)
    for side, own in sides.items():
        _swing_arm(figure, gait, side, own)
    return figure.clip(name, fps)


def _foot(figure: Figure, gait: Gait, side: str, phases: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [T,3] of the ankle, and pitch [T] of the foot in radians."""
    pitch = torch.deg2rad(eased(phases, gait.pitch))
    ends = torch.tensor([gait.stance - 1e-4, gait.stance, 0.0, 1e-4], dtype=torch.float64)
    places = _standing(gait, ends, torch.deg2rad(eased(ends, gait.pitch)))
    # From where the foot leaves the ground to where it lands, with the velocities of both.
    swing = 1 - gait.stance
    share = ((phases - gait.stance) / swing).clamp(0, 1)[:, None]
    start, end = places[1], places[2]
    leaving, landing = (places[1] - places[0]) / 1e-4 * swing, (places[3] - places[2]) / 1e-4 * swing
    flight = (
        (1 + 2 * share) * (1 - share) ** 2 * start
        + share * (1 - share) ** 2 * leaving
        + share**2 * (3 - 2 * share) * end
        - share**2 * (1 - share) * landing
    )
    flight[:, 1] += gait.lift * eased(phases, gait.lift_at)
    spot = torch.where(phases[:, None] < gait.stance, _standing(gait, phases, pitch), flight)
    across = torch.full_like(phases, gait.apart if side == "L" else -gait.apart)
    ankles = figure.leg * torch.stack([across, -spot[:, 0], spot[:, 1]], 1)
    middle = figure.place("root") * Y.new_tensor([1.0, 1.0, 0.0])
    return ankles + middle + Z * figure.floor, pitch


def _standing(gait: Gait, phases: Tensor, pitch: Tensor) -> Tensor:
    """The ankle [T,2] of a foot on the ground, forward and up, in legs: it turns about heel or ball."""
    flat = gait.stride * (gait.stance / 2 - phases) + 0.5 * gait.ahead
    forward = torch.where(pitch > 0, -HEEL, BALL)
    cos, sin = pitch.cos(), pitch.sin()
    # The ankle relative to the point that it turns about: (-forward, ANKLE), turned toes up by the pitch.
    return torch.stack([flat + forward - forward * cos - ANKLE * sin, ANKLE * cos - forward * sin], -1)


def _swing_arm(figure: Figure, gait: Gait, side: str, phases: Tensor) -> None:
    """Against the leg of its side."""
    outward = 1.0 if side == "L" else -1.0
    front = -wave(phases)  # 1 where the arm is in front
    upper = math.radians(gait.swing_bias) + math.radians(gait.swing) * front
    fore = upper + math.radians(gait.elbow) + math.radians(gait.elbow_swing) * front
    out = math.tan(math.radians(gait.out))
    directions = [
        torch.stack([torch.full_like(angle, outward * out * share), -angle.sin(), -angle.cos()], -1)
        for angle, share in ((upper, 1.0), (fore, 0.25))
    ]
    figure.arm(side, *directions)
