"""Framing and turntables of finished avatars."""

import itertools

import numpy as np
import pytest
from avatars import random_avatar

from specularip.presentation import turntable


def test_turntable_makes_one_turn(seed):
    shots = list(turntable(random_avatar(with_head=False), frames=5, size=32))
    assert len(shots) == 5 and all(s.dtype == np.uint8 and s.shape == (32, 32, 3) for s in shots)
    assert all((a != b).any() for a, b in itertools.pairwise(shots)), seed
    assert all((s != 153).any() for s in shots), "the avatar must be in the frame"
    with pytest.raises(ValueError, match="frames"):
        next(turntable(random_avatar(with_head=False), frames=0))
