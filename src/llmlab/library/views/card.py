"""Everything about one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.library.views.base import SYNTHETIC, View
from llmlab.library.views.models import ModelRow

if TYPE_CHECKING:
    from llmlab.weights.anatomy import Anatomy


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile(View):
    """One file of a model.

    Attributes:
        name: Its name.
        file_bytes: Its size.
        sha256: Its hash, hexadecimal; None if not known.
    """

    name: str
    file_bytes: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard(View):
    """Everything known about one model.

    Attributes:
        row: Its row of the list, with its fit.
        title: What it calls itself.
        path: Its (first) file on this machine.
        architecture: Its architecture, such as "llama".
        shape: Figures of it, label → figure: layers, heads, experts, …
        tokenizer: The same of its tokenizer; empty if there is none or none is known.
        chat_template: The template that turns a conversation into a prompt.
        tensor_bytes: Type of tensor → bytes of them.
        files: Its files.
    """

    row: ModelRow
    title: str | None = None
    path: Path | None = None
    architecture: str | None = None
    shape: Mapping[str, int | str | None] = field(default_factory=dict)
    tokenizer: Mapping[str, int | str | None] = field(default_factory=dict)
    chat_template: str | None = None
    tensor_bytes: Mapping[str, int] = field(default_factory=dict)
    files: tuple[ModelFile, ...] = ()

    @classmethod
    def of(
        cls, row: ModelRow, anatomy: Anatomy | None, files: Sequence[ModelFile], *, path: Path | None = None
    ) -> ModelCard:
        """The card of a model, with what its file says; None if there is no file to read."""
        if anatomy is None:
            return cls(row=row, files=tuple(files), path=path)
        return cls(
            row=row,
            title=anatomy.title,
            path=path,
            architecture=anatomy.architecture,
            shape=_shape(anatomy),
            tokenizer=_tokenizer(anatomy),
            chat_template=anatomy.chat_template,
            tensor_bytes=dict(sorted(anatomy.bytes_by_type.items(), key=lambda item: -item[1])),
            files=tuple(files),
        )

    def _chips(self) -> list[tuple[str, str, str]]:
        row = self.row
        size = "unknown" if row.file_bytes is None else render.bytes_text(row.file_bytes)
        count = "unknown" if row.parameters is None else f"{row.parameters:,}".replace(",", "\u00a0")
        context = "unknown" if row.context_train is None else f"{row.context_train} tokens"
        return [
            ("parameters", count, "numbers that were learned"),
            ("quantisation", row.quantisation or "unknown", "type of most of the weights"),
            ("size", size, "of its files"),
            ("context", context, "what it was trained with"),
            ("licence", row.licence or "unknown", "as its publisher names it"),
            *([("architecture", self.architecture, "its kind of network")] if self.architecture else []),
        ]

    def _about(self) -> list[tuple[str, str]]:
        pairs = [
            ("title", self.title or ""),
            ("reference", self.row.reference),
            ("good for", self.row.good_for),
            ("path", str(self.path or "")),
        ]
        return [(name, value) for name, value in pairs if value]

    def __str__(self) -> str:
        """All of it as text; of the chat template only that there is one."""
        row = self.row
        synthetic = f" ({SYNTHETIC[0]}: {SYNTHETIC[1]})" if row.synthetic else ""
        pairs = [*self._about(), *((name, value) for name, value, _ in self._chips()), *_pairs(self.shape)]
        if self.tokenizer:
            pairs.append(
                ("tokenizer", ", ".join(f"{name} {value}" for name, value in _pairs(self.tokenizer)))
            )
        if self.chat_template:
            pairs.append(("chat template", f"{len(self.chat_template)} characters"))
        if self.tensor_bytes:
            types = (f"{name} {render.bytes_text(size)}" for name, size in self.tensor_bytes.items())
            pairs.append(("tensors", ", ".join(types)))
        if row.fit:
            pairs.append(("fits here", str(row.fit)))
        width = max(len(name) for name, _ in pairs)
        lines = [f"{row.name}  {row.state}{synthetic}"]
        lines += [f"  {name.ljust(width)}  {value}" for name, value in pairs]
        if self.files:
            rows = [
                (file.name, render.bytes_text(file.file_bytes), file.sha256 or "unknown")
                for file in self.files
            ]
            lines += ["", render.text_table(("file", "size", "sha256"), rows)]
        return "\n".join(lines)

    def to_html(self) -> str:
        """All of it as a card."""
        row = self.row
        parts = [render.html_pairs(self._about()), f"<div>{render.html_chips(self._chips())}</div>"]
        if row.synthetic:
            parts.insert(0, render.html_note(f"{SYNTHETIC[0]}: {SYNTHETIC[1]}"))
        if row.fit:
            parts.append(render.html_section("Here", row.fit.to_html()))
        if self.shape:
            parts.append(render.html_section("Shape", render.html_facts(_pairs(self.shape))))
        if self.tensor_bytes:
            parts.append(render.html_section("Tensors by type", self._html_tensors()))
        if self.tokenizer:
            parts.append(render.html_section("Tokenizer", render.html_facts(_pairs(self.tokenizer))))
        if self.chat_template:
            title = f"Chat template ({len(self.chat_template)} characters)"
            parts.append(render.html_fold(title, render.html_code(self.chat_template.split("\n"))))
        if self.files:
            title = f"Files ({len(self.files)})"
            parts.append(render.html_fold(title, self._html_files()))
        tag = render.html_tag(*SYNTHETIC) if row.synthetic else ""
        return render.html_card(row.name, "".join(parts), side=tag + render.html_state(row.state))

    def _html_tensors(self) -> str:
        total = sum(self.tensor_bytes.values())
        figures = {
            name: f"{render.bytes_text(size)} ({_share(size / max(total, 1))})"
            for name, size in self.tensor_bytes.items()
        }
        label = ", ".join(f"{name} {figure}" for name, figure in figures.items())
        return render.html_bar(self.tensor_bytes, total, label=label, wide=True) + render.html_legend(figures)

    def _html_files(self) -> str:
        rows = [
            [
                f'<span style="overflow-wrap:anywhere">{escape(file.name)}</span>',
                escape(render.bytes_text(file.file_bytes)),
                f'<code style="font-size:75%;overflow-wrap:anywhere;padding:0;background:none;color:inherit">{escape(file.sha256 or "unknown")}</code>',
            ]
            for file in self.files
        ]
        return render.html_grid(("file", "size", "sha256"), rows, right=("size",))


def _share(value: float) -> str:
    return f"{value * 100:.0f}\u00a0%" if value >= 0.01 or not value else "<\u00a01\u00a0%"  # noqa: PLR2004


def _pairs(figures: Mapping[str, int | str | None]) -> list[tuple[str, str]]:
    return [(name, "unknown" if value is None else str(value)) for name, value in figures.items()]


def _shape(anatomy: Anatomy) -> dict[str, int | str | None]:
    """Figures of the network; what it does not have is left out."""
    kv = sorted(set(anatomy.n_kv_heads))
    figures: dict[str, int | str | None] = {
        "layers": anatomy.n_layers,
        "width": anatomy.n_embd,
        "feed-forward width": anatomy.n_ff,
        "attention heads": anatomy.n_heads,
        "KV heads": kv[0] if len(kv) == 1 else "–".join(map(str, (kv[0], kv[-1]))) if kv else None,
        "key length": anatomy.key_length,
        "value length": anatomy.value_length,
        "vocabulary": anatomy.n_vocab,
    }
    if anatomy.sliding_window:
        figures["sliding window"] = anatomy.sliding_window
    if anatomy.n_experts:
        figures["experts"] = f"{anatomy.n_experts}, {anatomy.n_experts_used} used for each token"
        figures["active parameters"] = render.parameters_text(anatomy.active_parameters)
    figures["output layer"] = "shared with the embeddings" if anatomy.tied_embeddings else "of its own"
    return figures


def _tokenizer(anatomy: Anatomy) -> dict[str, int | str | None]:
    found = anatomy.tokenizer
    if found is None:
        return {}
    figures: dict[str, int | str | None] = {"kind": found.kind}
    if found.pre:
        figures["splitting"] = found.pre
    return {
        **figures,
        "tokens": found.n_tokens,
        "merges": found.n_merges,
        "control tokens": found.n_control,
        "begin token": found.bos,
        "end token": found.eos,
    }
