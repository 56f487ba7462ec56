"""The keeper of a server with replicas: a process that replaces those which are lost.

It looks every two seconds. A replica that its gateway has not reached for a while is given
up: a new one is started on another node, and what is left of the old one is removed when
its node answers again. Nodes that are drained lose theirs once a new one is ready. Without
its keeper a server goes on; only nothing is replaced then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import FrameType

from llmlab import backends, runtime
from llmlab.backends import docker_api, gateway
from llmlab.backends.gateway import Seen, Target
from llmlab.clusters import handing_over, places, replicating
from llmlab.clusters.places import Ground
from llmlab.clusters.ways import Ways
from llmlab.errors import MALFORMED, LabError
from llmlab.lab import left_behind, registry, replicas
from llmlab.lab.planning import Wish
from llmlab.specs import Record, value_of

_LOOK_S = 2.0
_GROUND_S = 5.0
# A replica that is loading has its engine's word; one that is silent is given up after this.
_LOST_S = 6.0
# One whose container runs may only be cut off for a moment.
_CUT_S = 20.0
_DRAIN_S = 60.0
_START_S = 300.0


@dataclass(slots=True)
class Keeper:
    """Looks after one server.

    Attributes:
        name: The server's name.
        wish: What its replicas are started with.
        since: Replica → when it was first seen not to be ready, by the monotonic clock.
        draining: Replica → when it was told to go.
        ways: Tells which nodes are cut off.
    """

    name: str
    wish: Wish
    since: dict[str, float] = field(default_factory=dict)
    draining: dict[str, float] = field(default_factory=dict)
    ways: Ways = field(default_factory=Ways)
    _ground: Ground | None = None
    _looked: float = -_GROUND_S

    def run(self, created: float) -> None:
        """Look until the server is gone, or whoever it belongs to."""
        while (record := runtime.read_record(self.name)) and record.created == created:
            if record.owner and runtime.has_ended(record.owner):
                registry.stop(replace(record, process=None), grace_s=1.0, forget=True)
                return
            try:
                self.look(record)
            except LabError as error:
                say(f"{error.message}; {error.hint}")
            time.sleep(_LOOK_S)

    def look(self, record: Record) -> None:
        """Look once, and do what is to be done."""
        seen = {each.name: each for each in gateway.ask(record)}
        there = {each.name: each for each in replicas.of(record)}
        for name in record.replicas:
            if name in seen and seen[name].state in {"ready", "draining"}:
                self.since.pop(name, None)
            else:
                self.since.setdefault(name, time.monotonic())
        lost = [name for name in self.since if self._is_lost(name, there.get(name), seen.get(name))]
        if not lost and any(name in seen and seen[name].state == "lost" for name in self.since):
            # It may be cut off, and asking all nodes would take longer than to see whether it is.
            return
        ground = self._look_around(bool(lost))
        if ground is None:
            return
        for name in lost:
            record = self._replace(record, ground, name, there.get(name))
        for name, replica in there.items():
            if replica.node in ground.drained and name not in self.draining and name not in lost:
                record = self._replace(record, ground, name, replica, draining=True)
        self._end_drained(record, seen)
        if left_behind.waiting():
            left_behind.sweep({place.node.address for place in ground.places})

    def _is_lost(self, name: str, replica: Record | None, seen: Seen | None) -> bool:
        """Whether a replica that is not ready is to be given up."""
        silent = time.monotonic() - self.since[name]
        if replica is None:
            return True
        if silent < _LOST_S or (seen and seen.state == "loading"):
            return False
        if self.ways.is_gone(replica.container_engine):
            return True
        try:
            running = backends.backend(replica.backend).look(replica).running
        except LabError:
            return True
        return not running or silent > _CUT_S

    def _look_around(self, now: bool) -> Ground | None:  # noqa: FBT001 - private
        """The cluster, asked every few seconds; None while nobody in it may decide."""
        if now or time.monotonic() - self._looked > _GROUND_S:
            self._looked = time.monotonic()
            self._ground = None
            self._ground = places.ground(self.wish.on, self.ways.still_gone())
            self.ways.learn(place.node.address for place in self._ground.places)
        return self._ground

    def _replace(
        self, record: Record, ground: Ground, name: str, old: Record | None, *, draining: bool = False
    ) -> Record:
        """Start a new replica in an old one's place; the server's record then."""
        others = [each for each in replicas.of(record) if each.name != name]
        without = frozenset({old.node} if old and old.node and not self.wish.on else ())
        say(f"{name} is {'to go' if draining else 'lost'}; starting another one")
        place = ground.best([each.node for each in others], _bearable(ground, without))
        new = replicating.start_one(
            self.wish, place, _free_name(record), record.overlay or "", timeout_s=_START_S
        )
        names = tuple(new.name if each == name else each for each in record.replicas)
        changed = replace(record, replicas=names)
        self.since.pop(name, None)
        with runtime.hold(self.name, wait_s=_START_S) as claim:
            if claim:
                claim.write(changed)
        if draining and old:
            self.draining[name] = time.monotonic()
        gateway.tell(changed, _targets((*others, new), (old,) if draining and old else ()))
        say(f"{new.name} on {place.node.name} is ready in place of {name}")
        if old and not draining:
            registry.stop(old, grace_s=0, forget=True)
        return changed

    def _end_drained(self, record: Record, seen: dict[str, Seen]) -> None:
        """Stop replicas that were to go, once they have answered what they were asked."""
        for name, since in list(self.draining.items()):
            busy = name in seen and seen[name].open
            old = runtime.read_record(name)
            if busy and time.monotonic() - since < _DRAIN_S:
                continue
            if old:
                registry.stop(old, grace_s=1.0, forget=True)
            del self.draining[name]
            kept = [each for each in replicas.of(record) if each.name not in self.draining]
            gateway.tell(record, _targets(kept))
            say(f"{name} has gone")


def _targets(kept: Sequence[Record], leaving: Sequence[Record] = ()) -> list[Target]:
    """What a gateway is told; a replica whose engine does not answer is left out, and is lost soon."""
    found = []
    for record in (*kept, *leaving):
        with suppress(LabError):
            found.append(replicating.target(record, draining=record in leaving))
    return found


def _bearable(ground: Ground, without: frozenset[str]) -> frozenset[str]:
    """The nodes to leave out, unless no other is left."""
    return without if any(place.node.name not in without for place in ground.places) else frozenset()


def _free_name(record: Record) -> str:
    """A name for another replica: numbers are not given twice while the old one may come back."""
    taken = {*record.replicas, *(each.name for each in left_behind.waiting())}
    taken |= {each.name for each in runtime.records()}
    number = 1
    while f"{record.name}.{number}" in taken:
        number += 1
    return f"{record.name}.{number}"


def say(text: str) -> None:
    """Write a line of the log."""
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stdout.flush()


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the form is Python's
    """What was begun is taken back on the way out."""
    raise SystemExit(0)


def main(words: Sequence[str]) -> int:
    """Keep a server until it is gone."""
    signal.signal(signal.SIGTERM, _stop)
    (name,) = words
    folder = runtime.runtime_dir() / name
    try:
        told = json.loads((folder / handing_over.WISH).read_text(encoding="utf-8"))
        wish = value_of(Wish, told)
    except (OSError, *MALFORMED) as error:
        say(f"what the replicas are started with cannot be read: {error}")
        return 1
    record = runtime.read_record(name)
    if record is None:
        return 1
    with docker_api.using(record.container_engine):
        say(f"keeping {name}, process {os.getpid()}")
        Keeper(name, wish).run(record.created)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
