"""Asking over TCP, as another program would."""

from __future__ import annotations

import http.client
from contextlib import closing, suppress
from typing import Any

OK = 200
_ANSWER_S = 2.0
_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to


def published(entry: dict[str, Any]) -> list[tuple[int, str]]:
    """A container's ports on this machine, each with an address to ask at."""
    ports = (entry.get("NetworkSettings") or {}).get("Ports") or {}
    found = {}
    for where in (where for places in ports.values() for where in places or ()):
        address = str(where.get("HostIp") or "")
        found[int(where["HostPort"])] = "127.0.0.1" if address in _EVERYWHERE else address
    return list(found.items())


def answers(address: str, port: int) -> tuple[bool, str]:
    """Whether somebody speaks HTTP there, and what was seen; a connection alone proves nothing."""
    connection = http.client.HTTPConnection(address, port, timeout=_ANSWER_S)
    with closing(connection):
        try:
            connection.request("GET", "/health")
            return True, f"HTTP {connection.getresponse().status}"
        except (OSError, http.client.HTTPException) as error:
            return False, str(error) or type(error).__name__


def status(
    port: int, *, address: str = "127.0.0.1", key: str | None = None, headers: dict[str, str] | None = None
) -> int | None:
    """The status of asking for the models; None if nobody answers."""
    connection = http.client.HTTPConnection(address, port, timeout=_ANSWER_S)
    with closing(connection), suppress(OSError, http.client.HTTPException):
        sent = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        connection.request("GET", "/v1/models", headers=sent)
        return connection.getresponse().status
    return None


def granted(found: int | None) -> tuple[bool, str]:
    """Whether that is a way in, and how to say it."""
    return found == OK, "no answer" if found is None else f"HTTP {found}"
