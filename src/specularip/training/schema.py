"""What a run expects of a checkpoint's state, and the check that it is so. See `check_state`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from specularip.errors import DamagedFile, quoted

LARGEST = 1e300
"""Number that floats still hold. Integers in JSON have any number of digits."""


class NotFinite(DamagedFile):
    """A tensor has values that are not finite."""


@dataclass(frozen=True)
class TensorOf:
    """A tensor of finite numbers. shape: sizes, or names of sizes ("N") that are the same in all of a state.
    dtype None: any of real numbers. low: the least value. below: a bound of values, or the name of a size
    that is one."""

    shape: tuple[int | str, ...]
    dtype: torch.dtype | None = torch.float32
    low: float | None = None
    below: int | str | None = None


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`; whole: an integer."""

    low: float = -LARGEST
    high: float = LARGEST
    whole: bool = False


@dataclass(frozen=True)
class Text:
    """A string. among: the ones it may be; (): any."""

    among: tuple[str, ...] = ()


@dataclass(frozen=True)
class Many:
    """A list or tuple of any length, or a dict with any text as keys, whose items are all of one kind."""

    item: Schema
    kind: type = list


@dataclass(frozen=True)
class Maybe:
    """None, or what it says."""

    schema: Schema


Schema: TypeAlias = (
    "TensorOf | Number | Text | Many | Maybe | Mapping[str, Schema] | Sequence[Schema] "
    "| Callable[[Any], None] | None"
)
"""Also None itself, a dict of exactly these keys, a list or tuple of this length, and a function that raises
DamagedFile for a wrong value."""


def a_dict(value: Any) -> None:
    """A schema: any dict."""
    if not isinstance(value, dict):
        raise DamagedFile("is no dict")


def tensors_like(tensors: Mapping[str, Tensor]) -> dict[str, TensorOf]:
    """Tensors of these shapes and types."""
    return {name: TensorOf(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def generator_state(value: Any) -> None:
    """A schema: the state of a random generator on the CPU."""
    generator = torch.Generator()
    shape = tuple(generator.get_state().shape)
    _check_tensor(value, TensorOf(shape, torch.uint8), {})
    try:
        generator.set_state(value)
    except RuntimeError:
        raise DamagedFile("is no state of a random generator") from None


def check_state(state: Any, schema: Schema, name: str = "") -> None:
    """Raise DamagedFile if the state is not what the schema says: "params.means is [3,4], not [N,3]"."""
    _check(state, schema, name, {})


def _check(value: Any, schema: Any, name: str, sizes: dict[str, int]) -> None:
    if schema is None:
        if value is not None:
            raise DamagedFile(f"{name} is not none")
    elif isinstance(schema, Maybe):
        if value is not None:
            _check(value, schema.schema, name, sizes)
    elif isinstance(schema, Many):
        items: Any = value  # of any kind, whatever type checkers conclude
        if type(value) is not schema.kind:
            raise DamagedFile(f"{name} is no {schema.kind.__name__}")
        for key, item in items.items() if schema.kind is dict else enumerate(items):
            if schema.kind is dict and not isinstance(key, str):
                raise DamagedFile(f"{name} has a key that is no text")
            _check(item, schema.item, f"{name}.{key}", sizes)
    elif isinstance(schema, Mapping):
        if not isinstance(value, dict) or set(value) != set(schema):
            raise DamagedFile(f"{name or 'the state'} does not have the entries {', '.join(schema)}")
        for key, part in schema.items():
            _check(value[key], part, f"{name}.{key}".lstrip("."), sizes)
    elif isinstance(schema, Sequence):
        if type(value) is not type(schema) or len(value) != len(schema):
            raise DamagedFile(f"{name} is no {type(schema).__name__} of {len(schema)}")
        for index, part in enumerate(schema):
            _check(value[index], part, f"{name}.{index}", sizes)
    else:
        try:
            if isinstance(schema, TensorOf):
                _check_tensor(value, schema, sizes)
            elif isinstance(schema, Number):
                _check_number(value, schema)
            elif isinstance(schema, Text):
                if not isinstance(value, str) or (schema.among and value not in schema.among):
                    raise DamagedFile(f"is not one of {', '.join(schema.among) or 'texts'}")
            else:
                schema(value)
        except DamagedFile as problem:
            raise type(problem)(f"{name} {problem}") from None


def _check_number(value: Any, spec: Number) -> None:
    kinds = (int,) if spec.whole else (int, float)
    if type(value) not in kinds or not spec.low <= value <= spec.high:
        whole = "a whole number" if spec.whole else "a number"
        raise DamagedFile(f"is {quoted(value, 30)}, not {whole} from {spec.low:g} to {spec.high:g}")


def _check_tensor(value: Any, spec: TensorOf, sizes: dict[str, int]) -> None:
    if not isinstance(value, Tensor):
        raise DamagedFile("is no tensor")
    if not (value.is_floating_point() if spec.dtype is None else value.dtype == spec.dtype):
        raise DamagedFile(f"is of {value.dtype}, not {spec.dtype or 'real numbers'}")
    fits = value.ndim == len(spec.shape)
    for size, wanted in zip(value.shape, spec.shape):
        fits = fits and size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
    if not fits:
        wanted_shape = ",".join(str(sizes.get(size, size) if isinstance(size, str) else size)
                                for size in spec.shape)  # fmt: skip
        raise DamagedFile(f"is {list(value.shape)}, not [{wanted_shape}]")
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise NotFinite("has values that are not finite")
    if value.numel() == 0:
        return
    if spec.low is not None and bool((value < spec.low).any()):
        raise DamagedFile(f"has values below {spec.low:g}")
    below = sizes.get(spec.below, 0) if isinstance(spec.below, str) else spec.below
    if below is not None and bool((value >= below).any()):
        raise DamagedFile(f"has values of {below} and more")
