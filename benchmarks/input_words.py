"""Words that mean something else than they seem to: names, possessives, denials, colours."""

from __future__ import annotations

from pathlib import Path

import torch
from input_rows import (
    FACE,
    Row,
    Unexpected,
    refusal,
    specularip,
)

from specularip.body import phenotype_from_text
from specularip.body.phenotype import Phenotype
from specularip.faces.hair import told_hair
from specularip.sentences import without_denials


def body_of(text: str, **expected: float) -> Row:
    """A text of which the body is read. expected: what differs from the default body."""

    def run(_: Path) -> str:
        found, default = phenotype_from_text(text), Phenotype()
        got = {
            name: value
            for name, value in vars(found).items()
            if name != "matched" and abs(value - getattr(default, name)) > 1e-6
        }
        words = ", ".join(f"{name} {value:.2f}" for name, value in got.items()) or "the average body"
        # The height of the sexes differs by itself.
        wrong = {name for name in got.keys() | expected.keys() if name != "height" or "height" in expected}
        if any(abs(got.get(name, -1.0) - expected.get(name, -1.0)) > 0.02 for name in wrong):
            raise Unexpected(words)
        return words

    wanted = ", ".join(f"{name} {value:.2f}" for name, value in expected.items()) or "the average body"
    return Row("body", text, wanted, run)


def hair_of(text: str, told: bool) -> Row:
    def run(_: Path) -> str:
        found = told_hair(text, torch.full((3, 64, 64), 0.5))
        got = "none told" if found is None else "told"
        if (found is not None) != told:
            raise Unexpected(got)
        return got

    return Row("hair", text, "told" if told else "none told", run)


def draws(text: str, kept: str) -> Row:
    def run(_: Path) -> str:
        got, _denials = without_denials(text)
        if got != kept:
            raise Unexpected(got)
        return got

    return Row("denials", text, kept, run)


def stops(text: str) -> Row:
    def run(folder: Path) -> str:
        result = specularip("generate", text, "--image", FACE, "--out", folder / "out", timeout=60)
        line = refusal(result, "understood", "--force")
        if (folder / "out").exists():
            raise Unexpected("the folder was made")
        return line[:60] + "..."

    return Row("not understood", text, "stops, names --force", run)


def words() -> list[Row]:
    woman, man = {"gender": 1.0}, {"gender": 0.0}
    return [
        body_of("A woman in a baby blue dress", **woman),
        body_of("A man named Brown", **man),
        body_of("A man called Young, in a suit", **man),
        body_of("A guy in a grandpa sweater", **man),
        body_of("A woman in boyfriend jeans", **woman),
        body_of("A person in a fireman's helmet"),
        body_of("a person in King's red coat"),
        body_of("A woman in a man's shirt", **woman),
        body_of("A woman's silk dress", **woman),
        body_of("A man wearing his grandmother's scarf", **man),
        body_of("An adult woman, not elderly", **woman),
        body_of("A man, not muscular", **man),
        body_of("A man without a baby", **man),
        body_of("A man in a slim tie and a heavy coat", **man),
        body_of("A woman in tall boots", **woman),
        body_of("she’s in jeans", **woman),
        body_of("A policewoman", **woman),
        body_of("Ａ ｗｏｍａｎ ｉｎ ｒｅｄ", **woman),
        body_of("a red-haired woman in green", **woman),
        hair_of("a red-haired woman in green", True),
        hair_of("a woman with long blonde hair", True),
        hair_of("A man named Brown", False),
        hair_of("a man in a brown coat", False),
        hair_of("a woman without red hair", False),
        hair_of("a brown camel hair coat", False),
        draws("a woman without a jacket", "a woman"),
        draws("a man with no shirt, in jeans", "a man, in jeans"),
        draws("a woman in a red dress", "a woman in a red dress"),
        stops("👗👩"),
        stops("一个穿红色缎面连衣裙的女人"),
        stops("asdf qwer"),
    ]
