"""JSON that others have written, parsed within limits: the one place where the product does so."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from specularip.errors import DamagedFile, quoted

MOST_BYTES = 64 << 20
"""Of text. 20,000 frames of a transforms.json are 20 MB."""
MOST_VALUES = 1_500_000
"""Of commas and brackets, about the number of values. The costliest are empty objects: two bytes of text make
72 in memory. So the values of a small file take at most some 150 MB."""
MOST_DEPTH = 64
"""Lists and objects within one another. Code that walks through values is recursive too, so this is far below
Python's own limit."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(text: bytes | str, most: int = MOST_BYTES) -> Any:
    """The value of a JSON text, UTF-8 with or without a byte order mark.

    Whole numbers beyond 64 bits become floats, as in JavaScript. NaN and Infinity, which Python's own writer
    and others put into files, are read as such: who uses a number checks that it is finite.

    Raises DamagedFile, whose message says what is wrong: no JSON, more than `most` bytes or MOST_VALUES
    values, deeper than MOST_DEPTH, a key twice in an object, text with half a surrogate pair.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > most:
        raise DamagedFile(f"{len(data)} bytes of JSON, and at most {most} are read")
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise DamagedFile(f"more than {MOST_VALUES} values")
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise DamagedFile(f"byte {error.start} is no text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise DamagedFile(f"line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise DamagedFile(f"more than {MOST_DEPTH} levels of lists and objects") from None
    _check_depth(value)
    if _SURROGATE.search(data):
        _check_text(value)
    return value


def parse_object(text: bytes | str, most: int = MOST_BYTES) -> dict[str, Any]:
    """`parse_json` of a text that must hold an object. Raises DamagedFile too if it holds something else."""
    value = parse_json(text, most)
    if not isinstance(value, dict):
        raise DamagedFile(f"an object is expected, not {quoted(value)}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise DamagedFile(f"the key {quoted(twice)} is there twice")
    return found


def _whole(digits: str) -> int | float:
    # int() takes quadratic time, and refuses more than 4300 digits.
    value = int(digits) if len(digits) <= 20 else math.inf
    return value if -(2**63) <= value < 2**64 else float(digits)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [inner for outer in level for inner in _within(outer) if isinstance(inner, list | dict)]
        if not level:
            return
    raise DamagedFile(f"more than {MOST_DEPTH} levels of lists and objects")


def _within(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _check_text(value: Any) -> None:
    """Half a surrogate pair is no text: it can be written to no file."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DamagedFile("text with half a surrogate pair") from None
