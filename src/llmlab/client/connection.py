"""The connection to a server: the socket is ours to check, to time on and to close."""

from __future__ import annotations

import http.client
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress

from llmlab.errors import BackendError, EndpointError, ServerBusyError, ServerStoppedError
from llmlab.results import Answer
from llmlab.specs import Endpoint

Verify = Callable[[socket.socket], None]
"""Checks a connected socket's peer; raises `EndpointError` if it is not ours."""

Opener = Callable[[], socket.socket]
"""Makes a connection in a backend's own way."""

_CONNECT_S = 5.0


class Connection(http.client.HTTPConnection):
    """An HTTP connection over a socket that is open already."""

    def __init__(self, opened: socket.socket, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.sock = opened

    def connect(self) -> None:
        """Never called: a closed connection is not opened again."""
        raise http.client.NotConnected

    def __enter__(self) -> Connection:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Cancel:
    """Ends an answer from another thread: by closing its connection, which makes the server stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = False
        self._socket: socket.socket | None = None

    @property
    def wanted(self) -> bool:
        """Whether the answer is to end."""
        return self._wanted

    def set(self) -> None:
        """End it, or whatever is begun with this; again does nothing."""
        with self._lock:
            self._wanted = True
            self._close()

    def hold(self, opened: socket.socket) -> None:
        """This is the connection that is to be closed."""
        with self._lock:
            self._socket = opened
            if self._wanted:
                self._close()

    def _close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it is closed already
                self._socket.shutdown(socket.SHUT_RDWR)


def open_socket(
    name: str,
    endpoint: Endpoint,
    verify: Verify | None,
    timeout_s: float,
    opener: Opener | None = None,
) -> socket.socket:
    """A connected socket whose peer has been checked.

    Args:
        name: The server's name, for messages.
        endpoint: Where it listens.
        verify: Checks the peer.
        timeout_s: Longest wait for each read and write, seconds.
        opener: Makes the connection, where the endpoint is neither a socket nor a port.

    Raises:
        EndpointError: If what stands there is not the server's socket, or not the server.
        ServerBusyError: If too many others wait to be connected.
        ServerStoppedError: If nothing listens there.
    """
    if opener:
        try:
            opened = opener()
        except (OSError, BackendError) as error:
            raise gone(name, error) from error
        opened.settimeout(timeout_s)
        return opened
    path = endpoint.socket
    if path is None and endpoint.port is None:
        raise gone(name, None)
    try:
        if path is None:
            opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # A symlink here would lead the prompt to somebody else's socket.
        elif stat.S_ISSOCK(path.lstat().st_mode):
            opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            raise EndpointError(
                f"{path} is not a socket: something has replaced it",
                hint=f"do not use this server; stop it: llmlab stop {name}",
            )
    except OSError as error:
        raise gone(name, error) from error
    try:
        opened.settimeout(_CONNECT_S)
        opened.connect(str(path) if path else ("127.0.0.1", endpoint.port))
        opened.settimeout(timeout_s)
        if verify:
            verify(opened)
    except OSError as error:
        opened.close()
        # A unix socket whose queue of connections is full says so at once.
        raise (_full(name) if isinstance(error, BlockingIOError) else gone(name, error)) from error
    except BaseException:
        opened.close()
        raise
    return opened


def _full(name: str) -> ServerBusyError:
    return ServerBusyError(
        f"server {name!r} is busy: more connections wait than it takes",
        hint=f"ask again later; if that does not help, stop it: llmlab stop {name}",
    )


def gone(name: str, error: Exception | None, answer: Answer | None = None) -> ServerStoppedError:
    """The error for a server that is not there, or not any more; it keeps what had come."""
    said = getattr(error, "message", error)
    reason = f": {said}" if said and str(said) else ""
    what = "ended in mid-answer" if answer and answer.text else "does not answer"
    stopped = ServerStoppedError(
        f"server {name!r} {what}{reason}",
        hint=f"see what happened: llmlab logs {name}",
    )
    stopped.answer = answer
    return stopped
