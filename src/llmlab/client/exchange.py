"""One question, and its answer while it is being read."""

from __future__ import annotations

import codecs
import math
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from llmlab.client.queueing import Queue
from llmlab.errors import MALFORMED
from llmlab.prompts import neutralise
from llmlab.results import Answer, Token

_MOST = 2.0**53  # larger numbers are no longer exact everywhere, and none of an engine's figures is


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
        history: What was said before, from the oldest on: ("user" or "assistant", text).
        top_p: Only the likeliest tokens that together have this probability are
            chosen from; None for the engine's own.
        alternatives: How many of the likeliest tokens to tell at each place, with
            their probabilities; 0 for nothing of that.
    """

    prompt: str
    system: str = ""
    max_tokens: int = 512
    temperature: float = 0.2
    seed: int | None = None
    control_tokens: tuple[str, ...] = ()
    timeout_s: float = 300.0
    ignore_eos: bool = False
    history: tuple[tuple[str, str], ...] = ()
    top_p: float | None = None
    alternatives: int = 0

    def body(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What is sent, and the control tokens found in the question and made harmless."""
        prompt, found = neutralise(self.prompt, self.control_tokens)
        system, found_too = neutralise(self.system, self.control_tokens)
        messages = [{"role": "system", "content": system}] if system else []
        messages += [
            {"role": role, "content": neutralise(text, self.control_tokens)[0]} for role, text in self.history
        ]
        body: dict[str, Any] = {
            "messages": [*messages, {"role": "user", "content": prompt}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.seed is not None:
            body["seed"] = self.seed
        if self.top_p is not None:
            body["top_p"] = self.top_p
        if self.ignore_eos:
            body["ignore_eos"] = True
        if self.alternatives:
            body |= {"logprobs": True, "top_logprobs": self.alternatives}
        return body, tuple(dict.fromkeys(found + found_too))


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
        generated: How many tokens it has generated, as it counts them; None if it does not tell.
        first: Which token was the first to be seen: a later one than the first where its text was incomplete.
        client_generated_s: Seconds from the first token to the last, by the client's clock; None
            where others were read together with the first.
    """

    tokens: tuple[int, ...]
    pieces: int
    ttft_s: float | None
    total_s: float
    prompt_tokens: int | None
    prompt_s: float | None
    generated_s: float | None
    generated: int | None = None
    first: int = 1
    client_generated_s: float | None = None


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
    tokens: list[Token] = field(default_factory=list)
    queue: Queue | None = None
    _decoder: Any = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def take(self, event: dict[str, Any], now: float) -> str:
        """Note what an event says; returns its piece of text, "" if it has none."""
        text = ""
        for choice in event.get("choices") or ():
            if piece := (choice.get("delta") or {}).get("content"):
                text += readable(piece)
            self.finish_reason = readable(choice.get("finish_reason") or self.finish_reason)
            # Of another form where the engine is another one: then nothing is known.
            with suppress(*MALFORMED):
                self.tokens += [self._token(entry) for entry in choice["logprobs"]["content"]]
        if text:
            self.first = self.first or now
            self.last = now
            self.pieces.append(text)
        self.usage = {**self.usage, **(event.get("usage") or {})}
        self.timings = {**self.timings, **(event.get("timings") or {})}
        return text

    def _token(self, entry: dict[str, Any]) -> Token:
        """A token and its probability; one that is only a part of a character has no text."""
        told = entry.get("bytes")
        # A list of them: of a number bytes() would make that many.
        text = entry["token"] if told is None else self._decoder.decode(bytes([*told]))
        others = [(readable(each["token"]), _probability(each)) for each in entry.get("top_logprobs") or ()]
        return Token(text=readable(text), probability=_probability(entry), likeliest=tuple(others))

    def answer(self, finish_reason: str = "") -> Answer:
        """The answer as far as it came; `finish_reason` says why, if it was cut short."""
        completion = count(self.usage.get("completion_tokens", self.timings.get("predicted_n")))
        if completion is None and finish_reason:
            # Cut short: llama-server sends one piece for each token.
            completion = len(self.pieces)
        read_s = self.last - self.first if self.first and self.last else None
        # From the first token to the last; llama.cpp's own rate counts one too many.
        generated_ms = figure(self.timings.get("predicted_ms"))
        details = self.usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        return Answer(
            text="".join(self.pieces),
            server=self.server,
            finish_reason=finish_reason or self.finish_reason,
            ttft_s=None if self.first is None else self.first - self.sent,
            total_s=(self.last or time.perf_counter()) - self.sent,
            prompt_tokens=count(self.usage.get("prompt_tokens")),
            completion_tokens=completion,
            tokens_per_s=_rate(completion, generated_ms / 1000 if generated_ms else None),
            client_tokens_per_s=_rate(completion, read_s),
            prompt_tokens_per_s=figure(self.timings.get("prompt_per_second")),
            cached_tokens=count(self.timings.get("cache_n", cached)),
            neutralised=self.neutralised,
            tokens=tuple(self.tokens) or None,
        )


def count(value: Any) -> int | None:
    """A number of tokens as an engine tells it; None for whatever is none."""
    return value if type(value) is int and 0 <= value < _MOST else None


def figure(value: Any) -> float | None:
    """A time or a rate as an engine tells it; None for whatever is none."""
    fine = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST
    return value if fine else None


def readable(text: Any) -> str:
    """A text that can be printed and stored: half a surrogate pair is not even Unicode.

    Raises:
        TypeError: If it is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"{type(text).__name__} in place of a text")
    return text if text.isascii() else text.encode(errors="replace").decode()


def _probability(entry: dict[str, Any]) -> float:
    return math.exp(min(0.0, float(entry["logprob"])))


def _rate(tokens: int | None, seconds: float | None) -> float | None:
    """Tokens after the first per second; None where there is nothing to divide."""
    return (tokens - 1) / seconds if tokens and tokens > 1 and seconds else None
