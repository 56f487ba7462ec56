"""How fast a model will run: a roofline whose roofs were measured with the engine itself.

    t_token   = Σ weights read of a type / roof of that type
                + layers × overhead + attention × tokens in the context
    t_prompt  = Σ parameters of a type / prefill roof of that type
                + attention × half of the prompt's tokens              (per token)

A token of one request reads every active weight once, so generation is bound
by memory where the CPU keeps up, by unpacking the weights where it does not.
Which of the two differs by type; so the roof of a type is not a data sheet's
figure but the rate at which this engine on this machine got through a model
that consists of it (`library/calibrate.py`). Attention's share grows with the
tokens in the context, in proportion to layers × heads × head length.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmlab import machine
from llmlab.errors import MALFORMED
from llmlab.runtime import made_state_dir, state_dir
from llmlab.specs import value_of
from llmlab.weights.anatomy import Anatomy
from llmlab.weights.tensors import tensor_type

Bound = Literal["memory", "compute"]
_FILE = "rates.json"
_PROMPT_TOKENS = 512
_MEMORY_BOUND = 0.7  # of the bandwidth measured without a model


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What was measured of an engine on this machine.

    Attributes:
        threads: Compute threads.
        engine: Identity of the engine's files.
        cpu: Name of the CPU.
        measured: The day, as "2026-11-22".
        bandwidth_gb_per_s: Reading of memory without a model, 10⁹ bytes per
            second; None if not known.
        read_bytes_per_s: Weight type → bytes of weights read per second of generation.
        prefill_parameters_per_s: Weight type → parameters × tokens per second
            of reading a prompt.
        layer_s: Seconds that a layer takes besides its weights, for one token.
        attention_s: Seconds per layer × attention width (heads × length of
            a key, in elements) × token in the context, for one token.
        prompt_attention_s: The same for a token of a prompt, which is read in batches.
    """

    threads: int
    engine: str
    cpu: str
    measured: str
    bandwidth_gb_per_s: float | None = None
    read_bytes_per_s: dict[str, float] = field(default_factory=dict)
    prefill_parameters_per_s: dict[str, float] = field(default_factory=dict)
    layer_s: float = 0.0
    attention_s: float = 0.0
    prompt_attention_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Predicted rates of a model.

    Attributes:
        decode_tokens_per_s: Tokens generated per second for one request.
        prefill_tokens_per_s: Tokens of a prompt read per second, of one with
            about 512 tokens.
        context_token_s: Seconds that each token in the context adds to a token.
        bound: What limits generation: reading memory, or computing.
        assumed: Weight types that were not measured; the measured type with
            the nearest number of bits stood in for each.
    """

    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    context_token_s: float
    bound: Bound | None
    assumed: tuple[str, ...]


def predict(anatomy: Anatomy, rates: Rates) -> Pace | None:
    """Predict a model's rates, that of generation with an empty context.

    Args:
        anatomy: What the model is made of.
        rates: What was measured.

    Returns:
        The rates; None if nothing was measured, or the model has no weights.
    """
    read = anatomy.read_by_type
    if not rates.read_bytes_per_s or not sum(read.values()) or not anatomy.prompt_parameters:
        return None
    weights_s = _seconds(read, rates.read_bytes_per_s)
    prompt_s = _seconds(anatomy.prompt_parameters, rates.prefill_parameters_per_s)
    overhead_s = rates.layer_s * anatomy.n_layers
    wide = anatomy.n_layers * anatomy.n_heads * anatomy.key_length
    bound: Bound | None = None
    if rates.bandwidth_gb_per_s:
        at_bandwidth_s = sum(read.values()) / (rates.bandwidth_gb_per_s * 1e9)
        bound = "memory" if at_bandwidth_s > _MEMORY_BOUND * weights_s else "compute"
    return Pace(
        decode_tokens_per_s=1 / (weights_s + overhead_s),
        prefill_tokens_per_s=1 / (prompt_s + rates.prompt_attention_s * wide * _PROMPT_TOKENS / 2),
        context_token_s=rates.attention_s * wide,
        bound=bound,
        assumed=tuple(kind for kind in read if kind not in rates.read_bytes_per_s and kind not in _SMALL),
    )


# Norms and biases: too few bytes for their rate to matter.
_SMALL = frozenset({"F32"})


def _seconds(amounts: Mapping[str, int], roofs: Mapping[str, float]) -> float:
    return sum(amount / roofs[_measured(kind, roofs)] for kind, amount in amounts.items())


def _measured(kind: str, roofs: Mapping[str, float]) -> str:
    """The type itself, or the measured one with the nearest number of bits."""

    def bits(name: str) -> float:
        form = tensor_type(name)
        return form.block_bytes * 8 / form.block

    return kind if kind in roofs else min(roofs, key=lambda name: (abs(bits(name) - bits(kind)), name))


def load(threads: int) -> Rates | None:
    """What was measured on this machine with so many threads; None if nothing was."""
    try:
        entry = json.loads(_file().read_text(encoding="utf-8"))[_key(threads)]
        found = value_of(Rates, entry)
    except (OSError, *MALFORMED):
        return None
    roofs = (*found.read_bytes_per_s.values(), *found.prefill_parameters_per_s.values())
    seconds = (found.layer_s, found.attention_s, found.prompt_attention_s)
    return found if min(roofs, default=1.0) > 0 and min(seconds) >= 0 else None


def save(rates: Rates) -> None:
    """Keep what was measured, beside what was measured with other numbers of threads."""
    known: Any = {}
    with suppress(OSError, *MALFORMED):
        known = json.loads(_file().read_text(encoding="utf-8"))
    known = known if isinstance(known, dict) else {}
    known[_key(rates.threads)] = asdict(rates)
    with suppress(OSError):  # it is measured again then
        made_state_dir()
        draft = _file().with_name(f".{_FILE}.{os.getpid()}")
        draft.write_text(json.dumps(known, indent=1), encoding="utf-8")
        draft.replace(_file())


def _file() -> Path:
    return state_dir() / _FILE


def _key(threads: int) -> str:
    # A home directory may be shared by machines.
    return f"{machine.cpu_name()}, {threads} threads of {machine.cpus()}"
