"""Frozen values as plain JSON data, and back."""

from __future__ import annotations

import functools
import math
import types
import typing
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def to_dict(value: Any) -> Any:
    """A frozen value as plain JSON data: paths become strings, tuples lists."""
    return _plain(asdict(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def value_of(kind: type[T], value: Any) -> T:
    """Plain JSON data as a value of a type: a dataclass, or what its fields are made of.

    Raises:
        TypeError, KeyError, OverflowError: If it is of another form.
    """
    found: T = _value_of(kind, value)
    return found


def _value_of(kind: Any, value: Any) -> Any:
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        return _one_of(inside, value)
    if isinstance(value, list) and origin is tuple:
        return tuple(_value_of(inside[0], item) for item in value)
    if isinstance(value, dict):
        return _mapped(kind, value)
    if isinstance(value, str) and kind is Path and "\0" not in value:
        return Path(value)
    fits = value in inside if origin is Literal else type(value) in _PLAIN.get(kind, ())
    if not fits or (kind is float and not math.isfinite(value)):
        raise TypeError(f"{str(value)[:40]!r} is not {getattr(kind, '__name__', kind)}")
    return value


_PLAIN: dict[Any, tuple[type, ...]] = {
    str: (str,),
    int: (int,),
    bool: (bool,),
    float: (float, int),
    type(None): (type(None),),
}


def _mapped(kind: Any, value: dict[str, Any]) -> Any:
    """A dataclass, or a dictionary."""
    if typing.get_origin(kind) is dict:
        named, inside = typing.get_args(kind)
        return {_value_of(named, key): _value_of(inside, item) for key, item in value.items()}
    hints = _hints(kind)
    return kind(**{name: _value_of(hints[name], item) for name, item in value.items()})


def _one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    """The value as the first of some types that it fits."""
    for kind in kinds[:-1]:
        with suppress(TypeError, KeyError):
            return _value_of(kind, value)
    return _value_of(kinds[-1], value)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    if not is_dataclass(kind):
        raise TypeError(f"{getattr(kind, '__name__', kind)} is no object")
    return typing.get_type_hints(kind)
