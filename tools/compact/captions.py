"""Sentences about people, as people write them.

A caption mentions some attributes of a `Person` only, and every one that it mentions is true. Its words
come from the wide lists of `vocabulary`, so that the text encoder learns what synonyms have in common.
Captions take one of six forms, each with many word orders; now and then they hold what users type and what
means nothing to the picture: adjectives, places, invented names, misspellings.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

from people import GARMENTS, HATS, METALS, USUAL_CLOTH, Person, Piece, draw_person, is_plain, shade
from vocabulary import (
    ANCESTRIES,
    BUILDS,
    COLOR_WORDS,
    DENIM_WORDS,
    EMPTY_ADJECTIVES,
    EYE_WORDS,
    GIVEN_NAMES,
    HAIR_FORMS,
    HAIR_WORDS,
    IMPLIED_CLOTH,
    LEADS,
    MANNERS,
    MATERIAL_ADJECTIVES,
    MATERIAL_NOUNS,
    NAMES,
    NOUNS,
    PLACES,
    PRONOUNS,
    SKINS,
    SPECIAL_NAMES,
    SYLLABLES,
    TAILS,
    TRADES,
)

# Describing ---------------------------------------------------------------------------------------------


@cache
def _choices(words: str) -> list[str]:
    """ "red*2, scarlet" -> ["red", "red", "scarlet"]."""
    pairs = [word.partition("*") for word in words.split(", ")]
    return [word for word, _, times in pairs for _ in range(int(times or 1))]


def pick(rng: random.Random, words: str) -> str:
    """One of a list of `vocabulary`."""
    return rng.choice(_choices(words))


def is_plural(phrase: str) -> bool:
    return phrase.endswith("s") and not phrase.endswith(("ss", "pearls"))


def with_article(phrase: str) -> str:
    """ "a red dress", "an old man"; plurals stay bare, or become "a pair of"."""
    vowel = phrase[0].lower() in "aeiou" and not phrase.lower().startswith(("one-", "european", "uni"))
    return ("an " if vowel else "a ") + phrase


def join(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def color_word(rng: random.Random, piece: Piece) -> str:
    table = DENIM_WORDS if (piece.color, piece.material) == ("blue", "denim") else COLOR_WORDS[piece.color]
    word = pick(rng, table[shade(piece)])
    return word.replace("coloured", "colored") if rng.random() < 0.5 else word


def misspelt(rng: random.Random, text: str) -> str:
    """One typing error: two neighbouring letters swapped, or one lost, inside a word."""
    places = [i for i in range(1, len(text) - 2) if text[i - 1 : i + 3].isalpha()]
    if not places:
        return text
    i = rng.choice(places)
    return text[:i] + (text[i + 1] + text[i] if rng.random() < 0.6 else text[i]) + text[i + 2 :]


def garment_words(rng: random.Random, piece: Piece) -> tuple[str, bool, bool]:
    """A name of the garment, and whether it already tells the colour and the cloth."""
    special = [
        (name, bool(color), bool(cloth))
        for name, color, cloth in SPECIAL_NAMES.get(piece.garment, ())
        if color in ("", piece.color) and cloth in ("", piece.material)
    ]
    if special and rng.random() < 0.3:
        return rng.choice(special)
    name = pick(rng, NAMES[piece.garment])
    implied = IMPLIED_CLOTH.get(piece.garment, "")
    return name, False, implied == piece.material or piece.garment == "necklace"


def garment_phrase(rng: random.Random, piece: Piece, article: bool = True) -> str:
    """ "a red satin dress", in one of many orders. What is usual for the garment may be left out."""
    name, tells_color, tells_cloth = garment_words(rng, piece)
    usual_color = piece.color in GARMENTS[piece.garment].colors
    usual_cloth = piece.material == USUAL_CLOTH[piece.garment]
    hue = "" if tells_color or rng.random() < (0.25 if usual_color else 0.02) else color_word(rng, piece)
    cloth = not tells_cloth and rng.random() < (0.3 if usual_cloth else 0.9)
    if cloth and piece.color in METALS and piece.material == "metallic":
        cloth = rng.random() < 0.3  # "gold dress" says it
    adjective = pick(rng, EMPTY_ADJECTIVES) if rng.random() < 0.1 else ""
    order = rng.random()
    if cloth and order < 0.16:
        noun = pick(rng, MATERIAL_NOUNS[piece.material])
        front, back = [adjective, hue, name], f"{rng.choice(('made of', 'made from', 'of', 'in'))} {noun}"
    elif cloth and hue and order < 0.22:
        noun = pick(rng, MATERIAL_NOUNS[piece.material])
        front, back = [adjective, name], f"{rng.choice(('made of', 'of', 'in'))} {hue} {noun}"
    elif cloth:
        word = pick(rng, MATERIAL_ADJECTIVES[piece.material])
        front, back = [adjective, hue, word, name] if order < 0.88 else [adjective, word, hue, name], ""
    elif hue and order < 0.06:
        front, back = [adjective, name], f"in {hue}"
    else:
        front, back = [adjective, hue, name], ""
    core = " ".join(word for word in front if word)
    if article and not is_plural(name):
        core = with_article(core)
    elif article and piece.slot in ("bottom", "feet") and rng.random() < 0.08:
        core = f"a pair of {core}"
    phrase = f"{core} {back}" if back else core
    return misspelt(rng, phrase) if rng.random() < 0.008 else phrase


def mentioned(rng: random.Random, person: Person) -> list[Piece]:
    """The pieces that a caption names, the most visible first; what has a usual look is mostly left out. Hats
    are always named: nobody expects one unasked."""
    pieces = person.pieces
    over = any(piece.slot == "outer" or piece.garment in ("suit", "dungarees") for piece in pieces)
    ranks = ("outer", "whole", "top", "bottom", "feet", "extra")
    chosen = []
    for piece in pieces:
        if piece.slot == "top" and over:
            white_shirt = (piece.garment, piece.color) == ("shirt", "white")
            chance = 0.25 if white_shirt else 0.6
        elif piece.slot in ("bottom", "feet"):
            usual = 0.3 if piece.slot == "bottom" else 0.15
            chance = usual if is_plain(piece) else 0.92 if piece.slot == "bottom" else 0.75
        else:
            chance = 0.8 if piece.slot == "extra" and piece.garment not in HATS else 1.0
        if rng.random() < chance:
            chosen.append(piece)
    chosen = chosen or pieces[:1]
    chosen.sort(key=lambda piece: ranks.index(piece.slot))
    if rng.random() < 0.08:
        chosen = chosen[:1] + [piece for piece in chosen[1:] if piece.garment in HATS]
    if rng.random() < 0.15:
        rng.shuffle(chosen)
    return chosen


def clothes_phrases(rng: random.Random, person: Person, article: bool = True) -> list[str]:
    """The garments as phrases; what is worn under a coat or suit may be joined to it by "over"."""
    pieces = mentioned(rng, person)
    phrases = [garment_phrase(rng, piece, article) for piece in pieces]
    if len(pieces) > 1 and pieces[1].slot == "top" and rng.random() < 0.4:
        suit = pieces[0].garment == "suit"
        link = rng.choice(("with", "and")) if suit else rng.choice(("over", "over", "on top of"))
        phrases[:2] = [f"{phrases[0]} {link} {phrases[1]}"]
    return phrases


def hair_phrase(rng: random.Random, person: Person, article: bool = True) -> str:
    hue = pick(rng, HAIR_WORDS[person.hair_color])
    form = pick(rng, HAIR_FORMS[person.hair_style])
    if person.hair_style != "bald":
        if rng.random() < 0.3:
            form = "{} hair"
        elif rng.random() < 0.2 and not form.startswith("{} hair"):
            hue = ""  # "short hair"
    phrase = " ".join(form.format(hue).split())
    if not phrase.startswith(("a ", "an ")):
        return phrase
    phrase = phrase.split(" ", 1)[1]
    return with_article(phrase) if article else phrase


def beard_phrase(rng: random.Random, person: Person, article: bool = True) -> str:
    size = (
        "stubble, short beard, trimmed beard"
        if person.beard < 0.5
        else "beard, full beard, bushy beard, thick beard"
    )
    phrase = pick(rng, size) if rng.random() < 0.6 else "beard"
    if phrase != "stubble" and rng.random() < 0.3:
        phrase = phrase.replace("beard", f"{pick(rng, HAIR_WORDS[person.hair_color])} beard")
    return with_article(phrase) if article and phrase != "stubble" else phrase


def trait_phrases(rng: random.Random, person: Person, article: bool = True) -> list[str]:
    """Hair, beard, skin, eyes: some of them."""
    traits = []
    if rng.random() < (0.8 if person.hair_style == "bald" or person.hair_color in ("pink", "blue") else 0.5):
        traits.append(hair_phrase(rng, person, article))
    if person.beard and rng.random() < 0.75:
        traits.append(beard_phrase(rng, person, article))
    if rng.random() < 0.12:
        traits.append(pick(rng, SKINS[person.words["skin"]]))
    if rng.random() < 0.06:
        traits.append(f"{EYE_WORDS[person.eyes]} eyes")
    return traits


def person_noun(rng: random.Random, person: Person) -> str:
    """ "tall elderly gentleman", without an article."""
    sex, age = person.words["sex"], person.words["age"]
    noun = pick(rng, NOUNS[sex][age])
    if age in ("young", "adult") and rng.random() < 0.1:
        trade = pick(rng, TRADES)
        noun = f"{sex} {trade}" if sex != "neutral" and rng.random() < 0.5 else trade
    build, ancestry = person.words.get("build"), person.words.get("ancestry")
    skin = person.words["skin"]
    chance = rng.random()
    if ancestry and chance < 0.5:
        noun = f"{pick(rng, ANCESTRIES[ancestry])} {noun}"
    elif skin in ("dark", "very dark", "pale") and chance > 0.94:
        noun = f"{'white' if skin == 'pale' else rng.choice(('Black', 'black', 'dark-skinned'))} {noun}"
    if build and rng.random() < 0.55:
        return f"{pick(rng, BUILDS[build])} {noun}"
    if rng.random() < 0.12:
        hair = person.hair_color
        if person.hair_style == "bald":
            return f"bald {noun}"
        if person.beard and rng.random() < 0.5:
            return f"bearded {noun}"
        return (
            f"{'blonde' if hair == 'blonde' else pick(rng, HAIR_WORDS[hair]).split()[-1] + '-haired'} {noun}"
        )
    if rng.random() < 0.08:
        return f"{pick(rng, MANNERS[sex])} {noun}"
    return noun


def invented(rng: random.Random) -> str:
    """A word that means nothing."""
    return "".join(pick(rng, SYLLABLES) for _ in range(rng.randint(2, 3))).capitalize()


def _sentence(rng: random.Random, person: Person) -> str:
    """ "a woman with red hair in a green coat"."""
    who = with_article(person_noun(rng, person))
    if rng.random() < 0.03:
        name = pick(rng, GIVEN_NAMES[person.words["sex"]]) if rng.random() < 0.7 else invented(rng)
        who = f"{name}, {who}," if rng.random() < 0.5 else f"{who} named {name}"
    traits, clothes = trait_phrases(rng, person), join(clothes_phrases(rng, person))
    verb = rng.choice(("in", "in", "in", "wearing", "wearing", "dressed in", "who wears", "who is wearing"))
    if traits and rng.random() < 0.6:
        return f"{who} with {join(traits)} {verb} {clothes}".replace(",  ", ", ")
    if traits:
        return f"{who} {verb} {clothes}, with {join(traits)}"
    return f"{who} {verb} {clothes}"


def _statement(rng: random.Random, person: Person) -> str:
    """ "She is a young woman. She wears a green coat."."""
    they, their = PRONOUNS[person.words["sex"]]
    is_, has, wears = ("are", "have", "wear") if they == "they" else ("is", "has", "wears")
    who = with_article(person_noun(rng, person))
    traits, clothes = trait_phrases(rng, person), join(clothes_phrases(rng, person))
    wearing = rng.choice((wears, wears, f"{is_} wearing", f"{is_} dressed in"))
    form = rng.randrange(5)
    grown = person.words["age"] in ("young", "adult")
    if form == 0 and grown:
        return f"{they} {wearing} {clothes}" + (f" and {has} {join(traits)}" if traits else "")
    if form == 1:
        hair = f" {they} {has} {join(traits)}." if traits else ""
        return f"{who}.{hair} {they} {wearing} {clothes}"
    if form == 2:
        hair = f" with {join(traits)}" if traits else ""
        return f"{they} {is_} {who}{hair}, {wearing} {clothes}".replace(f", {wearing}", f" and {wearing}")
    if form == 3:
        return f"{who}{' with ' + join(traits) if traits else ''}; {their} clothes: {clothes}"
    return f"{who} wears {clothes}" + (f" and has {join(traits)}" if traits else "")


def _tags(rng: random.Random, person: Person) -> str:
    """ "woman, red hair, green coat"."""
    tags = trait_phrases(rng, person, article=False) + clothes_phrases(rng, person, article=False)
    if rng.random() < 0.4:
        rng.shuffle(tags)
    return rng.choice((", ", ", ", ", ", "; ", " / ")).join([person_noun(rng, person), *tags])


def _whose(rng: random.Random, person: Person) -> str:
    """ "a young lady whose coat is green"; "a man; his trousers are grey"."""
    their = PRONOUNS[person.words["sex"]][1]
    who, traits = with_article(person_noun(rng, person)), trait_phrases(rng, person)
    first, *rest = mentioned(rng, person)
    clauses = []
    for piece in [first, *rest[:1]]:
        name, tells_color, tells_cloth = garment_words(rng, piece)
        what = color_word(rng, piece)
        verb = "are" if is_plural(name) else "is"
        made = pick(rng, MATERIAL_NOUNS[piece.material])
        if tells_color and tells_cloth:
            clauses.append(f"{name} {verb} {pick(rng, EMPTY_ADJECTIVES)}")
        elif tells_color or (not tells_cloth and piece.material != USUAL_CLOTH[piece.garment]):
            clauses.append(f"{name} {verb} " + ("" if tells_color else f"{what} and ") + f"made of {made}")
        else:
            clauses.append(f"{name} {verb} {what}")
    who = f"{who} with {join(traits)}" if traits else who
    more = [garment_phrase(rng, piece) for piece in rest[1:]]
    if rng.random() < 0.5:
        text = f"{who} whose {join(clauses)}" if not traits else f"{who}, whose {join(clauses)}"
    else:
        text = f"{who}{rng.choice((', ', '; ', '. '))}{their} {f' and {their} '.join(clauses)}"
    return f"{text}, {rng.choice(('with', 'wearing', 'plus'))} {join(more)}" if more else text


def _clothes_first(rng: random.Random, person: Person) -> str:
    """ "a green coat worn by a woman with red hair"."""
    who, traits = with_article(person_noun(rng, person)), trait_phrases(rng, person)
    who = f"{who} with {join(traits)}" if traits else who
    link = rng.choice(("worn by", "worn by", "on"))
    return f"{join(clothes_phrases(rng, person))} {link} {who}"


def _clothes_only(rng: random.Random, person: Person) -> str:
    """ "green coat, brown boots": said of people whose age goes without saying."""
    if person.words["age"] not in ("young", "adult"):
        return _tags(rng, person)
    article = rng.random() < 0.5
    return join(clothes_phrases(rng, person, article))


_FORMS = (_sentence, _statement, _tags, _whose, _clothes_first, _clothes_only)
_SHARES = (0.46, 0.16, 0.17, 0.09, 0.08, 0.04)


def describe(person: Person, rng: random.Random) -> str:
    """A caption of `person`. Two calls give two captions."""
    form = rng.choices(_FORMS, _SHARES)[0]
    text = form(rng, person)
    if "feet" not in [piece.slot for piece in person.pieces] and rng.random() < 0.8:
        text += rng.choice((", barefoot", ", no shoes", ", bare feet"))
    if form not in (_statement, _clothes_only) and rng.random() < 0.2:
        text = f"{pick(rng, LEADS)} {text}"
    if rng.random() < 0.04:
        text += f" in {pick(rng, PLACES)}" if form is not _tags else f", {pick(rng, PLACES)}"
    if rng.random() < 0.02:
        text += rng.choice((f", {invented(rng)}", f" by {invented(rng)}", f", {invented(rng)} style"))
    while rng.random() < 0.14:
        text += f", {pick(rng, TAILS)}"
    if rng.random() < 0.05:  # as in a search box
        text = re.sub(r"\b(a|an) ", "", text, flags=re.IGNORECASE)
    style = rng.random()
    if style < 0.45:
        text = re.sub(r"(^|[.] )([a-z])", lambda m: m[1] + m[2].upper(), text)
    elif style < 0.7:
        text = text.lower()
    elif style < 0.71:
        text = text.upper()
    return text + ("." if rng.random() < 0.25 else "")


def vocabulary(count: int = 20_000) -> list[str]:
    """The words of `count` captions, sorted, without rare ones (misspellings) and `invented` ones."""
    rng = random.Random(0)
    meaningless = re.compile(f"({'|'.join(SYLLABLES.split(', '))}){{2,3}}")
    words = Counter(
        word
        for _ in range(count)
        for word in re.findall(r"[a-zé0-9]+", describe(draw_person(rng), rng).lower())
    )
    return sorted(word for word, n in words.items() if n > 5 and not meaningless.fullmatch(word))


# The benchmark ------------------------------------------------------------------------------------------

_WORDS_BENCHMARK = """
red: a crimson ball gown = gown
red: a woman in a scarlet frock = dress
red: a young man clad in a vermilion hoodie = hoodie
red: an old lady who put on a red jersey = sweater
red: a crimson raincoat and the man who wears this = raincoat
blue: a woman in a sapphire silk blouse = blouse
blue: cobalt evening gown, blonde woman = gown
blue: a man attired in a blue windbreaker and black jeans = jacket
blue: a cerulean t-shirt on a muscular man = t-shirt
blue: a royal blue frock of cotton for a teenage girl = dress
green: a jade satin gown, woman with a bun = gown
green: a gentleman has on a green pullover = sweater
green: an emerald velvet evening gown = gown
green: woman outfitted in a viridian coat = coat
green: a girl decked out in a green snowsuit = ski suit
yellow: a canary mini dress = mini dress
yellow: a man sporting a lemon mackintosh = raincoat
yellow: a daffodil sundress on a young woman = dress
yellow: a boy clad in a yellow pullover and blue jeans = sweater
yellow: an elderly woman in a canary cardigan = jacket
black: an ebony tuxedo = suit
black: a woman who chose a black pantsuit = suit
black: man in an onyx leather jacket = leather jacket
black: black camisole and the young woman who wears this = tank top
black: a woman in a black boilersuit = jumpsuit
white: an alabaster evening gown = gown
white: a chalk white polo shirt on an old man = polo shirt
white: a woman sporting a white frock = dress
white: a white cashmere pullover, slim woman = sweater
white: an elderly man clad in a white shirt and grey slacks = shirt
grey: a businessman in a charcoal suit = suit
grey: a pewter hoodie on a teenage boy = hoodie
grey: a woman has on a gray cashmere jersey = sweater
grey: a man attired in a grey boilersuit = jumpsuit
grey: a pewter overcoat and the old man who wears this = coat
brown: a chestnut leather jacket = leather jacket
brown: a man in a walnut wool blazer = blazer
brown: a woman outfitted in a brown taffeta frock = dress
brown: a chocolate brown mackintosh on a heavy man = raincoat
brown: an old man decked out in a chestnut overcoat = coat
orange: a pumpkin sweater = sweater
orange: a skier clad in an orange snowsuit = ski suit
orange: a young man in a carrot orange windbreaker = jacket
orange: woman with an afro sporting an apricot tank top = tank top
orange: tangerine frock, short black hair, woman = dress
purple: an amethyst ball gown = gown
purple: an aubergine velvet blazer on a man = blazer
purple: a woman has on a purple camisole and white shorts = tank top
purple: an elderly lady attired in a violet frock = dress
purple: a plum pullover and the child who wears this = sweater
pink: a flamingo pink mini dress = mini dress
pink: a bubblegum t-shirt on a schoolgirl = t-shirt
pink: a woman garbed in a pink evening gown = gown
pink: a lady in a rose pantsuit = suit
pink: a young woman sporting a hot pink jersey = sweater
navy: navy dungarees, the colour of the sea = dungarees
navy: a midnight blue evening gown = gown
navy: a man clad in a navy blue suit = suit
navy: a woman in an inky blue wool coat = coat
navy: a boy has on a navy windbreaker = jacket
"""


def words_benchmark() -> list[tuple[str, str, str]]:
    """60 (sentence, garment, colour), five of each basic colour, each with one of `TEST_WORDS` or more."""
    rows = re.findall(r"^(\w+): (.+) = (.+)$", _WORDS_BENCHMARK, re.MULTILINE)
    return [(sentence, garment, color) for color, sentence, garment in rows]
