"""A prior of Stable Diffusion's shape, made fast without changing its results.

`accelerate(prior)` turns a `Prior` into a `FastPrior` in place: the same weights and, up to rounding, the
same answers, through `fast_vae` and `fast_unet`. On CUDA the calls that a stage repeats are recorded as
graphs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specularip.diffusion.attention import KeyViews
from specularip.diffusion.fast import unet as fast_unet
from specularip.diffusion.fast import vae as fast_vae
from specularip.diffusion.fast.layers import Tape, fast_kernels
from specularip.diffusion.fast.replay import Recording, signature
from specularip.diffusion.prior import Hint, Pose, Prior, _resized
from specularip.errors import UserError

READ_AT_ONCE = 4
"""Pose drawings: the first layers keep all their pixels."""


class FastPrior(Prior):
    """See `accelerate`. What it does not cover (gradients through the denoiser) `Prior` computes."""

    denoiser: fast_unet.UNet
    steering: fast_unet.ControlNet | None
    encoder: fast_vae.Encoder
    decoder: fast_vae.Decoder
    graphs: bool
    _recordings: dict[Any, Any]
    _pool: Any
    _encoded: int
    _side: Any

    def forget(self) -> None:
        """Let go of what was recorded and of its memory, when other shapes come."""
        self._recordings.clear()
        if self.graphs:  # a pool that nothing was left in cannot be used again
            self.__dict__["_pool"] = torch.cuda.graph_pool_handle()

    def encode_image(self, images: Tensor, size: int | None = None) -> Tensor:
        """As `Prior.encode_image`. Where it is recorded, its backward pass must come before the next call."""
        if images.ndim != 4 or images.shape[1] != self.image_channels or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be [B,{self.image_channels},S,S], got {list(images.shape)}")
        images = _resized(images.float(), size or self.image_size)
        if torch.is_grad_enabled() and images.requires_grad:
            return _Encode.apply(images, self)
        with torch.no_grad(), fast_kernels():
            return self.encoder.forward(images)

    def decode(self, latents: Tensor) -> Tensor:
        if torch.is_grad_enabled() and latents.requires_grad:
            return super().decode(latents)
        with torch.no_grad(), fast_kernels():
            return self.decoder(latents)

    @torch.no_grad()
    def read_pose(self, pose: Pose, latent_size: int | None = None) -> Pose:
        """As `Prior.read_pose`: a `Hint`, on CUDA computed beside what the GPU has to do or waits for."""
        if pose is None or isinstance(pose, Hint) or self.steering is None:
            return pose
        self._check_pose(pose)
        pose = _resized(pose, (latent_size or self.latent_size) * self.image_size // self.latent_size)
        if self._side is None:
            return Hint(self._hint(pose))
        self._side.wait_stream(torch.cuda.current_stream(pose.device))
        with torch.cuda.stream(self._side):
            given = self._hint(pose)
        pose.record_stream(self._side)
        return Hint(given, self._side.record_event())

    def _hint(self, pose: Tensor) -> Tensor:
        assert self.steering is not None
        with fast_kernels():
            return torch.cat([self.steering.hint(part) for part in pose.split(READ_AT_ONCE)])

    def model_output(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: Tensor,
        pose: Pose = None,
        identity: Tensor | None = None,
        identity_scale: Tensor | None = None,
        key_views: KeyViews | None = None,
    ) -> Tensor:
        """As `Prior.model_output`; pose may be what `read_pose` gave. Where there are several texts for each
        noisy image, what they share is computed once."""
        wants = [t for t in (noisy, text, pose, identity, identity_scale) if isinstance(t, Tensor)]
        if torch.is_grad_enabled() and (
            any(t.requires_grad for t in wants) or any(p.requires_grad for p in self.unet.parameters())
        ):
            return super().model_output(noisy, timesteps, text, pose, identity, identity_scale, key_views)
        hint = None
        if not isinstance(pose, Hint):
            self._check_pose(pose)
            pose = self.read_pose(pose, noisy.shape[-1])
        if isinstance(pose, Hint):
            hint = pose.features()
            if hint.shape[:3] != (len(noisy), *noisy.shape[-2:]):
                size, wanted = list(hint.shape[:3]), [len(noisy), *noisy.shape[-2:]]
                raise ValueError(f"pose was read for other latents: views and size {size}, not {wanted}")
        if self.image_projection is None:
            identity = None
        if identity is None:
            identity_scale = None
        inputs = (noisy, timesteps.to(noisy.device), text, identity, identity_scale, hint)
        with torch.no_grad():
            if not self.graphs or key_views is not None:
                with fast_kernels():
                    return self._denoise(*inputs, key_views=key_views)
            key = ("denoise", *signature(*inputs))
            if key not in self._recordings:
                # One for each number of evaluations. Trying takes 1.3 s instead of 0.3, to find the same.
                with fast_kernels(trying=False):
                    self._recordings[key] = Recording(self._denoise, inputs, self._pool)
            return self._recordings[key].replay(*inputs).clone()

    def _denoise(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: Tensor,
        identity: Tensor | None,
        identity_scale: Tensor | None,
        hint: Tensor | None,
        key_views: KeyViews | None = None,
    ) -> Tensor:
        faces = (identity, identity_scale)
        return self.denoiser(noisy, timesteps, text, *faces, key_views, self.steering, hint)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, prior: FastPrior) -> Tensor:
        ctx.prior = prior
        if not prior.graphs:
            ctx.tape = []
            with fast_kernels():
                return prior.encoder.forward(images, ctx.tape)
        key = ("encode", *signature(images))
        if key not in prior._recordings:
            with fast_kernels():
                prior._recordings[key] = _record_encoder(prior, images)
        forward, ctx.backward_pass = prior._recordings[key]
        prior._encoded += 1
        ctx.number = prior._encoded
        return forward.replay(images)[0].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if not ctx.prior.graphs:
            with fast_kernels():
                return ctx.prior.encoder.backward(grad.float(), ctx.tape), None
        if ctx.number != ctx.prior._encoded:
            raise RuntimeError("encode_image: its backward pass must come before the next call")
        return ctx.backward_pass.replay(grad.float()).clone(), None


def _record_encoder(prior: FastPrior, images: Tensor) -> tuple[Recording, Recording]:
    def encode(images: Tensor) -> tuple[Tensor, Tape]:
        tape: Tape = []
        return prior.encoder.forward(images, tape), tape

    forward = Recording(encode, (images,), prior._pool)
    latents, tape = forward.replay(images)
    grad = torch.randn_like(latents)
    return forward, Recording(lambda g: prior.encoder.backward(g, tape), (grad,), prior._pool)


def supports(prior: Prior) -> bool:
    """Whether a prior is of Stable Diffusion 1's shape."""
    if prior.vae is None or not fast_vae.supported(prior.vae) or not fast_unet.supported(prior.unet):
        return False
    return prior.controlnet is None or fast_unet.supported(prior.controlnet)


def accelerate(prior: Prior, *, graphs: bool | None = None) -> FastPrior:
    """Make `prior` fast, in place; its weights are reordered and frozen, not copied.

    graphs: record what is repeated as CUDA graphs; None: on CUDA. Raises ValueError for a prior of another
    shape (see `supports`), UserError where Triton is missing on CUDA.
    """
    if not supports(prior):
        raise ValueError("accelerate is for Stable Diffusion 1's networks: see supports()")
    if prior.device.type == "cuda":
        try:
            from specularip.diffusion.fast import triton_ops as _  # noqa: F401
        except ImportError as error:
            raise UserError(
                "the fast kernels need Triton: pip install triton, or --set prior.fast=false"
            ) from error
    prior.requires_grad_(False)
    prior.__class__ = FastPrior
    assert isinstance(prior, FastPrior)
    state = prior.__dict__  # past nn.Module, which would list these as parts of the prior
    state["denoiser"] = fast_unet.UNet(prior.unet)
    state["steering"] = None if prior.controlnet is None else fast_unet.ControlNet(prior.controlnet)
    state["encoder"], state["decoder"] = fast_vae.Encoder(prior.vae), fast_vae.Decoder(prior.vae)
    state["graphs"] = prior.device.type == "cuda" if graphs is None else graphs
    state["_recordings"], state["_encoded"] = {}, 0
    state["_side"] = torch.cuda.Stream(prior.device) if prior.device.type == "cuda" else None
    state["_pool"] = None
    prior.forget()
    return prior
