"""The conditioning of a batch of views: text, pose, and identity weighted by how visible the face is."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from specularip.cameras import Views, visible_face
from specularip.diffusion.adapter import FaceFeatures
from specularip.diffusion.denoiser import Pose
from specularip.diffusion.prior import Prior
from specularip.diffusion.prompts import PromptBook, view_prompts


def face_weight(azimuth_deg: Tensor, weight: float, hidden: float = 0.0) -> Tensor:
    """Identity scale of each view, [V]: from `weight` with the face in full view to `hidden` from behind.

    Identity tokens that also carry skin and hair need `hidden` > 0: those are visible from behind too.
    """
    return hidden + (weight - hidden) * visible_face(azimuth_deg)


@dataclass(frozen=True)
class Identity:
    """Identity tokens [1,n,D] of the branches of guidance: positive, negative and unconditional (null)."""

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
    negative: Tensor | FaceFeatures | None = None,
) -> Identity | None:
    """Tokens of one face, the result of `Prior.encode_face`; None without a face or an identity adapter.

    structure: see `Prior.identity_tokens`. With `guided` the negative and null branches get the null face, as
    in IP-Adapter's training, and guidance amplifies the face as it does the text; without, all branches get
    the same face and guidance leaves it alone. negative: face of the guided negative branch, None for the
    null face."""
    if face is None or prior.image_projection is None:
        return None
    positive = prior.identity_tokens(face, structure)
    assert positive is not None
    if not guided:
        return Identity(positive, positive, positive)
    null = prior.identity_tokens(prior.null_face(1), structure)
    other = null if negative is None else prior.identity_tokens(negative, structure)
    assert null is not None and other is not None
    return Identity(positive, other, null)


@dataclass(frozen=True)
class Condition:
    """The conditioning of V views for all branches of guidance.

    positive, negative, null [V,T,D]: text embeddings of the view's prompt, the negative and the unconditional
    prompt. pose: see `denoiser.Pose`. identity, null_identity and negative_identity [V,n,D]: tokens of the
    face, of the null face and of the negative branch's face (None: the null face), or None.
    identity_scale [V]."""

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
        """The conditioning of some of the views."""
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
    """The conditioning of `views` for a text, pose images [V,P,S,S] and a face or None.

    face: an `Identity`, or a face to pass to `identity` with `guide_identity`. identity_scale [V], see
    `face_weight`; all branches use it."""
    prior: Prior = book.prior
    count = len(views.framings)
    if identity_scale.shape != (count,):
        raise ValueError(f"identity_scale must be [{count}], got {list(identity_scale.shape)}")
    if not isinstance(face, Identity):
        face = identity(prior, face, guided=guide_identity)
    tokens = [None] * 3 if face is None else [face.positive, face.null, face.negative]
    positive_id, null_id, negative_id = (None if t is None else t.expand(count, -1, -1) for t in tokens)
    return Condition(
        positive=book.encode(view_prompts(text, views)),
        negative=book.encode([negative] * count),
        null=book.encode([null] * count),
        pose=None if pose is None else pose.to(prior.device),
        identity=positive_id,
        null_identity=null_id,
        identity_scale=identity_scale.to(prior.device),
        negative_identity=negative_id,
    )
