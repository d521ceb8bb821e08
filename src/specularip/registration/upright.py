"""Which way is up in a file of another program: the way in which a face is found.

Files of 3D Gaussians name no axes: y down and z up are both common, and few bodies say by their shape alone
whether they stand on their feet. A rendered face does.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from specularip.avatar import Avatar
from specularip.cameras import Cameras
from specularip.colors import Asgs
from specularip.export.placing import placed
from specularip.faces.detection import detect
from specularip.faces.landmarks import SURE, read_landmarks
from specularip.files import to_uint8
from specularip.framing import extremes
from specularip.placement import Placement

AXES = ((0, 0, 1), (0, -1, 0), (0, 1, 0), (0, 0, -1), (1, 0, 0), (-1, 0, 0))
"""Directions that may be up, the usual ones first."""
HEADINGS_DEG = tuple(range(0, 360, 30))
PARTS = ((0.92, 0.2), (0.84, 0.22), (0.76, 0.22))
"""Where the face may be: the middle of the picture and its height, as shares of the body's height. A raised
arm or a hat is above the head."""
SIZE = 192
CANDIDATES = 2
"""Squares of the detector that the mesh looks at, in each picture."""
LEAST_TALL = 0.6
"""Extent along the vertical, relative to the largest: a person with spread arms is about as wide as high."""


def moved(avatar: Avatar, placement: Placement) -> Avatar:
    """An avatar of harmonics or Spherical Betas, moved; without its skeleton."""
    assert not isinstance(avatar.colors, Asgs)
    gaussians, colors = placed(avatar.gaussians, avatar.colors, placement)
    return Avatar(gaussians, colors=colors, antialiased=avatar.antialiased)


def upright(avatar: Avatar) -> tuple[Tensor, bool]:
    """The rotation [3,3] that turns the avatar so that z is up, and whether a face says so.

    Without a face, the first of AXES along which the avatar is tall is taken as up.
    """
    low, high = extremes(avatar.gaussians.means.detach())
    extent = high - low
    tall = [axis for axis in AXES if float(extent[_number(axis)]) > LEAST_TALL * float(extent.max())]
    best, score = _turn_up(tall[0]), float(SURE)
    for axis in tall:
        turn = _turn_up(axis)
        found = _face_score(moved(avatar, Placement(1.0, turn, torch.zeros(3))))
        if found > score:
            best, score = turn, found
    return best, score > SURE


def _number(axis: tuple[int, int, int]) -> int:
    return int(np.abs(axis).argmax())


def _turn_up(axis: tuple[int, int, int]) -> Tensor:
    """A rotation [3,3] that takes `axis` to z."""
    up = torch.tensor(axis, dtype=torch.float32)
    side = torch.roll(up.abs(), 1)
    return torch.stack([side, torch.linalg.cross(up, side), up])


def _face_score(avatar: Avatar) -> float:
    """The best score of the face mesh (`faces.landmarks`) in pictures of the upper body from all sides."""
    low, high = extremes(avatar.gaussians.means)
    height, middle = float(high[2] - low[2]), (low + high) / 2
    best = -np.inf
    prepared = avatar.prepare()
    for level, share in PARTS:
        target = (float(middle[0]), float(middle[1]), float(low[2]) + level * height)
        for heading in HEADINGS_DEG:
            # Narrow, so that perspective does not turn the head.
            camera = Cameras.orbit(heading, 0.0, 4 * share * height, 14.25, SIZE, SIZE, target)
            image = to_uint8(prepared.image(camera, 0.5)[0])
            squares = sorted(detect(Image.fromarray(image), 1, 0.0), key=lambda found: -found[1])
            for square, _ in squares[:CANDIDATES]:
                best = max(best, read_landmarks(image, square).score)
        if best > SURE:
            break
    return float(best)
