"""Results as pandas data frames, for those who have pandas: unknown is NA, never 0."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.errors import UsageError

# Those of pandas that know of unknown values.
_TYPES = {str: "string", int: "Int64", float: "Float64", bool: "boolean"}


def pandas() -> Any:
    """The package.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        import pandas as found  # noqa: ICN001, PLC0415 - not a dependency: for those who have it
    except ImportError as error:
        raise UsageError("a data frame needs pandas", hint="pip install pandas") from error
    return found


def frame(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, type]) -> Any:
    """A data frame with typed columns.

    Args:
        rows: Column → value; what is missing or None is NA.
        columns: Column → str, int, float or bool; in their order.

    Raises:
        UsageError: If pandas is not installed.
    """
    pd = pandas()
    return pd.DataFrame(
        {
            name: pd.array([row.get(name) for row in rows], dtype=_TYPES[kind])
            for name, kind in columns.items()
        }
    )


def frame_of(items: Sequence[Any], kind: type, **before: Sequence[str]) -> Any:
    """A data frame with a row for each of some values of one dataclass.

    A column for each field that is a text, a number or a yes or no. Of a field that is a
    dataclass itself, one for each of its fields; several texts become one of several lines.

    Args:
        items: The values.
        kind: Their class.
        before: Columns that stand before those of the class.

    Raises:
        UsageError: If pandas is not installed.
    """
    columns = _columns(kind)
    rows = [
        {**{name: texts[index] for name, texts in before.items()}, **_row(item, columns)}
        for index, item in enumerate(items)
    ]
    return frame(rows, {**dict.fromkeys(before, str), **{path[-1]: found for path, found in columns.items()}})


def _columns(kind: type, within: tuple[str, ...] = ()) -> dict[tuple[str, ...], type]:
    """The path of each column's field, and its type."""
    found: dict[tuple[str, ...], type] = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        path = (*within, field.name)
        hint = _without_none(hints[field.name])
        if dataclasses.is_dataclass(hint):
            found |= _columns(typing.cast("type", hint), path)
        elif hint == tuple[str, ...]:
            found[path] = str
        elif typing.get_origin(hint) is typing.Literal:
            found[path] = type(typing.get_args(hint)[0])
        elif hint in _TYPES:
            found[path] = hint
    return found


def _row(item: Any, columns: Mapping[tuple[str, ...], type]) -> dict[str, Any]:
    row = {}
    for path in columns:
        value = item
        for name in path:
            value = getattr(value, name, None)
        row[path[-1]] = "\n".join(value) if isinstance(value, tuple) else value
    return row


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        rest = [part for part in typing.get_args(hint) if part is not type(None)]
        return rest[0] if len(rest) == 1 else None
    return hint
