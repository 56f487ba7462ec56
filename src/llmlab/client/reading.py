"""An answer as it comes: what is taken for one, and what is not."""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from llmlab.client.events import events
from llmlab.client.exchange import ChatRequest, Progress
from llmlab.client.refusing import refused
from llmlab.errors import MALFORMED, RequestError

Events = Iterator[tuple[float, dict[str, Any]]]
"""Each with the moment at which it was read."""

# Engines send an event for each token, and a few of what else there is to say.
_MORE_EVENTS = 100


class Unshown(Exception):  # noqa: N818 - carries an error, is none
    """What `on_text` raised, so that it is not taken for an error of the connection."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(reason)
        self.reason = reason


def read(
    name: str,
    response: http.client.HTTPResponse,
    request: ChatRequest,
    progress: Progress,
    on_text: Callable[[str], None],
    on_comment: Callable[[str], None] | None = None,
) -> None:
    """Read an answer to its end.

    Args:
        name: The server's.
        response: Its answer.
        request: What was asked.
        progress: Where the answer is noted.
        on_text: Called with each non-empty piece of text.
        on_comment: Called with each comment.

    Raises:
        RequestError: If that is no answer; what had come is in its `answer` attribute.
        TimeoutError: If no event comes in time.
        Unshown: If `on_text` raised an `OSError`.
    """
    found = unfailed(name, events(response, request.timeout_s, on_comment))
    try:
        for read_at, event in _ended(name, found, request.max_tokens):
            piece = _taken(name, progress, event, read_at)
            if piece:
                _show(piece, on_text)
    except RequestError as error:
        error.answer = progress.answer("failed") if progress.pieces else None
        raise


def unfailed(name: str, found: Events) -> Events:
    """The events as they are.

    Raises:
        RequestError: At the first that is an error.
    """
    for read_at, event in found:
        if error := event.get("error"):
            code = error.get("code") if isinstance(error, dict) else None
            status = code if isinstance(code, int) else http.HTTPStatus.INTERNAL_SERVER_ERROR
            raise refused(name, status, json.dumps(event).encode())
        yield read_at, event


def wordless(name: str) -> RequestError:
    """The error for a stream that ended in order without a single piece."""
    return RequestError(
        f"server {name!r} ended its answer without a word",
        # What llama-cpp-python's server does then, with status 200.
        hint=f"the prompt may be longer than the context; see its log: llmlab logs {name}",
    )


def _ended(name: str, found: Events, max_tokens: int) -> Events:
    """The events as they are, as long as there are no more than can belong to so many tokens."""
    most = 2 * max_tokens + _MORE_EVENTS
    yield from itertools.islice(found, most)
    if next(found, None):
        raise RequestError(
            f"server {name!r} does not end its answer: over {most} events for {max_tokens} tokens",
            hint=f"look at its log: llmlab logs {name}",
        )


def _taken(name: str, progress: Progress, event: dict[str, Any], read_at: float) -> str:
    try:
        return progress.take(event, read_at)
    except MALFORMED:
        raise RequestError(
            f"server {name!r} sent an event of another form: {json.dumps(event)[:80]}"
        ) from None


def _show(piece: str, on_text: Callable[[str], None]) -> None:
    try:
        on_text(piece)
    except OSError as reason:
        raise Unshown(reason) from None
