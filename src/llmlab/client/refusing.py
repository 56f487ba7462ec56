"""What an engine says when it refuses a request, in our words."""

from __future__ import annotations

import http
import json
from contextlib import suppress
from typing import Any

from llmlab.client.exchange import readable
from llmlab.errors import MALFORMED, ContextError, RequestError
from llmlab.render import duration_text

_SHOWN_CHARACTERS = 500
_NEW_KEY = "with another key, join anew: llmlab join ADDRESS --key-file FILE"
# What a classroom calls its reasons: the status, and what to do where the sentence does not say it.
# In the middle of an answer the code is all that tells the status.
_OF_ROOMS = {
    "missing_api_key": (401, _NEW_KEY),
    "invalid_api_key": (401, _NEW_KEY),
    "revoked_api_key": (403, _NEW_KEY),
    "not_in_class": (403, ""),
    "model_not_approved": (403, "ask the teacher to start it"),
    "wrong_host": (421, ""),
    "requests_quota": (429, ""),
    "tokens_quota": (429, ""),
    "concurrent_requests": (429, ""),
    "queue_full": (429, ""),
    "server_died": (502, ""),
    "server_failed": (502, ""),
    "no_server": (503, ""),
    "room_closing": (503, "ask the teacher when it opens again"),
    "room_failed": (503, ""),
    "hub_silent": (503, ""),
}


def refused(name: str, status: int, body: bytes, retry_after: str | None = None) -> RequestError:
    """The error for a request that the engine has not taken.

    Args:
        name: The server's.
        status: HTTP's.
        body: What it said.
        retry_after: The header of that name.
    """
    message = body.decode("utf-8", errors="replace")[:_SHOWN_CHARACTERS]
    details: Any = None
    with suppress(*MALFORMED):
        details = json.loads(body)["error"]
    if not isinstance(details, dict):
        details = {"message": details}
    message = readable(str(details.get("message") or message)[:_SHOWN_CHARACTERS])
    if (code := str(details.get("code"))) in _OF_ROOMS:
        return _by_room(name, code, message, retry_after)
    if status == http.HTTPStatus.BAD_REQUEST and "context" in message.lower():
        tokens, context = details.get("n_prompt_tokens"), details.get("n_ctx")
        numbers = (
            f": {tokens} tokens, and the context has {context}" if tokens and context else f": {message}"
        )
        return ContextError(
            f"the prompt is too long for server {name!r}{numbers}",
            hint="shorten it, or start a server with a larger --context",
        )
    if status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
        return RequestError(f"server {name!r} refused the key ({status}): {message}")
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        return RequestError(
            f"server {name!r} is not ready: {message}", hint="wait until it has loaded its model"
        )
    return RequestError(f"server {name!r} refused the request ({status}): {message}")


def _by_room(name: str, code: str, message: str, retry_after: str | None) -> RequestError:
    """A classroom's refusal, and when it is worth asking again."""
    status, hint = _OF_ROOMS[code]
    what = "could not serve" if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR else "refused"
    # Nobody waits for longer than digits of a year.
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() and len(retry_after) < 9 else None  # noqa: PLR2004
    if seconds is not None and not hint:
        hint = f"ask again in {duration_text(max(seconds, 1.0))}"
    error = RequestError(f"classroom {name!r} {what} the request ({status}): {message}", hint=hint)
    error.code, error.retry_after_s = code, seconds
    return error
