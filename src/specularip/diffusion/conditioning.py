"""What a batch of views is conditioned on: its words, its pose, and as much of the face as it sees."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from specularip.cameras import Views, visible_face
from specularip.diffusion.adapter import FaceFeatures
from specularip.diffusion.prior import Pose, Prior
from specularip.diffusion.prompts import PromptBook, view_prompts


def face_weight(azimuth_deg: Tensor, weight: float, hidden: float = 0.0) -> Tensor:
    """Identity scale of each view, [V]: `weight` where the face is in full view, falling to `hidden` behind.

    A prior whose face tokens also carry skin and hair needs a little of them from behind: `hidden` > 0.
    """
    return hidden + (weight - hidden) * visible_face(azimuth_deg)


@dataclass(frozen=True)
class Identity:
    """Face tokens [1,n,D] of each branch of guidance: the person, whom to avoid, and nobody."""

    positive: Tensor
    negative: Tensor
    null: Tensor


@torch.no_grad()
def identity(
    prior: Prior,
    face: Tensor | FaceFeatures | None,
    *,
    structure: float = 1.0,
    guided: bool = True,
    other: Tensor | FaceFeatures | None = None,
) -> Identity | None:
    """The tokens of a face as `Prior.encode_face` reads it (one); None without a face or an identity adapter.

    structure: see `Prior.identity_tokens`. With `guided` the negative and null branches of guidance see
    nobody, as IP-Adapter was trained, and guidance exaggerates the face as it does the words; without, all
    branches see the face and it stays as the prior draws it. other: somebody else, whom the guided negative
    branch sees."""
    if face is None or prior.image_projection is None:
        return None
    person = prior.identity_tokens(face, structure)
    assert person is not None
    if not guided:
        return Identity(person, person, person)
    nobody = prior.identity_tokens(prior.null_face(1), structure)
    avoided = nobody if other is None else prior.identity_tokens(other, structure)
    assert nobody is not None and avoided is not None
    return Identity(person, avoided, nobody)


@dataclass(frozen=True)
class Condition:
    """The denoiser's inputs for V views, besides the noisy image.

    positive, negative, null [V,T,D]: embeddings of the view's prompt, of what to avoid, and of "".
    pose: see `prior.Pose`. identity, null_identity and negative_identity [V,n,D]: tokens of the face, of
    nobody and of whom the negative branch sees (None: nobody), or None. identity_scale [V]."""

    positive: Tensor
    negative: Tensor
    null: Tensor
    pose: Pose = None
    identity: Tensor | None = None
    null_identity: Tensor | None = None
    identity_scale: Tensor | None = None
    negative_identity: Tensor | None = None

    def __len__(self) -> int:
        return len(self.positive)

    def __getitem__(self, index: Tensor | slice | list[int]) -> Condition:
        """The same for some of the views."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        parts = {k: None if v is None else v[index] for k, v in parts.items()}
        return Condition(**parts)


@torch.no_grad()
def condition_views(
    book: PromptBook,
    text: str,
    negative: str,
    views: Views,
    pose: Tensor | None,
    face: Tensor | FaceFeatures | Identity | None,
    identity_scale: Tensor,
    guide_identity: bool = True,
    null: str = "",
) -> Condition:
    """The condition of `views` for a sentence, a pose drawing [V,P,S,S] and a face or None.

    face: an `Identity`, or one face that `identity` makes into one with `guide_identity`. identity_scale [V],
    see `face_weight`; negative and null branches see their tokens at the same scale."""
    prior: Prior = book.prior
    count = len(views.framings)
    if identity_scale.shape != (count,):
        raise ValueError(f"identity_scale must be [{count}], got {list(identity_scale.shape)}")
    if not isinstance(face, Identity):
        face = identity(prior, face, guided=guide_identity)
    tokens = [None] * 3 if face is None else [face.positive, face.null, face.negative]
    person, nobody, avoided = (None if t is None else t.expand(count, -1, -1) for t in tokens)
    return Condition(
        positive=book.encode(view_prompts(text, views)),
        negative=book.encode([negative] * count),
        null=book.encode([null] * count),
        pose=None if pose is None else pose.to(prior.device),
        identity=person,
        null_identity=nobody,
        identity_scale=identity_scale.to(prior.device),
        negative_identity=avoided,
    )
