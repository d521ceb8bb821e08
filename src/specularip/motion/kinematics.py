"""Forward kinematics: where joints are when each turns relative to its parent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specularip.motion.quaternions import multiply, rotate


def forward_kinematics(
    parents: Sequence[int], joints: Tensor, rotations: Tensor, translation: Tensor
) -> tuple[Tensor, Tensor]:
    """Rotations relative to the parents [T,J,4] -> rotations in the world [T,J,4] and positions [T,J,3].

    joints [J,3]: positions at rest, where all frames are the world's; parents come before their children, the
    first joint is the root. translation [T,3] is added to the root's position.
    """
    turns, places = [rotations[:, 0]], [joints[0] + translation]
    for joint, parent in enumerate(parents[1:], 1):
        turns.append(multiply(turns[parent], rotations[:, joint]))
        places.append(places[parent] + rotate(turns[parent], joints[joint] - joints[parent]))
    return torch.stack(turns, 1), torch.stack(places, 1)
