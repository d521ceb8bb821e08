"""The perceptual loss on features of the prior's UNet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_prior import latent_prior, pixel_prior
from torch import Tensor

from specularip.diffusion.conv_autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from specularip.diffusion.denoiser import DenoiserInputs
from specularip.stages.perceptual import (
    UNET_BLOCKS,
    UNET_TIMESTEP,
    EncoderFeatures,
    UnetFeatures,
    perceptual_loss,
)

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed", "no_installed_lpips")


def test_unet_features_match_the_full_forward_pass(generator: torch.Generator) -> None:
    """In the blocks that are evaluated."""
    prior = pixel_prior(SEED)
    images = torch.rand(2, 4, 16, 16, generator=generator)
    seen: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: tuple, output: tuple) -> None:
        states = output[1]
        seen.append(states[-2] if module.downsamplers is not None else states[-1])  # type: ignore[attr-defined]

    handles = [block.register_forward_hook(keep) for block in prior.denoiser.unet.down_blocks]
    t = torch.full((2,), UNET_TIMESTEP)
    x = prior.alphas(t).sqrt() * prior.encode_image(images)
    prior.denoiser(DenoiserInputs(x, t, prior.encode_text(["", ""]), torch.zeros(2, 3, 16, 16)))
    for handle in handles:
        handle.remove()
    found = perceptual_loss(prior).features(images)
    assert len(found) == UNET_BLOCKS == len(seen)
    for ours, theirs in zip(found, seen):
        expected = theirs / theirs.norm(dim=1, keepdim=True)
        assert torch.allclose(ours, expected, atol=1e-4), SEED


def test_unet_distance_grows_with_the_error_and_has_gradients(generator: torch.Generator) -> None:
    prior = pixel_prior(SEED)
    perceptual = perceptual_loss(prior)
    assert isinstance(perceptual, UnetFeatures) and perceptual.name == "unet-features"
    target = torch.rand(2, 4, 16, 16, generator=generator)
    wanted = [f.detach() for f in perceptual.features(target)]
    change = torch.randn(target.shape, generator=generator)
    near, far = (perceptual.distance(perceptual.features(target + s * change), wanted) for s in (0.02, 0.2))
    assert 0 < float(near) < float(far), SEED
    assert float(perceptual.distance(wanted, wanted)) == 0

    image = (target + 0.1 * change).requires_grad_()
    loss = perceptual.distance(perceptual.features(image), wanted)
    (gradient,) = torch.autograd.grad(loss, image)
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        down, up = (perceptual.distance(perceptual.features(image + s * step), wanted) for s in (-1, 1))
    slope = float(up - down) / 2e-3
    assert slope == pytest.approx(float(gradient.norm()), rel=0.05), SEED
    assert all(p.grad is None for p in prior.parameters())


def test_features_of_latent_priors(generator: torch.Generator, tmp_path: Path) -> None:
    prior = latent_prior(tmp_path, SEED)
    image = torch.rand(1, 4, 16, 16, generator=generator, requires_grad=True)  # alpha is ignored
    found = perceptual_loss(prior).features(image)
    assert found[0].shape == (1, 8, 8, 8)
    found[0].square().sum().backward()
    assert image.grad is not None and torch.isfinite(image.grad).all()


def test_unet_features_need_alpha_if_the_prior_has_it() -> None:
    with pytest.raises(ValueError, match="4"):
        perceptual_loss(pixel_prior()).features(torch.rand(1, 3, 16, 16))


def test_encoder_features_take_cropped_images(generator: torch.Generator) -> None:
    """Of any size: the encoder folds blocks of pixels, which the last row and column complete."""
    perceptual = EncoderFeatures(ConvAutoencoder(ConvAutoencoderConfig()))
    images = torch.rand(2, 4, 38, 41, generator=generator)
    repeated = torch.cat([images, images[..., -1:].expand(-1, -1, -1, 3)], -1)
    whole = torch.cat([repeated, repeated[:, :, -1:].expand(-1, -1, 2, -1)], 2)
    for feature, expected in zip(perceptual.features(images), perceptual.features(whole)):
        assert feature.shape[2:] == (10, 11) and torch.equal(feature, expected)
