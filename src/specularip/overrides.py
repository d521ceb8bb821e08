"""`--set NAME=VALUE`: settings by dotted name, parsed by the types of dataclass fields. Free of torch."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar

from specularip.errors import UserError
from specularip.presets import preset_config
from specularip.stages.settings import Config

Settings = TypeVar("Settings")


def run_config(
    preset: str, overrides: Sequence[str] = (), seed: int = 0, photo_weight: float | None = None
) -> Config:
    """The configuration of a run of `generate`. Raises UserError as `preset_config` and `with_settings`."""
    config = replace(with_settings(preset_config(preset), overrides), seed=seed)
    return config if photo_weight is None else replace(config, photo_weight=photo_weight)


def with_settings(config: Settings, overrides: Sequence[str]) -> Settings:
    """`config` with overrides such as "seid.steps=1200" or "prior.sources.base=/models/realistic".

    Tuples are written with commas: "seid.orbit.distance=0.8,1.1"; optional settings accept "none". Raises
    UserError for unknown names and for values of the wrong type.
    """
    for setting in overrides:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting} has no '=': write --set seid.steps=1200")
        config = _set(config, name.split("."), text, setting)
    return config


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _set(config: Any, path: list[str], text: str, setting: str) -> Any:
    kind: Any = type(config)
    hints = _hints(kind)
    if path[0] not in hints:
        raise UserError(f"--set {setting}: there is no setting '{path[0]}', only {', '.join(hints)}")
    value = getattr(config, path[0])
    if len(path) == 1:
        return replace(config, **{path[0]: _parse(text, hints[path[0]], setting)})
    if not is_dataclass(value):
        raise UserError(f"--set {setting}: '{path[0]}' has no settings in it")
    return replace(config, **{path[0]: _set(value, path[1:], text, setting)})


def _parse(text: str, kind: Any, setting: str) -> Any:
    """`text` as a value of the type `kind`. setting: the whole override, for errors."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if text not in options:
            raise UserError(f"--set {setting}: must be {' or '.join(map(str, options))}")
        return text
    if origin in (typing.Union, types.UnionType):
        if text == "none" and type(None) in options:
            return None
        return _parse(text, next(option for option in options if option is not type(None)), setting)
    if origin is tuple and options[-1] is not ...:
        parts = text.split(",")
        if len(parts) != len(options):
            raise UserError(f"--set {setting}: must be {len(options)} numbers separated by commas")
        return tuple(_parse(part, option, setting) for part, option in zip(parts, options))
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind in (int, float, str):
        try:
            return kind(text)
        except ValueError:
            pass
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    if kind not in names:
        raise UserError(f"--set {setting}: this setting cannot be given on the command line")
    raise UserError(f"--set {setting}: must be {names[kind]}")
