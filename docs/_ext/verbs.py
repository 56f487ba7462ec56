"""The reference of all verbs, made of their signatures and docstrings.

`{verbs}` lists them, with a section for each: its three doors, and each argument with
its help and its default, as the command line has it. A verb or an argument that
nothing is said of is a warning, and so a failure of `make docs`.
"""  # noqa: INP001 - Sphinx finds it by its folder

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from llmlab import errors, verbs
from llmlab.verbs import Parameter, Verb

_LOGGER = logging.getLogger(__name__)
_UNSET = inspect.Parameter.empty


def undocumented(verb: Verb) -> list[str]:
    """What is missing in a verb's docstring: "its summary", or names of arguments."""
    missing = [] if verb.summary else ["its summary"]
    return missing + [f"the argument {each.name}" for each in verb.parameters if not each.help]


def markdown(verb: Verb) -> str:
    """What stands in one verb's section."""
    parts = [_section(verb, ""), _doors(verb)]
    parts += [_argument(each) for each in (*verb.positionals, *verb.options)]
    parts += [_returned(verb), _raised(verb)]
    return "\n\n".join(part for part in parts if part)


def _doors(verb: Verb) -> str:
    """How it is typed in a notebook, in a terminal and in Python."""
    typed = [_bracketed(each) for each in verb.positionals]
    if verb.options:
        typed.append("[OPTION …]")
    words = " ".join([verb.name, *typed])
    rows = [
        ("Notebook", f"%llm {words}"),
        ("Terminal", f"llmlab {words}"),
        ("Python", f"{{py:func}}`llmlab.{verb.name}({_python_arguments(verb)}) <llmlab.{verb.name}>`"),
    ]
    cells = [f"{title}\n: {text if text.startswith('{') else f'`{text}`'}" for title, text in rows]
    return "::::{container} llmlab-doors\n" + "\n\n".join(cells) + "\n::::"


def _bracketed(parameter: Parameter) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.default is _UNSET else f"[{name}]"


def _python_arguments(verb: Verb) -> str:
    signature = inspect.signature(verb.function).parameters.values()
    names = [
        f"*{each.name}" if each.kind is each.VAR_POSITIONAL else each.name
        for each in signature
        if each.kind is not each.KEYWORD_ONLY
    ]
    return ", ".join([*names, "…"] if len(names) < len(signature) else names)


def _argument(parameter: Parameter) -> str:
    value = f" {parameter.metavar or parameter.name.upper()}" if parameter.takes_value else ""
    if parameter.choices and not parameter.values:
        value = f" {'|'.join(parameter.choices)}"
    typed = [f"`{flag}{value}`" for flag in parameter.flags] or [f"`{_bracketed(parameter)}`"]
    text = parameter.help.replace("%%", "%")  # argparse wants it doubled
    if parameter.default is _UNSET:
        python = f"`{parameter.name}`, must be given"
    else:
        python = f"`{parameter.name}={parameter.default!r}`"
    return f"{' or '.join(typed)}\n: {text}\n  [Python: {python}]{{.llmlab-python}}"


def _returned(verb: Verb) -> str:
    hint = typing.get_type_hints(verb.function)["return"]
    kinds = typing.get_args(hint) or (hint,)
    links = [f"{{py:class}}`~{kind.__module__}.{kind.__qualname__}`" for kind in kinds]
    said = " ".join(_section(verb, "Returns").split())
    return f"**Result**: {' or '.join(links)}{f'. {said}' if said else ''}"


def _raised(verb: Verb) -> str:
    entries = re.findall(r"^(\w+): (.*(?:\n +.*)*)", _section(verb, "Raises"), re.MULTILINE)
    rows = [f"- {_error(name)}: {' '.join(text.split())}" for name, text in entries]
    return "\n".join(["**Errors**\n", *rows]) if rows else ""


def _error(name: str) -> str:
    return f"{{py:exc}}`~llmlab.errors.{name}`" if hasattr(errors, name) else f"`{name}`"


def _section(verb: Verb, name: str) -> str:
    """A section of a Google-style docstring; "" is what stands before the first."""
    text = inspect.getdoc(verb.function) or ""
    before, *rest = re.split(r"\n\n(Args|Returns|Raises):\n", text)
    found = dict(zip(rest[::2], rest[1::2], strict=True)) if name else {"": before}
    return inspect.cleandoc("\n" + found.get(name, ""))


def _overview() -> Iterator[str]:
    yield "| verb | |\n|---|---|"
    for name, verb in verbs.VERBS.items():
        yield f"| [`{name}`](#verb-{name}) | {verb.summary} |"


class Verbs(SphinxDirective):
    """`{verbs}`: an overview and a section for each verb."""

    def run(self) -> list[nodes.Node]:
        """Make the nodes of all verbs."""
        for name, verb in verbs.VERBS.items():
            for missing in undocumented(verb):
                _LOGGER.warning(
                    "verb %s: its docstring lacks %s", name, missing, location=self.get_location()
                )
        overview = self.parse_text_to_nodes("\n".join(_overview()))
        return overview + [self._made(verb) for verb in verbs.VERBS.values()]

    def _made(self, verb: Verb) -> nodes.section:
        """A verb's section; MyST would put those of nested text elsewhere."""
        label = f"verb-{verb.name}"
        section = nodes.section(ids=[label], names=[label])
        section += nodes.title("", verb.name)
        section += self.parse_text_to_nodes(markdown(verb))
        self.state.document.note_explicit_target(section)
        return section


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("verbs", Verbs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
