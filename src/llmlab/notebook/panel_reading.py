"""What a panel reads again and again: the registry, and what each server takes."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Any

from llmlab import machine, paneling, render
from llmlab.errors import LabError
from llmlab.library.views import ModelRow
from llmlab.monitoring import Watch
from llmlab.paneling import Condition, Running

KEYS = ("cpu", "memory", "generated")
"""What is drawn of each server: CPUs, MiB, tokens per second."""
_HZ = 1.0
_KEPT = 60  # looks: a minute
_Figures = tuple[float | None, ...]


class Reading:
    """What was read last, and what has changed since; nothing of it is anybody's but the registry's.

    Attributes:
        servers: The servers that run, as JSON data.
        known: Models and conditions, as JSON data; {} until they were looked at.
        conditions: The condition of this machine.
        trouble: Why the servers cannot be listed; "" if they can.
    """

    def __init__(self) -> None:
        self.servers: list[dict[str, Any]] = []
        self.known: dict[str, Any] = {}
        self.trouble = ""
        self._first = True
        self._watch: Watch | None = None
        self._seen = 0
        self._kept: dict[str, deque[tuple[float, _Figures]]] = {}
        self.conditions: tuple[Condition, ...] = ()
        self._guard = threading.Lock()

    def read_servers(self) -> tuple[list[dict[str, Any]], bool]:
        """List the servers anew.

        Returns:
            Those that were there the last time and are gone, and whether any came or went.
        """
        try:
            found = [_shown(server) for server in paneling.running()]
        except LabError as error:
            self.trouble = f"{error.message}. {error.hint}".strip()
            return [], False
        self.trouble = ""
        before, now = ({_identity(each) for each in some} for some in (self.servers, found))
        gone = [each for each in self.servers if _identity(each) not in now]
        changed = before != now and not self._first
        self.servers, self._first = found, False
        return gone, changed

    def read_models(self) -> None:
        """List the models anew: what fits depends on what runs."""
        self._read_known(conditions=False)

    def read_machine(self) -> None:
        """Look at all that this machine has: models, container engine, GPUs."""
        self._read_known(conditions=True)

    def _read_known(self, *, conditions: bool) -> None:
        with self._guard:  # one after the other, the last one counts
            if conditions or not self.conditions:
                self.conditions = paneling.conditions()
            here = machine.look()
            self.known = {
                "models": [_listed(row) for row in paneling.models()],
                "conditions": [each.to_dict() for each in self.conditions],
                "gpus": [gpu.name for gpu in machine.gpus() or ()],
                "cpus": here.cpus,
                "total": render.mib_text(here.total_mib),
            }

    def figures(self) -> dict[str, Any] | None:
        """The message on what each server takes now; None if nothing new was seen."""
        watch = self._open()
        if watch is None:
            return None
        known = {(subject, metric.key) for subject, metric in watch.known()}
        names = [str(each["name"]) for each in self.servers]
        keys = [(name, key) for name in names for key in KEYS if (name, key) in known]
        count, times, columns = watch.looks(keys, max(self._seen, 0))
        if not times or count == self._seen:
            return None
        self._seen = count
        newest = {
            key: None if math.isnan(column[-1]) else round(column[-1], 3)
            for key, column in zip(keys, columns, strict=True)
        }
        now = round(time.time(), 1)
        rows = {name: tuple(newest.get((name, key)) for key in KEYS) for name in names}
        for name in [*self._kept]:
            if name not in rows:
                del self._kept[name]
        for name, row in rows.items():
            self._kept.setdefault(name, deque(maxlen=_KEPT)).append((now, row))
        return {
            "t": "figures",
            "at": now,
            "free": render.mib_text(machine.look().available_mib),
            "rows": rows,
        }

    def history(self) -> dict[str, Any]:
        """The message on the last minute, for a page that has just come."""
        rows = {name: [[at, *row] for at, row in kept] for name, kept in list(self._kept.items())}
        return {"t": "history", "at": round(time.time(), 1), "rows": rows}

    def close(self) -> None:
        """Look no more."""
        watch, self._watch, self._seen = self._watch, None, 0
        if watch is not None:
            watch.stop()
        self._kept.clear()

    def _open(self) -> Watch | None:
        """The process's own sampler, which others who look share."""
        if not self.servers:
            self.close()
        elif self._watch is None or not self._watch.running:
            try:
                self._watch, self._seen = Watch(None, hz=_HZ, kept_s=_KEPT), 0
            except LabError:
                return None  # a container engine that does not answer now is asked again
        return self._watch


def _identity(server: dict[str, Any]) -> tuple[str, float]:
    """A name may be given again."""
    return server["name"], server["created"]


def _shown(server: Running) -> dict[str, Any]:
    limit = render.mib_text(server.memory_mib) if server.memory_mib else ""
    return {**server.to_dict(), "memory_text": limit}


def _listed(row: ModelRow) -> dict[str, Any]:
    """A model as the list shows it."""
    fit = row.fit
    rate = fit.decode_tokens_per_s if fit else None
    return {
        "name": row.name,
        "reference": row.reference,
        "state": row.state,
        "size": render.bytes_text(row.file_bytes),
        "parameters": render.parameters_text(row.parameters),
        "context": row.context_train,
        "good_for": row.good_for,
        "synthetic": row.synthetic,
        "fits": fit.fits if fit else "unknown",
        "needs": render.mib_text(fit.required_mib) if fit else "",
        "advice": fit.advice if fit else "",
        "rate": f"{rate:.0f} tokens/s" if rate else "",
    }
