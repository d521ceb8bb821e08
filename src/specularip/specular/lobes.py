"""Anisotropic spherical Gaussians (ASG) at the mirrored view direction: the maths of the specular branch.

A lobe answers *where a mirror on this surface would look*: `reflect` gives that direction, `asg` says how
much light the lobe sends from there. Directions and frames all live in the world, so a highlight moves over
a curved surface exactly as the half vector does when the camera moves.

ASG: Xu et al., "Anisotropic Spherical Gaussians", SIGGRAPH Asia 2013, eq. 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reflect(view_dirs: Tensor, normals: Tensor) -> Tensor:
    """Mirror directions ω_r = 2(ω_o·n)n − ω_o, [...,3] (unit). The sign of the normal does not matter.

    view_dirs [...,3]: unit ω_o, from the surface to the camera. normals [...,3]: unit; both broadcast.
    """
    return 2 * (view_dirs * normals).sum(-1, keepdim=True) * normals - view_dirs


def asg(directions: Tensor, frames: Tensor, lam: Tensor, mu: Tensor, xi: Tensor) -> Tensor:
    """Lobe responses G = ξ · max(v·z, 0) · exp(−λ(v·x)² − μ(v·y)²), [B,N,K].

    directions [B,N,3]: unit v. frames [K,3,3]: rows are the axes x, y, z of each lobe, orthonormal.
    lam, mu, xi [N,K]: λ and μ ≥ 0, the sharpness along x and y (unequal: the lobe is stretched); ξ ≥ 0.
    """
    # Three matrix products instead of a [B,N,K,3] temporary: nothing is larger than the answer.
    along_x, along_y, along_z = (directions @ frames[:, axis].T for axis in range(3))
    return xi * along_z.clamp_min(0) * torch.exp(-(lam * along_x * along_x + mu * along_y * along_y))


def fibonacci_frames(count: int) -> Tensor:
    """`count` right-handed orthonormal frames [K,3,3] (rows x, y, z) whose z axes cover the sphere evenly.

    The z axes follow the spherical Fibonacci spiral about the world's vertical; x is horizontal (towards +x
    of the world at the poles, which the spiral never reaches). Deterministic.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    index = torch.arange(count, dtype=torch.float64)
    height = 1 - (2 * index + 1) / count
    angle = index * math.pi * (3 - math.sqrt(5))
    radius = (1 - height.square()).sqrt()
    z = torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1)
    x = torch.stack([-angle.sin(), angle.cos(), torch.zeros_like(angle)], -1)
    y = torch.linalg.cross(z, x)
    return torch.stack([x, y, z], 1).float()


def lobe_spacing(count: int) -> float:
    """Angle in radians between neighbours when `count` lobes cover the sphere evenly (2·√(4π/K / π))."""
    return min(2 * math.sqrt(4 / count), math.pi)
