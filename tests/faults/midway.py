"""Answers in whose middle something happens, and Ctrl-C at a moment of the test's choice."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import llmlab
from llmlab.client import ChatRequest
from llmlab.reporting import Reporter
from llmlab.results import Answer


def long_request(server: llmlab.Server, *, timeout_s: float = 60.0) -> ChatRequest:
    """One whose answer fills the context, and is larger than all that is kept on its way."""
    asked = server.request("Tell me everything about containers", max_tokens=2000, timeout_s=timeout_s)
    return replace(asked, ignore_eos=True, alternatives=20)


def asked_when(server: llmlab.Server, event: Callable[[], object], *, timeout_s: float = 60.0) -> Answer:
    """The answer to a long question, in whose middle something happens.

    While it does nothing is read, so that the server cannot be at the end of its answer by then.
    """
    pieces: list[str] = []

    def shown(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 1:
            event()

    return server.send(long_request(server, timeout_s=timeout_s), shown)


def ctrl_c() -> None:
    """What the terminal or the notebook sends; to the main thread, which is the one that hears it."""
    main = threading.main_thread().ident
    assert main
    signal.pthread_kill(main, signal.SIGINT)


@contextmanager
def ctrl_c_after(seconds: float) -> Iterator[None]:
    """Ctrl-C once so much time has passed, if the block has not ended by then."""
    timer = threading.Timer(seconds, ctrl_c)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


class Interrupting(Reporter):
    """Ctrl-C when something is told.

    Args:
        stage: At this stage.
        called: When this method is called, "" for none.
        on_stage: Called in place of Ctrl-C.
    """

    def __init__(self, stage: str = "", *, called: str = "", on_stage: Callable[[], object] = ctrl_c) -> None:
        self._stage, self._called, self._on_stage = stage, called, on_stage
        self.told: list[str] = []

    def stage(self, stage: str, detail: str = "") -> None:
        self.told.append(stage)
        if stage == self._stage:
            self._on_stage()

    def asked(self, prompt: str, server: str) -> None:
        if self._called == "asked":
            self._on_stage()
