"""How a server in a container is reached: the choice, its reason and what it gives up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from llmlab.errors import UnknownNameError, UsageError
from llmlab.profiles import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the choice depends on.

    Attributes:
        address: Where the container engine listens.
        local: Whether it shares this machine's files and kernel.
        desktop: Whether it is Docker Desktop: a virtual machine that forwards ports.
        unix_sockets: Whether the program that serves can listen on a unix socket.
        shared_user: Whether a socket that the container's user makes can be used by us.
        user: That user, for messages.
        publish: Whether the profile publishes the port.
        profile: The profile's name, for messages.
        restarts: Whether the engine may start the server anew.
    """

    address: str
    local: bool
    desktop: bool = False
    unix_sockets: bool = True
    shared_user: bool = True
    user: str = ""
    publish: bool = False
    profile: str = "sealed"
    restarts: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """A transport, and why it was chosen."""

    transport: Transport
    reason: str


GIVES_UP: dict[Transport, str] = {
    "socket": "nothing: no network, and the peer of every connection is checked",
    "relay": "prompts pass through the container engine's daemon, whoever runs it reads them; "
    "the peer is whatever that daemon says; a new connection takes as long as a program takes to start "
    "in the container, unless a relay is waiting",
    "sidecar": "one more container; the system-call filter lets the engine open internet sockets, "
    "which reach its own loopback interface and nothing else",
    "port": "everybody who reaches this machine reaches the model, without a key; "
    "who answers at the port cannot be checked",
}


def choose(asked: Transport | None, here: Situation) -> Choice:
    """The transport that was asked for, or the tightest that works here.

    Raises:
        UsageError: If what was asked for cannot work here.
    """
    if asked is not None and asked not in get_args(Transport):
        raise UnknownNameError("transport", asked, get_args(Transport))
    problems = {name: _problem(name, here) for name in get_args(Transport)}
    if asked is not None:
        if problem := problems[asked]:
            usable = [name for name, other in problems.items() if not other]
            raise UsageError(
                f"transport {asked} cannot work here: {problem}",
                hint=f"leave --transport out, or use {' or '.join(usable)}",
            )
        return Choice(asked, "it was asked for")
    if here.publish:
        if problem := problems["port"]:
            return Choice("relay", problem)
        return Choice("port", f"profile {here.profile} publishes the model's port")
    if problem := problems["socket"]:
        return Choice("relay" if problems["sidecar"] else "sidecar", problem)
    return Choice("socket", "the container engine is on this machine, and its sockets can be used")


def _problem(transport: Transport, here: Situation) -> str:
    """Why a transport cannot work here; "" if it can."""
    if transport == "relay":
        return ""
    if here.restarts:
        # A socket's directory is closed to the container once it is ready; a sidecar has
        # the network of the first start; the engine chooses another port at each.
        return "a server that is started anew can be reached in the same way only through the engine's API"
    away = f"the container engine at {here.address} does not share this machine's files and sockets"
    if transport == "port":
        reasons = [
            (not here.publish, f"profile {here.profile} publishes no port"),
            (not here.local and not here.desktop, f"{away}, and publishes ports on its own machine"),
        ]
    else:
        reasons = [
            (here.publish, f"profile {here.profile} has the engine listen on a published port"),
            (not here.local, away),
            (
                not here.shared_user,
                f"a socket of user {here.user} in the container is not one that you may use",
            ),
            (transport == "socket" and not here.unix_sockets, "this engine cannot listen on a unix socket"),
        ]
    return next((reason for holds, reason in reasons if holds), "")


def describe(transport: Transport) -> str:
    """A transport and what it gives up, for the receipt."""
    return f"{transport}; gives up: {GIVES_UP[transport]}"
