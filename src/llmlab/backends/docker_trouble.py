"""What keeps one from the container engine, in words that say what to do."""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmlab.errors import DaemonError, DaemonPermissionError, LabError

TIMEOUT_S = 20
"""How long the engine is waited for."""
USUAL = "unix:///var/run/docker.sock"
"""Where Docker Engine listens if nobody says otherwise."""
# An engine that hangs is asked again and again within one verb: not with full patience.
# And docker-py leaves the socket open that an engine has refused.
_LATELY_S, _AGAIN_S = 60.0, 0.5
_failed: dict[str | None, float] = {}  # address → when it did not answer
_START_HINT = "it is installed and does not run; start it: sudo systemctl start docker"
_INSTALL_HINT = (
    "install Docker Engine (Debian, Ubuntu: sudo apt install docker.io) and start it "
    "(sudo systemctl start docker)"
)


def knock(address: str | None = None) -> None:
    """See whether somebody listens where Docker usually does.

    A machine without Docker is a normal case: it is told in microseconds,
    before 0.15 s of imports; so is an engine that has just been found to hang, for
    whoever asks several things of it. Contexts and remote engines are left to the
    `docker` package.

    Raises:
        DaemonError: If nobody does, or whoever does says nothing.
        DaemonPermissionError: If it refuses this user.
    """
    host = address or wanted()
    if host is None or not host.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX) as door:
        patience_s = _AGAIN_S if failed_lately(host) else TIMEOUT_S / 2
        door.settimeout(patience_s)
        try:
            door.connect(host.removeprefix("unix://"))
            door.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            said = door.recv(5)
        except PermissionError as error:
            raise _no_permission() from error
        except TimeoutError as error:
            raise _silence(host, patience_s) from error
        except OSError as error:
            raise _no_daemon(address, installed=isinstance(error, ConnectionRefusedError)) from error
    if said and not b"HTTP/".startswith(said):
        raise DaemonError(f"what answers at {host} is no container engine", hint=_INSTALL_HINT)
    _failed.pop(host, None)


def failed_lately(address: str | None) -> bool:
    """Whether an engine did not answer a moment ago."""
    return time.monotonic() - _failed.get(address, -math.inf) < _LATELY_S


def _silence(address: str | None, waited_s: float) -> DaemonError:
    """The error for an engine that takes connections and says nothing; it is remembered for a while."""
    what = "still does not answer"
    if not failed_lately(address):
        _failed[address] = time.monotonic()
        what = f"did not answer within {waited_s:g} s"
    return DaemonError(
        f"the container engine {what}",
        hint="look at it: docker info; if that hangs as well, restart it: sudo systemctl restart docker",
    )


def wanted() -> str | None:
    """Where the user's environment says that the engine listens; None where a context says it."""
    if host := os.environ.get("DOCKER_HOST"):
        return host
    return None if os.environ.get("DOCKER_CONTEXT") or _config().exists() else USUAL


def context_mark() -> str:
    """What changes when another context is chosen, also by `docker context use` in a terminal."""
    if name := os.environ.get("DOCKER_CONTEXT"):
        return name
    try:
        return f"{_config()} {_config().stat().st_mtime_ns}"
    except OSError:
        return ""


def _config() -> Path:
    """Where the `docker` command keeps, among others, which context is chosen."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def check_context(contexts: Any) -> None:
    """Refuse a context that does not exist: the `docker` package would take the default one."""
    name = os.environ.get("DOCKER_CONTEXT")
    if name and not os.environ.get("DOCKER_HOST") and contexts.get_context(name) is None:
        raise DaemonError(f"there is no Docker context {name!r}", hint="list them: docker context ls")


def of(error: Exception, address: str | None = None) -> LabError:
    """An error of the connection's to the engine at an address, as one of ours."""
    chain = list(_causes(error))
    # Before the numbers, which OpenSSL has of its own.
    if refused := next((each for each in chain if isinstance(each, ssl.SSLError)), None):
        return _not_trusted(address or wanted(), refused)
    if any(getattr(e, "errno", None) in {errno.EACCES, errno.EPERM} for e in chain) or any(
        isinstance(e, PermissionError) or "permission denied" in str(e).lower() for e in chain
    ):
        return _no_permission()
    if "timed out" in str(error).lower():
        return _silence(address or wanted(), TIMEOUT_S)
    return _no_daemon(address, installed=any(isinstance(e, ConnectionRefusedError) for e in chain))


def _not_trusted(address: str | None, error: ssl.SSLError) -> DaemonError:
    """The error for certificates that one side does not accept."""
    why = getattr(error, "verify_message", "") or error.reason or str(error)
    return DaemonError(
        f"the container engine at {address} and this machine do not accept each other's certificates: {why}",
        hint="give Docker the right ones: docker context update NAME --docker host=…,ca=…,cert=…,key=…",
    )


def _no_permission() -> DaemonPermissionError:
    return DaemonPermissionError(
        "Docker refuses this user: no permission on its socket",
        hint="sudo usermod -aG docker $USER, then log in again "
        "(membership is as good as root on this machine)",
    )


def _no_daemon(address: str | None, *, installed: bool) -> DaemonError:
    _failed[address or wanted()] = time.monotonic()
    named = os.environ.get("DOCKER_HOST")
    if address and address != named:
        return DaemonError(f"no container engine answers at {address}", hint="start that engine again")
    where = f" at DOCKER_HOST={named}" if named else ""
    # A socket at which nobody listens was made by an engine that is installed here.
    here = installed and (named or "unix://").startswith("unix://")
    return DaemonError(f"no container engine answers{where}", hint=_START_HINT if here else _INSTALL_HINT)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, what caused it, and what libraries put into their arguments."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        current = todo.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        todo += [current.__cause__, current.__context__]
        todo += [argument for argument in current.args if isinstance(argument, BaseException)]


def reason(error: Exception) -> str:
    """What the engine says of an error."""
    return str(getattr(error, "explanation", None) or error)
