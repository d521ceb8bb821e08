"""The compact prior's layout on disk: BERT, the convolutional autoencoder, known words, int8 weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_prior import compact_prior

from specularip.diffusion.conv_autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from specularip.diffusion.denoiser import DenoiserInputs, concatenated_pose
from specularip.diffusion.loading.folder import load_prior, save_prior
from specularip.diffusion.loading.weights import dequantise, quantise
from specularip.diffusion.prior import Prior
from specularip.errors import UserError

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")
AUTOENCODER = Path("autoencoder") / "model.safetensors"


@pytest.fixture(scope="module")
def prior(seed: int) -> Prior:
    return compact_prior(seed)


@pytest.fixture(scope="module")
def folder(prior: Prior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prior") / "int8"
    save_prior(prior, path, int8=True)
    return path


def test_round_trip(prior: Prior, tmp_path: Path) -> None:
    save_prior(prior, tmp_path / "p", torch.float32)
    loaded = load_prior(tmp_path / "p", dtype="float32")
    before, after = prior.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before), SEED
    assert loaded.vocabulary == prior.vocabulary
    assert isinstance(loaded.autoencoder, ConvAutoencoder)
    assert loaded.autoencoder.config == prior.autoencoder.config  # type: ignore[attr-defined]
    assert (loaded.image_channels, loaded.image_size, loaded.latent_size) == (5, 64, 8)
    assert (loaded.latent_channels, loaded.pose_channels, loaded.clip_sample) == (16, 4, False)
    assert loaded.denoiser.pose_scale == 2  # 2 x 2 pixels of the body map to one of the latents
    text = ["a woman in a red dress"]
    assert torch.allclose(prior.encode_text(text), loaded.encode_text(text), atol=1e-6), SEED


def test_int8_round_trip_is_within_half_a_step(prior: Prior, folder: Path) -> None:
    stored = load_file(str(folder / AUTOENCODER))
    assert {v.dtype for v in stored.values()} == {torch.int8, torch.float16}
    scales = {k: v for k, v in stored.items() if k.endswith(".scale")}
    assert scales and all(stored[k.removesuffix(".scale")].dtype == torch.int8 for k in scales)
    loaded = load_prior(folder, dtype="float32")
    before, after = prior.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        if not value.is_floating_point():
            assert torch.equal(value, after[key])
            continue
        step = value.flatten(1).abs().amax(1) / 127 if value.ndim > 1 else value.abs() / 512
        off = (after[key] - value).abs()
        off = off.flatten(1).amax(1) if value.ndim > 1 else off
        assert bool((off <= 0.55 * step + 1e-3 * value.abs().max()).all()), (SEED, key)
    text = ["a man in a blue shirt"]
    a, b = prior.encode_text(text), loaded.encode_text(text)
    assert torch.nn.functional.cosine_similarity(a, b, -1).amin() > 0.999 or not a[0, -1].any(), SEED


def test_quantising_handles_zero_tiny_and_huge_rows() -> None:
    rows = torch.randn(6, 4096, generator=torch.Generator().manual_seed(SEED))
    rows = rows * torch.tensor([0.0, 1e-9, 1e-4, 1.0, 1e3, 6e4])[:, None].clamp(max=1.2e4)
    state = quantise({"w": rows, "bias": rows[0], "small": rows[:2, :8]})
    assert state["w"].dtype == torch.int8 and state["w.scale"].shape == (6,)
    assert {"bias", "small"} <= state.keys() and "bias.scale" not in state
    back = dequantise(dict(state), Path("x"))
    assert set(back) == {"w", "bias", "small"}
    error = (back["w"].float() - rows).abs().amax(1)
    assert bool((error <= 0.55 * rows.abs().amax(1) / 127 + 1e-7).all()), (SEED, error)


@pytest.mark.parametrize("fault", ["length", "finite", "kind", "absent", "extra", "shape"])
def test_damaged_int8_weights_are_named_in_one_line(tmp_path: Path, folder: Path, fault: str) -> None:
    shutil.copytree(folder, tmp_path / "p")
    file = tmp_path / "p" / AUTOENCODER
    state = load_file(str(file))
    scale = next(key for key in sorted(state) if key.endswith(".scale"))
    key = scale.removesuffix(".scale")
    if fault == "length":
        state[scale] = state[scale][:-1].clone()
    elif fault == "finite":
        state[scale][0] = float("nan")
    elif fault == "kind":
        state[scale] = state[scale].to(torch.int8)
    elif fault == "absent":
        del state[scale]
    elif fault == "extra":
        scale = "surprise.scale"
        state[scale] = torch.ones(3)
    else:
        state[key], state[scale] = state[key][1:].clone(), state[scale][1:].clone()
    save_file(state, str(file))
    with pytest.raises(UserError) as error:
        load_prior(tmp_path / "p", dtype="float32")
    message = str(error.value)
    assert (key in message or scale in message) and str(file) in message and "\n" not in message, message


@pytest.mark.parametrize(
    ("part", "change", "named"),
    [
        ("autoencoder", {"latent_channels": 4}, "autoencoder"),
        ("autoencoder", {"surprise": 1}, "surprise"),
        ("autoencoder", {"_class_name": "AutoencoderKL"}, "AutoencoderKL"),
        ("text_encoder", {"architectures": ["T5Model"], "model_type": "t5"}, "T5Model"),
        ("text_encoder", {"hidden_size": 36}, "text_encoder"),
    ],
)
def test_configs_of_other_networks_are_refused(
    tmp_path: Path, folder: Path, part: str, change: dict[str, object], named: str
) -> None:
    shutil.copytree(folder, tmp_path / "p")
    path = tmp_path / "p" / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=named) as error:
        load_prior(tmp_path / "p", dtype="float32")
    assert "\n" not in str(error.value)


def test_missing_parts_are_named(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "p")
    (tmp_path / "p" / "known_words.txt").write_text("\n")
    with pytest.raises(UserError, match=r"known_words\.txt holds no words"):
        load_prior(tmp_path / "p", dtype="float32")
    shutil.rmtree(tmp_path / "p" / "autoencoder")
    with pytest.raises(UserError, match="lists autoencoder"):
        load_prior(tmp_path / "p", dtype="float32")


def test_channels_beyond_the_noisy_image_say_what_the_pose_is() -> None:
    layouts = {0: (0, 1), 3: (3, 1), 4: (4, 1), 16: (4, 2), 36: (4, 3)}
    assert {channels: concatenated_pose(channels) for channels in layouts} == layouts
    for channels in (-4, 1, 5, 8, 12):
        with pytest.raises(ValueError, match="more input than output channels"):
            concatenated_pose(channels)


def test_each_pixel_of_the_body_map_reaches_the_prediction(prior: Prior) -> None:
    """A map of twice the latents' side is not averaged down to it."""
    generator = torch.Generator().manual_seed(SEED)
    noisy, text = torch.randn(1, 16, 8, 8, generator=generator), prior.encode_text(["a man"])
    flat = torch.full((1, 4, 16, 16), 0.5)
    checked = flat + 0.5 * (torch.arange(16) % 2 * 2 - 1)
    out = [
        prior.predict_noise(DenoiserInputs(noisy, torch.tensor([500]), text, pose))
        for pose in (flat, checked)
    ]
    assert (out[0] - out[1]).abs().max() > 1e-3, SEED
    with pytest.raises(ValueError, match=r"pose must be \[B,4"):
        prior.predict_noise(DenoiserInputs(noisy, torch.tensor([500]), text, flat[:, :3]))


def test_padding_does_not_matter_and_is_zero(prior: Prior) -> None:
    ids = prior.tokenize(["a woman in a red dress"], "longest")
    short, long = prior.embed_tokens(ids), prior.encode_text(["a woman in a red dress"])
    count = ids.shape[1]
    assert long.shape == (1, prior.max_tokens, 24) and count < prior.max_tokens
    assert torch.allclose(short, long[:, :count], atol=1e-5), SEED
    assert not long[:, count:].any()


def test_every_size_divisible_by_8_is_encoded_and_decoded_differentiably() -> None:
    torch.manual_seed(SEED)
    autoencoder = ConvAutoencoder(ConvAutoencoderConfig(encoder_widths=(8, 16), decoder_widths=(8, 16)))
    for size in (8, 24, 64):
        images = torch.rand(2, 5, size, size, requires_grad=True)
        latents = autoencoder.encode(images)
        assert latents.shape == (2, 16, size // 8, size // 8)
        decoded = autoencoder.decode(latents)
        assert decoded.shape == images.shape
        assert 0 <= float(decoded.detach().min()) <= float(decoded.detach().max()) <= 1
        (gradient,) = torch.autograd.grad(decoded.sum(), images)
        assert gradient.isfinite().all() and gradient.any()


def test_latents_are_normalised(prior: Prior) -> None:
    autoencoder = ConvAutoencoder(ConvAutoencoderConfig(encoder_widths=(8, 16), decoder_widths=(8, 16)))
    images = torch.rand(16, 5, 32, 32, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        autoencoder.normalise(autoencoder.encoder(images * 2 - 1))
        latents = autoencoder.encode(images).movedim(1, 0).flatten(1)
        raw = autoencoder.decoder(autoencoder.encoder(images * 2 - 1)) * 0.5 + 0.5
        assert torch.allclose(autoencoder.decode(autoencoder.encode(images)), raw.clamp(0, 1), atol=1e-4)
    assert torch.allclose(latents.mean(1), torch.zeros(16), atol=1e-3), SEED
    assert torch.allclose(latents.std(1), torch.ones(16), atol=1e-3), SEED
