"""What the control panel knows and does, without a notebook: what is here, what runs, a start filled in.

The package is not called as its verb is: `llmlab.panel` would be the package
as soon as it is imported.
"""

from __future__ import annotations

from llmlab.paneling.conditions import Condition, conditions
from llmlab.paneling.form import Checked, Form, told
from llmlab.paneling.running import Running, running
from llmlab.paneling.snapshot import Panel, Snapshot, models, saved, snapshot

__all__ = [
    "Checked",
    "Condition",
    "Form",
    "Panel",
    "Running",
    "Snapshot",
    "conditions",
    "models",
    "panel",
    "running",
    "saved",
    "snapshot",
    "told",
]


def panel() -> Panel:
    """Show the control panel: models, a form to start them, what runs, all to be clicked.

    In a notebook it can be used with the mouse, and shows what changes. It owns
    nothing: closing it stops nothing, and a second panel or a terminal shows the same.
    In a terminal it is a text, which names the verbs that do the same.

    Returns:
        The panel; its `snapshot` is what there is when that is first asked for.
    """
    return Panel()
