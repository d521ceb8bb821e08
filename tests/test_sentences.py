"""Denials, names and symbols in texts."""

from __future__ import annotations

import pytest

from specularip.sentences import affirmed, denied, normalized, symbols, without_denials, without_names, words

KNOWN = ("no hair", "no shoes")


@pytest.mark.parametrize(
    ("text", "rest", "cut"),
    [
        ("A woman in a red dress", "A woman in a red dress", []),
        ("a woman without a jacket in red jeans", "a woman in red jeans", ["without a jacket"]),
        ("a man with no shirt on", "a man", ["no shirt"]),
        ("a man with no shirt under his jacket", "a man with his jacket", ["no shirt"]),
        ("a man wearing no hat and no gloves", "a man", ["no hat", "no gloves"]),
        ("a suit and no tie and red shoes", "a suit and red shoes", ["no tie"]),
        ("no hat, gloves or scarf, in a coat", "in a coat", ["no hat, gloves or scarf"]),
        ("a dress, not red but blue", "a dress, blue", ["not red"]),
        ("a red, not blue dress", "a red dress", ["not blue"]),
        ("a not very old man in red", "a man in red", ["not very old"]),
        ("not only red but also blue", "not only red but also blue", []),
        ("a man who isn’t wearing a tie", "a man", ["isn't wearing a tie"]),
        ("a man who has neither a beard nor long hair", "a man", ["neither a beard nor long hair"]),
        ("a coat without buttons on a woman", "a coat on a woman", ["without buttons"]),
        ("a man in jeans rather than a suit", "a man in jeans", ["rather than a suit"]),
        ("A man. No beard. Black suit.", "A man. Black suit.", ["No beard"]),
        ("a woman (no hat) in red", "a woman in red", ["no hat"]),
        ("a man without shoes", "a man, no shoes", ["without shoes"]),
        ("a woman with no hair", "a woman with no hair", []),
        ("a nonstop knot", "a nonstop knot", []),
        ("never fat", "", ["never fat"]),
    ],
)
def test_denials_are_cut_out_whole(text: str, rest: str, cut: list[str]) -> None:
    assert without_denials(text, KNOWN) == (rest, cut)


def test_what_is_denied_is_named_without_articles() -> None:
    assert denied("A man, not muscular, without a red hat") == ["muscular", "red hat"]
    assert denied("a beard-free man in red") == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a man named Brown in a suit", ["brown"]),
        ("a woman called rose in a coat", ["rose"]),
        ("Mr. Young in a coat", ["young"]),
        ("MRS KING, IN A RED COAT", ["king"]),
        ("Neil Young in black", ["young"]),
        ("Bob in a suit", ["bob"]),
        ("a woman with a bob", []),
        ("A Tall Young Woman In A Red Dress", []),
        ("A Young woman in red", []),
        ("a Black man in Red", []),
    ],
)
def test_names(text: str, names: list[str]) -> None:
    assert [word.text for word in words(text) if word.name] == names
    assert not set(names) & set(affirmed(text).replace(",", " ").split())


def test_names_that_mean_something_else_are_taken_out() -> None:
    assert without_names("a man named Brown, in red") == ("a man, in red", ["Brown"])
    assert without_names("Mr. Young in a coat") == ("Mr. in a coat", ["Young"])
    assert without_names("a woman named Anika in amber") == ("a woman named Anika in amber", [])
    assert without_names("A woman called Amber King in red") == ("A woman in red", ["Amber", "King"])


def test_letters_of_other_forms_are_the_same() -> None:
    assert normalized("Ａ ｗｏｍａｎ’s T\u2011shirt\u00ad") == "A woman's T-shirt"
    assert [word.text for word in words("An ÉLDERLY wómen’s coat")] == ["an", "elderly", "women", "coat"]


def test_emoji_are_named_whole() -> None:
    assert symbols("👗👩🏽 a woman ❤️ 👩‍🚀, 👗!") == ["👗", "👩🏽", "❤️", "👩‍🚀"]
    assert symbols("a woman, 'red' - & 5 % + x") == []
