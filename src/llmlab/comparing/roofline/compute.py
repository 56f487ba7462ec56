"""Roofs, what a model needs under them (bytes to read, operations to compute), and the rates that follow.

Roofs are how fast memory can be read here and how fast can be computed, measured, not quoted.

The machine's are those of plain programs: reading a large buffer, and a product of
float32 matrices. The engine's are what it got through itself with weights of each
type (`weights.rates`), unpacking included.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Literal

import psutil

from llmlab import machine
from llmlab.weights import fit, rates
from llmlab.weights.anatomy import Anatomy
from llmlab.weights.rates import Bound, Rates

Name = Literal["decode", "prefill"]

_BATCH = 512  # tokens of a prompt that the engine reads with one pass over the weights
# Whichever library numpy was built with: it reads one of them when it is loaded, so in a process of its own.
_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
)
# Matrices that fit into caches of several sizes. The best counts, since neighbours can only make it slower.
_SCRIPT = """
import time
import numpy
best = 0.0
for n in (256, 512, 1024):
    a, b = numpy.random.default_rng(n).random((2, n, n), dtype=numpy.float32)
    product = numpy.matmul(a, b)
    end = time.perf_counter() + 0.15
    while (began := time.perf_counter()) < end:
        numpy.matmul(a, b, out=product)
        best = max(best, 2 * n**3 / (time.perf_counter() - began))
print(best)
"""
_PATIENCE_S = 60.0
_LOOK_S = 0.3
_SPARED = 0.25  # of a CPU: what a machine does by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofs:
    """What limits any program: the pace of memory, and that of computing. Unknown is None.

    Attributes:
        bytes_per_s: Bytes read from memory per second.
        operations_per_s: Additions and multiplications per second.
    """

    bytes_per_s: float | None
    operations_per_s: float | None

    @property
    def ridge(self) -> float | None:
        """Operations per byte at which the two roofs meet: below, memory is the limit; above, computing."""
        if not self.bytes_per_s or not self.operations_per_s:
            return None
        return self.operations_per_s / self.bytes_per_s

    def bound(self, intensity: float) -> Bound | None:
        """The lower of the two at so many operations per byte; None if either is unknown."""
        if self.ridge is None:
            return None
        return "memory" if intensity < self.ridge else "compute"

    def seconds(self, nbytes: float, operations: float) -> float | None:
        """The least time for so many bytes and operations; None if either roof is unknown."""
        if not self.bytes_per_s or not self.operations_per_s:
            return None
        return max(nbytes / self.bytes_per_s, operations / self.operations_per_s)

    def higher(self, other: Roofs) -> Roofs:
        """Of two measurements the better, each roof by itself."""
        return Roofs(
            bytes_per_s=max(filter(None, (self.bytes_per_s, other.bytes_per_s)), default=None),
            operations_per_s=max(filter(None, (self.operations_per_s, other.operations_per_s)), default=None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one pass over the model reads and computes.

    Attributes:
        tokens: Tokens that it generates, or reads of a prompt.
        context: Tokens that the last of them can look back at.
        weight_bytes: Bytes of weights that are read.
        kv_bytes: Bytes of the KV cache that are read.
        operations: Additions and multiplications.
    """

    tokens: int
    context: int
    weight_bytes: int
    kv_bytes: int
    operations: int

    @property
    def nbytes(self) -> int:
        """Bytes that are read in all."""
        return self.weight_bytes + self.kv_bytes

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.nbytes if self.nbytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Generating tokens, or reading a prompt: predicted and measured. Unknown is None.

    Attributes:
        name: "decode" or "prefill".
        work: What one pass reads and computes.
        bound: The roof that is the lower one for it.
        roof_tokens_per_s: The rate at that roof.
        predicted_tokens_per_s: The same with t0, where that is known.
        engine_tokens_per_s: What `weights.rates` predicts from the engine's own roofs.
        measured: Each measured rate, tokens per second by the engine's clock; () if it was not measured.
    """

    name: Name
    work: Work
    bound: Bound | None
    roof_tokens_per_s: float | None
    predicted_tokens_per_s: float | None
    engine_tokens_per_s: float | None
    measured: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        name: Name,
        work: Work,
        roofs: Roofs,
        *,
        overhead_s: float = 0.0,
        engine_tokens_per_s: float | None = None,
        measured: tuple[float, ...] = (),
    ) -> Phase:
        """Predict a phase from the machine's roofs.

        Args:
            name: "decode" or "prefill".
            work: What one pass reads and computes.
            roofs: The machine's.
            overhead_s: t0, seconds that a pass takes besides.
            engine_tokens_per_s: What is predicted from the engine's roofs.
            measured: Rates, tokens per second.
        """
        least_s = roofs.seconds(work.nbytes, work.operations)
        return cls(
            name=name,
            work=work,
            bound=roofs.bound(work.intensity) if least_s else None,
            roof_tokens_per_s=work.tokens / least_s if least_s else None,
            predicted_tokens_per_s=work.tokens / (least_s + overhead_s) if least_s else None,
            engine_tokens_per_s=engine_tokens_per_s,
            measured=measured,
        )

    @property
    def measured_tokens_per_s(self) -> float | None:
        """The median of what was measured."""
        return median(self.measured) if self.measured else None

    @property
    def share(self) -> float | None:
        """What was measured, as a part of the rate at the roof."""
        rate = self.measured_tokens_per_s
        return rate / self.roof_tokens_per_s if rate and self.roof_tokens_per_s else None

    def operations_per_s(self, tokens_per_s: float | None) -> float | None:
        """Operations per second at a rate."""
        return None if tokens_per_s is None else tokens_per_s * self.work.operations / self.work.tokens

    def bytes_per_s(self, tokens_per_s: float | None) -> float | None:
        """Bytes per second at a rate."""
        return None if tokens_per_s is None else tokens_per_s * self.work.nbytes / self.work.tokens

    def to_dict(self) -> dict[str, Any]:
        """The phase as plain data, with what follows from it."""
        rate = self.measured_tokens_per_s
        return {
            **asdict(self),
            "measured": list(self.measured),
            "intensity": self.work.intensity,
            "measured_tokens_per_s": rate,
            "bytes_per_s": self.bytes_per_s(rate),
            "operations_per_s": self.operations_per_s(rate),
            "share": self.share,
        }


def of_machine(threads: int) -> Roofs:
    """Measure the machine's roofs; takes about two seconds.

    Args:
        threads: As many as the engine computes with.
    """
    bandwidth = machine.read_bandwidth_gb_per_s(threads)
    return Roofs(
        bytes_per_s=bandwidth * 1e9 if bandwidth else None,
        operations_per_s=peak_operations_per_s(threads),
    )


def others(threads: int) -> float | None:
    """CPUs that other programs use now, if fewer are left than these threads want; None if enough are.

    Looks for a third of a second. What is measured meanwhile comes out too low.

    Args:
        threads: How many will compute.
    """
    every = psutil.cpu_count() or 1
    used = psutil.cpu_percent(interval=_LOOK_S) / 100 * every
    return used if used > every - threads + _SPARED else None


def of_engine(model: Anatomy, measured: Rates | None) -> Roofs | None:
    """The roofs that the engine has reached with weights such as the model's; None if it was not measured.

    Of several types of weights, each takes its own time.

    Args:
        model: What the model is made of.
        measured: What was measured of the engine.
    """
    if measured is None:
        return None
    # Without what layers and attention take besides, what is left are the roofs.
    pure = replace(measured, layer_s=0.0, attention_s=0.0, prompt_attention_s=0.0)
    pace = rates.predict(model, pure)
    if pace is None:
        return None
    return Roofs(
        bytes_per_s=sum(model.read_by_type.values()) * pace.decode_tokens_per_s,
        operations_per_s=2 * sum(model.prompt_parameters.values()) * pace.prefill_tokens_per_s,
    )


def peak_operations_per_s(threads: int) -> float | None:
    """How fast float32 matrices are multiplied: additions and multiplications per second.

    Measured with numpy's BLAS library in a process of its own, for half a second.
    None if that cannot be done.

    Args:
        threads: Threads that compute.
    """
    environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env=environment,
            cwd=os.sep,  # no module of the user's stands in for numpy
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=True,
        )
        return float(done.stdout) or None
    return None


def decode_work(model: Anatomy, context: int, requests: int = 1) -> Work:
    """What generating the next token reads and computes.

    Args:
        model: What the model is made of.
        context: Tokens in the context of each request.
        requests: Requests that are answered together, a token of each in one pass.
    """
    per_token = 2 * model.active_parameters + context * _attention_operations(model)
    return Work(
        tokens=requests,
        context=context,
        weight_bytes=_weights_read(model, requests),
        kv_bytes=requests * context * kv_bytes(model),
        operations=requests * per_token,
    )


def prefill_work(model: Anatomy, tokens: int) -> Work:
    """What reading a prompt reads and computes.

    Weights are read once for each batch of 512 tokens; what attention reads of
    the cache is not counted, since it has just been written. The output matrix
    works on the last token only.

    Args:
        model: What the model is made of.
        tokens: Tokens of the prompt.
    """
    each = sum(model.prompt_parameters.values())
    looked_back = tokens * (tokens + 1) // 2
    return Work(
        tokens=tokens,
        context=tokens,
        weight_bytes=math.ceil(tokens / _BATCH) * _weights_read(model, min(tokens, _BATCH)),
        kv_bytes=0,
        operations=2 * (tokens * each + model.active_parameters - each)
        + looked_back * _attention_operations(model),
    )


def kv_bytes(model: Anatomy) -> int:
    """Bytes of keys and values (f16) that a token in the context adds to what each later one reads.

    2 · layers · KV heads · head length · 2 bytes, where keys are as long as values.
    """
    # Of 2²⁰ tokens the cache has as many MiB as that of one has bytes.
    setting = fit.Setting(context=256, slots=4096)
    return fit.need(model, setting).parts["KV cache"]


def _attention_operations(model: Anatomy) -> int:
    """Operations of a token for each that it looks back at: its query with a key, its weight with a value."""
    layers = sum(heads > 0 for heads in model.n_kv_heads)
    return 2 * layers * model.n_heads * (model.key_length + model.value_length)


def _weights_read(model: Anatomy, tokens: int) -> int:
    """Bytes of weights that one pass with so many tokens reads.

    Of a mixture of experts more and more are read, as each token has its own:
    the expected number, as if each chose by chance.
    """
    active = sum(model.read_by_type.values())
    if model.n_experts <= model.n_experts_used:
        return active
    every = sum(replace(model, n_experts_used=model.n_experts).read_by_type.values())
    unused = 1 - model.n_experts_used / model.n_experts
    return round(every - (every - active) * unused ** (tokens - 1))
