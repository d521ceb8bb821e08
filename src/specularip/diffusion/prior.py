"""The diffusion prior: text, face, pose, latents and noise around a denoiser, whatever its size.

What a prior can do follows from its networks (see `loading.folder`), never from a preset's name: with a VAE
it works on latents, without one on pixels (RGB, or RGB composited over grey plus alpha); with a ControlNet
the pose goes through it, else it is concatenated to the noisy image if the UNet has channels for it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specularip.diffusion.adapter import FaceFeatures, FaceIdProjection, ImageProjection
from specularip.diffusion.attention import for_branches, identity_layers
from specularip.diffusion.autoencoder import Autoencoder
from specularip.diffusion.denoiser import BODY_MAP_CHANNELS, Denoiser, DenoiserInputs, Pose
from specularip.diffusion.resizing import resize
from specularip.diffusion.vocabulary import Vocabulary

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Prior(nn.Module):
    """A diffusion model conditioned on text, pose and face.

    An nn.Module, so that `.parameters()`, `.to()` and `.state_dict()` reach every network in it. The noise
    schedule is computed in float32 whatever the dtype of the weights.

    denoiser, autoencoder: see their modules. text_encoder: CLIPTextModel or BertModel with its tokenizer;
    vocabulary: the words it was trained on, unless those with a token in a vocabulary of words. scheduler:
    DDIMScheduler, of which the betas, `prediction_type` (epsilon or v_prediction), `clip_sample` and timestep
    spacing are used. image_encoder (CLIPVisionModelWithProjection) and image_projection are optional; the
    kind of image_projection decides what a face is encoded as (see `encode_face`). face_mean, face_std:
    normalisation of the image encoder's input.

    Raises ValueError for an image_projection without identity attention in the UNet, and for another
    prediction type.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        autoencoder: Autoencoder,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        image_encoder: Any = None,
        image_projection: ImageProjection | FaceIdProjection | None = None,
        face_mean: tuple[float, ...] = CLIP_MEAN,
        face_std: tuple[float, ...] = CLIP_STD,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        super().__init__()
        self.denoiser, self.autoencoder = denoiser, autoencoder
        self.text_encoder, self.tokenizer, self.scheduler = text_encoder, tokenizer, scheduler
        self.image_encoder, self.image_projection = image_encoder, image_projection
        self.face_mean, self.face_std = tuple(face_mean), tuple(face_std)
        self.vocabulary = vocabulary
        if image_projection is not None and not identity_layers(denoiser.unet):
            raise ValueError("unet has no identity attention for image_projection: use attach_identity")
        prediction = self.scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"scheduler.prediction_type must be epsilon or v_prediction, got {prediction!r}")

    # Properties of the networks

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the UNet's weights."""
        return next(self.denoiser.unet.parameters()).dtype

    @property
    def latent_channels(self) -> int:
        """C of the noisy tensors [B,C,h,w]."""
        return int(self.denoiser.unet.config.out_channels)

    @property
    def latent_size(self) -> int:
        """Side h = w of the latents that the denoiser was trained on."""
        return int(self.denoiser.unet.config.sample_size)

    @property
    def image_channels(self) -> int:
        """Channels of the images: 3 (RGB) or 4 (RGB over grey, alpha)."""
        return self.autoencoder.image_channels

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the denoiser was trained on."""
        return self.latent_size * self.autoencoder.scale

    @property
    def pose_channels(self) -> int:
        """Channels of the pose images; 0: not conditioned on pose."""
        return self.denoiser.pose_channels

    @property
    def views_together(self) -> bool:
        """Whether the views of a person attend to each other: so were priors with body maps trained."""
        return self.pose_channels == BODY_MAP_CHANNELS

    @property
    def pose_size(self) -> int:
        """Side of the body maps that the denoiser takes."""
        return self.latent_size * self.denoiser.pose_scale

    @property
    def shows_depth(self) -> bool:
        """Whether images have depth as a fifth channel: 0.5 + 1.25 (z / t - 1) of the surface at depth z, t
        being the distance of the camera from the point it looks at; 0.5 where there is none."""
        return self.image_channels == 5

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
        # Cached on the device: each copy from the host would block on all queued work.
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
        return self.embed_tokens(self.tokenize(texts))

    def tokenize(self, texts: list[str], pad: str = "max_length") -> Tensor:
        """Token ids [B,T] of the texts, truncated. pad: to `max_tokens`, or with "longest" only as needed."""
        tokens = self.tokenizer(
            texts, padding=pad, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        return tokens.input_ids

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings [B,T,D] of token ids [B,T].

        BERT reads a text in both directions, so that padding is masked in it, and is 0 in the result: the
        denoiser's attention then sees the same nothing whatever the text's length. CLIP reads from left to
        right and is used as published, with padding.
        """
        ids = ids.to(self.device)
        if self.text_encoder.config.model_type != "bert":
            return self.text_encoder(ids).last_hidden_state
        mask = ids != self.text_encoder.config.pad_token_id
        return self.text_encoder(ids, attention_mask=mask).last_hidden_state * mask[..., None]

    @torch.no_grad()
    def embed_words(self, words: list[str]) -> Tensor:
        """Directions [n,D] of words or phrases, of length 1: means over tokens, as sentence encoders of
        BERT's kind are trained to compare (Reimers & Gurevych, 2019)."""
        return F.normalize(self.embed_tokens(self.tokenize(words, "longest")).float().sum(1), dim=-1)

    def _spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of the untruncated text and the span of characters of each."""
        encoding = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )
        return encoding["input_ids"], [(int(a), int(b)) for a, b in encoding["offset_mapping"]]

    def unknown_words(self, text: str) -> list[str]:
        """Distinct words that mean nothing to the prior, in order: those that its `vocabulary` does not know,
        else those without a token; [] for byte-pair vocabularies."""
        if self.vocabulary is not None:
            return self.vocabulary.unknown(text, self.embed_words)
        unknown = self.tokenizer.unk_token_id
        ids, spans = self._spans(text)
        return list(dict.fromkeys(text[a:b] for i, (a, b) in zip(ids, spans) if i == unknown and b > a))

    def truncated(self, text: str, suffix: str = "") -> str:
        """The end of `text` that exceeds the text encoder's length and is ignored; "" if all fits.

        suffix: words that follow the text and must fit as well, such as those that name the view.
        """
        _, spans = self._spans(text)
        room = self.max_tokens - self.tokenizer.num_special_tokens_to_add() - len(self._spans(suffix)[0])
        return text[spans[room][0] :].strip() if len(spans) > room else ""

    # Face

    def encode_face(self, face: Tensor, embeds: Tensor | None = None) -> Tensor | FaceFeatures:
        """The identity adapter's input for face crops [B,3,H,W] in 0..1.

        The plain adapter: CLIP's embeddings [B,E] float32; [B,0] without an adapter. FaceID-PlusV2: the
        recogniser's `embeds` [B,E], of length 1, with CLIP's hidden states; ValueError without them.
        Differentiable in the image encoder's weights, so that a small one can be trained with the rest.
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

    def move_image_encoder(self, device: torch.device | str) -> None:
        """Encoding faces needs it on the device of the rest. It is a fifth of all weights, and idle once the
        faces are encoded."""
        if self.image_encoder is not None:
            self.image_encoder.to(device)

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
        """The null face, `count` times: input of the unconditional branch of guidance.

        Embeddings of zeros. For FaceID-PlusV2, with the hidden states of a normalised input of zeros, as in
        its training: an image of CLIP's mean colour.
        """
        embeds = torch.zeros(count, self.identity_dim, device=self.device)
        if not self.wants_face_embedding:
            return embeds
        size = int(self.image_encoder.config.image_size)
        dtype = next(self.image_encoder.parameters()).dtype
        hidden = self._hidden(torch.zeros(1, 3, size, size, device=self.device, dtype=dtype))
        return FaceFeatures(embeds, hidden.expand(count, -1, -1))

    def identity_tokens(self, face: Tensor | FaceFeatures, structure: float = 1.0) -> Tensor | None:
        """Identity tokens [B,n,D] of the result of `encode_face`; None without an identity adapter.

        structure: FaceID-PlusV2's weight of CLIP's features of the face (published as `s_scale`).
        """
        if isinstance(self.image_projection, FaceIdProjection):
            if not isinstance(face, FaceFeatures):
                raise ValueError("face must be the FaceFeatures that encode_face returns for this prior")
            return self.image_projection(face, structure)
        if self.image_projection is None or isinstance(face, FaceFeatures):
            return None
        return self.image_projection(face.to(self.image_projection.proj.weight.dtype))

    # Images and latents

    def encode_image(self, images: Tensor, size: int | None = None) -> Tensor:
        """Images [B,C,H,H] in 0..1 to latents [B,c,h,w] float32; differentiable.

        C is `image_channels`. Images of another size than `size` (None: `image_size`) are resized first.
        Where the autoencoder runs as captured CUDA graphs, the backward pass must precede the next call.
        """
        if images.ndim != 4 or images.shape[1] != self.image_channels or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be [B,{self.image_channels},S,S], got {list(images.shape)}")
        return self.autoencoder.encode(resize(images.float(), size or self.image_size))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B,c,h,w] to images [B,C,S,S] float32 in 0..1."""
        return self.autoencoder.decode(latents)

    # Noise

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·latents + √(1−ᾱ)·noise (Ho et al., 2020, eq. 4). [B,C,h,w], timesteps [B]."""
        alpha = self.alphas(timesteps)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def encode_pose(self, pose: Pose, latent_size: int | None = None) -> Pose:
        """`pose` with everything computed that several steps can share; see `Denoiser.encode_pose`.

        latent_size: side of the latents that will be denoised, this prior's if None.
        """
        return self.denoiser.encode_pose(pose, latent_size or self.latent_size)

    def predict_noise(self, inputs: DenoiserInputs) -> Tensor:
        """The predicted noise ε [B,C,h,w] float32.

        A v-prediction is converted by ε = √ᾱ·v + √(1−ᾱ)·x_t (Salimans & Ho, 2022, appendix D).
        """
        out = self.denoiser(inputs)
        if self.scheduler.config.prediction_type == "epsilon":
            return out
        alpha = self.alphas(for_branches(inputs.timesteps, len(out)))
        return alpha.sqrt() * out + (1 - alpha).sqrt() * for_branches(inputs.noisy.float(), len(out))

    def release_graphs(self) -> None:
        """Free captured CUDA graphs and their memory, as when the batch shape is about to change."""
        self.denoiser.release_graphs()
        self.autoencoder.release_graphs()

    def predict_x0(self, noisy: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The one-step estimate of the clean latents for a predicted `noise`, clamped if `clip_sample`."""
        alpha = self.alphas(timesteps)
        x0 = (noisy.float() - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        return x0.clamp(-1, 1) if self.clip_sample else x0

    def ddim_timesteps(self, steps: int) -> Tensor:
        """The schedule's `steps` timesteps in descending order, int64 [steps]."""
        self.scheduler.set_timesteps(steps)
        return self.scheduler.timesteps.to(self.device).long()

    def ddim_step(self, noisy: Tensor, noise: Tensor, timestep: int, previous: int) -> Tensor:
        """One deterministic step (Song et al., DDIM, 2021, eq. 12 with η = 0) from `timestep` to `previous`.

        `previous` < 0 ends at the clean estimate. If that estimate was clamped, the noise is recomputed from
        it, so that `noisy` stays their combination.
        """
        t = torch.tensor([timestep], device=self.device)
        x0 = self.predict_x0(noisy, noise, t)
        if previous < 0:
            return x0
        if self.clip_sample:
            alpha = self.alphas(t)
            noise = (noisy - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        return self.add_noise(x0, noise, torch.tensor([previous], device=self.device))
