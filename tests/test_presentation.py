"""Framing and turntables of finished avatars."""

import itertools

import numpy as np
import pytest
import torch

from specularip.avatar import Avatar
from specularip.cameras import FULL
from specularip.gaussians import Gaussians
from specularip.presentation import frame_subject, turntable

SEED = 20


def avatar(count: int) -> Avatar:
    generator = torch.Generator().manual_seed(SEED)
    randn = {
        name: torch.randn(count, size, generator=generator)
        for name, size in {"means": 3, "quats": 4, "log_scales": 3, "color_logits": 3, "latents": 8}.items()
    }
    randn["means"] *= 0.2
    randn["log_scales"] = -3 + 0.5 * randn["log_scales"]
    return Avatar(
        Gaussians(
            **randn,
            opacity_logits=torch.randn(count, generator=generator),
            normal_residuals=torch.zeros(count, 3),
            regions=torch.zeros(count, dtype=torch.int64),
            bind_joints=torch.zeros(count, 4, dtype=torch.int64),
            bind_weights=torch.zeros(count, 4),
        )
    )


def test_turntable_makes_one_turn():
    shots = list(turntable(avatar(200), frames=5, size=32))
    assert len(shots) == 5 and all(s.dtype == np.uint8 and s.shape == (32, 32, 3) for s in shots)
    assert all((a != b).any() for a, b in itertools.pairwise(shots))
    assert all((s != 153).any() for s in shots), "the avatar must be in the frame"
    with pytest.raises(ValueError, match="frames"):
        next(turntable(avatar(5), frames=0))


def test_framing_ignores_strays():
    means = torch.zeros(2000, 3)
    means[:, 2] = torch.linspace(-0.5, 1.3, 2000)
    distance, target = frame_subject(means)
    assert distance == pytest.approx(FULL.distance * 1.8, rel=0.01)
    assert target == (0.0, 0.0, pytest.approx(0.4, abs=1e-3))
    means[0, 2], means[-1, 2] = -50.0, 80.0
    assert frame_subject(means)[0] == pytest.approx(distance, rel=0.01)
    assert frame_subject(torch.zeros(1, 3))[0] > 0, "a flat subject still has a distance"
