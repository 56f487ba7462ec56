"""What an engine says when it refuses a request, in our words."""

from __future__ import annotations

import http
import json
from contextlib import suppress
from typing import Any

from llmlab.client.exchange import readable
from llmlab.errors import MALFORMED, ContextError, RequestError

_SHOWN_CHARACTERS = 500


def refused(name: str, status: int, body: bytes) -> RequestError:
    """The error for a request that the engine has not taken.

    Args:
        name: The server's.
        status: HTTP's.
        body: What it said.
    """
    message = body.decode("utf-8", errors="replace")[:_SHOWN_CHARACTERS]
    details: Any = None
    with suppress(*MALFORMED):
        details = json.loads(body)["error"]
    if not isinstance(details, dict):
        details = {"message": details}
    message = readable(str(details.get("message") or message)[:_SHOWN_CHARACTERS])
    if status == http.HTTPStatus.BAD_REQUEST and "context" in message.lower():
        tokens, context = details.get("n_prompt_tokens"), details.get("n_ctx")
        numbers = f": {tokens} tokens, and the context has {context}" if tokens and context else ""
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
