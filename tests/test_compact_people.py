"""tools/compact: random people, and captions that are true of them."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from specularip.body.phenotype import phenotype_from_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "compact"))
from captions import describe, vocabulary, words_benchmark
from people import (
    BASIC,
    COLORS,
    CUTS,
    GARMENTS,
    HAIR_STYLES,
    MATERIALS,
    POSE_SIGMA,
    Person,
    Piece,
    draw_person,
    held_out,
    shade,
    wear,
)
from vocabulary import COLOR_WORDS, TEST_WORDS

COUNT = 3000
OWNERS = {
    "jeans": ("jeans",), "shorts": ("shorts",), "leggings": ("leggings",),
    "gloves": ("gloves", "long gloves"),
    "skirt": ("skirt", "mini skirt", "long skirt"), "blouse": ("blouse",), "hoodie": ("hoodie",),
    "sweater": ("sweater",), "cardigan": ("jacket",), "blazer": ("blazer",), "overcoat": ("coat",),
    "raincoat": ("raincoat",), "gilet": ("vest",), "gown": ("gown",), "tuxedo": ("suit",),
    "belt": ("belt",),
    "dungarees": ("dungarees",), "jumpsuit": ("jumpsuit",), "boots": ("boots",), "trainers": ("sneakers",),
    "sandals": ("sandals",), "fedora": ("hat",), "necklace": ("necklace",), "scarf": ("scarf",),
}  # fmt: skip
"""Words that belong to these garments alone."""


@pytest.fixture(scope="module")
def people() -> list[Person]:
    rng = random.Random(1)
    return [draw_person(rng) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def captions(people: list[Person]) -> list[str]:
    rng = random.Random(2)
    return [describe(person, rng) for person in people]


def test_people_are_whole(people: list[Person]) -> None:
    for person in people:
        assert all(0 <= value <= 1 for value in person.phenotype.values())
        assert person.hair_style in HAIR_STYLES and len(person.pose) == len(POSE_SIGMA)
        slots = Counter(piece.slot for piece in person.pieces)
        assert slots["whole"] + slots["bottom"] == 1
        assert slots["top"] + slots["outer"] + slots["whole"] >= 1
        assert max(slots["top"], slots["outer"], slots["feet"]) <= 1
        for piece in person.pieces:
            assert set(piece.cut) == set(CUTS) and piece.material in MATERIALS
            assert all(0 < channel < 1 for channel in piece.rgb)


def test_everything_is_drawn(people: list[Person]) -> None:
    worn = Counter(piece.garment for person in people for piece in person.pieces)
    assert set(worn) == set(GARMENTS)
    colors = Counter(piece.color for person in people for piece in person.pieces)
    assert set(colors) == set(COLORS)
    for sex in ("male", "female"):
        tones = [
            person.skin[1] for person in people if person.words["sex"] == sex and person.words["age"] == "old"
        ]
        assert min(tones) < 0.25 and max(tones) > 0.7
    men_in_skirts = sum(
        person.words["sex"] == "male"
        and any("skirt" in p.garment or "dress" in p.garment for p in person.pieces)
        for person in people
    )
    assert 0 < men_in_skirts < 0.03 * COUNT


def test_the_same_seed_draws_the_same_person() -> None:
    assert draw_person(random.Random(7)) == draw_person(random.Random(7))


def test_held_out_outfits_are_never_worn(people: list[Person]) -> None:
    outfits = [(g, c, m) for g in GARMENTS for c in BASIC for m in MATERIALS]
    assert sum(held_out(*outfit) for outfit in outfits) / len(outfits) == pytest.approx(1 / 11, rel=0.05)
    for person in people:
        for piece in person.pieces:
            if piece.slot in ("top", "outer", "whole"):
                assert not held_out(piece.garment, piece.color, piece.material)


def test_the_body_of_a_caption_is_the_person(people: list[Person], captions: list[str]) -> None:
    """What the package reads from a caption agrees with the person who was drawn."""
    for person, caption in zip(people, captions):
        read, drawn = phenotype_from_text(caption), person.phenotype
        if read.gender != 0.5:
            assert abs(read.gender - drawn["gender"]) < 0.2, caption
        if read.age != 0.7:
            assert abs(read.age - drawn["age"]) < 0.12, caption
        assert read.weight == 0.5 or abs(read.weight - drawn["weight"]) < 0.25, caption
        assert read.height == 0.4 or (read.height > 0.4) == (drawn["height"] > 0.4), caption
        assert read.muscle in (0.5, 0.35) or drawn["muscle"] > 0.7, caption
        if max(read.african, read.asian, read.caucasian) == 1:
            assert all(getattr(read, name) == drawn[name] for name in ("african", "asian", "caucasian")), (
                caption
            )


def test_most_captions_set_sex_and_age(people: list[Person], captions: list[str]) -> None:
    read = [phenotype_from_text(caption) for caption in captions]
    told = [r.gender != 0.5 for r, p in zip(read, people) if p.words["sex"] != "neutral"]
    assert sum(told) > 0.8 * len(told)
    aged = [r.age != 0.7 for r, p in zip(read, people) if p.words["age"] in ("child", "teen", "old")]
    assert sum(aged) > 0.95 * len(aged)


def test_captions_name_only_what_is_worn(people: list[Person], captions: list[str]) -> None:
    """Garments and colours are those of something that the person wears."""
    hues = {name: set(re.findall(r"\w+", " ".join(table.values()))) for name, table in COLOR_WORDS.items()}
    for person, caption in zip(people, captions):
        worn = {piece.garment for piece in person.pieces}
        words = set(re.findall(r"[a-z]+", caption.lower()))
        for word, garments in OWNERS.items():
            assert word not in words or worn & set(garments), (word, caption)
        allowed = set().union(*(hues[piece.color] for piece in person.pieces))
        for name in ("red", "green", "yellow", "orange", "purple", "navy", "turquoise", "burgundy"):
            red_hair = name == "red" and person.hair_color == "red"
            green_eyes = name == "green" and person.eyes in ("green", "bluegreen")
            assert name not in words or name in allowed or red_hair or green_eyes, (name, caption)


def test_shades_are_told_apart() -> None:
    person = draw_person(random.Random(3))
    cut = dict.fromkeys(CUTS, 0.5)
    sky = Piece("dress", "blue", (0.38, 0.62, 0.96), "cotton", cut)
    assert shade(sky) == "light"
    rng = random.Random(4)
    said = [describe(wear(person, sky), rng).lower() for _ in range(200)]
    assert any("light blue" in text for text in said) and not any("dark blue" in text for text in said)


def test_benchmark_words_are_not_in_captions(captions: list[str]) -> None:
    reserved = re.compile(r"\b(" + "|".join(TEST_WORDS) + r")s?\b")
    for caption in captions:
        assert not reserved.search(caption.lower()), caption
    rows = words_benchmark()
    assert len(rows) == len({sentence for sentence, _, _ in rows}) == 60
    assert Counter(color for _, _, color in rows) == dict.fromkeys(BASIC, 5)
    for sentence, garment, _ in rows:
        assert garment in GARMENTS and reserved.search(sentence), sentence


def test_the_vocabulary_is_wide() -> None:
    words = vocabulary(2000)
    assert len(words) > 500 and {"dress", "scarlet", "woollen", "trainers"} <= set(words)
