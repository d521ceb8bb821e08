"""The perceptual loss of SCR, between renders and refined views.

It is LPIPS (Zhang et al., 2018) where its weights are present. They are the user's to fetch:
VGG-16 as torch hub ships it and LPIPS' five linear heads, as .safetensors or plain state dicts, in the folder
that SPECULARIP_LPIPS names or in ~/.cache/specularip/lpips. Without them, the first layers of the prior's own
UNet take VGG's place: it has learned what people look like, and is loaded anyway.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from specularip.errors import UserError

if TYPE_CHECKING:
    from specularip.diffusion.prior import Prior

LPIPS_FOLDER = Path("~/.cache/specularip/lpips")
LPIPS_VARIABLE = "SPECULARIP_LPIPS"

UNET_TIMESTEP = 50
"""Where the UNet is asked for features: late in denoising, when it attends to surface rather than layout."""
UNET_BLOCKS = 3
"""How many down blocks are run; the deeper ones cost little but say more of pose than of look."""

VGG_CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Convolutions of VGG-16 by their number in torch hub's `features`; a max pool stands between two groups."""
# LPIPS' own normalisation, of images in -1..1.
VGG_SHIFT, VGG_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Perceptual:
    """How far apart two images look: the distance of deep features, by whichever network is at hand.

    `name` says which: "lpips-vgg" or "unet-features". Features of fixed targets can be kept and used again.
    """

    name = "unet-features"

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        with torch.no_grad():
            self._text = prior.encode_text([""])

    @staticmethod
    def load(prior: Prior) -> Perceptual:
        """LPIPS where its weights are present, else features of `prior`'s UNet.

        Raises UserError if SPECULARIP_LPIPS names a folder without whole weights, or either folder's files
        cannot be read.
        """
        return Lpips.find(prior.device) or Perceptual(prior)

    def features(self, images: Tensor) -> list[Tensor]:
        """Features [B,C_l,h_l,w_l] float32 of images [B,3,S,S] or [B,4,S,S] (RGB over the background, and
        alpha) in 0..1, one tensor a layer, each pixel's channels of unit length. Differentiable.

        Only conv_in, the time embedding and the first down blocks of the UNet run, on the image without
        noise, with no words, no face and no pose. A prior of images with alpha needs 4 channels.
        """
        prior, unet = self.prior, self.prior.denoiser.unet
        latents = prior.encode_image(images[:, : prior.image_channels])
        t = torch.full((len(images),), UNET_TIMESTEP, device=prior.device)
        x = prior.alphas(t).sqrt() * latents
        if prior.denoiser.controlnet is None and prior.pose_channels:
            x = torch.cat([x, x.new_zeros(len(x), prior.pose_channels, *x.shape[-2:])], 1)
        x = x.to(prior.dtype).contiguous(memory_format=torch.channels_last)
        time = unet.time_embedding(unet.time_proj(t).to(prior.dtype))
        text = self._text.to(prior.dtype).expand(len(images), -1, -1)
        x = unet.conv_in(x)
        found = []
        for block in unet.down_blocks[:UNET_BLOCKS]:
            words: dict[str, Any] = {}
            if getattr(block, "has_cross_attention", False):
                words = {"encoder_hidden_states": text}
            x, states = block(x, time, **words)
            # The last state before the block shrinks: the downsampled one is a linear map of it.
            found.append(states[-2] if block.downsamplers is not None else states[-1])
        return [_unit(state.float()) for state in found]

    def distance(self, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
        """Squared distance of `features`, mean over pixels and images, summed over layers; a scalar."""
        if len(features_a) != len(features_b):
            counts = f"{len(features_a)} and {len(features_b)}"
            raise ValueError(f"features_a and features_b must come from one network, got {counts} layers")
        terms = [(a - b).square().sum(1).mean() for a, b in zip(features_a, features_b)]
        return torch.stack(terms).sum()


class Lpips(Perceptual):
    """LPIPS v0.1 on VGG-16. Its per-channel weights are folded into the features as their square roots, so
    that the distance is the plain one."""

    name = "lpips-vgg"

    def __init__(self, weights: dict[str, Tensor], device: torch.device | str = "cpu") -> None:
        """weights: `features.N.weight`, `features.N.bias` and `linK` [C], see `_lpips_weights`."""
        self.weights = {k: v.to(device, torch.float32) for k, v in weights.items()}
        self._shift, self._scale = (
            torch.tensor(v, device=device)[:, None, None] for v in (VGG_SHIFT, VGG_SCALE)
        )
        if torch.device(device).type == "cuda":
            for name, weight in self.weights.items():
                if weight.ndim == 4:
                    self.weights[name] = weight.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def find(device: torch.device | str = "cpu") -> Lpips | None:
        """LPIPS where its weights are present, else None. Raises UserError as `Perceptual.load` does."""
        asked = os.environ.get(LPIPS_VARIABLE)
        folder = Path(os.path.expanduser(asked or LPIPS_FOLDER))
        state = _read_folder(folder)
        return Lpips(_lpips_weights(state, folder), device) if state or asked else None

    def features(self, images: Tensor) -> list[Tensor]:
        """As of the base class, from the image's colours alone; a pixel's channels are weighted by LPIPS."""
        x = (images[:, :3].float() * 2 - 1 - self._shift) / self._scale
        if x.is_cuda:  # the layout that its convolutions are fast in
            x = x.contiguous(memory_format=torch.channels_last)
        found = []
        for k, group in enumerate(VGG_CONVOLUTIONS):
            if k:
                x = F.max_pool2d(x, 2)
            for n in group:
                weight, bias = self.weights[f"features.{n}.weight"], self.weights[f"features.{n}.bias"]
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            found.append(_unit(x) * self.weights[f"lin{k}"].clamp_min(0).sqrt()[:, None, None])
        return found


def _unit(x: Tensor) -> Tensor:
    """Channels of [B,C,h,w] scaled to unit length; the floor keeps the gradient finite where all are 0."""
    return x * (x.square().sum(1, keepdim=True) + 1e-10).rsqrt()


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of all weight files in `folder` by their keys; {} if there is none."""
    state: dict[str, Tensor] = {}
    if not folder.is_dir():
        return state
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix == ".safetensors":
                state |= load_file(str(path))
            elif path.suffix in (".pth", ".pt", ".bin"):
                state |= torch.load(path, map_location="cpu", weights_only=True)
        except (SafetensorError, OSError, EOFError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}; fetch it again") from error
        except Exception as error:  # pickle.UnpicklingError: code in the file, which is never run
            raise UserError(f"{path} is not a plain state dict of tensors; fetch it again") from error
    return state


def _lpips_weights(state: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The convolutions and heads of LPIPS out of `state`, heads as `linK` [C]."""
    widths, channels = (64, 128, 256, 512, 512), 3
    weights: dict[str, Tensor] = {}
    for k, group in enumerate(VGG_CONVOLUTIONS):
        wanted: dict[str, tuple[int, ...]] = {}
        for n in group:
            wanted[f"features.{n}.weight"] = (widths[k], channels, 3, 3)
            wanted[f"features.{n}.bias"] = (widths[k],)
            channels = widths[k]
        # The published heads hide behind a dropout: lin0.model.1.weight.
        head = f"lin{k}.model.1.weight"
        wanted[head] = (1, channels, 1, 1)
        for key, shape in wanted.items():
            found = state.get(key)
            if found is None and key == head and f"lins.{k}.model.1.weight" in state:
                found = state[f"lins.{k}.model.1.weight"]
            if found is None or found.shape != shape:
                what = "misses" if found is None else f"has {list(found.shape)}, not {list(shape)}, for"
                raise UserError(
                    f"LPIPS weights in {folder}: the folder {what} {key}; "
                    "put torch hub's vgg16 and LPIPS' v0.1/vgg.pth there, or unset " + LPIPS_VARIABLE
                )
            weights[f"lin{k}" if key == head else key] = found.flatten() if key == head else found
    return weights
