"""The cable of another machine, pulled and plugged in again.

Where the machines are engines of `tools.three_engines`, the environment says how that is
done. Elsewhere it is a person's task, and all that is done here is to say so and to wait.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from dataclasses import dataclass
from typing import Literal

from llmlab import render
from llmlab.backends import nodes
from llmlab.errors import LabError, UsageError
from llmlab.lab import surveying
from llmlab.reporting import reporter
from llmlab.results import Result

VARIABLE = "LLMLAB_CABLES"
"""Names a command that takes `cut NODE` and `mend NODE`."""

_BY_HAND_S = 300.0
_COMMAND_S = 30.0
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cable(Result):
    """A machine's cable.

    Attributes:
        node: The machine.
        state: What is now.
    """

    node: str
    state: Literal["pulled", "plugged in"]

    def __str__(self) -> str:
        """One sentence."""
        return f"the cable of {self.node} is {self.state}"

    def to_html(self) -> str:
        """The same sentence."""
        return render.html_text(str(self))


def pull(node: str) -> Cable:
    """Pull the cable of another machine, or say that this is to be done, and wait for it.

    Args:
        node: The machine, as `nodes` calls it.

    Raises:
        UsageError: There is no such machine, or it is this one.
        LabError: The cable is still in.
    """
    _change(node, "cut", f"Pull the network cable of {node} now, or switch off its wireless network.", "lost")
    return Cable(node=node, state="pulled")


def plug(node: str) -> Cable:
    """Plug the cable of another machine in again, or say that this is to be done, and wait for it.

    Args:
        node: The machine, as `nodes` calls it.

    Raises:
        UsageError: There is no such machine, or it is this one.
        LabError: It does not answer.
    """
    _change(node, "mend", f"Plug the network cable of {node} in again.", "ready")
    return Cable(node=node, state="plugged in")


def _change(name: str, word: str, request: str, wanted: str) -> None:
    node = nodes.find(name)
    if node.current:
        raise UsageError(
            f"{name} is the machine that this notebook talks to first",
            hint="take another one; `%llm nodes` lists them",
        )
    if command := os.environ.get(VARIABLE):
        _run([*shlex.split(command), word, name])
    else:
        _by_hand(node, request, wanted)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COMMAND_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise LabError(
            f"the command that {VARIABLE} names does not work: {error}", hint=f"unset {VARIABLE}"
        ) from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
        raise LabError(
            f"{command[-2]} {command[-1]} does not work: {said}", hint=f"{VARIABLE} names the command"
        )


def _by_hand(node: nodes.Node, request: str, wanted: str) -> None:
    reporter().note(f"{request} This cell waits for it.")
    deadline = time.monotonic() + _BY_HAND_S
    while (state := surveying.look(node).state) != wanted:
        if time.monotonic() > deadline:
            raise LabError(f"after {_BY_HAND_S:g} s, {node.name} is still {state}", hint=request)
        time.sleep(_LOOK_S)
