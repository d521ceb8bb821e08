"""Random people and their clothes as plain numbers, and the sentences that describe them.

The compact prior's vocabulary is the words of this file. `describe` mentions only some attributes of a
person, as people do; the others have a default (dark trousers, black shoes, a garment's usual cloth), so that
an unmentioned attribute has a likely look instead of an average of all looks.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

COLORS: dict[str, tuple[tuple[float, float, float], tuple[str, ...]]] = {
    # name: (sRGB, words)
    "red": ((0.80, 0.07, 0.09), ("red", "red", "scarlet", "crimson")),
    "blue": ((0.11, 0.30, 0.85), ("blue", "blue", "cobalt")),
    "green": ((0.10, 0.55, 0.18), ("green", "green", "emerald")),
    "yellow": ((0.96, 0.82, 0.12), ("yellow", "yellow", "golden")),
    "black": ((0.07, 0.07, 0.08), ("black", "black")),
    "white": ((0.94, 0.94, 0.93), ("white", "white", "ivory")),
    "grey": ((0.50, 0.51, 0.53), ("grey", "gray", "silver")),
    "brown": ((0.42, 0.25, 0.13), ("brown", "brown", "chocolate")),
    "orange": ((0.96, 0.48, 0.08), ("orange", "orange", "tangerine")),
    "purple": ((0.48, 0.16, 0.62), ("purple", "purple", "violet")),
    "pink": ((0.96, 0.52, 0.68), ("pink", "pink", "rose")),
    "navy": ((0.08, 0.11, 0.32), ("navy", "navy", "navy blue", "dark blue")),
}
COLOR_NAMES = tuple(COLORS)

MATERIALS: dict[str, tuple[str, ...]] = {
    "cotton": ("cotton", "linen", "matte"),
    "wool": ("wool", "woollen", "knitted"),
    "denim": ("denim",),
    "leather": ("leather",),
    "satin": ("satin", "silk", "satin", "shiny"),
    "metallic": ("metallic", "metal", "chrome", "sequin"),
}
MATERIAL_NAMES = tuple(MATERIALS)

# Skin and hair are materials too; their codes follow those of the six cloths.
SKIN, HAIR, SHOE, EYE = 6, 7, 8, 9

TOPS: dict[str, tuple[str, ...]] = {
    "t-shirt": ("t-shirt", "t-shirt", "tee"),
    "shirt": ("shirt", "shirt", "blouse"),
    "sweater": ("sweater", "jumper", "pullover"),
    "jacket": ("jacket",),
    "coat": ("coat", "coat", "overcoat"),
    "tank top": ("tank top", "top"),
    "hoodie": ("hoodie", "sweatshirt"),
    "dress": ("dress", "dress", "gown"),
    "suit": ("suit",),
    "ski suit": ("ski suit", "ski clothes", "snowsuit", "ski jacket"),
}
TOP_NAMES = tuple(TOPS)
USUAL_CLOTH = {
    "t-shirt": "cotton",
    "shirt": "cotton",
    "sweater": "wool",
    "jacket": "cotton",
    "coat": "wool",
    "tank top": "cotton",
    "hoodie": "cotton",
    "dress": "cotton",
    "suit": "wool",
    "ski suit": "cotton",
    "trousers": "cotton",
    "shorts": "cotton",
    "skirt": "cotton",
    "leggings": "cotton",
}
BOTTOMS: dict[str, tuple[str, ...]] = {
    "trousers": ("trousers", "pants"),
    "shorts": ("shorts",),
    "skirt": ("skirt",),
    "leggings": ("leggings",),
}
BOTTOM_NAMES = (*BOTTOMS, "none")

HAIR_COLORS: dict[str, tuple[tuple[float, float, float], tuple[str, ...]]] = {
    "black": ((0.05, 0.045, 0.05), ("black", "dark")),
    "brown": ((0.28, 0.17, 0.10), ("brown", "brunette")),
    "blonde": ((0.80, 0.65, 0.40), ("blonde", "blond")),
    "red": ((0.60, 0.24, 0.10), ("red", "ginger")),
    "grey": ((0.66, 0.66, 0.67), ("grey", "gray", "white")),
}
HAIR_COLOR_NAMES = tuple(HAIR_COLORS)
HAIR_STYLES = ("bald", "short", "bob", "long", "bun", "curly")
SHOE_NAMES = ("shoes", "boots", "sneakers")
VIEWS_OF_LOW_QUALITY = ("blurry", "noisy", "low quality", "blurry, noisy, low quality")


@dataclass
class Person:
    """One dressed person. Codes index the tuples above; ranges are 0..1 unless said otherwise."""

    phenotype: dict[str, float]
    words: dict[str, str]
    """Words that `describe` may use: noun, and sometimes age, build and skin."""
    skin: tuple[float, float, float]
    hair_style: int
    hair_color: int
    hair_rgb: tuple[float, float, float]
    beard: float
    top: int
    top_color: int
    top_material: int
    bottom: int
    bottom_color: int
    bottom_material: int
    shoe: int
    shoe_color: int
    cut: dict[str, float] = field(default_factory=dict)
    """Random lengths and widths: sleeve, hem, neck, flare, length, folds, phase, inner, tie."""
    plain_bottom: bool = False
    plain_shoes: bool = False


def _near(rng: random.Random, rgb: tuple[float, float, float], spread: float) -> tuple[float, float, float]:
    light = rng.gauss(0, spread)
    return tuple(min(0.98, max(0.02, c + light + rng.gauss(0, spread * 0.4))) for c in rgb)  # type: ignore[return-value]


def skin_tone(rng: random.Random) -> tuple[tuple[float, float, float], str]:
    """A skin colour in sRGB, uniform from pale to very dark, and its word."""
    ramp = (
        (0.95, 0.80, 0.72),
        (0.87, 0.68, 0.56),
        (0.74, 0.53, 0.40),
        (0.55, 0.36, 0.25),
        (0.37, 0.23, 0.16),
        (0.25, 0.15, 0.11),
    )
    t = rng.random() * (len(ramp) - 1)
    i = min(int(t), len(ramp) - 2)
    rgb = tuple(a + (t - i) * (b - a) for a, b in zip(ramp[i], ramp[i + 1]))
    word = "pale" if t < 0.8 else "light" if t < 1.8 else "brown" if t < 3.2 else "dark"
    return _near(rng, rgb, 0.02), word  # type: ignore[arg-type]


def held_out(top: int, color: int, material: int) -> bool:
    """One outfit in eleven is held out of training, for the benchmarks."""
    return (top * 7 + color * 5 + material * 3) % 11 == 0


def draw_person(rng: random.Random) -> Person:
    """A random person: body, skin, hair and an outfit that is not `held_out`."""
    male = rng.random() < 0.5
    kind = rng.choices(("child", "teen", "young", "adult", "old"), (0.10, 0.07, 0.28, 0.37, 0.18))[0]
    age = {
        "child": (0.34, 0.44),
        "teen": (0.50, 0.60),
        "young": (0.60, 0.68),
        "adult": (0.66, 0.80),
        "old": (0.88, 1.0),
    }[kind]
    spread = lambda: min(1.0, max(0.0, rng.gauss(0.5, 0.2)))  # noqa: E731
    phenotype = {
        "gender": rng.uniform(0.0, 0.2) if male else rng.uniform(0.8, 1.0),
        "age": rng.uniform(*age),
        "muscle": spread(),
        "weight": spread(),
        "height": spread(),
        "proportions": rng.uniform(0.35, 0.8),
    }
    for race in ("african", "asian", "caucasian"):
        phenotype[race] = rng.random()
    noun = {
        "child": ("boy", "boy", "child") if male else ("girl", "girl", "child"),
        "teen": ("teenager", "young man") if male else ("teenager", "young woman"),
        "young": ("man", "young man", "guy", "person")
        if male
        else ("woman", "young woman", "lady", "person"),
        "adult": ("man", "man", "male", "person") if male else ("woman", "woman", "female", "lady", "person"),
        "old": ("old man", "elderly man", "senior man")
        if male
        else ("old woman", "elderly woman", "senior woman"),
    }[kind]
    skin, skin_word = skin_tone(rng)
    words = {"noun": rng.choice(noun), "skin": skin_word}
    builds = (
        ("weight", 0.75, ("heavy", "plump", "overweight")),
        ("muscle", 0.75, ("muscular", "athletic")),
        ("height", 0.75, ("tall",)),
    )
    for axis, above, names in builds:
        if phenotype[axis] > above and kind != "child":
            words["build"] = rng.choice(names)
    if phenotype["weight"] < 0.28:
        words["build"] = rng.choice(("slim", "thin", "slender"))

    style = rng.choices(
        HAIR_STYLES, (0.10, 0.66, 0.03, 0.09, 0.02, 0.10) if male else (0.01, 0.15, 0.22, 0.42, 0.12, 0.08)
    )[0]
    hue = rng.choices(
        HAIR_COLOR_NAMES, (0.05, 0.10, 0.08, 0.02, 0.75) if kind == "old" else (0.34, 0.34, 0.18, 0.10, 0.04)
    )[0]

    top = rng.choices(TOP_NAMES, (16, 12, 8, 13, 9, 7, 6, 6 if male else 22, 10, 7))[0]
    if male and top == "dress":
        top = "t-shirt"
    top_color = rng.randrange(len(COLORS))
    top_material = USUAL_CLOTH[top] if rng.random() < 0.38 else rng.choice(MATERIAL_NAMES)
    while held_out(TOP_NAMES.index(top), top_color, MATERIAL_NAMES.index(top_material)):
        top_color, top_material = rng.randrange(len(COLORS)), rng.choice(MATERIAL_NAMES)
    bottom = rng.choices(tuple(BOTTOMS), (62, 24, 0, 3) if male else (36, 18, 34, 12))[0]
    bottom_color, bottom_material = rng.randrange(len(COLORS)), rng.choice(MATERIAL_NAMES)
    plain_bottom = rng.random() < 0.35
    if plain_bottom:
        bottom, bottom_color = "trousers", COLOR_NAMES.index(rng.choice(("black", "navy", "grey", "black")))
        bottom_material = rng.choice(("cotton", "denim"))
    elif rng.random() < 0.5:
        bottom_material = (
            "denim" if bottom in ("trousers", "shorts") and rng.random() < 0.4 else USUAL_CLOTH[bottom]
        )
    if top in ("suit", "ski suit"):
        bottom, bottom_color, bottom_material = "trousers", top_color, top_material
    elif top == "dress":
        bottom, bottom_color, bottom_material = "none", top_color, top_material
    shoe = rng.choice(SHOE_NAMES)
    plain_shoes = rng.random() < 0.7
    shoe_color = (
        rng.choice((COLOR_NAMES.index("black"), COLOR_NAMES.index("brown")))
        if plain_shoes
        else rng.randrange(len(COLORS))
    )
    if isinstance(bottom_material, str):
        bottom_material = MATERIAL_NAMES.index(bottom_material)
    return Person(
        phenotype=phenotype,
        words=words,
        skin=skin,
        hair_style=HAIR_STYLES.index(style),
        hair_color=HAIR_COLOR_NAMES.index(hue),
        hair_rgb=_near(rng, HAIR_COLORS[hue][0], 0.03),
        beard=float(male and kind in ("adult", "old", "young") and rng.random() < 0.22),
        top=TOP_NAMES.index(top),
        top_color=top_color,
        top_material=MATERIAL_NAMES.index(top_material),
        bottom=BOTTOM_NAMES.index(bottom),
        bottom_color=bottom_color,
        bottom_material=bottom_material,
        shoe=SHOE_NAMES.index(shoe),
        shoe_color=shoe_color,
        cut={
            name: rng.random()
            for name in (
                "sleeve",
                "hem",
                "neck",
                "flare",
                "length",
                "folds",
                "phase",
                "inner",
                "tie",
                "fringe",
            )
        },
        plain_bottom=plain_bottom,
        plain_shoes=plain_shoes,
    )


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _garment(rng: random.Random, color: int, material: int, usual: str, word: str, plural: bool) -> str:
    """ "a red satin dress", in one of several orders. The cloth may be left out where it is the usual one."""
    hue = rng.choice(COLORS[COLOR_NAMES[color]][1])
    if rng.random() < 0.06:
        hue = f"{rng.choice(ADJECTIVES)} {hue}"
    name = MATERIAL_NAMES[material]
    cloth = rng.choice(MATERIALS[name]) if name != usual or rng.random() < 0.45 else ""
    if word in ("trousers", "pants") and name == "denim" and rng.random() < 0.8:
        cloth, word = "", "jeans"
    if cloth and cloth not in ("matte", "shiny", "knitted", "woollen", "metallic") and rng.random() < 0.15:
        phrase = f"{hue} {word} made of {cloth}"
    elif cloth and rng.random() < 0.12:
        phrase = f"{cloth} {hue} {word}"
    else:
        phrase = " ".join(w for w in (hue, cloth, word) if w)
    return phrase if plural else _article(phrase)


def describe(person: Person, rng: random.Random) -> str:
    """A sentence about `person`. Two calls give two sentences."""
    noun = person.words["noun"]
    if "build" in person.words and rng.random() < 0.5:
        noun = f"{person.words['build']} {noun}"
    top, bottom = TOP_NAMES[person.top], BOTTOM_NAMES[person.bottom]
    word = rng.choice(TOPS[top])
    plural = word == "ski clothes"
    outfit = [_garment(rng, person.top_color, person.top_material, USUAL_CLOTH[top], word, plural)]
    if (
        bottom != "none"
        and top not in ("suit", "ski suit")
        and not (person.plain_bottom and rng.random() < 0.75)
    ):
        word = rng.choice(BOTTOMS[bottom])
        outfit.append(
            _garment(
                rng, person.bottom_color, person.bottom_material, USUAL_CLOTH[bottom], word, bottom != "skirt"
            )
        )
    if not person.plain_shoes and rng.random() < 0.8:
        outfit.append(f"{rng.choice(COLORS[COLOR_NAMES[person.shoe_color]][1])} {SHOE_NAMES[person.shoe]}")
    traits = []
    style, hue = (
        HAIR_STYLES[person.hair_style],
        rng.choice(HAIR_COLORS[HAIR_COLOR_NAMES[person.hair_color]][1]),
    )
    if rng.random() < 0.5:
        if style == "bald":
            traits.append("no hair")
        elif rng.random() < 0.5:
            traits.append(
                {"bun": f"{hue} hair in a bun"}.get(
                    style, f"{style} {hue} hair" if style != "bob" else f"{hue} bob hair"
                )
            )
        else:
            traits.append(f"{hue} hair")
    if person.beard and rng.random() < 0.7:
        traits.append("a beard")
    if rng.random() < 0.12:
        traits.append(f"{person.words['skin']} skin")
    if "bald" in style and rng.random() < 0.3 and not traits:
        noun = f"bald {noun}"
    clothes = outfit[0] if len(outfit) == 1 else ", ".join(outfit[:-1]) + " and " + outfit[-1]
    wearing = rng.choice(("in", "in", "wearing", "wearing", "dressed in", "who wears"))
    lead = rng.choice(("", "", "", "a photo of ", "a picture of ", "a portrait of ", "a full body photo of "))
    if traits and rng.random() < 0.6:
        sentence = f"{_article(noun)} with {' and '.join(traits)} {wearing} {clothes}"
    elif traits:
        sentence = f"{_article(noun)} {wearing} {clothes}, with {' and '.join(traits)}"
    else:
        sentence = f"{_article(noun)} {wearing} {clothes}"
    if rng.random() < 0.10:
        sentence = sentence.replace(" is ", " ").replace(_article(noun), f"the {noun} is standing,", 1)
    tail = rng.choice(TAILS) if rng.random() < 0.12 else ""
    return lead + sentence + tail + ("." if rng.random() < 0.1 else "")


# Words that users are likely to type but that change nothing; in the training captions, so that they do no
# harm.
ADJECTIVES = (
    "elegant",
    "beautiful",
    "nice",
    "modern",
    "simple",
    "fashionable",
    "stylish",
    "new",
    "bright",
    "plain",
)
TAILS = (
    ", studio light",
    ", high quality",
    ", realistic, detailed",
    ", high quality, realistic",
    " at the studio",
    ", standing",
    " and a smile",
    ", 3d",
    ", photo",
)


def vocabulary() -> list[str]:
    """Every word of the captions, view prompts and fillers, sorted."""
    rng = random.Random(0)
    words: set[str] = set()
    phrases = [
        "full body",
        "upper body",
        "legs",
        "head close-up",
        "front view",
        "side view",
        "back view",
        "overhead view",
        *VIEWS_OF_LOW_QUALITY,
    ]
    for _ in range(30_000):
        phrases.append(describe(draw_person(rng), rng))
    for phrase in phrases:
        words.update(phrase.lower().replace(",", " ").replace(".", " ").replace("-", " - ").split())
    return sorted(words | {",", ".", "-"})
