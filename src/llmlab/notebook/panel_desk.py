"""What was clicked in a panel and what became of it; nothing of it is kept beyond the kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from llmlab.errors import UsageError
from llmlab.notebook.panel_jobs import Job
from llmlab.paneling import Form
from llmlab.verbs import VERBS, Call

_RESULTS, _REMARKS = 6, 4
_COMPARE_MINUTES = 3.0
Server = Mapping[str, Any]
# Verb → what it is called with, given the server.
_CALLS: Mapping[str, Callable[[Server], dict[str, Any]]] = {
    "stop": lambda server: {"name": server["name"]},
    "logs": lambda server: {"name": server["name"], "tail": 200},
    "audit": lambda server: {"name": server["name"]},
    "compare": lambda server: {"model": server["reference"], "minutes": _COMPARE_MINUTES},
}
VERBS_OF_SERVERS = frozenset(_CALLS)
"""What a server's card has buttons for, but for the chat."""


class Desk:
    """The jobs of a panel, and its remarks. All methods return at once, and may be called from any thread.

    Args:
        news: Called whenever there is something new to show.
    """

    def __init__(self, news: Callable[[], None]) -> None:
        self._news = news
        self._guard = threading.RLock()
        self._start: Job | None = None
        self._results: list[Job] = []  # newest first
        self._stops: list[Job] = []
        self._stopped: set[tuple[str, float]] = set()  # from here: nobody needs to be told of it
        self._remarks: list[str] = []

    @property
    def measuring(self) -> bool:
        """Whether something is compared, which whoever reads meanwhile would disturb."""
        return any(job.state == "running" and job.call.verb.name == "compare" for job in self._jobs())

    @property
    def over(self) -> frozenset[int]:
        """The numbers of the jobs that are over."""
        return frozenset(job.number for job in self._jobs() if job.state != "running")

    def start(self, form: Form) -> None:
        """Start what was filled in; one at a time."""
        with self._guard:
            if self._start and self._start.state == "running":
                return
            try:
                self._start = Job(form.call(), "", self._news).launch()
            except UsageError as error:
                self.remark(str(error))

    def run(self, verb: str, server: Server) -> None:
        """Do what a server's button says."""
        name = str(server["name"])
        with self._guard:
            jobs = self._stops if verb == "stop" else self._results
            same = [job for job in jobs if (job.call.verb.name, job.server) == (verb, name)]
            if any(job.state == "running" for job in same):
                return
            job = Job(Call(VERBS[verb], _CALLS[verb](server)), name, self._news)
            if verb == "stop":
                self._stopped.add((name, server["created"]))
                self._stops.append(job)
            else:
                # The same asked again takes the place of the one before.
                rest = [other for other in jobs if other not in same]
                self._results = [job, *rest][:_RESULTS]
            job.launch()

    def cancel(self, number: int) -> None:
        """End a job early."""
        for job in self._jobs():
            if job.number == number:
                job.cancel()

    def close(self, number: int) -> None:
        """Show a job no longer; one that goes on is ended."""
        self.cancel(number)
        with self._guard:
            self._results = [job for job in self._results if job.number != number]
            if self._start and self._start.number == number and self._start.state != "running":
                self._start = None

    def gone(self, server: Server) -> None:
        """A server runs no longer: say so, if it was not stopped from here."""
        key = (str(server["name"]), float(server["created"]))
        with self._guard:
            if key in self._stopped:
                self._stopped.discard(key)
            else:
                self.remark(f"{key[0]} was stopped elsewhere: in another cell, panel or terminal.")

    def remark(self, text: str) -> None:
        """Say something, until it is dismissed."""
        with self._guard:
            self._remarks = [text, *(other for other in self._remarks if other != text)][:_REMARKS]
        self._news()

    def dismiss(self, text: str) -> None:
        """Say it no longer."""
        with self._guard:
            self._remarks = [other for other in self._remarks if other != text]

    def shown(self) -> dict[str, Any]:
        """What the page shows: `starting`, `results`, `remarks`, and the names of those that are `stopping`."""
        with self._guard:
            for job in self._stops:
                if job.state == "failed":
                    error = job.view()["error"]
                    self.remark(f"{job.server} was not stopped: {error['message']}. {error['hint']}".strip())
            self._stops = [job for job in self._stops if job.state == "running"]
            return {
                "starting": self._start.view() if self._start else {},
                "results": [job.view() for job in self._results],
                "remarks": list(self._remarks),
                "stopping": [job.server for job in self._stops],
            }

    def _jobs(self) -> list[Job]:
        with self._guard:
            return [*([self._start] if self._start else []), *self._results, *self._stops]
