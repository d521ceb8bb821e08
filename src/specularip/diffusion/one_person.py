"""What a text asks for beyond one person who stands still before grey: poses, scenes and other people.

A prior that was trained on nothing else cannot draw them, whatever their words do to its text embeddings. So
they are taken out of the text, and named to the user. Free of torch.
"""

from __future__ import annotations

import re

POSES = """sitting seated kneeling crouching squatting lying sleeping reclining running sprinting jogging
jumping leaping dancing walking marching hiking swimming flying riding driving climbing crawling fighting
boxing kicking punching leaning bending stretching waving pointing saluting praying hugging kissing skiing
skateboarding surfing cycling"""
PLACES = """beach seaside sea ocean lake river pool water rain snow snowstorm forest woods jungle park
garden field meadow desert mountain mountains hill hills cave city town village street road alley bridge
station room bedroom kitchen bathroom office studio gym classroom library museum church castle palace
house home bar pub cafe restaurant club stage theatre theater stadium shop market space moon mars night
sunset sunrise dawn dusk sky sunshine fog storm background backdrop bed sofa couch chair stool throne
bench floor ground grass horse bike bicycle motorbike motorcycle car boat ship train wall window door tree
battlefield spaceship"""
ONE = """man woman person boy girl child kid baby lady gentleman guy adult teenager nurse soldier"""
MANY = """men women people persons boys girls children kids babies ladies gentlemen guys friends sisters
brothers twins adults teenagers lovers dancers"""
COMPANIONS = """dog cat horse puppy kitten baby bird parrot pet friend wife husband girlfriend boyfriend
son daughter sister brother mother father"""
GARMENT = """shoe shoes boot boots trousers pants shorts suit jacket coat dress skirt shirt top hat cap
gear clothes trunks trainers breeches leggings socks gown costume jeans sweater hoodie outfit uniform robe
gloves helmet"""
"""After a word for a pose or a place, these make it the kind of a garment: "running shoes"."""


def _any(words: str) -> str:
    return "(?:" + "|".join(sorted(words.split(), key=len, reverse=True)) + ")"


_NOT_GARMENT = rf"(?!\s+{_any(GARMENT)}\b)"
_PREPOSITION = (
    r"(?:in front of|next to|on top of|on|in|at|by|near|under|inside|through|against|beside|among|around)"
)
_ARTICLE = r"(?:an?|the|his|her|their|some)"
# Up to two adjectives; a preposition or conjunction among them would begin another phrase.
_ADJECTIVES = r"(?:(?!(?:in|on|at|by|with|and|or|of|under|near)\b)[\w-]+\s+){0,2}"
_LAST = (  # not the first part of a longer noun, as in "in a garden dress"
    r"\b(?![-']\w|\s+(?!(?:in|on|at|by|with|and|or|while|who|wearing|wears|near|under|next|dressed|holding|"
    r"beside)\b)\w)"
)
_PLACE = rf"{_PREPOSITION}\s+(?:{_ARTICLE}\s+)?{_ADJECTIVES}{_any(PLACES)}{_LAST}"
_POSE = (
    rf"(?:(?:who|and|while)\s+)?(?:(?:is|was|are)\s+)?{_any(POSES)}\b{_NOT_GARMENT}"
    r"(?:\s+(?:down|around|up)\b)?"
    rf"(?:\s+{_ARTICLE}\s+{_ADJECTIVES}{_any(PLACES + ' ' + COMPANIONS)}{_LAST})?(?:\s+{_PLACE})?"
    r"|(?:with\s+)?(?:(?:his|her|their|both)\s+)?(?:arms?|hands?|legs?)\s+"
    r"(?:raised|crossed|folded|outstretched|spread|up|on (?:his|her|their)?\s*hips)\b"
    r"|(?:with\s+)?(?:crossed|folded|raised|outstretched)\s+(?:arms|legs|hands)\b|cross-legged"
    r"|(?:standing\s+)?on one (?:leg|foot)\b"
)
_PEOPLE = (
    r"(?:(?:two|three|four|five|six|several|many|some|[2-9])\s+|(?:group|crowd|couple|pair)\s+of\s+)"
    rf"{_ADJECTIVES}{_any(MANY)}\b"
    rf"|(?:and|with)\s+{_ARTICLE}\s+{_ADJECTIVES}{_any(ONE + ' ' + COMPANIONS)}{_LAST}"
)
_CUTS = re.compile(rf"\b(?:{_POSE}|{_PLACE})", re.IGNORECASE)
_CROWDS = re.compile(rf"\b(?:{_PEOPLE})", re.IGNORECASE)


def one_standing_person(text: str) -> tuple[str, list[str]]:
    """The text without the poses and scenes that it asks for, and what was asked for and cannot be drawn.

    A phrase about several people is named but stays: it may hold all that is said of the person.
    """
    found: list[tuple[int, str]] = [(match.start(), match[0]) for match in _CROWDS.finditer(text)]
    found += [(match.start(), match[0]) for match in _CUTS.finditer(text)]
    rest = _CUTS.sub("", text)
    rest = re.sub(r"\s+([,.;])", r"\1", re.sub(r"\s+", " ", rest))
    rest = re.sub(r"([,;])(?:\s*[,;.])+", r"\1", rest).strip(" ,;")
    return rest, [" ".join(phrase.split()) for _, phrase in sorted(found)]
