"""Exposures that differ between images are found and compensated; equal ones are left alone."""

import pytest
import torch

from specularip.captures.exposure import exposed, matching_gains
from specularip.fitting.exposure import differ, estimated_gains
from specularip.fitting.observations import Observations

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")


def observations(gains: torch.Tensor, generator: torch.Generator) -> Observations:
    """Of 400 points, a tenth of them in highlights; each image shows two thirds."""
    views = len(gains)
    points = 0.1 + 0.6 * torch.rand(400, 3, generator=generator)
    colors = points * gains.exp()[:, None]
    colors[torch.rand(views, 400, generator=generator) < 0.1] += 0.5
    seen = torch.rand(views, 400, generator=generator) < 0.67
    return Observations(colors.clamp_max(1).half(), seen)


def test_gains_are_read_from_points_that_several_images_show():
    generator = torch.Generator().manual_seed(SEED)
    gains = 0.15 * torch.randn(12, 3, generator=generator)
    gains -= gains.mean(0)
    found = estimated_gains(observations(gains, generator))
    assert (found - gains).abs().max() < 0.03, SEED
    assert differ(found)
    alike = estimated_gains(observations(torch.zeros(12, 3), generator))
    assert alike.abs().max() < 0.01 and not differ(alike), SEED
    unseen = observations(gains, generator)
    unseen.seen[:] = False
    assert not estimated_gains(unseen).any()
    assert not differ(estimated_gains(observations(gains[:1], generator)))


def test_matching_gains_ignore_clipped_pixels():
    generator = torch.Generator().manual_seed(SEED)
    image, gains = torch.rand(9, 7, 3, generator=generator), torch.tensor([0.3, -0.2, 0.0])
    assert torch.allclose(matching_gains(image, exposed(image, gains)), gains, atol=1e-5), SEED
    assert not matching_gains(torch.zeros(4, 4, 3), image[:4, :4]).any(), "no light, no gain"
