"""The address by which others reach this machine."""

from __future__ import annotations

import contextlib
import socket


def reached_at(host: str) -> str:
    """The address by which others reach what listens at `host`."""
    if host not in {"0.0.0.0", "::", ""}:  # noqa: S104 - it is compared
        return host
    family, other = (socket.AF_INET6, "2001:db8::1") if host == "::" else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect((other, 9))  # no packet is sent; the kernel only chooses an address
        return str(probe.getsockname()[0])
    return socket.gethostname()
