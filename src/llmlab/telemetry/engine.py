"""What an engine says of itself: how fast it reads and writes, how many it serves, who waits."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmlab.telemetry.metrics import Metric, Rate

Fetch = Callable[[str], str]
"""GETs a path of the server's and returns the text; may raise whatever it likes."""

_LINE = re.compile(r"^(?:\w+:)?(\w+)(?:\{[^}]*\})? (\S+)$")
_STALE_S = 3.0
# After an answer that failed: an engine that hangs is not asked several times a second.
_PAUSE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The names under which an engine tells its figures at `/metrics`, without their prefix.

    Attributes:
        engine: Whose they are.
        generated: Counter of generated tokens.
        prompt: Counter of tokens read.
        answering: Requests that are worked on.
        waiting: Requests that are not yet.
        slots: Whether it has llama-server's `/slots` beside, which tells of requests under way.
    """

    engine: str
    generated: str
    prompt: str
    answering: str
    waiting: str
    slots: bool = False


LLAMA_SERVER = Dialect(
    engine="llama-server",
    generated="tokens_predicted_total",
    prompt="prompt_tokens_total",
    answering="requests_processing",
    waiting="requests_deferred",
    slots=True,
)
VLLM = Dialect(
    engine="vLLM",
    generated="generation_tokens_total",
    prompt="prompt_tokens_total",
    answering="num_requests_running",
    waiting="num_requests_waiting",
)


@dataclass(frozen=True, slots=True)
class _Said:
    """One answer: when it came, its counters, and what its slots hold."""

    when: float
    counters: Mapping[str, float]
    decoded: float | None
    held: float | None


class EngineSource:
    """An engine's `/metrics`, and llama-server's `/slots`, asked in a thread of its own.

    An engine that is busy with a long prompt answers when it has time; whoever
    samples must not wait for that. What it said last counts for a few seconds
    and is unknown after that.

    Args:
        subject: The server's name.
        fetch: GETs a path of the server's.
        slots: How many requests it answers at the same time.
        context: Tokens that each of them may hold.
        dialect: The names of its figures.
    """

    def __init__(
        self, subject: str, fetch: Fetch, *, slots: int, context: int, dialect: Dialect = LLAMA_SERVER
    ) -> None:
        self.subject = subject
        self.metrics = _metrics(slots, context, dialect)
        self._dialect = dialect
        self._fetch = fetch
        self._guard = threading.Condition()
        self._wanted = self._closed = False
        self._said: _Said | None = None
        self._used: _Said | None = None
        self._values: dict[str, float | None] = {}
        self._ended = self._generated = 0.0
        self._rates = {key: Rate() for key in ("generated", "prompt")}
        self._thread = threading.Thread(target=self._ask, name=f"llmlab metrics {subject}", daemon=True)
        self._thread.start()

    def read(self, now: float) -> Mapping[str, float | None]:
        """What the engine said last; asks it anew meanwhile.

        Args:
            now: `time.monotonic()` of this look.
        """
        with self._guard:
            said = self._said
            self._wanted = not self._closed
            self._guard.notify()
        if said is None or now - said.when > _STALE_S:
            return {}
        if said is not self._used:
            self._values = self._worked_out(said)
            self._used = said
        return self._values

    def close(self) -> None:
        """End the thread; one that waits for the engine ends when that answers."""
        with self._guard:
            self._closed, self._wanted, self._said = True, False, None
            self._guard.notify()
        self._thread.join(1.0)

    def _worked_out(self, said: _Said) -> dict[str, float | None]:
        names = self._dialect
        ended = said.counters.get(names.generated)
        generated = None
        if ended is not None:
            if ended < self._ended:
                # Another engine counts there now.
                self._generated = 0.0
            self._ended = ended
            # A request that ends between the two questions is in neither answer for a moment.
            self._generated = generated = max(self._generated, ended + (said.decoded or 0.0))
        return {
            "generated": self._rates["generated"].of(said.when, generated),
            "prompt": self._rates["prompt"].of(said.when, said.counters.get(names.prompt)),
            "answering": said.counters.get(names.answering),
            "waiting": said.counters.get(names.waiting),
            "context": said.held,
        }

    def _ask(self) -> None:
        while True:
            with self._guard:
                self._guard.wait_for(lambda: self._wanted or self._closed)
                if self._closed:
                    return
                self._wanted = False
            try:
                counters = parse(self._fetch("/metrics"))
                decoded, held = _slots(self._fetch("/slots")) if self._dialect.slots else (None, None)
            except Exception:  # noqa: BLE001 - whatever it is, the engine says nothing
                with self._guard:
                    self._guard.wait_for(lambda: self._closed, _PAUSE_S)
            else:
                with self._guard:
                    self._said = _Said(time.monotonic(), counters, decoded, held)


def parse(text: str) -> dict[str, float]:
    """The samples of a page in Prometheus' text format, name without its prefix → value.

    Lines that are no samples are passed over: the page comes from the engine,
    which may be anything.

    Args:
        text: The page.
    """
    found: dict[str, float] = {}
    for line in text.splitlines():
        if match := _LINE.match(line):
            try:
                value = float(match[2])
            except ValueError:
                continue
            if math.isfinite(value):
                found[match[1]] = value
    return found


def _slots(text: str) -> tuple[float | None, float | None]:
    """Tokens that requests under way have written, and that their contexts hold.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: If it is not the engine's JSON.
    """
    busy: list[dict[str, Any]] = [slot for slot in json.loads(text) if slot["is_processing"]]
    decoded = [float(part["n_decoded"]) for slot in busy for part in slot.get("next_token") or ()]
    held = [float(slot["n_prompt_tokens"]) for slot in busy if "n_prompt_tokens" in slot]
    # An engine that does not tell of a request under way tells nothing of them all.
    complete = len(decoded) == len(busy), len(held) == len(busy)
    return (sum(decoded) if complete[0] else None), (sum(held) if complete[1] else None)


def _metrics(slots: int, context: int, names: Dialect) -> tuple[Metric, ...]:
    under_way = " and of n_decoded of the requests under way" if names.slots else ""
    found = (
        Metric(
            key="generated",
            title="generated",
            unit="tokens/s",
            method=f"change of {names.engine}'s {names.generated}{under_way}",
        ),
        Metric(
            key="prompt",
            title="prompts read",
            unit="tokens/s",
            method=f"change of {names.engine}'s {names.prompt}, which counts a prompt when it is through",
        ),
        Metric(
            key="answering",
            title="answered now",
            unit="",
            method=f"{names.engine}'s {names.answering}: requests whose prompt is read or whose answer is written",
            most=float(slots),
        ),
        Metric(
            key="waiting",
            title="waiting",
            unit="",
            method=f"{names.engine}'s {names.waiting}: requests for which there is no slot yet",
        ),
        Metric(
            key="context",
            title="context held",
            unit="tokens",
            method="n_prompt_tokens of llama-server's slots that are busy: what is in their KV cache",
            most=float(slots * context),
        ),
    )
    return found if names.slots else found[:-1]
