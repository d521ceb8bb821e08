"""The finished Gaussians of a fit bound to the body that was found in the images, in the pose they are in."""

from __future__ import annotations

from dataclasses import replace

import torch

from specularip.avatar import Avatar
from specularip.body.binding import smooth_bindings
from specularip.body.uncovered import with_expressions
from specularip.gaussians import Binding, Expressions, Gaussians
from specularip.motion.quaternions import from_matrices, multiply
from specularip.motion.skinning import joint_transforms
from specularip.registration.fit_body import FittedBody

LEAST_FACES = 2
"""Images in which the face must have been found for facial actions: a head that outlines alone have placed is
off by centimetres."""


def bound(avatar: Avatar, body: FittedBody) -> Avatar:
    """The avatar with skeleton, skinning weights and regions, and with facial actions where the face was
    found. Its Gaussians stay as they are; some thousand that facial actions uncover come after them."""
    standing = body.standing()
    cloud = avatar.gaussians
    joints, weights = smooth_bindings(cloud.means, cloud.diffuse, standing)
    cloud = replace(
        cloud, bind_joints=joints, bind_weights=weights, regions=standing.nearest_regions(cloud.means)
    )
    expressions = None
    if body.faces >= LEAST_FACES:
        cloud, expressions = _with_expressions(cloud, body)
    return replace(avatar, gaussians=cloud, binding=body.binding, expressions=expressions)


def _with_expressions(cloud: Gaussians, body: FittedBody) -> tuple[Gaussians, Expressions]:
    """`with_expressions` for Gaussians in the body's stance. They are looked at with the head as it is in the
    A-pose, and what is found is turned back with it."""
    rest = Binding(list(body.body.joint_names), list(body.body.joint_parents), body.body.joints)
    transform = joint_transforms(rest, body.stance)[body.body.joint_names.index("head")]
    rotation, shift = transform[:3, :3], transform[:3, 3]
    upright = replace(cloud, means=(cloud.means.detach() - shift) @ rotation)
    whole, expressions = with_expressions(upright, body.body)
    hidden = whole.select(torch.arange(len(cloud), len(whole)))
    hidden.means = hidden.means @ rotation.T + shift
    hidden.quats = multiply(from_matrices(rotation), hidden.quats)
    joined = {name: torch.cat([own.detach(), getattr(hidden, name)]) for name, own in cloud.tensors().items()}
    turned = expressions.offsets @ rotation.T
    return Gaussians(**joined), Expressions(expressions.names, expressions.index, turned.half().float())
