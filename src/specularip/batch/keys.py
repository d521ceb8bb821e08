"""The keys of jobs: columns of a CSV file, keys of JSON and YAML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any

from specularip.batch.faults import Faults
from specularip.batch.rows import Entry, Value
from specularip.errors import quoted
from specularip.presets import PRESETS, preset_config

FIELDS = ("text", "image", "name", "preset", "seed", "init", "photo_weight", "low_memory", "force")
SYNONYMS = {"prompt": "text", "images": "image"}
SETTINGS = ("settings", "set")
"""Keys of a mapping of settings, or of a list of "NAME=VALUE", in JSON and YAML."""


@cache
def setting_names() -> frozenset[str]:
    """Dotted names of the settings of all presets, without those that are keys of their own."""
    names = {name for preset in PRESETS for name in _names(preset_config(preset), "")}
    return frozenset(names.difference(FIELDS))


def _names(config: Any, prefix: str) -> Iterator[str]:
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _names(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


@lru_cache(maxsize=10_000)
def canonical(written: str) -> str:
    """The key that is meant by what is written: of FIELDS, of SETTINGS, or a setting's name; "" if none."""
    key = written.strip()
    plain = key.lower().replace("-", "_").replace(" ", "_")
    plain = SYNONYMS.get(plain, plain)
    if plain in FIELDS or plain in SETTINGS:
        return plain
    return key if key in setting_names() else ""


@lru_cache(maxsize=10_000)
def unknown(written: str, kind: str) -> str:
    """What is wrong with a key that means nothing. kind: "key", "column" or "setting"."""
    key = written.strip()
    candidates = [*setting_names(), *(() if kind == "setting" else (*FIELDS, *SYNONYMS))]
    # Long keys take long to compare, and resemble none.
    close = get_close_matches(key.lower()[:100], sorted(candidates), 1)
    if not close:  # "steps" for "seid.steps"
        close = sorted(name for name in candidates if key and name.endswith(f".{key}"))
    known = "" if kind == "setting" else f"{', '.join(FIELDS)}, and "
    advice = f"did you mean {close[0]}?" if close else f"known are {known}settings as --set takes them"
    return f"there is no {kind} {quoted(key)}: {advice}"


def keyed(entries: Sequence[Entry], faults: Faults) -> dict[str, Entry]:
    """The entries by canonical key, settings by their names; those that stand for a default are left out."""
    found: dict[str, Entry] = {}
    for entry in entries:
        key = canonical(entry.key)
        if not key:
            faults.add(entry.place, unknown(entry.key, "key"))
        elif key in SETTINGS:
            for setting in _settings(entry, faults):
                _put(found, setting.key, setting, faults)
        else:
            _put(found, key, entry, faults)
    return {key: entry for key, entry in found.items() if not is_default(entry.value)}


def is_default(value: Value) -> bool:
    """Whether a value is empty, as a cell may be."""
    return not (value.strip() if isinstance(value, str) else value)


def _put(found: dict[str, Entry], key: str, entry: Entry, faults: Faults) -> None:
    if key in found:
        faults.add(entry.place, f"{key} is given twice: give it once")
    found[key] = entry


def _settings(entry: Entry, faults: Faults, prefix: str = "") -> Iterator[Entry]:
    """The settings of a mapping, which may be nested as their names are, or of a list of "NAME=VALUE"."""
    if isinstance(entry.value, list):
        for item in entry.value:
            name, equals, value = item.partition("=") if isinstance(item, str) else ("", "", "")
            if equals:
                yield from _setting(Entry(name.strip(), value, entry.place), faults)
            else:
                faults.add(entry.place, f"{entry.key} must be a mapping, or a list of texts NAME=VALUE")
    elif isinstance(entry.value, tuple):
        for inner in entry.value:
            named = Entry(prefix + inner.key.strip(), inner.value, inner.place)
            if isinstance(inner.value, tuple):
                yield from _settings(named, faults, f"{named.key}.")
            else:
                yield from _setting(named, faults)
    elif not is_default(entry.value):
        faults.add(entry.place, f"{entry.key} must be a mapping of names to values")


def _setting(entry: Entry, faults: Faults) -> Iterator[Entry]:
    if entry.key in setting_names():
        yield entry
    elif entry.key in FIELDS:
        faults.add(entry.place, f"{entry.key} is a key of its own: give it beside the settings")
    else:
        faults.add(entry.place, unknown(entry.key, "setting"))
