"""Reads and writes a prior as a folder in diffusers' layout. No code in the folder is ever run.

- `model_index.json` lists the components.
- `unet/`, `scheduler/`, `text_encoder/`, `tokenizer/` are required.
- `vae/`, or `autoencoder/` with a `ConvAutoencoder`: without either the UNet works on pixels.
- `text_encoder/`: a CLIPTextModel or a BertModel.
- `controlnet/`: the pose ControlNet, unless pose is among the UNet's input channels.
- `image_encoder/`: a CLIPVisionModelWithProjection, with its `preprocessor_config.json`.
- `ip_adapter/`: one .safetensors (or published .bin) with `image_proj.*` and `ip_adapter.N.*`, plain or
  FaceID-PlusV2.
- `known_words.txt`: the words that the prior was trained on, one a line; `synonyms.txt`: other words for
  them (`diffusion.vocabulary`).

Weights may be int8 with a scale for each row (see `weights.quantise`).
Networks published in several places are read by `sd15.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from specularip.diffusion.attention import identity_layers
from specularip.diffusion.autoencoder import Autoencoder, PixelAutoencoder, VaeAutoencoder
from specularip.diffusion.conv_autoencoder import ConvAutoencoder
from specularip.diffusion.denoiser import UNetDenoiser
from specularip.diffusion.loading.adapter import load_identity
from specularip.diffusion.loading.networks import Kind, build_network, check_together, reading
from specularip.diffusion.loading.sources import PRIOR_PARTS
from specularip.diffusion.loading.weights import pick_dtype, quantise, read_json
from specularip.diffusion.prior import CLIP_MEAN, CLIP_STD, Prior
from specularip.diffusion.vocabulary import Vocabulary
from specularip.errors import UserError, first_line

WEIGHTS = {
    "diffusers": "diffusion_pytorch_model.safetensors",
    "transformers": "model.safetensors",
    "specularip": "model.safetensors",
}
"""By the library of a network's class."""
NETWORKS: tuple[Kind, ...] = ("unet", "text_encoder", "vae", "autoencoder", "controlnet", "image_encoder")


def load_prior(
    folder: str | PathLike[str], *, device: torch.device | str = "cpu", dtype: torch.dtype | str = "auto"
) -> Prior:
    """Read a prior: frozen, in eval mode, weights in `dtype` ("auto": see `pick_dtype`), channels last.

    Raises UserError for missing parts, truncated files, networks of different models, and keys that are
    missing, unknown or of the wrong shape, naming the file and the key.
    """
    root = Path(folder)
    if root.is_file():
        raise UserError(f"{root} is a file: a prior is a folder in diffusers' layout with model_index.json")
    if not root.is_dir():
        raise UserError(f"there is no prior folder {root}")
    index = read_json(root / "model_index.json")
    for part in PRIOR_PARTS:
        if not (root / part).is_dir():
            raise UserError(f"prior {root} has no {part}/ folder")
    for part, value in index.items():
        # Published pipelines also list safety checkers and feature extractors, which are not used here.
        used = part in ("vae", "autoencoder", "controlnet", "image_encoder", "ip_adapter")
        if used and isinstance(value, list) and value[0] and not (root / part).is_dir():
            raise UserError(f"prior {root}: model_index.json lists {part}, but there is no {part}/ folder")
    if (root / "vae").is_dir() and (root / "autoencoder").is_dir():
        raise UserError(f"prior {root} has both vae/ and autoencoder/: only one can be used")
    adapter = None
    if (root / "ip_adapter").is_dir():
        if not (root / "image_encoder").is_dir():
            raise UserError(f"prior {root} has ip_adapter/ but no image_encoder/ folder")
        adapter = find_adapter(root / "ip_adapter")
    dtype = pick_dtype(dtype, device) if isinstance(dtype, str) else dtype
    places = {kind: root / kind for kind in NETWORKS if (root / kind).is_dir()}
    with reading(places, device, dtype) as files:
        tokenizer = load_tokenizer(root / "tokenizer")
        pixels = "vae" not in places and "autoencoder" not in places
        scheduler = load_scheduler(root / "scheduler", clip_sample=pixels)
        networks: dict[Kind, Any] = {kind: None for kind in NETWORKS}
        networks |= {kind: build_network(file.result()) for kind, file in files.items()}
    check_together(networks, {kind: str(place) for kind, place in places.items()})
    return assemble(
        networks,
        tokenizer,
        scheduler,
        adapter,
        root / "image_encoder",
        lora_merged=True,
        device=device,
        dtype=dtype,
        vocabulary=Vocabulary.read(root),
    )


def assemble(
    networks: Mapping[Kind, Any],
    tokenizer: Any,
    scheduler: Any,
    adapter: Path | None,
    image_encoder: Path,
    *,
    lora_merged: bool,
    device: torch.device | str,
    dtype: torch.dtype,
    vocabulary: Vocabulary | None = None,
) -> Prior:
    """A prior from its networks: identity adapter attached, frozen, in eval mode, channels last.

    adapter, lora_merged: see `load_identity`. image_encoder: folder that may hold its
    preprocessor_config.json. Raises UserError for a tokenizer or adapter of another model.
    """
    unet, encoder = networks["unet"], networks["image_encoder"]
    projection = None if adapter is None else load_identity(unet, adapter, encoder, lora_merged=lora_merged)
    tokens, known = len(tokenizer), int(networks["text_encoder"].config.vocab_size)
    if tokens > known:
        raise UserError(
            f"{tokenizer.name_or_path} is the tokenizer of another model: it has {tokens} tokens, the text "
            f"encoder has embeddings for {known}"
        )
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    if encoder is not None and (image_encoder / "preprocessor_config.json").is_file():
        mean, std = read_normalisation(image_encoder / "preprocessor_config.json")
    autoencoder: Autoencoder = PixelAutoencoder(int(unet.config.out_channels))
    if networks["vae"] is not None:
        autoencoder = VaeAutoencoder(networks["vae"])
    elif networks.get("autoencoder") is not None:
        autoencoder = networks["autoencoder"]
    prior = Prior(
        UNetDenoiser(unet, networks["controlnet"]),
        autoencoder,
        networks["text_encoder"],
        tokenizer,
        scheduler,
        encoder,
        projection,
        mean,
        std,
        vocabulary,
    )
    prior.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prior.eval().requires_grad_(False)


def read_normalisation(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB in a preprocessor_config.json, by default CLIP's."""
    config = read_json(path)
    values = []
    for key, usual in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD)):
        value = config.get(key, usual)
        try:
            red, green, blue = value
            values.append((float(red), float(green), float(blue)))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: {key} must be three numbers, not {value}") from error
    return values[0], values[1]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder. Raises UserError."""
    # Imported here because it takes seconds, which `--help` and wrong arguments should not.
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise UserError(f"{folder} holds no tokenizer: neither tokenizer.json nor vocab.json with merges.txt")
    try:
        # The default of trust_remote_code prompts for permission to run code that the folder names.
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many types here, from KeyError to its own classes
        raise UserError(f"cannot read the tokenizer in {folder}: {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer in {folder} has no pad_token: it is for another model")
    return tokenizer


def load_scheduler(folder: Path, *, clip_sample: bool) -> Any:
    """The noise schedule in a folder, as DDIM. clip_sample: the default if its config has none.

    Raises UserError as `make_scheduler`.
    """
    path = folder / "scheduler_config.json"
    schedule = read_json(path)
    # diffusers' default is to clamp to -1..1, which latents exceed.
    schedule.setdefault("clip_sample", clip_sample)
    return make_scheduler(schedule, path)


def make_scheduler(schedule: dict[str, Any], path: Path | str) -> Any:
    """DDIM on the betas of a scheduler config. path: its origin, for the error.

    Raises UserError for invalid values and for predictions other than epsilon and v.
    """
    from diffusers import DDIMScheduler

    try:
        scheduler = DDIMScheduler.from_config(schedule)
    except (ValueError, NotImplementedError, TypeError) as error:
        raise UserError(f"cannot use {path}: {first_line(error)}") from error
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(
            f"{path}: prediction_type must be epsilon or v_prediction, not {scheduler.config.prediction_type}"
        )
    return scheduler


def find_adapter(folder: Path) -> Path:
    """The weight file of an identity adapter in a folder. Raises UserError unless there is exactly one."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if len(files) != 1:
        raise UserError(f"{folder} must hold one .safetensors or .bin file, it holds {len(files)}")
    return files[0]


def save_prior(
    prior: Prior,
    folder: str | PathLike[str],
    dtype: torch.dtype = torch.float16,
    *,
    int8: bool = False,
) -> None:
    """Write `prior` as a folder that `load_prior` reads, weights in `dtype`. An existing prior is replaced.

    int8: store matrices and kernels as int8 with a scale for each row (see `weights.quantise`).

    It is written to a temporary folder first and then renamed, so that a crash leaves no partial prior. A
    merged LoRA is saved as part of the UNet. Raises UserError if `folder` exists and is not a prior.
    """
    target = Path(folder)
    if target.exists() and not (target / "model_index.json").is_file():
        if not target.is_dir() or any(target.iterdir()):
            raise UserError(f"{target} exists and is not a prior, so it is not replaced: name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        work.chmod(0o755)
        index: dict[str, Any] = {"_class_name": "SpecularIPPrior"}
        for part, library, model in (
            ("unet", "diffusers", prior.denoiser.unet),
            ("vae", "diffusers", prior.autoencoder.vae),
            ("autoencoder", "specularip", _conv_autoencoder(prior)),
            ("controlnet", "diffusers", prior.denoiser.controlnet),
            ("text_encoder", "transformers", prior.text_encoder),
            ("image_encoder", "transformers", prior.image_encoder),
        ):
            if model is None:
                continue
            model = getattr(model, "_orig_mod", model)  # the module behind torch.compile
            index[part] = [library, type(model).__name__]
            state = {k: v for k, v in model.state_dict().items() if ".processor." not in k}
            (work / part).mkdir()
            _save_tensors(state, work / part / WEIGHTS[library], dtype, int8)
            _write_json(_config(library, model), work / part / "config.json")
        index["tokenizer"] = ["transformers", type(prior.tokenizer).__name__]
        prior.tokenizer.save_pretrained(str(work / "tokenizer"))
        index["scheduler"] = ["diffusers", "DDIMScheduler"]
        prior.scheduler.save_pretrained(str(work / "scheduler"))
        if prior.image_encoder is not None:
            preprocess = {"image_mean": list(prior.face_mean), "image_std": list(prior.face_std)}
            _write_json(preprocess, work / "image_encoder" / "preprocessor_config.json")
        if prior.image_projection is not None:
            index["ip_adapter"] = ["specularip", type(prior.image_projection).__name__]
            state = {f"image_proj.{k}": v for k, v in prior.image_projection.state_dict().items()}
            for name, layer in identity_layers(prior.denoiser.unet).items():
                state |= {f"{name}.{k}": v for k, v in layer.state_dict().items()}
            (work / "ip_adapter").mkdir()
            _save_tensors(state, work / "ip_adapter" / "ip_adapter.safetensors", dtype, int8)
        if prior.vocabulary is not None:
            prior.vocabulary.write(work)
        _write_json(index, work / "model_index.json")
        if target.exists():
            shutil.rmtree(target)
        os.replace(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _write_json(value: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _config(library: str, model: Any) -> dict[str, Any]:
    """What the `config.json` of a network holds, with the name of its class."""
    if library == "specularip":
        return model.to_config() | {"_class_name": type(model).__name__}
    if library == "diffusers":
        config = dict(model.config) | {"_class_name": type(model).__name__}
    else:
        config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    return {k: v for k, v in config.items() if k not in ("_name_or_path", "dtype", "torch_dtype")}


def _conv_autoencoder(prior: Prior) -> Any:
    """The prior's `ConvAutoencoder`; None if it has another autoencoder."""
    bare = getattr(prior.autoencoder, "_orig_mod", prior.autoencoder)
    return bare if isinstance(bare, ConvAutoencoder) else None


def _save_tensors(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype, int8: bool) -> None:
    tensors = {}
    for key, value in (quantise(state) if int8 else state).items():
        value = value.detach().cpu().contiguous()
        tensors[key] = value.to(dtype) if value.is_floating_point() else value
    save_file(tensors, str(path), metadata={"format": "pt"})
