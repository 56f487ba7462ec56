"""One verb, three doors: a command line is derived from a function's signature.

`%llm`, `llmlab` and the Python API are the same functions. Parser, help,
completion and the equivalent Python line come from their type hints and
Google-style docstrings; `arguments.Arg` says what those leave open.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmlab.errors import UnknownNameError, UsageError
from llmlab.verbs.signatures import Parameter, description_of, parameters_of
from llmlab.verbs.words import LiteralWord, Parser, add_option, reading

__all__ = ["VERBS", "Call", "HelpShown", "Parameter", "Verb", "overview", "parse"]

_MODULES = {
    "start": "llmlab.lab",
    "stop": "llmlab.lab",
    "ps": "llmlab.lab",
    "inspect": "llmlab.lab",
    "audit": "llmlab.auditing",
    "monitor": "llmlab.monitoring",
    "compare": "llmlab.comparing",
    "predict": "llmlab.comparing.predicting",
    "logs": "llmlab.lab",
    "nodes": "llmlab.lab.nodes",
    "ask": "llmlab.lab",
    "chat": "llmlab.chatting",
    "models": "llmlab.library",
    "pull": "llmlab.library",
    "rm": "llmlab.library",
    "verify": "llmlab.library",
    "build": "llmlab.builds",
    "doctor": "llmlab.checkup",
    "kit": "llmlab.kits",
    "cluster": "llmlab.clusters",
    "classroom": "llmlab.classrooms",
    "join": "llmlab.classrooms.joining",
    "export": "llmlab.exporting",
    "preflight": "llmlab.workshop.preflighting",
    "panel": "llmlab.paneling",
    "reset": "llmlab.workshop.resetting",
    "progress": "llmlab.workshop.progressing",
}

_VARIABLE = re.compile(r"\{\{\s*[^\W\d]\w*\s*\}\}")


class HelpShown(Exception):  # noqa: N818 - not an error
    """Help was asked for.

    Attributes:
        text: The help.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(frozen=True)
class Verb:
    """A verb: a function and how it is typed.

    Attributes:
        name: The verb.
    """

    name: str

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The function; imported when it is first asked for."""
        found: Callable[..., Any] = getattr(importlib.import_module(_MODULES[self.name]), self.name)
        return found

    @cached_property
    def summary(self) -> str:
        """The first line of its docstring."""
        return description_of(self.function).split("\n", 1)[0]

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Its parameters, in the order of the signature."""
        return tuple(parameters_of(self.function))

    @property
    def positionals(self) -> tuple[Parameter, ...]:
        """What is typed without a flag; optional ones that the docstring order puts last come first."""
        found = [p for p in self.parameters if not p.flags]
        return tuple(sorted(found, key=lambda p: p.default is inspect.Parameter.empty))

    @property
    def options(self) -> tuple[Parameter, ...]:
        """What is typed with a flag."""
        return tuple(p for p in self.parameters if p.flags)

    def awaits_value(self, word: str) -> bool:
        """Whether a word is a flag whose value is to follow."""
        return any(word in p.flags for p in self.options if p.takes_value)

    def help_text(self, prog: str) -> str:
        """What `--help` prints."""
        return self.parser(prog).format_help()

    def parser(self, prog: str) -> Parser:
        """A parser of its command line."""
        parser = Parser(
            prog=f"{prog} {self.name}",
            description=description_of(self.function),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        for parameter in self.positionals:
            optional = parameter.default is not inspect.Parameter.empty
            parser.add_argument(
                parameter.name,
                help=parameter.help,
                type=reading(parameter.type or str),
                nargs="?" if optional else None,
                default=argparse.SUPPRESS,
                metavar=parameter.metavar or parameter.name.upper(),
            )
        for parameter in self.options:
            add_option(parser, parameter)
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.add_argument("--help", "-h", action="store_true", help="show this help")
        return parser


VERBS: Mapping[str, Verb] = {name: Verb(name) for name in _MODULES}


@dataclass(frozen=True)
class Call:
    """A verb with its arguments.

    Attributes:
        verb: The verb.
        arguments: Those that were typed, name → value.
        json: Whether the result is wanted as JSON.
    """

    verb: Verb
    arguments: Mapping[str, Any]
    json: bool = False

    def run(self) -> Any:
        """Call the function."""
        return self.verb.function(**self.arguments)

    def python(self) -> str:
        """The Python line that does the same."""
        signature = inspect.signature(self.verb.function)
        parts = []
        for name, value in self.arguments.items():
            keyword = signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
            parts.append(f"{name}={value!r}" if keyword else repr(value))
        # Positional arguments come first in Python, whatever was typed first.
        parts.sort(key=lambda part: bool(re.match(r"\w+=", part)))
        return f"llmlab.{self.verb.name}({', '.join(parts)})"

    def magic(self) -> str:
        """The line of a notebook's cell that does the same; texts must be of one line."""
        # In a cell {{name}} is a variable's value; with a backslash before it, it is itself.
        return "%llm " + shlex.join(_VARIABLE.sub(r"\\\g<0>", word) for word in self.words())

    def words(self) -> list[str]:
        """The words that are typed for it, the verb first; `parse` makes the same call of them."""
        options: list[str] = []
        for parameter in self.verb.options:
            value = self.arguments.get(parameter.name)
            if value is None or value is False:
                continue
            if parameter.values:
                options.append(parameter.flags[parameter.values.index(value)])
            elif parameter.type is None:
                options.append(parameter.flags[0])
            else:
                text = str(value)
                # What begins with a dash, or is empty, must not be taken for something else.
                joined = text.startswith("-") or not text
                options += [f"{parameter.flags[0]}={text}"] if joined else [parameter.flags[0], text]
        given = (self.arguments.get(parameter.name) for parameter in self.verb.positionals)
        texts = [str(value) for value in given if value is not None]
        if any(text.startswith("-") for text in texts):
            return [self.verb.name, *options, "--", *texts]
        return [self.verb.name, *texts, *options]


def parse(argv: Sequence[str], *, prog: str = "llmlab", body: str | None = None) -> Call:
    """Read a command line.

    Args:
        argv: The words, the verb first.
        prog: The command's name for messages.
        body: A cell's body: it becomes the prompt of `ask`.

    Raises:
        UsageError: If it does not fit; one line, with the nearest match.
        HelpShown: If help was asked for.
    """
    words = list(argv)
    if not words or words[0] in {"--help", "-h", "help"}:
        raise HelpShown(overview(prog))
    name = words.pop(0)
    if name not in VERBS:
        raise UnknownNameError("verb", name, VERBS)
    verb = VERBS[name]
    if "--" in words:
        marker = words.index("--")
        words[marker:] = [LiteralWord(word) for word in words[marker + 1 :]]
    if any(word in {"--help", "-h"} for word in words if not isinstance(word, LiteralWord)):
        raise HelpShown(verb.help_text(prog))
    if body is not None:
        if name != "ask":
            raise UsageError(f"{name} takes no cell body", hint=f"write it on one line: %llm {name}")
        words.append(LiteralWord(body.rstrip("\n")))
    for word, after in itertools.pairwise(words):
        # A literal is nobody's value: `--system` was left without one.
        if isinstance(after, LiteralWord) and not isinstance(word, LiteralWord) and verb.awaits_value(word):
            raise UsageError(f"{name}: {word} needs a value", hint=f"see {prog} {name} --help")
    found = vars(verb.parser(prog).parse_intermixed_args(words))
    json = found.pop("json")
    found.pop("help")
    order = [p.name for p in verb.parameters]
    return Call(verb, dict(sorted(found.items(), key=lambda item: order.index(item[0]))), json)


def overview(prog: str) -> str:
    """What the command prints without a verb."""
    width = max(map(len, VERBS))
    lines = [f"usage: {prog} VERB …", "", "Language models in containers, inside a notebook.", ""]
    lines += [f"  {name.ljust(width)}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join([*lines, "", f"Each explains itself: {prog} VERB --help"])
