"""Framing and turntables of finished avatars."""

import itertools

import numpy as np
import pytest
import torch
from avatars import random_avatar

from specularip.cameras import FULL
from specularip.presentation import frame_subject, turntable


def test_turntable_makes_one_turn(seed):
    shots = list(turntable(random_avatar(with_head=False), frames=5, size=32))
    assert len(shots) == 5 and all(s.dtype == np.uint8 and s.shape == (32, 32, 3) for s in shots)
    assert all((a != b).any() for a, b in itertools.pairwise(shots)), seed
    assert all((s != 153).any() for s in shots), "the avatar must be in the frame"
    with pytest.raises(ValueError, match="frames"):
        next(turntable(random_avatar(with_head=False), frames=0))


def test_framing_ignores_strays():
    means = torch.zeros(2000, 3)
    means[:, 2] = torch.linspace(-0.5, 1.3, 2000)
    distance, target = frame_subject(means)
    assert distance == pytest.approx(FULL.distance * 1.8, rel=0.01)
    assert target == (0.0, 0.0, pytest.approx(0.4, abs=1e-3))
    means[0, 2], means[-1, 2] = -50.0, 80.0
    assert frame_subject(means)[0] == pytest.approx(distance, rel=0.01)
    assert frame_subject(torch.zeros(1, 3))[0] > 0, "a flat subject still has a distance"
