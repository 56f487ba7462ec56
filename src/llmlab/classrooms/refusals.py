"""What is said to a learner who is not served: a status and OpenAI's form of an error."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

Kind = Literal["invalid_request_error", "permission_error", "rate_limit_error", "server_error"]
_SOON_S = 60.0  # clients of OpenAI's wait that long by themselves, and try again


class Refusal(Exception):  # noqa: N818 - an answer to a learner, no fault
    """A request that is not served, or not to its end.

    Attributes:
        status: HTTP's.
        message: What is wrong, and what to do, in a sentence.
        code: The same for programs.
        retry_after_s: When it may work; None where trying again is of no use.
    """

    def __init__(self, status: int, message: str, code: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> Kind:
        """OpenAI's word for what sort of error it is."""
        if self.status == 429:  # noqa: PLR2004 - HTTP's
            return "rate_limit_error"
        if self.status >= 500:  # noqa: PLR2004 - likewise
            return "server_error"
        return "permission_error" if self.status == 403 else "invalid_request_error"  # noqa: PLR2004 - likewise

    def body(self) -> bytes:
        """The error as JSON."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.kind,
            "param": None,
            "code": self.code,
        }
        return json.dumps({"error": error}).encode()

    def event(self) -> bytes:
        """The error as the last event of a stream that has begun already."""
        return b"data: " + self.body() + b"\n\n"

    def headers(self) -> dict[str, str]:
        """What HTTP wants to be said beside it."""
        found = {}
        if self.status == 401:  # noqa: PLR2004 - HTTP's
            found["WWW-Authenticate"] = "Bearer"
        if self.retry_after_s is not None:
            found["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
            if self.retry_after_s > _SOON_S:
                found["x-should-retry"] = "false"  # openai's client obeys it
        return found
