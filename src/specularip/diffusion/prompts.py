"""View-dependent prompts: the text plus phrases for framing and view direction.

`tools/compact` also uses `view_prompt` for the training captions, so that they match.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.cameras import Views, view_name
from specularip.diffusion.prior import Prior

FRAMING_PHRASES = {"full": "full body", "upper": "upper body", "lower": "legs", "head": "head close-up"}
"""By the name of a `cameras.Framing`."""


def view_prompt(text: str, framing: str, view: str) -> str:
    """`text, {framing phrase}, {view} view`. framing: its name; view: see `cameras.view_name`."""
    return f"{text.strip().rstrip('.,')}, {FRAMING_PHRASES[framing]}, {view} view"


def view_prompts(text: str, views: Views) -> list[str]:
    """One prompt for each view."""
    names = map(view_name, views.azimuth_deg.tolist(), views.elevation_deg.tolist())
    return [view_prompt(text, framing.name, view) for framing, view in zip(views.framings, names)]


class PromptBook:
    """A cache of text embeddings: each distinct prompt is encoded once."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self._cache: dict[str, Tensor] = {}

    @torch.no_grad()
    def encode(self, texts: list[str]) -> Tensor:
        """Embeddings [B,T,D] of the texts.

        Each text is encoded alone: in a batch, its last bits depend on what else is in it, and a resumed run
        asks for other batches.
        """
        for text in dict.fromkeys(texts):
            if text not in self._cache:
                self._cache[text] = self.prior.encode_text([text])[0]
        return torch.stack([self._cache[text] for text in texts])
