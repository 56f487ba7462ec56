"""Who is at the other end of a unix socket, as the kernel says."""

from __future__ import annotations

import re
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


def descends_from(process: int, ancestor: int) -> bool:
    """Whether a process is another one, or a child of it, or of its children."""
    while process > 1:
        if process == ancestor:
            return True
        try:
            status = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        # A whole line: the first one is the process's name, which it chooses itself.
        parent = re.search(r"^PPid:\t(\d+)$", status, re.MULTILINE)
        process = int(parent[1]) if parent else 0
    return False


def stranger(name: str, what: str) -> EndpointError:
    """The error for a peer that is not the server."""
    return EndpointError(
        f"what answers for server {name!r} is not that server: {what}",
        hint=f"nothing was sent; stop it: llmlab stop {name}",
    )
