"""Plain HTTP requests to a room, so that its refusals are seen as they are."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmlab.client import rooms
from llmlab.client.connection import Connection
from llmlab.errors import MALFORMED, RequestError

OK = 200
_PATH = "/v1/chat/completions"
_ANSWER_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a room has answered.

    Attributes:
        status: HTTP's.
        code: OpenAI's word for the error; "" if there is none.
        message: What is wrong, in a sentence; "" likewise.
        retry_after_s: When it may work, seconds; None if the room does not say.
    """

    status: int
    code: str = ""
    message: str = ""
    retry_after_s: float | None = None

    def check(self, who: str) -> None:
        """Refuse to go on where the question was not answered.

        Raises:
            RequestError: If it was not.
        """
        if self.status != OK:
            raise RequestError(f"the room does not answer {who}: {self.message} ({self.status})")


def ask(url: str, key: str | None, question: str, *, tokens: int, exactly: bool = False) -> Said:
    """Ask for a whole answer.

    Args:
        url: The room's address.
        key: The learner's key; None to show none.
        question: What is asked.
        tokens: Most tokens of the answer.
        exactly: Whether the answer goes on to that length.

    Raises:
        ServerStoppedError: If the room does not answer.
    """
    body = _body(question, tokens) | ({"ignore_eos": True} if exactly else {})
    with _posted(url, key, body) as response:
        raw = response.read()
        status, again = response.status, response.getheader("Retry-After")
    if status == OK:
        return Said(status=status)
    try:
        error = json.loads(raw)["error"]
        return Said(
            status=status,
            code=str(error["code"]),
            message=str(error["message"]),
            retry_after_s=None if again is None else float(again),
        )
    except MALFORMED:
        raise RequestError(
            f"what answers at {rooms.read_address(url).origin} is no classroom of llmlab ({status})"
        ) from None


def begin(url: str, key: str, question: str, *, tokens: int, after: int) -> int:
    """Ask for a stream and go away in its middle.

    Args:
        url: The room's address.
        key: The learner's key.
        question: What is asked.
        tokens: Tokens of the whole answer.
        after: How many pieces are read.

    Returns:
        How many pieces had come.

    Raises:
        RequestError: If the room refuses it.
        ServerStoppedError: If it does not answer.
    """
    pieces = 0
    body = _body(question, tokens) | {"stream": True, "ignore_eos": True}
    with _posted(url, key, body) as response:
        if response.status != OK:
            raise RequestError(f"the room does not answer: {response.status}")
        for line in response:
            pieces += line.startswith(b"data: {") and b'"content":null' not in line
            if pieces >= after:
                break
    return pieces


@contextmanager
def _posted(url: str, key: str | None, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    headers = {"Host": urlsplit(url).netloc, "Content-Type": "application/json", "Connection": "close"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    try:
        opened = rooms.connect(url)
        opened.settimeout(_ANSWER_S)
        with Connection(opened, _ANSWER_S) as connection:
            connection.request("POST", _PATH, body=json.dumps(body).encode(), headers=headers)
            with connection.getresponse() as response:
                yield response
    except (OSError, http.client.HTTPException) as error:
        raise rooms.unreached(url, error) from error


def _body(question: str, tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "max_tokens": tokens, "temperature": 0.0}
