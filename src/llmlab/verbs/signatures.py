"""What can be typed for a function: read from its signature, its type hints and its docstring."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from llmlab.arguments import Arg

_EVERYWHERE = frozenset({"json", "help", "out"})  # options of every verb


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


def parameters_of(function: Callable[..., Any]) -> typing.Iterator[Parameter]:
    """Its parameters, in the order of the signature."""
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


def description_of(function: Callable[..., Any]) -> str:
    """Its docstring as far as the arguments."""
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
