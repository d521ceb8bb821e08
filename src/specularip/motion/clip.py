"""A motion of a skeleton, sampled at a constant rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from specularip.gaussians import Binding
from specularip.motion.quaternions import slerp

UNIT = 1e-3
"""How far the length of a rotation's quaternion may be from 1."""


@dataclass(frozen=True)
class Clip:
    """A motion of T frames.

    rotations [T,J,4] wxyz: of the joints `joint_names`, each relative to the rest pose and to its parent, in
    world-aligned axes, as those of `Binding`. translation [T,3]: of the root from its rest position, metres.
    expressions [T,E]: strengths of the facial actions `expression_names`, 0 to 1; None without any. loops:
    whether the last frame leads into the first, which takes 1 / fps.

    Raises ValueError where these contradict each other, for numbers that are not finite, for quaternions that
    are not unit, and for a rate that is not positive.
    """

    name: str
    fps: float
    joint_names: tuple[str, ...]
    rotations: Tensor
    translation: Tensor
    expression_names: tuple[str, ...] = ()
    expressions: Tensor | None = None
    loops: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be positive, got {self.fps}")
        frames = len(self.rotations)
        if frames < 1:
            raise ValueError("a clip needs at least one frame")
        shapes = {
            "rotations": (self.rotations, (frames, len(self.joint_names), 4)),
            "translation": (self.translation, (frames, 3)),
        }
        if self.expressions is not None:
            shapes["expressions"] = (self.expressions, (frames, len(self.expression_names)))
        elif self.expression_names:
            raise ValueError(f"expressions are missing for {len(self.expression_names)} expression_names")
        for name, (tensor, shape) in shapes.items():
            if tensor.shape != shape:
                raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
            if not bool(tensor.isfinite().all()):
                raise ValueError(f"{name} contains NaN or infinite values")
        for names in (self.joint_names, self.expression_names):
            if len(set(names)) != len(names):
                raise ValueError("a name of a joint or expression occurs twice")
        if bool(((self.rotations.norm(dim=-1) - 1).abs() > UNIT).any()):
            raise ValueError("rotations must be unit quaternions")

    def __len__(self) -> int:
        return len(self.rotations)

    @property
    def seconds(self) -> float:
        """Duration: of one cycle if the clip loops, else from the first frame to the last."""
        return (len(self) if self.loops else len(self) - 1) / self.fps

    def on(self, binding: Binding) -> Clip:
        """The same motion on the joints of `binding`, in their order. Joints that the clip does not name stay
        at rest; joints that the binding lacks are left out."""
        rotations = self.rotations.new_tensor([1.0, 0.0, 0.0, 0.0])
        rotations = rotations.repeat(len(self), len(binding.joint_names), 1)
        index = {name: column for column, name in enumerate(self.joint_names)}
        pairs = [(j, index[name]) for j, name in enumerate(binding.joint_names) if name in index]
        if pairs:
            targets, sources = torch.tensor(pairs).T
            rotations[:, targets] = self.rotations[:, sources]
        return replace(self, joint_names=tuple(binding.joint_names), rotations=rotations)

    def at(self, seconds: Tensor) -> Clip:
        """The clip's poses at the times `seconds` [M], interpolated: a clip of M frames with the same rate.

        Rotations by slerp, all else linearly. A clip that loops is continued beyond its ends; another one
        holds its first and last pose.
        """
        place = seconds.to(self.rotations.dtype) * self.fps
        place = place % len(self) if self.loops else place.clamp(0, len(self) - 1)
        before = place.floor().long().clamp_max(len(self) - 1)
        after = (before + 1) % len(self) if self.loops else (before + 1).clamp_max(len(self) - 1)
        share = place - before
        expressions = self.expressions
        if expressions is not None:
            expressions = torch.lerp(expressions[before], expressions[after], share[:, None].to(expressions))
        return replace(
            self,
            rotations=slerp(self.rotations[before], self.rotations[after], share[:, None]),
            translation=torch.lerp(self.translation[before], self.translation[after], share[:, None]),
            expressions=expressions,
            loops=False,
        )

    def resampled(self, fps: float) -> Clip:
        """The same motion at another rate. Of a looping clip, the number of frames is rounded, so that it
        still loops; its duration may change by half a frame."""
        count = max(1, round(self.seconds * fps)) if self.loops else math.floor(self.seconds * fps + 1e-6) + 1
        step = self.seconds / count if self.loops else 1 / fps
        times = torch.arange(count, dtype=torch.float64) * step
        return replace(self.at(times), fps=fps, loops=self.loops)

    def expression_weights(self, names: tuple[str, ...]) -> Tensor:
        """Strengths [T,E] of the facial actions `names`; 0 for those that the clip does not name."""
        weights = self.rotations.new_zeros(len(self), len(names))
        if self.expressions is not None:
            for column, name in enumerate(names):
                if name in self.expression_names:
                    weights[:, column] = self.expressions[:, self.expression_names.index(name)]
        return weights
