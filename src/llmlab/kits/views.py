"""What making, verifying and installing a kit came to."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from llmlab import render
from llmlab.kits.checking import Problem
from llmlab.kits.contents import Contents
from llmlab.kits.files import State
from llmlab.results import Result
from llmlab.specs import to_dict

_COLUMNS = 100
_MARKS: dict[str, tuple[str, render.Step]] = {
    "installed": ("✓", "done"),
    "here": ("✓", "done"),
    "left out": ("○", "ahead"),
}
# A few say how it is; a folder that was copied halfway has thousands.
_MOST_PROBLEMS = 20


class View(Result):
    """Base of these results: paths become strings in plain data."""

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON data."""
        data: dict[str, Any] = to_dict(self)
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a kit.

    Attributes:
        name: Such as "wheels".
        detail: What it is of.
        file_bytes: Its size.
    """

    name: str
    detail: str
    file_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Built(View):
    """A kit that was made.

    Attributes:
        folder: Where it is.
        parts: What it is made of.
        left_out: What is not in it, and why.
        platforms: The platforms that it is for.
        python: The versions of Python that it has wheels for.
        file_bytes: Its size.
        seconds: How long it took.
    """

    folder: Path
    parts: tuple[Part, ...]
    left_out: tuple[str, ...]
    platforms: tuple[str, ...]
    python: tuple[str, ...]
    file_bytes: int
    seconds: float

    def _rows(self) -> list[list[str]]:
        rows = [[part.name, render.bytes_text(part.file_bytes), part.detail] for part in self.parts]
        return [*rows, ["all", render.bytes_text(self.file_bytes), _for(self.platforms, self.python)]]

    def _next(self) -> list[tuple[str, str]]:
        place = shlex.quote(str(self.folder))
        return [
            ("check a copy", f"llmlab kit verify {place}"),
            ("on a learner's machine", "sh install.sh, in the copy's folder"),
        ]

    def __str__(self) -> str:
        """Parts, sizes, and what to do with it."""
        rows = [[name, size, render.clipped(detail, 70)] for name, size, detail in self._rows()]
        lines = [f"{self.folder}, made in {_took(self.seconds)}", ""]
        lines += [render.text_table(("part", "size", "what"), rows), ""]
        for reason in self.left_out:
            lines += _hung("not in it: ", reason)
        return "\n".join([*lines, *(f"{key}: {value}" for key, value in self._next())])

    def to_html(self) -> str:
        """The same as a card."""
        table = render.html_grid(
            ("part", "size", "what"),
            [
                [escape(name), escape(size), f'<span style="overflow-wrap:anywhere">{escape(detail)}</span>']
                for name, size, detail in self._rows()
            ],
            right=("size",),
        )
        body = table + "".join(render.html_small(f"Not in it: {reason}") for reason in self.left_out)
        body += render.html_section("Next", render.html_pairs(self._next()))
        side = render.html_muted(f"made in {_took(self.seconds)}")
        return render.html_card(f"Kit in {self.folder}", body, side=side)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified(View):
    """A kit that was looked at.

    Attributes:
        folder: The kit.
        problems: What is not as it was made; none if the kit is whole.
        files: How many files it has.
        file_bytes: Bytes of those that are as they were made.
        contents: What it says that it holds; None if that cannot be read.
        platform: This machine's platform.
        seconds: How long it took.
    """

    folder: Path
    problems: tuple[Problem, ...]
    files: int
    file_bytes: int
    contents: Contents | None
    platform: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all files are as they were made, and no others are there."""
        return not self.problems

    @property
    def fits_here(self) -> bool | None:
        """Whether it is for machines as this one; None if it does not say for which it is."""
        return self.platform in self.contents.platforms if self.contents else None

    @property
    def exit_status(self) -> int:
        """1 if the kit is not whole."""
        return int(not self.ok)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON data, without the size of each file."""
        data: dict[str, Any] = to_dict(self)
        if data["contents"]:
            del data["contents"]["sizes"]
        return {**data, "ok": self.ok, "fits_here": self.fits_here}

    def _pairs(self) -> list[tuple[str, str]]:
        found = self.contents
        size = f"{self.files} files, {render.bytes_text(self.file_bytes)}"
        if not self.ok:
            size = f"{self.files} files, {render.bytes_text(self.file_bytes)} of it as made"
        pairs = [("size", f"{size}; read in {_took(self.seconds)}")]
        if found is None:
            return pairs
        here = "yes" if self.fits_here else "no"
        pairs += [
            ("made", f"{found.made[:10]} with llmlab {found.llmlab}"),
            ("for", _for(found.platforms, found.python)),
            ("this machine", f"{self.platform}: {here}"),
            ("models", ", ".join(model.reference for model in found.models) or "none"),
            ("engine", f"{found.engine.version} for {found.engine.platform}" if found.engine else "none"),
            ("notebooks", str(sum(path.endswith(".ipynb") for path in found.notebooks))),
        ]
        return pairs

    def _verdict(self) -> str:
        count = len(self.problems)
        return "whole" if self.ok else f"NOT whole: {count} {'problem' if count == 1 else 'problems'}"

    def _told(self) -> list[str]:
        more = len(self.problems) - _MOST_PROBLEMS
        told = [str(problem) for problem in self.problems[:_MOST_PROBLEMS]]
        return [*told, f"and {more} more"] if more > 0 else told

    def __str__(self) -> str:
        """The verdict, what is wrong, and what the kit is."""
        lines = [f"{self.folder}: {self._verdict()}"]
        for line in self._told():
            lines += _hung("  ✗ ", line)
        if not self.ok:
            lines.append("  → copy the kit anew")
        for key, value in self._pairs():
            lines += _hung(f"  {key:<13} ", value)
        return "\n".join(lines)

    def to_html(self) -> str:
        """The same as a card."""
        rows = "".join(
            '<div style="overflow-wrap:anywhere;padding-left:1.2em;text-indent:-1.2em;margin:2px 0">'
            f"{render.html_mark(line, 'failed')}</div>"
            for line in self._told()
        )
        if rows:
            rows += render.html_small("Copy the kit anew.")
        side = render.html_mark(self._verdict(), "done" if self.ok else "failed")
        return render.html_card(f"Kit in {self.folder}", rows + render.html_pairs(self._pairs()), side=side)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What was done about a part of a kit.

    Attributes:
        part: The part.
        state: `installed`, `here` (it was already) or `left out`.
        detail: Where it is, or why it was left out.
    """

    part: str
    state: State
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed(View):
    """A machine that was set up from a kit.

    Attributes:
        folder: The kit.
        into: The learner's folder.
        steps: What was done, part by part.
        references: The models that the kit brought.
        seconds: How long it took.
    """

    folder: Path
    into: Path
    steps: tuple[Step, ...]
    references: tuple[str, ...]
    seconds: float

    def _next(self) -> list[tuple[str, str]]:
        program = self.into / "venv" / "bin"
        start = shlex.quote(str(program / "llmlab")) if program.is_dir() else "llmlab"
        jupyter = shlex.quote(str(program / "jupyter")) if program.is_dir() else "jupyter"
        return [
            ("in a terminal", f"{start} start {next(iter(self.references), 'tiny')}"),
            ("notebooks", f"{jupyter} lab --notebook-dir {shlex.quote(str(self.into / 'notebooks'))}"),
        ]

    def __str__(self) -> str:
        """What was done, and how to begin."""
        width = max([len(step.part) for step in self.steps], default=0)
        lines = [f"set up from {self.folder} in {_took(self.seconds)}"]
        for step in self.steps:
            head = f"  {_MARKS[step.state][0]} {step.part:<{width}}  {step.state:<9}  "
            lines += _hung(head, step.detail)
        return "\n".join([*lines, *(f"{key}: {value}" for key, value in self._next())])

    def to_html(self) -> str:
        """The same as a card."""
        rows = [
            [
                f'<span style="white-space:nowrap">{escape(render.clipped(step.part, 40, middle=True))}</span>',
                f'<span style="white-space:nowrap">{render.html_mark(step.state, _MARKS[step.state][1])}</span>',
                f'<span style="overflow-wrap:anywhere">{escape(step.detail)}</span>',
            ]
            for step in self.steps
        ]
        body = render.html_grid(("part", "", "detail"), rows)
        body += render.html_section("Next", render.html_pairs(self._next()))
        side = render.html_muted(f"in {_took(self.seconds)}")
        return render.html_card(f"Set up from {self.folder}", body, side=side)


def _for(platforms: tuple[str, ...], python: tuple[str, ...]) -> str:
    versions = f", Python {', '.join(python)}" if python else ", no wheels"
    return ", ".join(platforms) + versions


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else render.duration_text(seconds)  # noqa: PLR2004 - two digits


def _hung(head: str, text: str) -> list[str]:
    """Text behind a head, its further lines below its first."""
    indent = render.columns_of(head)
    wrapped = render.wrapped(text, _COLUMNS - indent) or [""]
    return [head + wrapped[0], *(" " * indent + line for line in wrapped[1:])]
