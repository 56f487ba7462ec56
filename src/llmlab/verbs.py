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
import math
import re
import shlex
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NoReturn

from llmlab.arguments import Arg
from llmlab.errors import UnknownNameError, UsageError, suggest

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

_EVERYWHERE = frozenset({"json", "help", "out"})  # options of every verb
_VARIABLE = re.compile(r"\{\{\s*[^\W\d]\w*\s*\}\}")


class HelpShown(Exception):  # noqa: N818 - not an error
    """Help was asked for.

    Attributes:
        text: The help.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a verb, as it is typed.

    Attributes:
        name: Its name in Python.
        flags: `--context`; several for choices that are flags; none if positional.
        help: What the docstring says of it.
        choices: The values it may have, if they are few.
        values: The value of each flag, if the choices are flags.
        type: What a typed value becomes.
        default: Its default; `inspect.Parameter.empty` if it must be given.
        metavar: What help calls its value.
        completes: What completion offers for its value.
    """

    name: str
    flags: tuple[str, ...]
    help: str
    choices: tuple[str, ...]
    values: tuple[Any, ...]
    type: Callable[[str], Any] | None
    default: Any
    metavar: str
    completes: Literal["server", "model", "node", "path", ""]

    @property
    def takes_value(self) -> bool:
        """Whether a value follows the flag."""
        return self.type is not None and not self.values


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
        return _description(self.function).split("\n", 1)[0]

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Its parameters, in the order of the signature."""
        return tuple(_parameters(self.function))

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

    def parser(self, prog: str) -> _Parser:
        """A parser of its command line."""
        parser = _Parser(
            prog=f"{prog} {self.name}",
            description=_description(self.function),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        for parameter in self.positionals:
            optional = parameter.default is not inspect.Parameter.empty
            parser.add_argument(
                parameter.name,
                help=parameter.help,
                type=_reading(parameter.type or str),
                nargs="?" if optional else None,
                default=argparse.SUPPRESS,
                metavar=parameter.metavar or parameter.name.upper(),
            )
        for parameter in self.options:
            _add_option(parser, parameter)
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
        words[marker:] = [_Literal(word) for word in words[marker + 1 :]]
    if any(word in {"--help", "-h"} for word in words if not isinstance(word, _Literal)):
        raise HelpShown(verb.help_text(prog))
    if body is not None:
        if name != "ask":
            raise UsageError(f"{name} takes no cell body", hint=f"write it on one line: %llm {name}")
        words.append(_Literal(body.rstrip("\n")))
    for word, after in itertools.pairwise(words):
        # A literal is nobody's value: `--system` was left without one.
        if isinstance(after, _Literal) and not isinstance(word, _Literal) and verb.awaits_value(word):
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


class _Literal(str):
    """A word that is no option, whatever it begins with: a cell's body, or what follows `--`.

    argparse sees it without its dashes, since its own reading of `--` between
    intermixed words is not dependable; `_reading` gets the text back.
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> _Literal:  # noqa: PYI034 - typing.Self needs Python 3.11
        made = super().__new__(cls, text.lstrip("-") or "…")
        made.text = text
        return made


def _reading(reader: Callable[[str], Any]) -> Callable[[str], Any]:
    """How argparse reads one word."""

    def read(word: str) -> Any:
        value = reader(word.text if isinstance(word, _Literal) else word)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(word)
        return value

    read.__name__ = reader.__name__  # argparse names it in its message
    return read


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours, with the nearest match."""

    def _verb(self) -> str:
        return self.prog.rpartition(" ")[2]

    def error(self, message: str) -> NoReturn:
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


def _add_option(parser: argparse.ArgumentParser, parameter: Parameter) -> None:
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
            type=_reading(parameter.type),
            choices=parameter.choices or None,
            default=argparse.SUPPRESS,
            help=parameter.help,
            metavar=parameter.metavar or None,
        )


def _parameters(function: Callable[..., Any]) -> typing.Iterator[Parameter]:
    hints = typing.get_type_hints(function, include_extras=True)
    helps = _argument_docs(function)
    signature = inspect.signature(function).parameters
    for name, parameter in signature.items():
        # Python 3.10 wraps the hint of a parameter with the default None once more.
        annotation, arg = hints[name], Arg()
        if typing.get_origin(inner := _without_none(annotation)) is typing.Annotated:
            annotation = inner
        if typing.get_origin(annotation) is typing.Annotated:
            annotation, *metadata = typing.get_args(annotation)
            arg = next((item for item in metadata if isinstance(item, Arg)), arg)
        plain = _without_none(annotation)
        choices = (
            tuple(str(value) for value in typing.get_args(plain))
            if typing.get_origin(plain) is Literal
            else ()
        )
        if arg.choices:
            # What other packages bring must not be called as another option is.
            taken = {each.removesuffix("_s").replace("_", "-") for each in signature} | _EVERYWHERE
            choices = tuple(each for each in arg.choices() if each not in taken)
        positional = arg.positional or parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        flag = "--" + name.removesuffix("_s").replace("_", "-")
        if positional:
            flags: tuple[str, ...] = ()
        elif arg.choices_as_flags:
            flags = tuple(f"--{choice}" for choice in choices)
        else:
            flags = (flag,)
        yield Parameter(
            name=name,
            flags=flags,
            # argparse formats help with %.
            help=helps.get(name, "").replace("%", "%%"),
            choices=choices,
            values=choices if arg.choices_as_flags else (),
            type=None if plain is bool else _reader(plain),
            default=parameter.default,
            metavar=arg.metavar,
            completes=arg.completes,
        )


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        rest = [part for part in typing.get_args(annotation) if part is not type(None)]
        # Of several types the first is what is typed: `str | int` is read as str.
        return rest[0]
    return annotation


def _reader(annotation: Any) -> Callable[[str], Any]:
    return annotation if annotation in {int, float} else str


def _description(function: Callable[..., Any]) -> str:
    text = inspect.getdoc(function) or ""
    return re.split(r"\n\n(?:Args|Returns|Raises):\n", text, maxsplit=1)[0]


def _argument_docs(function: Callable[..., Any]) -> dict[str, str]:
    """What a Google-style docstring says of each argument."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?: {4}.*\n?|\n)*)", text, re.MULTILINE)
    if not section:
        return {}
    entries = re.findall(r"^ {4}(\w+): ((?:.*)(?:\n {8}.*)*)", section[1], re.MULTILINE)
    return {name: " ".join(body.split()) for name, body in entries}
