"""Random people and their clothes as plain data: what `dressing` builds and `captions` describes.

Tables first, then the drawing. An attribute that a caption leaves out should have a likely look instead of
an average of all looks: so trousers and shoes are often plain dark ones, cloth is mostly a garment's usual
cloth, and such usual attributes are those that captions leave out (`is_plain`, `Garment.colors`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from specularip.faces.hair import COLORS as TOLD_COLORS

RGB = tuple[float, float, float]

COLORS: dict[str, RGB] = {  # sRGB
    "red": (0.80, 0.07, 0.09),
    "blue": (0.11, 0.30, 0.85),
    "green": (0.10, 0.55, 0.18),
    "yellow": (0.96, 0.82, 0.12),
    "black": (0.07, 0.07, 0.08),
    "white": (0.94, 0.94, 0.93),
    "grey": (0.50, 0.51, 0.53),
    "brown": (0.42, 0.25, 0.13),
    "orange": (0.96, 0.48, 0.08),
    "purple": (0.48, 0.16, 0.62),
    "pink": (0.96, 0.52, 0.68),
    "navy": (0.08, 0.11, 0.32),
    # The twelve above are those of the benchmarks.
    "beige": (0.83, 0.74, 0.59),
    "turquoise": (0.12, 0.66, 0.68),
    "burgundy": (0.42, 0.06, 0.14),
    "olive": (0.40, 0.41, 0.17),
    "gold": (0.80, 0.62, 0.22),
    "silver": (0.74, 0.75, 0.77),
}
COLOR_NAMES = tuple(COLORS)
BASIC = COLOR_NAMES[:12]
METALS = ("gold", "silver")

SHADES: dict[str, dict[str, RGB]] = {
    # Darker and lighter kinds of a colour that people still call by its name.
    "red": {"dark": (0.56, 0.04, 0.06)},
    "blue": {"light": (0.38, 0.62, 0.96), "dark": (0.08, 0.20, 0.66)},
    "green": {"light": (0.55, 0.81, 0.52), "dark": (0.05, 0.32, 0.13)},
    "yellow": {"light": (0.97, 0.91, 0.53)},
    "grey": {"light": (0.68, 0.69, 0.71), "dark": (0.32, 0.33, 0.35)},
    "brown": {"light": (0.60, 0.42, 0.26), "dark": (0.29, 0.16, 0.09)},
    "orange": {"dark": (0.80, 0.36, 0.08)},
    "purple": {"light": (0.68, 0.50, 0.84), "dark": (0.33, 0.09, 0.42)},
    "pink": {"light": (0.97, 0.72, 0.80), "dark": (0.90, 0.20, 0.52)},
    "turquoise": {"light": (0.50, 0.85, 0.83), "dark": (0.05, 0.42, 0.45)},
}
DENIM_BLUE: dict[str, RGB] = {"": (0.24, 0.37, 0.62), "light": (0.52, 0.64, 0.80), "dark": (0.14, 0.23, 0.45)}
"""What people call blue in jeans."""

MATERIALS = ("cotton", "wool", "denim", "leather", "satin", "metallic")
MATERIAL_NAMES = MATERIALS


@dataclass(frozen=True)
class Garment:
    """slot: where it is worn. material: the usual cloth. men, women: how often it is worn, within the slot.
    colors: the usual ones; a caption may leave them out. fixed: never of another material."""

    slot: str
    material: str
    men: float
    women: float
    colors: tuple[str, ...] = ()
    fixed: bool = False


DARK = ("black", "navy", "grey")
LEATHERS = ("black", "brown")
GARMENTS: dict[str, Garment] = {
    "t-shirt": Garment("top", "cotton", 24, 18, ("white", "black", "grey")),
    "shirt": Garment("top", "cotton", 22, 9, ("white", "blue")),
    "blouse": Garment("top", "cotton", 0, 16, ("white",)),
    "polo shirt": Garment("top", "cotton", 10, 3),
    "tank top": Garment("top", "cotton", 8, 12),
    "sweater": Garment("top", "wool", 16, 16),
    "hoodie": Garment("top", "cotton", 12, 8, ("grey",)),
    "jacket": Garment("outer", "cotton", 18, 14),
    "leather jacket": Garment("outer", "leather", 8, 7, LEATHERS, fixed=True),
    "blazer": Garment("outer", "wool", 10, 12, DARK),
    "coat": Garment("outer", "wool", 16, 20),
    "raincoat": Garment("outer", "cotton", 7, 8, ("yellow",)),
    "vest": Garment("outer", "cotton", 9, 6),
    "dress": Garment("whole", "cotton", 0, 34),
    "mini dress": Garment("whole", "cotton", 0, 15),
    "gown": Garment("whole", "satin", 0, 20),
    "suit": Garment("whole", "wool", 34, 8, DARK),
    "ski suit": Garment("whole", "cotton", 12, 10),
    "dungarees": Garment("whole", "denim", 9, 9, ("blue",)),
    "jumpsuit": Garment("whole", "cotton", 6, 9),
    "trousers": Garment("bottom", "cotton", 44, 24, DARK),
    "jeans": Garment("bottom", "denim", 30, 24, ("blue", "blue", "navy", "black"), fixed=True),
    "shorts": Garment("bottom", "cotton", 20, 11),
    "skirt": Garment("bottom", "cotton", 0, 17),
    "mini skirt": Garment("bottom", "cotton", 0, 11),
    "long skirt": Garment("bottom", "cotton", 0, 11),
    "leggings": Garment("bottom", "cotton", 3, 12, ("black",)),
    "shoes": Garment("feet", "leather", 42, 22, LEATHERS),
    "boots": Garment("feet", "leather", 22, 22, LEATHERS),
    "sneakers": Garment("feet", "cotton", 28, 22, ("white", "black")),
    "high heels": Garment("feet", "leather", 0, 24, ("black",)),
    "sandals": Garment("feet", "leather", 8, 10, ("brown",)),
    "hat": Garment("extra", "wool", 8, 6),
    "cap": Garment("extra", "cotton", 9, 4),
    "beanie": Garment("extra", "wool", 6, 5),
    "gloves": Garment("extra", "leather", 5, 6, LEATHERS),
    "long gloves": Garment("extra", "satin", 0, 4, ("white", "black")),
    "belt": Garment("extra", "leather", 10, 10, LEATHERS),
    "necklace": Garment("extra", "metallic", 2, 12, METALS, fixed=True),
    "scarf": Garment("extra", "wool", 7, 8),
}
GARMENT_NAMES = tuple(GARMENTS)
USUAL_CLOTH = {name: garment.material for name, garment in GARMENTS.items()}
HATS = ("hat", "cap", "beanie")
GROWN_UP = ("high heels", "long gloves", "suit", "leather jacket", "necklace")
"""What children seldom wear."""

HAIR_COLORS: dict[str, RGB] = {words.split()[0]: rgb for words, rgb in TOLD_COLORS}
"""sRGB: as `generate` reads them in a sentence."""
HAIR_COLOR_NAMES = tuple(HAIR_COLORS)
HAIR_STYLES = ("bald", "short", "bob", "long", "ponytail", "braid", "afro", "bun")

EYES = ("brownlight", "blue", "lightblue", "ice", "bluegreen", "green", "grey")
BROWS = 12
CUTS = ("length", "sleeve", "flare", "folds", "neck", "loose", "variant", "phase")
POSE_SIGMA = (5.0, 5.0, 6.0, 6.0, 2.0, 6.0, 3.0)
"""Degrees: arm raised left, right; elbow bent left, right; legs apart; head turned, tilted."""

SKIN_RAMP: tuple[RGB, ...] = (
    (0.95, 0.80, 0.72),
    (0.87, 0.68, 0.56),
    (0.74, 0.53, 0.40),
    (0.55, 0.36, 0.25),
    (0.37, 0.23, 0.16),
    (0.25, 0.15, 0.11),
)
SKIN_WORDS = (
    (0.8, "pale"),
    (1.8, "light"),
    (2.6, "tanned"),
    (3.5, "brown"),
    (4.3, "dark"),
    (5.0, "very dark"),
)

AGES: dict[str, tuple[float, tuple[float, float]]] = {
    # How many, and Anny's age (specularip.body.phenotype: 0.36 is said as "child", 0.7 is the default).
    "child": (0.10, (0.31, 0.43)),
    "teen": (0.07, (0.50, 0.58)),
    "young": (0.28, (0.61, 0.69)),
    "adult": (0.31, (0.66, 0.78)),
    "middle-aged": (0.08, (0.79, 0.87)),
    "old": (0.16, (0.91, 1.0)),
}


@dataclass
class Piece:
    """One garment. rgb: its sRGB colour, around `COLORS[color]` or one of its `SHADES`. cut: `CUTS`, 0..1."""

    garment: str
    color: str
    rgb: RGB
    material: str
    cut: dict[str, float]

    @property
    def slot(self) -> str:
        return GARMENTS[self.garment].slot


@dataclass
class Person:
    """One dressed person.

    phenotype: Anny's, see specularip.body.phenotype. words: keys of the tables of `captions`: sex (male,
    female, neutral), age (`AGES`), skin (`SKIN_WORDS`), perhaps build and ancestry. skin: sRGB of the face's
    median. pieces: inner first. A jacket, blazer, coat or vest over a top is open, alone it is closed; the
    shirt under a suit and the top under dungarees are pieces too. Nothing in the slot "feet": barefoot.
    """

    phenotype: dict[str, float]
    words: dict[str, str]
    skin: RGB
    skin_texture: str
    hair_style: str
    hair_color: str
    hair_rgb: RGB
    eyes: str
    brows: int
    beard: float
    pieces: list[Piece]
    pose: tuple[float, ...]
    seed: int


def held_out(garment: str, color: str, material: str) -> bool:
    """One outfit in eleven is held out of training, for the benchmarks: of tops, coats and whole outfits."""
    g, c, m = GARMENT_NAMES.index(garment), COLOR_NAMES.index(color), MATERIALS.index(material)
    return (g * 7 + c * 5 + m * 3) % 11 == 0


def is_plain(piece: Piece) -> bool:
    """Whether captions mostly pass over it: dark trousers, blue jeans, black or brown shoes."""
    usual = piece.material == USUAL_CLOTH[piece.garment] and piece.color in GARMENTS[piece.garment].colors
    return usual and piece.garment in ("trousers", "jeans", "shoes", "boots")


def near(rng: random.Random, rgb: RGB, spread: float) -> RGB:
    """A colour around `rgb`. spread: the deviation of its lightness, 2.5 times that of each channel."""
    light = rng.gauss(0, spread)
    r, g, b = (min(0.98, max(0.02, c + light + rng.gauss(0, spread * 0.4))) for c in rgb)
    return r, g, b


def shades_of(color: str, material: str) -> dict[str, RGB]:
    """The kinds of a colour: "" is the plain one, and perhaps "light" and "dark"."""
    if color == "blue" and material == "denim":
        return DENIM_BLUE
    return {"": COLORS[color], **SHADES.get(color, {})}


def shade(piece: Piece) -> str:
    """ "light", "dark" or "": which kind of its colour a piece has."""
    kinds = shades_of(piece.color, piece.material)
    return min(kinds, key=lambda kind: sum((a - b) ** 2 for a, b in zip(kinds[kind], piece.rgb)))


def make_piece(rng: random.Random, garment: str, color: str, material: str) -> Piece:
    """A garment of this colour and material, in a random shade and cut."""
    kinds = shades_of(color, material)
    kind = "" if rng.random() < 0.68 else rng.choice(list(kinds))
    rgb = near(rng, kinds[kind], 0.022)
    return Piece(garment, color, rgb, material, {name: rng.random() for name in CUTS})


def draw_piece(rng: random.Random, garment: str) -> Piece:
    """A garment in a random colour and material, the usual ones more often; never one that is held out."""
    kind = GARMENTS[garment]
    bound = kind.slot in ("top", "outer", "whole")
    while True:
        if kind.colors and rng.random() < (0.7 if kind.slot == "extra" else 0.4):
            color = rng.choice(kind.colors)
        else:
            color = rng.choice(BASIC if rng.random() < 0.78 else COLOR_NAMES[12:])
        usual = kind.fixed or rng.random() < (0.6 if bound else 0.75)
        material = kind.material if usual else rng.choice(MATERIALS)
        if color in METALS and material not in ("metallic", "satin"):
            if kind.fixed or kind.slot not in ("whole", "feet", "extra"):
                continue
            material = "metallic"
        if not (bound and held_out(garment, color, material)):
            return make_piece(rng, garment, color, material)


def plain_piece(rng: random.Random, garments: tuple[str, ...]) -> Piece:
    """One of these garments in its usual colour and cloth."""
    garment = rng.choice(garments)
    return make_piece(rng, garment, rng.choice(GARMENTS[garment].colors), USUAL_CLOTH[garment])


def draw_outfit(rng: random.Random, male: bool, age: str) -> list[Piece]:
    """What someone wears, inner first. One in thirty wears something usual for the other sex."""
    if rng.random() < 1 / 30:
        male = not male
    weights = {name: g.men if male else g.women for name, g in GARMENTS.items()}
    if age == "child":
        weights.update((name, 0.1 * weights[name]) for name in GROWN_UP)

    def pick(slot: str, without: tuple[str, ...] = ()) -> str:
        names = [name for name, g in GARMENTS.items() if g.slot == slot and name not in without]
        return rng.choices(names, [weights[name] for name in names])[0]

    formal, skiing, pieces = False, False, []
    if rng.random() < (0.24 if male else 0.42):
        whole = draw_piece(rng, pick("whole"))
        formal, skiing = whole.garment in ("suit", "gown"), whole.garment == "ski suit"
        if whole.garment == "suit":
            plain = rng.random() < 0.6
            pieces.append(make_piece(rng, "shirt", "white", "cotton") if plain else draw_piece(rng, "shirt"))
        elif whole.garment == "dungarees":
            pieces.append(draw_piece(rng, rng.choice(("t-shirt", "t-shirt", "shirt", "tank top", "sweater"))))
        pieces.append(whole)
        if rng.random() < 0.06 and whole.garment in ("dress", "mini dress", "jumpsuit", "gown"):
            pieces.append(draw_piece(rng, pick("outer", without=("vest",))))
    else:
        outer = pick("outer") if rng.random() < 0.34 else ""
        if not outer or outer == "vest" or rng.random() < 0.6:
            pieces.append(
                draw_piece(rng, pick("top", without=("hoodie", "sweater") if outer == "blazer" else ()))
            )
        plain = rng.random() < 0.36
        pieces.append(plain_piece(rng, ("trousers", "jeans")) if plain else draw_piece(rng, pick("bottom")))
        if outer:
            pieces.append(draw_piece(rng, outer))

    pieces += draw_shoes(rng, pick, pieces[-1].garment)
    extras = ("gloves", "beanie") if skiing else ("necklace", "long gloves") if formal and not male else ()
    chosen = [name for name in extras if rng.random() < 0.35]
    if rng.random() < 0.26 and not chosen:
        sporty = {"cap", "beanie"} if formal else {"long gloves"}
        chosen = [pick("extra", without=tuple(sporty))]
    return pieces + [draw_piece(rng, name) for name in chosen]


def draw_shoes(rng: random.Random, pick: Callable[..., str], worn: str) -> list[Piece]:
    """Shoes that go with the garment `worn`, mostly; or none. pick: the kind of shoe, see `draw_outfit`."""
    if rng.random() < 0.03:
        return []
    if worn == "ski suit":
        return [draw_piece(rng, "boots")]
    if rng.random() < 0.55:
        return [plain_piece(rng, ("shoes", "shoes", "boots"))]
    formal = worn in ("suit", "gown", "blazer") and rng.random() < 0.8
    return [draw_piece(rng, pick("feet", without=("sneakers", "sandals", "boots") if formal else ()))]


def draw_body(rng: random.Random, sex: str, age: str) -> tuple[dict[str, float], str]:
    """Anny's phenotypes without ancestry, and a build's name or ""."""
    middle = lambda mean, spread: min(1.0, max(0.0, rng.gauss(mean, spread)))  # noqa: E731
    phenotype = {
        "gender": {
            "male": rng.uniform(0, 0.12),
            "female": rng.uniform(0.88, 1),
            "neutral": rng.uniform(0.4, 0.6),
        }[sex],
        "age": rng.uniform(*AGES[age][1]),
        "muscle": middle(0.5, 0.12),
        "weight": middle(0.5, 0.12),
        "height": middle(0.42, 0.10),
        "proportions": rng.uniform(0.35, 0.8),
        "cupsize": middle(0.5, 0.15),
        "firmness": middle(0.5, 0.15),
    }
    build = rng.choices(("", "heavy", "slim", "muscular"), (0.60, 0.14, 0.16, 0.10))[0]
    if build == "heavy":
        phenotype.update(weight=rng.uniform(0.8, 1), muscle=rng.uniform(0.25, 0.5))
    elif build == "slim":
        phenotype["weight"] = rng.uniform(0.05, 0.25)
    elif build == "muscular":
        phenotype["muscle"] = rng.uniform(0.8, 1)
    elif phenotype["height"] > 0.50:
        build = "tall"
    elif phenotype["height"] < 0.33:
        build = "short"
    return phenotype, build


def draw_skin(rng: random.Random) -> tuple[float, RGB]:
    """A place on the skin ramp, 0 pale to 5 very dark, whatever sex and age; and its colour in sRGB."""
    t = rng.random() * (len(SKIN_RAMP) - 1)
    i = min(int(t), len(SKIN_RAMP) - 2)
    r, g, b = (a + (t - i) * (b - a) for a, b in zip(SKIN_RAMP[i], SKIN_RAMP[i + 1]))
    return t, near(rng, (r, g, b), 0.015)


def draw_ancestry(rng: random.Random, t: float) -> tuple[dict[str, float], str]:
    """Anny's ancestry weights and the name of a pure one or ""; `t` is the skin's place on its ramp."""
    names = ("african", "asian", "caucasian")
    name = (
        "african"
        if t > 3.0
        else "asian"
        if t < 2.4 and rng.random() < 0.5
        else "caucasian"
        if t < 1.6
        else ""
    )
    if name and rng.random() < 0.4:
        return {other: float(other == name) for other in names}, name
    return {other: rng.random() for other in names}, ""


def draw_hair(rng: random.Random, sex: str, age: str, t: float, ancestry: str) -> tuple[str, str]:
    """Style and colour of the hair, by sex, age, skin (its place on the ramp) and ancestry."""
    male = {"bald": 12, "short": 64, "bob": 2, "long": 7, "ponytail": 4, "braid": 1, "afro": 7, "bun": 3}
    female = {"bald": 1, "short": 13, "bob": 20, "long": 28, "ponytail": 14, "braid": 9, "afro": 6, "bun": 9}
    weights: dict[str, float] = dict(
        male if sex == "male" or (sex == "neutral" and rng.random() < 0.5) else female
    )
    weights["afro"] *= 2.5 if t > 3 else 0.8
    weights["bald"] *= 0 if age in ("child", "teen") else 2 if age == "old" else 1
    style = rng.choices(list(weights), list(weights.values()))[0]
    if rng.random() < 0.03 and age in ("teen", "young", "adult"):
        return style, rng.choice(("pink", "blue"))
    if age == "old":
        hues = (0.04, 0.06, 0.06, 0.03, 0.50, 0.31)
    elif age == "middle-aged":
        hues = (0.24, 0.28, 0.14, 0.06, 0.25, 0.03)
    else:
        hues = (0.28, 0.36, 0.24, 0.12, 0, 0)
    if t > 2.6 or ancestry in ("african", "asian"):  # dark or grey
        hues = (hues[0] + 0.8 * hues[1] + hues[3], 0.2 * hues[1], 0.15 * hues[2], 0.1 * hues[3], *hues[4:])
    return style, rng.choices(HAIR_COLOR_NAMES[:6], hues)[0]


def draw_person(rng: random.Random) -> Person:
    """A random person: body, skin, hair and an outfit that is not `held_out`."""
    sex = rng.choices(("male", "female", "neutral"), (0.485, 0.485, 0.03))[0]
    age = rng.choices(list(AGES), [share for share, _ in AGES.values()])[0]
    phenotype, build = draw_body(rng, sex, age)
    t, skin = draw_skin(rng)
    weights, ancestry = draw_ancestry(rng, t)
    style, hue = draw_hair(rng, sex, age, t, ancestry)
    words = {"sex": sex, "age": age, "skin": next(word for end, word in SKIN_WORDS if t <= end)}
    if ancestry:
        words["ancestry"] = ancestry
    if build and age != "child":
        words["build"] = build

    bearded = (
        sex == "male" and age not in ("child", "teen") and rng.random() < (0.35 if age == "old" else 0.26)
    )
    male_clothes = sex == "male" or (sex == "neutral" and rng.random() < 0.5)
    pieces = draw_outfit(rng, male_clothes, age)
    if style in ("afro", "bun"):  # no hat fits over them
        pieces = [piece for piece in pieces if piece.garment not in HATS]
    family = "young" if phenotype["age"] < 0.74 else "middleage" if phenotype["age"] < 0.9 else "old"
    looks = sex if sex != "neutral" else "female"
    brown_eyes = t > 2.4 or ancestry in ("african", "asian") or rng.random() < 0.4
    return Person(
        phenotype=phenotype | weights,
        words=words,
        skin=skin,
        skin_texture=f"{family}_{looks}",
        hair_style=style,
        hair_color=hue,
        hair_rgb=near(rng, HAIR_COLORS[hue], 0.02),
        eyes="brownlight" if brown_eyes else rng.choice(EYES[1:]),
        brows=rng.randint(1, BROWS),
        beard=rng.uniform(0.25, 1.0) if bearded else 0.0,
        pieces=pieces,
        pose=tuple(rng.gauss(0, sigma) for sigma in POSE_SIGMA),
        seed=rng.randrange(2**31),
    )


def wear(person: Person, *pieces: Piece) -> Person:
    """The same person in these clothes."""
    return replace(person, pieces=list(pieces))
