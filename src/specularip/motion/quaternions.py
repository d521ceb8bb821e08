"""Rotations as quaternions [...,4] wxyz, unit; all functions broadcast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.gaussians import rotation_matrices


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The rotation b followed by a."""
    a, b = torch.broadcast_tensors(a, b)
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    parts = [
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    ]
    return torch.stack(parts, -1)


def conjugate(quats: Tensor) -> Tensor:
    """The inverse rotation."""
    return quats * quats.new_tensor([1.0, -1.0, -1.0, -1.0])


def rotate(quats: Tensor, vectors: Tensor) -> Tensor:
    """Vectors [...,3], rotated."""
    w, axis = quats[..., :1], quats[..., 1:]
    twice = 2 * torch.linalg.cross(*torch.broadcast_tensors(axis, vectors))
    return vectors + w * twice + torch.linalg.cross(*torch.broadcast_tensors(axis, twice))


def about(axis: Tensor, angles: Tensor) -> Tensor:
    """Rotations by `angles` [...] in radians about unit axes [...,3], counter-clockwise seen from its tip."""
    half = 0.5 * angles[..., None]
    vector = half.sin() * axis
    return torch.cat([half.cos().expand(*vector.shape[:-1], 1), vector], -1)


def matrices(quats: Tensor) -> Tensor:
    """Rotation matrices [...,3,3]; the quaternions are normalised first."""
    return rotation_matrices(quats.reshape(-1, 4)).reshape(*quats.shape[:-1], 3, 3)


def from_matrices(rotations: Tensor) -> Tensor:
    """Quaternions of rotation matrices [...,3,3], with the largest component positive.

    The matrix 4 q qᵀ is linear in the rotation matrix; its row with the largest diagonal element is q without
    cancellation.
    """
    a, b, c, d, e, f, g, h, i = rotations.flatten(-2).unbind(-1)
    outer = [
        1 + a + e + i, h - f, c - g, d - b,
        h - f, 1 + a - e - i, b + d, c + g,
        c - g, b + d, 1 - a + e - i, f + h,
        d - b, c + g, f + h, 1 - a - e + i,
    ]  # fmt: skip
    rows = torch.stack(outer, -1).unflatten(-1, (4, 4))
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = rows.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    return F.normalize(row, dim=-1)


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """From a (share 0) to b (share 1) at constant speed along the shorter arc. share [...]."""
    dot = (a * b).sum(-1, keepdim=True)
    b = torch.where(dot < 0, -b, b)
    share = share[..., None]
    angle = torch.acos(dot.abs().clamp_max(1))
    sine = angle.sin()
    # Nearly equal rotations: linear interpolation, which is the limit.
    small = sine < 1e-4
    safe = torch.where(small, 1.0, sine)
    first = torch.where(small, 1 - share, ((1 - share) * angle).sin() / safe)
    second = torch.where(small, share, (share * angle).sin() / safe)
    return F.normalize(first * a + second * b, dim=-1)


def from_rotation_vectors(vectors: Tensor) -> Tensor:
    """Rotations of axis times angle in radians [...,3]."""
    half = 0.5 * vectors.norm(dim=-1, keepdim=True)
    return torch.cat([half.cos(), 0.5 * torch.sinc(half / torch.pi) * vectors], -1)


def between(a: Tensor, b: Tensor) -> Tensor:
    """The smallest rotation of the direction a [...,3] to the direction b [...,3]; where they are opposite, a
    half turn about a perpendicular axis."""
    a, b = torch.broadcast_tensors(F.normalize(a, dim=-1), F.normalize(b, dim=-1))
    quats = torch.cat([1 + (a * b).sum(-1, keepdim=True), torch.linalg.cross(a, b)], -1)
    other = torch.zeros_like(a).scatter(-1, a.abs().argmin(-1, keepdim=True), 1.0)
    half_turn = F.pad(torch.linalg.cross(a, other), (1, 0))
    return F.normalize(torch.where(quats.norm(dim=-1, keepdim=True) > 1e-4, quats, half_turn), dim=-1)


def twist(quats: Tensor, axis: Tensor) -> Tensor:
    """The part of a rotation that turns about the unit axis [...,3], by at most half a turn; none where it is
    undefined, for half turns about a perpendicular axis."""
    along = (quats[..., 1:] * axis).sum(-1, keepdim=True)
    parts = torch.cat([quats[..., :1], along * axis], -1)
    parts = torch.where(parts[..., :1] < 0, -parts, parts)
    none = F.pad(torch.zeros_like(parts[..., 1:]), (1, 0), value=1.0)
    return torch.where(parts.norm(dim=-1, keepdim=True) > 1e-6, F.normalize(parts, dim=-1), none)


def continuous(quats: Tensor) -> Tensor:
    """Tracks [T,...,4] of the same rotations, with signs that put each frame next to the one before."""
    same = (quats[1:] * quats[:-1]).sum(-1, keepdim=True) >= 0
    signs = torch.where(same, 1.0, -1.0).to(quats).cumprod(0)
    return torch.cat([quats[:1], quats[1:] * signs])
