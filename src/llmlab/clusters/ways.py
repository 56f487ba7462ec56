"""Whether a machine is cut off, told by trying to connect in place of waiting for its engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from llmlab.clusters.members import listens

_PORTS = {"ssh": 22, "tcp": 2375}


@dataclass(slots=True)
class Ways:
    """The ways to container engines by which something has answered.

    An ssh connection that has gone dumb is waited for half a minute, a new one at the same address
    fails within seconds. But ssh may lead by way of other machines (ProxyJump), and then nothing ever
    answers at the address itself: only what has answered once is believed to be gone.

    Attributes:
        straight: Addresses at which something has answered.
        gone: Those of them at which nothing does now.
    """

    straight: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    _tried: set[str] = field(default_factory=set)

    def learn(self, addresses: Iterable[str]) -> None:
        """Try each address once, while its engine is known to answer.

        Args:
            addresses: As in `DOCKER_HOST`.
        """
        for address in set(addresses) - self._tried:
            self._tried.add(address)
            if (place := _place(address)) and listens(place):
                self.straight.add(address)

    def is_gone(self, address: str | None) -> bool:
        """Whether something has answered at an address, and nothing does now.

        Args:
            address: As in `DOCKER_HOST`; None if it is not known.
        """
        if address not in self.straight:
            return False
        if listens(_place(address)):
            self.gone.discard(address)
        else:
            self.gone.add(address)
        return address in self.gone

    def still_gone(self) -> frozenset[str]:
        """Those that were gone when they were last tried, and are."""
        return frozenset(address for address in tuple(self.gone) if self.is_gone(address))


def _place(address: str) -> str:
    """host:port; "" for a unix socket."""
    parts = urlsplit(address)
    port = _PORTS.get(parts.scheme)
    return f"{parts.hostname}:{parts.port or port}" if port and parts.hostname else ""
