"""Requests on the time line: when each was sent, when its answer began and ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One request, as the one who asked has seen it.

    Attributes:
        subject: The server that was asked.
        began_s: When it was sent, in seconds since the first look; less than 0 for before it.
        total_s: From sending it to the last piece of text.
        ttft_s: From sending it to the first piece of text; None if there was none.
        prefill_s: How long the engine read the prompt, by its own clock; None if it does not tell.
        tokens: Tokens that were written, as the engine counts.
        tokens_per_s: Rate at which they were written, by the engine's clock.
        outcome: "stop", "length", "interrupted", or what went wrong.
        joules: Energy that was counted while it was under way; None if there is no figure.
        energy_note: How that was counted, or why there is no figure; "" if nobody has looked.
    """

    subject: str
    began_s: float
    total_s: float
    ttft_s: float | None = None
    prefill_s: float | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    outcome: str = ""
    joules: float | None = None
    energy_note: str = ""

    @property
    def queue_s(self) -> float | None:
        """What of the time to the first piece of text the engine did not read: waiting, and the way there."""
        if self.ttft_s is None or self.prefill_s is None:
            return None
        return max(0.0, self.ttft_s - self.prefill_s)

    @property
    def joules_per_token(self) -> float | None:
        """Joules divided by tokens; None if either is unknown, or no token was written."""
        return per_token(self.joules, self.tokens)


def band_from_dict(data: Mapping[str, Any]) -> Band:
    """The inverse of `dataclasses.asdict` for a `Band`; what stands in a file may be anything.

    Raises:
        KeyError, TypeError, ValueError: If that is no band.
    """
    tokens = optional_number(data.get("tokens"))
    return Band(
        subject=str(data["subject"]),
        began_s=number(data["began_s"]),
        total_s=number(data["total_s"]),
        ttft_s=optional_number(data.get("ttft_s")),
        prefill_s=optional_number(data.get("prefill_s")),
        tokens=None if tokens is None else int(tokens),
        tokens_per_s=optional_number(data.get("tokens_per_s")),
        outcome=str(data.get("outcome", "")),
        joules=optional_number(data.get("joules")),
        energy_note=str(data.get("energy_note") or ""),
    )


def per_token(joules: float | None, tokens: int | None) -> float | None:
    """Joules divided by tokens; None if either is unknown, or there is no token."""
    return None if joules is None or tokens is None or tokens <= 0 else joules / tokens


def number(value: Any) -> float:
    """A number that is finite.

    Raises:
        TypeError, ValueError: If it is none.
    """
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"{found} is not finite")
    return found


def optional_number(value: Any) -> float | None:
    """The same, or None for None."""
    return None if value is None else number(value)
