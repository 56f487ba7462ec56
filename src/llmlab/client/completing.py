"""Continuing a prompt by exactly so many tokens, for measuring: in the words of each engine's server.

llama-server has a path of its own for it. llama-cpp-python's server has OpenAI's, which takes
a text; the header `EXACT` asks llmlab's launcher of it for what that path does not offer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmlab.client.exchange import Completion, count, figure
from llmlab.errors import RequestError
from llmlab.specs import EngineName

# Ollama ends where the model does, whatever is asked for; vLLM takes beginnings from its cache.
_INEXACT = frozenset({"ollama", "vllm"})
EXACT = "x-llmlab-exact"
"""Header of a request to be answered with exactly `max_tokens` tokens, with nothing reused from before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as it is sent.

    Attributes:
        path: Where.
        body: What, to become JSON.
        headers: Further ones.
    """

    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def completion(engine: EngineName, prompt: Sequence[int] | str, tokens: int, seed: int) -> Asked:
    """Continue a prompt, the likeliest token each time, whether the model would end or not.

    Raises:
        RequestError: If that engine takes no token ids, and the prompt is of them, or if it has
            no such requests.
    """
    _check(engine)
    if engine == "llama-cpp-python":
        if not isinstance(prompt, str):
            raise RequestError(f"{engine} takes no token ids", hint="give it a text")
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "seed": seed, "stream": True}
        return Asked(path="/v1/completions", body=body, headers={EXACT: "1"})
    body = {
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "n_predict": tokens,
        "temperature": 0.0,
        "seed": seed,
        "ignore_eos": True,
        "cache_prompt": False,
        "return_tokens": True,
        "stream": True,
    }
    return Asked(path="/completion", body=body)


def tokens(engine: EngineName, text: str, *, whole: bool) -> Asked:
    """Tell the token ids of a text.

    Args:
        engine: Who is asked; llama-cpp-python always takes it for a whole prompt.
        text: The text.
        whole: Whether it is a whole prompt, which some models begin with a token of their own.

    Raises:
        RequestError: If that engine has no such requests.
    """
    _check(engine)
    if engine == "llama-cpp-python":
        return Asked(path="/extras/tokenize", body={"input": text})
    return Asked(path="/tokenize", body={"content": text, **({"add_special": True} if whole else {})})


def read(
    server: str, engine: EngineName, sent: float, events: Iterable[tuple[float, dict[str, Any]]]
) -> Completion:
    """What came of a completion.

    Args:
        server: The server's name, for messages.
        engine: Whose words they are.
        sent: When the request was sent, `time.perf_counter()`.
        events: Each with the moment at which it was read.

    Raises:
        RequestError: If it does not say what it should.
    """
    found: list[int] = []
    moments: list[float] = []
    first, last = 1, dict[str, Any]()
    for read_at, event in events:
        told = event.get("tokens")
        found += [token for token in told if count(token) is not None] if isinstance(told, list) else ()
        if _is_piece(event):
            if not moments:
                first = count(event.get("tokens_predicted")) or 1
            moments.append(read_at)
        last = event
    timings = last.get("timings")
    if not isinstance(timings, dict):
        timings = {}
    # Who tells timings tells them with its last event; who does not, the tokens.
    if not moments or not (timings if engine == "llama-server" else "tokens" in last):
        raise RequestError(f"server {server!r} did not tell how long it took, or which tokens there were")
    alone = first == 1 and moments[1:2] != moments[:1]
    return Completion(
        tokens=tuple(found),
        pieces=len(moments),
        ttft_s=moments[0] - sent,
        total_s=moments[-1] - sent,
        prompt_tokens=count(timings.get("prompt_n", last.get("tokens_evaluated"))),
        prompt_s=_seconds(timings.get("prompt_ms")),
        generated_s=_seconds(timings.get("predicted_ms")),
        generated=count(last.get("tokens_predicted")),
        first=first,
        client_generated_s=moments[-1] - moments[0] if alone else None,
    )


def _check(engine: EngineName) -> None:
    """Refuse what cannot be asked for in that engine's words.

    Raises:
        RequestError: With what can.
    """
    if engine in _INEXACT:
        raise RequestError(
            f"{engine} cannot be told to continue a prompt by exactly so many tokens with nothing from its cache",
            hint="exact comparisons are between llama-server and llama-cpp-python; ask tells its figures, too",
        )


def _is_piece(event: dict[str, Any]) -> bool:
    """Whether it brings a token; the last event of an answer does not, though it may name them all."""
    choices = event.get("choices")
    if isinstance(choices, list) and choices:
        return isinstance(choices[0], dict) and choices[0].get("finish_reason") is None
    return bool(event.get("content") or event.get("tokens"))


def _seconds(milliseconds: Any) -> float | None:
    told = figure(milliseconds)
    return None if told is None else told / 1000
