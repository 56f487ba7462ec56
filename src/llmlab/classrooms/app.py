"""The room over HTTP: what learners reach, and, on a socket of its own, the teacher."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmlab.classrooms.asking import PATHS
from llmlab.classrooms.identity import Who
from llmlab.classrooms.ledger import new_id
from llmlab.classrooms.progress import LONGEST_BYTES
from llmlab.classrooms.refusals import Refusal
from llmlab.classrooms.relaying import Relay
from llmlab.classrooms.replying import Reply
from llmlab.classrooms.room import CLOSING, Active, Room
from llmlab.errors import UnknownNameError
from llmlab.specs import to_dict

BODY_BYTES = 1 << 20
BODY_S = 20.0

Answer = Callable[[Room, Who, Request], Awaitable[Any]]


def learners_app(room: Room, hosts: frozenset[str]) -> ASGIApp:
    """What learners reach.

    Args:
        room: The room.
        hosts: Names under which the room is reached, besides addresses.
    """
    routes = [
        Route("/health", _health),
        Route("/v1/models", _answered(room, _models)),
        Route("/room/usage", _answered(room, _usage)),
        Route("/room/models", _answered(room, _served)),
        Route("/room/progress", _answered(room, _progress), methods=["POST"]),
        Route("/room/servers", _answered(room, _start), methods=["POST"]),
        Route("/room/servers", _answered(room, _stop), methods=["DELETE"]),
        *(Route(path, _Chat(room, path), methods=["POST"]) for path in PATHS),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={404: _no_such, 405: _no_such}), hosts)


def teachers_app(room: Room) -> ASGIApp:
    """What the teacher's own processes reach, through a socket in a directory of the teacher's."""

    async def board(_: Request) -> Response:
        return JSONResponse(room.board())

    async def drain(request: Request) -> Response:
        try:
            room.pool.drain(request.path_params["name"])
        except UnknownNameError as error:
            return JSONResponse({"error": str(error)}, status_code=404)
        return JSONResponse({})

    return Starlette(routes=[Route("/board", board), Route("/drain/{name}", drain, methods=["POST"])])


class Guard:
    """Lets in only requests that name the room, and that no other site's page has made.

    A page could otherwise make a learner's browser speak to the room, under a name that
    leads to it (DNS rebinding). An address as Host cannot be rebound.

    Args:
        app: What is guarded.
        hosts: The room's names.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `Guard`."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        names, origins = headers.getlist("host"), headers.getlist("origin")
        refusal = None
        if len(names) != 1 or not self._known(f"//{names[0]}"):
            refusal = Refusal(421, "this room is not reached under that name; use its address", "wrong_host")
        elif any(urlsplit(f"//{names[0]}").netloc != urlsplit(each).netloc for each in origins):
            refusal = Refusal(403, "web pages of other sites may not use this room", "wrong_origin")
        if refusal:
            await _refused(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, address: str) -> bool:
        try:
            host = (urlsplit(address).hostname or "").rstrip(".")
        except ValueError:
            return False
        if host in self._hosts:
            return True
        try:
            ip_address(host)
        except ValueError:
            return False
        return True


class _Chat:
    """A question to a model; plain ASGI, since a stream's end and its reader's are watched."""

    def __init__(self, room: Room, path: Any) -> None:
        self._room = room
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        room, headers = self._room, Headers(scope=scope)
        try:
            who = await room.who(headers.get("authorization", ""))
            raw = await body_of(receive)
        except Refusal as refusal:
            await Reply(scope, send, lambda: None).refuse(refusal)
            return
        active = Active(id=new_id(), who=who)
        reply = Reply(scope, send, lambda: active.end(None))
        relay = Relay(room, active, reply)
        room.active.add(active)
        active.work = asyncio.ensure_future(
            relay.run(self._path, raw, repeats=headers.get("idempotency-key", "")[:200])
        )
        left = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({active.work, left}, return_when=asyncio.FIRST_COMPLETED)
            if not active.work.done():
                active.end(None)
            with suppress(asyncio.CancelledError):
                await active.work
        finally:
            active.work.cancel()
            left.cancel()
            room.active.discard(active)


async def body_of(receive: Receive, most: int = BODY_BYTES) -> bytes:
    """The body of a request, within a size and a time.

    Raises:
        Refusal: If it is larger, or takes longer.
    """
    body = bytearray()
    deadline = time.monotonic() + BODY_S
    while True:
        try:
            message: Message = await asyncio.wait_for(receive(), max(deadline - time.monotonic(), 0.001))
        except asyncio.TimeoutError:
            raise Refusal(408, f"the request did not come within {BODY_S:g} s", "too_slow") from None
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the request was cut off", "cut_off")
        body += message.get("body", b"")
        if len(body) > most:
            raise Refusal(413, f"the request is larger than {most >> 10} KiB", "too_large")
        if not message.get("more_body", False):
            return bytes(body)


async def _left(receive: Receive) -> None:
    """Returns when the learner has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _refused(refusal: Refusal) -> Response:
    return Response(refusal.body(), refusal.status, refusal.headers(), "application/json")


def _answered(room: Room, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """A route that asks for a key, and answers with JSON."""

    async def endpoint(request: Request) -> Response:
        try:
            works = request.method != "GET"
            who = await room.who(request.headers.get("authorization", ""), works=works)
            if room.closing:
                raise CLOSING
            return JSONResponse(await answer(room, who, request), headers={"Cache-Control": "no-store"})
        except Refusal as refusal:
            return _refused(refusal)

    return endpoint


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _no_such(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _refused(
        Refusal(status, f"{request.method} {request.url.path[:80]} is not served here", "not_found")
    )


async def _models(room: Room, who: Who, _: Request) -> Any:
    names = room.pool.models(who.name)
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "llmlab"} for name in names]
    return {"object": "list", "data": data}


async def _usage(room: Room, who: Who, _: Request) -> Any:
    return room.standing(who)


async def _served(room: Room, who: Who, _: Request) -> Any:
    return {"models": [to_dict(spec) for spec in room.pool.served(who.name)]}


async def _progress(room: Room, who: Who, request: Request) -> Any:
    room.handed.take(who.name, await body_of(request.receive, LONGEST_BYTES))
    return {"taken": True}


async def _start(room: Room, who: Who, request: Request) -> Any:
    try:
        model = json.loads(await body_of(request.receive))["model"]
    except (ValueError, TypeError, KeyError, RecursionError):
        model = None
    if not isinstance(model, str):
        raise Refusal(400, 'which model? send {"model": NAME}', "bad_request")
    return await room.broker.start(who.name, model)


async def _stop(room: Room, who: Who, _: Request) -> Any:
    return {"ended": await room.broker.stop(who.name)}
