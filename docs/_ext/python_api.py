"""The reference of the Python API, by autodoc, of all names that llmlab exports.

`{exports} functions`, `{exports} results` and `{exports} errors` list them, so that a
name that is added to `llmlab.__all__` has its entry at once; `{exports} returned` lists
the classes that verbs return and that are not exported.
"""  # noqa: INP001 - Sphinx finds it by its folder

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_signature

import llmlab
from llmlab import verbs

# In the first line of a property or of what is returned, napoleon takes what stands before a colon for a type.
_COLON = "\N{MODIFIER LETTER COLON}"


def exported(kind: str) -> list[str]:
    """The names of `llmlab.__all__` of a kind: "functions", "results", "errors", "data"."""
    return [name for name in llmlab.__all__ if _kind(getattr(llmlab, name)) == kind]


def _kind(thing: object) -> str:
    if inspect.isclass(thing):
        return "errors" if issubclass(thing, BaseException) else "results"
    return "functions" if callable(thing) else "data"


def returned() -> list[str]:
    """Classes that verbs return and that `llmlab` does not export, with their modules."""
    known = {getattr(llmlab, name) for name in llmlab.__all__}
    found = []
    for verb in verbs.VERBS.values():
        hint = typing.get_type_hints(verb.function)["return"]
        found += [kind for kind in typing.get_args(hint) or (hint,) if kind not in known]
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in dict.fromkeys(found)]


class Exports(SphinxDirective):
    """`{exports} KIND`: an entry for each exported name of that kind."""

    required_arguments = 1
    _DIRECTIVES: ClassVar = {
        "functions": "autofunction:: {}",
        "results": "autoclass:: {}\n   :members:",
        "returned": "autoclass:: {}\n   :members:\n   :exclude-members: of",
        "errors": "autoexception:: {}\n   :members:",
        "data": "autodata:: {}\n   :no-value:",
    }

    def run(self) -> list[nodes.Node]:
        """Make the nodes."""
        kind = self.arguments[0]
        names = returned() if kind == "returned" else [f"llmlab.{name}" for name in exported(kind)]
        entries = [f".. {self._DIRECTIVES[kind].format(name)}\n" for name in names]
        return self.parse_text_to_nodes("```{eval-rst}\n" + "\n".join(entries) + "\n```")


def _plain_signature(
    _app: Sphinx,
    what: str,
    _name: str,
    thing: Any,
    _options: Any,
    signature: str | None,
    returned: str | None,
) -> tuple[str, str | None] | None:
    """A signature without what only the command line wants to know; none of values that verbs make."""
    if what == "class" and dataclasses.is_dataclass(thing):
        return "", None
    if what not in {"function", "method"} or "Annotated" not in (signature or ""):
        return None
    hints = typing.get_type_hints(thing)
    seen = inspect.signature(thing)
    parameters = [
        each.replace(annotation=hints.get(each.name, each.empty)) for each in seen.parameters.values()
    ]
    plain = seen.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    return stringify_signature(plain), returned


def _before_napoleon(
    _app: Sphinx, what: str, _name: str, thing: Any, _options: Any, lines: list[str]
) -> None:
    """Make a docstring that is written for reading as it is what napoleon and docutils expect."""
    if what == "module":
        lines[:] = _with_literal_blocks(lines)
    elif what in {"property", "attribute"}:
        lines[0] = lines[0].replace(":", _COLON)
    elif "Returns:" in lines:
        first = lines.index("Returns:") + 1
        lines[first] = lines[first].replace(":", _COLON)
    elif inspect.isclass(thing):
        types = {
            name: str(hint)
            for each in reversed(thing.__mro__)
            for name, hint in vars(each).get("__annotations__", {}).items()
        }
        lines[:] = _with_types(lines, types)


def _after_napoleon(
    _app: Sphinx, _what: str, _name: str, _thing: Any, _options: Any, lines: list[str]
) -> None:
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def _with_literal_blocks(lines: list[str]) -> list[str]:
    """Indented blocks as they stand."""
    made: list[str] = []
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith(" ") and not before:
            made += ["::", ""]
        made.append(line)
    return made


def _with_types(lines: list[str], types: dict[str, str]) -> list[str]:
    """Each attribute with the type that the class says it has."""
    made = []
    for line in lines:
        entry = re.match(r"    (\w+): ", line)
        known = types.get(entry[1]) if entry else None
        made.append(line.replace(": ", f" (``{known}``): ", 1) if known else line)
    return made


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and what mends signatures and docstrings."""
    app.add_directive("exports", Exports)
    app.connect("autodoc-process-signature", _plain_signature)
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)  # its own is 500
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
