"""Loading the full-size prior: every published layout of its files, and one-line errors for faulty ones."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as theirs
from safetensors.torch import load_file, save_file
from sd15_files import (
    ADAPTER,
    CONTEXT,
    EMBED,
    HINTS,
    UNET,
    VAE,
    VISION,
    adapter_state,
    text_keys,
    write_sources,
)
from torch import Tensor

from specularip.diffusion.loading import networks
from specularip.diffusion.loading import original_names as original
from specularip.diffusion.loading.networks import PUBLISHED
from specularip.diffusion.loading.sd15 import load_sd15
from specularip.diffusion.loading.settings import Sd15Sources
from specularip.diffusion.loading.sources import hub_id, resolve
from specularip.diffusion.prior import Prior
from specularip.errors import MissingWeights, UserError
from specularip.presets import preset_config
from specularip.run_networks import load_prior

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")
WEIGHTS = {
    "unet": "base/unet/diffusion_pytorch_model.safetensors",
    "text_encoder": "base/text_encoder/model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "controlnet": "controlnet/diffusion_pytorch_model.safetensors",
    "image_encoder": "clip/model.safetensors",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, seed: int) -> tuple[Path, Sd15Sources, dict[str, Any]]:
    root = tmp_path_factory.mktemp("sd15")
    sources, parts = write_sources(root, seed)
    return root, sources, parts


@pytest.fixture
def copied(files: tuple[Path, Sd15Sources, dict[str, Any]], tmp_path: Path) -> tuple[Path, Sd15Sources]:
    """A copy of the files, to be damaged."""
    root, sources, _ = files
    shutil.copytree(root, tmp_path / "sd15")
    moved = {k: v.replace(str(root), str(tmp_path / "sd15")) for k, v in vars(sources).items()}
    return tmp_path / "sd15", Sd15Sources(**moved)


def error_of(sources: Sd15Sources) -> str:
    """The message of the UserError, which must be one line."""
    with pytest.raises(UserError) as error:
        load_sd15(sources, dtype="float32")
    assert "\n" not in str(error.value), str(error.value)
    return str(error.value)


def assert_equal(a: Prior, b: Prior) -> None:
    before, after = a.state_dict(), b.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before), SEED


def edit_weights(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    state = load_file(str(path))
    change(state)
    save_file(state, str(path), metadata={"format": "pt"})


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_every_weight_is_assigned_to_its_parameter(files: tuple[Path, Sd15Sources, dict[str, Any]]) -> None:
    prior = load_sd15(files[1], dtype="float32")
    loaded = {
        "unet": prior.denoiser.unet,
        "controlnet": prior.denoiser.controlnet,
        "vae": prior.autoencoder.vae,
        "text_encoder": prior.text_encoder,
        "image_encoder": prior.image_encoder,
    }
    for name, part in files[2].items():
        state = loaded[name].state_dict()
        for key, value in part.state_dict().items():
            lora = name == "unet" and any(f".{x}" in key for x in ("to_q", "to_k", "to_v", "to_out.0.weight"))
            assert lora != torch.equal(state[key], value), (name, key, SEED)
    assert not any(p.requires_grad for p in prior.parameters()) and not prior.training
    assert not any(t.is_meta for t in [*prior.parameters(), *prior.buffers()])
    half = load_sd15(files[1], dtype="float16")
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    schedule = prior.scheduler.config
    assert (schedule.clip_sample, schedule.set_alpha_to_one, schedule.steps_offset) == (False, False, 1)
    assert prior.autoencoder.vae.config.scaling_factor == 0.18215 and prior.image_size == 64
    assert prior.ddim_timesteps(50)[-1] == 1, "leading steps with an offset of one"


def test_loaded_networks_compute_what_the_originals_do(
    files: tuple[Path, Sd15Sources, dict[str, Any]],
) -> None:
    """Weights, position ids, norms and activations."""
    prior, parts = load_sd15(files[1], dtype="float32"), files[2]
    ids = prior.tokenizer(["a red dress"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    image, pixels = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        wanted = parts["text_encoder"].eval()(ids).last_hidden_state
        assert torch.allclose(prior.text_encoder(ids).last_hidden_state, wanted, atol=1e-5), SEED
        wanted = parts["vae"].eval().encode(image).latent_dist.mode()
        assert torch.allclose(prior.autoencoder.vae.encode(image).latent_dist.mode(), wanted, atol=1e-4), SEED
        wanted = parts["image_encoder"].eval()(pixels).image_embeds
        assert torch.allclose(prior.image_encoder(pixels).image_embeds, wanted, atol=1e-5), SEED


@pytest.mark.parametrize("part", WEIGHTS)
def test_bins_load_the_same_weights(copied: tuple[Path, Sd15Sources], part: str) -> None:
    root, sources = copied
    whole = load_sd15(sources, dtype="float32")
    path = root / WEIGHTS[part]
    name = "pytorch_model.bin" if path.name == "model.safetensors" else "diffusion_pytorch_model.bin"
    torch.save(load_file(str(path)), path.with_name(name))
    path.unlink()
    assert_equal(load_sd15(sources, dtype="float32"), whole)


def test_shards_and_half_precision_file_names(copied: tuple[Path, Sd15Sources]) -> None:
    root, sources = copied
    whole = load_sd15(sources, dtype="float32")
    path = root / WEIGHTS["unet"]
    state = load_file(str(path))
    path.unlink()
    keys = sorted(state)
    pieces = {"a.safetensors": keys[:300], "b.safetensors": keys[300:]}
    for piece, names in pieces.items():
        save_file({key: state[key] for key in names}, str(path.with_name(piece)), metadata={"format": "pt"})
    index = {"weight_map": {key: piece for piece, names in pieces.items() for key in names}}
    listing = path.with_name("diffusion_pytorch_model.safetensors.index.json")
    listing.write_text(json.dumps(index))
    half = root / WEIGHTS["vae"]
    half.rename(half.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert_equal(load_sd15(sources, dtype="float32"), whole)
    path.with_name("b.safetensors").unlink()
    assert "'b.safetensors', which is missing" in error_of(sources)


@pytest.fixture
def small_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published configs, which single files rely on, replaced by those of the small test files."""
    for kind, config in (("unet", UNET), ("vae", VAE), ("image_encoder", VISION)):
        monkeypatch.setitem(
            PUBLISHED, kind, config | {"scaling_factor": 0.18215} if kind == "vae" else config
        )
    control = {k: v for k, v in UNET.items() if k not in ("sample_size", "out_channels", "up_block_types")}
    monkeypatch.setitem(PUBLISHED, "controlnet", control | {"conditioning_embedding_out_channels": HINTS})


def original_files(root: Path, parts: dict[str, Any]) -> tuple[Path, Path, Path]:
    """A whole checkpoint, a ControlNet and a VAE in the original layout."""
    checkpoint: dict[str, Tensor] = {"model_ema.decay": torch.ones(1), "alphas_cumprod": torch.ones(1000)}
    vae: dict[str, Tensor] = {}
    for key, value in parts["vae"].state_dict().items():
        long, short = original.vae_name(key)
        linear = ".mid.attn_1." in short and value.ndim == 2
        vae[short] = checkpoint[long] = value[..., None, None] if linear else value
    for key, value in parts["unet"].state_dict().items():
        checkpoint[original.unet_name(key)[0]] = value
    for key, value in text_keys(parts["text_encoder"].state_dict()).items():
        checkpoint[f"cond_stage_model.transformer.{key}"] = value
    control = {original.controlnet_name(k)[0]: v for k, v in parts["controlnet"].state_dict().items()}
    paths = root / "sd.safetensors", root / "control.pth", root / "vae.safetensors"
    for path, state in zip(paths, (checkpoint, control, vae)):
        tensors = {key: value.detach().clone().contiguous() for key, value in state.items()}
        torch.save(tensors, path) if path.suffix == ".pth" else save_file(tensors, str(path))
    return paths


def test_original_names_agree_with_the_converters_of_diffusers(
    files: tuple[Path, Sd15Sources, dict[str, Any]], tmp_path: Path
) -> None:
    """Converting the original layout with diffusers gives every key back."""
    parts = files[2]
    whole, control, alone = original_files(tmp_path, parts)
    checkpoint = load_file(str(whole))
    found = {
        "unet": theirs.convert_ldm_unet_checkpoint(dict(checkpoint), dict(parts["unet"].config)),
        "vae": theirs.convert_ldm_vae_checkpoint(load_file(str(alone)), dict(parts["vae"].config)),
        "controlnet": theirs.convert_controlnet_checkpoint(
            torch.load(control, weights_only=True), dict(parts["controlnet"].config)
        ),
    }
    for name, state in found.items():
        wanted = parts[name].state_dict()
        assert state.keys() == wanted.keys(), name
        assert all(torch.equal(state[key], wanted[key]) for key in wanted), (name, SEED)


@pytest.mark.usefixtures("small_published")
def test_single_files_in_the_original_layout(
    files: tuple[Path, Sd15Sources, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, sources, parts = files
    config = json.loads((Path(sources.base) / "text_encoder" / "config.json").read_text())
    monkeypatch.setitem(PUBLISHED, "text_encoder", config)
    checkpoint, control, vae = (str(path) for path in original_files(tmp_path, parts))
    whole = load_sd15(sources, dtype="float32")
    single = replace(sources, base=checkpoint, controlnet=control)
    assert_equal(load_sd15(replace(single, vae=vae), dtype="float32"), whole)
    assert_equal(load_sd15(replace(single, vae=checkpoint), dtype="float32"), whole)
    clip = str(
        shutil.copy(Path(sources.image_encoder) / "model.safetensors", tmp_path / "clip_h.safetensors")
    )
    assert_equal(load_sd15(replace(sources, image_encoder=clip), dtype="float32"), whole)

    def remove_key(state: dict[str, Tensor]) -> None:
        del state["model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"]

    edit_weights(Path(checkpoint), remove_key)
    line = error_of(replace(single, vae=vae))
    assert "misses model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight" in line


def test_a_weight_file_uses_the_config_beside_it(
    files: tuple[Path, Sd15Sources, dict[str, Any]],
) -> None:
    root, sources, _ = files
    given = {k: str(root / WEIGHTS[k]) for k in ("vae", "controlnet", "image_encoder")}
    assert_equal(load_sd15(replace(sources, **given), dtype="float32"), load_sd15(sources, dtype="float32"))


def test_hub_ids_are_resolved_in_the_cache(
    files: tuple[Path, Sd15Sources, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    root, sources, _ = files
    published = Sd15Sources()
    with pytest.raises(MissingWeights, match=published.base):
        load_sd15(published)
    with pytest.raises(UserError, match=f"{published.base} is neither.*: `specularip models fetch"):
        load_prior(preset_config("sd15").prior)
    places = {
        "base": Path(sources.base),
        "vae": root / "vae",
        "controlnet": root / "controlnet",
        "image_encoder": root / "clip",
    }
    for name, place in places.items():
        _cache(tmp_path, getattr(published, name), place)
    line = error_of(published)
    assert "h94/IP-Adapter-FaceID" in line
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.copy(root / ADAPTER, adapter)
    _cache(tmp_path, "h94/IP-Adapter-FaceID", adapter)
    assert_equal(load_sd15(published, dtype="float32"), load_sd15(sources, dtype="float32"))
    assert resolve("h94/IP-Adapter-FaceID").is_dir()


def _cache(cache: Path, repository: str, folder: Path) -> Path:
    """Copy a folder into the hub's cache in huggingface_hub's layout; returns the snapshot."""
    home = cache / f"models--{repository.replace('/', '--')}"
    revision = "0123456789abcdef0123456789abcdef01234567"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(revision)
    shutil.copytree(folder, home / "snapshots" / revision)
    return home / "snapshots" / revision


def test_hub_ids_are_distinguished_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_id("stabilityai/sd-vae-ft-mse") == ("stabilityai/sd-vae-ft-mse", "")
    assert hub_id("a/b/c/d.bin") == ("a/b", "c/d.bin")
    for path in ("/models/vae", "./vae", "models/vae.safetensors", "~/vae", "vae", ".cache/vae", "C:\\vae"):
        assert hub_id(path) is None, path
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert hub_id("owner/name") is None, "existing paths take precedence"
    with pytest.raises(UserError, match="no file or folder"):
        resolve("/nowhere/vae")


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_missing_unknown_and_misshapen_keys_are_named(
    copied: tuple[Path, Sd15Sources], part: str, fault: str
) -> None:
    root, sources = copied
    path = root / WEIGHTS[part]
    name = {
        "vae": "encoder.mid_block.attentions.0.query.weight",
        "image_encoder": "vision_model.encoder.layers.1.mlp.fc1.weight",
        "text_encoder": "text_model.encoder.layers.0.mlp.fc1.weight",
    }.get(part, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight")

    def change(state: dict[str, Tensor]) -> None:
        if fault == "missing":
            del state[name]
        elif fault == "shape":
            state[name] = state[name][:-1].contiguous()
        else:
            state["surprise.weight"] = torch.zeros(1)

    edit_weights(path, change)
    line = error_of(sources)
    key = "surprise.weight" if fault == "extra" else name
    if (part, fault) == ("vae", "missing"):
        key = "encoder.mid_block.attentions.0.to_q.weight"  # named as diffusers calls it now
    assert key in line and str(path) in line, line


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "lora"])
def test_wrong_keys_of_an_adapter_are_named(copied: tuple[Path, Sd15Sources], fault: str) -> None:
    root, sources = copied
    state = adapter_state(SEED)
    key = "7.to_out_lora.up.weight"
    if fault == "missing":
        del state["ip_adapter"][key]
    elif fault == "extra":
        key = "32.to_k_ip.weight"
        state["ip_adapter"][key] = torch.zeros(1)
    elif fault == "shape":
        key = "perceiver_resampler.layers.2.0.to_kv.weight"
        state["image_proj"][key] = torch.zeros(3, 3)
    else:
        key = "to_q_lora"
        state["ip_adapter"] = {k: v for k, v in state["ip_adapter"].items() if "_lora." not in k}
    torch.save(state, root / ADAPTER)
    line = error_of(sources)
    assert key in line and str(root / ADAPTER) in line, line


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def test_code_in_pickles_never_runs(
    copied: tuple[Path, Sd15Sources], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, sources = copied
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "evil"))
    torch.save({"image_proj": {"x": Evil()}, "ip_adapter": {}}, root / ADAPTER)
    assert "could run code" in error_of(sources)
    (root / ADAPTER).write_bytes(pickle.dumps(Evil()))
    assert str(root / ADAPTER) in error_of(sources)
    ckpt = root / "model.ckpt"
    torch.save({"state_dict": {}}, ckpt)
    for part in ("base", "vae"):
        line = error_of(replace(sources, tokenizer="/nowhere", **{part: str(ckpt)}))
        assert ".ckpt pickle" in line and ".safetensors" in line
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("part", ["unet", "adapter", "bin"])
def test_truncated_files(copied: tuple[Path, Sd15Sources], part: str, share: float) -> None:
    root, sources = copied
    path = root / (ADAPTER if part == "adapter" else WEIGHTS["unet"])
    if part == "bin":
        state = load_file(str(path))
        path.unlink()
        path = path.with_suffix(".bin")
        torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    line = error_of(sources)
    assert str(path) in line and "download it again" in line, line
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "pointer" in error_of(sources)


def _weights(part: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Rewrites a network's weights as a .bin, which can hold anything."""

    def rewrite(root: Path) -> None:
        path = root / WEIGHTS[part]
        state: dict[str, Any] = dict(load_file(str(path)))
        change(state)
        path.unlink()
        name = "pytorch_model.bin" if path.name == "model.safetensors" else "diffusion_pytorch_model.bin"
        torch.save(state, path.with_name(name))

    return rewrite


def _adapter(group: str, key: str, value: Any) -> Callable[[Path], None]:
    def rewrite(root: Path) -> None:
        state: dict[str, dict[str, Any]] = adapter_state(SEED)
        state[group][key] = value
        torch.save(state, root / ADAPTER)

    return rewrite


def _json_file(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


def _index(value: Any) -> Callable[[Path], None]:
    def list_pieces(root: Path) -> None:
        path = root / WEIGHTS["vae"]
        shutil.copy(path, root / "elsewhere.safetensors")
        path.unlink()
        path.with_name(path.name + ".index.json").write_text(json.dumps({"weight_map": value}))

    return list_pieces


FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "quantised": (
        _weights("vae", lambda s: s.update({"quant_conv.bias": s["quant_conv.bias"].to(torch.int8)})),
        ("quant_conv.bias is torch.int8",),
    ),
    "numbered": (_weights("unet", lambda s: s.update({7: torch.ones(1)})), ("no tensors by name",)),
    "another value": (_weights("unet", lambda s: s.update(step=3)), ("step", "not a tensor")),
    "scalar tokens": (
        _adapter("image_proj", "proj.2.weight", torch.ones(())),
        (ADAPTER, "image_proj.proj.2.weight is []"),
    ),
    "scalar embedding": (
        _adapter("image_proj", "proj.0.weight", torch.ones(())),
        (ADAPTER, "image_proj.proj.0.weight is []"),
    ),
    "scalar LoRA": (
        _adapter("ip_adapter", "0.to_q_lora.down.weight", torch.ones(())),
        (ADAPTER, "ip_adapter.0.to_q_lora.down.weight is []"),
    ),
    "a layer too deep": (
        _adapter("image_proj", "perceiver_resampler.layers.999999999.0.to_q.weight", torch.ones(1)),
        (ADAPTER, "unknown image_proj.perceiver_resampler.layers.999999999.0.to_q.weight"),
    ),
    "index of lists": (_index({"a": ["b"]}), ("index.json", "lists no weights")),
    "index elsewhere": (_index({"a": "../elsewhere.safetensors"}), ("../elsewhere.safetensors",)),
    "nested JSON": (_json_file("vae/config.json", "[" * 100_000), ("is damaged", "64 levels", "config.json")),
    "architectures": (_json_file("vae/config.json", '{"architectures": 5}'), ("does not fit",)),
    "normalisation": (
        _json_file("clip/preprocessor_config.json", '{"image_std": 0.5}'),
        ("preprocessor_config.json", "image_std must be three numbers"),
    ),
    "no tokenizer": (lambda root: shutil.rmtree(root / "base" / "tokenizer"), ("holds no tokenizer",)),
    "no padding": (
        lambda root: edit_json(root / "base/tokenizer/tokenizer_config.json", pad_token=None),
        ("tokenizer", "no pad_token"),
    ),
    "more tokens": (
        lambda root: edit_json(
            root / "base/tokenizer/vocab.json", **{f"word{i}": 10_000 + i for i in range(9)}
        ),
        ("tokenizer of another model", "embeddings for"),
    ),
}
"""By fault: how to cause it, and what the error must say."""


@pytest.mark.parametrize("fault", FAULTS)
def test_malformed_files(copied: tuple[Path, Sd15Sources], fault: str) -> None:
    root, sources = copied
    change, words = FAULTS[fault]
    change(root)
    line = error_of(sources)
    assert all(word in line for word in words), line


def test_code_beside_a_tokenizer_never_runs(
    copied: tuple[Path, Sd15Sources], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the library prompt for permission, which would block an unattended run."""
    root, sources = copied
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "y")
    folder = root / "base" / "tokenizer"
    (folder / "program.py").write_text(
        f"import os\n\nos.mkdir({str(tmp_path / 'evil')!r})\n\n\nclass Tok: ...\n"
    )
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["program.Tok", null]}}')
    assert "cannot read the tokenizer" in error_of(sources)
    assert not asked and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["", "~nobody-of-that-name/vae", "x" * 5000, "models/vae.safetensors"])
def test_sources_that_do_not_exist(name: str) -> None:
    with pytest.raises(UserError, match="no file or folder"):
        resolve(name)


def test_a_text_encoder_with_a_projection(copied: tuple[Path, Sd15Sources]) -> None:
    """Some exports include it; the projection is ignored and the width is checked."""
    root, sources = copied
    whole = load_sd15(sources, dtype="float32")
    edit_weights(
        root / WEIGHTS["text_encoder"], lambda s: s.update({"text_projection.weight": torch.ones(3, 3)})
    )
    edit_json(root / "base/text_encoder/config.json", architectures=["CLIPTextModelWithProjection"])
    assert_equal(load_sd15(sources, dtype="float32"), whole)


def test_networks_of_other_models(copied: tuple[Path, Sd15Sources], tmp_path: Path) -> None:
    root, sources = copied
    base = Path(sources.base)
    # The wrong folder: empty, of another network, one level too high.
    (tmp_path / "empty").mkdir()
    line = error_of(replace(sources, vae=str(tmp_path / "empty")))
    assert "neither a config.json nor a folder vae" in line
    line = error_of(replace(sources, vae=sources.controlnet))
    assert "config of ControlNetModel" in line and "AutoencoderKL" in line
    line = error_of(replace(sources, vae=str(root / WEIGHTS["image_encoder"])))
    assert "CLIP" in line
    assert "unet" in error_of(replace(sources, base=str(root)))
    # The right kind of network, of another model.
    edit_json(root / "vae" / "config.json", scaling_factor=0.13025)
    assert "VAE of another model" in error_of(sources)
    edit_json(root / "vae" / "config.json", scaling_factor=0.18215)
    edit_json(base / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert "v_prediction" in error_of(sources)
    edit_json(base / "scheduler" / "scheduler_config.json", prediction_type="epsilon")
    text = json.loads((base / "text_encoder" / "config.json").read_text())
    wide = networks._build("text_encoder", text | {"hidden_size": 96}, base).to_empty(device="cpu")
    edit_json(base / "text_encoder" / "config.json", hidden_size=96)
    save_file(wide.state_dict(), str(root / WEIGHTS["text_encoder"]))
    line = error_of(sources)
    assert "text encoder of another model" in line and "96" in line


def test_sdxl_and_inpainting_and_other_adapters(copied: tuple[Path, Sd15Sources]) -> None:
    root, sources = copied
    xl = UNET | {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    xl |= {"projection_class_embeddings_input_dim": 24}
    unet = root / "base" / "unet"
    config = (unet / "config.json").read_text()
    state = (root / WEIGHTS["unet"]).read_bytes()
    for change, word in ((xl, "SDXL"), (UNET | {"in_channels": 9}, "inpainting")):
        (unet / "config.json").write_text(json.dumps(change | {"_class_name": "UNet2DConditionModel"}))
        model = networks._build("unet", dict(change), unet).to_empty(device="cpu")
        save_file(model.state_dict(), str(root / WEIGHTS["unet"]))
        assert word in error_of(sources)
    (unet / "config.json").write_text(config)
    (root / WEIGHTS["unet"]).write_bytes(state)
    single = root / "sdxl.safetensors"
    save_file(
        {
            "model.diffusion_model.label_emb.0.0.weight": torch.zeros(3),
            "conditioner.embedders.1.model.ln_final.weight": torch.zeros(3),
        },
        str(single),
    )
    assert "SDXL" in error_of(replace(sources, base=str(single)))
    first = root / "ip-adapter-faceid-plus_sd15.bin"
    shutil.copy(root / ADAPTER, first)
    assert "version 1" in error_of(replace(sources, ip_adapter=str(first)))
    plain = {"image_proj": {"proj.weight": torch.zeros(8, EMBED), "norm.weight": torch.zeros(2)}}
    torch.save(plain | {"ip_adapter": {}}, root / "ip-adapter_sd15.bin")
    assert "ip-adapter_sd15.bin" in error_of(replace(sources, ip_adapter=str(root / "ip-adapter_sd15.bin")))
    wide = adapter_state(SEED)
    wide["image_proj"]["proj.2.weight"] = torch.zeros(4 * CONTEXT + 8, 2 * EMBED)
    torch.save(wide, root / "ip-adapter-faceid-plusv2_sdxl.bin")
    line = error_of(replace(sources, ip_adapter=str(root / "ip-adapter-faceid-plusv2_sdxl.bin")))
    assert "adapter for another model" in line
    mlp = {"image_proj": {"proj.0.weight": torch.zeros(8, EMBED), "norm.weight": torch.zeros(2)}}
    torch.save(mlp | {"ip_adapter": {}}, root / "ip-adapter-faceid_sd15.bin")
    line = error_of(replace(sources, ip_adapter=str(root / "ip-adapter-faceid_sd15.bin")))
    assert "misses image_proj.proj.weight: only plain IP-Adapters and FaceID-PlusV2 are supported" in line
    line = error_of(replace(sources, ip_adapter=str(root / WEIGHTS["vae"])))
    assert "not an IP-Adapter" in line and "VAE" in line
