"""What two arms are compared by, each with its definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Per = Literal["request", "start"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One thing that is compared.

    Attributes:
        key: Its name in run cards.
        title: What it is called.
        unit: Its unit.
        better: Which values one wants.
        per: Measured at each request, or once at each start.
        definition: What it is exactly.
    """

    key: str
    title: str
    unit: str
    better: Literal["lower", "higher"]
    per: Per
    definition: str


METRICS = (
    Metric(
        key="output",
        title="output rate",
        unit="tokens/s",
        better="higher",
        per="request",
        definition="generated tokens / whole request, reading the prompt included, by the client's clock",
    ),
    Metric(
        key="client_generated",
        title="generation (client)",
        unit="tokens/s",
        better="higher",
        per="request",
        definition="(generated tokens − 1) / (time of last − time of first token), by the client's clock;"
        " unknown where others were read together with the first",
    ),
    Metric(
        key="generated",
        title="generation rate",
        unit="tokens/s",
        better="higher",
        per="request",
        definition="(generated tokens − 1) / (time of last − time of first token), by the engine's clock",
    ),
    Metric(
        key="prompt",
        title="prompt rate",
        unit="tokens/s",
        better="higher",
        per="request",
        definition="prompt tokens / time to read them, by the engine's clock; nothing is cached",
    ),
    Metric(
        key="ttft_s",
        title="time to first token",
        unit="s",
        better="lower",
        per="request",
        definition="from sending the request to the first token, by the client's clock",
    ),
    Metric(
        key="total_s",
        title="whole request",
        unit="s",
        better="lower",
        per="request",
        definition="from sending the request to the last token, by the client's clock",
    ),
    Metric(
        key="cpu_s",
        title="CPU time",
        unit="s",
        better="lower",
        per="request",
        definition="utime and stime of the server's process during the request",
    ),
    Metric(
        key="start_s",
        title="cold start",
        unit="s",
        better="lower",
        per="start",
        definition="from the call of start() until it has answered with a first token; the file is in the page cache",
    ),
    Metric(
        key="cold_ttft_s",
        title="first request",
        unit="s",
        better="lower",
        per="start",
        definition="time to first token of the first request after a start, which is not counted elsewhere",
    ),
    Metric(
        key="memory_mib",
        title="memory of its own",
        unit="MiB",
        better="lower",
        per="start",
        definition="RSS less shared and file pages of the server's process after the last request",
    ),
    Metric(
        key="gpu_memory_mib",
        title="GPU memory",
        unit="MiB",
        better="lower",
        per="start",
        definition="NVML's lists of processes: what the server's process holds after the last request",
    ),
    Metric(
        key="joules_per_token",
        title="energy",
        unit="J/token",
        better="lower",
        per="start",
        definition="difference of the energy counters over the measured requests / generated tokens; 10 s at least",
    ),
)
BY_KEY = {metric.key: metric for metric in METRICS}
MAIN = "generated"
"""What the verdict in one sentence is about."""
MAIN_BY_CLIENT = "output"
"""The same where an engine tells no times, so that the client's clock measures both arms.

Of a fast engine many tokens are read at once, and the times between them say little. That of
the whole request is exact all the same.
"""
