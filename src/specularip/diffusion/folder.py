"""A prior's folder: diffusers' layout, read and written. Nothing in it is ever unpickled into objects.

- `model_index.json` names the components.
- `unet/`, `scheduler/`, `text_encoder/`, `tokenizer/` must be there.
- `vae/`: without it the UNet works on pixels.
- `controlnet/`: the pose ControlNet, if pose is not among the UNet's input channels.
- `image_encoder/`: a CLIPVisionModelWithProjection, with its `preprocessor_config.json`.
- `ip_adapter/`: one .safetensors (or published .bin) with `image_proj.*` and `ip_adapter.N.*`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import UserError
from .attention import ImageProjection, attach_identity, identity_layers
from .prior import CLIP_MEAN, CLIP_STD, Prior, pick_dtype

WEIGHTS = {"diffusers": "diffusion_pytorch_model.safetensors", "transformers": "model.safetensors"}


def load_prior(
    folder: str | PathLike[str], *, device: torch.device | str = "cpu", dtype: torch.dtype | str = "auto"
) -> Prior:
    """Read a prior, frozen and in eval mode, weights in `dtype` ("auto": see `pick_dtype`), channels last.

    Raises UserError for a missing part, weights that are not safetensors, and keys that are missing, unknown
    or of the wrong shape; each names the file and the key.
    """
    # Imported here: these take seconds, and `--help` or a wrong argument should not wait for them.
    from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextModel, CLIPVisionModelWithProjection

    root = Path(folder)
    if root.is_file():
        raise UserError(f"{root} is a file: a prior is a folder in diffusers' layout with model_index.json")
    if not root.is_dir():
        raise UserError(f"there is no prior folder {root}")
    index = _read_json(root / "model_index.json")
    for part in ("unet", "scheduler", "text_encoder", "tokenizer"):
        if not (root / part).is_dir():
            raise UserError(f"prior {root} has no {part}/ folder")
    for part, value in index.items():
        # Safety checkers and feature extractors are listed by published pipelines and not used here.
        used = part in ("vae", "controlnet", "image_encoder", "ip_adapter")
        if used and isinstance(value, list) and value[0] and not (root / part).is_dir():
            raise UserError(f"prior {root}: model_index.json lists {part}, but there is no {part}/ folder")

    unet = _load_model(UNet2DConditionModel, root / "unet")
    vae = _load_model(AutoencoderKL, root / "vae")
    controlnet = _load_model(ControlNetModel, root / "controlnet")
    text_encoder = _load_model(CLIPTextModel, root / "text_encoder")
    image_encoder = _load_model(CLIPVisionModelWithProjection, root / "image_encoder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(root / "tokenizer"), local_files_only=True)
    except Exception as error:  # transformers raises anything from KeyError to its own classes here
        raise UserError(f"cannot read the tokenizer in {root / 'tokenizer'}: {_first_line(error)}") from error
    schedule_path = root / "scheduler" / "scheduler_config.json"
    schedule = _read_json(schedule_path)
    # diffusers' default for a config that is silent would clamp latents, which have no such range.
    schedule.setdefault("clip_sample", vae is None)
    try:
        scheduler = DDIMScheduler.from_config(schedule)
    except (ValueError, NotImplementedError, TypeError) as error:
        raise UserError(f"cannot use {schedule_path}: {_first_line(error)}") from error
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(
            f"{schedule_path}: prediction_type must be epsilon or v_prediction, "
            f"not {scheduler.config.prediction_type}"
        )
    projection = None
    if (root / "ip_adapter").is_dir():
        if image_encoder is None:
            raise UserError(f"prior {root} has ip_adapter/ but no image_encoder/ folder")
        projection = _load_identity(unet, root / "ip_adapter", int(image_encoder.config.projection_dim))
    mean, std = CLIP_MEAN, CLIP_STD
    if image_encoder is not None and (root / "image_encoder" / "preprocessor_config.json").is_file():
        preprocess = _read_json(root / "image_encoder" / "preprocessor_config.json")
        mean = tuple(preprocess.get("image_mean", mean))
        std = tuple(preprocess.get("image_std", std))
    prior = Prior(
        unet, text_encoder, tokenizer, scheduler, vae, controlnet, image_encoder, projection, mean, std
    )
    if isinstance(dtype, str):
        dtype = pick_dtype(dtype, device)
    prior.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prior.eval().requires_grad_(False)


def save_prior(prior: Prior, folder: str | PathLike[str], dtype: torch.dtype = torch.float16) -> None:
    """Write `prior` as a folder that `load_prior` reads, weights in `dtype`. An existing folder is replaced.

    Everything goes to a temporary folder beside it first, so that a crash leaves no half of a prior.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        work.chmod(0o755)
        index: dict[str, Any] = {"_class_name": "SpecularIPPrior"}
        for part, library in (
            ("unet", "diffusers"),
            ("vae", "diffusers"),
            ("controlnet", "diffusers"),
            ("text_encoder", "transformers"),
            ("image_encoder", "transformers"),
        ):
            model = getattr(prior, part)
            if model is None:
                continue
            model = getattr(model, "_orig_mod", model)  # of a torch.compile'd one, the module itself
            index[part] = [library, type(model).__name__]
            state = {k: v for k, v in model.state_dict().items() if ".processor." not in k}
            (work / part).mkdir()
            _save_tensors(state, work / part / WEIGHTS[library], dtype)
            config = model.config
            config = config.to_dict() if library == "transformers" else dict(config)
            config = {k: v for k, v in config.items() if k not in ("_name_or_path", "dtype", "torch_dtype")}
            if library == "diffusers":
                config["_class_name"] = type(model).__name__
            _write_json(config, work / part / "config.json")
        index["tokenizer"] = ["transformers", type(prior.tokenizer).__name__]
        prior.tokenizer.save_pretrained(str(work / "tokenizer"))
        index["scheduler"] = ["diffusers", "DDIMScheduler"]
        prior.scheduler.save_pretrained(str(work / "scheduler"))
        if prior.image_encoder is not None:
            preprocess = {"image_mean": list(prior.face_mean), "image_std": list(prior.face_std)}
            _write_json(preprocess, work / "image_encoder" / "preprocessor_config.json")
        if prior.image_projection is not None:
            index["ip_adapter"] = ["specularip", "ImageProjection"]
            state = {f"image_proj.{k}": v for k, v in prior.image_projection.state_dict().items()}
            for name, layer in identity_layers(prior.unet).items():
                state |= {f"{name}.{k}": v for k, v in layer.state_dict().items()}
            (work / "ip_adapter").mkdir()
            _save_tensors(state, work / "ip_adapter" / "ip_adapter.safetensors", dtype)
        _write_json(index, work / "model_index.json")
        if target.exists():
            shutil.rmtree(target)
        os.replace(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' bars and warnings: what they warn of is raised by `_complain`."""
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: a prior is a folder in diffusers' layout") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {_first_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object")
    return value


def _write_json(value: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save_tensors(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    tensors = {}
    for key, value in state.items():
        value = value.detach().cpu().contiguous()
        tensors[key] = value.to(dtype) if value.is_floating_point() else value
    save_file(tensors, str(path), metadata={"format": "pt"})


def _load_model(cls: Any, folder: Path) -> Any:
    """One network by its library's own loader, with every key accounted for; None if there is no folder."""
    if not folder.is_dir():
        return None
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder / 'config.json'} is missing")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".ckpt", ".pt", ".pth"))
        raise UserError(
            f"{folder} holds no .safetensors weights"
            + (f" ({pickles[0]} is a pickle, which could run code: convert it)" if pickles else "")
        )
    for file in files:
        _check_safetensors(file)
    options: dict[str, Any] = {
        "local_files_only": True,
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    if cls.__module__.startswith("diffusers"):
        options["low_cpu_mem_usage"] = False  # needs accelerate, and hides keys of the wrong shape
    try:
        with _quiet():
            model, report = cls.from_pretrained(str(folder), **options)
    except Exception as error:  # both libraries raise a wide range; whatever it is, this folder is why
        raise UserError(f"cannot load {folder}: {_first_line(error)}") from error
    shapes = [f"{k[0]} is {list(k[1])}, must be {list(k[2])}" for k in report["mismatched_keys"]]
    _complain(files[0], sorted(report["missing_keys"]), sorted(report["unexpected_keys"]), shapes)
    return model


def _check_safetensors(path: Path) -> None:
    from safetensors import safe_open

    try:
        with safe_open(str(path), "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {_first_line(error)}") from error


def _complain(path: Path, missing: list[str], extra: list[str], shapes: list[str]) -> None:
    def some(keys: list[str]) -> str:
        return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")

    faults = []
    if missing:
        faults.append(f"misses {some(missing)}")
    if extra:
        faults.append(f"has unknown {some(extra)}")
    if shapes:
        faults.append(f"has wrong shapes: {some(shapes)}")
    if faults:
        raise UserError(f"{path} does not fit its config.json: it " + "; it ".join(faults))


def _load_identity(unet: nn.Module, folder: Path, embed_dim: int) -> ImageProjection:
    """Give `unet` the identity attention in `folder` and return its projection."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if len(files) != 1:
        raise UserError(f"{folder} must hold one .safetensors or .bin file, it holds {len(files)}")
    path = files[0]
    state = _read_adapter(path)
    if any(k.startswith("image_proj.perceiver_resampler.") or "_lora." in k for k in state):
        raise UserError(
            f"{path} has the FaceID-PlusV2 layout (perceiver_resampler, LoRA), which is not supported yet: "
            "use an adapter with image_proj.proj and image_proj.norm"
        )
    for key in ("image_proj.proj.weight", "image_proj.norm.weight"):
        if key not in state:
            raise UserError(f"{path} misses {key}: it is not an IP-Adapter file")
    context = len(state["image_proj.norm.weight"])
    rows = len(state["image_proj.proj.weight"])
    if rows % context:
        raise UserError(f"{path}: image_proj.proj.weight has {rows} rows, not a multiple of {context}")
    projection = attach_identity(unet, rows // context, embed_dim)
    parts: dict[str, nn.Module] = {"image_proj": projection, **identity_layers(unet)}
    wanted = {f"{part}.{k}": v for part, module in parts.items() for k, v in module.state_dict().items()}
    shapes = [
        f"{k} is {list(state[k].shape)}, must be {list(v.shape)}"
        for k, v in wanted.items()
        if k in state and state[k].shape != v.shape
    ]
    _complain(path, sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys()), shapes)
    for part, module in parts.items():
        module.load_state_dict({k: state[f"{part}.{k}"] for k in module.state_dict()})
    return projection


def _read_adapter(path: Path) -> dict[str, Tensor]:
    """Flat `image_proj.*` and `ip_adapter.*` tensors of a .safetensors or a published dict of two dicts."""
    if path.suffix == ".safetensors":
        _check_safetensors(path)
        return load_file(str(path))
    try:
        nested = torch.load(path, map_location="cpu", weights_only=True)
        flat = {f"{group}.{k}": v for group in nested for k, v in nested[group].items()}
    except Exception as error:  # UnpicklingError, EOFError, RuntimeError, or a shape that is not two dicts
        raise UserError(f"cannot read {path} as a dict of two dicts of tensors") from error
    if not all(isinstance(v, Tensor) for v in flat.values()):
        raise UserError(f"{path} holds values that are not tensors")
    return flat
