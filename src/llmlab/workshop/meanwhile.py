"""Questions that go on while something is done to a server: how many are answered, how long each takes.

from llmlab.workshop import meanwhile
with meanwhile.asking("trio") as asking:
    ...                     # take a machine away
asking.seen
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from statistics import median
from types import TracebackType
from typing import Any

from llmlab import lab, render
from llmlab.client import Cancel
from llmlab.errors import AskInterrupted, LabError, UsageError
from llmlab.lab import ledger
from llmlab.results import Result

_BUCKET_S = 5.0
_MOST_LEARNERS, _MOST_TOKENS = 16, 4096
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question.

    Attributes:
        at_s: When it was asked, seconds from the beginning.
        took_s: How long it took until its answer was there, or its error.
        failed: The error; "" if it was answered.
    """

    at_s: float
    took_s: float
    failed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Result):
    """What became of the questions.

    Attributes:
        server: Whom they were put to.
        learners: How many asked, each one question at a time.
        questions: Each of them, in the order in which they were asked.
    """

    server: str
    learners: int
    questions: tuple[Question, ...]

    HEADER = ("seconds", "asked", "failed", "longest wait")

    @property
    def failed(self) -> int:
        """How many have failed."""
        return sum(bool(each.failed) for each in self.questions)

    @property
    def longest_s(self) -> float | None:
        """The longest wait; None if nothing was asked."""
        return max((each.took_s for each in self.questions), default=None)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON data, with its sums."""
        sums = {"asked": len(self.questions), "failed": self.failed, "longest_s": self.longest_s}
        return {**asdict(self), **sums}

    def _rows(self) -> list[list[str]]:
        """A row for every five seconds in which something was asked."""
        buckets: dict[int, list[Question]] = {}
        for each in self.questions:
            buckets.setdefault(int(each.at_s // _BUCKET_S), []).append(each)
        return [
            [
                f"{number * _BUCKET_S:.0f} to {(number + 1) * _BUCKET_S:.0f}",
                str(len(asked)),
                str(sum(bool(each.failed) for each in asked)),
                _time(max(each.took_s for each in asked)),
            ]
            for number, asked in sorted(buckets.items())
        ]

    def _summary(self) -> str:
        if not self.questions:
            return f"{self.server}: nothing was asked"
        usual = median(each.took_s for each in self.questions)
        return (
            f"{self.server}: {len(self.questions)} questions of {self.learners} learners, "
            f"{self.failed} failed; half of them took at most {_time(usual)}, the longest {_time(self.longest_s or 0.0)}"
        )

    def _reasons(self) -> list[str]:
        reasons = Counter(each.failed for each in self.questions if each.failed)
        return [f"{count} × {render.plain(reason)}" for reason, count in reasons.most_common()]

    def __str__(self) -> str:
        """The sums, a line for every five seconds, and the errors."""
        return "\n".join([self._summary(), render.text_table(self.HEADER, self._rows()), *self._reasons()])

    def to_html(self) -> str:
        """The same as a card."""
        body = render.html_text(self._summary()) + render.html_table(self.HEADER, self._rows())
        return render.html_card(
            "Questions meanwhile", body + "".join(map(render.html_small, self._reasons()))
        )


@dataclass(eq=False)
class Asking:
    """Learners who ask, each one question after the other, as long as the `with` block lasts.

    Attributes:
        server: Whom they ask.
        learners: How many they are.
        every_s: A learner's time from one question to the next; longer where an answer takes longer.
        tokens: Longest answer.
    """

    server: lab.Server
    learners: int
    every_s: float
    tokens: int
    _questions: list[Question] = field(default_factory=list, repr=False)
    _over: threading.Event = field(default_factory=threading.Event, repr=False)
    _threads: list[threading.Thread] = field(default_factory=list, repr=False)
    _cancels: list[Cancel] = field(default_factory=list, repr=False)
    _began: float = 0.0

    @property
    def seen(self) -> Asked:
        """What has become of the questions so far."""
        asked = sorted(self._questions, key=lambda each: each.at_s)
        return Asked(server=self.server.name, learners=self.learners, questions=tuple(asked))

    def __enter__(self) -> Asking:  # noqa: PYI034 - typing.Self needs Python 3.11
        """Begin to ask."""
        self._began = time.monotonic()
        for number in range(self.learners):
            cancel, name = Cancel(), f"llmlab asks {number}"
            thread = threading.Thread(target=self._ask, args=(number, cancel), name=name, daemon=True)
            self._cancels.append(cancel)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask no more, and wait for what is under way; after an error, end that."""
        self._over.set()
        for cancel in self._cancels if kind else ():
            cancel.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int, cancel: Cancel) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            began, failed = time.monotonic(), ""
            # No two begin alike, so that none is answered from another's prompt cache.
            request = self.server.request(
                f"{number}.{count}: what is a container?",
                max_tokens=self.tokens,
                temperature=0.0,
                timeout_s=_TIMEOUT_S,
            )
            try:
                # What an answer takes beside others says nothing about how well rates are predicted.
                with ledger.paused():
                    self.server.send(request, lambda _: None, cancel)
            except AskInterrupted:
                return
            except LabError as problem:
                failed = problem.message
            took = time.monotonic() - began
            if not cancel.wanted:
                self._questions.append(Question(at_s=began - self._began, took_s=took, failed=failed))
            self._over.wait(max(self.every_s - took, 0.0))


def asking(server: Any, *, learners: int = 2, every_s: float = 0.25, tokens: int = 16) -> Asking:
    """Let some learners ask a server while something else is done, in a `with` block.

    Args:
        server: The server's name, or its handle.
        learners: How many ask, each one question at a time.
        every_s: Time from one question of a learner to the next, seconds.
        tokens: Longest answer.

    Raises:
        UsageError: There is no such server, or a number is out of range.
    """
    for name, value, most in (("learners", learners, _MOST_LEARNERS), ("tokens", tokens, _MOST_TOKENS)):
        if not _is_number(value) or value != int(value) or not 1 <= value <= most:
            raise UsageError(f"{name} is {value!r}", hint=f"a whole number from 1 to {most}")
    if not _is_number(every_s) or not 0 < every_s <= _TIMEOUT_S:
        hint = f"seconds, more than 0 and at most {_TIMEOUT_S:g}: 0.25"
        raise UsageError(f"every_s is {every_s!r}", hint=hint)
    handle = lab.attach(getattr(server, "name", server))
    return Asking(server=handle, learners=int(learners), every_s=float(every_s), tokens=int(tokens))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
