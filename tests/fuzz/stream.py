"""Search for answers that break the client: `python -m tests.fuzz.stream --runs 1000000`.

Whatever bytes a server sends, they are an answer or an error of ours. What breaks that is
written to the corpus as `crash-…`, and `python -m tests.fuzz.stream FILE` repeats it.
"""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from itertools import count

from llmlab.errors import RequestError, ServerStoppedError
from llmlab.specs import Endpoint
from tests.fuzz.searching import search

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
EVENTS = b"".join(
    b"data: " + json.dumps(event).encode() + b"\n\n"
    for event in (
        {"choices": [{"delta": {"role": "assistant", "content": "H\u00e9"}}]},
        {
            "choices": [
                {
                    "delta": {"content": "!"},
                    "finish_reason": "stop",
                    "logprobs": {
                        "content": [{"token": "!", "bytes": [33], "logprob": -0.1, "top_logprobs": []}]
                    },
                }
            ]
        },
        {
            "choices": [],
            "usage": {
                "prompt_tokens": 3,
                "completion_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 1},
            },
            "timings": {"predicted_n": 9, "predicted_ms": 4.5, "prompt_per_second": 100.0, "cache_n": 1},
        },
    )
)
MEASURED = (
    b"data: "
    + json.dumps(
        {"content": "a", "tokens": [1], "tokens_predicted": 1, "timings": {"prompt_n": 3, "prompt_ms": 1.5}}
    ).encode()
)
SEEDS = {
    "answer": HEAD + EVENTS + b"data: [DONE]\n\n",
    "chunked": HEAD[:-2]
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + f"{len(EVENTS):x}\r\n".encode()
    + EVENTS
    + b"\r\n0\r\n\r\n",
    "refusal": b'HTTP/1.1 400 Bad Request\r\nContent-Length: 53\r\n\r\n{"error":{"code":400,"message":"m","n_prompt_tokens":9}}',
    "measured": HEAD + MEASURED + b"\n\n",
    "tokens": b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"tokens": [1,2]}',
}
NUMBERS = count()


def attempt(data: bytes) -> None:
    """Let each kind of request be answered with these bytes."""
    from llmlab.client import ChatRequest, Client  # noqa: PLC0415 - after coverage is switched on

    here, there = socket.socketpair()
    with here, there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        there.sendall(data)
        there.shutdown(socket.SHUT_WR)
        client = Client("a", Endpoint(port=1), opener=lambda: here)
        with suppress(RequestError, ServerStoppedError):
            kind = next(NUMBERS) % 4
            if kind < 2:
                answer = client.chat(ChatRequest(prompt="hi"), lambda _: None)
                json.dumps(answer.to_dict(), ensure_ascii=False, allow_nan=False).encode()
            elif kind == 2:
                client.complete("hi", tokens=2)
            else:
                client.tokens_of("hi")


if __name__ == "__main__":
    search(
        "stream",
        __doc__,
        tuple(f"llmlab.client.{name}" for name in ("client", "completing", "events", "exchange")),
        lambda: SEEDS,
        attempt,
    )
