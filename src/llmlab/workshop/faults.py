"""Servers that are broken on purpose, for lesson 06: real servers, really broken.

    from llmlab.workshop import faults
    faults.seed(1)            # fault-1, fault-2 and fault-3 are there; what ails them is not said
    faults.clear()            # they are gone again, with all that was made for them

Only servers that were started here for this are broken, and one whose name is
given to `kill`. The same number breaks the same things in the same order, as
far as this machine can have them. What a server was given for its trouble lies
in its own directory: `llmlab stop` removes it along with the server.
"""

from __future__ import annotations

import json
import random
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from llmlab import backends, render, weights
from llmlab.errors import MALFORMED, LabError, NameTakenError, UsageError
from llmlab.lab import by_hand, ledger, registry
from llmlab.reporting import Reporter, reporting_to
from llmlab.results import Result, Stopped
from llmlab.specs import BackendName
from llmlab.weights import shapes, synthetic
from llmlab.workshop import breaking, keeping

NAMES = ("fault-1", "fault-2", "fault-3")

MEMORY, KILLED, PAUSED = breaking.MEMORY, breaking.KILLED, breaking.PAUSED
TOLD, CUT = breaking.TOLD, breaking.CUT
DISK, IMAGE = "disk full", "image missing"
CHOICES = (MEMORY, KILLED, PAUSED, TOLD, CUT, DISK, IMAGE)
"""What a diagnosis can be. The last two keep a server from starting: no running one has them."""

# Not *.json: those beside it are lessons.
_FILE = ".faults"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded(Result):
    """Broken servers that are there now.

    Attributes:
        names: Their names.
        backend: Where they run.
    """

    names: tuple[str, ...]
    backend: str

    def __str__(self) -> str:
        """Which there are, and not what ails them."""
        where = "in containers" if self.backend == "container" else "natively"
        return f"{', '.join(self.names)}: started {where}, answered, and then something went wrong with each"

    def to_html(self) -> str:
        """The same sentence."""
        return render.html_text(str(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed(Result):
    """A server's process that was killed.

    Attributes:
        name: The server.
        pid: Its process; None if that is not seen from here.
    """

    name: str
    pid: int | None

    def __str__(self) -> str:
        """One sentence."""
        which = f"process {self.pid}" if self.pid else "the first process of its container"
        return f"sent SIGKILL to {which}, which is the server {self.name}"

    def to_html(self) -> str:
        """The same sentence."""
        return render.html_text(str(self))


def seed(number: int = 1, *, backend: BackendName | None = None) -> Seeded:
    """Start three servers and break each in a way of its own.

    Those of an earlier call are stopped first. If not all can be broken, none is left.

    Args:
        number: Chooses what breaks, and in which order.
        backend: Where they run. Unset: in containers if an engine answers, else natively.

    Raises:
        UsageError: The number is none.
        NameTakenError: A server that was not made here has one of their names.
        LabError: They cannot be started, or not be broken, on this machine.
    """
    if isinstance(number, bool) or not isinstance(number, int):
        raise UsageError(f"{number!r} is no number of a case", hint="such as faults.seed(1)")
    clear()
    if taken := [record.name for record in registry.find_all() if record.name in NAMES]:
        raise NameTakenError(
            f"a server named {taken[0]!r} runs already, and it is not one of this lesson's",
            hint=f"stop it first: llmlab stop {taken[0]}",
        )
    place: BackendName = backend or ("native" if backends.backend("container").unavailable() else "container")
    ways = breaking.ways(place, random.Random(number))  # noqa: S311 - the same for everybody is what is wanted
    planted: dict[str, dict[str, object]] = {}
    try:
        with reporting_to(Reporter()), ledger.paused():
            for word, plant in ways:
                if len(planted) == len(NAMES):
                    break
                name = NAMES[len(planted)]
                if record := breaking.planted(name, place, plant):
                    planted[name] = {"kind": word, "created": record.created}
                    _keep(planted)
    except BaseException:
        _keep(planted)
        clear()
        raise
    if len(planted) < len(NAMES):
        clear()
        raise LabError(
            "servers cannot be broken here as the lesson wants it",
            hint="try it natively: faults.seed(1, backend='native')",
        )
    return Seeded(names=NAMES, backend=place)


def kill(name: str) -> Killed:
    """Kill a server's process as `kill -9` does, behind llmlab's back.

    Args:
        name: The server, or its handle.

    Raises:
        UsageError: There is none of that name, or it has ended.
    """
    record = registry.select(getattr(name, "name", name))
    registry.require_here(record, "killing it")
    found = backends.backend(record.backend).look(record)
    if not found.running:
        raise UsageError(
            f"{record.name} does not run: {found.detail}",
            hint=f"start it again: llmlab start tiny --name {record.name}",
        )
    breaking.kill(record)
    breaking.await_change(record)
    return Killed(name=record.name, pid=record.process.pid if record.process else None)


def truth(name: str) -> str:
    """What was done to a server, one of `CHOICES`.

    Raises:
        UsageError: Nothing was done to one of that name.
    """
    kept = _kept()
    if name not in kept:
        raise UsageError(
            f"nothing was done to a server named {name!r}", hint="run the cell with faults.seed(…) first"
        )
    return str(kept[name]["kind"])


def clear() -> Stopped:
    """Stop the servers that `seed` has broken, and remove all that was made for the lesson."""
    kept = _kept()
    stopped = []
    for record in registry.find_all():
        # One that was started since then under the same name is the learner's own.
        if record.name in kept and record.created == kept[record.name]["created"]:
            registry.stop(record, grace_s=1.0)
            stopped.append(record.name)
    (keeping.folder() / _FILE).unlink(missing_ok=True)
    if (huge := _shelf() / "huge.gguf").is_file():
        made = synthetic.locate(str(huge))
        (made.parent / f".{made.name}.lock").unlink(missing_ok=True)
    shutil.rmtree(_shelf(), ignore_errors=True)
    with suppress(OSError):
        _shelf().parent.rmdir()
    return Stopped(names=tuple(sorted(stopped)))


def huge_model() -> str:
    """A model larger than any disk: its reference. Only a file's head is made, of some kilobytes."""
    shape = replace(shapes.shape("smollm2-135m"), name="huge", n_ff=10**11, n_vocab=2048, n_merges=0)
    path = _shelf() / "huge.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(synthetic.plan_shape(shape, "Q4_0").head)
    return f"{synthetic.SCHEME}{path}"


def half_a_model() -> str:
    """The path of a copy of the built-in model that ends in the middle, as on a disk that became full."""
    path = _shelf() / "half.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = weights.resolve("tiny").path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return str(path)


def _shelf() -> Path:
    """Where files lie that belong to no server."""
    return by_hand.claim("lesson-06").path


def _kept() -> dict[str, dict[str, object]]:
    try:
        found = json.loads((keeping.folder() / _FILE).read_text(encoding="utf-8"))
        return {name: dict(one) for name, one in found.items() if name in NAMES and "kind" in one}
    except (OSError, *MALFORMED):
        return {}


def _keep(planted: dict[str, dict[str, object]]) -> None:
    (keeping.made_folder() / _FILE).write_text(json.dumps(planted), encoding="utf-8")
