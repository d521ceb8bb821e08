"""Normals of the surface that Gaussians of another program lie on.

Such files have no normals, and the shortest axis of a nearly round Gaussian says little. Neighbours lie in
the surface's plane (Hoppe et al., "Surface Reconstruction from Unorganized Points", 1992).
"""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

NEIGHBOURS = 16


def surface_normals(means: Tensor, weights: Tensor, outward: Tensor) -> Tensor:
    """Unit normals [N,3] at means [N,3]: the direction in which neighbours, weighted by `weights` [N], spread
    least, on the side of `outward` [N,3]. On the CPU."""
    count = min(NEIGHBOURS, len(means))
    points = means.double()
    near = torch.from_numpy(cKDTree(points.numpy()).query(points.numpy(), count, workers=-1)[1])
    near = near.reshape(len(means), count)
    share = weights.double()[near].clamp_min(1e-6)
    share = (share / share.sum(1, keepdim=True))[..., None]
    around = points[near]
    apart = around - (share * around).sum(1, keepdim=True)
    normals = torch.linalg.eigh((share * apart).mT @ apart).eigenvectors[..., 0].float()
    normals = torch.where((normals * outward).sum(-1, keepdim=True) < 0, -normals, normals)
    return F.normalize(normals, dim=-1)
