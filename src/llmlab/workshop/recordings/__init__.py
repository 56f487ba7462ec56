"""Results that were seen on another machine, for where they cannot be had here.

Each is a JSON file beside this module: what the result looked like, its data,
and where it was made. `tools/record_lessons.py` makes them. They always say
that they are recordings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab import render
from llmlab.errors import UnknownNameError
from llmlab.results import Result

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording(Result):
    """A result of another machine.

    Attributes:
        name: Its name.
        command: What was run there.
        made: The day it was made, as an ISO date.
        machine: The machine it was made on, in words.
        text: What it looked like as text.
        html: The same as HTML.
        data: The result's own data, as `--json` prints it.
    """

    name: str
    command: str
    made: str
    machine: str
    text: str
    html: str
    data: dict[str, Any]

    @property
    def _label(self) -> str:
        return f"recorded {self.made} on {self.machine}; not this machine"

    def __getitem__(self, key: str) -> Any:
        """A part of its data."""
        return self.data[key]

    def __str__(self) -> str:
        """What it looked like, under a line that says what it is."""
        return f"RECORDING: {self.command} ({self._label})\n{self.text}"

    def to_html(self) -> str:
        """The same as HTML."""
        tag = render.html_tag("recording", "made on another machine")
        head = render.html_small(f"{self.command} · {self._label}")
        return f'<div style="border-left:3px dashed var(--jp-warn-color1, #b26a00);padding-left:10px">{tag}{head}{self.html}</div>'


def names() -> list[str]:
    """The recordings there are."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load(name: str) -> Recording:
    """One of them.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if name not in names():
        raise UnknownNameError("recording", name, names())
    return Recording(**json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8")))
