"""The finished Gaussians made ready to move: skinning weights and facial actions."""

from __future__ import annotations

from dataclasses import replace

from specularip.body import Body
from specularip.body.binding import smooth_bindings
from specularip.body.uncovered import with_expressions
from specularip.gaussians import Expressions, Gaussians


def rigged(gaussians: Gaussians, body: Body) -> tuple[Gaussians, Expressions | None]:
    """The Gaussians with smooth skinning weights and their facial actions, and after them some thousand that
    these uncover. Without facial actions, and without more Gaussians, for other bodies than Anny."""
    joints, weights = smooth_bindings(gaussians.means, gaussians.diffuse, body)
    bound = replace(gaussians, bind_joints=joints, bind_weights=weights)
    return (bound, None) if body.template is None else with_expressions(bound, body)
