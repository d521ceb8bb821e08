"""The words that a prior was trained on, other words for the same, and which words of a text are beyond both.

A sub-word tokenizer has tokens for any word, so that what a prior knows is not seen from its tokens. Here a
word is known if training captions had it, or a form of it, or a word of nearly the same meaning by the text
encoder: "moustache" where training had "beard". Rare names of colours and clothes are nowhere near the common
ones in a small text encoder ("vermilion" is closer to "purple" than to "red"), so there is a table of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from specularip.errors import UserError, first_line
from specularip.sentences import normalized

if TYPE_CHECKING:
    from torch import Tensor

KNOWN_WORDS, SYNONYMS = "known_words.txt", "synonyms.txt"
CLOSE = 0.5
"""Least cosine of the directions of two words that are taken to mean nearly the same.

Measured with the compact prior's text encoder on 50 words for people and clothes that no caption had, and
on 46 words for other things and without meaning: with `OTHERS` and `MARGIN`, 92 % of the former are taken as
known and 57 % of the latter. Its upper layers, trained on captions, draw all words together.
"""
MARGIN = 0.05
"""By how much a known word must be closer than the closest of `OTHERS`."""
OTHERS = tuple(
    """animal cat bird weapon knife rifle tool building house room tree mountain sea weather moon
    planet emotion laughing crying calm job engineer sailor warrior prince goddess monster ghost
    machine vehicle car music song film art drawing painting drawn sketch quality style history
    ancient modern food fruit holding walking standing jumping sleeping pattern printed sign letter
    word screen computer furniture chair country India party war time morning spring speed idea good
    bad pretty bag sack jewel eyewear shadow fire water smoke spell feather fin blood
    number""".split()
)
"""Other things that texts may ask for: a word that is closer to one of these is not known."""
FUNCTION_WORDS = frozenset(
    """a an the this that these those and or but as of in on at to by for from with without who whose which
    is are was be been being am has have had having he she they it his her hers him their them its i you my
    your wear wears wearing worn dressed clad put over under above below between into onto about around very
    quite rather slightly really some any one no not plus also both each all while there here""".split()
)
"""Words without a look of their own: never unknown, and no word is close to them."""
ENDINGS = (
    ("ies", "y"),
    ("es", ""),
    ("s", ""),
    ("ed", ""),
    ("ed", "e"),
    ("ing", ""),
    ("ing", "e"),
    ("'s", ""),
)
"""Endings of plurals and verbs, with what stands for them in the plain form."""


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error


def words_of(text: str) -> Iterator[str]:
    """The words of a text as written, without punctuation; the parts of "long-sleeved" are words."""
    return (match[0] for match in re.finditer(r"[^\W_]+(?:'s)?", text))


def forms(word: str) -> Iterator[str]:
    """A word and its possible plain forms, such as "coat" for "coats" and "flare" for "flared"."""
    yield word
    for ending, plain in ENDINGS:
        if word.endswith(ending) and len(word) >= len(ending) + 3:
            stem = word[: -len(ending)]
            yield stem + plain
            if not plain and len(stem) > 3 and stem[-1] == stem[-2]:
                yield stem[:-1]  # "zipped"


@dataclass(frozen=True)
class Vocabulary:
    """words: of the training captions, in lower case. synonyms: other phrases, in lower case, and what the
    training captions said instead."""

    words: frozenset[str]
    synonyms: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, captions: Collection[str]) -> Vocabulary:
        """The words of captions."""
        return cls(frozenset(word.lower() for caption in captions for word in words_of(caption)))

    @classmethod
    def read(cls, folder: Path) -> Vocabulary | None:
        """From KNOWN_WORDS in a prior's folder, with a word a line, and SYNONYMS beside it, with lines
        "phrase, phrase = words"; None without the former. Raises UserError."""
        path = folder / KNOWN_WORDS
        if not path.is_file():
            return None
        words = _read_text(path).split()
        if not words:
            raise UserError(f"{path} holds no words")
        synonyms: dict[str, str] = {}
        path = folder / SYNONYMS
        lines = _read_text(path).splitlines() if path.is_file() else []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            phrases, equals, meaning = line.partition("=")
            if not (equals and phrases.strip() and meaning.strip()):
                raise UserError(f"{path}, line {number}: expected 'phrase, phrase = words'")
            for phrase in phrases.split(","):
                synonyms[phrase.strip().lower()] = meaning.strip()
        return cls(frozenset(words), synonyms)

    def write(self, folder: Path) -> None:
        """The inverse of `read`."""
        (folder / KNOWN_WORDS).write_text("\n".join(sorted(self.words)) + "\n", encoding="utf-8")
        if self.synonyms:
            lines = [f"{phrase} = {meaning}\n" for phrase, meaning in self.synonyms.items()]
            (folder / SYNONYMS).write_text("".join(lines), encoding="utf-8")

    def in_known_words(self, text: str) -> tuple[str, dict[str, str]]:
        """The text with the words of training for its synonyms, and those replaced, with their meaning."""
        if not self.synonyms:
            return text, {}
        replaced: dict[str, str] = {}

        def meaning(match: re.Match[str]) -> str:
            article, phrase = match[1], match[2].lower()
            replaced[phrase] = known = self.synonyms[phrase]
            if article:
                article = article[0] + ("n " if known[0] in "aeiou" else " ")
            return f"{article or ''}{known}"

        text = self._synonym.sub(meaning, text)
        if replaced:  # "carrot orange" is now "orange orange"
            text = re.sub(r"\b(\w+)(?: \1\b)+", r"\1", text, flags=re.IGNORECASE)
        return text, replaced

    @cached_property
    def _synonym(self) -> re.Pattern[str]:
        longest_first = sorted(self.synonyms, key=len, reverse=True)
        pattern = rf"(?<![\w-])(an? )?({'|'.join(map(re.escape, longest_first))})(?:[- ]colou?red)?(?![\w-])"
        return re.compile(pattern, re.IGNORECASE)

    @property
    def denials(self) -> list[str]:
        """What the training captions deny: "no hair", "no shoes"."""
        return [f"no {noun}" for noun in ("hair", "shoes") if {"no", noun} <= self.words]

    def understands(self, text: str) -> bool:
        """Whether any word of a text is known that has a look of its own, without regard to nearness."""
        content = (word.lower() for word in words_of(self.in_known_words(normalized(text))[0]))
        return any(
            form in self.words and form not in FUNCTION_WORDS and not form.isdigit() and len(form) > 1
            for word in content
            for form in forms(word)
        )

    def knows(self, word: str) -> bool:
        """Whether the word, or a form of it, is one of training or a function word; or a short number."""
        word = word.lower()
        return word.isdigit() or any(form in self.words or form in FUNCTION_WORDS for form in forms(word))

    def unknown(self, text: str, embed: Callable[[list[str]], Tensor]) -> list[str]:
        """The distinct words of a text that are neither known nor close to a known word, in order.

        embed: words to directions [n,D] of length 1, such as `Prior.embed_words`.
        """
        new = [word for word in dict.fromkeys(words_of(text)) if not self.knows(word)]
        if not new:
            return []
        content = sorted(word for word in self.words - FUNCTION_WORDS if word.isalpha() and len(word) > 2)
        directions = embed([word.lower() for word in new])
        known, other = ((directions @ embed(some).T).amax(1) for some in (content, list(OTHERS)))
        close = ((known >= CLOSE) & (known >= other + MARGIN)).tolist()
        return [word for word, is_close in zip(new, close) if not is_close]
