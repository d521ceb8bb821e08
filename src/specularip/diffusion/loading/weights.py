"""Files of weights, read without running anything in them, and poured into a network key by key.

The libraries' own loaders are not used: they read over keys of the wrong shape, fill what is missing with
random numbers, and each says so in its own way. Here every key of a file and of a network is accounted for.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from specularip.diffusion.loading.sources import pick_weights
from specularip.errors import UserError

PICKLES = (".bin", ".pt", ".pth")
"""Files that torch.load reads with `weights_only=True`: tensors and nothing that could run."""
LFS = b"version https://git-lfs"


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: a prior is a folder in diffusers' layout") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object")
    return value


def find_weights(folder: Path) -> list[Path]:
    """The files of weights in a folder of one network: one, or the pieces that its index lists."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    name = pick_weights(names)
    if name is None:
        pickled = [name for name in names if Path(name).suffix == ".ckpt"]
        hint = f" ({pickled[0]} is a pickle, which could run code: convert it)" if pickled else ""
        if "snapshots" in folder.parts:  # the hub's cache
            hint = ", its download is not complete: run `specularip models fetch --preset sd15`"
        raise UserError(f"{folder} holds no .safetensors weights{hint}")
    if not name.endswith(".index.json"):
        return [folder / name]
    index = read_json(folder / name).get("weight_map")
    pieces = list(index.values()) if isinstance(index, dict) else []
    if not pieces or not all(isinstance(piece, str) for piece in pieces):
        raise UserError(f"{folder / name} lists no weights")
    for piece in sorted(set(pieces)):
        if piece not in names:  # in this folder: not where a path in the index may lead
            raise UserError(f"{folder / name} lists {piece}, which is missing")
    return [folder / piece for piece in sorted(set(pieces))]


def _begins(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def check_file(path: Path) -> None:
    """UserError for what is no file of weights, or cannot be one, without reading it."""
    if path.suffix == ".ckpt":
        raise UserError(
            f"{path} is a .ckpt pickle, which could run code when it is read: "
            "use the .safetensors of the same model"
        )
    if path.suffix not in (".safetensors", *PICKLES):
        raise UserError(f"{path} is not a file of weights: use .safetensors, or a published .bin")
    start = _begins(path, len(LFS))
    if not start:
        raise UserError(f"{path} is empty: download it again")
    if start == LFS:
        raise UserError(f"{path} is only git's pointer to the file: run `git lfs pull`, or download it")


def read_weights(path: Path) -> dict[str, Any]:
    """What a file of weights holds: tensors by name, in a published .bin perhaps dicts of them.

    Raises UserError for a file that is cut short, of another kind, or a pickle of more than tensors.
    """
    check_file(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(str(path))
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is not a whole safetensors file: {first_line(error)}; download it again"
            ) from error
    whole = zipfile.is_zipfile(path)
    if not whole and _begins(path, 2) == b"PK":
        raise UserError(f"{path} is not whole, its end is missing: download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is then raised
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=whole)
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


def read_tensors(paths: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of some files, by name."""
    state: dict[str, Tensor] = {}
    for path in paths:
        part = read_weights(path)
        wrong = [key for key, value in part.items() if not isinstance(value, Tensor)]
        if wrong:
            raise UserError(f"{path} holds {wrong[0]:.60}, which is not a tensor")
        state |= part
    return state


def recognise(state: Mapping[str, Any]) -> str:
    """What a file seems to be, for a message about a wrong one; "" if nothing is known by these keys."""
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
        "a text encoder": any_key(r"^text_model\."),
    }
    return next((kind for kind, found in kinds.items() if found), "")


def complain(
    path: Path, missing: Sequence[str], extra: Sequence[str], shapes: Sequence[str], kind: str = ""
) -> None:
    """Raise the one line about keys that are missing, unknown, or of the wrong shape, if there are any.

    kind: what the file seems to be instead (see `recognise`).
    """

    def some(keys: Sequence[str]) -> str:
        return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")

    faults = []
    if missing:
        faults.append(f"misses {some(missing)}")
    if extra:
        faults.append(f"has unknown {some(extra)}")
    if shapes:
        faults.append(f"has wrong shapes: {some(shapes)}")
    if faults:
        fit = f"looks like {kind}, not like what is needed here" if kind else "does not fit its network"
        raise UserError(f"{path} {fit}: it " + "; it ".join(faults))


Names = Callable[[str], Sequence[str]]
"""The names that a network's key may go by in a file, the usual one first."""


def fill(
    model: nn.Module,
    state: Mapping[str, Tensor],
    path: Path,
    names: Names = lambda key: (key,),
    ignore: str | None = None,
    itself: str = "",
) -> None:
    """Give a network the tensors of a file, as they are (no copy, the file's dtype), every key accounted for.

    names: how the network's keys are called in the file. ignore: pattern of keys of the file that are known
    and not needed. path: the file, for the error. itself: what `recognise` calls such a network. The network
    may stand on torch's meta device.
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
            tensor = tensor[..., 0, 0]  # old VAEs have their attention's linear layers as 1x1 convolutions
        if tensor.shape != value.shape:
            shapes.append(f"{name} is {list(tensor.shape)}, must be {list(value.shape)}")
        if not tensor.is_floating_point():
            raise UserError(f"{path}: {name} is {tensor.dtype}: weights that are not quantised are needed")
        found[key] = tensor
    extra = sorted(k for k in state.keys() - used if ignore is None or not re.match(ignore, k))
    faulty = len(missing) + len(extra) > 8 or len(shapes) > 8
    kind = recognise(state) if faulty else ""
    complain(path, sorted(missing), extra, sorted(shapes), kind if kind != itself else "")
    model.load_state_dict(found, assign=True)
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            owner, _, leaf = name.rpartition(".")
            if leaf != "position_ids":
                raise UserError(f"{path}: this version of the library needs {name}, which no file holds")
            setattr(model.get_submodule(owner), leaf, torch.arange(buffer.shape[-1])[None])


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' bars and warnings: what they warn of is raised by `complain`."""
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
