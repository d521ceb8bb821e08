"""View-dependent prompts: the words that tell the prior from where, and how much of, the person is seen.

The tool that trains the compact prior writes its captions with `view_prompt`: one language for both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from specularip.cameras import Views, view_name

if TYPE_CHECKING:
    from specularip.diffusion.prior import Prior

FRAMING_PHRASES = {"full": "full body", "upper": "upper body", "lower": "legs", "head": "head close-up"}
"""What each `cameras.Framing` shows, by its name."""


def view_prompt(text: str, framing: str, view: str) -> str:
    """`text, {framing phrase}, {view} view`; framing by its name, view as `cameras.view_name` says it."""
    return f"{text.strip().rstrip('.,')}, {FRAMING_PHRASES[framing]}, {view} view"


def view_prompts(text: str, views: Views) -> list[str]:
    """One prompt for each view."""
    names = map(view_name, views.azimuth_deg.tolist(), views.elevation_deg.tolist())
    return [view_prompt(text, framing.name, view) for framing, view in zip(views.framings, names)]


class PromptBook:
    """Text embeddings, each distinct prompt encoded once."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self._pages: dict[str, Tensor] = {}

    @torch.no_grad()
    def encode(self, texts: list[str]) -> Tensor:
        """Embeddings [B,T,D] of the texts, in their order."""
        new = [text for text in dict.fromkeys(texts) if text not in self._pages]
        if new:
            self._pages.update(zip(new, self.prior.encode_text(new)))
        return torch.stack([self._pages[text] for text in texts])
