"""All that the panel shows, as one frozen value: text in a terminal, JSON for programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmlab import lab, render
from llmlab.library import listing
from llmlab.library.views import ModelList
from llmlab.paneling.conditions import Condition, conditions
from llmlab.results import Result, ServerList
from llmlab.weights.fit import Setting

_SLOTS = 4
_AGAIN = "The panel itself needs a running notebook: %load_ext llmlab, then %llm panel"
_DOES_THE_SAME = (
    ("models --fit", "which models this machine can run"),
    ("start MODEL", "start one"),
    ("ps --usage", "what runs, and what it takes"),
    ("ask NAME PROMPT", "ask it"),
    ("logs NAME", "its log"),
    ("audit NAME", "try to break out of its container"),
    ("compare MODEL", "what a container costs"),
    ("stop NAME", "stop it"),
    ("doctor", "what this machine lacks"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Result):
    """What there was at a moment.

    Attributes:
        when: Seconds since the epoch.
        servers: The servers, with what each took.
        models: The models, with their fit.
        conditions: The container engine, llama.cpp, GPUs.
    """

    when: float
    servers: ServerList
    models: ModelList
    conditions: tuple[Condition, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON data."""
        return {
            "when": self.when,
            "servers": [server.to_dict() for server in self.servers],
            "models": self.models.to_dict(),
            "conditions": [condition.to_dict() for condition in self.conditions],
        }

    def __str__(self) -> str:
        """The same as text, and the verbs that do what the panel's buttons do."""
        width = max(len(line) for line, _ in _DOES_THE_SAME)
        return "\n".join(
            [
                "The panel is for notebooks: `%llm panel` in a cell of JupyterLab. Here is what it would show.",
                "",
                f"Running: {len(self.servers) or 'nothing yet'}",
                *([str(self.servers)] if self.servers else []),
                "",
                *map(str, self.conditions),
                "",
                str(self.models),
                "",
                "These do what its buttons do:",
                *(f"  llmlab {line.ljust(width)}  {said}" for line, said in _DOES_THE_SAME),
            ]
        )

    def to_html(self) -> str:
        """What stays of the panel in a saved notebook."""
        return saved(self.servers, self.conditions, self.when)[1]


class Panel(Result):
    """The control panel; what it shows where it cannot be clicked is looked for when it is asked for."""

    @cached_property
    def snapshot(self) -> Snapshot:
        """What there was when it was first asked for."""
        return snapshot()

    def to_dict(self) -> dict[str, Any]:
        """The snapshot as plain JSON data."""
        return self.snapshot.to_dict()

    def __str__(self) -> str:
        """The snapshot as text."""
        return str(self.snapshot)

    def to_html(self) -> str:
        """The snapshot as a card."""
        return self.snapshot.to_html()

    def __repr__(self) -> str:
        """How it is shown."""
        return "<control panel; in a notebook, %llm panel shows it>"


def saved(servers: ServerList, conditions: Sequence[Condition], when: float) -> tuple[str, str]:
    """What stays of the panel in a saved notebook: what ran, and how to open it again.

    Args:
        servers: Those that ran.
        conditions: How the machine was.
        when: Seconds since the epoch.

    Returns:
        Text and HTML.
    """
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
    text = f"llmlab panel, as of {at}: {len(servers) or 'nothing'} running\n{servers or ''}\n{_AGAIN}"
    table = servers.to_html() if servers else render.html_text("No server was running.")
    chips = render.html_chips([(each.name, each.word, each.seen) for each in conditions])
    below = chips + render.html_small(_AGAIN)
    return text, render.html_card(
        "llmlab panel", table + below, side=render.html_muted(f"as of {at}"), wide=True
    )


def snapshot() -> Snapshot:
    """What there is now: servers with what each takes, models with their fit, the machine's condition.

    Takes about a second: what a server takes is seen between two looks.
    """
    return Snapshot(when=time.time(), servers=lab.ps(usage=True), models=models(), conditions=conditions())


def models() -> ModelList:
    """The models, with their fit; of this machine's rates, only those known already."""
    question = listing.Question(
        setting=Setting(context=1, slots=_SLOTS), default_context=True, limit_mib=None
    )
    return listing.listed(question, "nothing")
