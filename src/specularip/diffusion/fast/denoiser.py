"""`Denoiser` on the GPU: the networks of `fast.unet`, captured as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from specularip.diffusion.denoiser import DenoiserInputs, Pose, PoseFeatures, UNetDenoiser
from specularip.diffusion.fast.layers import fast_kernels
from specularip.diffusion.fast.unet import ControlNet, UNet
from specularip.diffusion.resizing import resize
from specularip.kernels.cuda_graphs import GraphCache, signature

POSES_AT_ONCE = 4
"""Pose images embedded at a time: the first layers work at their full resolution."""


class FastDenoiser(nn.Module):
    """`Denoiser` with the results of `plain` up to rounding. Shares its weights, reordered in place.

    Calls that need gradients go to `plain`. What the branches of guidance share is computed once. graphs:
    where calls without key views are captured; None: nothing is captured.
    """

    def __init__(self, plain: UNetDenoiser, graphs: GraphCache | None) -> None:
        super().__init__()
        self.plain, self._graphs = plain, graphs
        self._build()

    def _build(self) -> None:
        """Pack the weights of `plain`, on their current device."""
        device = next(self.plain.unet.parameters()).device
        self._unet = UNet(self.plain.unet)
        self._controlnet = None if self.plain.controlnet is None else ControlNet(self.plain.controlnet)
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FastDenoiser:
        """Hook of nn.Module, called by `.to()`: moved weights are packed again."""
        super()._apply(fn, recurse)
        self.release_graphs()
        self._build()
        return self

    @property
    def unet(self) -> Any:
        return self.plain.unet

    @property
    def controlnet(self) -> Any:
        return self.plain.controlnet

    @property
    def pose_channels(self) -> int:
        return self.plain.pose_channels

    @property
    def pose_scale(self) -> int:
        return self.plain.pose_scale

    def release_graphs(self) -> None:
        if self._graphs is not None:
            self._graphs.clear()

    @torch.no_grad()
    def encode_pose(self, pose: Pose, latent_size: int) -> Pose:
        """`PoseFeatures` of pose images; on CUDA they are computed on a side stream."""
        if pose is None or isinstance(pose, PoseFeatures) or self._controlnet is None:
            return pose
        self.plain.check_pose(pose)
        pose = resize(pose, latent_size * self.plain.pose_scale)
        if self._side is None:
            return PoseFeatures(self._embed(pose))
        self._side.wait_stream(torch.cuda.current_stream(pose.device))
        with torch.cuda.stream(self._side):
            values = self._embed(pose)
        pose.record_stream(self._side)
        return PoseFeatures(values, self._side.record_event())

    def _embed(self, pose: Tensor) -> Tensor:
        assert self._controlnet is not None
        with fast_kernels():
            return torch.cat([self._controlnet.embed(part) for part in pose.split(POSES_AT_ONCE)])

    def forward(self, inputs: DenoiserInputs) -> Tensor:
        """See `Denoiser.__call__`. Also raises ValueError for pose features of other views or sizes."""
        if torch.is_grad_enabled() and self._needs_gradient(inputs):
            return self.plain(inputs)
        identity = inputs.identity if self.plain.has_identity else None
        scale = None if identity is None else inputs.identity_scale
        timesteps = inputs.timesteps.to(inputs.noisy.device)
        inputs = replace(inputs, timesteps=timesteps, identity=identity, identity_scale=scale)
        pose = self._pose_features(inputs)
        with torch.no_grad():
            if self._graphs is None or inputs.key_views is not None:
                with fast_kernels():
                    return self._unet(inputs, self._controlnet, pose)
            return self._replay(self._graphs, inputs, pose)

    def _needs_gradient(self, inputs: DenoiserInputs) -> bool:
        tensors = [t for t in vars(inputs).values() if isinstance(t, Tensor)]
        return any(t.requires_grad for t in (*tensors, *self.plain.unet.parameters()))

    def _pose_features(self, inputs: DenoiserInputs) -> Tensor | None:
        pose, views, size = inputs.pose, len(inputs.noisy), inputs.noisy.shape[-2:]
        if not isinstance(pose, PoseFeatures):
            self.plain.check_pose(pose)
            pose = self.encode_pose(pose, size[-1])
        if not isinstance(pose, PoseFeatures):
            return None
        features = pose.get()
        if features.shape[:3] != (views, *size):
            got, wanted = list(features.shape[:3]), [views, *size]
            raise ValueError(f"pose was encoded for other latents: views and size {got}, not {wanted}")
        return features

    def _replay(self, graphs: GraphCache, inputs: DenoiserInputs, pose: Tensor | None) -> Tensor:
        def predict(
            pose: Tensor | None, noisy: Tensor, timesteps: Tensor, text: Tensor, *identity: Any
        ) -> Tensor:
            return self._unet(DenoiserInputs(noisy, timesteps, text, None, *identity), self._controlnet, pose)

        tensors = (
            pose, inputs.noisy, inputs.timesteps, inputs.text, inputs.identity, inputs.identity_scale
        )  # fmt: skip

        def capture() -> Any:
            # One graph for each number of evaluations.
            with fast_kernels():
                return graphs.capture(predict, *tensors)

        return graphs.get(("denoise", *signature(*tensors)), capture).replay(*tensors).clone()
