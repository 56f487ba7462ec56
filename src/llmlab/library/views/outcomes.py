"""What pulling, removing and verifying came to."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from llmlab import render
from llmlab.library.views.base import COLUMNS, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled(View):
    """A model that is on this machine now.

    Attributes:
        reference: What was asked for.
        path: Its (first) file.
        file_bytes: Size of all its files.
        sha256: Hash of that file; it was compared with the published one where there is one.
        seconds: How long it took.
        downloaded_bytes: Bytes that came over the network; 0 if all was here.
    """

    reference: str
    path: Path
    file_bytes: int
    sha256: str | None
    seconds: float
    downloaded_bytes: int

    def _pairs(self, command: str) -> list[tuple[str, str]]:
        how = "all of it was here already"
        if self.downloaded_bytes:
            how = f"{render.bytes_text(self.downloaded_bytes)} downloaded in {render.duration_text(self.seconds)}"
            if self.seconds > 0:
                how += f", {render.bytes_text(self.downloaded_bytes / self.seconds)}/s"
        return [
            ("path", str(self.path)),
            ("size", f"{render.bytes_text(self.file_bytes)}; {how}"),
            ("sha256", self.sha256 or "unknown"),
            ("next", f"{command} start {self.reference}"),
        ]

    def __str__(self) -> str:
        """What is where."""
        return "\n".join(
            [self.reference, *(f"  {name:<6}  {value}" for name, value in self._pairs("llmlab"))]
        )

    def to_html(self) -> str:
        """The same as a card."""
        return render.html_card(
            self.reference, render.html_pairs(self._pairs("%llm")), side=render.html_state("here")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed(View):
    """What `rm` removed.

    Attributes:
        names: References of the models.
        freed_bytes: Bytes of disk that this freed; less than their size where
            another model shares a file.
    """

    names: tuple[str, ...]
    freed_bytes: int

    def __str__(self) -> str:
        """One sentence."""
        if not self.names:
            return "nothing to remove"
        return f"removed {', '.join(self.names)}: {render.bytes_text(self.freed_bytes)} of disk freed"

    def to_html(self) -> str:
        """The same sentence."""
        return render.html_text(str(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedFile(View):
    """One file that was verified.

    Attributes:
        reference: The model it belongs to.
        file: Its name.
        sha256: The hash that was found; None if it could not be read.
        ok: Whether that is the published one; None if none is published.
        detail: What is wrong, or why nothing can be said.
    """

    reference: str
    file: str
    sha256: str | None
    ok: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified(View):
    """What `verify` found, file by file.

    Attributes:
        rows: The files.
    """

    rows: tuple[VerifiedFile, ...]

    @property
    def ok(self) -> bool:
        """Whether no file differs from what was published."""
        return all(row.ok is not False for row in self.rows)

    def __str__(self) -> str:
        """A table, and the verdict."""
        rows = [
            (
                render.clipped(row.reference, 36, middle=True),
                render.clipped(row.file, 26, middle=True),
                render.plain(row.sha256 or "unknown")[:12],
                _VERDICTS[row.ok][0],
            )
            for row in self.rows
        ]
        details = [f"{row.file}: {row.detail}" for row in self.rows if row.detail]
        below = [part for line in details for part in render.wrapped(line, COLUMNS)]
        return "\n".join([render.text_table(("model", "file", "sha256", "verdict"), rows), *below])

    def to_html(self) -> str:
        """The same as HTML."""
        if not self.rows:
            return render.html_text("no files to verify")
        rows = [
            [
                f'<span style="overflow-wrap:anywhere">{escape(row.reference)}</span>',
                f'<span style="overflow-wrap:anywhere">{escape(row.file)}</span>',
                f'<code title="{escape(row.sha256 or "unknown")}" style="padding:0;background:none;color:inherit">{escape((row.sha256 or "unknown")[:12])}</code>',
                render.html_mark(*_VERDICTS[row.ok]) + (render.html_small(row.detail) if row.detail else ""),
            ]
            for row in self.rows
        ]
        return render.html_grid(("model", "file", "sha256", "verdict"), rows)


# The word, and how it is drawn.
_VERDICTS: dict[bool | None, tuple[str, render.Step]] = {
    True: ("as published", "done"),
    False: ("DIFFERS", "failed"),
    None: ("not compared", "ahead"),
}
