"""Bounds of settings: declared with the fields of dataclasses, checked in one place. Free of torch.

@dataclass(frozen=True)
class Config:
    steps: Count = 100
    distance: Annotated[tuple[float, float], Range(0.1, 10), ASCENDING] = (1.0, 2.0)

    def contradiction(self) -> str:  # optional: "" or what is wrong about several settings together
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from numbers import Integral, Real
from typing import Annotated, Any, Literal

from specularip.errors import UserError


@dataclass(frozen=True)
class Range:
    """The lowest and the highest value of a number, or of each number of a tuple."""

    low: float
    high: float


ASCENDING = "ascending"
"""Marks tuples whose numbers must not fall, such as (lowest, highest)."""

Count = Annotated[int, Range(1, 1_000_000)]
Share = Annotated[float, Range(0.0, 1.0)]
Weight = Annotated[float, Range(0.0, 1e6)]
Length = Annotated[float, Range(1e-4, 100.0)]
"""Metres, or body heights."""
Seed = Annotated[int, Range(0, 2**63 - 1)]
Port = Annotated[int, Range(0, 65535)]
Elevation = Annotated[float, Range(-89.0, 89.0)]
FieldOfView = Annotated[float, Range(1.0, 170.0)]
"""Degrees, both."""


def check_settings(settings: Any, spelled: Callable[[str], str] = str) -> None:
    """Check all fields of a dataclass, and of those in it, against their types and bounds.

    spelled: how a setting's dotted name appears in messages. Raises UserError for the first setting that is
    wrong, with its name, its bounds and what was given.
    """
    for name, problem in problems_of(settings):
        raise UserError(f"{spelled(name)} {problem}")


def check_value(name: str, value: Any, kind: Any) -> None:
    """Check one value against a type with bounds, such as Seed. Raises UserError as `check_settings` does."""
    for _, problem in _value_problems(value, kind, name):
        raise UserError(f"{name} {problem}")


def as_option(name: str) -> str:
    """A field's name as the option of a command: "fov_y_deg" is --fov-y-deg."""
    return f"--{name.replace('_', '-')}"


def out_of_order(settings: Any, lower: str, upper: str) -> str:
    """For `contradiction`: what is wrong if the setting `lower` exceeds the setting `upper`, else ""."""
    low, high = getattr(settings, lower), getattr(settings, upper)
    return f"{lower} must not exceed {upper}, got {_shown(low)} and {_shown(high)}" if low > high else ""


@cache
def hints_of(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, with their bounds. Cached: do not change it."""
    return typing.get_type_hints(kind, include_extras=True)


def unwrapped(kind: Any, marks: tuple[Any, ...] = ()) -> tuple[Any, tuple[Any, ...], bool]:
    """The type within Annotated and Optional, what was annotated, and whether None is allowed."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return unwrapped(options[0], (*marks, *kind.__metadata__))
    if origin in (typing.Union, types.UnionType) and type(None) in options:
        inner, marks, _ = unwrapped(next(one for one in options if one is not type(None)), marks)
        return inner, marks, True
    return kind, marks, False


def problems_of(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, what is wrong) of each wrong field, and of those in it; of contradictions only where each
    field alone is right."""
    fine = True
    kind: Any = type(settings)
    hints = hints_of(kind)
    for field in fields(settings):
        for found in _value_problems(getattr(settings, field.name), hints[field.name], prefix + field.name):
            fine = False
            yield found
    contradiction = getattr(settings, "contradiction", None)
    if fine and contradiction is not None and (problem := contradiction()):
        name, _, rest = problem.partition(" ")
        yield prefix + name, rest


def _value_problems(value: Any, kind: Any, name: str) -> Iterator[tuple[str, str]]:
    kind, marks, optional = unwrapped(kind)
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if value is None and optional:
        return
    if is_dataclass(kind):
        if isinstance(value, typing.cast(type, kind)):
            yield from problems_of(value, f"{name}.")
        else:
            yield name, f"must be a {getattr(kind, '__name__', kind)}, got {value!r}"
    elif origin is tuple:
        yield from _tuple_problems(value, options, marks, name)
    elif origin is Literal:
        if value not in options:
            yield name, f"must be {' or '.join(map(str, options))}, got {value!r}"
    elif kind in (int, float):
        if problem := _number_problem(value, kind, marks):
            yield name, problem
    elif kind in (bool, str) and not isinstance(value, kind):
        yield name, f"must be {'true or false' if kind is bool else 'a text'}, got {value!r}"


def _tuple_problems(
    value: Any, options: tuple[Any, ...], marks: tuple[Any, ...], name: str
) -> Iterator[tuple[str, str]]:
    many = options[-1] is ...
    if not isinstance(value, tuple | list) or not (many or len(value) == len(options)):
        yield name, f"must be {'several' if many else len(options)} values, got {value!r}"
        return
    kinds = [options[0]] * len(value) if many else options
    fine = True
    for item, kind in zip(value, kinds):
        # The bounds of a tuple hold for each of its numbers.
        whole = Annotated[(kind, *marks)] if marks else kind
        for found in _value_problems(item, whole, name):
            fine = False
            yield found
    if fine and ASCENDING in marks and any(low > high for low, high in pairwise(value)):
        yield name, f"must not fall, got {', '.join(_shown(item) for item in value)}"


def _number_problem(value: Any, kind: Any, marks: tuple[Any, ...]) -> str:
    fits = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if not fits:
        return f"must be a {'whole ' if kind is int else ''}number, got {value!r}"
    for mark in marks:
        if isinstance(mark, Range) and not mark.low <= value <= mark.high:  # false for NaN
            return f"must lie between {_shown(mark.low)} and {_shown(mark.high)}, got {_shown(value)}"
    return "" if math.isfinite(value) else f"must be finite, got {_shown(value)}"


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, Integral) else f"{float(value):g}"
