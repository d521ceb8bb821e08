"""Where an avatar's world lies in that of the capture it was fitted to: a similarity.

An avatar lives about the origin, in metres, z up. A capture has the origin, unit and axes of the program that
found its cameras.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from specularip.cameras import Cameras

SCALES = (1e-9, 1e9)
"""Scales outside are treated as errors."""
ORTHONORMAL = 1e-5
"""Tolerance of a rotation's orthonormality."""


@dataclass(frozen=True, eq=False)
class Placement:
    """The similarity from one world to another: x' = scale * rotation @ x + translation.

    rotation [3,3] and translation [3], float64 on the CPU; `Placement` converts them. That of an avatar leads
    from its world to the capture's. Computes in float64, so that nothing is lost far from the origin. Raises
    ValueError for numbers that are no similarity.
    """

    scale: float
    rotation: Tensor
    translation: Tensor

    def __post_init__(self) -> None:
        for name, shape in (("rotation", (3, 3)), ("translation", (3,))):
            value = torch.as_tensor(getattr(self, name)).detach().cpu().double()
            if value.shape != shape or not bool(value.isfinite().all()):
                raise ValueError(f"{name} must be finite numbers {list(shape)}, got {list(value.shape)}")
            object.__setattr__(self, name, value)
        if not SCALES[0] <= self.scale <= SCALES[1]:
            raise ValueError(f"scale must lie between {SCALES[0]:g} and {SCALES[1]:g}, got {self.scale:g}")
        error = self.rotation @ self.rotation.T - torch.eye(3, dtype=torch.float64)
        if float(error.abs().max()) > ORTHONORMAL or float(torch.linalg.det(self.rotation)) < 0:
            raise ValueError("rotation must be a rotation matrix")

    @staticmethod
    def identity() -> Placement:
        return Placement(1.0, torch.eye(3), torch.zeros(3))

    @property
    def is_identity(self) -> bool:
        same = self.rotation.equal(torch.eye(3, dtype=torch.float64)) and not bool(self.translation.any())
        return self.scale == 1.0 and same

    def same_as(self, other: Placement) -> bool:
        """Whether all numbers are equal."""
        equal = self.rotation.equal(other.rotation) and self.translation.equal(other.translation)
        return self.scale == other.scale and equal

    def __matmul__(self, first: Placement) -> Placement:
        """`first`, then this one."""
        return Placement(
            self.scale * first.scale, self.rotation @ first.rotation, self.points(first.translation)
        )

    def inverse(self) -> Placement:
        back = self.rotation.T.contiguous()
        return Placement(1 / self.scale, back, -(back @ self.translation) / self.scale)

    def points(self, points: Tensor) -> Tensor:
        """Points [...,3], moved; float64, on their device."""
        rotation, translation = self.rotation.to(points.device), self.translation.to(points.device)
        return self.scale * (points.double() @ rotation.T) + translation

    def viewmats(self, viewmats: Tensor) -> Tensor:
        """World-to-camera matrices [...,4,4] of cameras that are moved along, float64: they see the moved
        world as before, with depths times `scale`. They stay rigid."""
        found = viewmats.double().clone()
        turned = found[..., :3, :3] @ self.rotation.T.to(viewmats.device)
        shift = (turned @ self.translation.to(viewmats.device)[:, None])[..., 0]
        found[..., :3, 3] = self.scale * found[..., :3, 3] - shift
        found[..., :3, :3] = turned
        return found

    def cameras(self, cameras: Cameras) -> Cameras:
        """Cameras that are moved along, see `viewmats`; of the same dtype."""
        moved = self.viewmats(cameras.viewmats).to(cameras.viewmats.dtype)
        return Cameras(moved, cameras.Ks, cameras.width, cameras.height)

    def pack(self) -> dict[str, object]:
        """JSON values."""
        return {
            "scale": float(self.scale),
            "rotation": self.rotation.tolist(),
            "translation": self.translation.tolist(),
        }

    @staticmethod
    def unpack(packed: object) -> Placement:
        """The inverse of `pack`. Raises ValueError for anything else."""
        if not isinstance(packed, dict) or set(packed) != {"scale", "rotation", "translation"}:
            raise ValueError("a placement has a scale, a rotation and a translation")
        scale = packed["scale"]
        if type(scale) not in (int, float) or not math.isfinite(scale):
            raise ValueError("scale must be a number")
        try:
            rotation, translation = (
                torch.tensor(packed[name], dtype=torch.float64) for name in ("rotation", "translation")
            )
        except (TypeError, ValueError, OverflowError, RuntimeError):
            raise ValueError("rotation and translation must be lists of numbers") from None
        return Placement(float(scale), rotation, translation)
