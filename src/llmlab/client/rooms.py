"""Reaching a classroom that somebody else has opened: its address, its certificate, its own questions."""

from __future__ import annotations

import hashlib
import http
import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from llmlab.client.connection import Connection
from llmlab.client.refusing import refused
from llmlab.errors import MALFORMED, EndpointError, RequestError, ServerStoppedError, UsageError

CONNECT_S = 10.0
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A room's address, read.

    Attributes:
        origin: Scheme, host and port.
        host: The host alone.
        port: The port.
        tls: Whether the connection is encrypted.
        pin: Fingerprint of the room's certificate, SHA-256 in hexadecimal; "" if the address has none.
    """

    origin: str
    host: str
    port: int
    tls: bool
    pin: str


def read_address(url: str) -> Address:
    """A room's address as a learner was given it.

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
    tls = found.scheme == "https"
    return Address(
        origin=f"{found.scheme}://{found.netloc}",
        host=found.hostname or "",
        port=found.port or (443 if tls else 80),
        tls=tls,
        pin=_pin(found.fragment),
    )


def connect(url: str, timeout_s: float = CONNECT_S) -> socket.socket:
    """A connection to a room; with a fingerprint in its address, to whoever has that very certificate.

    Args:
        url: The room's address.
        timeout_s: Longest wait until it is there, seconds.

    Raises:
        OSError: If nobody answers, or the certificate is not trusted here.
        EndpointError: If the certificate is another one; nothing was sent.
    """
    address = read_address(url)
    opened = socket.create_connection((address.host, address.port), timeout=timeout_s)
    try:
        if address.tls:
            opened = _context(pinned=bool(address.pin)).wrap_socket(opened, server_hostname=address.host)
            _check(address, opened)
    except BaseException:
        opened.close()
        raise
    return opened


def call(
    url: str, key: str, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float
) -> Any:
    """Ask a room something of its own, such as what was used.

    Raises:
        RequestError: If it does not let that in, or is no room.
        ServerStoppedError: If it does not answer.
        EndpointError: If its certificate is another one.
    """
    origin = read_address(url).origin
    host = urlsplit(url).netloc
    headers = {"Host": host, "Connection": "close", "Authorization": f"Bearer {key}"}
    payload = None if body is None else json.dumps(body).encode()
    try:
        opened = connect(url, min(timeout_s, CONNECT_S))
        opened.settimeout(timeout_s)
        with Connection(opened, timeout_s) as connection:
            connection.request(method, path, body=payload, headers=headers)
            with connection.getresponse() as response:
                status, raw = response.status, response.read(_MOST_BYTES)
                again = response.getheader("Retry-After")
    except (OSError, http.client.HTTPException) as error:
        raise unreached(url, error) from error
    try:
        found = json.loads(raw)
        if status != http.HTTPStatus.OK:
            str(found["error"]["message"])
    except MALFORMED:
        raise RequestError(f"what answers at {origin} is no classroom of llmlab ({status})") from None
    if status != http.HTTPStatus.OK:
        raise refused(host, status, raw, again)
    return found


def unreached(url: str, error: BaseException | None) -> ServerStoppedError:
    """The error for a room that does not answer.

    Args:
        url: Its address.
        error: What was seen; of a `ServerStoppedError`, what it came from counts.
    """
    answer = error.answer if isinstance(error, ServerStoppedError) else None
    cause = error.__cause__ if isinstance(error, ServerStoppedError) else error
    what = "ended in mid-answer" if answer and answer.text else "does not answer"
    hint = "is it open? Ask the teacher, and try again"
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = "use the whole address, with what stands after its # sign"
    origin = read_address(url).origin
    better = ServerStoppedError(f"the classroom at {origin} {what}: {_reason(cause)}", hint=hint)
    better.answer = answer
    better.__cause__ = cause
    return better


def is_closed(error: ServerStoppedError) -> bool:
    """Whether the room's machine answers, and no room on it."""
    return isinstance(error.__cause__, ConnectionError)


def _reason(cause: BaseException | None) -> str:
    if isinstance(cause, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"this machine does not trust its certificate ({cause.verify_message})"
    if isinstance(cause, TimeoutError):
        return "nothing came in time"
    if isinstance(cause, socket.gaierror):
        return "this machine does not know its name"
    return str(getattr(cause, "strerror", None) or cause or "the connection was closed")


def _check(address: Address, opened: ssl.SSLSocket) -> None:
    """Refuse another certificate than the one in the address.

    Raises:
        EndpointError: If it is another one.
    """
    shown = opened.getpeercert(binary_form=True) or b""
    if address.pin and hashlib.sha256(shown).hexdigest() != address.pin:
        raise EndpointError(
            f"what answers at {address.origin} is not the room that you were given: its certificate is another one",
            hint="ask the teacher for the room's present address; no key and no question was sent",
        )


@cache
def _context(*, pinned: bool) -> ssl.SSLContext:
    """Trusts the authorities that this machine trusts; pinned, nobody, as `_check` decides."""
    if not pinned:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it is that very certificate, under whatever name
    context.verify_mode = ssl.CERT_NONE
    return context


def _pin(fragment: str) -> str:
    """The fingerprint of the room's certificate, which stands after the # sign; "" if none does.

    Raises:
        UsageError: If something else stands there.
    """
    if not fragment:
        return ""
    name, _, digest = fragment.partition("=")
    digest = digest.lower()
    if name != "sha256" or len(digest) != 64 or set(digest) - set("0123456789abcdef"):  # noqa: PLR2004 - its length
        raise UsageError(
            "what stands after # in the address is no fingerprint", hint="copy the whole address"
        )
    return digest
