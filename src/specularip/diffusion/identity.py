"""What a batch of views is conditioned on: its words, its pose, and as much of the face as it sees."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..cameras import Views, visible_face
from .prior import Prior
from .prompts import PromptBook, view_prompts


def face_weight(azimuth_deg: Tensor, weight: float, hidden: float = 0.0) -> Tensor:
    """Identity scale of each view, [V]: `weight` where the face is in full view, falling to `hidden` behind.

    A prior whose face tokens also carry skin and hair needs a little of them from behind: `hidden` > 0.
    """
    return hidden + (weight - hidden) * visible_face(azimuth_deg)


@dataclass(frozen=True)
class Condition:
    """The denoiser's inputs for V views, besides the noisy image.

    positive, negative, null [V,T,D]: embeddings of the view's prompt, of what to avoid, and of "".
    pose [V,P,S,S] in 0..1 or None. identity and null_identity [V,n,D]: tokens of the face and of nobody, or
    None. identity_scale [V].
    """

    positive: Tensor
    negative: Tensor
    null: Tensor
    pose: Tensor | None = None
    identity: Tensor | None = None
    null_identity: Tensor | None = None
    identity_scale: Tensor | None = None

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
    face: Tensor | None,
    identity_scale: Tensor,
    guide_identity: bool = True,
) -> Condition:
    """The condition of `views` for a sentence, a pose drawing [V,P,S,S] and a face embedding [1,E] or None.

    identity_scale [V], see `face_weight`. With `guide_identity` the negative and null branches of guidance
    see the tokens of nobody at the same scale, as IP-Adapter was trained, and guidance exaggerates the face
    as it does the words; without, all branches see the face and it stays as the prior draws it.
    """
    prior: Prior = book.prior
    count = len(views.framings)
    if identity_scale.shape != (count,):
        raise ValueError(f"identity_scale must be [{count}], got {list(identity_scale.shape)}")
    identity = nobody = None
    if face is not None:
        identity = prior.identity_tokens(face[:1])
        nobody = prior.identity_tokens(prior.null_face(1)) if guide_identity else identity
    return Condition(
        positive=book.encode(view_prompts(text, views)),
        negative=book.encode([negative] * count),
        null=book.encode([""] * count),
        pose=None if pose is None else pose.to(prior.device),
        identity=None if identity is None else identity.expand(count, -1, -1),
        null_identity=None if nobody is None else nobody.expand(count, -1, -1),
        identity_scale=identity_scale.to(prior.device),
    )
