"""LPIPS (Zhang et al., 2018), version 0.1 on VGG-16: the network, and the location of its weights.

Users download the weights themselves: VGG-16 as torch hub ships it and the five linear heads of LPIPS, as
.safetensors or plain state dicts. They are read from the folder named by SPECULARIP_LPIPS, or from
~/.cache/specularip/lpips.

Torch is imported inside the functions: listing a preset's models does not need it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from specularip.errors import DamagedFile, UserError, first_line
from specularip.files import utf8_name
from specularip.torch_files import read_torch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LPIPS_FOLDER = "~/.cache/specularip/lpips"
LPIPS_VARIABLE = "SPECULARIP_LPIPS"
"""Environment variable that names another folder."""
LPIPS_URLS = (
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth",
)
"""The published files; each is stored under the last part of its URL."""
NO_LPIPS = (
    f"LPIPS weights are not in {LPIPS_FOLDER}: download them with specularip models fetch --preset sd15, "
    f"or set {LPIPS_VARIABLE} to their folder"
)
"""Message for the user when `find_lpips` returns None."""

VGG_CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Indices of VGG-16's convolutions in torch hub's `features`, by block; a max pool separates the blocks."""
VGG_WIDTHS = (64, 128, 256, 512, 512)
"""Output channels of each block."""
# LPIPS normalises images in -1..1 by these.
VGG_SHIFT, VGG_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def lpips_folder() -> Path:
    """The folder that `find_lpips` reads; it need not exist."""
    return Path(os.path.expanduser(os.environ.get(LPIPS_VARIABLE) or LPIPS_FOLDER))


def find_lpips(device: torch.device | str = "cpu") -> Lpips | None:
    """LPIPS on `device`, or None where no weights were downloaded (`NO_LPIPS` is the message for that case).

    Raises UserError if SPECULARIP_LPIPS names a folder without complete weights, or if either folder's files
    are incomplete or unreadable.
    """
    folder = lpips_folder()
    state = _read_folder(folder)
    if not state and not os.environ.get(LPIPS_VARIABLE):
        return None
    return Lpips(_lpips_weights(state, folder), device)


class Lpips:
    """The LPIPS network. Its per-channel weights are folded into the features as their square roots, so that
    the distance is a plain squared difference, and features of fixed targets need computing only once."""

    name = "lpips-vgg"

    def __init__(self, weights: dict[str, Tensor], device: torch.device | str = "cpu") -> None:
        """weights: `features.N.weight` [C_out,C_in,3,3], `features.N.bias` [C_out] and `linK` [C]."""
        import torch

        self.weights = {k: v.to(device, torch.float32) for k, v in weights.items()}
        self._shift, self._scale = (
            torch.tensor(v, device=device)[:, None, None] for v in (VGG_SHIFT, VGG_SCALE)
        )
        if torch.device(device).type == "cuda":
            for name, weight in self.weights.items():
                if weight.ndim == 4:
                    self.weights[name] = weight.contiguous(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> list[Tensor]:
        """Features [B,C_l,h_l,w_l] float32 of images [B,3,H,W] or [B,4,H,W] (alpha is ignored) in 0..1, one
        tensor a layer: unit length over the channels, times the root of LPIPS' weights. Differentiable."""
        import torch
        import torch.nn.functional as F

        x = (images[:, :3].float() * 2 - 1 - self._shift) / self._scale
        if x.is_cuda:  # convolutions are fastest in this layout
            x = x.contiguous(memory_format=torch.channels_last)
        found = []
        for k, block in enumerate(VGG_CONVOLUTIONS):
            if k:
                x = F.max_pool2d(x, 2)
            for n in block:
                weight, bias = self.weights[f"features.{n}.weight"], self.weights[f"features.{n}.bias"]
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            found.append(unit_channels(x) * self.weights[f"lin{k}"].clamp_min(0).sqrt()[:, None, None])
        return found

    def distance(self, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
        """LPIPS between the images of two `features`, mean over the batch; a scalar."""
        return feature_distance(features_a, features_b)


def unit_channels(x: Tensor) -> Tensor:
    """[B,C,h,w] scaled to unit length over the channels; an epsilon keeps the gradient finite at 0."""
    return x * (x.square().sum(1, keepdim=True) + 1e-10).rsqrt()


def feature_distance(features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
    """Squared difference of features [B,C_l,h_l,w_l], summed over channels, mean over pixels and images,
    summed over layers; a scalar. Raises ValueError for different numbers of layers."""
    import torch

    if len(features_a) != len(features_b):
        counts = f"{len(features_a)} and {len(features_b)}"
        raise ValueError(f"features_a and features_b must come from one network, got {counts} layers")
    terms = [(a - b).square().sum(1).mean() for a, b in zip(features_a, features_b)]
    return torch.stack(terms).sum()


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of all weight files in `folder` by their keys; {} if there is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    if not folder.is_dir():
        return state
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix == ".safetensors":
                with utf8_name(path) as name:
                    state |= load_file(name)
            elif path.suffix in (".pth", ".pt", ".bin"):
                state |= read_torch(path)
        except (
            *(SafetensorError, DamagedFile, OSError, EOFError, RuntimeError),
            *(TypeError, ValueError, OverflowError, MemoryError),
        ) as error:
            raise UserError(f"cannot read {path}: {first_line(error)}; download it again") from error
        except Exception as error:  # pickle.UnpicklingError: the file holds code, which is never run
            raise UserError(f"{path} is not a plain state dict of tensors; download it again") from error
    return state


def _lpips_weights(state: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The convolutions and heads of LPIPS from `state`, heads as `linK` [C]."""
    channels = 3
    weights: dict[str, Tensor] = {}
    for k, block in enumerate(VGG_CONVOLUTIONS):
        wanted: dict[str, tuple[int, ...]] = {}
        for n in block:
            wanted[f"features.{n}.weight"] = (VGG_WIDTHS[k], channels, 3, 3)
            wanted[f"features.{n}.bias"] = (VGG_WIDTHS[k],)
            channels = VGG_WIDTHS[k]
        # In the published state dict, a dropout layer comes first: lin0.model.1.weight.
        head = f"lin{k}.model.1.weight"
        wanted[head] = (1, channels, 1, 1)
        for key, shape in wanted.items():
            found = state.get(key)
            if found is None and key == head and f"lins.{k}.model.1.weight" in state:
                found = state[f"lins.{k}.model.1.weight"]
            if found is None or found.shape != shape:
                what = "lacks" if found is None else f"has {list(found.shape)}, not {list(shape)}, for"
                raise UserError(
                    f"LPIPS weights in {folder}: the folder {what} {key}; "
                    f"put torch hub's vgg16 and LPIPS' v0.1/vgg.pth there, or unset {LPIPS_VARIABLE}"
                )
            weights[f"lin{k}" if key == head else key] = found.flatten() if key == head else found
    return weights
