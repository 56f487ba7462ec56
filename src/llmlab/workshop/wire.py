"""What goes from this machine to another one while something is done there, in bytes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from llmlab import render
from llmlab.backends import nodes
from llmlab.errors import UsageError
from llmlab.results import Result


@dataclass(slots=True, kw_only=True)
class Sent(Result):
    """Bytes that this machine has sent towards another one.

    They are those of the network interface that leads there, as the kernel counts them: what
    else goes the same way is among them.

    Attributes:
        node: The other machine.
        interface: The interface.
        nbytes: Sent within the block; None until it has ended.
    """

    node: str
    interface: str
    nbytes: int | None = None

    def __str__(self) -> str:
        """One sentence."""
        much = render.UNKNOWN if self.nbytes is None else render.bytes_text(self.nbytes)
        return f"{much} sent to {self.node} (by {self.interface}, with all else that went that way)"

    def to_html(self) -> str:
        """The same sentence."""
        return render.html_text(str(self))


@contextmanager
def counting(node: str) -> Iterator[Sent]:
    """Count what is sent towards another machine while the block lasts.

    Args:
        node: The machine, as `nodes` calls it.

    Raises:
        UnknownNameError: There is no such machine.
        UsageError: No network leads there that can be counted.
    """
    interface = _towards(node, urlsplit(nodes.find(node).address).hostname)
    sent = Sent(node=node, interface=interface)
    before = _sent_by(interface)
    yield sent
    sent.nbytes = _sent_by(interface) - before


def _towards(node: str, host: str | None) -> str:
    """The interface by which packets for a host leave."""
    if host is None:
        raise UsageError(
            f"{node} is this machine: nothing is sent", hint="take another one: `%llm nodes` lists them"
        )
    try:
        family, _, _, _, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # sends nothing: it only chooses the way
            own = probe.getsockname()[0]
    except OSError as error:
        raise UsageError(
            f"this machine does not know the way to {host}: {error}",
            hint="give its context the machine's address in place of a name of ssh's",
        ) from error
    for interface, addresses in psutil.net_if_addrs().items():
        if own in {each.address.partition("%")[0] for each in addresses}:
            return interface
    raise UsageError(f"no interface of this machine's has the address {own}", hint="see: ip address")


def _sent_by(interface: str) -> int:
    return int(psutil.net_io_counters(pernic=True)[interface].bytes_sent)
