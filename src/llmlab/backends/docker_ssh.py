"""Container engines of other machines, reached through `ssh`, as the `docker` command does.

Each connection is the `ssh` program that runs `docker system dial-stdio` there. All of them
share one encrypted connection where the program can do that, so that the second takes
milliseconds. Nothing is asked on the way: who needs a password is told so.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import weakref
from contextlib import suppress
from typing import IO, Any
from urllib.parse import urlsplit

from llmlab import runtime
from llmlab.backends import docker_contexts
from llmlab.errors import DaemonError

PROGRAM_VARIABLE = "LLMLAB_SSH"
"""Names the words that are used in place of `ssh`, such as "ssh -F FILE"."""
_CONNECT_S = 8
_KEPT_S = 60
# Longer paths do not fit into a unix socket's address; OpenSSH adds 17 characters while it makes one.
_MOST_PATH = 107 - 17 - 40
_ASKED = "docker system dial-stdio"
_MOST_SAID = 4096


def client(docker: Any, address: str, timeout_s: float) -> Any:
    """A client of the `docker` package for an engine behind ssh.

    Args:
        docker: The package.
        address: `ssh://[user@]host[:port]`.
        timeout_s: How long each answer is waited for.

    Raises:
        DaemonError: If there is no ssh program, or it does not get there.
    """
    found = docker.APIClient(base_url="unix:///ssh", version=docker_contexts.ASKS_NOTHING, timeout=timeout_s)
    channels = _Channels(command(address), timeout_s)
    found.mount("http+docker://", _adapter(found, channels))
    try:
        return docker_contexts.negotiated(found)
    except Exception as error:
        if said := channels.said():
            raise DaemonError(
                f"no container engine answers at {address}: {said}", hint=_hint(said, address)
            ) from error
        raise


def command(address: str) -> list[str]:
    """The command that connects to an engine.

    Args:
        address: `ssh://[user@]host[:port]`.

    Raises:
        DaemonError: If the address names no host, or there is no ssh program.
    """
    place = urlsplit(address)
    words = shlex.split(os.environ.get(PROGRAM_VARIABLE) or "ssh")
    if not place.hostname or place.hostname.startswith("-") or (place.username or "").startswith("-"):
        raise DaemonError(f"{address!r} names no host", hint="write ssh://user@host")
    if not words or not shutil.which(words[0]):
        raise DaemonError(f"there is no program {(words or ['ssh'])[0]}", hint="install OpenSSH's client")
    options = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_S}"]
    # A host that is gone is noticed by its silence.
    options += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
    folder = runtime.runtime_dir() / ".ssh"
    if len(str(folder)) < _MOST_PATH:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        options += ["-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/%C"]
        options += ["-o", f"ControlPersist={_KEPT_S}"]
    if place.port:
        options += ["-p", str(place.port)]
    if place.username:
        options += ["-l", place.username]
    return [*words, *options, "--", place.hostname, _ASKED]


class _Channel(socket.socket):
    """One end of a pair whose other end the program has."""

    def close(self) -> None:
        """Close it; the program sees that, and ends."""
        with suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)
        super().close()


# Programs that were started and may still run: Python complains of one that nobody has waited for.
_running: list[subprocess.Popen[bytes]] = []
_opener = 0
_guard = threading.Lock()


@atexit.register
def _end_all() -> None:
    # A forked child has its parent's list.
    for process in _running if _opener == os.getpid() else ():
        process.kill()
        process.wait()


class _Channels:
    """Opens connections.

    Args:
        argv: The command.
        timeout_s: How long whoever reads waits.
    """

    def __init__(self, argv: list[str], timeout_s: float) -> None:
        self._argv = argv
        self._timeout_s = timeout_s
        self._told: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this
        weakref.finalize(self, self._told.close)

    def open(self) -> socket.socket:
        """A new connection."""
        global _opener  # noqa: PLW0603 - whose the programs are
        ours, theirs = socket.socketpair()
        with theirs, _guard:
            _opener = os.getpid()
            _running[:] = [each for each in _running if each.poll() is None]
            # Ctrl-C in a terminal is meant for whoever asked.
            process = subprocess.Popen(
                self._argv,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._told,
                start_new_session=True,
            )
            _running.append(process)
        channel = _Channel(fileno=ours.detach())
        channel.settimeout(self._timeout_s)
        return channel

    def said(self) -> str:
        """The last line that the program has written; "" if none."""
        self._told.seek(0)
        lines = self._told.read(_MOST_SAID).decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _adapter(client: Any, channels: _Channels) -> Any:
    """The `docker` package's own adapter of unix sockets, with other sockets."""
    unix = type(client.get_adapter(client.base_url))
    pool = type(client.get_adapter(client.base_url).get_connection(client.base_url))
    connection = type(pool("http+docker://localhost", "/ssh")._new_conn())  # noqa: SLF001 - see above

    class Connection(connection):  # type: ignore[misc, valid-type] # without annotations
        def connect(self) -> None:
            self.sock = channels.open()

    class Pool(pool):  # type: ignore[misc, valid-type] # as above
        def _new_conn(self) -> Any:
            return Connection(self.base_url, self.socket_path, self.timeout)

    class Adapter(unix):  # type: ignore[misc, valid-type] # as above
        def get_connection(self, url: Any, proxies: Any = None) -> Any:  # noqa: ARG002 - the package's own name
            with self.pools.lock:
                found = self.pools.get(url)
                if not found:
                    found = Pool(url, self.socket_path, self.timeout, maxsize=self.max_pool_size)
                    self.pools[url] = found
            return found

    made: Any = Adapter("http+unix:///ssh", client.timeout)
    return made


def _hint(said: str, address: str) -> str:
    low = said.lower()
    try_it = f"in a terminal: docker -H {address} version"
    if "host key" in low:
        return f"connect once by hand, and compare the key that it shows; {try_it}"
    if "permission denied" in low:
        return f"ssh asks nothing here: use a key, with ssh-agent if it has a passphrase; {try_it}"
    if "not found" in low:
        return "the docker command has to be there as well; install it on that machine"
    return try_it
