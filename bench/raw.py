"""The least that can read a server's answer: a socket, `recv`, and a search for bytes."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path

_CONTENT = b'"content":"'
_DONE = b"data: [DONE]"


@dataclass(frozen=True)
class Reading:
    """What was read.

    Attributes:
        ttft_s: From before connecting to the first piece of text.
        stream_s: From the first piece of text to the last.
        total_s: From before connecting to the end of the stream.
        cpu_s: CPU time of the reading thread.
        pieces: Number of events with text.
    """

    ttft_s: float
    stream_s: float
    total_s: float
    cpu_s: float
    pieces: int


def payload(prompt: str, *, max_tokens: int, temperature: float, seed: int) -> bytes:
    """The body that `ask` sends."""
    return json.dumps(
        {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            "seed": seed,
        }
    ).encode()


def chat(place: Path | tuple[str, int], body: bytes, *, key: str = "") -> Reading:
    """Send a request to a unix socket or a TCP port, read the stream to its end."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"{f'Authorization: Bearer {key}{chr(13)}{chr(10)}' if key else ''}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    cpu, began = time.thread_time(), time.perf_counter()
    first = last = 0.0
    pieces, tail = 0, b""
    family = socket.AF_INET if isinstance(place, tuple) else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as opened:
        opened.connect(place if isinstance(place, tuple) else str(place))
        opened.sendall(head + body)
        while data := opened.recv(65536):
            # What begins in one packet may end in the next.
            seen = tail + data
            if found := seen.count(_CONTENT):
                last = time.perf_counter()
                first = first or last
                pieces += found
            if _DONE in seen:
                break
            tail = seen[-len(_CONTENT) + 1 :]
    return Reading(
        ttft_s=first - began,
        stream_s=last - first,
        total_s=time.perf_counter() - began,
        cpu_s=time.thread_time() - cpu,
        pieces=pieces,
    )


def healthy(path: Path) -> bool:
    """Whether `/health` says 200."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
            opened.settimeout(1)
            opened.connect(str(path))
            opened.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return opened.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
