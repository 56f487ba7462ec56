"""What keeps one from the container engine, in words that say what to do."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmlab.errors import DaemonError, DaemonPermissionError, LabError

TIMEOUT_S = 20
"""How long the engine is waited for."""
_INSTALL_HINT = (
    "install Docker Engine (Debian, Ubuntu: sudo apt install docker.io) and start it "
    "(sudo systemctl start docker)"
)


def knock() -> None:
    """See whether somebody listens where Docker usually does.

    A machine without Docker is a normal case: it is told in microseconds,
    before 0.15 s of imports. Contexts and remote engines are left to the
    `docker` package.
    """
    host = os.environ.get("DOCKER_HOST")
    if not host:
        config = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
        if os.environ.get("DOCKER_CONTEXT") or config.exists():
            return
        host = "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(TIMEOUT_S)
        try:
            door.connect(host.removeprefix("unix://"))
        except PermissionError as error:
            raise _no_permission() from error
        except OSError as error:
            raise _no_daemon() from error


def check_context(contexts: Any) -> None:
    """Refuse a context that does not exist: the `docker` package would take the default one."""
    name = os.environ.get("DOCKER_CONTEXT")
    if name and not os.environ.get("DOCKER_HOST") and contexts.get_context(name) is None:
        raise DaemonError(f"there is no Docker context {name!r}", hint="list them: docker context ls")


def of(error: Exception) -> LabError:
    """An error of the connection's, as one of ours."""
    chain = list(_causes(error))
    if any(getattr(e, "errno", None) in {errno.EACCES, errno.EPERM} for e in chain) or any(
        isinstance(e, PermissionError) or "permission denied" in str(e).lower() for e in chain
    ):
        return _no_permission()
    if "timed out" in str(error).lower():
        return DaemonError(
            f"the container engine did not answer within {TIMEOUT_S} s",
            hint="look at it: docker info",
        )
    return _no_daemon()


def _no_permission() -> DaemonPermissionError:
    return DaemonPermissionError(
        "Docker refuses this user: no permission on its socket",
        hint="sudo usermod -aG docker $USER, then log in again "
        "(membership is as good as root on this machine)",
    )


def _no_daemon() -> DaemonError:
    where = os.environ.get("DOCKER_HOST")
    return DaemonError(
        "no container engine answers" + (f" at DOCKER_HOST={where}" if where else ""), hint=_INSTALL_HINT
    )


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
