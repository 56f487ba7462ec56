"""How long a server takes, by how many requests it answers at a time: measured, or computed from roofs."""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmlab import weights
from llmlab.comparing.roofline import compute

GPU = Path(__file__).parent / "results" / "gpu"
LARGE = "synthetic:llama-3.1-8b:Q4_0"
_BATCH = 2048  # llama-server's --batch-size
_CONTEXT = 512  # tokens that a request can look back at, where times are computed


@dataclass(frozen=True)
class Service:
    """The times of one server.

    Attributes:
        name: What serves what.
        step_s: Requests being generated → seconds in which each of them gets a token; those that were measured.
        prompt_token_s: Seconds in which the server reads a token of a prompt, and does nothing else.
        reading_s: Seconds that a step with prompts in it takes besides, however many they are.
        batch: Most tokens of prompts that are read between two tokens of those who are being answered.
        measured: Whether the times were measured; otherwise they are computed.
        source: Where they are from.
    """

    name: str
    step_s: Mapping[int, float]
    prompt_token_s: float
    reading_s: float = 0.0
    batch: int = _BATCH
    measured: bool = True
    source: str = ""
    _known: tuple[int, ...] = field(init=False, default=(), repr=False)

    def __post_init__(self) -> None:
        """Keep what is known in order."""
        object.__setattr__(self, "_known", tuple(sorted(self.step_s)))

    @property
    def slots(self) -> int:
        """The most requests at a time for which times are known."""
        return self._known[-1]

    def step(self, busy: int) -> float:
        """Seconds for a token of each of so many requests; on a line between those that are known.

        Raises:
            ValueError: If nothing is known of so many.
        """
        if busy in self.step_s:
            return self.step_s[busy]
        if not self._known[0] < busy < self._known[-1]:
            raise ValueError(f"nothing is known of {busy} requests at a time")
        above = bisect.bisect(self._known, busy)
        low, high = self._known[above - 1], self._known[above]
        part = (busy - low) / (high - low)
        return (1 - part) * self.step_s[low] + part * self.step_s[high]

    def capacity(self, prompt: float, tokens: float) -> float:
        """Requests per second with all slots taken, each with such a prompt and answer."""
        return 1 / (prompt * self.prompt_token_s + tokens * self.step(self.slots) / self.slots)

    def to_dict(self) -> dict[str, Any]:
        """The times as plain data."""
        return {
            "name": self.name,
            "measured": self.measured,
            "source": self.source,
            "step_ms": {str(busy): round(1000 * seconds, 4) for busy, seconds in self.step_s.items()},
            "prompt_token_ms": round(1000 * self.prompt_token_s, 5),
            "reading_ms": round(1000 * self.reading_s, 3),
            "slots": self.slots,
            "batch": self.batch,
        }


def from_dict(found: Mapping[str, Any]) -> Service:
    """What `Service.to_dict` has written."""
    return Service(
        name=found["name"],
        step_s={int(busy): value / 1000 for busy, value in found["step_ms"].items()},
        prompt_token_s=found["prompt_token_ms"] / 1000,
        reading_s=found["reading_ms"] / 1000,
        batch=found["batch"],
        measured=found["measured"],
        source=found["source"],
    )


def on_gpu(folder: Path = GPU, model: str = LARGE) -> Service:
    """The times that `bench/gpu` has measured: one request, and eight at once."""
    rates, recordings = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("rates", "recordings")
    )
    rated = next(each for each in rates["models"] if each["model"] == model)
    recorded = next(
        each for each in recordings.values() if isinstance(each, dict) and each.get("model") == model
    )
    together = next(each for each in recorded["phases"] if each["phase"] == "8 at once")
    seconds = together["to_s"] - together["from_s"]
    return Service(
        name=f"{model}, {rates['roofs']['gpu']}",
        # Eight at once waited for the last of them, and their short prompts are in that time as well.
        step_s={1: 1 / rated["decode at 16"]["tokens_per_s"], 8: 8 * seconds / together["tokens"]},
        prompt_token_s=1 / rated["prefill 512"]["tokens_per_s"],
        source="bench/results/gpu: rates.json (decode at 16, prefill 512), recordings.json (8 at once)",
    )


def at_the_roof(folder: Path = GPU, model: str = LARGE, slots: int = 32) -> Service:
    """The least times that the card's measured roofs allow any engine; computed."""
    found = json.loads((folder / "roofs.json").read_text(encoding="utf-8"))
    roofs = compute.Roofs(
        bytes_per_s=found["read_bytes_per_s"], operations_per_s=found["fp16_operations_per_s"]
    )
    made = weights.foresee(model)

    def seconds(work: compute.Work) -> float:
        least = roofs.seconds(work.nbytes, work.operations)
        assert least is not None
        return least

    return Service(
        name=f"{model}, {found['gpu']}, at the roof",
        step_s={
            busy: seconds(compute.decode_work(made, _CONTEXT, busy))
            for busy in (1, 2, 4, 8, 16, 32)
            if busy <= slots
        },
        prompt_token_s=seconds(compute.prefill_work(made, _CONTEXT)) / _CONTEXT,
        measured=False,
        source="computed: bytes and operations under the roofs in bench/results/gpu/roofs.json",
    )
