"""One question on its way: a turn, a server, the answer piece by piece, the charge."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx

from llmlab.classrooms import asking
from llmlab.classrooms.asking import Asked
from llmlab.classrooms.ledger import Charge, Flight, Outcome
from llmlab.classrooms.refusals import Refusal
from llmlab.classrooms.replying import Events, Reply
from llmlab.classrooms.room import CLOSING, Active, Room
from llmlab.classrooms.servers import Upstream
from llmlab.client.exchange import count
from llmlab.errors import MALFORMED

_LOOK_S = 0.5
_ALIVE_S = 10.0
_MOST_BYTES = 32 << 20
_OK, _UNAVAILABLE = 200, 503


class _Unreached(Exception):  # noqa: N818 - another server is tried
    """A server that has taken nothing."""


class Relay:
    """Answers one question.

    Args:
        room: The room.
        active: The request.
        reply: Where the answer goes.
    """

    def __init__(self, room: Room, active: Active, reply: Reply) -> None:
        self._room = room
        self._active = active
        self._reply = reply
        self._learner = active.who.name
        self._waited_s = 0.0
        self._may = 0

    async def run(self, path: asking.Path, raw: bytes, *, repeats: str) -> None:
        """Answer it, or say why not."""
        try:
            await self._run(path, raw, repeats)
        except Refusal as refusal:
            self._room.refused(self._active.who)
            await self._reply.refuse(refusal)
        except asyncio.CancelledError:
            if self._active.refusal is None:
                raise
            await self._reply.refuse(self._active.refusal)
        finally:
            self._room.meter.forget(self._learner, self._active.id)

    async def _run(self, path: asking.Path, raw: bytes, repeats: str) -> None:
        room = self._room
        if room.closing:
            raise CLOSING
        asked = asking.read(path, raw, learner=self._learner, repeats=repeats)
        models = room.pool.models(self._learner)
        model = asked.model or (models[0] if len(models) == 1 else "")
        if not model:
            raise Refusal(400, f"which model? there are: {', '.join(models) or 'none yet'}", "bad_request")
        wanted = asked.max_tokens or room.quota.max_tokens
        self._may = room.meter.reserve(self._learner, self._active.id, wanted, repeats=asked.retried)
        tried: set[str] = set()
        while True:
            upstream = await self._turn(asked, model, tried)
            try:
                await self._ask(asked, model, upstream)
            except _Unreached:
                tried.add(upstream.name)
                room.pool.missed(upstream)
            else:
                return
            finally:
                room.pool.give_back(upstream)
                room.turns.ended(self._learner)

    async def _turn(self, asked: Asked, model: str, tried: set[str]) -> Upstream:
        """Wait for a slot; a stream is told its place meanwhile."""
        turns, began = self._room.turns, time.monotonic()
        waiter = turns.join(self._learner, lambda: self._room.pool.take(model, self._learner, tried))
        told, told_at = 0, began
        try:
            while not (await asyncio.wait({waiter.granted}, timeout=_LOOK_S))[0]:
                place = turns.ahead(waiter) + 1
                now = time.monotonic()
                if asked.stream and (place != told or now - told_at > _ALIVE_S):
                    told, told_at = place, now
                    await self._reply.piece(f": waiting, position {place}\n\n".encode())
        except BaseException:
            turns.leave(waiter)
            # A slot that came at the same moment goes to the next one.
            if waiter.granted.done() and not waiter.granted.cancelled() and not waiter.granted.exception():
                self._room.pool.give_back(waiter.granted.result())
                turns.ended(self._learner)
            raise
        self._waited_s += time.monotonic() - began
        return waiter.granted.result()

    async def _ask(self, asked: Asked, model: str, upstream: Upstream) -> None:
        """Ask a server, and charge what it has done.

        Raises:
            _Unreached: If it has done nothing.
        """
        flight = self._begun(asked, model, upstream)
        outcome: Outcome | None = "died"
        try:
            outcome = await self._answered(asked, upstream, flight)
        except _Unreached:
            outcome = None
            raise
        except httpx.HTTPError:
            raise _died(upstream) from None
        except asyncio.CancelledError:
            outcome = "stopped" if self._active.refusal else "gone"
            raise
        finally:
            if outcome is None:
                flight.discard()
            else:
                self._charge(flight, outcome)

    def _charge(self, flight: Flight, outcome: Outcome) -> None:
        if not flight.ended:
            self._room.charge(flight.end(outcome))

    def _begun(self, asked: Asked, model: str, upstream: Upstream) -> Flight:
        charge = Charge(
            id=self._active.id,
            learner=self._learner,
            at=time.time(),
            model=model,
            server=upstream.name,
            retried=asked.retried,
            waited_s=self._waited_s,
        )
        try:
            return self._room.ledger.begin(charge)
        except OSError as error:  # a full disk: what cannot be charged is not served
            message = f"the room cannot write down what is used: {error.strerror}; tell the teacher"
            raise Refusal(503, message, "room_failed", retry_after_s=30) from None

    async def _answered(self, asked: Asked, upstream: Upstream, flight: Flight) -> Outcome:
        spec = upstream.record.spec
        # Some engines have to be told which of their models is meant, though they have but one.
        body = json.dumps({**asked.body(spec.engine, self._may), "model": spec.model.name}).encode()
        headers = {"Content-Type": "application/json"}
        request = upstream.client.build_request("POST", asked.path, content=body, headers=headers)
        try:
            response = await upstream.client.send(request, stream=True)
        except httpx.ConnectError:
            raise _Unreached from None
        try:
            if response.status_code == _UNAVAILABLE:
                raise _Unreached
            if response.status_code != _OK or not asked.stream:
                return await self._whole(response, flight)
            return await self._streamed(asked, upstream, flight, response)
        finally:
            await response.aclose()

    async def _streamed(
        self, asked: Asked, upstream: Upstream, flight: Flight, response: httpx.Response
    ) -> Outcome:
        events = Events(flight, wants_usage=asked.wants_usage)
        try:
            async for data in response.aiter_raw():
                piece = b"".join(events.take(data))
                if events.done:
                    self._charge(flight, "answered")  # before the learner sees the end, and asks on
                if piece:
                    await self._reply.piece(piece)
                if events.done:
                    break
        except ValueError:
            raise _died(upstream) from None
        if not events.done:
            raise _died(upstream)
        await self._reply.end()
        return "answered"

    async def _whole(self, response: httpx.Response, flight: Flight) -> Outcome:
        """An answer that is not streamed, or an engine's word on why there is none."""
        body = bytearray()
        async for data in response.aiter_raw():
            body += data
            if len(body) > _MOST_BYTES:
                raise Refusal(502, "the server's answer is too long", "server_failed")
        status = response.status_code
        if status != _OK:
            message = _said(bytes(body))
            self._charge(flight, "refused")
            if self._reply.started:
                await self._reply.refuse(Refusal(status, message, "refused_by_engine"))
            else:
                await self._reply.whole(status, Refusal(status, message, "refused_by_engine").body())
            return "refused"
        try:
            usage: Any = json.loads(body)["usage"]
            flight.note(prompt=count(usage["prompt_tokens"]), completion=count(usage["completion_tokens"]))
        except MALFORMED:
            pass  # how much it was remains unknown
        self._charge(flight, "answered")
        await self._reply.whole(_OK, bytes(body))
        return "answered"


def _died(upstream: Upstream) -> Refusal:
    return Refusal(
        502,
        f"server {upstream.name!r} ended in the middle of this answer; ask again",
        "server_died",
        retry_after_s=1,
    )


def _said(body: bytes) -> str:
    """Why an engine refuses, in its words."""
    try:
        return str(json.loads(body)["error"]["message"])[:500]
    except MALFORMED:
        return "the engine refuses this request"
