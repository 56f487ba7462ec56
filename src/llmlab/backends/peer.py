"""Who is at the other end of a unix socket, as the kernel says."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from llmlab.errors import EndpointError

_UCRED = struct.Struct("3i")  # pid, uid, gid


def pid(opened: socket.socket) -> int | None:
    """The peer's process id; None where the kernel does not tell (not Linux, TCP).

    It is 0, and so None, if the peer is in a pid namespace that is not ours or below.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None or opened.family != socket.AF_UNIX:
        return None
    found: int = _UCRED.unpack(opened.getsockopt(socket.SOL_SOCKET, option, _UCRED.size))[0]
    return found or None


def in_container(process: int, container_id: str) -> bool | None:
    """Whether a process belongs to a container; None if that cannot be seen.

    Its control group's path contains the container's id, with Docker and
    Podman, with cgroup v1 and v2.
    """
    try:
        return container_id in Path(f"/proc/{process}/cgroup").read_text(encoding="utf-8")
    except OSError:
        return None


def stranger(name: str, what: str) -> EndpointError:
    """The error for a peer that is not the server."""
    return EndpointError(
        f"what answers for server {name!r} is not that server: {what}",
        hint=f"nothing was sent; stop it: llmlab stop {name}",
    )
