"""What Ctrl-C must not leave half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def uninterrupted(function: Callable[[], T], undo: Callable[[T], object]) -> T:
    """Run a function to its end even if Ctrl-C comes meanwhile, which then takes it back.

    For what must not be left half done, since nobody would know what to clean
    up: a request to create a container is under way, a process is just being
    made. Only the main thread ever gets Ctrl-C.

    Args:
        function: What to do.
        undo: Takes back what it did, given its result.

    Raises:
        KeyboardInterrupt: If Ctrl-C came; what was done is taken back.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    came: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        made = function()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if previous is None else previous)
    if came:
        undo(made)
        raise KeyboardInterrupt
    return made


@contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
    """Take back what was begun if the `with` block fails, also by Ctrl-C, which many press twice.

    Args:
        undo: Takes it back.
    """
    done = False

    def once() -> None:
        nonlocal done
        if not done:
            undo()
            done = True

    try:
        try:
            yield
        except BaseException:
            uninterrupted(once, lambda _: None)
            raise
    except BaseException:
        # The second Ctrl-C may come before the first one has got to `uninterrupted`.
        uninterrupted(once, lambda _: None)
        raise
