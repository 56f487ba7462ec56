"""Engines and backends that other packages bring.

A package names a module in the entry points of the group `llmlab.engines` or
`llmlab.backends`; the entry point's name is what it is called. Nothing is looked for
before a name is asked for that is not built in, or all names are.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from importlib import metadata
from typing import Any

from llmlab.errors import LabError

# What can be typed as the value of an option, and as an option itself.
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
# A plug-in that wants to end Python is as broken as any other.
_ANYTHING = (Exception, SystemExit)
_LONG = 200


def names(group: str, built_in: Collection[str]) -> tuple[str, ...]:
    """What packages bring, without what is built in: that cannot be replaced."""
    return tuple(name for name in _points(group, tuple(sys.path)) if name not in built_in)


def load(group: str, name: str, protocol: type, error: type[LabError]) -> Any:
    """What a package brings under a name that `names` has given.

    Args:
        group: The group of entry points.
        name: The entry point's name.
        protocol: What it must have.
        error: What is raised.

    Raises:
        LabError: Of the kind `error`, if it cannot be loaded, or is not whole; names the
            package and what is missing.
    """
    points = _points(group, tuple(sys.path))[name]
    packages = sorted({point.dist.name if point.dist else point.value for point in points})
    what = f"{protocol.__name__.lower()} {name!r} of the package {' and '.join(packages)}"
    hint = f"upgrade or remove it: pip uninstall {packages[0]}"
    if len(points) > 1:
        raise error(f"{what} comes more than once", hint=hint)
    try:
        found = points[0].load()
    except _ANYTHING as reason:
        raise error(f"{what} cannot be loaded: {_words(reason)}", hint=hint) from reason
    if problems := _problems(found, name, protocol):
        raise error(f"{what} cannot be used: {'; '.join(problems)}", hint=hint)
    return found


@cache
def _points(group: str, path: tuple[str, ...]) -> dict[str, list[metadata.EntryPoint]]:  # noqa: ARG001 - a change of it is a reason to look again
    found: dict[str, list[metadata.EntryPoint]] = {}
    # Metadata that cannot be read is no reason for the built-in ones not to work.
    with suppress(*_ANYTHING):
        for point in sorted(metadata.entry_points(group=group), key=lambda point: point.name):
            if _NAME.fullmatch(point.name):
                found.setdefault(point.name, []).append(point)
    return found


def _problems(found: Any, name: str, protocol: type) -> list[str]:
    """What something lacks of a protocol."""
    problems = []
    members = {key: value for key, value in vars(protocol).items() if inspect.isfunction(value)}
    values = inspect.get_annotations(protocol)
    missing = [key for key in (*values, *members) if key[0] != "_" and not hasattr(found, key)]
    if missing:
        problems.append(f"it lacks {', '.join(missing)}")
    elif name != found.NAME:
        problems.append(f"its NAME is {found.NAME!r}")
    for key, function in members.items():
        if key[0] != "_" and key not in missing and not _takes(getattr(found, key), function):
            wanted = str(inspect.signature(function)).replace("(self, ", "(").replace("(self)", "()")
            problems.append(f"it needs {key}{wanted}")
    return problems


def _takes(found: Any, function: Any) -> bool:
    """Whether something can be called as a function of a protocol is."""
    wanted = list(inspect.signature(function).parameters.values())[1:]
    by_name = {p.name: None for p in wanted if p.kind is inspect.Parameter.KEYWORD_ONLY}
    with suppress(*_ANYTHING):
        inspect.signature(found).bind(*[None] * (len(wanted) - len(by_name)), **by_name)
        return True
    return False


def _words(error: BaseException) -> str:
    text = ""
    with suppress(*_ANYTHING):
        text = " ".join(str(error).split())[:_LONG]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
