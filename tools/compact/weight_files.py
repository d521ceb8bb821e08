"""What was trained, in files that are small enough to be carried from machine to machine.

`weights-0.safetensors` and so on hold the trained tensors of a `Prior` by their names in its state: matrices
as int8 with a scale for each row (`quantise`), the others as float16. What comes with the text encoder is not
among them. `python tools/compact/assemble.py` makes a prior's folder of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from networks import TRAINED_TEXT_LAYERS
from safetensors.torch import save_file
from torch import Tensor

from specularip.diffusion.loading.weights import SCALE, quantise, read_tensors
from specularip.diffusion.prior import Prior

LIMIT = 31 << 19
"""Most bytes in a file: 15.5 MiB."""
AUTOENCODER = "autoencoder."


def trained(prior: Prior) -> dict[str, Tensor]:
    """The tensors of a prior that training changes, by name."""
    layers = prior.text_encoder.config.num_hidden_layers
    top = tuple(f"text_encoder.encoder.layer.{i}." for i in range(layers - TRAINED_TEXT_LAYERS, layers))
    prefixes = ("denoiser.", "image_projection.", "image_encoder.", AUTOENCODER, *top)
    return {name: x for name, x in prior.state_dict().items() if name.startswith(prefixes)}


def save_weights(tensors: dict[str, Tensor], out: Path, name: str = "weights") -> None:
    """Write tensors as NAME-0.safetensors and so on; each file is replaced at once."""
    parts: list[dict[str, Tensor]] = [{}]
    stored = quantise(tensors)
    for key in tensors:
        packed = {k: stored[k] for k in (key, key + SCALE) if k in stored}
        packed = {k: (x if x.dtype == torch.int8 else x.half()).cpu().contiguous() for k, x in packed.items()}
        if sum(x.nbytes for x in (*parts[-1].values(), *packed.values())) > LIMIT - (64 << 10):
            parts.append({})
        parts[-1] |= packed
    for i, part in enumerate(parts):
        temporary = out / f".{name}-{i}.tmp"
        save_file(part, temporary)
        os.replace(temporary, out / f"{name}-{i}.safetensors")


def load_autoencoder(prior: Prior, files: Iterable[Path]) -> None:
    """Fill the autoencoder from files of `save_weights`, of a whole prior or of the autoencoder alone."""
    state = read_tensors(list(files))
    wanted = prior.autoencoder.state_dict()
    found = {name: x.float() for key, x in state.items() if (name := key.removeprefix(AUTOENCODER)) in wanted}
    prior.autoencoder.load_state_dict(found)


def load_trained(prior: Prior, files: Iterable[Path]) -> None:
    """Fill everything that is trained from files of `save_weights`. Raises ValueError for other contents."""
    copy_trained(read_tensors(list(files)), prior)


def copy_trained(state: Mapping[str, Tensor], prior: Prior) -> None:
    """Fill everything that is trained from tensors by name. Raises ValueError for other names."""
    wanted = trained(prior)
    if state.keys() != wanted.keys():
        odd = sorted(state.keys() ^ wanted.keys())
        raise ValueError(
            f"the weights have {len(state)} of {len(wanted)} tensors; differing: {', '.join(odd[:3])}"
        )
    for name, value in state.items():
        wanted[name].copy_(value)
