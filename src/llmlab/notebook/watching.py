"""Showing what is being watched: live where there are widgets, else painted again and again."""

from __future__ import annotations

import threading
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.display import display

from llmlab import render

if TYPE_CHECKING:
    from llmlab.monitoring import Monitoring, Watch

_LOOK_S = 1.0


def show_live(seen: Watch | Monitoring) -> bool:
    """Show a watch that goes on, or a recording, in the present cell.

    Args:
        seen: What to show.

    Returns:
        False for what is over: it is a picture like every result.
    """
    if not getattr(seen, "running", getattr(seen, "replayed", None)):
        return False
    try:
        from llmlab.notebook import live  # noqa: PLC0415 - anywidget is only there with the extra "lab"
    except ImportError:
        return _paint(seen)
    live.show(seen)
    return True


def _paint(watch: Watch | Monitoring) -> bool:
    """Without widgets: the picture of what was seen until now, each second anew."""
    from llmlab.monitoring import Watch  # noqa: PLC0415 - not with %load_ext

    if not isinstance(watch, Watch):
        return False

    def picture() -> dict[str, str]:
        return render.bundle(str(watch), watch.to_html())

    handle: Any = display(picture(), raw=True, display_id=True)
    over = threading.Event()

    def run() -> None:
        while not over.wait(_LOOK_S):
            handle.update(picture(), raw=True)

    def finish() -> None:
        over.set()
        handle.update(picture(), raw=True)

    if handle is not None:
        threading.Thread(target=partial(copy_context().run, run), name="llmlab view", daemon=True).start()
        watch.when_over(finish)
    return True
