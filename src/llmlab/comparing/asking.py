"""What every request is, the same for both arms, and one such request."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, replace
from typing import Any

from llmlab import engines
from llmlab.client import Completion
from llmlab.comparing.card import Clock
from llmlab.errors import RequestError, UsageError
from llmlab.specs import EngineName

_TRIED, _MOST_TOKENS, _MOST_REPEATS = 16, 256, 8
_TEXT = "The quick brown fox jumps over the lazy dog while a container runs beside it. "


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What every request is.

    Attributes:
        prompt: Token ids of the prompt.
        tokens: How many are generated.
        repeats: How many requests are made in each turn: of very short ones, several.
        timeout_s: Longest wait for the next token, or for a start.
        clock: Whose clock the rates are by: the client's, for all, where an engine tells no times.
        text: A text for engines that take no token ids.
        text_ids: What that text is in token ids; by the client's clock, they are the prompt.
    """

    prompt: tuple[int, ...]
    tokens: int
    repeats: int = 1
    timeout_s: float = 300.0
    clock: Clock = "engine"
    text: str = ""
    text_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A server that is asked.

    Attributes:
        name: Its name, for messages.
        client: Asks it: `complete` and `tokens_of` of `llmlab.client.Client`.
        engine: What serves.
        context: Tokens of its context.
        timeout_s: Longest wait for a token.
    """

    name: str
    client: Any
    engine: EngineName
    context: int
    timeout_s: float

    def setting(self, prompt_tokens: int, tokens: int | None, seconds: float) -> Setting:
        """Prompt and length of the answers.

        Args:
            prompt_tokens: Tokens of the prompt.
            tokens: Tokens of an answer; None for as many as take about so many seconds.
            seconds: How long.

        Raises:
            ServerError: If it does not answer.
        """
        text = self._text(prompt_tokens)
        ids = self._ids(text)
        prompt, clock = ids, self._clock
        if clock == "engine":
            some = self.client.tokens_of(_TEXT)
            prompt = tuple((some * (prompt_tokens // len(some) + 1))[:prompt_tokens])
        setting = Setting(
            prompt=prompt, tokens=_TRIED, timeout_s=self.timeout_s, clock=clock, text=text, text_ids=ids
        )
        tried = self.complete(setting)
        per_token = (tried.generated_s or tried.client_generated_s or tried.total_s) / _TRIED
        if tokens is None:
            room = self.context - prompt_tokens - 1
            tokens = max(_TRIED, min(_MOST_TOKENS, room, int(seconds / max(per_token, 1e-6))))
        expected_s = tokens * per_token + (tried.ttft_s or 0.0)
        repeats = max(1, min(_MOST_REPEATS, math.ceil(seconds / 2 / max(expected_s, 1e-6))))
        return replace(setting, tokens=tokens, repeats=repeats)

    def agreed(self, setting: Setting) -> Setting:
        """The setting of another server as it has to be, so that this one can do the same.

        Args:
            setting: What the other one has made.

        Raises:
            UsageError: If the same text is another prompt here.
            ServerError: If it does not answer.
        """
        if setting.clock == self._clock == "engine":
            return setting
        if self._ids(setting.text) != setting.text_ids:
            raise UsageError(
                "the arms read the same text as other tokens, so they cannot be given the same prompt",
                hint="where an engine takes no token ids, compare arms of the same model",
            )
        return replace(setting, clock="client", prompt=setting.text_ids)

    def complete(self, setting: Setting) -> Completion:
        """One request.

        Raises:
            RequestError: If it was not what it should be: other tokens in number, or some from a cache.
        """
        if setting.clock == "client":
            done: Completion = self.client.complete(
                setting.text, tokens=setting.tokens, timeout_s=setting.timeout_s, engine=self.engine
            )
        else:
            done = self.client.complete(setting.prompt, tokens=setting.tokens, timeout_s=setting.timeout_s)
        for what, count, wanted in (
            ("generated", done.generated, setting.tokens),
            ("read", done.prompt_tokens, len(setting.prompt)),
        ):
            if count is not None and count != wanted:
                raise RequestError(
                    f"server {self.name!r} {what} {count} tokens instead of {wanted}",
                    hint="prompt and answer have to fit into the context: use a larger one, or fewer tokens",
                )
        return done

    @property
    def _clock(self) -> Clock:
        """Whose clock it can be timed by. Who has llama-server's other paths tells the times of a request, too."""
        return "engine" if engines.engine(self.engine).METRICS else "client"

    def _text(self, tokens: int) -> str:
        """Whole words that are at most so many tokens."""
        words = (_TEXT * tokens).split()[:tokens]
        count = bisect.bisect_right(
            range(len(words)), tokens, key=lambda last: len(self._ids(" ".join(words[: last + 1])))
        )
        return " ".join(words[: max(count, 1)])

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.client.tokens_of(text, engine=self.engine, whole=True))


def by_client(done: Completion, count: int) -> dict[str, float | None]:
    """Rates by the client's clock.

    Args:
        done: A request.
        count: How many tokens it has generated.
    """
    return {
        "output": rate(count, done.total_s),
        "client_generated": rate(count - 1, done.client_generated_s),
    }


def ttft_s(done: Completion, setting: Setting) -> float | None:
    """Time to first token; engines differ in how long they keep one whose text is not complete."""
    return done.ttft_s if setting.clock == "engine" or done.first == 1 else None


def rate(count: int | None, seconds: float | None) -> float | None:
    """So many in so many seconds; None where either is unknown or 0."""
    return count / seconds if count and seconds else None
