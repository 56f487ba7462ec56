"""A joined room among the learner's servers: one for each of its models, until it is left."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

from llmlab import runtime
from llmlab.backends import room
from llmlab.errors import MALFORMED, NameTakenError, RequestError
from llmlab.lab import registry
from llmlab.lab.launch import candidate_names
from llmlab.runtime import Claim
from llmlab.specs import Endpoint, Model, Record, ServeSpec, value_of

_NAME = "room"
_WAIT_S = 5.0
_MOST_MODELS, _LONGEST_NAME, _MOST_CONTROL = 50, 100, 2000
_LONGEST_BASE = 36  # of a server's name, before a number


def read_specs(found: Any) -> tuple[ServeSpec, ...]:
    """What a room says of its models; whatever is not of that form is refused.

    Raises:
        RequestError: If it is of another form.
    """
    try:
        specs = tuple(map(_spec, found["models"]))
        for spec in specs:
            model = spec.model
            if not 0 < len(model.name) <= _LONGEST_NAME or not (model.name + model.reference).isprintable():
                raise ValueError(model.name)
            if (
                len(specs) > _MOST_MODELS
                or len(model.control_tokens) > _MOST_CONTROL
                or "" in model.control_tokens
            ):
                raise ValueError(len(specs))
    except MALFORMED:
        raise RequestError(
            "the room does not say in a known form what its models are",
            hint="update llmlab here, or ask the teacher to update it there",
        ) from None
    return specs


def enter(url: str, key: str, specs: Iterable[ServeSpec], name: str | None = None) -> tuple[str, ...]:
    """Write a server down for each model of a room; returns their names.

    Those that were written down already keep their names, and get the present key and address.

    Args:
        url: The room's address.
        key: The learner's key.
        specs: Its models.
        name: What to call it; of several models, what their names begin with. A number is
            added where that is taken.

    Raises:
        UsageError: If the name cannot be one.
    """
    if name:
        candidate_names(name, name, ())  # refuses what cannot be one
    known = {record.spec.model.name: record for record in entered(url)}
    wanted = list(specs)
    names = []
    for spec in wanted:
        record = known.get(spec.model.name)
        if record and _renewed(record, url, key, spec):
            names.append(record.name)
        else:
            names.append(_written(url, key, spec, name, several=len(wanted) > 1))
    return tuple(names)


def entered(url: str) -> list[Record]:
    """The servers that a room has here."""
    return [record for record in room.find() if room.is_same(record.endpoint.url or "", url)]


def leave(url: str) -> tuple[str, ...]:
    """Forget a room, its servers and its key; returns the servers' names."""
    left = tuple(record.name for record in entered(url) if registry.stop(record, grace_s=0))
    room.forget(url)
    return left


def _spec(data: Any) -> ServeSpec:
    """A model and how it is served; fields of a newer llmlab are passed over."""
    return value_of(ServeSpec, {**_known(ServeSpec, data), "model": _known(Model, data["model"])})


def _known(kind: Any, data: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in data.items() if key in names}


def _written(url: str, key: str, spec: ServeSpec, name: str | None, *, several: bool) -> str:
    """Take a name that is free, and write the server down."""
    taken = {record.name for record in registry.find_all()}
    base = f"{name or _NAME}-{_plain(spec.model.name)}"[:_LONGEST_BASE] if several else name or _NAME
    for each in candidate_names(None, base, taken):
        with suppress(NameTakenError), runtime.claim(each) as claim:  # another process may just have taken it
            endpoint = Endpoint(url=url, key_file=claim.path / room.KEY)
            record = Record(name=each, backend=room.NAME, spec=spec, endpoint=endpoint, created=time.time())
            _write(claim, record, key)
            return each
    raise NameTakenError(f"no name is free that begins with {base!r}", hint="choose another --name")


def _renewed(record: Record, url: str, key: str, spec: ServeSpec) -> bool:
    """Bring a server up to date; False if it has been left meanwhile."""
    with runtime.hold(record.name, wait_s=_WAIT_S) as claim:
        if claim is None:
            return False
        endpoint = Endpoint(url=url, key_file=claim.path / room.KEY)
        _write(claim, replace(record, spec=spec, endpoint=endpoint), key)
    return True


def _write(claim: Claim, record: Record, key: str) -> None:
    runtime.write_private(claim.path / room.KEY, key)
    claim.write(record)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "model"
