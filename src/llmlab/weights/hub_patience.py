"""What may pass if one asks again: how often, and how long to wait in between."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from llmlab.errors import HubError
from llmlab.reporting import reporter

T = TypeVar("T")

WAITS_S = (0.5, 1.0, 2.0, 3.0)
"""Pauses between attempts that brought nothing."""
_LONGEST_WAIT_S = 60.0


class PassingError(Exception):
    """The hub failed in a way that may pass; never leaves the modules of the hub.

    Attributes:
        error: What to raise if it does not pass.
        wait_s: How long the hub asks to wait, in seconds.
    """

    def __init__(self, error: HubError, wait_s: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.wait_s = wait_s


def patiently(ask: Callable[[], T]) -> T:
    """Ask again where a failure may pass.

    Raises:
        HubError: If it does not pass.
    """
    pauses = iter(WAITS_S)
    while True:
        try:
            return ask()
        except PassingError as passing:  # noqa: PERF203 - what it costs is nothing against the pauses
            pause = next(pauses, None)
            if pause is None:
                raise passing.error from None
            pause_after(passing, pause)


def pause_after(passing: PassingError, pause_s: float) -> None:
    """Wait as long as the hub asks for, or for `pause_s`.

    Raises:
        HubError: If it asks for more than a person would wait.
    """
    if passing.wait_s is None:
        time.sleep(pause_s)
        return
    if passing.wait_s > _LONGEST_WAIT_S:
        raise passing.error from None
    reporter().stage("pull", f"the hub asks to wait {passing.wait_s:.0f} s")
    time.sleep(passing.wait_s)


def asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """How long the hub asks to wait, in seconds."""
    limit = re.search(r"\br=0\s*;\s*t=(\d+)", headers.get("RateLimit") or "")
    if limit:
        return float(limit[1])
    text = (headers.get("Retry-After") or "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
