"""Calls that may hang: done by a thread of their own, which is waited for only so long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")

_HASTE_S = 0.2


class Patient:
    """One thread that does what may hang, and limited patience with it.

    While a job that nobody waits for any more goes on, every question is answered at
    once, with None: there is never more than one thread, nor a queue. The thread is
    started by the first job and has to be ended by `finish`.

    Args:
        name: What the thread is called.
        family: Those whose jobs are likely to hang together, to which this one is added:
            while one of them is stuck, the others are waited for 0.2 s at most.
    """

    def __init__(self, name: str, family: list[Patient] | None = None) -> None:
        self._name = name
        self._family = [] if family is None else family
        self._family.append(self)
        self._turn = threading.Lock()
        self._tasks: SimpleQueue[_Task[Any]] = SimpleQueue()
        self._late: _Task[Any] | None = None
        self._started = self._finished = False

    def ask(self, job: Callable[[], Answer], limit_s: float) -> Answer | None:
        """What came of a job; None if it failed, or if it or an earlier one takes too long.

        Args:
            job: The job.
            limit_s: How long to wait for it, and for others' jobs before it, in seconds each.
        """
        if any(each.is_stuck() for each in self._family if each is not self):
            limit_s = min(limit_s, _HASTE_S)
        if self.is_stuck() or not self._turn.acquire(timeout=limit_s):
            return None
        try:
            if self.is_stuck() or self._finished:
                return None
            task = _Task(job)
            self._give(task)
            if not task.done.wait(limit_s):
                self._late = task
                return None
            return task.answer
        finally:
            self._turn.release()

    def finish(self, job: Callable[[], Any] | None = None) -> None:
        """Have the thread end once it has done what it was given; nothing is waited for.

        Args:
            job: What it does last, if anything.
        """
        with self._turn:
            if not self._finished:
                self._finished = True
                self._give(_Task(job or bool, last=True))

    def is_stuck(self) -> bool:
        """Whether a job that nobody waits for any more still goes on."""
        return self._late is not None and not self._late.done.is_set()

    def _give(self, task: _Task[Any]) -> None:
        """Have a task done. With the turn."""
        self._tasks.put(task)
        if not self._started:
            self._started = True
            # As a daemon: Python ends although a call hangs for ever.
            threading.Thread(target=_work, args=(self._tasks,), name=self._name, daemon=True).start()


@dataclass(eq=False, slots=True)
class _Task(Generic[Answer]):
    """Something for the thread to do.

    Attributes:
        job: What.
        done: Set when it is done.
        answer: What came of it; None after an error.
        last: Whether nothing comes after it.
    """

    job: Callable[[], Answer]
    done: threading.Event = field(default_factory=threading.Event)
    answer: Answer | None = None
    last: bool = False


def _work(tasks: SimpleQueue[_Task[Any]]) -> None:
    """Do one task after the other."""
    last = False
    while not last:
        task = tasks.get()
        last = task.last
        # A reading must never raise: it is unknown then.
        with suppress(Exception):
            task.answer = task.job()
        task.done.set()
