"""A server for programs that speak through httpx: its interface over connections of our own.

Each request gets a connection whose peer has been checked, as with `Client`; closing the
response closes it, which makes the server stop. httpx and its successor httpx2 have the
same interface, and only one of them may be here: the classes are made for either.
"""

from __future__ import annotations

import asyncio
import importlib
import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

from llmlab.client.connection import Opener, Verify, open_socket
from llmlab.errors import LabError, UnknownNameError, UsageError
from llmlab.specs import Endpoint

Library = Literal["httpx", "httpx2"]
LIBRARIES: dict[str, str] = {"httpx": "httpcore", "httpx2": "httpcore2"}
"""Each library, and what it is built on."""

_CONNECT_S = 5.0
_CONNECTIONS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A server, and how it is reached.

    Attributes:
        name: Its name.
        endpoint: Where it listens.
        verify: Checks the peer of every new connection, before anything is sent.
        opener: Makes the connections, where the endpoint is neither a socket nor a port.
    """

    name: str
    endpoint: Endpoint
    verify: Verify | None = None
    opener: Opener | None = None

    @property
    def host(self) -> str:
        """A name for addresses, which leads nowhere else: nothing can be sent to somebody else by mistake."""
        return f"{self.name.lower()}.llmlab.invalid"

    def connect(self) -> socket.socket:
        """A connection whose peer has been checked.

        Raises:
            ServerError: If there is none.
        """
        return open_socket(self.name, self.endpoint, self.verify, _CONNECT_S, self.opener)

    def key(self) -> str | None:
        """The key that the engine itself asks for, read anew; that of an exposed endpoint is not the engine's."""
        if self.endpoint.key_file is None or self.endpoint.exposed_port is not None:
            return None
        return self.endpoint.key_file.read_text(encoding="ascii").strip()


def client(reached: Reached, library: Library | None, *, timeout_s: float) -> Any:
    """A client of httpx's whose requests all go to one server.

    Args:
        reached: The server.
        library: Whose client; None for the one that is here.
        timeout_s: Longest wait for each read and write, seconds.

    Returns:
        An `httpx.Client`, or `httpx2.Client`; its addresses are relative to the server.

    Raises:
        UsageError: If the library is not installed, or the time-out does not fit.
    """
    return _client("Client", "BaseTransport", _Transport, reached, library, timeout_s)


def async_client(reached: Reached, library: Library | None, *, timeout_s: float) -> Any:
    """As `client`, for asyncio: an `AsyncClient`."""
    return _client("AsyncClient", "AsyncBaseTransport", _AsyncTransport, reached, library, timeout_s)


def _client(
    kind: str, base: str, transport: type, reached: Reached, library: Library | None, timeout_s: float
) -> Any:
    if not timeout_s > 0:
        raise UsageError(f"timeout is {timeout_s:g}", hint="it must be more than 0 s")
    name: str = library or next((each for each in LIBRARIES if find_spec(each)), "httpx2")
    if name not in LIBRARIES:
        raise UnknownNameError("HTTP library", name, LIBRARIES)
    try:
        httpx, httpcore = importlib.import_module(name), importlib.import_module(LIBRARIES[name])
    except ImportError as error:
        raise UsageError(f"{name} is not installed", hint=f"pip install {name}") from error
    made = _derived(transport, getattr(httpx, base))
    return getattr(httpx, kind)(
        transport=made(_Made(reached, httpx, httpcore)),
        base_url=f"http://{reached.host}",
        timeout=httpx.Timeout(timeout_s),
        trust_env=False,  # no proxy, and no password out of ~/.netrc
    )


@cache
def _derived(mixin: type, origin: type) -> type:
    """A class of ours, derived from one of the library's."""
    return type(mixin.__name__.lstrip("_"), (mixin, origin), {})


@dataclass(frozen=True, slots=True)
class _Made:
    """What a transport is made of: a server, and the libraries."""

    reached: Reached
    httpx: Any
    httpcore: Any

    def derived(self, mixin: type, base: str, *arguments: Any) -> Any:
        """An object of a class of ours, derived from one of the library's."""
        origin = getattr(self.httpx, base, None) or getattr(self.httpcore, base)
        return _derived(mixin, origin)(self, *arguments)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of httpcore become those of httpx, which have the same names."""
        try:
            yield
        except Exception as error:
            name = type(error).__name__
            if getattr(self.httpcore, name, None) is not type(error) or not hasattr(self.httpx, name):
                raise
            raise getattr(self.httpx, name)(str(error)) from error

    @contextmanager
    def sockets(self, doing: Literal["Connect", "Read", "Write"]) -> Iterator[None]:
        """Errors of a socket become those of httpcore."""
        name = self.reached.name
        try:
            yield
        except LabError as error:
            # In words: what shows this error seldom shows what it came from.
            raise self.httpcore.ConnectError(" ".join(str(error).split())) from error
        # Before Python 3.11 that of asyncio is another one.
        except (TimeoutError, asyncio.TimeoutError) as error:
            slow = f"server {name!r} did not answer in time; see its log: llmlab logs {name}"
            raise getattr(self.httpcore, f"{doing}Timeout")(slow) from error
        except OSError as error:
            gone = f"server {name!r} is gone: {error.strerror or error}; see its log: llmlab logs {name}"
            raise getattr(self.httpcore, f"{doing}Error")(gone) from error

    def pool(self, kind: str, backend: Any) -> Any:
        """A pool that keeps no connection: the peer is checked for each request."""
        return getattr(self.httpcore, kind)(
            max_connections=_CONNECTIONS, max_keepalive_connections=0, network_backend=backend
        )

    def request(self, request: Any) -> Any:
        """A request as httpcore wants it.

        The address's host and the key are for libraries that insist on some; the server gets neither.

        Raises:
            httpx.UnsupportedProtocol: If it is for somebody else, such as after a redirect.
        """
        url = request.url
        if (url.scheme, url.host) != ("http", self.reached.host):
            raise self.httpx.UnsupportedProtocol(
                f"this client reaches server {self.reached.name!r} only, and not {url.host}: "
                f"its address is http://{self.reached.host}"
            )
        own = {b"host", b"authorization"}
        headers = [(name, value) for name, value in request.headers.raw if name.lower() not in own]
        headers.append((b"Host", self.reached.endpoint.host.encode()))
        if key := self.reached.key():
            headers.append((b"Authorization", f"Bearer {key}".encode("ascii")))
        return self.httpcore.Request(
            method=request.method,
            url=self.httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=headers,
            content=request.stream,
            extensions=request.extensions,
        )

    def response(self, found: Any, body: Any) -> Any:
        """A response as httpx wants it."""
        return self.httpx.Response(
            status_code=found.status, headers=found.headers, stream=body, extensions=found.extensions
        )


class _Transport:
    """An `httpx.BaseTransport` to one server."""

    def __init__(self, made: _Made) -> None:
        self._made = made
        self._pool = made.pool("ConnectionPool", made.derived(_Backend, "NetworkBackend"))

    def handle_request(self, request: Any) -> Any:
        with self._made.errors():
            found = self._pool.handle_request(self._made.request(request))
        return self._made.response(found, self._made.derived(_Body, "SyncByteStream", found.stream))

    def close(self) -> None:
        self._pool.close()


class _Body:
    """The body of a response, as it comes."""

    def __init__(self, made: _Made, stream: Any) -> None:
        self._made, self._stream = made, stream

    def __iter__(self) -> Iterator[bytes]:
        with self._made.errors():
            yield from self._stream

    def close(self) -> None:
        self._stream.close()


class _Backend:
    """An `httpcore.NetworkBackend` that connects to one server, whatever the address."""

    def __init__(self, made: _Made) -> None:
        self._made = made

    def connect_tcp(self, *_: Any, **__: Any) -> Any:
        with self._made.sockets("Connect"):
            return self._made.derived(_Stream, "NetworkStream", self._made.reached.connect())


class _Common:
    """What a connection has, with and without asyncio."""

    def __init__(self, made: _Made, opened: socket.socket) -> None:
        self._made, self._socket = made, opened

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(0))
        return self._socket if info == "socket" else None


class _Stream(_Common):
    """An `httpcore.NetworkStream` over a connected socket."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with self._made.sockets("Read"):
            self._socket.settimeout(timeout)
            return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with self._made.sockets("Write"):
            self._socket.settimeout(timeout)
            self._socket.sendall(buffer)

    def close(self) -> None:
        self._socket.close()


class _AsyncTransport:
    """An `httpx.AsyncBaseTransport` to one server."""

    def __init__(self, made: _Made) -> None:
        self._made = made
        self._pool = made.pool("AsyncConnectionPool", made.derived(_AsyncBackend, "AsyncNetworkBackend"))

    async def handle_async_request(self, request: Any) -> Any:
        with self._made.errors():
            found = await self._pool.handle_async_request(self._made.request(request))
        return self._made.response(found, self._made.derived(_AsyncBody, "AsyncByteStream", found.stream))

    async def aclose(self) -> None:
        await self._pool.aclose()


class _AsyncBody:
    """The body of a response, as it comes."""

    def __init__(self, made: _Made, stream: Any) -> None:
        self._made, self._stream = made, stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._made.errors():
            async for piece in self._stream:
                yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class _AsyncBackend:
    """An `httpcore.AsyncNetworkBackend` that connects to one server, whatever the address."""

    def __init__(self, made: _Made) -> None:
        self._made = made

    async def connect_tcp(self, *_: Any, **__: Any) -> Any:
        # In a thread: the container engine may have to be asked.
        connecting = asyncio.get_running_loop().run_in_executor(None, self._made.reached.connect)
        with self._made.sockets("Connect"):
            try:
                opened = await asyncio.shield(connecting)
            except asyncio.CancelledError:
                connecting.add_done_callback(_close)
                raise
        opened.setblocking(False)
        return self._made.derived(_AsyncStream, "AsyncNetworkStream", opened)


def _close(connecting: asyncio.Future[socket.socket]) -> None:
    """Close what came too late."""
    with suppress(Exception):
        connecting.result().close()


class _AsyncStream(_Common):
    """An `httpcore.AsyncNetworkStream` over a connected socket."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with self._made.sockets("Read"):
            return await asyncio.wait_for(_loop().sock_recv(self._socket, max_bytes), timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with self._made.sockets("Write"):
            await asyncio.wait_for(_loop().sock_sendall(self._socket, buffer), timeout)

    async def aclose(self) -> None:
        self._socket.close()


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
