"""Answers of a lesson, put into the cells of its notebook."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias, get_args

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from llmlab import workshop

Variant: TypeAlias = Literal["as committed", "answered", "answered wrongly"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

_LESSON = re.compile(r"""workshop\.lesson\(\s*["'](\d\d)["']""")


def asked(source: str) -> set[str]:
    """Ids of the tasks for which a cell holds `...` in place of an answer.

    Args:
        source: A code cell, magics included.
    """
    tree = ast.parse(TransformerManager().transform_cell(source))
    return {_task(call) for call in _calls(tree) if any(map(_is_open, _values(call)))}


def checked(source: str) -> set[str]:
    """Ids of the tasks that a cell judges.

    Args:
        source: A code cell, magics included.
    """
    tree = ast.parse(TransformerManager().transform_cell(source))
    return {
        _task(call)
        for call in _calls(tree)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "check"
    }


def filled(source: str, answers: Mapping[str, str]) -> str:
    """A cell with the answers in place of its `...`; the rest stays as it is written.

    Args:
        source: A code cell, magics included.
        answers: Id of a task → Python expression.

    Raises:
        ValueError: An answer could not be put in: the `...` does not follow the task's id.
    """
    for task, answer in answers.items():
        place = re.compile(rf"""((["']){re.escape(task)}\2\s*,\s*)\.\.\.""")
        source = place.sub(lambda found, put=answer: found[1] + put, source)  # type: ignore[misc]
    if left := asked(source) & answers.keys():
        raise ValueError(f"no answer could be put in for {', '.join(sorted(left))} in:\n{source}")
    return source


def lesson_of(notebook: nbformat.NotebookNode) -> str | None:
    """The number of the lesson that a notebook sits down to; None if it is none."""
    found = (_LESSON.search(cell.source) for cell in notebook.cells if cell.cell_type == "code")
    return next((match[1] for match in found if match), None)


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("predict", "check")
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            yield node


def _task(call: ast.Call) -> str:
    return str(ast.literal_eval(call.args[0]))


def _values(call: ast.Call) -> list[ast.expr]:
    return [*call.args[1:], *(keyword.value for keyword in call.keywords)]


def _is_open(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is ...


def answers_of(number: str, variant: Variant) -> dict[str, str]:
    """What stands in place of `...` in a lesson: id of a task → Python expression."""
    if variant == "as committed":
        return {}
    wrong = workshop.wrong_answers(number) if variant == "answered wrongly" else {}
    return {**workshop.answers(number), **wrong}
