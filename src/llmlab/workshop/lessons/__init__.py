"""The lessons, a module each, named by the number of its notebook."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from llmlab.workshop.tasks import Lesson

NUMBERS = tuple(sorted(path.stem[-2:] for path in Path(__file__).parent.glob("lesson_*.py")))


def load(number: str) -> Lesson:
    """The lesson of one of `NUMBERS`."""
    return cast(Lesson, import_module(f"llmlab.workshop.lessons.lesson_{number}").LESSON)
