"""The process of an open room: `python -m llmlab.classrooms.serving FOLDER`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmlab import runtime
from llmlab.classrooms import places
from llmlab.classrooms.addresses import reached_at
from llmlab.classrooms.app import learners_app, teachers_app
from llmlab.classrooms.broker import Broker
from llmlab.classrooms.config import Config, Opened
from llmlab.classrooms.identity import HubIdentity, Identity, KeyIdentity
from llmlab.classrooms.keys import Keys
from llmlab.classrooms.ledger import Ledger
from llmlab.classrooms.progress import Handed
from llmlab.classrooms.room import Room
from llmlab.classrooms.servers import Pool
from llmlab.specs import value_of

HEAD_S = 10.0
_IDLE_S = 30
_TICK_S, _LOOK_S, _OWNER_S = 0.2, 2.0, 1.0
_GRACE_S = 5.0
_CONNECTIONS, _BACKLOG = 1000, 512
_UNREAD_BYTES = 1 << 17
_log = logging.getLogger("llmlab.classroom")


class _Protocol(H11Protocol):
    """A connection that has to say something within a time, and that can be cut."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort}
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_came()
        elif self._timer is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(HEAD_S, self.transport.abort)

    def _head_came(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    """A server that says when it is up, and leaves signals to the room."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def main(folder: Path) -> int:
    """Open a room and serve until it is closed; returns the exit status."""
    os.environ.pop("JPY_PARENT_PID", None)  # what is started for learners belongs to the room
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    _log.setLevel(logging.INFO)
    config = value_of(Config, json.loads((folder / places.CONFIG).read_text(encoding="utf-8")))
    with contextlib.closing(_listening(config)) as listening:
        asyncio.run(_serve(folder, config, listening))
    return 0


def _listening(config: Config) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
    # Connections inherit both: tokens are sent at once (asyncio does not see to it for a socket that
    # it has not made), and of what a learner has not read yet no more is kept.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_BYTES)
    return listening


async def _serve(folder: Path, config: Config, listening: socket.socket) -> None:
    state, pool = places.folder(), Pool(config.servers)
    identity: Identity = (
        HubIdentity(config.hub, config.hub_groups) if config.hub else KeyIdentity(Keys(state))
    )
    room = Room(
        identity=identity,
        quota=config.quota,
        pool=pool,
        ledger=Ledger(state),
        broker=Broker(config.approved, pool),
        handed=Handed(state),
    )
    await room.refresh()
    learners = _Server(
        _uvicorn(
            learners_app(room, _names(config)),
            ssl_certfile=config.certificate,
            ssl_keyfile=config.certificate_key,
        )
    )
    teacher = _Server(_uvicorn(teachers_app(room), uds=str(folder / places.SOCKET)))
    closing = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, closing.set)
    serving = [
        asyncio.ensure_future(learners.serve(sockets=[listening])),
        asyncio.ensure_future(teacher.serve()),
    ]
    regular = [
        asyncio.ensure_future(_every(_TICK_S, room.watch)),
        asyncio.ensure_future(_every(_LOOK_S, room.refresh)),
        asyncio.ensure_future(_every(_OWNER_S, lambda: _owned(config, closing))),
    ]
    await asyncio.gather(learners.up.wait(), teacher.up.wait())
    _tell(folder, config, listening)
    await closing.wait()
    _log.info("closing")
    await room.close(_GRACE_S)
    for task in regular:
        task.cancel()
    learners.should_exit = teacher.should_exit = True
    await asyncio.gather(*serving)


def _uvicorn(app: Any, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=1,
        limit_concurrency=_CONNECTIONS,
        **more,
    )


def _names(config: Config) -> frozenset[str]:
    own = socket.gethostname().lower()
    names = {"localhost", own, own.partition(".")[0], f"{own.partition('.')[0]}.local", config.host.lower()}
    return frozenset(names | {name.lower() for name in config.host_names})


def _tell(folder: Path, config: Config, listening: socket.socket) -> None:
    """Write down that the room is open."""
    process = runtime.process(os.getpid())
    if process is None:
        raise RuntimeError("this process has no identity")
    port = listening.getsockname()[1]
    host = reached_at(config.host)
    url = f"{'https' if config.certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    opened = Opened(
        url=url + (f"/#sha256={config.fingerprint}" if config.fingerprint else ""),
        process=process,
        since=time.time(),
    )
    places.write_private(folder / places.ROOM, json.dumps(asdict(opened)))
    _log.info("open at %s", url)


async def _every(seconds: float, do: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await do()
        except Exception:  # noqa: BLE001 - the room stays open whatever it is
            _log.exception("something regular failed")


async def _owned(config: Config, closing: asyncio.Event) -> None:
    if config.owner and runtime.has_ended(config.owner):
        closing.set()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
