"""FaceID-PlusV2: its published layout, an independent implementation of its formulas, and the LoRA."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from sd15_files import ADAPTER, CONTEXT, EMBED, VISION, adapter_shapes, adapter_state, write_sources
from torch import Tensor

from specularip.diffusion.adapter import FaceFeatures, FaceIdProjection
from specularip.diffusion.attention import identity_layers, install_attention
from specularip.diffusion.denoiser import DenoiserInputs
from specularip.diffusion.loading.adapter import lora_shapes
from specularip.diffusion.loading.folder import load_prior, save_prior
from specularip.diffusion.loading.sd15 import load_sd15
from specularip.diffusion.loading.settings import Sd15Sources
from specularip.diffusion.prior import Prior

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, seed: int) -> tuple[Sd15Sources, dict[str, Any]]:
    return write_sources(tmp_path_factory.mktemp("sd15"), seed)


@pytest.fixture(scope="module")
def prior(files: tuple[Sd15Sources, dict[str, Any]]) -> Prior:
    return load_sd15(files[0], dtype="float32")


def faces(prior: Prior, count: int = 3) -> FaceFeatures:
    generator = torch.Generator().manual_seed(SEED)
    embeds = torch.nn.functional.normalize(torch.randn(count, EMBED, generator=generator), dim=-1)
    features = prior.encode_face(torch.rand(count, 3, 40, 30, generator=generator), embeds)
    assert isinstance(features, FaceFeatures)
    return features


def inputs(prior: Prior, count: int = 3) -> DenoiserInputs:
    generator = torch.Generator().manual_seed(SEED)
    return DenoiserInputs(
        noisy=torch.randn(count, 4, 8, 8, generator=generator),
        timesteps=torch.randint(0, 1000, (count,), generator=generator),
        text=prior.encode_text(["a woman in a red dress", "a man", ""][:count]),
        pose=torch.rand(count, 3, 64, 64, generator=generator),
        identity=prior.identity_tokens(faces(prior, count)),
        identity_scale=torch.tensor([0.0, 0.5, 1.0])[:count],
    )


def test_layout_at_full_size_is_the_published_one() -> None:
    """Keys and shapes of all 344 tensors, 78.26 M parameters."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        projection = FaceIdProjection(512, 1280, 768)
        install_attention(unet, identity=True)
    ours: dict[str, tuple[int, ...]] = {}
    for part, module in {"image_proj": projection, **identity_layers(unet)}.items():
        ours |= {f"{part}.{key}": tuple(value.shape) for key, value in module.state_dict().items()}
    ours |= lora_shapes(unet, 128)
    published = adapter_shapes(768, 1280, 512, 128, (320, 640, 1280, 1280))
    wanted = {f"{group}.{key}": shape for group, keys in published.items() for key, shape in keys.items()}
    assert ours == wanted
    assert len(ours) == 344 and sum(math.prod(shape) for shape in ours.values()) == 78_260_736


def layer_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def reference_tokens(state: dict[str, Tensor], embed: Tensor, hidden: Tensor, structure: float) -> Tensor:
    """The identity tokens [4,D] of one face in float64; embed [E], hidden [T,C]."""
    s = {key: value.double() for key, value in state.items()}
    x = gelu(s["proj.0.weight"] @ embed.double() + s["proj.0.bias"])
    x = (s["proj.2.weight"] @ x + s["proj.2.bias"]).reshape(4, CONTEXT)
    identity = latents = layer_norm(x, s, "norm")
    r = {key.removeprefix("perceiver_resampler."): v for key, v in s.items() if key.startswith("perceiver")}
    features = hidden.double() @ r["proj_in.weight"].T + r["proj_in.bias"]
    heads, width = CONTEXT // 64, 64
    for i in range(4):
        a = f"layers.{i}.0"
        normed = layer_norm(latents, r, f"{a}.norm2")
        both = torch.cat([layer_norm(features, r, f"{a}.norm1"), normed])
        query = normed @ r[f"{a}.to_q.weight"].T
        pairs = both @ r[f"{a}.to_kv.weight"].T
        key, value = pairs[:, :CONTEXT], pairs[:, CONTEXT:]
        out = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            weights = (query[:, part] @ key[:, part].T / math.sqrt(width)).softmax(-1)
            out.append(weights @ value[:, part])
        latents = latents + torch.cat(out, -1) @ r[f"{a}.to_out.weight"].T
        inner = gelu(layer_norm(latents, r, f"layers.{i}.1.0") @ r[f"layers.{i}.1.1.weight"].T)
        latents = latents + inner @ r[f"layers.{i}.1.3.weight"].T
    latents = layer_norm(latents @ r["proj_out.weight"].T + r["proj_out.bias"], r, "norm_out")
    return identity + structure * latents


@pytest.mark.parametrize("structure", [1.0, 0.4])
def test_tokens_follow_the_formulas(prior: Prior, structure: float) -> None:
    features = faces(prior)
    tokens = prior.identity_tokens(features, structure)
    assert tokens is not None and tokens.shape == (3, 4, CONTEXT)
    state = adapter_state(SEED)["image_proj"]
    for token, embed, hidden in zip(tokens, features.embeds, features.hidden):
        wanted = reference_tokens(state, embed, hidden, structure)
        assert torch.allclose(token.double(), wanted, atol=1e-4), (SEED, (token - wanted).abs().max())


def test_hidden_states_are_of_the_penultimate_layer(prior: Prior) -> None:
    """Before the last layer and the final norm."""
    features = faces(prior)
    outputs: list[Tensor] = []
    layers = prior.image_encoder.vision_model.encoder.layers
    hook = layers[-2].register_forward_hook(
        lambda module, args, out: outputs.append(out[0] if isinstance(out, tuple) else out)
    )
    again = faces(prior)
    hook.remove()
    assert torch.equal(again.hidden, features.hidden)
    assert torch.allclose(outputs[0].reshape(features.hidden.shape), features.hidden, atol=1e-6), SEED
    assert len(layers) == VISION["num_hidden_layers"]


def test_the_null_face_is_zeros_for_both_networks(prior: Prior) -> None:
    null = prior.null_face(2)
    assert isinstance(null, FaceFeatures) and not null.embeds.any() and len(null) == 2
    mean = torch.tensor(prior.face_mean)[:, None, None].expand(3, 16, 16)[None]
    grey = prior.encode_face(mean, torch.zeros(1, EMBED))
    assert isinstance(grey, FaceFeatures)
    assert torch.allclose(null.hidden[:1], grey.hidden, atol=1e-5), "zeros after normalisation"
    assert torch.equal(null[1:].hidden, null.hidden[:1])


def test_embedding_and_hidden_states_affect_the_prediction(prior: Prior) -> None:
    given, features = replace(inputs(prior), identity_scale=torch.ones(3)), faces(prior)
    before = prior.predict_noise(given)
    for other in (
        FaceFeatures(features.embeds.flip(0), features.hidden),
        FaceFeatures(features.embeds, features.hidden.flip(0)),
    ):
        changed = prior.predict_noise(replace(given, identity=prior.identity_tokens(other)))
        assert (changed - before)[0].abs().max() > 1e-5, SEED


def test_faces_without_an_embedding_are_rejected(prior: Prior) -> None:
    assert prior.wants_face_embedding and prior.identity_dim == EMBED
    with pytest.raises(ValueError, match=rf"embeds must be \[1,{EMBED}\]"):
        prior.encode_face(torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="FaceFeatures"):
        prior.identity_tokens(torch.rand(1, EMBED))


def test_merged_lora_equals_the_separate_lora(
    files: tuple[Sd15Sources, dict[str, Any]], prior: Prior, tmp_path: Path
) -> None:
    """x ↦ W·x + up·down·x, by hooks on a UNet without LoRA, equals the merged weights."""
    sources, parts = files
    state = adapter_state(SEED)
    zero = {key: v * (0 if "_lora.up" in key else 1) for key, v in state["ip_adapter"].items()}
    torch.save(state | {"ip_adapter": zero}, tmp_path / ADAPTER)
    plain = load_sd15(
        Sd15Sources(**(vars(sources) | {"ip_adapter": str(tmp_path / ADAPTER)})), dtype="float32"
    )
    given = inputs(prior)
    merged, bare = prior.predict_noise(given), plain.predict_noise(given)
    assert (merged - bare).abs().max() > 1e-3, "the LoRA must have an effect"

    def add_lora(down: Tensor, up: Tensor) -> Any:
        return lambda module, args, out: out + args[0] @ down.T @ up.T

    lora = state["ip_adapter"]
    for n, name in enumerate(plain.denoiser.unet.attn_processors):
        attention = plain.denoiser.unet.get_submodule(name.removesuffix(".processor"))
        for target in ("to_q", "to_k", "to_v", "to_out"):
            layer = attention.to_out[0] if target == "to_out" else getattr(attention, target)
            key = f"{n}.{target}_lora"
            layer.register_forward_hook(add_lora(lora[f"{key}.down.weight"], lora[f"{key}.up.weight"]))
    hooked = plain.predict_noise(given)
    assert torch.allclose(hooked, merged, atol=1e-4), (SEED, (hooked - merged).abs().max())
    weight = parts["unet"].get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2").to_k.weight
    now = prior.denoiser.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2").to_k.weight
    up, down = lora["31.to_k_lora.up.weight"], lora["31.to_k_lora.down.weight"]
    assert torch.allclose(now, weight + up @ down, atol=1e-6), "the mid block comes last"


def test_a_saved_prior_contains_the_merged_lora(prior: Prior, tmp_path: Path) -> None:
    save_prior(prior, tmp_path / "prior", torch.float32)
    loaded = load_prior(tmp_path / "prior", dtype="float32")
    given = inputs(prior)
    assert loaded.wants_face_embedding
    assert torch.allclose(loaded.predict_noise(given), prior.predict_noise(given), atol=1e-5), SEED
    tokens = loaded.identity_tokens(faces(loaded))
    assert tokens is not None and torch.allclose(tokens, given.identity, atol=1e-5), SEED


def test_flat_safetensors_load_like_the_bin(files: tuple[Sd15Sources, dict[str, Any]], prior: Prior) -> None:
    flat = {f"{group}.{key}": v for group, keys in adapter_state(SEED).items() for key, v in keys.items()}
    path = Path(files[0].ip_adapter).with_suffix(".safetensors")
    save_file(flat, str(path))
    again = load_sd15(Sd15Sources(**(vars(files[0]) | {"ip_adapter": str(path)})), dtype="float32")
    before, after = prior.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before), SEED
