"""Tokens per second through `ask` against a raw socket reader of the same stream."""

from __future__ import annotations

import math
import time
from typing import Any

import llmlab
from bench import common, raw
from llmlab.reporting import Reporter, reporting_to

_MAX_TOKENS = 400
_QUESTIONS, _ROUNDS = 6, 6


class _Stopwatch(Reporter):
    """Notes when the first and the last piece of an answer came."""

    def __init__(self) -> None:
        self.first = self.last = 0.0
        self.pieces = 0

    def text(self, piece: str) -> None:  # noqa: ARG002 - only when matters
        """A piece came."""
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.pieces += 1


def run() -> dict[str, Any]:
    """Measure against one native server."""
    with llmlab.start("tiny", backend="native", slots=1) as server:
        questions = _long_answers(server)
        blocks = [_block(server, question) for _ in range(_ROUNDS) for question in questions]
    # The first round of all is kept apart: it has warmed both sides up.
    blocks = blocks[len(questions) :]
    rate = common.spread([b["rate_ratio"] for b in blocks])
    whole = common.spread([b["whole_ratio"] for b in blocks])
    # A busy neighbour only ever makes an answer slower. Of whole requests, since a
    # reader that is woken late sees a late first piece, and so too high a rate.
    best = common.spread(
        [
            min(s for b in of_one for s in b["raw_s"]) / min(s for b in of_one for s in b["asked_s"])
            for of_one in (blocks[number :: len(questions)] for number in range(len(questions)))
        ]
    )
    noise = common.spread([b["raw_against_raw"] for b in blocks])
    ttft = sorted(ms for b in blocks for ms in b["ttft_added_ms"])
    ttft_noise = sorted(abs(b["raw_ttft_difference_ms"]) for b in blocks)
    cpu = common.spread([us for b in blocks for us in b["cpu_added_us_per_token"]], 2)
    common.show("tokens/s through ask(), against a raw reader", rate, "×", "≥ 0.99")
    common.show("whole request, the quickest of each side per prompt", best, "×", "–")
    common.show("whole request, with connecting", whole, "×", "–")
    common.show("raw reader against itself (what can be resolved)", noise, "×", "–")
    common.show("CPU time that the client adds per token", cpu, "µs", "≤ 50")
    added = {
        "p50": round(common.percentile(ttft, 50), 3),
        "p95": round(common.percentile(ttft, 95), 3),
        "pairs": len(ttft),
        "raw_against_raw_p95": round(common.percentile(ttft_noise, 95), 3),
    }
    print(
        f"  {'TTFT that the client adds':<52} {added['p50']:>9g} ms  (p95 {added['p95']:g}, "
        f"raw against raw p95 {added['raw_against_raw_p95']:g}; {added['pairs']} pairs; budget p95 ≤ 1)"
    )
    return {
        "tokens_per_s_ratio": {
            **rate,
            "definition": "(n − 1) / (time of last − time of first piece), ask over raw, per ABBA block",
            "budget": ">= 0.99",
        },
        "whole_request_ratio_of_the_quickest": {
            **best,
            "definition": "the same of the quickest request of each side, per prompt",
        },
        "whole_request_ratio": {
            **whole,
            "definition": "n / (end of the answer − call), ask over raw, per ABBA block",
        },
        "raw_against_raw_ratio": {**noise, "definition": "second raw reading of a block over its first"},
        "cpu_added_us_per_token": {
            **cpu,
            "definition": "CPU time of the calling thread, ask − raw, / tokens",
            "budget": "p50 <= 50",
        },
        "ttft_added_ms": {
            **added,
            "definition": "call → first piece of text, ask − raw, per pair",
            "budget": "p95 <= 1",
        },
        "tokens_per_answer": sorted({b["tokens"] for b in blocks}),
        "raw_tokens_per_s": common.spread([b["raw_tokens_per_s"] for b in blocks], 0),
    }


def _long_answers(server: llmlab.Server) -> list[str]:
    """Prompts whose answers go on until max_tokens: the same, long work on both sides.

    The tiny model ends its sentences; only nonsense makes it ramble.
    """
    found: list[str] = []
    for count in (300, 200, 250, 350):
        for letter in "xzqjvkwyghb":
            prompt = letter * count
            answer = server.ask(prompt, max_tokens=_MAX_TOKENS, temperature=0, seed=1)
            if answer.finish_reason == "length":
                found.append(prompt)
            if len(found) == _QUESTIONS:
                return found
    if not found:
        raise RuntimeError("no prompt makes the model write long enough")
    return found


def _block(server: llmlab.Server, prompt: str) -> dict[str, Any]:
    """One discarded request, so that the prompt is cached for all, then ABBA."""
    _raw(server, prompt)
    one, two = _asked(server, prompt), _raw(server, prompt)
    three, four = _raw(server, prompt), _asked(server, prompt)
    assert two.pieces == three.pieces == one.pieces == four.pieces, "the two sides had different work"
    tokens = two.pieces
    asked = [math.log(r.stream_s) for r in (one, four)]
    read = [math.log(r.stream_s) for r in (two, three)]
    return {
        "tokens": tokens,
        "raw_s": [two.total_s, three.total_s],
        "asked_s": [one.total_s, four.total_s],
        "rate_ratio": math.exp((sum(read) - sum(asked)) / 2),
        "whole_ratio": math.sqrt((two.total_s * three.total_s) / (one.total_s * four.total_s)),
        "raw_against_raw": two.stream_s / three.stream_s,
        "ttft_added_ms": [(one.ttft_s - two.ttft_s) * 1000, (four.ttft_s - three.ttft_s) * 1000],
        "raw_ttft_difference_ms": (two.ttft_s - three.ttft_s) * 1000,
        "cpu_added_us_per_token": [
            (one.cpu_s - two.cpu_s) / tokens * 1e6,
            (four.cpu_s - three.cpu_s) / tokens * 1e6,
        ],
        "raw_tokens_per_s": (tokens - 1) / two.stream_s,
    }


def _asked(server: llmlab.Server, prompt: str) -> raw.Reading:
    watch = _Stopwatch()
    cpu, began = time.thread_time(), time.perf_counter()
    with reporting_to(watch):
        server.ask(prompt, max_tokens=_MAX_TOKENS, temperature=0, seed=1)
    ended, cpu = time.perf_counter(), time.thread_time() - cpu
    return raw.Reading(
        ttft_s=watch.first - began,
        stream_s=watch.last - watch.first,
        total_s=ended - began,
        cpu_s=cpu,
        pieces=watch.pieces,
    )


def _raw(server: llmlab.Server, prompt: str) -> raw.Reading:
    path = server.record.endpoint.socket
    assert path is not None
    body = raw.payload(prompt, max_tokens=_MAX_TOKENS, temperature=0, seed=1)
    return raw.chat(path, body)
