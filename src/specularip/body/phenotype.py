"""Body phenotype from text."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Phenotype:
    """Anny's phenotypes, each in [0,1], and in `matched` the words of the text that set them.

    gender: 0 male, 1 female. age: 0 baby, 1/3 child, 2/3 young adult, 1 old. muscle, weight, height: 0.5 is
    Anny's average, which is tall; so the default height is 0.4 (1.73 m; 1.80 m male, 1.66 m female). The last
    three are weights of three ancestries and need not sum to 1.
    """

    gender: float = 0.5
    age: float = 0.7
    muscle: float = 0.5
    weight: float = 0.5
    height: float = 0.4
    proportions: float = 0.5
    cupsize: float = 0.5
    firmness: float = 0.5
    african: float = 1 / 3
    asian: float = 1 / 3
    caucasian: float = 1 / 3
    matched: tuple[str, ...] = ()


# Words that describe the person. Where two set the same value, the first in the list wins, so specific words
# come before general ones ("boy" before "young", "woman" before "he").
_GENDER = (
    (
        "woman women female lady girl girls schoolgirl mother mom mum wife queen princess actress sister "
        "businesswoman grandmother grandma granny daughter aunt waitress ballerina bride heroine witch nun",
        1.0,
    ),
    (
        "man men male gentleman boy boys schoolboy guy father dad husband king prince actor brother "
        "businessman grandfather grandpa son uncle waiter groom hero lad monk wizard",
        0.0,
    ),
    ("she her hers herself", 1.0),
    ("he him his himself", 0.0),
)
_AGE = (
    ("baby babies infant newborn", 0.05),
    ("toddler toddlers", 0.14),
    ("teenager teenagers teenage teenaged teen adolescent", 0.54),
    ("child children kid kids boy boys girl girls schoolboy schoolgirl", 0.36),
    ("middle-aged midlife", 0.83),
    (
        "elderly old aged senior elder ancient wrinkled pensioner grandmother grandma granny grandfather "
        "grandpa",
        1.0,
    ),
    ("young youthful youth", 0.65),
)
_BUILD: tuple[tuple[str, dict[str, float]], ...] = (
    ("muscular athletic bodybuilder brawny buff strong well-built burly", {"muscle": 0.95}),
    ("slim slender thin skinny lean lanky petite", {"weight": 0.12}),
    (
        "heavy heavy-set heavyset overweight fat plump chubby obese stout corpulent curvy",
        {"weight": 1.0, "muscle": 0.35},
    ),
    ("tall towering", {"height": 0.48}),
    ("short petite tiny", {"height": 0.31}),
)
_ANCESTRY = (
    ("african african-american nigerian kenyan ethiopian", "african"),
    ("asian chinese japanese korean vietnamese thai", "asian"),
    ("european caucasian scandinavian", "caucasian"),
)
# These describe garments, hair and objects as often as people: "short dress", "Japanese kimono". They count
# only where they precede a person ("a short, heavy man") or follow a verb ("she is tall").
_AMBIGUOUS = frozenset(
    "short tall heavy thin old young slim slender skinny aged strong ancient lean tiny fat wrinkled buff "
    "petite curvy plump youthful athletic".split()
) | {word for words, _ in _ANCESTRY for word in words.split()}
_TRADES = frozenset(
    "person people human someone figure adult individual model dancer athlete runner skier student teacher "
    "doctor nurse soldier worker singer".split()
)
_PEOPLE = (_TRADES | {word for words, _ in (*_GENDER[:2], *_AGE) for word in words.split()}) - _AMBIGUOUS
_BETWEEN = _AMBIGUOUS | frozenset(
    "very quite rather and a an the little blond blonde dark-haired red-haired grey-haired beautiful "
    "handsome pretty smiling friendly black white american adult".split()
)
_BETWEEN |= {word for words, _ in _BUILD for word in words.split()}
_AFTER = frozenset({"and", "with", "in", "wearing"})
_VERBS = frozenset("is was looks she's he's very quite rather".split())


def phenotype_from_text(text: str) -> Phenotype:
    """The phenotype that `text` describes; values that it does not mention keep their defaults.

    `matched` lists the recognised words in the order of the text.
    """
    words = re.findall(r"[a-z]+(?:['’-][a-z]+)*", text.lower().replace("middle aged", "middle-aged"))
    about_person = {i: word for i, word in enumerate(words) if _about_person(words, i)}
    found: dict[str, float] = {}
    used: set[int] = set()

    def apply(group: str, **values: float) -> None:
        hits = [i for i, word in about_person.items() if word in group.split()]
        if hits and not set(values) <= set(found):
            used.update(hits)
            for name, value in values.items():
                found.setdefault(name, value)

    for group, value in _GENDER:
        apply(group, gender=value)
    for group, value in _AGE:
        apply(group, age=value)
    for group, values in _BUILD:
        apply(group, **values)
    for group, name in _ANCESTRY:
        apply(group, **{other: float(other == name) for other in ("african", "asian", "caucasian")})
    return replace(Phenotype(), **found, matched=tuple(words[i] for i in sorted(used)))


def _about_person(words: list[str], i: int) -> bool:
    """Whether word i describes the person rather than an object."""
    if words[i] not in _AMBIGUOUS:
        return True
    before = i - 1
    while before >= 0 and (words[before] in _AMBIGUOUS or words[before] == "and"):
        before -= 1
    follower = words[i + 1] if i + 1 < len(words) else "with"
    if before >= 0 and words[before] in _VERBS | _PEOPLE and follower in _AMBIGUOUS | _AFTER:
        return True
    for word in words[i + 1 :]:
        if word in _PEOPLE:
            return True
        if word not in _BETWEEN:
            return False
    return False
