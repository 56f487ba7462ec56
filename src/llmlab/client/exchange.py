"""One question, and its answer while it is being read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from llmlab.results import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One question to a server.

    Attributes:
        prompt: What the user asks.
        system: Instructions that stand before it, "" for none.
        max_tokens: Most tokens to generate.
        temperature: 0 picks the likeliest token each time; higher is more varied.
        seed: Seed of the random choice, None for a new one each time.
        control_tokens: Further control tokens of the model's vocabulary.
        timeout_s: Longest wait for the next piece of the answer, seconds.
        ignore_eos: Go on until `max_tokens`, whatever the model says.
    """

    prompt: str
    system: str = ""
    max_tokens: int = 512
    temperature: float = 0.2
    seed: int | None = None
    control_tokens: tuple[str, ...] = ()
    timeout_s: float = 300.0
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A continuation of tokens, for measuring: neither chat template nor cache nor chance.

    Attributes:
        tokens: The generated token ids; () if the engine does not tell them.
        pieces: How many events with text or tokens there were.
        ttft_s: Seconds from sending the request to the first of them, by the client's clock.
        total_s: Seconds from sending it to the last.
        prompt_tokens: Tokens that the engine has read, without those that it had before.
        prompt_s: Seconds it took for that, by its own clock.
        generated_s: Seconds from the first generated token to the last, by its own clock.
    """

    tokens: tuple[int, ...]
    pieces: int
    ttft_s: float | None
    total_s: float
    prompt_tokens: int | None
    prompt_s: float | None
    generated_s: float | None


@dataclass(slots=True)
class Progress:
    """An answer while it is being read."""

    server: str
    sent: float
    neutralised: tuple[str, ...]
    pieces: list[str] = field(default_factory=list)
    first: float | None = None
    last: float | None = None
    finish_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)

    def take(self, event: dict[str, Any], now: float) -> str:
        """Note what an event says; returns its piece of text, "" if it has none."""
        text = ""
        for choice in event.get("choices") or ():
            if piece := (choice.get("delta") or {}).get("content"):
                text += piece
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if text:
            self.first = self.first or now
            self.last = now
            self.pieces.append(text)
        self.usage = {**self.usage, **(event.get("usage") or {})}
        self.timings = {**self.timings, **(event.get("timings") or {})}
        return text

    def answer(self, finish_reason: str = "") -> Answer:
        """The answer as far as it came; `finish_reason` says why, if it was cut short."""
        completion = self.usage.get("completion_tokens", self.timings.get("predicted_n"))
        if completion is None and finish_reason:
            # Cut short: llama-server sends one piece for each token.
            completion = len(self.pieces)
        read_s = self.last - self.first if self.first and self.last else None
        # From the first token to the last; llama.cpp's own rate counts one too many.
        generated_ms = self.timings.get("predicted_ms")
        details = self.usage.get("prompt_tokens_details") or {}
        return Answer(
            text="".join(self.pieces),
            server=self.server,
            finish_reason=finish_reason or self.finish_reason,
            ttft_s=None if self.first is None else self.first - self.sent,
            total_s=(self.last or time.perf_counter()) - self.sent,
            prompt_tokens=self.usage.get("prompt_tokens"),
            completion_tokens=completion,
            tokens_per_s=_rate(completion, generated_ms / 1000 if generated_ms else None),
            client_tokens_per_s=_rate(completion, read_s),
            prompt_tokens_per_s=self.timings.get("prompt_per_second"),
            cached_tokens=self.timings.get("cache_n", details.get("cached_tokens")),
            neutralised=self.neutralised,
        )


def _rate(tokens: int | None, seconds: float | None) -> float | None:
    """Tokens after the first per second; None where there is nothing to divide."""
    return (tokens - 1) / seconds if tokens and tokens > 1 and seconds else None
