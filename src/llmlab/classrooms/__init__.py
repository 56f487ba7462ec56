"""A classroom: one address for a room, a key for each learner, in front of running servers."""

from __future__ import annotations

import time
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, get_args

from llmlab import runtime
from llmlab.arguments import Arg
from llmlab.classrooms import handing, opening, places, tls
from llmlab.classrooms.addresses import reached_at
from llmlab.classrooms.board import Board
from llmlab.classrooms.config import Config
from llmlab.classrooms.keys import Keys
from llmlab.classrooms.ledger import Ledger
from llmlab.classrooms.quotas import Quota
from llmlab.classrooms.views import (
    ClassUsage,
    Drained,
    KeyList,
    RoomClosed,
    RoomOpened,
    Used,
    usage_of,
)
from llmlab.errors import UnknownNameError, UsageError
from llmlab.lab import registry
from llmlab.lab.doors import Secret

__all__ = [
    "Action",
    "Board",
    "ClassUsage",
    "Drained",
    "KeyList",
    "RoomClosed",
    "RoomOpened",
    "Used",
    "classroom",
]

Action = Literal["open", "keys", "usage", "board", "drain", "close"]
_NEEDED = ("starlette", "uvicorn", "httpx")


def classroom(  # noqa: PLR0913 - each is an option of the command line
    action: Annotated[Action, Arg(metavar="open|keys|usage|board|drain|close")] = "board",
    servers: Annotated[str | None, Arg(metavar="SERVERS", completes="server")] = None,
    *,
    host: Annotated[str, Arg(metavar="ADDRESS")] = "127.0.0.1",
    port: int = 0,
    tls_cert: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    tls_key: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    self_signed: bool = False,
    plain_http: bool = False,
    host_names: Annotated[str | None, Arg(metavar="LIST")] = None,
    requests: int | None = None,
    tokens: int | None = None,
    window_s: float = 3600.0,
    concurrent: int = 2,
    max_tokens: int = 1024,
    queue: int = 100,
    approve: Annotated[str | None, Arg(metavar="LIST", completes="model")] = None,
    hub: Annotated[str | None, Arg(metavar="URL")] = None,
    hub_groups: Annotated[str | None, Arg(metavar="LIST")] = None,
    add: Annotated[str | None, Arg(metavar="NAMES")] = None,
    roster: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    revoke: Annotated[str | None, Arg(metavar="NAMES")] = None,
    cards: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
) -> RoomOpened | KeyList | ClassUsage | Board | Drained | RoomClosed:
    """Open one address for a room of learners, hand out keys, see who uses what.

    The room is a process of its own that stands in front of running servers and speaks
    OpenAI's API. It closes with the notebook server that opened it; opened from a
    terminal, it stays until classroom close. Keys, quotas and charges outlive it.

    Args:
        action: What to do; board, which shows the open room, if nothing is said.
        servers: open: the servers behind it, such as tiny,tiny-2. Unset: all of yours,
            also those that are started later. drain: the server that is to get no more requests.
        host: open: the address to listen at; 0.0.0.0 for all of this machine's.
        port: open: the port; 0 for any that is free.
        tls_cert: open: file with a TLS certificate for the room's name.
        tls_key: open: file with the certificate's key.
        self_signed: open: use TLS with a certificate that the room makes itself. Its
            fingerprint is part of the address, and learners' llmlab insists on it.
        plain_http: open: let keys and prompts go over the network unencrypted.
        host_names: open: further names under which learners reach the room, such as room.example.org.
        requests: open: requests of each learner within the window. Unset: no limit.
        tokens: open: tokens of each learner within the window, prompts and answers. Unset: no limit.
        window_s: open: length of the window for both, seconds; it slides along with the clock.
        concurrent: open: requests of each learner at a time, answered or waiting.
        max_tokens: open: most tokens of one answer.
        queue: open: requests of all that may wait for a slot.
        approve: open: models that the room starts for a learner who asks, each in a sealed
            container of the learner's own, such as tiny,./my.gguf.
        hub: open: the API of a JupyterHub whose users' tokens take the place of keys, such
            as http://127.0.0.1:8081/hub/api.
        hub_groups: open: groups of the hub of which learners must be in one. Unset: all its users.
        add: keys: make keys for these learners, such as ada,grace.
        roster: keys: make keys for the learners in this file, one name in each line.
        revoke: keys: take the keys of these learners back, at once.
        cards: keys: write the new keys to this file, .csv or .html with cards to cut
            out, in place of showing them.

    Raises:
        UsageError: An option does not fit, a room is open already, or none is.
        LabError: The room does not open, or does not answer.
    """
    if action not in get_args(Action):
        raise UnknownNameError("action", action, get_args(Action))
    handed = {"add": add, "roster": roster, "revoke": revoke, "cards": cards}
    if action != "open":
        return _without_opening(action, servers, handed)
    if misplaced := next((name for name, value in handed.items() if value), None):
        raise UsageError(f"--{misplaced} is for classroom keys", hint=f"classroom keys --{misplaced} …")
    _check_installed()
    quota = Quota(
        requests=requests,
        tokens=tokens,
        window_s=window_s,
        concurrent=concurrent,
        max_tokens=max_tokens,
        queue=queue,
    )
    names = _listed(servers)
    for name in names:
        registry.require_here(registry.select(name), "a room")
    certificate, key, pin = _tls(host, _listed(host_names), tls_cert, tls_key, self_signed=self_signed)
    if certificate is None and not plain_http and not _loopback(host):
        raise UsageError(
            f"without TLS, keys and prompts would go over the network unencrypted at {host}",
            hint="add --self-signed, or --tls-cert and --tls-key, or say --plain-http if that is wanted",
        )
    config = Config(
        host=host,
        port=port,
        servers=names or None,
        quota=quota,
        certificate=certificate,
        certificate_key=key,
        fingerprint=pin,
        host_names=_listed(host_names),
        approved=_listed(approve),
        hub=hub,
        hub_groups=_listed(hub_groups),
        owner=runtime.default_owner(),
    )
    return _opened(config, unencrypted=certificate is None and not _loopback(host))


def _without_opening(
    action: Action, server: str | None, handed: dict[str, str | None]
) -> KeyList | ClassUsage | Board | Drained | RoomClosed:
    if action == "keys":
        return _keys(**handed)
    if action == "usage":
        return usage_of(Ledger(places.folder()).read())
    if action == "close":
        there = opening.close_room()
        return RoomClosed(url=there.url if there else None)
    _check_installed()
    if action == "board":
        return _board()
    if not server:
        raise UsageError("which server?", hint="classroom drain NAME")
    opening.drain(server)
    return Drained(name=server)


def _opened(config: Config, *, unencrypted: bool) -> RoomOpened:
    there = opening.open_room(config)
    found = opening.board()
    models = sorted({each["model"] for each in found["servers"]})
    learners = None if config.hub else sum(each.revoked is None for each in Keys(places.folder()).all())
    notes = []
    if learners == 0:
        notes.append("nobody has a key yet: classroom keys --add NAMES")
    if unencrypted:
        notes.append("keys and prompts go over the network unencrypted")
    return RoomOpened(url=there.url, models=tuple(models), learners=learners, notes=tuple(notes))


def _keys(*, add: str | None, roster: str | None, revoke: str | None, cards: str | None) -> KeyList:
    keys = Keys(places.folder())
    names = [*_listed(add), *(_read_roster(roster) if roster else ())]
    if cards and not names:
        raise UsageError("--cards is for new keys", hint="add --add NAMES or --roster FILE")
    file = Path(cards).expanduser() if cards else None
    if file:
        handing.check(file)
    revoked = keys.revoke(_listed(revoke)) if revoke else ()
    made = keys.add(names) if names else {}
    if file:
        there = opening.opened()
        handing.hand_out(file, made, there.url if there else "")
    return KeyList(
        learners=tuple(sorted(each.name for each in keys.all() if each.revoked is None)),
        made={} if file else {name: Secret(key) for name, key in made.items()},
        revoked=revoked,
        cards=str(file) if file else "",
    )


def _board() -> Board:
    from llmlab.classrooms.progress import Handed  # noqa: PLC0415 - it reads the lessons

    there = opening.opened()
    found = opening.board()
    learners = tuple(Handed(places.folder()).all())
    return Board(url=there.url if there else "", found=found, learners=learners, at=time.time())


def _read_roster(path: str) -> list[str]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
            hint="a text file with one name in each line",
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _tls(
    host: str, names: tuple[str, ...], certificate: str | None, key: str | None, *, self_signed: bool
) -> tuple[str | None, str | None, str]:
    """Files of the certificate and its key, and the fingerprint that learners must know."""
    if bool(certificate) != bool(key):
        raise UsageError("--tls-cert and --tls-key go together", hint="give both")
    if certificate and key:
        if self_signed:
            raise UsageError("--self-signed and --tls-cert do not go together", hint="leave one of them out")
        paths = Path(certificate).expanduser().absolute(), Path(key).expanduser().absolute()
        tls.check(*paths)
        return str(paths[0]), str(paths[1]), ""
    if not self_signed:
        return None, None, ""
    made = tls.self_signed(places.folder(), (reached_at(host), *names))
    return str(made[0]), str(made[1]), tls.fingerprint(made[0].read_text(encoding="ascii"))


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(each.strip() for each in (text or "").split(",") if each.strip())


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_installed() -> None:
    if missing := [name for name in _NEEDED if not find_spec(name)]:
        raise UsageError(
            f"a classroom needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint=f"pip install {' '.join(missing)}",
        )
