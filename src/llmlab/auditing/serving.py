"""Checks on the server itself: who reaches it, who is taken for it, what it serves."""

from __future__ import annotations

import hashlib
import secrets
import stat
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmlab import backends, runtime
from llmlab.auditing import asking, canaries, containers, impostor
from llmlab.auditing.results import Attempt
from llmlab.auditing.stand import Run, Stand
from llmlab.isolation.profile import PORT
from llmlab.specs import Endpoint, Record

_STRANGER = 54321
_HASHED_AT_ONCE = 2 << 30
_BLOCK = 1 << 20
_NO_KEY = "ask for the models without a key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What these checks need to know of the machine.

    Attributes:
        own: Addresses of this machine by which others could reach it.
        doors: Address → port of the canaries.
        sibling: Address and port of the sibling.
        nonce: What canaries and sibling say.
    """

    own: tuple[str, ...]
    doors: dict[str, int]
    sibling: tuple[str, int]
    nonce: str


@dataclass(slots=True)
class Answers:
    """What was found, and what does not apply."""

    attempts: dict[str, Sequence[Attempt]] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)


class Hashing:
    """The sha256 of a model, computed while other things go on.

    Args:
        path: The file.
        at_any_size: Whether to do it even if it takes long.
    """

    def __init__(self, path: Path, *, at_any_size: bool) -> None:
        self.skipped = ""
        self.found = self.altered = ""
        self.ms = 0.0
        size = path.stat().st_size if path.exists() else 0
        if size > _HASHED_AT_ONCE and not at_any_size:
            self.skipped = f"{size / 1e9:.1f} GB are not hashed unasked: --checks M1 does it"
        self._path, self._stopped = path, threading.Event()
        self._thread = threading.Thread(target=self._hash, daemon=True)
        if not self.skipped:
            self._thread.start()

    def _hash(self) -> None:
        began = time.monotonic()
        digest = hashlib.sha256()
        with suppress(OSError), self._path.open("rb") as file:
            while (block := file.read(_BLOCK)) and not self._stopped.is_set():
                digest.update(block)
            self.found = digest.hexdigest()
            digest.update(b"\0")
            self.altered = digest.hexdigest()
        self.ms = (time.monotonic() - began) * 1000

    def wait(self) -> None:
        """Until it is done; Ctrl-C ends it."""
        try:
            while self._thread.is_alive():
                self._thread.join(0.05)
        finally:
            self._stopped.set()


def visitors(stand: Stand, record: Record, image: str) -> tuple[Run, Run] | None:
    """Another user, and the server's own, on their way to its socket; None if it has none."""
    path = record.endpoint.socket
    if path is None or not stat.S_ISSOCK(_mode(path)):
        return None
    root = runtime.runtime_dir()
    where = path.relative_to(root).as_posix()
    info = root.stat()
    stranger = containers.visitor(image, str(root), where, user=f"{_STRANGER}:{_STRANGER}")
    # In a rootless engine's user namespace, that is root.
    own = "0:0" if stand.api.is_rootless() else f"{info.st_uid}:{info.st_gid}"
    owner = containers.visitor(image, str(root), where, user=own)
    return stand.run("stranger", stranger), stand.run("owner", owner)


def check(
    record: Record,
    entry: dict[str, Any],
    around: Around,
    wanted: frozenset[str],
    *,
    guests: tuple[Run, Run] | None,
    hashing: Hashing | None,
) -> Answers:
    """Try what is wanted on a server.

    Args:
        record: The server.
        entry: `docker inspect` of its container.
        around: What it stands in.
        wanted: Ids of checks.
        guests: What `visitors` has started.
        hashing: The model's hash, under way.
    """
    answers = Answers()
    if "N9" in wanted:
        answers.attempts["N9"] = _from_elsewhere(record, entry, around)
    if "A1" in wanted:
        _another_user(record, guests, answers)
    if "A2" in wanted:
        _without_the_key(record, entry, answers)
    if "A3" in wanted:
        _impostor(record, answers)
    if "M1" in wanted and hashing:
        answers.attempts["M1"] = _exchanged(record, entry, hashing)
    return answers


def _from_elsewhere(record: Record, entry: dict[str, Any], around: Around) -> list[Attempt]:
    """N9: by every address at which it could be reached from another machine."""
    ports = [port for port, _ in asking.published(entry)]
    if record.endpoint.exposed_port:
        ports.append(record.endpoint.exposed_port)
    if (entry.get("HostConfig") or {}).get("NetworkMode") == "host" and record.endpoint.port:
        ports.append(record.endpoint.port)
    networks = ((entry.get("NetworkSettings") or {}).get("Networks") or {}).values()
    inside = [str(network["IPAddress"]) for network in networks if network.get("IPAddress")]
    # The same client reads a nonce where one is to be had.
    beside = canaries.heard(*around.sibling, around.nonce)
    made = []
    for address in around.own:
        door = around.doors.get(address)
        control = door is not None and canaries.heard(address, door, around.nonce)
        said = "read a canary's nonce at this address" if control else "no canary was heard at this address"
        made += [
            _timed(f"ask at {address}:{port}", lambda a=address, p=port: asking.answers(a, p), control, said)  # type: ignore[misc]
            for port in dict.fromkeys(ports)
        ]
    said = "read the sibling's nonce at its address" if beside else "the sibling could not be reached"
    made += [
        _timed(f"ask at {address}:{PORT}", lambda a=address: asking.answers(a, PORT), beside, said)  # type: ignore[misc]
        for address in inside
    ]
    if not made:
        control = beside or any(canaries.heard(a, p, around.nonce) for a, p in around.doors.items())
        text = "find an address or a published port"
        made.append(
            Attempt(
                text=text,
                succeeded=False,
                observed="there is none",
                control=control,
                control_observed="the sibling's address was found, and answers"
                if beside
                else "a canary answers",
            )
        )
    return made


def _another_user(record: Record, guests: tuple[Run, Run] | None, answers: Answers) -> None:
    """A1."""
    if guests:
        stranger, owner = (_first(guest.await_end()) for guest in guests)
        attempt = Attempt(
            text=f"connect to its socket as uid {_STRANGER}",
            succeeded=bool(stranger.get("succeeded")) if stranger else None,
            observed=str(stranger.get("observed", "not attempted")),
            control=bool(owner.get("succeeded")),
            control_observed=f"as its owner: {owner.get('observed', 'not attempted')}",
            ms=stranger.get("ms"),
        )
        answers.attempts["A1"] = [attempt]
    elif record.endpoint.port:
        port = record.endpoint.port
        answers.attempts["A1"] = [
            _timed(
                f"ask at 127.0.0.1:{port}, which the kernel lets every user do",
                lambda: asking.answers("127.0.0.1", port),
                True,
                "the same",
            )
        ]
    else:
        answers.without["A1"] = "only the container engine can reach it, and who may use that"


def _without_the_key(record: Record, entry: dict[str, Any], answers: Answers) -> None:
    """A2: an endpoint on TCP must ask for the key."""
    endpoint = record.endpoint
    attempts: list[Attempt] = []
    if endpoint.exposed_port:
        port, key = endpoint.exposed_port, _key(endpoint)
        control = asking.status(port, key=key)
        evil = {
            _NO_KEY: {},
            "ask with a wrong key": {"key": secrets.token_hex(16)},
            "ask as a page of another origin": {"Origin": "https://evil.example"},
            "ask by another host name": {"Host": "evil.example"},
        }
        for text, changes in evil.items():
            headers = {name: value for name, value in changes.items() if name != "key"}
            attempts.append(
                _timed(
                    text,
                    lambda c=changes, h=headers: asking.granted(
                        asking.status(port, key=c.get("key"), headers=h)
                    ),  # type: ignore[misc]
                    control == asking.OK,
                    f"with the key: HTTP {control}",
                )
            )
    attempts += [
        _timed(
            f"{_NO_KEY}, at {address}:{port}",
            lambda a=address, p=port: asking.granted(asking.status(p, address=a)),  # type: ignore[misc]
            None,
            "there is no key",
        )
        for port, address in asking.published(entry)
    ]
    if attempts:
        answers.attempts["A2"] = attempts
    else:
        answers.without["A2"] = "nothing listens on TCP"


def _impostor(record: Record, answers: Answers) -> None:
    """A3: who answers in the server's place must be refused before a prompt is sent."""
    endpoint = record.endpoint
    if endpoint.socket is None and endpoint.port is None:
        answers.without["A3"] = "the container engine makes the connection, in the server's own container"
        return
    verify = backends.backend(record.backend).verify(record)
    with impostor.standing_in(on_tcp=endpoint.socket is None) as fake:
        controlled = impostor.answers_unchecked(record, fake)
        said = "without the check, the impostor answers" if controlled else "the impostor did not answer"
        taken = _timed(
            "be taken for the server", lambda: impostor.believed(record, fake, verify), controlled, said
        )
    own = _timed(
        "have the server itself refused", lambda: impostor.refused(record, verify), None, "the impostor was"
    )
    answers.attempts["A3"] = [taken, own]


def _exchanged(record: Record, entry: dict[str, Any], hashing: Hashing) -> list[Attempt]:
    """M1: what runs is what was verified."""
    asked = (record.image or "").rpartition("@")[2]
    running = str(entry.get("Image"))
    made = [
        Attempt(
            text="run another image",
            succeeded=running != asked,
            observed=f"image {running[:19]}" + ("" if running == asked else f", recorded {asked[:19]}"),
            control=asked != "",
            control_observed="another id would differ",
        )
    ]
    text = "serve another model"
    if hashing.skipped:
        return [*made, Attempt(text=text, succeeded=None, observed=hashing.skipped, control=True)]
    hashing.wait()
    wanted = record.spec.model.sha256
    if not hashing.found:
        return [*made, Attempt(text=text, succeeded=None, observed="it cannot be read", control=True)]
    same = hashing.found == wanted
    found = Attempt(
        text=text,
        succeeded=not same,
        observed=f"sha256 {hashing.found[:12]}" + ("" if same else f", recorded {wanted[:12]}"),
        control=hashing.altered != wanted,
        control_observed="with one byte more, the hash differs",
        ms=hashing.ms,
    )
    return [*made, found]


def _timed(
    text: str,
    attempt: Callable[[], tuple[bool, str]],
    control: bool | None,  # noqa: FBT001 - three-valued
    said: str,
) -> Attempt:
    began = time.monotonic()
    succeeded, observed = attempt()
    return Attempt(
        text=text,
        succeeded=succeeded,
        observed=observed,
        control=control,
        control_observed=said,
        ms=(time.monotonic() - began) * 1000,
    )


def _first(run: Run) -> dict[str, Any]:
    return next((line for line in run.lines if line.get("check") == "A1"), {})


def _key(endpoint: Endpoint) -> str | None:
    with suppress(OSError):
        return endpoint.key_file.read_text(encoding="ascii").strip() if endpoint.key_file else None
    return None


def _mode(path: Path) -> int:
    with suppress(OSError):
        return path.lstat().st_mode
    return 0
