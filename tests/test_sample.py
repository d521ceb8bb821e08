"""Sampling that is continued from kept latents."""

import pytest
import torch
from tiny_prior import compact_prior, make_condition

from specularip.diffusion.sample import sample, sampling_timesteps


def test_sampling_goes_on_from_every_step_to_the_same_bits(seed):
    prior = compact_prior()
    condition = make_condition(prior, [0.0, 120.0, 240.0], seed)

    def drawn(**options):
        generator = torch.Generator().manual_seed(seed)
        return sample(prior, condition, steps=4, scale=2.0, last=(20, 8), generator=generator, **options)

    kept = []
    whole = drawn(keep=lambda done, latents: kept.append((done, latents.clone())))
    total = len(sampling_timesteps(prior, 4, (20, 8)))
    assert [done for done, _ in kept] == list(range(1, total + 1)) and total >= 4
    for done, latents in kept:
        later = []
        # As a checkpoint holds them: of the plain memory layout.
        begun = (done, latents.contiguous())
        images = drawn(begun=begun, keep=lambda step, latents, later=later: later.append(step))
        assert torch.equal(images, whole) and later == list(range(done + 1, total + 1))
    with pytest.raises(ValueError, match="one batch"):
        drawn(batch=2, keep=lambda done, latents: None)
