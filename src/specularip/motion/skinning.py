"""Skinning: joints turn, and points that are bound to them follow.

A joint's rest frame has the world's axes. Its rotation R_j is relative to the rest pose and to its parent:

    G_j = G_parent · [R_j | J_j − J_parent],  G_root = [R_root | J_root + translation]
    skin matrix T_j = G_j · [I | −J_j]

Gaussians that are not in the rest pose but in a stance (`Binding.stance`) are brought there first:
T_j = G_j · G_j(stance)⁻¹.

Linear blending (`linear`) moves a point by Σ w_j T_j, as glTF and game engines do. Dual quaternions (`dual`;
Kavan et al., "Geometric Skinning with Approximate Dual Quaternion Blending", 2008) blend rotation and
translation as one rigid motion, which keeps the volume of bent and twisted limbs. Either way a point *turns*
by the blended quaternion Σ ± w_j q_j / |…|, with signs that put all on the hemisphere of the heaviest one: a
Gaussian is rigid, so it takes the rotation, and not the shear that linear blending has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.gaussians import Binding, Expressions
from specularip.motion.quaternions import conjugate, from_matrices, matrices, multiply

Blend = Literal["linear", "dual"]


def joint_transforms(binding: Binding, rotations: Tensor, translation: Tensor | None = None) -> Tensor:
    """Skin matrices T_j [...,J,4,4], from the rest pose or the binding's stance to posed, in the world.

    rotations [...,J,4] wxyz, each relative to the rest pose and its parent; translation [...,3] of the roots,
    metres. Raises ValueError for another number of joints, or parents in a circle.
    """
    joints = binding.joints.to(rotations)
    if binding.stance is not None:
        rest = replace(binding, stance=None)
        stance = joint_transforms(rest, binding.stance.to(rotations))
        return joint_transforms(rest, rotations, translation) @ _rigid_inverse(stance)
    if rotations.shape[-2:] != (len(joints), 4):
        raise ValueError(f"rotations must be [...,{len(joints)},4], got {list(rotations.shape)}")
    parents = torch.tensor(binding.joint_parents, device=joints.device)
    roots = parents < 0
    offsets = joints - torch.where(roots[:, None], 0.0, joints[parents.clamp_min(0)])
    placed = offsets.expand(*rotations.shape[:-1], 3)
    if translation is not None:
        placed = placed + roots[:, None] * translation[..., None, :].to(joints)
    local = torch.cat([matrices(rotations), placed[..., None]], -1)  # [...,J,3,4]
    row = local.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*local.shape[:-2], 1, 4)
    world = torch.cat([local, row], -2)
    for level in levels(binding.joint_parents)[1:]:
        index = torch.tensor(level, device=joints.device)
        world[..., index, :, :] = world[..., parents[index], :, :] @ world[..., index, :, :]
    skin = world.clone()
    skin[..., :3, 3] -= (world[..., :3, :3] @ joints[..., None])[..., 0]
    return skin


def _rigid_inverse(transforms: Tensor) -> Tensor:
    """The inverses of rotations with translations, [...,4,4]."""
    result = transforms.clone()
    result[..., :3, :3] = transforms[..., :3, :3].mT
    result[..., :3, 3] = -(result[..., :3, :3] @ transforms[..., :3, 3:])[..., 0]
    return result


def levels(parents: Sequence[int]) -> list[list[int]]:
    """The joints by depth, roots first. Raises ValueError for parents in a circle."""
    found = [[j for j, parent in enumerate(parents) if parent < 0]]
    while found[-1]:
        above = set(found[-1])
        found.append([j for j, parent in enumerate(parents) if parent in above])
    if sum(map(len, found)) < len(parents):
        raise ValueError("the skeleton's parents form a circle")
    return found[:-1]


def bone_table(transforms: Tensor) -> Tensor:
    """All that skinning needs of skin matrices [...,J,4,4], [...,J,20]: their first three rows, row by row,
    and the same motion as a dual quaternion: its rotation q wxyz, and its dual part ½ t q."""
    quats = from_matrices(transforms[..., :3, :3])
    translation = F.pad(transforms[..., :3, 3], (1, 0))
    return torch.cat([transforms[..., :3, :].flatten(-2), quats, 0.5 * multiply(translation, quats)], -1)


def skin_points(
    points: Tensor,
    bind_joints: Tensor,
    bind_weights: Tensor,
    bones: Tensor,
    blend: Blend = "linear",
) -> tuple[Tensor, Tensor]:
    """Posed points [N,3], and the rotation [N,4] wxyz by which each turns.

    points [N,3] in rest pose, bind_joints [N,K] int64, bind_weights [N,K] with rows that sum to 1, bones
    [J,20] as `bone_table` gives them. In plain tensors, of any dtype; see `dispatch` for the kernels.
    """
    matrix, quats, duals = bones.split([12, 4, 4], -1)
    heaviest = quats[bind_joints.gather(1, bind_weights.argmax(1, keepdim=True))]  # [N,1,4]
    mine = quats[bind_joints]  # [N,4,4]
    same = (mine * heaviest).sum(-1) >= 0
    weights = torch.where(same, bind_weights, -bind_weights)
    blended = (weights[..., None] * mine).sum(1)
    turns = F.normalize(blended, dim=-1)
    if blend == "linear":
        matrix = (bind_weights[..., None] * matrix[bind_joints]).sum(1).unflatten(1, (3, 4))
        return (matrix[..., :3] @ points[..., None])[..., 0] + matrix[..., 3], turns
    dual = (weights[..., None] * duals[bind_joints]).sum(1)
    shift = 2 * multiply(dual, conjugate(blended))[..., 1:] / blended.square().sum(-1, keepdim=True)
    return (matrices(turns) @ points[..., None])[..., 0] + shift, turns


def expressed(means: Tensor, expressions: Expressions, strengths: Tensor) -> Tensor:
    """means [N,3] of Gaussians in rest pose, with facial actions at `strengths` [E], 0 to 1."""
    offsets = torch.einsum("e,end->nd", strengths.to(expressions.offsets), expressions.offsets)
    return means.index_add(0, expressions.index, offsets.to(means))
