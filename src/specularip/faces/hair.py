"""The colour of the hair that a sentence names, which goes before the photo's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

COLORS = (
    ("black jet-black raven", (0.05, 0.045, 0.05)),
    ("brown brunette chestnut", (0.28, 0.17, 0.10)),
    ("blonde blond golden flaxen fair", (0.80, 0.65, 0.40)),
    ("red ginger auburn copper reddish", (0.60, 0.24, 0.10)),
    ("grey gray silver greying graying", (0.55, 0.55, 0.56)),
    ("white snow-white", (0.88, 0.87, 0.85)),
    ("pink", (0.90, 0.45, 0.62)),
    ("blue", (0.20, 0.35, 0.75)),
)
"""Words, and the sRGB colour that the compact prior's training gave such hair."""
HAIR = "hair|haired|bob|ponytail|pony tail|braids?|plaits?|bun|afro|curls|locks|dreadlocks|mane"
ALONE = "blonde blond brunette ginger"
"""Colours that are nouns: "a blonde in a red coat"."""
BALD = re.compile(r"\b(?:bald|hairless|(?:shaved|shaven) head|no hair|without hair)\b")


def told_hair(text: str, crop: Tensor) -> Tensor | None:
    """Colour [3] of the hair by `text`, in sRGB; for bald heads that of the skin in the aligned crop [3,S,S];
    None if the text says nothing."""
    lowered = text.lower()
    size = crop.shape[-1]
    if BALD.search(lowered):
        cheeks = crop[:, int(0.5 * size) : int(0.65 * size), int(0.3 * size) : int(0.7 * size)]
        return cheeks.flatten(1).median(1).values
    for words, color in COLORS:
        for word in words.split():
            # At most two words between: "white curly hair", but not "a black dress and long hair".
            told = rf"\b{word}(?:[ -](?!and\b|with\b|in\b)[a-z]+){{0,2}}[ -](?:{HAIR})\b"
            if re.search(rf"\b{word}\b" if word in ALONE.split() else told, lowered):
                return crop.new_tensor(color)
    return None
