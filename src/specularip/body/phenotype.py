"""Body phenotype from text.

Three questions are asked of a word for people: whether the text denies it, whether it is somebody's name, and
whether it is the head of its phrase ("a grandpa in a sweater") or says of what kind a thing is ("a grandpa
sweater"). A word for a build or an age counts where it belongs to such a head, or follows a verb.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from specularip.sentences import (
    COLOR_NAMES,
    CONJUNCTIONS,
    COPULAS,
    DEGREES,
    DETERMINERS,
    MATERIALS,
    OF_PARTS,
    Word,
    normalized,
    words,
)


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
        "businesswoman grandmother grandma granny daughter aunt waitress ballerina bride heroine witch nun "
        "girlfriend bridesmaid niece duchess countess empress hostess stewardess priestess goddess gal lass "
        "maid mrs ms miss madam",
        1.0,
    ),
    (
        "man men male gentleman boy boys schoolboy guy father dad husband king prince actor brother "
        "businessman grandfather grandpa son uncle waiter groom hero lad monk wizard "
        "boyfriend groomsman nephew duke emperor bloke chap gent fella mr mister sir",
        0.0,
    ),
    ("she her hers herself she's she'll she'd", 1.0),
    ("he him his himself he's he'll he'd", 0.0),
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
_YEARS = (0, 1, 3, 10, 15, 22, 30, 50, 70), (0.0, 0.05, 0.14, 0.36, 0.54, 0.65, 0.7, 0.83, 1.0)
"""Ages in years, and in Anny's scale as the words above have them; linear between."""
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
) | {word for words_, _ in _ANCESTRY for word in words_.split()}
# These count unless a thing follows them: "a muscular man", "towering heels".
_ADJECTIVES = _AMBIGUOUS | frozenset(
    "middle-aged midlife elderly senior teenage teenaged infant newborn male female".split()
)
_ADJECTIVES |= {word for words_, _ in _BUILD for word in words_.split()} - {"bodybuilder"}
_TRADES = frozenset(
    """person people human someone somebody anyone figure adult individual model dancer athlete runner skier
    student teacher doctor nurse soldier worker singer artist officer avatar character designer engineer
    lawyer chef writer pianist librarian photographer scientist reporter tourist traveller traveler friend
    cowboy""".split()
)
_RELATED = {word for words_, _ in (*_GENDER[:2], *_AGE) for word in words_.split()} - _AMBIGUOUS
_PEOPLE = (_TRADES | _RELATED | {"bodybuilder"}) - (_ADJECTIVES - {"male", "female", "senior", "infant"})
_PLAIN = frozenset("woman women man men lady gentleman girl boy girls boys child male female guy".split())
"""Words for sex and age alone: "woman red dress" is about a woman, as "princess dress" may not be."""
_PRONOUNS = frozenset(word for words_, _ in _GENDER[2:] for word in words_.split())
_NO_MAN = frozenset(
    """human german roman ottoman norman talisman shaman specimen abdomen omen acumen regimen ramen stamen
    semen amen hymen lumen caiman foramen bitumen""".split()
)
"""Words that end in "man" or "men" and name neither."""
_WORN = frozenset("in wearing wears wear wore worn dressed clad sporting".split())
"""What follows these is clothing, never the person."""
_LIKENESS = frozenset("as like with beside behind near against holding carrying hugging kissing".split())
"""What follows these is somebody else, if the text has said who the person is."""
_LINKS = _ADJECTIVES | DEGREES | {"and", "but", "or", "a", "an", "the", "little"}

_UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBERS = {word: value for value, word in enumerate(_UNITS)}
_NUMBERS |= {
    f"{ten}{joint}{unit}".rstrip("- "): 10 * n + value
    for n, ten in enumerate(_TENS, 2)
    for value, unit in enumerate(["", *_UNITS[1:10]])
    for joint in "- "
}
_NUMBER = rf"(\d{{1,3}}|{'|'.join(sorted(_NUMBERS, key=len, reverse=True))})"
_AGES = (
    re.compile(rf"\b{_NUMBER}[ -]*(years?|yrs?|months?|yo\b|y/o)(?:[ -]*(?:old|of age))?(s?)\b"),
    re.compile(
        r"\b(?:aged?|at the age of|is|she's|he's|(?:man|woman|person|lady|boy|girl),?(?: aged| of| over)?)"
        rf"(?:[ -](?:about|around|nearly|almost|over))?[ -]\(?{_NUMBER}\b(?! *[^\W\d])"
    ),
    re.compile(rf"\b(?:aged|at the age of)[ -]{_NUMBER}\b"),
)
_DECADES = re.compile(
    r"\bin (?:his|her|their|my)[ -](?:(early|mid|late)[ -]?)?"
    rf"(\d0|{'|'.join(t[:-1] for t in _TENS)})'?(?:i?e?s)\b"
)
_WITHIN = {"early": 2, "mid": 5, "late": 8, None: 5}


def phenotype_from_text(text: str) -> Phenotype:
    """The phenotype that `text` describes; values that it does not mention keep their defaults.

    `matched` lists the recognised words in the order of the text.
    """
    read = _lexical(words(text))
    people = _people(read)
    heads = {i for i, strong in people.items() if strong} or set(people)
    about = {
        i: word.text
        for i, word in enumerate(read)
        if i in heads
        or (word.text in _PRONOUNS and not word.denial)
        or (word.text in _ADJECTIVES and _about_person(read, i, heads))
    }
    found: dict[str, float] = {}
    used: dict[int, str] = {}

    def apply(group: str, **values: float) -> None:
        hits = [i for i, word in about.items() if word in group.split()]
        if hits and not set(values) <= set(found):
            used.update((read[i].start, normalized(text)[read[i].start : read[i].end].lower()) for i in hits)
            for name, value in values.items():
                found.setdefault(name, value)

    aged = _years(text, read)
    if aged is not None:
        start, phrase, found["age"] = aged
        used[start] = phrase
    for group, value in _GENDER:
        apply(group, gender=value)
    for group, value in _AGE:
        apply(group, age=value)
    for group, values in _BUILD:
        apply(group, **values)
    for group, name in _ANCESTRY:
        apply(group, **{other: float(other == name) for other in ("african", "asian", "caucasian")})
    return replace(Phenotype(), **found, matched=tuple(used[start] for start in sorted(used)))


def _lexical(read: list[Word]) -> list[Word]:
    """The words in the forms of the lists: "policewomen" as "women", "young-looking" as "young", and
    "old-man" as two."""
    result: list[Word] = []
    for word in read:
        text = word.text.removesuffix("-looking").removesuffix("-ish")
        lexicon, parts = _ADJECTIVES | _PEOPLE, text.split("-")
        if text not in lexicon and len(parts) > 1 and set(parts) <= lexicon:
            start = word.start
            for part in parts:
                result.append(replace(word, text=part, start=start, end=start + len(part)))
                start += len(part) + 1
            continue
        result.append(replace(word, text=_plain(text)))
    return result


def _plain(word: str) -> str:
    if word in _PEOPLE | _ADJECTIVES:
        return word
    for ending, plain in (("ies", "y"), ("s", "")):
        if word.endswith(ending) and word[: -len(ending)] + plain in _PEOPLE:
            return word[: -len(ending)] + plain
    for end in ("woman", "women", "girl", "lady"):
        if word.endswith(end):
            return "woman"
    if word.endswith(("man", "men")) and word.removesuffix("s") not in _NO_MAN and len(word) > 5:
        return "man"
    return word


def _people(read: list[Word]) -> dict[int, bool]:
    """Words for people that may be the person; True: surely, False: only if no other word is."""
    found: dict[int, bool] = {}
    for i, word in enumerate(read):
        if word.text not in _PEOPLE or word.name:
            continue
        if word.denial:
            # "not a tall man" denies "tall", "not a man" the man.
            if i and read[i - 1].denial == word.denial and read[i - 1].text in _LINKS - {"a", "an", "the"}:
                found[i] = False
            continue
        opener, determiner = _opener(read, i)
        worn, thing = opener in _WORN, _thing_after(read, i)
        if word.possessive:
            named = determiner == "" and word.text not in _PLAIN
            if not named and determiner not in ("my", "his", "her", "their", "your"):
                found[i] = False
        elif thing is not None:
            colored = read[i + 1].text in COLOR_NAMES | MATERIALS and not worn and opener != "with"
            if word.text == "baby" or worn or (word.text not in _PLAIN and not colored):
                continue
            found[i] = word.text in _PLAIN and colored
        elif worn or (opener in ("with", "of", "and") and determiner == "" and _of_follows(read, i)):
            continue
        elif opener in ("with", "as", "like") and determiner == "" and _kind_follows(read, i):
            continue
        else:
            other = determiner in ("my", "his", "her", "their", "your") or opener in _LIKENESS
            if opener == "of":  # "a man with the face of a boy", but "a model of a man"
                other |= any(
                    strong and read[k].text in _RELATED and "of" in [word.text for word in read[k:i]]
                    for k, strong in found.items()
                )
            found[i] = not other
    return found


def _opener(read: list[Word], i: int) -> tuple[str, str]:
    """The word that opens the phrase of word i, such as "in", and its determiner; "" where there is none."""
    k, determiner = i, ""
    while k > 0 and not read[k].after_mark and read[k - 1].content:
        k -= 1
    if k > 0 and not read[k].after_mark and read[k - 1].text in DETERMINERS:
        k -= 1
        determiner = read[k].text
    return (read[k - 1].text if k > 0 and not read[k].after_mark else ""), determiner


def _thing_after(read: list[Word], i: int) -> int | None:
    """The number of the thing that word i says the kind of, in the same phrase; None if there is none."""
    for k in range(i + 1, min(i + 5, len(read))):
        word = read[k]
        if word.after_mark or not word.content or word.denial != read[i].denial or word.text in _PEOPLE:
            return None
        if word.thing and not (k + 1 < len(read) and read[k + 1].text in _PEOPLE):  # "female fashion model"
            return k
    return None


def _of_follows(read: list[Word], i: int) -> bool:
    return i + 1 < len(read) and not read[i + 1].after_mark and read[i + 1].text == "of"


def _kind_follows(read: list[Word], i: int) -> bool:
    """Whether a word that is no person follows in the same phrase: "with boy haircut"."""
    following = read[i + 1] if i + 1 < len(read) and not read[i + 1].after_mark else None
    return following is not None and following.content and following.text not in _PEOPLE | _ADJECTIVES


def _about_person(read: list[Word], i: int, heads: set[int]) -> bool:
    """Whether the adjective at i describes the person rather than an object."""
    word = read[i]
    if word.denial or word.name or word.possessive:
        return False
    for k in range(i + 1, min(i + 7, len(read))):  # an attribute of what follows: "a tall, bearded man"
        follower = read[k]
        if k in heads:
            return True
        parts = OF_PARTS.fullmatch(follower.text) and "-" not in follower.text
        if parts and k == i + 1 and not follower.after_mark:
            return False
        if follower.thing or follower.text in _PEOPLE:
            if not _person_follows(read, k, heads):
                return _said_of_person(read, i, heads) if follower.after_mark else False
        if not follower.content and follower.text not in _LINKS:
            break
        if follower.after_mark and _closed(read, i, k):
            break
    if _said_of_person(read, i, heads):
        return True
    return word.text not in _AMBIGUOUS and _opener(read, i)[0] not in _WORN


def _person_follows(read: list[Word], k: int, heads: set[int]) -> bool:
    """Whether word k belongs to a person that follows: "old black man", "red haired girl"."""
    parts = k + 1 < len(read) and OF_PARTS.fullmatch(read[k + 1].text) is not None
    return k + 1 in heads or (k + 2 in heads and (parts or read[k + 1].text in _LINKS))


def _closed(read: list[Word], i: int, k: int) -> bool:
    """Whether the mark before word k ends a phrase: words other than adjectives stand before it."""
    return any(word.text not in _LINKS for word in read[i:k])


def _said_of_person(read: list[Word], i: int, heads: set[int]) -> bool:
    """Whether word i follows a verb ("she is tall") or a person ("a woman, tall and slim, in a dress")."""
    follower = read[i + 1] if i + 1 < len(read) else None
    if follower is not None and not follower.after_mark:
        if follower.content and follower.text not in _ADJECTIVES:
            return False
    k = i - 1
    while k >= 0 and (read[k].text in _ADJECTIVES | DEGREES | CONJUNCTIONS) and k not in heads:
        k -= 1
    if k < 0:
        return False
    verb = read[k].text
    if k in heads or verb in ("she's", "he's", "they're", "i'm"):
        return True
    if verb not in COPULAS or k == 0:
        return False
    subject = k - 1
    known = subject in heads or read[subject].name
    if known or read[subject].text in _PRONOUNS | {"who", "they", "i", "that"}:
        return True
    if read[subject].thing:
        return _opener(read, subject)[0] in _WORN | {"with"}  # "the woman in the red dress is tall"
    return read[subject].content and _opener(read, subject) == ("", "")  # "Anika is tall"


def _years(text: str, read: list[Word]) -> tuple[int, str, float] | None:
    """Where the text tells the person's age in years, the phrase, and Anny's value; None if it does not."""
    lowered = normalized(text).lower()
    matches = [(pattern, match) for pattern in (*_AGES, _DECADES) for match in pattern.finditer(lowered)]
    for pattern, match in sorted(matches, key=lambda found: found[1].start()):
        inside = [k for k, word in enumerate(read) if match.start() < word.end and word.start < match.end()]
        if not inside or read[inside[-1]].denial or _thing_after(read, inside[-1]) is not None:
            continue
        if pattern is _DECADES:
            decade = match[2]
            years = float(decade) if decade.isdigit() else 10 * (2 + [t[:-1] for t in _TENS].index(decade))
            years += _WITHIN[match[1]]
        else:
            years = float(match[1]) if match[1].isdigit() else _NUMBERS[match[1]]
            if pattern is _AGES[0] and match[2].startswith("month"):
                years /= 12
        start = match.start() if pattern is _DECADES else match.start(1)
        return start, lowered[start : match.end()], _age(years)
    return None


def _age(years: float) -> float:
    """Anny's age of so many years."""
    return float(np.interp(years, *_YEARS))
