"""The prior: its folder on disk, its conditioning, its noise schedule."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_prior import latent_prior, pixel_prior

from specularip.diffusion.attention import identity_layers
from specularip.diffusion.denoiser import DenoiserInputs
from specularip.diffusion.loading.folder import load_prior, save_prior
from specularip.diffusion.loading.weights import pick_dtype
from specularip.diffusion.prior import Prior
from specularip.diffusion.resizing import resize
from specularip.errors import UserError

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture(scope="module", params=["pixel", "latent"])
def prior(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, seed: int) -> Prior:
    if request.param == "pixel":
        return pixel_prior(seed)
    return latent_prior(tmp_path_factory.mktemp("latent"), seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    path = tmp_path_factory.mktemp("prior") / "saved"
    save_prior(pixel_prior(seed), path)
    return path


def inputs(prior: Prior, count: int = 3) -> DenoiserInputs:
    generator = torch.Generator().manual_seed(SEED)
    latent, image = prior.latent_size, prior.image_size
    return DenoiserInputs(
        noisy=torch.randn(count, prior.latent_channels, latent, latent, generator=generator),
        timesteps=torch.randint(0, 1000, (count,), generator=generator),
        text=prior.encode_text(["a woman in a red dress", "a man", ""][:count]),
        pose=torch.rand(count, 3, image, image, generator=generator),
        identity=prior.identity_tokens(prior.encode_face(torch.rand(count, 3, 40, 30, generator=generator))),
    )


def test_save_and_load_round_trip(prior: Prior, tmp_path: Path) -> None:
    save_prior(prior, tmp_path / "prior", torch.float32)
    loaded = load_prior(tmp_path / "prior", dtype="float32")
    before, after = prior.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before), SEED
    a, b = prior.predict_noise(inputs(prior)), loaded.predict_noise(inputs(loaded))
    assert torch.allclose(a, b, atol=1e-4), (SEED, float((a - b).abs().max()))
    assert (loaded.image_size, loaded.image_channels) == (prior.image_size, prior.image_channels)
    assert loaded.face_mean == prior.face_mean
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_saving_replaces_only_priors(tmp_path: Path) -> None:
    prior = pixel_prior(SEED)
    (tmp_path / "home").mkdir()
    save_prior(prior, tmp_path / "home")
    save_prior(prior, tmp_path / "home")
    (tmp_path / "home" / "model_index.json").unlink()
    for name in ("home", "home/unet/config.json"):
        with pytest.raises(UserError, match="not replaced"):
            save_prior(prior, tmp_path / name)
    assert (tmp_path / "home" / "unet" / "config.json").is_file()


def test_saved_weights_are_float16_safetensors_with_published_names(folder: Path) -> None:
    state = load_file(str(folder / "ip_adapter" / "ip_adapter.safetensors"))
    assert {v.dtype for v in state.values()} == {torch.float16}
    assert "image_proj.proj.weight" in state and "ip_adapter.1.to_k_ip.weight" in state
    unet = load_file(str(folder / "unet" / "diffusion_pytorch_model.safetensors"))
    assert not any("processor" in k for k in unet)
    assert not list(folder.rglob("*.bin"))


def test_identity_layers_are_numbered_as_published(prior: Prior) -> None:
    count = len(prior.denoiser.unet.attn_processors)
    assert list(identity_layers(prior.denoiser.unet)) == [f"ip_adapter.{i}" for i in range(1, count, 2)]


def test_adapter_bin_of_two_dicts_is_read(tmp_path: Path) -> None:
    prior = pixel_prior(SEED)
    save_prior(prior, tmp_path / "p", torch.float32)
    file = tmp_path / "p" / "ip_adapter" / "ip_adapter.safetensors"
    nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in load_file(str(file)).items():
        group, name = key.split(".", 1)
        nested[group][name] = value
    torch.save(nested, file.with_suffix(".bin"))
    file.unlink()
    loaded = load_prior(tmp_path / "p", dtype="float32")
    before, after = prior.state_dict(), loaded.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before), SEED


@pytest.mark.parametrize("part", ["unet", "text_encoder", "image_encoder", "ip_adapter"])
@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_errors_name_the_wrong_key_and_its_file(tmp_path: Path, folder: Path, part: str, fault: str) -> None:
    copy = tmp_path / "p"
    shutil.copytree(folder, copy)
    file = next((copy / part).glob("*.safetensors"))
    state = load_file(str(file))
    key = sorted(k for k, v in state.items() if v.ndim == 2)[-1]
    if fault == "missing":
        del state[key]
    elif fault == "shape":
        state[key] = state[key][:-1].contiguous()
    else:
        key = "surprise.weight"
        state[key] = torch.zeros(1)
    save_file(state, str(file), metadata={"format": "pt"})
    with pytest.raises(UserError) as error:
        load_prior(copy, dtype="float32")
    message = str(error.value)
    assert key in message and str(file) in message and "\n" not in message, message


def test_pickles_truncated_files_and_missing_parts_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="no prior folder"):
        load_prior(tmp_path / "nowhere", dtype="float32")
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(UserError, match="is a file"):
        load_prior(tmp_path / "model.ckpt", dtype="float32")
    shutil.copytree(folder, tmp_path / "p")
    file = tmp_path / "p" / "unet" / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="not a complete safetensors file"):
        load_prior(tmp_path / "p", dtype="float32")
    file.unlink()
    torch.save({}, file.with_suffix(".ckpt"))
    with pytest.raises(UserError, match=r"pickle.*convert"):
        load_prior(tmp_path / "p", dtype="float32")
    file.with_suffix(".ckpt").unlink()
    file.write_bytes(content)
    index = json.loads((tmp_path / "p" / "model_index.json").read_text())
    (tmp_path / "p" / "model_index.json").write_text(
        json.dumps(index | {"vae": ["diffusers", "AutoencoderKL"]})
    )
    with pytest.raises(UserError, match="vae"):
        load_prior(tmp_path / "p", dtype="float32")
    (tmp_path / "p" / "model_index.json").unlink()
    with pytest.raises(UserError, match=r"model_index\.json"):
        load_prior(tmp_path / "p", dtype="float32")


def test_identity_scale_is_per_sample_and_zero_means_no_identity(prior: Prior) -> None:
    given = inputs(prior)
    identity, scale = given.identity, torch.tensor([0.0, 0.5, 1.0])
    without = prior.predict_noise(replace(given, identity=None))
    scaled = prior.predict_noise(replace(given, identity_scale=scale))
    change = (scaled - without).flatten(1).abs().amax(1)
    assert change[0] < 1e-5 and change[1] > 1e-4 and change[2] > 1e-4, (SEED, change)
    assert identity is not None and isinstance(given.pose, torch.Tensor)
    tensors = (given.noisy, given.timesteps, given.text, given.pose, identity, scale)
    one = prior.predict_noise(DenoiserInputs(*(tensor[1:2] for tensor in tensors)))
    assert torch.allclose(one, scaled[1:2], atol=1e-5), SEED


@pytest.mark.parametrize("name", ["text", "pose", "timesteps", "identity"])
def test_every_condition_reaches_the_prediction(prior: Prior, name: str) -> None:
    given = inputs(prior)
    value = getattr(given, name)
    value = (value + 300) % 1000 if name == "timesteps" else value.flip(0)
    a, b = prior.predict_noise(given), prior.predict_noise(replace(given, **{name: value}))
    assert (a - b)[0].abs().max() > 1e-5, (name, SEED)


def test_errors_name_a_missing_pose_and_wrong_channels(prior: Prior) -> None:
    given = inputs(prior)
    with pytest.raises(ValueError, match=r"pose must be \[B,3"):
        prior.predict_noise(replace(given, pose=None))
    with pytest.raises(ValueError, match="images must be"):
        prior.encode_image(torch.rand(1, 2, prior.image_size, prior.image_size))


def test_v_prediction_and_epsilon_agree() -> None:
    """The same network read as v gives √ᾱ·out + √(1−ᾱ)·x, and x₀ = √ᾱ·x − √(1−ᾱ)·out."""
    v, eps = pixel_prior(SEED), pixel_prior(SEED, prediction_type="epsilon")
    given = inputs(v)
    out = eps.predict_noise(given)
    alpha = v.alphas(given.timesteps).double()
    noise = v.predict_noise(given)
    wanted = alpha.sqrt() * out + (1 - alpha).sqrt() * given.noisy
    assert torch.allclose(noise.double(), wanted, atol=1e-5), SEED
    x0 = alpha.sqrt() * given.noisy - (1 - alpha).sqrt() * out
    found = v.predict_x0(given.noisy, noise, given.timesteps)
    assert torch.allclose(found.double(), x0.clamp(-1, 1), atol=1e-4), SEED
    assert x0.abs().max() > 1, "the clamp was not exercised"


def test_ddim_agrees_with_diffusers() -> None:
    prior = pixel_prior(SEED, prediction_type="epsilon")
    generator = torch.Generator().manual_seed(SEED)
    noisy, noise = torch.randn(2, 2, 4, 16, 16, generator=generator)
    times = prior.ddim_timesteps(20)
    step = prior.ddim_step(noisy, noise, int(times[3]), int(times[4]))
    wanted = prior.scheduler.step(noise, times[3], noisy, use_clipped_model_output=True).prev_sample
    assert torch.allclose(step, wanted, atol=1e-5), SEED


def test_encode_and_decode(prior: Prior) -> None:
    generator = torch.Generator().manual_seed(SEED)
    size = prior.image_size
    images = torch.rand(2, prior.image_channels, size, size, generator=generator, requires_grad=True)
    latents = prior.encode_image(images)
    assert latents.shape == (2, prior.latent_channels, prior.latent_size, prior.latent_size)
    latents.square().sum().backward()
    assert images.grad is not None and images.grad.abs().max() > 0
    decoded = prior.decode(latents)
    assert decoded.shape == images.shape and 0 <= decoded.min() and decoded.max() <= 1
    if prior.autoencoder.vae is None:
        assert torch.allclose(decoded, images, atol=1e-6), SEED
        large = images.detach().repeat_interleave(2, -1).repeat_interleave(2, -2)
        assert torch.allclose(prior.encode_image(large), latents, atol=1e-6), SEED


def test_resizing_by_integers_averages_with_its_gradient() -> None:
    images = torch.rand(2, 12, 18, 3, generator=torch.Generator().manual_seed(SEED)).permute(0, 3, 1, 2)
    for given in (images, images.contiguous()):
        given = given.double().requires_grad_()
        averaged = resize(given, 6)
        assert torch.equal(averaged, torch.nn.functional.avg_pool2d(given, (2, 3)))
        assert torch.autograd.gradcheck(lambda x: resize(x, 6), given)


def test_unknown_and_truncated_words() -> None:
    prior = pixel_prior(SEED)
    assert prior.unknown_words("A woman in a Paisley dress, paisley or green, with a T-shirt") == [
        "Paisley",
        "paisley",
        "or",
        "T",
    ]
    text = "a red dress, " * 20
    cut = prior.truncated(text)
    assert cut and text.strip().endswith(cut)
    kept = text[: text.rindex(cut)]
    assert prior.truncated(kept) == ""
    assert torch.equal(prior.encode_text([text]), prior.encode_text([kept])), (
        "truncated words must not matter"
    )
    assert prior.truncated("a red dress") == ""


def test_byte_pair_vocabularies_know_every_word(tmp_path: Path) -> None:
    prior = latent_prior(tmp_path, SEED)
    assert prior.unknown_words("A paisley ÅÄÖ 漢字 dress 👗") == []


def test_without_an_identity_adapter(tmp_path: Path) -> None:
    prior = pixel_prior(SEED, identity=False)
    save_prior(prior, tmp_path / "p")
    loaded = load_prior(tmp_path / "p", dtype="float32")
    assert loaded.encode_face(torch.rand(2, 3, 32, 32)).shape == (2, 0)
    assert loaded.identity_tokens(loaded.null_face(2)) is None
    given = DenoiserInputs(
        noisy=torch.randn(1, 4, 16, 16),
        timesteps=torch.tensor([500]),
        text=loaded.encode_text(["a man"]),
        pose=torch.rand(1, 3, 16, 16),
    )
    assert torch.isfinite(loaded.predict_noise(given)).all()


def test_bfloat16_weights_stay_close() -> None:
    prior = pixel_prior(SEED)
    wanted = prior.predict_noise(inputs(prior))
    low = prior.to(torch.bfloat16)
    given = inputs(low)
    found = low.predict_noise(given)
    assert found.dtype == torch.float32 and low.alphas_cumprod.dtype == torch.float32
    assert (found - wanted).square().mean().sqrt() < 0.05 * wanted.square().mean().sqrt(), SEED


def test_pick_dtype() -> None:
    assert pick_dtype("auto", "cuda") == torch.float16
    assert pick_dtype("auto", "cpu") in (torch.float32, torch.bfloat16)
    assert pick_dtype("float32", "cuda") == torch.float32
    with pytest.raises(ValueError, match="int8"):
        pick_dtype("int8", "cpu")


def test_all_networks_train_and_the_unet_compiles(tmp_path: Path) -> None:
    prior = pixel_prior(SEED).train().requires_grad_(True)
    given = replace(inputs(prior), identity_scale=torch.tensor([0.2, 0.5, 1.0]))
    eager = prior.denoiser(given)
    eager.square().mean().backward()
    for part in (prior.text_encoder, prior.image_encoder, prior.image_projection):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters()), SEED
    for name, layer in identity_layers(prior.denoiser.unet).items():
        for weight in layer.parameters():
            assert weight.grad is not None and weight.grad.abs().max() > 0, (name, SEED)
    compiled_unet = torch.compile(prior.denoiser.unet, fullgraph=True, backend="eager")
    prior.denoiser.unet = compiled_unet  # type: ignore[misc]
    compiled = prior.denoiser(given)
    assert torch.allclose(compiled, eager, atol=1e-5), SEED
    save_prior(prior, tmp_path / "compiled", torch.float32)
    loaded = load_prior(tmp_path / "compiled", dtype="float32").denoiser(given)
    assert torch.allclose(loaded, eager, atol=1e-4), SEED
