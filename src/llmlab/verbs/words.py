"""Words as argparse reads them for us, with errors of ours."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from llmlab.errors import UnknownNameError, UsageError, suggest
from llmlab.verbs.signatures import Parameter


class LiteralWord(str):
    """A word that is no option, whatever it begins with: a cell's body, or what follows `--`.

    argparse sees it without its dashes, since its own reading of `--` between
    intermixed words is not dependable; `reading` gets the text back.
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> LiteralWord:  # noqa: PYI034 - typing.Self needs Python 3.11
        """Keep the text, and show argparse none of its dashes."""
        made = super().__new__(cls, text.lstrip("-") or "…")
        made.text = text
        return made


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours, with the nearest match."""

    def _verb(self) -> str:
        return self.prog.rpartition(" ")[2]

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print before it ends the process."""
        unknown = re.match(r"unrecognized arguments: ?(\S*)", message)
        if unknown and unknown[1].startswith("-"):
            flags = [flag for action in self._actions for flag in action.option_strings]
            word = unknown[1].split("=", 1)[0]
            raise UsageError(f"{self._verb()} has no option {word}", hint=suggest(word, flags))
        if unknown:
            raise UsageError(
                f"{self._verb()} has one word too many: {unknown[1]!r}",
                hint='put a text with spaces in "quotes"',
            )
        missing = re.match(r"the following arguments are required: (.*)", message)
        if missing:
            raise UsageError(f"{self._verb()} needs {missing[1]}", hint=f"see {self.prog} --help")
        choice = re.match(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            known = re.findall(r"[\w.-]+", choice[3])
            raise UnknownNameError(choice[1].lstrip("-"), choice[2], known)
        raise UsageError(f"{self._verb()}: {message}", hint=f"see {self.prog} --help")


def add_option(parser: argparse.ArgumentParser, parameter: Parameter) -> None:
    """Let a parser know a parameter that has flags."""
    if parameter.values:
        group = parser.add_mutually_exclusive_group()
        for flag, value in zip(parameter.flags, parameter.values, strict=True):
            group.add_argument(
                flag,
                dest=parameter.name,
                action="store_const",
                const=value,
                default=argparse.SUPPRESS,
                help=parameter.help if flag == parameter.flags[0] else "see above",
            )
    elif parameter.type is None:
        parser.add_argument(
            *parameter.flags,
            dest=parameter.name,
            action="store_true",
            default=argparse.SUPPRESS,
            help=parameter.help,
        )
    else:
        parser.add_argument(
            *parameter.flags,
            dest=parameter.name,
            type=reading(parameter.type),
            choices=parameter.choices or None,
            default=argparse.SUPPRESS,
            help=parameter.help,
            metavar=parameter.metavar or None,
        )


def reading(reader: Callable[[str], Any]) -> Callable[[str], Any]:
    """How argparse reads one word."""

    def read(word: str) -> Any:
        value = reader(word.text if isinstance(word, LiteralWord) else word)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(word)
        return value

    read.__name__ = reader.__name__  # argparse names it in its message
    return read
