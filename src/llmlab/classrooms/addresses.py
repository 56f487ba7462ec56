"""Addresses: by which others reach this machine, and what a learner was given."""

from __future__ import annotations

import contextlib
import socket
from urllib.parse import SplitResult, urlsplit

from llmlab.errors import UsageError


def reached_at(host: str) -> str:
    """The address by which others reach what listens at `host`."""
    if host not in {"0.0.0.0", "::", ""}:  # noqa: S104 - it is compared
        return host
    family, other = (socket.AF_INET6, "2001:db8::1") if host == "::" else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect((other, 9))  # no packet is sent; the kernel only chooses an address
        return str(probe.getsockname()[0])
    return socket.gethostname()


def read_address(url: str) -> SplitResult:
    """A room's address, read.

    Raises:
        UsageError: If it is none.
    """
    try:
        found = urlsplit(url)
        fine = found.scheme in {"http", "https"} and found.hostname and found.port != 0
    except ValueError:
        fine = False
    if not fine or found.username or found.path not in {"", "/"} or found.query:
        raise UsageError(
            f"{url[:80]!r} is not a room's address", hint="such as https://192.0.2.7:8443/#sha256=…"
        )
    return found


def pin_of(address: SplitResult) -> str:
    """The fingerprint of the room's certificate, which stands after the # sign; "" if none does.

    Raises:
        UsageError: If something else stands there.
    """
    fragment = address.fragment
    if not fragment:
        return ""
    name, _, digest = fragment.partition("=")
    digest = digest.lower()
    if name != "sha256" or len(digest) != 64 or set(digest) - set("0123456789abcdef"):  # noqa: PLR2004 - its length
        raise UsageError(
            "what stands after # in the address is no fingerprint", hint="copy the whole address"
        )
    return digest
