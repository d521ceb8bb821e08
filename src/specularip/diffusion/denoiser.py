"""The denoiser: a noisy image and its conditioning in, the network's prediction out.

`Denoiser` is the protocol. `UNetDenoiser` implements it with diffusers' modules and is differentiable in
everything; `fast.denoiser.FastDenoiser` is its GPU implementation without gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specularip.diffusion.attention import KeyViews, for_branches, identity_layers, install_attention
from specularip.diffusion.resizing import resize


@dataclass(frozen=True)
class PoseFeatures:
    """Pose images of V views after the ControlNet's embedding layers; see `Denoiser.encode_pose`.

    values [V,h,w,C]; ready: on a GPU, the event to wait for before they are used.
    """

    values: Tensor
    ready: torch.cuda.Event | None = None

    def get(self) -> Tensor:
        """The values [V,h,w,C], safe to use on the current stream."""
        if self.ready is not None:
            torch.cuda.current_stream(self.values.device).wait_event(self.ready)
        return self.values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Tensor | slice | list[int]) -> PoseFeatures:
        return PoseFeatures(self.get()[index])


DRAWING_CHANNELS = 3
"""Channels of a drawing of the skeleton: RGB on black."""

BODY_MAP_CHANNELS = 4
"""Channels of a body map: where on the body a pixel is (3), and whether the body covers it."""

Pose = Tensor | PoseFeatures | None
"""Of V views: pose images [V,P,S,S] in 0..1 (drawings or body maps); their features; or no pose."""


@dataclass(frozen=True)
class DenoiserInputs:
    """Inputs of the denoiser for V noisy images (views) and B >= V evaluations.

    noisy [V,C,h,w]; timesteps [V]; text [B,T,D] embeddings; pose of V views; identity [B,n,D]: identity
    tokens, or None; identity_scale [B]: their weight, 0 where the face is hidden (None: 1); key_views: keys
    and values shared between views.

    B may exceed V, for several prompts and faces of each noisy image, branch-major: evaluation i is of view
    i mod V.
    """

    noisy: Tensor
    timesteps: Tensor
    text: Tensor
    pose: Pose = None
    identity: Tensor | None = None
    identity_scale: Tensor | None = None
    key_views: KeyViews | None = None


class Denoiser(Protocol):
    """A UNet and, if it has one, its pose ControlNet."""

    @property
    def unet(self) -> Any:
        """UNet2DConditionModel."""

    @property
    def controlnet(self) -> Any:
        """ControlNetModel or None."""

    @property
    def pose_channels(self) -> int:
        """Channels of the pose images; 0: not conditioned on pose."""

    @property
    def pose_scale(self) -> int:
        """Side of a pose image over that of the noisy image."""

    def __call__(self, inputs: DenoiserInputs) -> Tensor:
        """The network's prediction (ε or v), [B,C,h,w] float32. Raises ValueError for unsuitable poses."""

    def encode_pose(self, pose: Pose, latent_size: int) -> Pose:
        """Precompute pose features [V,h,w,C] for several calls, for latents of side `latent_size`.

        Returns what to pass as `DenoiserInputs.pose`: features, or `pose` unchanged.
        """

    def release_graphs(self) -> None:
        """Free captured CUDA graphs and their memory, as when the batch shape is about to change."""


def concatenated_pose(channels: int) -> tuple[int, int]:
    """What a UNet's `channels` more input than output channels are for: the channels of the pose images, and
    their side over that of the noisy image.

    None take no pose, 3 a drawing of the same size, 4 n² a body map of n times the side, n x n pixels of
    which are folded into channels. Raises ValueError for any other number.
    """
    if channels in (0, DRAWING_CHANNELS):
        return channels, 1
    scale = math.isqrt(max(channels, 0) // BODY_MAP_CHANNELS)
    if channels != BODY_MAP_CHANNELS * scale**2:
        raise ValueError(f"{channels} more input than output channels are for no known pose image")
    return BODY_MAP_CHANNELS, scale


class UNetDenoiser(nn.Module):
    """`Denoiser` on diffusers' modules, differentiable in inputs and weights.

    unet: UNet2DConditionModel, with the identity attention of `adapter.attach_identity` or its loader, if
    any; without it, the attention processors are replaced by those of `attention` here. controlnet:
    ControlNetModel, for drawings of the skeleton. Without one, the pose is concatenated to the noisy image if
    the UNet has input channels for it; raises ValueError as `concatenated_pose` does.
    """

    def __init__(self, unet: Any, controlnet: Any = None) -> None:
        super().__init__()
        self.unet, self.controlnet = unet, controlnet
        if controlnet is not None:
            self._pose_channels = int(controlnet.config.conditioning_channels)
            # Each layer of the ControlNet's embedding after the first one halves the image.
            self._pose_scale = 2 ** (len(controlnet.config.conditioning_embedding_out_channels) - 1)
        else:
            extra = int(unet.config.in_channels) - int(unet.config.out_channels)
            self._pose_channels, self._pose_scale = concatenated_pose(extra)
        self.has_identity = bool(identity_layers(unet))
        if not self.has_identity:
            install_attention(unet, identity=False)

    @property
    def pose_channels(self) -> int:
        return self._pose_channels

    @property
    def pose_scale(self) -> int:
        return self._pose_scale

    def encode_pose(self, pose: Pose, latent_size: int) -> Pose:
        """`pose` itself."""
        return pose

    def release_graphs(self) -> None:
        """There are none."""

    def check_pose(self, pose: Tensor | None) -> None:
        """Raises ValueError for a missing pose image or one of other channels."""
        if self.pose_channels and pose is None:
            raise ValueError(f"pose must be [B,{self.pose_channels},S,S]: this prior is pose-conditioned")
        if pose is not None and self.pose_channels and pose.shape[1] != self.pose_channels:
            raise ValueError(f"pose must be [B,{self.pose_channels},S,S], got {list(pose.shape)}")

    def forward(self, inputs: DenoiserInputs) -> Tensor:
        dtype, count, pose = next(self.unet.parameters()).dtype, len(inputs.text), inputs.pose
        if isinstance(pose, PoseFeatures):
            raise ValueError("pose must be images: pose features are for the fast denoiser that encoded them")
        self.check_pose(pose)
        noisy, timesteps = for_branches(inputs.noisy, count), for_branches(inputs.timesteps, count)
        sample, text = noisy.to(dtype), inputs.text.to(dtype)
        residuals = {}
        if pose is not None and self.pose_channels:
            pose = for_branches(pose, count)
            pose = resize(pose, noisy.shape[-1] * self.pose_scale).to(dtype)
            if self.controlnet is not None:
                down, mid = self.controlnet(sample, timesteps, text, pose, return_dict=False)
                residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
            else:
                sample = torch.cat([sample, F.pixel_unshuffle(pose, self.pose_scale)], 1)
        attention: dict[str, Any] = {}
        if self.has_identity and inputs.identity is not None:
            identity, scale = inputs.identity, inputs.identity_scale
            if scale is None:
                scale = torch.ones(len(identity), device=identity.device)
            attention |= {"identity": identity.to(dtype), "identity_scale": scale}
        if inputs.key_views is not None:
            attention["key_views"] = inputs.key_views
        out = self.unet(
            sample.contiguous(memory_format=torch.channels_last),
            timesteps,
            text,
            cross_attention_kwargs=attention or None,
            return_dict=False,
            **residuals,
        )[0]
        return out.float()
