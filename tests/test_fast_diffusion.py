"""The fast networks against diffusers' own, and each fused step against its definition."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_prior import latent_prior, pixel_prior
from torch import Tensor

from specularip.diffusion import fused
from specularip.diffusion.attention import KeyViews
from specularip.diffusion.fast import FastPrior, accelerate, supports
from specularip.diffusion.fast_layers import EntryConvolution, Upsampling, convolve, mirrored
from specularip.diffusion.fast_vae import Downsampling
from specularip.diffusion.fused import Features, Part
from specularip.diffusion.prior import Prior


def relative(value: Tensor, truth: Tensor) -> float:
    """Distance over the truth's norm; a value that is not finite is far away."""
    error = float((value.double() - truth.double()).norm() / truth.double().norm())
    return error if error == error else float("inf")


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prior, FastPrior]:
    """The same random prior, plain and fast. Norms get weights: fresh ones hide a forgotten factor."""
    folder: Path = tmp_path_factory.mktemp("prior")
    plain = latent_prior(folder)
    generator = torch.Generator().manual_seed(5)
    for parameter in plain.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return plain, accelerate(copy.deepcopy(plain))


def branches(prior: Prior, views: int, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of `model_output` for `count` branches of `views` views, nothing repeated."""
    g = torch.Generator().manual_seed(seed)
    size, total = prior.image_size, views * count
    return {
        "noisy": torch.randn(views, 4, prior.latent_size, prior.latent_size, generator=g),
        "timesteps": torch.randint(0, 1000, (views,), generator=g),
        "text": torch.randn(total, 7, 24, generator=g),
        "pose": torch.rand(views, 3, size, size, generator=g),
        "identity": torch.randn(total, 4, 24, generator=g),
        "identity_scale": torch.rand(total, generator=g),
    }


def repeated(inputs: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    shared = {k: torch.cat([inputs[k]] * count) for k in ("noisy", "timesteps", "pose")}
    return {**inputs, **shared}


def test_accelerate_refuses_other_shapes() -> None:
    prior = pixel_prior()
    assert not supports(prior)
    with pytest.raises(ValueError, match="Stable Diffusion"):
        accelerate(prior)


def test_encode_and_its_gradient(priors: tuple[Prior, FastPrior]) -> None:
    plain, fast = priors
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    results = []
    for prior in (plain, fast):
        leaf = images.clone().requires_grad_()
        latents = prior.encode_image(leaf)
        (grad,) = torch.autograd.grad(latents, leaf, weight)
        results.append((latents.detach(), grad))
    assert relative(results[1][0], results[0][0]) < 1e-5
    assert relative(results[1][1], results[0][1]) < 1e-5


@pytest.mark.parametrize("factor", [1e-12, 1e9])
def test_gradient_survives_its_scale(priors: tuple[Prior, FastPrior], factor: float) -> None:
    """The backward pass is linear: half precision in between must not show, whatever the loss's scale."""
    _, fast = priors
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weight = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    (one,) = torch.autograd.grad(fast.encode_image(images), images, weight)
    (other,) = torch.autograd.grad(fast.encode_image(images), images, weight * factor)
    assert relative(other / factor, one) < 1e-5


def test_larger_images(priors: tuple[Prior, FastPrior]) -> None:
    plain, fast = priors
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    latents = plain.encode_image(images, 32)
    assert relative(fast.encode_image(images, 32), latents) < 1e-5
    assert relative(fast.decode(latents), plain.decode(latents)) < 1e-5


def test_decode(priors: tuple[Prior, FastPrior]) -> None:
    plain, fast = priors
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert relative(fast.decode(latents), plain.decode(latents)) < 1e-5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_branches_share_without_changing_the_answer(priors: tuple[Prior, FastPrior], count: int) -> None:
    plain, fast = priors
    inputs = branches(plain, 2, count)
    with torch.no_grad():
        truth = plain.model_output(**repeated(inputs, count))
        assert relative(fast.model_output(**inputs), truth) < 1e-5
        assert relative(fast.model_output(**repeated(inputs, count)), truth) < 1e-5


def test_without_face_or_words_of_it(priors: tuple[Prior, FastPrior]) -> None:
    plain, fast = priors
    inputs = {k: v for k, v in branches(plain, 2, 1).items() if not k.startswith("identity")}
    with torch.no_grad():
        assert relative(fast.model_output(**inputs), plain.model_output(**inputs)) < 1e-5


def test_key_views(priors: tuple[Prior, FastPrior]) -> None:
    plain, fast = priors
    outcomes = []
    for prior in (plain, fast):
        store: dict[str, tuple[Tensor, Tensor]] = {}
        with torch.no_grad():
            keys = repeated(branches(plain, 3, 2), 2)
            prior.model_output(**keys, key_views=KeyViews(2, record=True, store=store))
            look = KeyViews(
                2, neighbours=torch.tensor([[0, 1], [2, 0]]), weights=torch.tensor([[0.3, 0.15], [0.2, 0.25]]),
                store=store,
            )  # fmt: skip
            outcomes.append(prior.model_output(**repeated(branches(plain, 2, 2, 3), 2), key_views=look))
    assert relative(outcomes[1], outcomes[0]) < 1e-5


def test_gradients_through_the_denoiser_still_work(priors: tuple[Prior, FastPrior]) -> None:
    _, fast = priors
    inputs = branches(fast, 1, 1)
    inputs["noisy"].requires_grad_()
    fast.model_output(**inputs).sum().backward()
    assert inputs["noisy"].grad is not None


# The steps between convolutions


def features(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 5, 6, 24, generator=g, dtype=torch.float64).float() + 0.5
    return x, torch.randn(24, generator=g), torch.randn(24, generator=g), torch.randn(2, 24, generator=g)


def test_group_norm_with_a_shift_never_written() -> None:
    x, weight, bias, shift = features()
    leaf = (x + shift.repeat(2, 1)[:, None, None]).requires_grad_()
    truth = F.silu(F.group_norm(leaf.permute(0, 3, 1, 2), 6, weight, bias, 1e-5)).permute(0, 2, 3, 1)
    norm = fused.coefficients(Features(x), weight, bias, 6, 1e-5, shift)
    assert relative(fused.normalize(x, norm), truth) < 1e-5
    grad, residual = torch.randn_like(x), torch.randn_like(x)
    (wanted,) = torch.autograd.grad(truth, leaf, grad)
    got = fused.normalize_backward(x, grad, norm, residual=residual)
    assert relative(got, wanted + residual) < 1e-5


def test_join_adds_and_concatenates() -> None:
    x, weight, _, _ = features()
    other = torch.randn(2, 5, 6, 24)
    joined = fused.join([Part(x, other, weight), Part(other[..., :8])])
    truth = torch.cat([x + other.repeat(2, 1, 1, 1) + weight, other[..., :8].repeat(2, 1, 1, 1)], -1)
    assert relative(joined.x, truth) < 1e-6
    assert joined.sums is not None
    wanted = torch.stack([truth.sum((1, 2)), truth.square().sum((1, 2))], 1)
    assert relative(joined.sums.sum(1), wanted) < 1e-5


def test_mirrored_convolution_is_the_gradient() -> None:
    x = torch.randn(2, 6, 5, 8, requires_grad=True)
    weight = torch.randn(16, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    out = convolve(x, weight)
    grad = torch.randn_like(out)
    assert relative(convolve(grad, mirrored(weight)), torch.autograd.grad(out, x, grad)[0]) < 1e-5


def test_downsampling_and_its_gradient() -> None:
    conv = torch.nn.Conv2d(8, 8, 3, stride=2).requires_grad_(False)
    x = torch.randn(2, 8, 6, 8, requires_grad=True)
    truth = conv(F.pad(x.permute(0, 3, 1, 2), (0, 1, 0, 1))).permute(0, 2, 3, 1)
    grad = torch.randn_like(truth)
    fast = Downsampling(conv)
    assert relative(fast(Features(x.detach())).x, truth) < 1e-5
    assert relative(fast.backward(grad, (fast,)), torch.autograd.grad(truth, x, grad)[0]) < 1e-5


def test_upsampling() -> None:
    conv = torch.nn.Conv2d(8, 16, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 8, 5, 7)
    truth = conv(F.interpolate(x, scale_factor=2.0, mode="nearest")).permute(0, 2, 3, 1)
    assert relative(Upsampling(conv)(x.permute(0, 2, 3, 1).contiguous()), truth) < 1e-5


def test_entry_convolution_hides_its_bias() -> None:
    conv = torch.nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 3, 5, 7)
    assert relative(EntryConvolution(conv)(x), conv(x).permute(0, 2, 3, 1)) < 1e-5
