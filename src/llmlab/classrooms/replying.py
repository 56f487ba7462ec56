"""An answer on its way to a learner, and what of it is counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

from starlette.types import Scope, Send

from llmlab.classrooms.ledger import Flight
from llmlab.classrooms.refusals import Refusal
from llmlab.client.exchange import count
from llmlab.errors import MALFORMED

STALL_S = 10.0
_EVENT_BYTES = 4 << 20
_END = b"[DONE]"


class Reply:
    """The response to one request; an error in its middle becomes the last event of the stream.

    Args:
        scope: ASGI's.
        send: ASGI's.
        stalled: Called if the learner takes nothing for a while.
    """

    def __init__(self, scope: Scope, send: Send, stalled: Callable[[], None]) -> None:
        self._abort: Callable[[], None] | None = (scope.get("state") or {}).get("abort")
        self._send = send
        self._stalled = stalled
        self.started = False
        self.ended = False

    async def whole(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """All at once."""
        fields = {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})}
        await self._start(status, {**fields, "Content-Length": str(len(body))})
        await self._body(body, more=False)

    async def piece(self, data: bytes) -> None:
        """A piece of a stream, at once."""
        if not self.started:
            await self._start(
                200,
                {
                    "Content-Type": "text/event-stream",
                    "Cache-Control": "no-store",
                    "X-Accel-Buffering": "no",  # a proxy before the room must not collect it
                },
            )
        await self._body(data, more=True)

    async def end(self) -> None:
        """The stream is over."""
        await self._body(b"", more=False)

    async def refuse(self, refusal: Refusal) -> None:
        """Say why not, or why not any further."""
        if self.ended:
            return
        if self.started:
            await self._body(refusal.event(), more=False)
        else:
            await self.whole(refusal.status, refusal.body(), refusal.headers())

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self.started = True
        fields = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
        await self._sent({"type": "http.response.start", "status": status, "headers": fields})

    async def _body(self, data: bytes, *, more: bool) -> None:
        self.ended = not more
        await self._sent({"type": "http.response.body", "body": data, "more_body": more})

    async def _sent(self, message: dict[str, Any]) -> None:
        timer = asyncio.get_running_loop().call_later(STALL_S, self._give_up)
        try:
            await self._send(message)
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        """Whoever reads nothing holds a slot that others wait for."""
        self.ended = True
        if self._abort:
            self._abort()
        self._stalled()


class Events:
    """The events of a server's stream: what is passed on, and what is counted.

    Args:
        flight: Where it is counted.
        wants_usage: Whether the learner wants the last figures.
    """

    def __init__(self, flight: Flight, *, wants_usage: bool) -> None:
        self._flight = flight
        self._wants_usage = wants_usage
        self._rest = b""
        self._pieces = 0
        self.done = False

    def take(self, data: bytes) -> Iterator[bytes]:
        """The events that are complete with these bytes and are for the learner, counted already.

        Raises:
            ValueError: If it is no stream of events.
        """
        *whole, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(self._rest) > _EVENT_BYTES:
            raise ValueError("an event without an end")
        for event in whole:
            if self._count(event):
                yield event + b"\n\n"

    def _count(self, event: bytes) -> bool:
        """Count what an event tells; whether it is for the learner."""
        text = event.removeprefix(b"data:").strip()
        if text == _END:
            self.done = True
            return True
        try:
            data = json.loads(text)
            if progress := data.get("prompt_progress"):
                self._flight.note(prompt=count(progress["total"]))
                return False
            if usage := data.get("usage"):
                self._flight.note(
                    prompt=count(usage["prompt_tokens"]), completion=count(usage["completion_tokens"])
                )
            elif any(map(_says, data.get("choices") or ())):
                self._pieces += 1
                self._flight.note(completion=self._pieces)  # llama-server sends one for each token
            return bool(data.get("choices")) or not usage or self._wants_usage
        except MALFORMED:
            return True  # a comment, or an error, which is for the learner to see


def _says(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return any(
        (choice.get("text"), *(delta.get(each) for each in ("content", "reasoning_content", "tool_calls")))
    )
