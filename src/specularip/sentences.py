"""What a text says and what it denies: words, names, and the reach of "no", "not" and "without".

A short grammar instead of a parser, since texts here are a line about one person: words between two function
words or marks are a phrase; a phrase ends in its head; a denial reaches to the next mark, conjunction,
preposition or verb. Free of torch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, replace

DETERMINERS = frozenset(
    "a an the this that these those some any my your his her their its our no each every one two".split()
)
PREPOSITIONS = frozenset(
    """in on at by with under over above below beneath beside behind near from of to into onto about around
    for as like against among between during after before without within through until""".split()
)
CONJUNCTIONS = frozenset("and but or nor yet while whereas though although except because so plus if".split())
RELATIVES = frozenset("who whom whose which that".split())
PRONOUNS = frozenset("she he they it i we you me us them him who".split())
COPULAS = frozenset("is was are were be been being am looks look seems seem appears appear stays".split())
VERBS = COPULAS | frozenset(
    """wear wears wearing wore has have had having does do did can will would should stands standing sits
    sitting holds holding carrying carries posing poses facing walking looking dressed clad sporting worn made
    named called show shows draw make create want""".split()
)
FUNCTION = DETERMINERS | PREPOSITIONS | CONJUNCTIONS | RELATIVES | PRONOUNS | VERBS
"""Words between phrases."""
DEGREES = frozenset(
    """very quite rather so too really extremely fairly pretty somewhat slightly particularly
    especially""".split()
)

COLOR_NAMES = frozenset(
    """red orange yellow green blue navy purple violet pink brown beige black white grey gray silver gold
    golden turquoise teal cyan olive burgundy maroon khaki cream ivory rose crimson scarlet magenta lilac
    lavender mint coral peach tan rust""".split()
)
MATERIALS = frozenset(
    """cotton linen wool woollen woolen tweed denim leather suede satin silk velvet lace fur latex vinyl nylon
    cashmere flannel fleece corduroy chiffon metal metallic plastic rubber sequin sequinned lame knit knitted
    cloth fabric pearl pearls wooden wood glass paper straw canvas felt""".split()
)
THINGS = frozenset(
    """shirt blouse tee top tank polo sweater jumper pullover hoodie cardigan jacket coat blazer vest
    waistcoat gilet dress gown frock robe suit tuxedo uniform costume outfit clothes clothing clothe
    garment attire look dungaree overall jumpsuit trouser pant jean chino short skirt legging tight shoe
    boot sneaker trainer heel sandal loafer slipper sock stocking hat cap beanie helmet hood beret
    fedora bonnet crown tiara turban hijab headscarf headband bandana glove mitten belt scarf tie bow
    collar cuff sleeve button zip zipper pocket strap lapel hem buckle brooch necklace chain bracelet
    ring earring watch bag purse backpack glasses sunglasses goggles umbrella cloak cape poncho shawl
    apron habit kimono sari kilt bikini swimsuit trunks bra underwear pyjama pajama nightgown cut fit
    size style fashion sized print pattern stripe check plaid logo badge label trim lining colour color
    shade hue weave seam embroidery ribbon clip band pin comb accessory accessories doll toy bed tattoo
    poster picture eagle gear wear kit bob-hat moccasin ballet ballerinas pump pumps flats jodhpurs
    breeches slacks corset bodice tunic blouson parka anorak raincoat mackintosh windbreaker sweatshirt
    armour armor mask wig veil choker pendant cravat shoelace sash cane braces suspenders lipstick
    perfume makeup jewellery jewelry band-aid""".split()
)
"""Garments and other objects, and what garments consist of, in the singular."""
COMPOUND_THING = re.compile(
    r"[\w-]+(?:shirt|coat|wear|suit|skirt|pants|shoes?|boots?|hats?|jackets?|gown|belt|bag|cloth)s?"
)
OF_PARTS = re.compile(
    r".*(?:haired|sleeved|sighted|lipped|willed|minded|fashioned|tempered|nosed|legged|armed|footed|faced|"
    r"heeled|skirted|skinned|collared|waisted|necked|fingered|brimmed|eyed)"
)
"""Adjectives that an adjective before belongs to: "short haired", "strong willed"."""
TITLES = frozenset("mr mrs ms miss dr mister sir prof professor".split())
NAMES = frozenset(
    """young old short strong stout little long brown black white grey gray green king prince queen monk boy
    guy child elder senior lean small bob ginger rose olive violet ruby lad major page cooper amber hazel
    coral jade pearl scarlet sienna ebony ivory silver gold sage heather""".split()
)
"""Words that are names of people, too."""
JOINED = {
    phrase: phrase.replace(" ", "-")
    for phrase in (
        "middle aged", "well built", "heavy set", "african american", "non binary", "mother of pearl",
        "prince of wales", "prince albert", "old rose", "old gold", "old fashioned", "old school",
        "old money", "baby doll", "baby blue", "baby pink", "young at heart",
    )
}  # fmt: skip
"""Several words of one meaning, which is not that of its parts."""

NEGATORS = frozenset(
    """no not less without never neither nor hardly barely scarcely sans minus lacking lacks cannot isnt
    wasnt arent doesnt dont didnt hasnt wont cant""".split()
)
NEGATOR_PAIRS = frozenset(
    {("rather", "than"), ("instead", "of"), ("anything", "but"), ("far", "from"), ("devoid", "of")}
    | {("free", "of"), ("other", "than"), ("apart", "from")}
)
ADVERBS_ONLY = frozenset("only just merely simply doubt less".split())
"""After "not" and "no", these deny nothing: "not only red"."""
DENY_ADJECTIVES = frozenset("not less never hardly barely scarcely neither nor".split())
"""Before adjectives, these leave the noun: "a not very old man" is a man."""
MARK = re.compile(r"[,;.:/()!?|\u2026\u2014\u2013]|\s-\s")


@dataclass(frozen=True)
class Word:
    """text: in lower case, without accents and 's. start, end: in the normalized text. after_mark: whether
    punctuation stands before it. possessive: whether it had 's. name: whether it is somebody's name.
    denial: the number of the denial that it is in; 0: none."""

    text: str
    start: int
    end: int
    after_mark: bool
    possessive: bool = False
    name: bool = False
    denial: int = 0

    @property
    def content(self) -> bool:
        """Whether it belongs to a phrase rather than between two."""
        return self.text not in FUNCTION

    @property
    def thing(self) -> bool:
        """A colour, material, garment or object."""
        return is_thing(self.text)


@dataclass(frozen=True)
class Denial:
    """A denial in a text: first and last number of its words, and where the denied words begin."""

    first: int
    start: int
    last: int


def is_thing(word: str) -> bool:
    """Whether the word, or its singular, names a colour, material, garment or other object."""
    if word in COLOR_NAMES or word in MATERIALS or word in THINGS or COMPOUND_THING.fullmatch(word):
        return True
    return any(word.endswith(end) and word[: -len(end)] in THINGS | COLOR_NAMES for end in ("s", "es"))


def normalized(text: str) -> str:
    """The text with characters of width, ligatures, quotes and hyphens as they are on a keyboard."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub("[\u2018\u2019\u02bc\u00b4`\u2032]", "'", text)
    text = re.sub("[\u2010\u2011\u2012\u2212]", "-", text)
    return "".join(c for c in text if unicodedata.category(c) != "Cf" or c == "\u200d")


def _folded(text: str) -> str:
    """In lower case and without accents, of the same length."""
    plain = (unicodedata.normalize("NFD", c)[0].lower()[:1] or c for c in text)
    return "".join(plain)


def words(text: str) -> list[Word]:
    """The words of a text; positions are those in its normalized form."""
    text = normalized(text)
    folded = _folded(text)
    pattern = "|".join(re.escape(phrase).replace(r"\ ", r"[\s-]+") for phrase in JOINED)
    token = rf"\b(?:{pattern})\b|[^\W_]+(?:['-][^\W_]+)*"
    found: list[Word] = []
    end = 0
    for match in re.finditer(token, folded):
        word, mark = re.sub(r"\s+", "-", match[0]), bool(MARK.search(folded[end : match.start()]))
        title = bool(found) and found[-1].text in TITLES and folded[end : match.start()].strip() in (".", "")
        possessive = word.endswith("'s") and word[:-2] not in ("she", "he", "it", "who", "that", "there")
        word = word[:-2] if possessive else word
        plural = folded[match.end() : match.end() + 2] in ("' ", "'")
        possessive |= plural and word.endswith("s")
        found.append(Word(word, match.start(), match.end(), mark and not title, possessive))
        end = match.end()
    return _with_denials(_with_names(found, text))


def _with_names(found: list[Word], text: str) -> list[Word]:
    """Names follow "named" and titles; else they are `NAMES` in capitals beside another unknown capital."""
    names: set[int] = set()
    initials = [text[word.start].isupper() for word in found]
    content = [initial for word, initial in zip(found, initials) if word.content]
    plain = text.upper() != text and sum(content) <= max(2, len(content) // 2)
    for i, word in enumerate(found):
        before = found[i - 1] if i and not word.after_mark else None
        after = found[i + 1] if i + 1 < len(found) and not found[i + 1].after_mark else None
        if before is None:
            # "Bob in a coat": no article before, and nothing that it could belong to.
            follows = after is None or not after.content
            if word.text in ("bob", "ginger") and initials[i] and plain and follows:
                names.add(i)
        elif before.text in ("named", "called") or before.text in TITLES:
            if word.content:
                names.add(i)
        elif initials[i] and plain and i - 1 in names:
            names.add(i)
        elif initials[i] and plain and initials[i - 1] and word.text in NAMES and not word.possessive:
            if before.content and before.text not in NAMES and not before.thing:
                if after is None or not after.content:
                    names.add(i)
    return [replace(word, name=i in names) for i, word in enumerate(found)]


def denials(found: list[Word]) -> list[Denial]:
    """Every "no ...", "not ...", "without ..." in a text, in order."""
    result: list[Denial] = []
    i = 0
    while i < len(found):
        start = _negator(found, i)
        word = found[i].text
        if (word.startswith("non-") and word != "non-binary") or word.endswith("-free"):
            result.append(Denial(i, i, i))
        if start == i:
            i += 1
            continue
        last = _reach(found, i, start)
        if last >= start:
            result.append(Denial(i, start, last))
        i = max(last + 1, start)
    return result


def _negator(found: list[Word], i: int) -> int:
    """The number of the word after the negator at i; i if there is none."""
    word = found[i].text
    following = found[i + 1].text if i + 1 < len(found) and not found[i + 1].after_mark else ""
    if (word, following) in NEGATOR_PAIRS:
        return i + 2
    if not (word in NEGATORS or word.endswith("n't")) or following in ADVERBS_ONLY:
        return i
    if following == "longer":
        return i + 2
    return i if following == "without" else i + 1


def _reach(found: list[Word], first: int, start: int) -> int:
    """The last word that is denied from `start` on; start - 1: none."""
    content, last = 0, start - 1
    for k in range(start, len(found)):
        word = found[k]
        if word.after_mark and not (content and _in_list(found, k)):
            break
        if word.text in ("or", "nor") or (_negator(found, k) > k and content == 0):
            continue
        if _negator(found, k) > k or word.text in CONJUNCTIONS or word.text in RELATIVES:
            break
        if word.content:
            content += word.text not in DEGREES
            last = k
        elif content and not (word.text in DETERMINERS and found[k - 1].text in ("or", "nor")):
            break
    adjectives = found[first].text in DENY_ADJECTIVES or found[first].text.endswith("n't")
    if content > 1 and adjectives and found[start].content and found[last - 1].content:
        noun = found[last].thing and found[last].text not in COLOR_NAMES | MATERIALS
        if noun or (first and found[first - 1].text in DETERMINERS):
            last -= 1  # "a red, not blue dress", "a not very old man"
    return last


def _in_list(found: list[Word], k: int) -> bool:
    """Whether the mark before word k stands in a list that ends in "or": "no hat, gloves or scarf"."""
    for j in range(k, len(found)):
        if found[j].text in ("or", "nor"):
            return j > k
        if not (found[j].content or found[j].text in DETERMINERS):
            return False
    return False


def _with_denials(found: list[Word]) -> list[Word]:
    number = {k: n for n, d in enumerate(denials(found), 1) for k in range(d.start, d.last + 1)}
    return [replace(word, denial=number.get(i, 0)) for i, word in enumerate(found)]


def affirmed(text: str) -> str:
    """The text in lower case, with a comma in place of each denial and of each name."""
    text = normalized(text)
    found = words(text)
    spans = [(found[d.first].start, found[d.last].end) for d in denials(found)]
    spans += [(word.start, word.end) for word in found if word.name]
    folded = list(_folded(text))
    for start, end in spans:
        folded[start:end] = [","] + [" "] * (end - start - 1)
    return "".join(folded)


def denied(text: str) -> list[str]:
    """What a text denies, in lower case and without articles: ["red hat"] for "no red hat"."""
    found = words(text)
    skipped = DETERMINERS | PREPOSITIONS | VERBS | NEGATORS
    return [
        " ".join(word.text for word in found[d.start : d.last + 1] if word.text not in skipped)
        for d in denials(found)
        if "-" not in found[d.first].text
    ]


LINKS = frozenset(
    "with wearing in of and or but has have having who is was that does do did are wears".split()
)
"""Words that a denial takes with it when it is cut out: "and with no hat"."""


def without_denials(text: str, known: Collection[str] = ()) -> tuple[str, list[str]]:
    """The normalized text without its denials, and those, as written.

    A denoiser draws a word's picture whether the text affirms the word or denies it. known: denials that
    training captions had, such as "no shoes"; these remain.
    """
    text = normalized(text)
    found = words(text)
    pieces: list[str] = []
    cut: list[str] = []
    end = 0
    found_denials = denials(found)
    for denial in found_denials:
        if "-" in found[denial.first].text:
            continue  # one word, which means something else to a prior
        kept = next((phrase for phrase in known if phrase == f"no {_content(found, denial)}"), "")
        first, last = denial.first, denial.last
        if kept and found[first].text == "no":
            continue
        behind = found[last + 1] if last + 1 < len(found) else None
        if behind is not None and not behind.after_mark and behind.text in ("on", "at"):
            following = found[last + 2] if last + 2 < len(found) else None
            bound = following is not None and (following.content or following.text in DETERMINERS)
            if following is None or following.after_mark or not bound:
                last += 1  # "without a shirt on"
                behind = following
        chain = any(other.first == last + 2 for other in found_denials)  # "no hat and no gloves"
        goes_on = not chain and behind is not None and not behind.after_mark and behind.text in ("and", "but")
        beneath = behind is not None and not behind.after_mark and behind.text in ("under", "beneath")
        if goes_on or beneath:
            last += 1  # "not red but blue", "in no hat and a coat", "no shirt under his jacket"
        while (
            first and found[first - 1].text in LINKS and not found[first].after_mark
            and not (goes_on or beneath) and found[first - 1].start >= end
        ):  # fmt: skip
            first -= 1
        before = text[end : found[first].start]
        if behind is not None and behind.thing and not behind.after_mark:
            before = re.sub(r",\s*$", " ", before)  # "a red, not blue dress"
        pieces += [before, f", {kept}" if kept else ""]
        cut.append(text[found[denial.first].start : found[denial.last].end])
        end = found[last].end
    if not cut:
        return text, cut
    rest = re.sub(r"\(\s*\)", "", "".join([*pieces, text[end:]]))
    rest = re.sub(r"\s+([,.;])", r"\1", " ".join(rest.split()))
    rest = re.sub(r"([,;.])(?:\s*[,;.])+", r"\1", rest).strip(" ,;")
    return rest, cut


def without_names(text: str) -> tuple[str, list[str]]:
    """The normalized text without names that are words for something else, and those: "a man named Brown"."""
    text = normalized(text)
    found = words(text)
    cut = [i for i, word in enumerate(found) if word.name and (word.text in NAMES or word.thing)]
    pieces, end = [], 0
    for i in cut:
        named = i > 0 and found[i - 1].text in ("named", "called") and found[i - 1].start >= end
        pieces.append(text[end : found[i - 1 if named else i].start].rstrip())
        end = found[i].end
    return "".join([*pieces, text[end:]]).strip(), [text[found[i].start : found[i].end] for i in cut]


def _content(found: list[Word], denial: Denial) -> str:
    return " ".join(word.text for word in found[denial.start : denial.last + 1] if word.content)


def symbols(text: str) -> list[str]:
    """Distinct emoji and other pictures in a text, those of several characters as one."""
    pattern = "[^\\w\\s](?:[\ufe0f\u200d\U0001f3fb-\U0001f3ff]+[^\\w\\s]?)*"
    pictures = (match[0] for match in re.finditer(pattern, text))
    return list(dict.fromkeys(p for p in pictures if unicodedata.category(p[0]) in ("So", "Cs")))
