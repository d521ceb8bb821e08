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

from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix, diags
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree
from torch import Tensor

from specularip.body.anny import AnnyModel
from specularip.body.mesh import Body, nearest_places
from specularip.body.regions import FOOT, HAND, LOWER_ARM, UPPER_ARM
from specularip.gaussians import Binding, Gaussians

NEAR, FAR = 0.006, 0.05
"""Metres from the skin up to which a Gaussian takes its weights, and from which its neighbours' alone."""
FAR_LIMB = 0.025
"""The latter at arms, hands and feet, which otherwise would take along a skirt or hair beside them."""
HOLD = 0.1
"""How much the skin counts just beyond NEAR, relative to all neighbours: with a tenth, differences between
neighbouring places of the skin are spread over some three spacings of the Gaussians."""
LIMBS = (UPPER_ARM, LOWER_ARM, HAND, FOOT)
HALVES = {
    f"{half}.{side}": whole.format(side)
    for side in "LR"
    for half, whole in (
        ("pelvis", "root"), ("upperleg02", "upperleg01.{}"), ("lowerleg02", "lowerleg01.{}"),
        ("upperarm02", "upperarm01.{}"), ("lowerarm02", "lowerarm01.{}"), ("shoulder01", "clavicle.{}"),
    )
}  # fmt: skip
"""Joints that hardly move against their parents, and these."""
NEIGHBOURS = 12
SOFTENING = 0.003
"""Metres added to the distance of neighbours, whose influence is its inverse."""
COLOR_SPREAD = 0.12
"""Difference of colours, 0..1, that makes neighbours strangers."""
STRANGERS = 0.002
"""What their influence is at least, so that everything hangs together."""
FAINT = 1e-6
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
    far = torch.where(limb, FAR_LIMB, FAR)
    hold = HOLD * ((far - distance) / (far - NEAR)).clamp(0, 1).square() + FAINT
    free = distance > NEAR
    if bool(free.any()) and len(means) > 1:
        weights = _harmonic(means, colors, _coarse(weights, body, free), hold, free)
    top = weights.topk(5, 1)
    # Where cloth hangs from more than four joints, the fifth weight is taken off all, so that joints come and
    # go gradually from one Gaussian to the next. Skin keeps what counts most.
    faint = torch.where(free[:, None], top.values[:, 4:], 0.0)
    top = weights.sub(faint).clamp_min(0).topk(4, 1)
    return top.indices.to(device), (top.values / top.values.sum(1, keepdim=True)).to(device)


def whole_skeleton(gaussians: Gaussians, binding: Binding) -> tuple[Gaussians, Binding]:
    """The same with the whole skeleton and `smooth_bindings`, for avatars made when there were 36 joints and
    each Gaussian had the weights of the nearest skin. Others are returned as they are."""
    model = AnnyModel.load()
    count = len(binding.joint_names)
    if count == len(model.joint_names) or tuple(binding.joint_names) != model.joint_names[:count]:
        return gaussians, binding
    body = model.body_with_joints(binding.joints)
    joints, weights = smooth_bindings(gaussians.means, gaussians.diffuse, body)
    bound = replace(gaussians, bind_joints=joints, bind_weights=weights)
    return bound, Binding(list(body.joint_names), list(body.joint_parents), body.joints)


def _coarse(weights: Tensor, body: Body, free: Tensor) -> Tensor:
    """Weights [N,J] with the twisting halves of limbs and of the pelvis joined where `free` [N]: cloth hangs
    from both legs, and only four joints fit."""
    names = body.joint_names
    result = weights.clone()
    for j, name in enumerate(names):
        if name in HALVES:
            whole = names.index(HALVES[name])
            result[free, whole] += result[free, j]
            result[free, j] = 0
    return result


def _harmonic(means: Tensor, colors: Tensor, weights: Tensor, hold: Tensor, free: Tensor) -> Tensor:
    """Weights [N,J] where those that are `free` [N] are the mean of their neighbours', which counts 1, and of
    their own, which counts `hold` [N]."""
    loose = free.numpy()
    graph = _neighbours(means, colors)
    degree = np.asarray(graph.sum(1))[loose, 0]
    holds = degree * hold.double().numpy()[loose]
    system = csc_matrix(diags(degree + holds) - graph[loose][:, loose])
    result = weights.double().numpy()
    used = result.any(0)
    known = holds[:, None] * result[loose][:, used] + graph[loose][:, ~loose] @ result[~loose][:, used]
    result[np.ix_(loose, used)] = splu(system).solve(known)
    return torch.from_numpy(result).float()


def _neighbours(means: Tensor, colors: Tensor) -> csr_matrix:
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
