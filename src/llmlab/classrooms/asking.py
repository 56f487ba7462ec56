"""What a learner sends: read, checked, and made into what a server gets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from llmlab.classrooms.refusals import Refusal
from llmlab.specs import EngineName

Path = Literal["/v1/chat/completions", "/v1/completions"]
PATHS: tuple[Path, ...] = ("/v1/chat/completions", "/v1/completions")

# What concerns the answer. The rest stays here: engines take further fields, among them
# other names for max_tokens, and the slot of somebody else.
_PASSED = frozenset(
    (
        *("messages", "prompt", "temperature", "top_p", "top_k", "min_p", "stop", "seed", "stream"),
        *(
            "presence_penalty",
            "frequency_penalty",
            "repeat_penalty",
            "logit_bias",
            "logprobs",
            "top_logprobs",
        ),
        *("response_format", "tools", "tool_choice", "parallel_tool_calls", "ignore_eos"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request of a learner's.

    Attributes:
        path: Where it is sent.
        model: The model; "" if none is named.
        fields: What is passed on.
        stream: Whether the answer is wanted piece by piece.
        wants_usage: Whether a stream is to end with its figures.
        max_tokens: Most tokens of the answer; None if that is left open.
        retried: What is the same for its repetitions; "" if the client does not say.
    """

    path: Path
    model: str
    fields: dict[str, Any]
    stream: bool
    wants_usage: bool
    max_tokens: int | None
    retried: str = ""

    def body(self, engine: EngineName, max_tokens: int) -> dict[str, Any]:
        """What a server gets."""
        body = {**self.fields, "max_tokens": max_tokens}
        if self.stream:
            body["stream_options"] = {"include_usage": True}
            if engine == "llama-server":
                body["return_progress"] = True  # how long the prompt is, before the first token
        return body


def read(path: Path, raw: bytes, *, learner: str = "", repeats: str = "") -> Asked:
    """Read a request.

    Args:
        path: Where it was sent.
        raw: Its body.
        learner: Who asks.
        repeats: The client's `Idempotency-Key`.

    Raises:
        Refusal: If it is not one.
    """
    try:
        data: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise _bad("the body is not JSON") from None
    if not isinstance(data, dict):
        raise _bad("the body is not a JSON object")
    if not isinstance(data.get("messages" if path == PATHS[0] else "prompt"), list | str):
        raise _bad(f"{'messages' if path == PATHS[0] else 'prompt'} is missing")
    if isinstance(data.get("prompt"), list) and not all(type(each) is int for each in data["prompt"]):
        raise _bad("several prompts in one request are not allowed here; send one at a time")
    if data.get("n") not in {None, 1} or data.get("best_of") not in {None, 1}:
        raise _bad("several answers to one request are not allowed here: n must be 1")
    model = data.get("model", "")
    if not isinstance(model, str):
        raise _bad("model is not a text")
    options = data.get("stream_options")
    digest = hashlib.sha256(f"{learner}\0{repeats}\0".encode() + raw).hexdigest()
    return Asked(
        path=path,
        model=model,
        fields={name: value for name, value in data.items() if name in _PASSED},
        stream=data.get("stream") is True,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=_max_tokens(data),
        retried=digest[:24] if repeats else "",
    )


def _max_tokens(data: dict[str, Any]) -> int | None:
    found = [data[name] for name in ("max_tokens", "max_completion_tokens") if data.get(name) is not None]
    if not all(type(each) is int and each > 0 for each in found):
        raise _bad("max_tokens is not a whole number of 1 or more")
    return min(found) if found else None


def _bad(what: str) -> Refusal:
    return Refusal(400, what, "bad_request")
