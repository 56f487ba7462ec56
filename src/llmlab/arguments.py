"""How a verb's parameter is typed on a command line, where its type does not say it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg:
    """Metadata of a parameter, given with `typing.Annotated`.

    Attributes:
        metavar: What help calls its value.
        completes: What completion offers for it.
        choices_as_flags: Each of its choices is a flag: `--native`, `--container`.
        positional: It is typed without an option's name although it is
            keyword-only in Python; optional positionals stand before required ones.
        choices: Tells all the values it may have, where its type names only some.
    """

    metavar: str = ""
    completes: Literal["server", "model", "node", "path", ""] = ""
    choices_as_flags: bool = False
    positional: bool = False
    choices: Callable[[], Sequence[str]] | None = None
