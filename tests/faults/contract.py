"""What llmlab promises about a fault; each promise is a test, and the page of promises is made from them.

    @promise(
        part="Servers",
        fault="A native server is killed (SIGKILL)",
        sees="`ask` ends with an error that names the signal; `ps` shows the server as exited",
        keeps="The log and the other servers",
        cleans="Its process, its socket and, with `stop`, its directory",
        within_s=10,
    )
    def test_a_server_that_is_killed_is_told_and_cleaned(bound): ...

`python -m tools.reliability` writes `docs/reliability.md` from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., Any])

# The sections of the page, in its order.
PARTS = (
    "Servers",
    "Notebooks and kernels",
    "Requests and answers",
    "The container engine",
    "Disk and files",
    "Machine",
)


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What happens when something breaks.

    Attributes:
        part: The section of the page that it stands in, one of `PARTS`.
        fault: What breaks.
        sees: What the user is shown.
        keeps: What is still there afterwards.
        cleans: What is removed, and by what.
        within_s: In what time; far above what it takes on a busy machine.
    """

    part: str
    fault: str
    sees: str
    keeps: str
    cleans: str
    within_s: float

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"{self.part!r} is not a part of the page: {', '.join(PARTS)}")


def promise(
    *, part: str, fault: str, sees: str, keeps: str, cleans: str, within_s: float
) -> Callable[[Test], Test]:
    """Mark a test as the proof of a promise; its fixture `bound` is `within_s`."""
    made = Promise(part=part, fault=fault, sees=sees, keeps=keeps, cleans=cleans, within_s=within_s)
    return pytest.mark.promise(made)


def promise_of(item: pytest.Item) -> Promise | None:
    """The promise that a test proves."""
    mark = item.get_closest_marker("promise")
    return mark.args[0] if mark else None
