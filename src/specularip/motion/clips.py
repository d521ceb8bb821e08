"""The built-in clips, made by program for the proportions of each skeleton: walk, run, wave, turn, idle.

All loop, at 30 frames per second, on the spot. Facial actions have ARKit's names; avatars without them keep
still faces.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from specularip.errors import UserError
from specularip.gaussians import Binding
from specularip.motion.clip import Clip
from specularip.motion.figure import NECK, SPINE, Figure, X, Y, Z, eased, wave
from specularip.motion.gait import RUN, WALK, walking
from specularip.motion.quaternions import about, rotate

FPS = 30.0
BLINK = 0.2
"""Seconds that the eyes take to close and open."""


def walk(binding: Binding) -> Clip:
    """One cycle, two steps, of a calm walk on the spot."""
    return walking(binding, WALK, "walk", FPS)


def run(binding: Binding) -> Clip:
    """One cycle, two steps, of a run on the spot."""
    return walking(binding, RUN, "run", FPS)


def idle(binding: Binding) -> Clip:
    """Eight seconds of standing: two breaths, weight from one leg to the other, blinks."""
    figure = Figure(binding, round(8 * FPS))
    phases = _phases(figure)
    _stand(figure, sway=0.022 * wave(phases, 0.3), yaw=0.03 * wave(phases, 0.1))
    _breathe(figure, phases, 2)
    figure.bend(NECK, Z, 0.06 * wave(phases, 0.35) + 0.03 * wave(2 * phases, 0.8))
    figure.bend(NECK, X, 0.025 * wave(phases, 0.6))
    for side, outward in (("L", 1.0), ("R", -1.0)):
        _hang(figure, side, outward, 0.02 * wave(2 * phases, 0.45))
    return figure.clip("idle", FPS, _blinks(phases, (1.2, 4.4, 6.9), 8))


def wave_hand(binding: Binding) -> Clip:
    """Four seconds: the right arm goes up, waves, and comes down; with a smile."""
    figure = Figure(binding, round(4 * FPS))
    phases = _phases(figure)
    up = eased(phases, ((0.02, 0.0), (0.2, 1.0), (0.78, 1.0), (0.98, 0.0)))
    waving = eased(phases, ((0.18, 0), (0.26, 1), (0.72, 1), (0.8, 0)))
    sideways = waving * torch.sin(math.tau * 6 * (phases - 0.2))
    _stand(figure, sway=0.018 * up, yaw=torch.zeros_like(up))
    _breathe(figure, phases, 1)
    figure.bend(SPINE, Y, -0.04 * up)
    figure.bend(NECK, Y, 0.07 * up)
    figure.bend(NECK, Z, -0.08 * up)
    _hang(figure, "L", 1.0, 0.05 * up)
    # From hanging over the side to the elbow at shoulder height, the forearm upright.
    lifted = _directions(phases, (-0.17, -0.05, -1.0), (-0.9, -0.4, -0.35), up)
    fore = _directions(phases, (-0.1, -0.35, -1.0), (-0.28, -0.45, 1.0), up)
    fore[:, 0] -= 0.42 * sideways
    figure.turn("clavicle.R", about(Y, 0.12 * up))
    figure.arm("R", lifted, fore)
    smile = {f"mouthSmile{side}": 0.7 * up for side in ("Left", "Right")}
    return figure.clip("wave", FPS, {**smile, **_blinks(phases, (0.5, 3.1), 4)})


def turn(binding: Binding) -> Clip:
    """Eight seconds: looks and turns to the left and to the right, with the weight on that side's leg."""
    figure = Figure(binding, round(8 * FPS))
    phases = _phases(figure)
    # Eyes and head lead, the body follows.
    head = eased(phases, ((0.04, 0.0), (0.16, 1.0), (0.38, 1.0), (0.56, -1.0), (0.8, -1.0), (0.94, 0.0)))
    body = eased(phases, ((0.07, 0.0), (0.24, 1.0), (0.4, 1.0), (0.64, -1.0), (0.82, -1.0), (0.99, 0.0)))
    _stand(figure, sway=0.035 * body, yaw=0.3 * body)
    _breathe(figure, phases, 2)
    figure.bend(SPINE, Z, 0.4 * body)
    figure.bend(NECK, Z, 0.65 * head - 0.15 * body)
    figure.bend(NECK, X, 0.04 * head.square())
    for side, outward in (("L", 1.0), ("R", -1.0)):
        _hang(figure, side, outward, 0.12 * outward * body)
    return figure.clip("turn", FPS, _blinks(phases, (0.6, 3.5, 7.0), 8))


CLIPS: dict[str, Callable[[Binding], Clip]] = {
    "walk": walk,
    "run": run,
    "wave": wave_hand,
    "turn": turn,
    "idle": idle,
}


def built_in(name: str, binding: Binding) -> Clip:
    """The clip of this name for a skeleton. Raises UserError for an unknown name, and for a skeleton that is
    not Anny's."""
    if name not in CLIPS:
        raise UserError(f"there is no built-in motion {name!r}: choose {', '.join(CLIPS)}, or give a file")
    return CLIPS[name](binding)


def _phases(figure: Figure) -> Tensor:
    return torch.arange(figure.frames, dtype=torch.float64) / figure.frames


def _stand(figure: Figure, sway: Tensor, yaw: Tensor) -> None:
    """Both feet stay where they are at rest, while the pelvis moves by `sway` [T] (legs, to the left) and
    turns by `yaw` [T] radians. The hip over the standing leg rises."""
    figure.turn("root", about(Z, yaw))
    figure.turn("root", about(Y, -1.2 * sway))
    figure.translation[:, 0] = figure.leg * sway
    still = about(Z, torch.zeros_like(sway))
    ankles = {side: figure.place(f"foot.{side}").expand(figure.frames, 3) for side in "LR"}
    room = torch.stack([figure.highest(side, places) for side, places in ankles.items()]).amin(0)
    figure.translation[:, 2] = room.min()
    left = rotate(about(Z, 0.5 * yaw), X)
    for side, places in ankles.items():
        figure.leg_to(side, places, still, left)
    figure.bend(SPINE, Y, 1.2 * sway)


def _breathe(figure: Figure, phases: Tensor, breaths: int) -> None:
    """The chest opens and the shoulders rise."""
    breath = wave(breaths * phases, 0.5)
    figure.bend(SPINE[2:], X, -0.012 * breath)
    figure.bend(NECK, X, 0.012 * breath)
    for side, outward in (("L", -1.0), ("R", 1.0)):
        figure.turn(f"clavicle.{side}", about(Y, outward * 0.018 * (1 + breath)))


def _hang(figure: Figure, side: str, outward: float, forward: Tensor) -> None:
    """An arm that hangs relaxed, swung `forward` [T]."""
    ones = torch.ones_like(forward)
    upper = torch.stack([0.2 * outward * ones, -0.02 - forward, -ones], -1)
    fore = torch.stack([0.09 * outward * ones, -0.3 - forward, -ones], -1)
    figure.arm(side, upper, fore)


def _directions(phases: Tensor, start: tuple[float, ...], end: tuple[float, ...], share: Tensor) -> Tensor:
    """Unit directions [T,3] from start to end, along the great circle between them."""
    a, b = (torch.nn.functional.normalize(phases.new_tensor(d), dim=0) for d in (start, end))
    angle = torch.acos((a * b).sum())
    share = share[:, None]
    return (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()


def _blinks(phases: Tensor, seconds: tuple[float, ...], duration: float) -> dict[str, Tensor]:
    """Tracks of both eyelids, which close at these times."""
    closed = torch.zeros_like(phases)
    for at in seconds:
        closed += torch.cos(math.pi * ((phases * duration - at) / BLINK).clamp(-0.5, 0.5)).square()
    return {f"eyeBlink{side}": closed for side in ("Left", "Right")}
