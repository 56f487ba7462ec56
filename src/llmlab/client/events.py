"""Server-sent events."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from llmlab.errors import RequestError

_READ_BYTES = 65536
_EVENT_BYTES = 1 << 20


def events(
    response: http.client.HTTPResponse, timeout_s: float, on_comment: Callable[[str], None] | None = None
) -> Iterator[tuple[float, dict[str, Any]]]:
    """The JSON objects of a server-sent event stream, up to its `[DONE]`.

    Each with the moment at which it was read. Events that were read at once have
    the same moment: on a busy machine a whole answer may, and the time that it
    takes to look at them is no measure of the engine.

    Args:
        response: The stream.
        timeout_s: Longest wait for the next event, seconds.
        on_comment: Called with the text of each comment.

    Raises:
        RequestError: If an event is not a JSON object.
        TimeoutError: If no event comes in time, whatever else does: comments keep a connection alive.
    """
    buffer = b""
    heard = time.perf_counter()
    while data := response.read1(_READ_BYTES):
        read_at = time.perf_counter()
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        if len(buffer) > _EVENT_BYTES:
            raise RequestError(f"the server sent a line of more than {_EVENT_BYTES} bytes")
        for line in lines:
            if on_comment and line.startswith(b":"):
                on_comment(line[1:].decode(errors="replace").strip())
            if not line.startswith(b"data:"):
                continue
            text = line[5:].strip()
            if text == b"[DONE]":
                return
            try:
                event = json.loads(text)
            except (ValueError, RecursionError):
                event = None
            if not isinstance(event, dict):
                raise RequestError(f"the server sent something that is not an event: {text[:80]!r}")
            yield read_at, event
            heard = time.perf_counter()
        if time.perf_counter() - heard > timeout_s:
            raise TimeoutError
