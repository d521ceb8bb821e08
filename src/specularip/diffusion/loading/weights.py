"""Weight files: read without running code from them, and assigned to a network key by key.

The libraries' own loaders are not used: they skip keys of the wrong shape, fill missing ones with random
numbers, and each reports it in its own way. Here every key of the file and of the network is accounted for.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from specularip.diffusion.loading.sources import in_hub_cache, pick_weights
from specularip.errors import DamagedFile, MissingWeights, UserError, first_line, one_line, quoted
from specularip.files import is_zip, utf8_name
from specularip.json_reading import parse_object
from specularip.torch_files import read_torch

PICKLES = (".bin", ".pt", ".pth")
"""Endings of files that torch.load reads with `weights_only=True`, which allows tensors and no code."""
LFS = b"version https://git-lfs"


def pick_dtype(name: str, device: torch.device | str) -> torch.dtype:
    """The dtype of the weights. "auto": float16 on CUDA, bfloat16 on CPUs that multiply it natively, else
    float32.

    name: "auto", "float32", "bfloat16" or "float16". Raises ValueError for another.
    """
    explicit = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name in explicit:
        return explicit[name]
    if name != "auto":
        raise ValueError(f"dtype must be auto, float32, bfloat16 or float16, got {name!r}")
    if torch.device(device).type == "cuda":
        return torch.float16
    # Private probes: absent in some builds, and without them float32 is the safe answer.
    probes = [getattr(torch.cpu, f"_is_{x}_supported", lambda: False) for x in ("avx512_bf16", "amx_tile")]
    native = torch.device(device).type == "cpu" and any(probe() for probe in probes)
    return torch.bfloat16 if native else torch.float32


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if the file is missing, unreadable or holds no object."""
    try:
        return parse_object(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: a prior is a folder in diffusers' layout") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except DamagedFile as error:
        raise UserError(f"{path} is damaged: it is not a JSON object ({error})") from error


def find_weights(folder: Path) -> list[Path]:
    """The weight files in the folder of one network: one, or the shards that its index lists.

    Raises UserError if there are none (MissingWeights within the hub's cache) or a shard is missing.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    name = pick_weights(names)
    if name is None:
        if in_hub_cache(folder):
            raise MissingWeights(f"{folder} holds no .safetensors weights: its download is incomplete")
        pickled = [name for name in names if Path(name).suffix == ".ckpt"]
        hint = f" ({pickled[0]} is a pickle, which could run code: convert it)" if pickled else ""
        raise UserError(f"{folder} holds no .safetensors weights{hint}")
    if not name.endswith(".index.json"):
        return [folder / name]
    index = read_json(folder / name).get("weight_map")
    shards = list(index.values()) if isinstance(index, dict) else []
    if not shards or not all(isinstance(shard, str) for shard in shards):
        raise UserError(f"{folder / name} lists no weights")
    for shard in sorted(set(shards)):
        if shard not in names:  # only in this folder: paths that lead elsewhere are not followed
            raise UserError(f"{folder / name} lists {quoted(shard)}, which is missing")
    return [folder / shard for shard in sorted(set(shards))]


def _read_start(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def check_file(path: Path) -> None:
    """Raise UserError for what is not a weight file, by its ending and its first bytes."""
    if path.suffix == ".ckpt":
        raise UserError(
            f"{path} is a .ckpt pickle, which could run code when it is read: "
            "use the .safetensors of the same model"
        )
    if path.suffix not in (".safetensors", *PICKLES):
        raise UserError(f"{path} is not a file of weights: use .safetensors, or a published .bin")
    start = _read_start(path, len(LFS))
    if not start:
        raise UserError(f"{path} is empty: download it again")
    if start == LFS:
        raise UserError(f"{path} is only git's pointer to the file: run `git lfs pull`, or download it")


def read_weights(path: Path) -> dict[str, Any]:
    """The content of a weight file: tensors by name; a published .bin may hold dicts of them.

    Tensors are mapped from the file, where its format allows, and their bytes are read on first use. Raises
    UserError for a file that is truncated, of another format, or a pickle of more than tensors.
    """
    check_file(path)
    if path.suffix == ".safetensors":
        try:
            with utf8_name(path) as name:
                return dequantise(load_file(name), path)
        except (SafetensorError, OSError, RuntimeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{path} is not a complete safetensors file: {first_line(error)}; download it again"
            ) from error
    if not is_zip(path) and _read_start(path, 2) == b"PK":
        raise UserError(f"{path} is truncated: download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of problems that are raised below
            state = read_torch(path)
    except Exception as error:  # UnpicklingError, EOFError, RuntimeError, OSError...
        reason = "it holds more than tensors, which could run code; use a .safetensors of the same model"
        if "weights_only" not in str(error).lower() and "unsupported global" not in str(error).lower():
            reason = first_line(error)
        raise UserError(f"cannot read {path} as tensors: {reason}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise UserError(f"{path} holds no tensors by name")
    return state


SCALE = ".scale"
"""Ending of the key with the scales of an int8 tensor."""
QUANTISED_ABOVE = 4096
"""Smaller tensors stay in floating point."""


def quantise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels as int8 with one float16 scale for each row, that is, each output channel: the
    largest magnitude of a row is 127 times its scale `<name>.scale` [rows]. All else is unchanged."""
    small: dict[str, Tensor] = {}
    for key, value in state.items():
        if value.ndim < 2 or value.numel() <= QUANTISED_ABOVE or not value.is_floating_point():
            small[key] = value
            continue
        rows = value.detach().float().flatten(1)
        scale = (rows.abs().amax(1) / 127).half()
        # Divided by the scale as stored, so that its own rounding is made up for.
        steps = (rows / scale.float().clamp_min(1e-12)[:, None]).round().clamp(-127, 127)
        small[key], small[key + SCALE] = steps.to(torch.int8).reshape(value.shape), scale
    return small


def dequantise(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The inverse of `quantise`, in float16. Raises UserError for scales that do not fit, naming the file."""
    for key in [key for key, value in state.items() if value.dtype == torch.int8]:
        value, scale = state[key], state.pop(key + SCALE, None)
        if scale is not None:  # else `fill` refuses the tensor
            if scale.shape != value.shape[:1] or not scale.is_floating_point():
                raise UserError(
                    f"{path}: {key}{SCALE} is {list(scale.shape)} of {scale.dtype}, must be one float for "
                    f"each row of {key} {list(value.shape)}"
                )
            if not bool(scale.isfinite().all()):
                raise UserError(f"{path}: {key}{SCALE} is not finite: download the file again")
            state[key] = value * scale.half().reshape(-1, *[1] * (value.ndim - 1))
    return state


def read_tensors(paths: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of several weight files, by name. Raises UserError as `read_weights`."""
    state: dict[str, Tensor] = {}
    for path in paths:
        part = read_weights(path)
        wrong = [key for key, value in part.items() if not isinstance(value, Tensor)]
        if wrong:
            raise UserError(f"{path} holds {wrong[0]:.60}, which is not a tensor")
        state |= part
    return state


def recognise(state: Mapping[str, Any]) -> str:
    """The kind of model that a file's keys belong to, for error messages; "" if unknown."""
    keys = list(state)

    def any_key(pattern: str) -> bool:
        return any(re.search(pattern, key) for key in keys)

    context = next((v for k, v in state.items() if k.endswith("attn2.to_k.weight")), None)
    width = int(context.shape[-1]) if isinstance(context, Tensor) and context.ndim == 2 else 0
    kinds = {
        "SDXL weights": any_key(r"^conditioner\.embedders\.|^add_embedding\.|label_emb\.") or width == 2048,
        "Stable Diffusion 3 weights": any_key(r"joint_(transformer_)?blocks\."),
        "Flux weights": any_key(r"double_blocks\.|single_transformer_blocks\."),
        "Stable Diffusion 2 weights": width == 1024,
        "a LoRA": any_key(r"lora_(te|unet)|\.lora_[AB]\."),
        "an IP-Adapter": any_key(r"^(image_proj|ip_adapter)(\.|$)"),
        "a ControlNet": any_key(r"^control_model\.|^controlnet_cond_embedding\."),
        "a whole Stable Diffusion checkpoint": any_key(r"^model\.diffusion_model\."),
        "a UNet": any_key(r"^(up_blocks|output_blocks)\.\d+\.(attentions|1\.)"),
        "a VAE": any_key(r"^(decoder|first_stage_model)\."),
        "a CLIP vision tower": any_key(r"^vision_model\."),
        "a text encoder": any_key(r"^text_model\.|^encoder\.layer\.\d+\.attention\.self\."),
    }
    return next((kind for kind, found in kinds.items() if found), "")


def check_keys(
    path: Path, missing: Sequence[str], extra: Sequence[str], shapes: Sequence[str], kind: str = ""
) -> None:
    """Raise UserError, in one line, if any keys are missing, unknown (extra) or of the wrong shape.

    kind: what the file seems to be instead (see `recognise`).
    """

    def some(keys: Sequence[str]) -> str:
        return ", ".join(one_line(key, 120) for key in keys[:3]) + (
            f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        )

    faults = []
    if missing:
        faults.append(f"misses {some(missing)}")
    if extra:
        faults.append(f"has unknown {some(extra)}")
    if shapes:
        faults.append(f"has wrong shapes: {some(shapes)}")
    if faults:
        fit = f"looks like {kind}, which is not what is needed here" if kind else "does not fit its network"
        raise UserError(f"{path} {fit}: it " + "; it ".join(faults))


Names = Callable[[str], Sequence[str]]
"""The names that a file may use for a network's key, the usual one first."""


def fill(
    model: nn.Module,
    state: Mapping[str, Tensor],
    path: Path,
    names: Names = lambda key: (key,),
    ignore: str | None = None,
    itself: str = "",
) -> None:
    """Assign the tensors of a file to a network, without copies and in their dtype and on their device.

    names: maps a key of the network to its possible names in the file. ignore: pattern of keys in the file
    that are not needed. path: the file, for the error. itself: the result of `recognise` for this kind. The
    network may be on the meta device. Raises UserError unless every key is accounted for and has the right
    shape.
    """
    wanted = model.state_dict()
    found: dict[str, Tensor] = {}
    missing, shapes, used = [], [], set()
    for key, value in wanted.items():
        options = names(key)
        name = next((option for option in options if option in state), None)
        if name is None:
            missing.append(options[0])
            continue
        used.add(name)
        tensor = state[name]
        if tensor.ndim == value.ndim + 2 and tensor.shape[-2:] == (1, 1):
            tensor = tensor[..., 0, 0]  # old VAEs store attention's linear layers as 1x1 convolutions
        if tensor.shape != value.shape:
            shapes.append(f"{name} is {list(tensor.shape)}, must be {list(value.shape)}")
        if not tensor.is_floating_point():
            raise UserError(
                f"{path}: {name} is {tensor.dtype}: only int8 with its {SCALE} is a quantised weight here"
            )
        found[key] = tensor
    extra = sorted(k for k in state.keys() - used if ignore is None or not re.match(ignore, k))
    faulty = len(missing) + len(extra) > 8 or len(shapes) > 8
    kind = recognise(state) if faulty else ""
    check_keys(path, sorted(missing), extra, sorted(shapes), kind if kind != itself else "")
    model.load_state_dict(found, assign=True)
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            owner, _, leaf = name.rpartition(".")
            count = buffer.shape[-1]
            constants = {"position_ids": torch.arange(count), "token_type_ids": torch.zeros(count).long()}
            if leaf not in constants:
                raise UserError(f"{path}: the installed library needs {name}, which weight files do not hold")
            setattr(model.get_submodule(owner), leaf, constants[leaf][None])


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' progress bars and warnings; `check_keys` raises errors instead."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        if bars:
            transformers_logging.enable_progress_bar()
