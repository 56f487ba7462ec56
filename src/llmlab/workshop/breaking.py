"""The ways in which lesson 06 breaks a server: each starts one that answers, and then breaks it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmlab import backends, lab, runtime, weights
from llmlab.backends import docker_api
from llmlab.errors import ServerError, StartError
from llmlab.lab import by_hand, registry
from llmlab.specs import BackendName, Record

MEMORY, KILLED, PAUSED = "out of memory", "killed", "paused"
TOLD, CUT = "told to stop", "model cut short"

_CONTEXT = 1024
_FIRST = 3
# Reads a whole batch: only then is all of the engine's working memory touched.
_LONG = "container " * 600
# Engines refuse less; the built-in model needs 35.
_LEAST_MIB, _ENOUGH_MIB = 6, 64
_SEEN_S = 5.0
_POLL_S = 0.02
_ASK_S = 30.0
_END_S = 10.0
_START_S = 60.0

Plant = Callable[[str, BackendName], Record | None]


def ways(place: BackendName, chance: random.Random) -> list[tuple[str, Plant]]:
    """What can be broken in a place, in the order to do it: the diagnosis, and what brings it about."""
    found: list[tuple[str, Plant]] = [
        (KILLED, _then(kill)),
        (PAUSED, _then(_pause)),
        (TOLD, _then(_tell)),
        (CUT, _then(_cut)),
    ]
    chance.shuffle(found)
    if place == "container":
        # The one that only containers have is always among the first three.
        found.insert(chance.randrange(_FIRST), (MEMORY, _starved))
    return found


def planted(name: str, place: BackendName, plant: Plant) -> Record | None:
    """A broken server; None if it cannot be broken in that way here."""
    with _model(name):
        try:
            record = plant(name, place)
            if record and await_change(record):
                return record
        except BaseException:
            _take_back(name)
            raise
        _take_back(name)
    return None


def _take_back(name: str) -> None:
    """Stop a server that is being broken; nobody else had one of that name."""
    for record in registry.find_all():
        if record.name == name:
            registry.stop(record, grace_s=1.0)


def _then(break_it: Callable[[Record], None]) -> Plant:
    """Start a server, and break it when it has answered."""

    def plant(name: str, place: BackendName) -> Record:
        record = _start(name, place)
        break_it(record)
        return record

    return plant


def _start(name: str, place: BackendName, *, memory_mib: int | None = None) -> Record:
    return lab.start(
        str(_path(name)),
        name=name,
        backend=place,
        context=_CONTEXT,
        slots=1,
        gpu_layers="0",
        memory=memory_mib,
        force=memory_mib is not None,
        timeout_s=_START_S,
    ).record


def _starved(name: str, place: BackendName) -> Record | None:
    """Halve in on a memory limit with which a server starts, and does not survive a long question.

    None if there is no such limit, as with engines that do not hold any.
    """
    too_small, enough = _LEAST_MIB, _ENOUGH_MIB
    while (limit := (too_small + enough) // 2) > too_small:
        try:
            record = _start(name, place, memory_mib=limit)
        except StartError:
            too_small = limit
            continue
        try:
            lab.attach(name).ask(_LONG, max_tokens=1, timeout_s=_ASK_S)
        except ServerError:
            if _ends(record):
                return record
        enough = limit
        registry.stop(record, grace_s=0)
        _copy(name)
    return None


def _ends(record: Record) -> bool:
    """Whether a server whose answer broke off has ended: the engine may learn of it a while later."""
    deadline = time.monotonic() + _END_S
    while running := backends.backend(record.backend).look(record).running:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return not running


def kill(record: Record) -> None:
    """Send a server's process SIGKILL, without a word to llmlab."""
    _signal(record, signal.SIGKILL)


def _tell(record: Record) -> None:
    _signal(record, signal.SIGTERM)


def _signal(record: Record, number: signal.Signals) -> None:
    if record.container_id:
        docker_api.connect().signal(record.container_id, number.name)
    elif record.process and runtime.is_alive(record.process):
        os.kill(record.process.pid, number)


def _pause(record: Record) -> None:
    if record.container_id:
        docker_api.connect().pause(record.container_id)
    else:
        _signal(record, signal.SIGSTOP)


def _cut(record: Record) -> None:
    """Shorten the file that the engine has mapped, as a copy onto a full disk would, and have it read."""
    path = record.spec.model.path
    os.truncate(path, path.stat().st_size // 3)
    with suppress(ServerError):
        lab.attach(record.name).ask("What is a container?", max_tokens=8, timeout_s=_ASK_S)


@contextmanager
def _model(name: str) -> Iterator[None]:
    """A copy of the built-in model in the server's directory; gone again if no server is left that has it."""
    _copy(name)
    try:
        yield
    finally:
        if name not in {record.name for record in registry.find_all()}:
            shutil.rmtree(_path(name).parent, ignore_errors=True)


def _copy(name: str) -> None:
    path = _path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights.resolve("tiny").path, path)


def _path(name: str) -> Path:
    return by_hand.claim(name).path / "tiny.gguf"


def await_change(record: Record) -> bool:
    """Wait until it can be seen that something is wrong; False if it cannot."""
    deadline = time.monotonic() + _SEEN_S
    place = backends.backend(record.backend)
    while True:
        found = place.look(record)
        if not found.running or found.detail:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
