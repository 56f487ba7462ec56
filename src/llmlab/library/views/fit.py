"""What a model needs, and whether there is room for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llmlab import render
from llmlab.library.views.base import View, rate_text

FitVerdict = Literal["fits", "tight", "too big"]
_SPARE = "given back if memory is short"
_PART_NAMES = ("weights", "repacked weights", "KV cache", "compute", "program")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit(View):
    """What a model needs with certain settings, and whether there is room for it.

    Attributes:
        fits: The verdict; "tight" if there is room only for what is required.
        required_mib: Memory it cannot do without.
        resident_mib: Memory it holds at most; what is more than `required_mib`
            is given back when memory is short.
        available_mib: Memory there is for it: of the machine, or the limit.
        parts: What `resident_mib` is made of, in MiB: "weights", "repacked
            weights", "KV cache", "compute", "program".
        context: Tokens of context for each slot.
        slots: Requests answered at the same time.
        kv_type: Type of the KV cache, such as "f16".
        vram_mib: What it needs besides of a GPU's memory; None without a GPU.
        decode_tokens_per_s: Predicted rate of generation for one request.
        prefill_tokens_per_s: Predicted rate of reading a prompt.
        bound: What limits generation: "memory" or "compute".
        advice: What would make it fit, or why it is tight; "" if it fits.
    """

    fits: FitVerdict
    required_mib: int
    resident_mib: int
    available_mib: int
    parts: Mapping[str, int]
    context: int
    slots: int
    kv_type: str
    vram_mib: int | None = None
    decode_tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    bound: str | None = None
    advice: str = ""

    @property
    def spare_mib(self) -> int:
        """What it holds and gives back when memory is short: the originals of repacked weights."""
        return max(self.resident_mib - self.required_mib, 0)

    def required_parts(self) -> dict[str, int]:
        """The parts without what can be given back; always in the same order, so that a part keeps its shade."""
        known = {name: self.parts.get(name, 0) for name in _PART_NAMES}
        known["weights"] = max(known["weights"] - self.spare_mib, 0)
        return {**known, **{name: mib for name, mib in self.parts.items() if name not in known}}

    def needs(self) -> str:
        """What it needs of what there is, in words."""
        text = (
            f"needs {render.mib_text(self.required_mib)} of {render.mib_text(self.available_mib)} available"
        )
        if self.spare_mib:
            text += f", holds up to {render.mib_text(self.resident_mib)} while there is room"
        return text

    def _settings(self) -> str:
        gpu = "" if self.vram_mib is None else f"; {render.mib_text(self.vram_mib)} more on the GPU"
        return f"context {self.context} tokens × {self.slots} slots, KV cache {self.kv_type}{gpu}"

    def _rates(self) -> str:
        parts = []
        if self.decode_tokens_per_s is not None:
            bound = f" (limited by {self.bound})" if self.bound else ""
            parts.append(f"{rate_text(self.decode_tokens_per_s)} tokens/s generated{bound}")
        if self.prefill_tokens_per_s is not None:
            parts.append(f"{rate_text(self.prefill_tokens_per_s)} tokens/s of a prompt read")
        return "predicted " + ", ".join(parts) if parts else "rates unknown"

    def _figures(self) -> dict[str, str]:
        figures = {name: render.mib_text(mib) for name, mib in self.required_parts().items() if mib}
        return {**figures, **({_SPARE: render.mib_text(self.spare_mib)} if self.spare_mib else {})}

    def __str__(self) -> str:
        """All of it in words, part by part."""
        parts = ", ".join(f"{name} {figure}" for name, figure in self._figures().items())
        lines = [f"{self.fits}: {self.needs()}", parts, self._settings(), self._rates(), self.advice]
        return "; ".join(line for line in lines if line)

    def _bar(self, *, wide: bool) -> str:
        parts = self.required_parts()
        return render.html_bar(parts, self.available_mib, spare=self.spare_mib, label=str(self), wide=wide)

    def to_html(self) -> str:
        """A bar of its parts, their figures, and what would make it fit."""
        figures = self._figures()
        spare = figures.pop(_SPARE, None)
        legend = {name: figures.get(name, "") for name in self.required_parts()}
        return (
            render.html_verdict(self.fits, self.needs())
            + self._bar(wide=True)
            + render.html_legend(
                legend,
                spare=(_SPARE, spare or "") if spare else None,
                too_big=self.required_mib > self.available_mib,
            )
            + render.html_small(f"{self._settings()}; {self._rates()}")
            + (render.html_note(self.advice) if self.advice else "")
        )

    def cell(self) -> str:
        """The same in a table's cell, as HTML."""
        advice = f'<div style="max-width:15em">{render.html_muted(self.advice)}</div>' if self.advice else ""
        verdict = render.html_verdict(self.fits, f"needs {render.mib_text(self.required_mib)}")
        return self._bar(wide=False) + verdict + advice


def legend(fits: Sequence[Fit]) -> str:
    """What the shades of their bars stand for, as HTML; "" if there are none."""
    if not fits:
        return ""
    names = {name: "" for fit in fits for name in fit.required_parts()}
    spare = (_SPARE, "") if any(fit.spare_mib for fit in fits) else None
    too_big = any(fit.required_mib > fit.available_mib for fit in fits)
    return render.html_legend(names, spare=spare, too_big=too_big)
