"""Skinning weights of an avatar's Gaussians: those of the skin beneath, and over skirts, coats and long hair,
which hang freely, an even passage from what they are fastened to.

The nearest place of the body is no guide for cloth away from it: one half of a skirt would follow one leg,
the other the other leg, and it would tear between them as soon as they part. So Gaussians near the skin take
its weights, and the others the weighted mean of their neighbours (a harmonic function on the graph of nearest
neighbours; as Jacobson et al., "Bounded Biharmonic Weights for Real-Time Deformation", 2011, but of first
order). Neighbours of another colour count little, so that hair passes over a collar without being fastened
to it.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix, csc_matrix, diags
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree
from torch import Tensor

from specularip.body.mesh import Body, nearest_places
from specularip.body.regions import FOOT, HAND, LOWER_ARM, UPPER_ARM

NEAR, FAR = 0.012, 0.05
"""Metres from the skin up to which a Gaussian takes its weights, and from which its neighbours' alone."""
NEAR_LIMB, FAR_LIMB = 0.012, 0.025
"""The same at arms, hands and feet, which otherwise would take along a skirt or hair that they hang beside."""
LIMBS = (UPPER_ARM, LOWER_ARM, HAND, FOOT)
NEIGHBOURS = 12
SOFTENING = 0.003
"""Metres added to the distance of neighbours, whose influence is its inverse."""
COLOR_SPREAD = 0.12
"""Difference of colours, 0..1, that makes neighbours strangers."""
STRANGERS = 0.002
"""What their influence is at least, so that everything hangs together."""
FAINT = 1e-4
"""How far a Gaussian far from the skin still takes its weights, relative to its neighbours'; it decides where
no neighbour is fastened to anything."""


def smooth_bindings(means: Tensor, colors: Tensor, body: Body) -> tuple[Tensor, Tensor]:
    """bind_joints [N,4] int64 and bind_weights [N,4], rows summing to 1, of Gaussians with means [N,3] and
    diffuse colors [N,3] around `body`, in its rest pose. The joints are the body's."""
    device = means.device
    means, colors, body = means.detach().cpu(), colors.detach().cpu(), body.to("cpu")
    triangles, barycentric, distance = nearest_places(means, body.vertices, body.faces)
    corners = body.faces[triangles]
    weights = torch.zeros(len(means), len(body.joints))
    for k in range(3):
        spread = body.skin_weights[corners[:, k]] * barycentric[:, k, None]
        weights.scatter_add_(1, body.skin_joints[corners[:, k]], spread)
    regions = body.regions[corners[torch.arange(len(means)), barycentric.argmax(1)]]
    limb = torch.isin(regions, torch.tensor(LIMBS))
    near = torch.where(limb, NEAR_LIMB, NEAR)
    far = torch.where(limb, FAR_LIMB, FAR)
    fastened = ((far - distance) / (far - near)).clamp(0, 1)
    weights = _harmonic(means, colors, weights, fastened)
    top = weights.topk(4, 1)
    return top.indices.to(device), (top.values / top.values.sum(1, keepdim=True)).to(device)


def _harmonic(means: Tensor, colors: Tensor, weights: Tensor, fastened: Tensor) -> Tensor:
    """Weights [N,J], unchanged where `fastened` [N] is 1, and the less so the smaller it is."""
    free = (fastened < 1).numpy()
    if not free.any():
        return weights
    graph = _neighbours(means, colors)
    degree = np.asarray(graph.sum(1))[:, 0]
    share = fastened.double().numpy()[free]
    hold = degree[free] * (share / (1 - share) + FAINT)
    inner, outer = graph[free][:, free], graph[free][:, ~free]
    system = csc_matrix(diags(degree[free] + hold) - inner)
    dense = weights.double().numpy()
    used = dense.any(0)
    known = hold[:, None] * dense[free][:, used] + outer @ dense[~free][:, used]
    dense[np.ix_(free, used)] = splu(system).solve(known)
    return torch.from_numpy(dense).float()


def _neighbours(means: Tensor, colors: Tensor) -> csc_matrix:
    """The influence [N,N] of near Gaussians on each other, symmetric."""
    points, count = means.double().numpy(), len(means)
    distance, index = cKDTree(points).query(points, min(NEIGHBOURS + 1, count), workers=-1)
    distance, index = distance[:, 1:], index[:, 1:]  # the first is the point itself
    shades = colors.double().numpy()
    unlike = np.square(shades[:, None] - shades[index]).sum(-1)
    influence = (np.exp(-unlike / (2 * COLOR_SPREAD**2)) + STRANGERS) / (distance + SOFTENING)
    rows = np.repeat(np.arange(count), index.shape[1])
    graph = coo_matrix((influence.ravel(), (rows, index.ravel())), shape=(count, count)).tocsr()
    return graph.maximum(graph.T)
