"""A surface's appearance turns with it: materials, and what depends on the view direction.

All of a latent that depends on directions is fixed to the surface: the tangent along which it is brushed, the
visibility (what hides parts of the surroundings from it) and the residual. The light is not: it stays in the
world, and the head shades the turned surface in it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from specularip.motion.quaternions import matrices
from specularip.specular.shading import RESIDUAL, tangent_frames

ANGLE, LEANING = 2, slice(7, 10)
"""Where a latent has the tangent's angle, and the linear part of the visibility; see `shading.LATENTS`."""


def turned_latents(latents: Tensor, normals: Tensor, turns: Tensor) -> Tensor:
    """The latents [N,34] of Gaussians that `turns` [N,4] rotates. normals [N,3]: before that."""
    turn = matrices(turns)
    tangents, _ = tangent_frames(normals, latents[:, ANGLE : ANGLE + 1])
    residual = latents[:, RESIDUAL:].unflatten(1, (3, 8))
    linear = torch.einsum("nij,ncj->nci", turn, residual[..., :3])
    quadratic = turned_quadratic(residual[..., 3:], turn[:, None])
    turned = latents.clone()
    turned[:, ANGLE] = tangent_angles(_turned(turn, normals), _turned(turn, tangents))
    turned[:, LEANING] = _turned(turn, latents[:, LEANING])
    turned[:, RESIDUAL:] = torch.cat([linear, quadratic], -1).flatten(1)
    return turned


def tangent_angles(normals: Tensor, tangents: Tensor) -> Tensor:
    """The angles [N] at which `tangent_frames` of normals [N,3] gives these tangents [N,3]."""
    level, upward = tangent_frames(normals, torch.zeros_like(normals[:, :1]))
    return torch.atan2((tangents * upward).sum(-1), (tangents * level).sum(-1))


def turned_quadratic(coefficients: Tensor, turns: Tensor) -> Tensor:
    """Coefficients [...,5] of the harmonics of degree 2 (`shading.harmonics`) after a rotation [...,3,3].

    Up to a factor, their sum is vᵀ M v with a symmetric matrix M of trace 0, which becomes R M Rᵀ.
    """
    xy, yz, zz, xz, plane = coefficients.unbind(-1)
    polar = zz / math.sqrt(3)
    rows = [plane - polar, xy, xz, xy, -plane - polar, yz, xz, yz, 2 * polar]
    matrix = turns @ torch.stack(rows, -1).unflatten(-1, (3, 3)) @ turns.mT
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = (row.unbind(-1) for row in matrix.unbind(-2))
    return torch.stack([xy, yz, math.sqrt(0.75) * zz, xz, 0.5 * (xx - yy)], -1)


def _turned(turns: Tensor, vectors: Tensor) -> Tensor:
    return (turns @ vectors[..., None])[..., 0]
