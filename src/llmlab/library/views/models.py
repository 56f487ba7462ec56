"""One model, and the list of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from llmlab import render
from llmlab.library.views.base import COLUMNS, SYNTHETIC, View, rate_text
from llmlab.library.views.fit import Fit, legend
from llmlab.render import frames

ModelState = Literal["built-in", "here", "not here"]
_HEADER = ("name", "params", "quant", "size", "state")
_LICENCE_HEADER = ("licence",)
_FIT_HEADER = ("needs", "fits", "tokens/s")
_HTML_HEADER = ("name", "params", "size", "state", "licence")
_FIT_HTML_HEADER = ("memory here", "tokens/s")
_GAP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow(View):
    """One model of the list.

    Attributes:
        name: What to type, as short as it goes.
        reference: The full reference, such as `hf:owner/repo:Q4_K_M`.
        state: "built-in", "here" (on this machine) or "not here".
        parameters: Number of parameters.
        quantisation: Type of most of its weights, such as "Q4_K_M".
        file_bytes: Size of its files.
        context_train: Tokens of context it was trained with.
        licence: Its licence, as its publisher names it.
        synthetic: Whether its weights are random numbers.
        good_for: What it is good for in teaching, in a few words.
        fit: What it needs here; None if that was not asked for or is not known.
    """

    name: str
    reference: str
    state: ModelState
    parameters: int | None
    quantisation: str | None
    file_bytes: int | None
    context_train: int | None
    licence: str | None
    synthetic: bool = False
    good_for: str = ""
    fit: Fit | None = None

    def cells(self, *, fit: bool, name_columns: int) -> list[str]:
        """The cells of the text table."""
        cells = [
            render.clipped(self._named(), name_columns, middle=True),
            render.parameters_text(self.parameters),
            render.clipped(self.quantisation or render.UNKNOWN, 8),
            render.bytes_text(self.file_bytes),
            self.state,
        ]
        if not fit:
            return [*cells, render.clipped(self.licence or render.UNKNOWN, 20)]
        if self.fit is None:
            return [*cells, render.UNKNOWN, render.UNKNOWN, render.UNKNOWN]
        return [
            *cells,
            render.mib_text(self.fit.required_mib),
            f"{self._text_bar(self.fit)} {self.fit.fits}",
            rate_text(self.fit.decode_tokens_per_s),
        ]

    @staticmethod
    def _text_bar(fit: Fit) -> str:
        room = max(fit.available_mib, 1)
        return render.text_bar(fit.required_mib / room, fit.spare_mib / room)

    def html_cells(self, *, fit: bool) -> list[str]:
        """The cells of the HTML table."""
        quant = render.html_small(render.clipped(self.quantisation or "", 16), one_line=True)
        cells = [
            self._html_name(),
            escape(render.parameters_text(self.parameters)),
            escape(render.bytes_text(self.file_bytes)) + quant,
            render.html_state(self.state),
            f'<div style="max-width:8em;overflow-wrap:anywhere">{escape(self.licence or render.UNKNOWN)}</div>',
        ]
        if not fit:
            return cells
        if self.fit is None:
            return [*cells, "unknown", render.UNKNOWN]
        prompt = self.fit.prefill_tokens_per_s
        return [
            *cells,
            self.fit.cell(),
            escape(rate_text(self.fit.decode_tokens_per_s))
            + ("" if prompt is None else render.html_small(f"prompt {rate_text(prompt)}", one_line=True)),
        ]

    def _named(self) -> str:
        word = SYNTHETIC[0]
        return f"{word} {self.name}" if self.synthetic and word not in self.name else self.name

    def _html_name(self) -> str:
        tag = render.html_tag(*SYNTHETIC) if self.synthetic else ""
        about = f"<div>{tag}{render.html_muted(self.good_for)}</div>" if tag or self.good_for else ""
        return (
            f'<div style="min-width:11em;max-width:19em;overflow-wrap:anywhere" title="{escape(self.reference)}">'
            f"<strong>{escape(self.name)}</strong>{about}</div>"
        )

    def __str__(self) -> str:
        """The row under its header."""
        return str(ModelList(models=(self,)))

    def to_html(self) -> str:
        """The same as HTML."""
        return ModelList(models=(self,)).to_html()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelList(View, Sequence[ModelRow]):
    """Models: built in, on this machine, and in the catalog; a sequence of `ModelRow`.

    Attributes:
        models: The models.
        machine: This machine, as `llmlab.machine.look()` finds it ("total_mib",
            "available_mib", "cpus", "gpus"), and "read_bandwidth_gb_per_s" (10⁹
            bytes a second) if that was measured. None where it was not looked
            at; what is missing in it is not known.
        error: How good predictions were so far: "starts" (their number), and,
            as (predicted − observed) / observed, "memory_median",
            "memory_worst", "rate_median", "rate_worst".
        checked: The day the catalog was last checked, such as "2026-11-20".
    """

    models: tuple[ModelRow, ...]
    machine: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    checked: str = ""

    def __getitem__(self, index: Any) -> Any:
        """The model at an index, or a tuple of them for a slice."""
        return self.models[index]

    def __len__(self) -> int:
        """Number of models."""
        return len(self.models)

    def __iter__(self) -> Iterator[ModelRow]:
        """The models."""
        return iter(self.models)

    @property
    def _fitted(self) -> bool:
        return any(model.fit for model in self.models)

    def to_frame(self) -> Any:
        """A pandas data frame: a row a model, a column for each attribute of it and its `fit`.

        Raises:
            UsageError: If pandas is not installed.
        """
        return frames.frame_of(self.models, ModelRow)

    def __str__(self) -> str:
        """A table like that of `docker images`, and what was measured."""
        header = [*_HEADER, *(_FIT_HEADER if self._fitted else _LICENCE_HEADER)]
        fixed = [model.cells(fit=self._fitted, name_columns=2)[1:] for model in self.models]
        # What the other columns leave.
        rest = render.text_table(header[1:], fixed, gap=_GAP).split("\n")
        room = max(COLUMNS - _GAP - max(map(len, rest)), 8)
        rows = [model.cells(fit=self._fitted, name_columns=room) for model in self.models]
        lines = [self.settings_line(), self.machine_line(), self.error_line(), self.checked_line()]
        below = [part for line in lines if line for part in render.wrapped(line, COLUMNS)]
        return "\n".join([render.text_table(header, rows, gap=_GAP), *([""] if below else []), *below])

    def to_html(self) -> str:
        """The same table, with a bar of memory for each model."""
        if not self.models:
            return render.html_card("No models", render.html_text("One is built in: %llm start tiny"))
        header = (*_HTML_HEADER, *(_FIT_HTML_HEADER if self._fitted else ()))
        rows = [model.html_cells(fit=self._fitted) for model in self.models]
        table = render.html_grid(header, rows, right=("params", "size", "tokens/s"))
        return table + f'<div style="margin-top:6px">{self._html_below()}</div>'

    def _html_below(self) -> str:
        fits = [model.fit for model in self.models if model.fit]
        lines = [self.settings_line(), self.machine_line(), self.error_line(), self.checked_line()]
        return legend(fits) + "".join(render.html_small(line) for line in lines if line)

    def settings_line(self) -> str:
        """What the predictions are for; "" where there are none."""
        fits = [model.fit for model in self.models if model.fit]
        if not fits:
            return ""
        contexts = sorted({fit.context for fit in fits})
        context = f"{'at most ' if contexts[1:] else ''}{contexts[-1]} tokens"
        slots = " or ".join(map(str, sorted({fit.slots for fit in fits})))
        return f"predicted for: context of {context} × {slots} slots; tokens/s for one request"

    def machine_line(self) -> str:
        """What was measured of this machine; "" if nothing was."""
        if self.machine is None:
            return ""
        known = self.machine.get
        available, total = (render.mib_text(known(name)) for name in ("available_mib", "total_mib"))
        bandwidth = known("read_bandwidth_gb_per_s")
        parts = [
            f"{available} of {total} memory available",
            "CPUs unknown" if known("cpus") is None else f"{known('cpus')} CPUs",
            *map(_gpu, known("gpus") or ()),
            *([] if known("gpus") else ["no GPU seen"]),
            "bandwidth not measured" if bandwidth is None else f"memory read at {bandwidth:.1f} GB/s",
        ]
        return "this machine: " + ", ".join(parts)

    def error_line(self) -> str:
        """How good predictions were; "" where none are shown."""
        if not self._fitted:
            return ""
        known = (self.error or {}).get
        starts = known("starts")
        if not starts:
            return "no prediction was compared with a start on this machine yet"
        line = f"{starts} start{'s' if starts > 1 else ''} so far: memory predicted "
        line += f"within {_percent(known('memory_median'))} (median), worst {_percent(known('memory_worst'))}"
        if known("rate_median") is not None:
            line += f"; tokens/s {_percent(known('rate_median'))}"
            if known("rate_worst") is not None:
                line += f", worst {_percent(known('rate_worst'))}"
        return line

    def checked_line(self) -> str:
        """When the catalog was last checked; "" if there is none in the list."""
        return f"catalog: last checked {self.checked}" if self.checked else ""


def _gpu(found: Any) -> str:
    """A GPU of `machine`: its name and memory."""
    if not isinstance(found, Mapping):
        return str(found)
    return f"{found.get('name', 'GPU')} ({render.mib_text(found.get('free_mib'))} of {render.mib_text(found.get('total_mib'))} free)"


def _percent(value: float | None) -> str:
    """A relative error with its sign."""
    if value is None:
        return "unknown"
    return f"{'−' if value < 0 else '+'}{abs(value) * 100:.0f} %"
