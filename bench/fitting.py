"""Memory and rates: what is predicted against what running servers hold and do.

Memory: the most that the engine's process has held (VmHWM) when it is ready,
has read a prompt as long as a batch and has answered. Rates: the engine's own clock.
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import llmlab
from bench import common
from llmlab.lab import planning
from llmlab.library import measuring
from llmlab.weights import resolve

_MODELS = {
    "tiny": (256, 512, 1024),
    "synthetic:qwen2.5-0.5b:Q4_0": (1024, 4096, 16384),
    "synthetic:llama-3.2-1b:Q4_0": (1024, 4096, 16384),
    "synthetic:llama-3.2-1b:Q4_K_M": (1024, 4096, 16384),
    "synthetic:llama-3.1-8b:Q4_0": (1024, 4096, 16384),
}
_TYPES = ("Q4_0", "Q4_K", "Q6_K", "Q8_0")
_WORDS = 560
_TOKENS = 48
_REPEATS = 3


def run() -> dict[str, Any]:
    """Measure."""
    threads = planning.default_threads(1 << 40)
    measuring.measure(_TYPES, threads, anew=True)
    rows = [
        _row(reference, context, rated=context == contexts[1])
        for reference, contexts in _MODELS.items()
        for context in contexts
    ]
    memory = [row["predicted_mib"] / row["observed_mib"] for row in rows]
    rated = [row for row in rows if "decode" in row]
    decode = [row["decode"]["predicted"] / row["decode"]["observed"] for row in rated]
    prefill = [row["prefill"]["predicted"] / row["prefill"]["observed"] for row in rated]
    found = {
        "memory_predicted_over_observed": {
            **common.spread(memory),
            "definition": "predicted most memory / VmHWM of the engine's process after a prompt of a batch",
            "budget": "0.9 to 1.1",
        },
        "decode_predicted_over_observed": {
            **common.spread(decode),
            "definition": "predicted tokens/s at the depth of the answer / the engine's own, median of 3",
            "budget": "0.75 to 1.25",
        },
        "prefill_predicted_over_observed": {
            **common.spread(prefill),
            "definition": "predicted tokens/s of reading a prompt of 512 tokens / the engine's own",
            "budget": "0.75 to 1.25",
        },
    }
    for name, entry in found.items():
        common.show(name.replace("_", " "), entry, "", str(entry["budget"]))
    return {**found, "rows": rows}


def _row(reference: str, context: int, *, rated: bool) -> dict[str, Any]:
    with llmlab.start(reference, backend="native", context=context, slots=1, timeout_s=900) as server:
        prediction = server.record.predicted
        assert prediction
        words = min(_WORDS, context * 3 // 4)
        long = server.ask("word " * words, max_tokens=2, timeout_s=900)
        row: dict[str, Any] = {
            "model": reference,
            "context": context,
            "predicted_mib": prediction.resident_mib,
            "observed_mib": _peak_mib(int(server.inspect().facts["pid"])),
        }
        if rated:
            question = "What is a container?"  # which `tiny` answers at some length
            answers = [server.ask(question, max_tokens=_TOKENS, timeout_s=900) for _ in range(_REPEATS)]
            depth = (answers[0].prompt_tokens or 0) + (answers[0].completion_tokens or 0) / 2
            observed = statistics.median(answer.tokens_per_s or 0 for answer in answers)
            row["decode"] = {"predicted": prediction.decode_at(depth), "observed": observed}
            row["prefill"] = {
                "predicted": prediction.prefill_tokens_per_s,
                "observed": long.prompt_tokens_per_s,
            }
    error = row["predicted_mib"] / row["observed_mib"] - 1
    print(f"  {resolve(reference).name:<32} context {context:>6}  predicted {row['predicted_mib']:>6} MiB, "
          f"held {row['observed_mib']:>6} MiB ({error:+.1%})", flush=True)  # fmt: skip
    if rated:
        for what in ("decode", "prefill"):
            pair = row[what]
            ratio = pair["predicted"] / pair["observed"] - 1
            print(
                f"    {what}: predicted {pair['predicted']:.1f}, {pair['observed']:.1f} tokens/s ({ratio:+.0%})"
            )
    return row


def _peak_mib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
    assert found
    return int(found[1]) // 1024
