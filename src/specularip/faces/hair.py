"""The colour of the hair that a sentence names, which goes before the photo's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from specularip.sentences import COLOR_NAMES, affirmed, denied, is_thing

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
_SHORN = re.compile(r"\b(?:bald|hairless|(?:shaved|shaven) head)\b")
_NAMED = re.compile(rf"\b(?:{HAIR}|blondes?|blonds?|brunettes?|redhead|ginger|(?:[a-z]+-)?haired)\b")
_NONE = re.compile(r"(?:any )?hair(?: on .*)?")


def _own(pattern: str | re.Pattern[str], said: str) -> bool:
    """Whether the pattern is found in a text of `affirmed`, and neither says the kind of a thing ("a camel
    hair coat") nor has one in its group ("red dress long hair")."""
    for match in re.finditer(pattern, said):
        between = re.findall(r"[a-z]+", "".join(group or "" for group in match.groups()))
        if any(is_thing(word) and word not in COLOR_NAMES for word in between):
            continue
        following = re.match(r"[ -]([a-z]+)", said[match.end() :])
        if following is None or not is_thing(following[1]):
            return True
    return False


def is_bald(text: str) -> bool:
    """Whether the text says that the head is bald."""
    return _own(_SHORN, affirmed(text)) or any(_NONE.fullmatch(phrase) for phrase in denied(text))


def names_hair(text: str) -> bool:
    """Whether the text speaks of the person's hair."""
    return is_bald(text) or _own(_NAMED, affirmed(text))


def _told(word: str) -> str:
    """The pattern of a colour said of hair."""
    if word in ALONE.split():
        return rf"\b{word}\b"
    # At most two words between: "white curly hair", but not "a black dress and long hair".
    return rf"\b{word}((?:[ -](?!and\b|with\b|in\b)[a-z]+){{0,2}})[ -](?:{HAIR})\b"


def told_hair(text: str, crop: Tensor) -> Tensor | None:
    """Colour [3] of the hair by `text`, in sRGB; for bald heads that of the skin in the aligned crop [3,S,S];
    None if the text says nothing."""
    said = affirmed(text)
    size = crop.shape[-1]
    if is_bald(text):
        cheeks = crop[:, int(0.5 * size) : int(0.65 * size), int(0.3 * size) : int(0.7 * size)]
        return cheeks.flatten(1).median(1).values
    for words, color in COLORS:
        for word in words.split():
            if _own(_told(word), said):
                return crop.new_tensor(color)
    return None
