"""The denoiser and everything around it: text, face, pose, latents, noise. One path for every size of it.

What a prior can do follows from what its folder holds (see `folder.py`), never from a preset's name: with a
VAE it works on latents, without one on pixels (RGB, or RGB composited over grey plus alpha); with a
ControlNet the pose goes through it, else it is concatenated to the noisy image when the UNet has channels
for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from specularip.diffusion.adapter import FaceFeatures, FaceIdProjection
from specularip.diffusion.attention import (
    IdentityCrossAttention,
    ImageProjection,
    KeyViews,
    for_branches,
    install_attention,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def _resized(images: Tensor, size: int) -> Tensor:
    """Images [B,C,H,W] at size x size; whole multiples are averaged down."""
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    if height % size == 0 and width % size == 0:
        averaged: Tensor = _Average.apply(images, (height // size, width // size))
        return averaged
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


class _Average(torch.autograd.Function):
    """F.avg_pool2d of whole blocks. The library takes ten times as long over the gradient as to write it."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, block: tuple[int, int]) -> Tensor:
        ctx.block = block
        return F.avg_pool2d(images, block)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        high, wide = ctx.block
        shared = (grad / (high * wide)).permute(0, 2, 3, 1)[:, :, None, :, None]
        b, h, _, w, _, c = shared.shape
        whole = shared.expand(b, h, high, w, wide, c).reshape(b, h * high, w * wide, c)
        return whole.permute(0, 3, 1, 2), None


@dataclass(frozen=True)
class Hint:
    """Pose drawings of V views as the first layers of a ControlNet read them; see `Prior.read_pose`.

    given [V,h,w,C]; ready: on a GPU, what to wait for before it is used.
    """

    given: Tensor
    ready: torch.cuda.Event | None = None

    def features(self) -> Tensor:
        """[V,h,w,C], to be used on the current stream."""
        if self.ready is not None:
            torch.cuda.current_stream(self.given.device).wait_event(self.ready)
        return self.given

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: Tensor | slice | list[int]) -> Hint:
        return Hint(self.features()[index])


Pose = Tensor | Hint | None
"""Of V views: drawings [V,P,S,S] in 0..1, what `Prior.read_pose` made of them, or nothing."""


class Prior(nn.Module):
    """A text-, pose- and face-conditioned diffusion model.

    An nn.Module, so that `.parameters()`, `.to()` and `.state_dict()` reach every network in it. Maths of the
    noise schedule is float32 whatever the dtype of the weights.

    unet: UNet2DConditionModel; text_encoder: CLIPTextModel with its tokenizer; scheduler: DDIMScheduler, of
    which the betas, `prediction_type` (epsilon or v_prediction), `clip_sample` and timestep spacing count.
    vae (AutoencoderKL), controlnet (ControlNetModel), image_encoder (CLIPVisionModelWithProjection) and
    image_projection are optional; the kind of image_projection says what a face is (see `encode_face`).
    face_mean, face_std: what the image encoder's input is normalised with.
    """

    def __init__(
        self,
        unet: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        vae: Any = None,
        controlnet: Any = None,
        image_encoder: Any = None,
        image_projection: ImageProjection | FaceIdProjection | None = None,
        face_mean: tuple[float, ...] = CLIP_MEAN,
        face_std: tuple[float, ...] = CLIP_STD,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.vae = unet, text_encoder, vae
        self.controlnet, self.image_encoder = controlnet, image_encoder
        self.tokenizer, self.scheduler = tokenizer, scheduler
        self.image_projection = image_projection
        self.face_mean, self.face_std = tuple(face_mean), tuple(face_std)
        has_adapter = any(isinstance(p, IdentityCrossAttention) for p in self.unet.attn_processors.values())
        if image_projection is not None and not has_adapter:
            raise ValueError("unet has no identity attention for image_projection: use attach_identity")
        if image_projection is None:
            install_attention(self.unet, identity=False)
        prediction = self.scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"scheduler.prediction_type must be epsilon or v_prediction, got {prediction!r}")

    @staticmethod
    def load(
        folder: str | PathLike[str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str = "float32",
    ) -> Prior:
        """Read a folder in diffusers' layout, frozen; `folder.load_prior` tells layout and errors."""
        from specularip.diffusion.loading.folder import load_prior

        return load_prior(folder, device=device, dtype=dtype)

    def save(self, folder: str | PathLike[str], dtype: torch.dtype = torch.float16) -> None:
        """Write the folder that `load` reads, weights as safetensors in `dtype`."""
        from specularip.diffusion.loading.folder import save_prior

        save_prior(self, folder, dtype)

    # What it works on

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the UNet's weights."""
        return next(self.unet.parameters()).dtype

    @property
    def latent_channels(self) -> int:
        """C of the noisy tensors [B,C,h,w]."""
        return int(self.unet.config.out_channels)

    @property
    def latent_size(self) -> int:
        return int(self.unet.config.sample_size)

    @property
    def image_channels(self) -> int:
        """Channels of the images it reads and makes: 3 (RGB) or 4 (RGB over grey, alpha)."""
        return 3 if self.vae is not None else self.latent_channels

    @property
    def image_size(self) -> int:
        """Side of its square images in pixels."""
        factor = 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.latent_size * factor

    @property
    def pose_channels(self) -> int:
        """Channels of the pose drawing it takes; 0: it takes none."""
        if self.controlnet is not None:
            return int(self.controlnet.config.conditioning_channels)
        return int(self.unet.config.in_channels) - self.latent_channels

    @property
    def identity_dim(self) -> int:
        """E of the face embeddings [B,E]; 0 without an identity adapter."""
        return 0 if self.image_projection is None else self.image_projection.embed_dim

    @property
    def wants_face_embedding(self) -> bool:
        """Whether `encode_face` also needs a face recogniser's embedding (FaceID-PlusV2)."""
        return isinstance(self.image_projection, FaceIdProjection)

    @property
    def clip_sample(self) -> bool:
        """Whether estimates of the clean image are clamped to [-1,1]."""
        return bool(self.scheduler.config.clip_sample)

    @property
    def alphas_cumprod(self) -> Tensor:
        """The schedule's cumulative products, ᾱ [T] float32, on the UNet's device."""
        # It stays there: a copy would wait for all that is under way on a GPU, several times a step.
        known = self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.to(self.device)
        # The floor keeps 1/sqrt(alpha) finite under a zero-terminal-SNR schedule.
        return known.float().clamp(min=1e-8)

    def alphas(self, timesteps: Tensor) -> Tensor:
        """ᾱ at timesteps [B], shaped [B,1,1,1] to multiply images."""
        return self.alphas_cumprod[timesteps.to(self.device).long()][:, None, None, None]

    # Text

    @property
    def max_tokens(self) -> int:
        return int(min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings))

    def encode_text(self, texts: list[str]) -> Tensor:
        """Embeddings [B,T,D] of every token, padded to T. Differentiable in the text encoder's weights."""
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state

    def _spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of the whole text and where in it each came from."""
        encoding = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )
        return encoding["input_ids"], [(int(a), int(b)) for a, b in encoding["offset_mapping"]]

    def unknown_words(self, text: str) -> list[str]:
        """Words that the tokenizer has no token for, each once, in order; [] for byte-pair vocabularies."""
        unknown = self.tokenizer.unk_token_id
        ids, spans = self._spans(text)
        return list(dict.fromkeys(text[a:b] for i, (a, b) in zip(ids, spans) if i == unknown and b > a))

    def truncated(self, text: str, suffix: str = "") -> str:
        """The end of `text` that does not fit into the text encoder and is ignored; "" if all fits.

        suffix: words that follow the text and must fit as well, such as the view's.
        """
        _, spans = self._spans(text)
        room = self.max_tokens - self.tokenizer.num_special_tokens_to_add() - len(self._spans(suffix)[0])
        return text[spans[room][0] :].strip() if len(spans) > room else ""

    # Face

    def encode_face(self, face: Tensor, embeds: Tensor | None = None) -> Tensor | FaceFeatures:
        """What the identity adapter reads of face crops [B,3,H,W] in 0..1.

        The plain adapter: CLIP's embeddings [B,E] float32; [B,0] without an adapter. FaceID-PlusV2: the
        recogniser's `embeds` [B,E], of length 1, with CLIP's hidden states. Differentiable in the image
        encoder's weights, so that a small one can be trained with the rest.
        """
        if self.image_encoder is None or self.image_projection is None:
            return torch.zeros(len(face), 0, device=self.device)
        pixels = self._face_pixels(face)
        if not self.wants_face_embedding:
            return self.image_encoder(pixels).image_embeds.float()
        if embeds is None or embeds.shape != (len(face), self.identity_dim):
            got = None if embeds is None else list(embeds.shape)
            raise ValueError(
                f"embeds must be [{len(face)},{self.identity_dim}] of a face recogniser, got {got}"
            )
        return FaceFeatures(embeds.to(self.device, torch.float32), self._hidden(pixels))

    def _face_pixels(self, face: Tensor) -> Tensor:
        """Face crops as the image encoder's normalised input."""
        size = int(self.image_encoder.config.image_size)
        face = face.to(self.device, torch.float32)
        if face.shape[-2:] != (size, size):
            face = F.interpolate(face, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (face.new_tensor(x)[:, None, None] for x in (self.face_mean, self.face_std))
        return ((face - mean) / std).to(next(self.image_encoder.parameters()).dtype)

    def _hidden(self, pixels: Tensor) -> Tensor:
        """CLIP's hidden states before its last layer, [B,T,C] float32."""
        return self.image_encoder(pixels, output_hidden_states=True).hidden_states[-2].float()

    def null_face(self, count: int) -> Tensor | FaceFeatures:
        """Nobody, `count` times: what the identity-free branch of guidance sees.

        Embeddings of zeros. FaceID-PlusV2 has with them the hidden states of an input of zeros, as it was
        trained with: after normalisation, so a picture of CLIP's mean colour.
        """
        embeds = torch.zeros(count, self.identity_dim, device=self.device)
        if not self.wants_face_embedding:
            return embeds
        if self.image_encoder is None:
            raise ValueError(
                "nobody's face cannot be made any more: this prior's image encoder was let go of"
            )
        size = int(self.image_encoder.config.image_size)
        dtype = next(self.image_encoder.parameters()).dtype
        hidden = self._hidden(torch.zeros(1, 3, size, size, device=self.device, dtype=dtype))
        return FaceFeatures(embeds, hidden.expand(count, -1, -1))

    def identity_tokens(self, face: Tensor | FaceFeatures, structure: float = 1.0) -> Tensor | None:
        """Identity tokens [B,n,D] of what `encode_face` gave; None without an identity adapter.

        structure: FaceID-PlusV2's weight of how the face looks against who it is (published as `s_scale`).
        """
        if isinstance(self.image_projection, FaceIdProjection):
            if not isinstance(face, FaceFeatures):
                raise ValueError("face must be FaceFeatures, as encode_face gives them for this prior")
            return self.image_projection(face, structure)
        if self.image_projection is None or isinstance(face, FaceFeatures):
            return None
        return self.image_projection(face.to(self.image_projection.proj.weight.dtype))

    # Images and latents

    def encode_image(self, images: Tensor, size: int | None = None) -> Tensor:
        """Images [B,C,H,H] in 0..1 to latents [B,c,h,w] float32; differentiable.

        C is `image_channels`. Other sizes than `size` (None: `image_size`) are resampled first.
        """
        if images.ndim != 4 or images.shape[1] != self.image_channels or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be [B,{self.image_channels},S,S], got {list(images.shape)}")
        images = _resized(images.float(), size or self.image_size) * 2 - 1
        if self.vae is None:
            return images
        weights = next(self.vae.parameters())
        # The mean, not a sample: noise is added right after, and the gradient should not carry two kinds.
        latents = self.vae.encode(images.to(weights.dtype)).latent_dist.mode().float()
        return (latents - self._vae_shift) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B,c,h,w] to images [B,C,S,S] float32 in 0..1."""
        if self.vae is None:
            return (latents.float() * 0.5 + 0.5).clamp(0, 1)
        weights = next(self.vae.parameters())
        latents = latents / self.vae.config.scaling_factor + self._vae_shift
        return (self.vae.decode(latents.to(weights.dtype)).sample.float() * 0.5 + 0.5).clamp(0, 1)

    @property
    def _vae_shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    # Noise

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·latents + √(1−ᾱ)·noise (Ho et al., 2020, eq. 4). [B,C,h,w], timesteps [B]."""
        alpha = self.alphas(timesteps)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def read_pose(self, pose: Pose, latent_size: int | None = None) -> Pose:
        """What to give `model_output` in the place of `pose`, for as many steps as the drawings serve: here,
        the drawings themselves. latent_size: of the latents that will come, this prior's if None."""
        return pose

    def _check_pose(self, pose: Tensor | None) -> None:
        if self.pose_channels and pose is None:
            raise ValueError(f"pose must be [B,{self.pose_channels},S,S]: this prior is pose-conditioned")
        if pose is not None and self.pose_channels and pose.shape[1] != self.pose_channels:
            raise ValueError(f"pose must be [B,{self.pose_channels},S,S], got {list(pose.shape)}")

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
        """What the UNet itself predicts (ε or v, see `prediction_type`), float32 [B,C,h,w]. Differentiable.

        noisy [V,C,h,w]; timesteps [V]; text [B,T,D]; pose [V,P,S,S] in 0..1, black where nothing is drawn;
        identity [B,n,D] tokens (`identity_tokens`); identity_scale [B], 0 where the face is not seen. B may
        exceed V, for several texts and faces of each noisy image, branch-major: evaluation i is of image i
        mod V.
        """
        dtype = self.dtype
        if isinstance(pose, Hint):
            raise ValueError("pose must be drawings: what read_pose gave is for the FastPrior that read it")
        noisy, timesteps = for_branches(noisy, len(text)), for_branches(timesteps, len(text))
        pose = None if pose is None else for_branches(pose, len(text))
        sample, text, extra = noisy.to(dtype), text.to(dtype), {}
        self._check_pose(pose)
        if pose is not None and self.controlnet is not None:
            pose = _resized(pose, noisy.shape[-1] * self.image_size // self.latent_size).to(dtype)
            down, mid = self.controlnet(sample, timesteps, text, pose, return_dict=False)
            extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        elif pose is not None and self.pose_channels:
            sample = torch.cat([sample, _resized(pose, noisy.shape[-1]).to(dtype)], 1)
        attention: dict[str, Any] = {}
        if self.image_projection is not None and identity is not None:
            if identity_scale is None:
                identity_scale = torch.ones(len(identity), device=identity.device)
            attention |= {"identity": identity.to(dtype), "identity_scale": identity_scale}
        if key_views is not None:
            attention["key_views"] = key_views
        sample = sample.contiguous(memory_format=torch.channels_last)
        out = self.unet(
            sample, timesteps, text, cross_attention_kwargs=attention or None, return_dict=False, **extra
        )[0]
        return out.float()

    def predict_noise(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: Tensor,
        pose: Pose = None,
        identity: Tensor | None = None,
        identity_scale: Tensor | None = None,
        key_views: KeyViews | None = None,
    ) -> Tensor:
        """The predicted noise ε [B,C,h,w] float32; arguments of `model_output`.

        A v-prediction is converted by ε = √ᾱ·v + √(1−ᾱ)·x_t (Salimans & Ho, 2022, appendix D).
        """
        out = self.model_output(noisy, timesteps, text, pose, identity, identity_scale, key_views)
        if self.scheduler.config.prediction_type == "epsilon":
            return out
        alpha = self.alphas(for_branches(timesteps, len(out)))
        return alpha.sqrt() * out + (1 - alpha).sqrt() * for_branches(noisy.float(), len(out))

    def predict_x0(self, noisy: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The one-step estimate of the clean latents for a predicted `noise`, clamped if `clip_sample`."""
        alpha = self.alphas(timesteps)
        x0 = (noisy.float() - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        return x0.clamp(-1, 1) if self.clip_sample else x0

    def ddim_timesteps(self, steps: int) -> Tensor:
        """The schedule's `steps` timesteps, falling, int64 [steps]."""
        self.scheduler.set_timesteps(steps)
        return self.scheduler.timesteps.to(self.device).long()

    def ddim_step(self, noisy: Tensor, noise: Tensor, timestep: int, previous: int) -> Tensor:
        """One deterministic step (Song et al., DDIM, 2021, eq. 12 with η = 0) from `timestep` to `previous`.

        `previous` < 0 ends at the clean estimate. When that estimate was clamped the noise is taken from it
        again, so that the step stays on the line between the two.
        """
        t = torch.tensor([timestep], device=self.device)
        x0 = self.predict_x0(noisy, noise, t)
        if previous < 0:
            return x0
        if self.clip_sample:
            alpha = self.alphas(t)
            noise = (noisy - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        return self.add_noise(x0, noise, torch.tensor([previous], device=self.device))
