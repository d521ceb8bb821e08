"""The perceptual losses against what they claim."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_prior import latent_prior, pixel_prior
from torch import Tensor

from specularip import losses
from specularip.diffusion.denoiser import DenoiserInputs
from specularip.errors import UserError
from specularip.losses import Lpips, Perceptual

SEED = int.from_bytes(os.urandom(4))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


@pytest.fixture(autouse=True)
def no_weights_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(losses.LPIPS_VARIABLE, raising=False)
    monkeypatch.setattr(losses, "LPIPS_FOLDER", tmp_path / "absent")


def vgg_state(generator: torch.Generator) -> dict[str, Tensor]:
    state, channels = {}, 3
    for k, (group, width) in enumerate(zip(losses.VGG_CONVOLUTIONS, (64, 128, 256, 512, 512))):
        for n in group:
            spread = (2 / (9 * channels)) ** 0.5
            state[f"features.{n}.weight"] = spread * torch.randn(width, channels, 3, 3, generator=generator)
            state[f"features.{n}.bias"] = 0.1 * torch.randn(width, generator=generator)
            channels = width
        state[f"lin{k}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return state


def test_unet_features_are_those_of_the_whole_unet(generator: torch.Generator) -> None:
    """The early exit must see what the UNet's own forward computes in those blocks."""
    prior = pixel_prior(SEED)
    images = torch.rand(2, 4, 16, 16, generator=generator)
    seen: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: tuple, output: tuple) -> None:
        states = output[1]
        seen.append(states[-2] if module.downsamplers is not None else states[-1])  # type: ignore[attr-defined]

    handles = [block.register_forward_hook(keep) for block in prior.denoiser.unet.down_blocks]
    t = torch.full((2,), losses.UNET_TIMESTEP)
    x = prior.alphas(t).sqrt() * prior.encode_image(images)
    prior.denoiser(DenoiserInputs(x, t, prior.encode_text(["", ""]), torch.zeros(2, 3, 16, 16)))
    for handle in handles:
        handle.remove()
    found = Perceptual.load(prior).features(images)
    assert len(found) == losses.UNET_BLOCKS == len(seen)
    for ours, theirs in zip(found, seen):
        expected = theirs / theirs.norm(dim=1, keepdim=True)
        assert torch.allclose(ours, expected, atol=1e-4), SEED


def test_unet_distance_grows_and_pulls(generator: torch.Generator) -> None:
    prior = pixel_prior(SEED)
    perceptual = Perceptual.load(prior)
    assert perceptual.name == "unet-features"
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


def test_latent_priors_have_features_too(generator: torch.Generator, tmp_path: Path) -> None:
    prior = latent_prior(tmp_path, SEED)
    image = torch.rand(1, 4, 16, 16, generator=generator, requires_grad=True)  # alpha is left aside
    found = Perceptual.load(prior).features(image)
    assert found[0].shape == (1, 8, 8, 8)
    found[0].square().sum().backward()
    assert image.grad is not None and torch.isfinite(image.grad).all()


def test_unet_features_need_alpha_where_the_prior_has_it() -> None:
    with pytest.raises(ValueError, match="4"):
        Perceptual.load(pixel_prior()).features(torch.rand(1, 3, 16, 16))


def test_lpips_is_its_published_formula(
    generator: torch.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = vgg_state(generator)
    save_file({k: v for k, v in state.items() if k.startswith("features")}, tmp_path / "vgg16.safetensors")
    torch.save({k: v for k, v in state.items() if k.startswith("lin")}, tmp_path / "vgg.pth")
    monkeypatch.setenv(losses.LPIPS_VARIABLE, str(tmp_path))
    lpips = Perceptual.load(pixel_prior())
    assert isinstance(lpips, Lpips) and lpips.name == "lpips-vgg"

    layers: list[torch.nn.Module] = []
    cuts = []
    for k, group in enumerate(losses.VGG_CONVOLUTIONS):
        layers += [torch.nn.MaxPool2d(2)] * (k > 0)
        for n in group:
            weight = state[f"features.{n}.weight"]
            assert len(layers) == n
            conv = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            conv.load_state_dict({"weight": weight, "bias": state[f"features.{n}.bias"]})
            layers += [conv, torch.nn.ReLU()]
        cuts.append(len(layers))
    vgg = torch.nn.Sequential(*layers)
    a, b = torch.rand(2, 2, 3, 32, 32, generator=generator)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    expected = 0.0
    with torch.no_grad():
        for k, cut in enumerate(cuts):
            fa, fb = (vgg[:cut]((2 * x - 1 - shift[:, None, None]) / scale[:, None, None]) for x in (a, b))
            fa, fb = (f / (f.norm(dim=1, keepdim=True) + 1e-10) for f in (fa, fb))
            expected += float((state[f"lin{k}.model.1.weight"] * (fa - fb) ** 2).sum(1).mean())
        alpha = torch.rand(2, 1, 32, 32, generator=generator)
        found = float(lpips.distance(lpips.features(torch.cat([a, alpha], 1)), lpips.features(b)))
    assert found == pytest.approx(expected, rel=1e-3), SEED


def test_broken_lpips_folders_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = pixel_prior()
    monkeypatch.setenv(losses.LPIPS_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"features\.0\.weight"):
        Perceptual.load(prior)
    monkeypatch.setenv(losses.LPIPS_VARIABLE, str(tmp_path))
    save_file({"features.0.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "vgg16.safetensors")
    with pytest.raises(UserError, match="not"):
        Perceptual.load(prior)
    (tmp_path / "vgg16.safetensors").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"vgg16\.safetensors"):
        Perceptual.load(prior)
    (tmp_path / "vgg16.safetensors").unlink()
    torch.save({"model": prior.denoiser.unet}, tmp_path / "vgg16.pth")  # a pickled module, not tensors
    with pytest.raises(UserError, match="plain state dict"):
        Perceptual.load(prior)
