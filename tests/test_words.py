"""Which words of a text the prior cannot draw, and how they are named to the user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_prior import compact_prior
from torch import Tensor

from specularip import pipeline
from specularip.diffusion.one_person import one_standing_person
from specularip.diffusion.vocabulary import Vocabulary, words_of
from specularip.errors import UserError
from specularip.inputs import check_inputs
from specularip.pipeline import readable

SHIPPED = Path(pipeline.__file__).parent / "assets" / "compact"
CAPTIONS = ("A woman in a red coat, zipped.", "an old man wearing a long-sleeved beige t-shirt and boots")
MEANINGS = {"parka": "coat", "castle": "building"}


def embed(words: list[str]) -> Tensor:
    """Directions that are equal for words of equal meaning and else orthogonal."""
    meanings = [MEANINGS.get(word, word) for word in words]
    places = [int.from_bytes(word.encode(), "big") % 99_991 for word in meanings]
    return torch.zeros(len(words), 99_991).scatter_(1, torch.tensor(places)[:, None], 1.0)


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("coat", True),
        ("Coats", True),
        ("WOMAN", True),
        ("woman's", True),
        ("zipped", True),
        ("beige", True),
        ("sleeved", True),
        ("with", True),
        ("60", True),
        ("oats", False),
        ("men", False),
        ("paisley", False),
    ],
)
def test_words_and_their_forms(word: str, known: bool) -> None:
    assert Vocabulary.of(CAPTIONS).knows(word) is known


def test_near_words_are_known_and_words_nearer_to_other_things_are_not() -> None:
    text = "A Zorblax woman's parka, a castle, zorblax & red coats, on buildings"
    assert Vocabulary.of(CAPTIONS).unknown(text, embed) == ["Zorblax", "castle", "zorblax", "buildings"]
    assert Vocabulary.of(CAPTIONS).unknown("an old woman", embed) == []


def test_the_list_is_read_as_written(tmp_path: Path) -> None:
    vocabulary = replace(Vocabulary.of(CAPTIONS), synonyms={"frock": "dress", "ball frock": "long dress"})
    vocabulary.write(tmp_path)
    assert Vocabulary.read(tmp_path) == vocabulary
    assert Vocabulary.read(tmp_path / "elsewhere") is None
    (tmp_path / "synonyms.txt").write_text("# Colours\n\nfrock dress\n")
    with pytest.raises(UserError, match=r"synonyms\.txt, line 3: expected 'phrase, phrase = words'"):
        Vocabulary.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("A Vermilion frock on a woman", "A red dress on a woman"),
        ("a carrot orange windbreaker", "an orange jacket"),
        ("midnight blue evening gown, chestnut hair", "navy evening gown, brown hair"),
        ("an aubergine-coloured coat", "a purple coat"),
        ("a very, very old man in frocks", "a very, very old man in frocks"),
    ],
)
def test_synonyms_are_read_as_words_of_training(text: str, read: str) -> None:
    shipped = Vocabulary.read(SHIPPED)
    assert shipped is not None and shipped.in_known_words(text)[0] == read


def test_shipped_synonyms_lead_to_words_of_training() -> None:
    shipped = Vocabulary.read(SHIPPED)
    assert shipped is not None and len(shipped.synonyms) > 200
    for phrase, meaning in shipped.synonyms.items():
        assert all(map(shipped.knows, words_of(meaning))), meaning
        assert phrase not in shipped.words, phrase


@pytest.mark.parametrize(
    ("text", "rest", "beyond"),
    [
        ("A woman in a red satin dress", "A woman in a red satin dress", []),
        ("A man sitting on a chair, in a blue suit", "A man, in a blue suit", ["sitting on a chair"]),
        ("a dancing woman in a red dress", "a woman in a red dress", ["dancing"]),
        ("a man who is running", "a man", ["who is running"]),
        ("a woman in a gown on the beach at sunset", "a woman in a gown", ["on the beach", "at sunset"]),
        ("a man in black at night", "a man in black", ["at night"]),
        ("a girl with her arms raised, in green", "a girl, in green", ["with her arms raised"]),
        ("two women in red", "two women in red", ["two women"]),
        ("a man and a tall woman in black", "a man and a tall woman in black", ["and a tall woman"]),
        ("a woman walking her dog", "a woman", ["walking her dog"]),
        ("an old man with his dog, in a coat", "an old man with his dog, in a coat", ["with his dog"]),
    ],
)
def test_poses_scenes_and_others_are_named(text: str, rest: str, beyond: list[str]) -> None:
    assert one_standing_person(text) == (rest, beyond)


@pytest.mark.parametrize(
    "text",
    [
        "A man in running shoes and swimming trunks",
        "a man in a garden dress and a rain coat",
        "a woman in a riding jacket, a moon boot and a house coat",
        "a woman with long hair and a red hat",
        "a person standing, in water-blue jeans and a sea green top",
        "a man with a beard and a boy's cap, with a bird print",
    ],
)
def test_clothes_named_after_poses_and_places_stay(text: str) -> None:
    assert one_standing_person(text) == (text, [])


def test_what_is_left_out_is_said() -> None:
    prior, notes = compact_prior(0, identity=False), []
    assert (
        readable(prior, "a woman in a red dress, sitting on a sofa", notes.append) == "a woman in a red dress"
    )
    assert notes == ["this prior draws one standing person on grey; ignored: 'sitting on a sofa'"]
    assert readable(prior, "running", notes.append) == "running"
    notes.clear()
    assert readable(prior, "a man in a blue shirt", notes.append) == "a man in a blue shirt" and notes == []


def test_what_is_denied_is_not_read() -> None:
    prior, notes = compact_prior(0, identity=False), []
    assert readable(prior, "a woman with no hat, in a red dress", notes.append) == "a woman, in a red dress"
    assert notes == ["a prior draws what its text denies, so this is left out: 'no hat'"]
    notes.clear()
    assert readable(prior, "a woman 👗", notes.append) == "a woman 👗"
    assert len(notes) == 1 and notes[0].endswith("👗")


@pytest.mark.parametrize(
    ("text", "compact", "clip"),
    [
        ("A woman in a red satin dress", True, True),
        ("Ａ ｗｏｍａｎ", True, True),
        ("crimson", True, True),
        ("a policewoman", True, True),
        ("blonde 👗", True, True),
        ("le robe", True, True),
        ("Eine Frau im roten Kleid", False, True),
        ("una mujer con un vestido rojo", False, True),
        ("asdf qwer", False, True),
        ("with a", False, True),
        ("👗👩", False, False),
        ("一个穿红色缎面连衣裙的女人", False, False),
        ("... 123 !", False, False),
    ],
)
def test_a_text_of_which_nothing_is_understood_stops(
    tmp_path: Path, text: str, compact: bool, clip: bool
) -> None:
    for prior, understood in (("compact", compact), ("sd15", clip)):
        for options in ({}, {"force": True}, {"resume": True}):
            with pytest.raises(UserError) as caught:
                check_inputs(text, [], tmp_path / "out", prior=prior, **options)
            stopped = str(caught.value).startswith(f"no word of '{text}' is understood: ")
            assert stopped is not (understood or bool(options))
            assert "\n" not in str(caught.value) and (not stopped or "--force" in str(caught.value))
