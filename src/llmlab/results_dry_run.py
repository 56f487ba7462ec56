"""What `start --dry-run` returns: the command, and why each part of it is there."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

from llmlab import render
from llmlab.results import Result

_FLAG_COLUMNS, _COLUMNS = 44, 118
_UNQUOTED = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A part of a command.

    Attributes:
        words: Its words, as a program gets them.
        why: Why it is there.
        cis: Its number in the CIS Docker Benchmark, or None.
    """

    words: tuple[str, ...]
    why: str
    cis: str | None = None

    @property
    def shell(self) -> str:
        """The words as a shell reads them."""
        return " ".join(_quoted(word) for word in self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun(Result):
    """The command that starts a server, not run.

    Attributes:
        name: What the server would be called.
        backend: "native" or "container".
        before: Commands that make what must be there first.
        flags: The command itself, part by part.
        after: Lines of shell that come when it runs.
        notes: What to know before it is pasted.
    """

    HEADER = ("part", "why", "CIS")

    name: str
    backend: str
    before: tuple[tuple[str, ...], ...]
    flags: tuple[Flag, ...]
    after: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> tuple[str, ...]:
        """The command's words."""
        return tuple(word for flag in self.flags for word in flag.words)

    @property
    def script(self) -> str:
        """What to paste into a shell: each step only if the one before it worked."""
        first, *rest = (flag.shell for flag in self.flags)
        steps = [" ".join(_quoted(word) for word in words) for words in self.before]
        return " &&\n".join([*steps, " \\\n  ".join([first, *rest]), *self.after])

    def to_dict(self) -> dict[str, Any]:
        """All of it, with the words and the script."""
        return {**super(DryRun, self).to_dict(), "command": list(self.command), "script": self.script}

    def __str__(self) -> str:
        """The reasons as a shell's comments, then the script: all of it can be pasted or piped."""
        rows = []
        for flag, said in _said_once(self.flags):
            why = render.wrapped(said, _COLUMNS - _FLAG_COLUMNS) or [""]
            cis = (flag.cis or "") if said else ""
            rows.append([render.clipped(flag.shell, _FLAG_COLUMNS, middle=True), why[0], cis])
            rows += [["", line, ""] for line in why[1:]]
        table = render.text_table(self.HEADER, rows).splitlines()
        notes = [line for note in self.notes for line in render.wrapped(note, _COLUMNS)]
        comments = [*table, *(["", *notes] if notes else [])]
        return "\n".join([*(f"# {line}".rstrip() for line in comments), "", self.script])

    def to_html(self) -> str:
        """The command with the reason beside each part, and the script for pasting."""
        before = [(" ".join(_quoted(word) for word in words), "", "") for words in self.before]
        rows = [(flag.shell, said, (flag.cis or "") if said else "") for flag, said in _said_once(self.flags)]
        rows += [(line, "", "") for line in self.after]
        if before:
            before[0] = (
                before[0][0],
                "The door must be there first: a directory that only you may enter.",
                "",
            )
        if self.after:
            first = len(self.flags)
            rows[first] = (
                rows[first][0],
                "Once its socket is there, it can write no more to that directory.",
                "",
            )
        body = render.html_reasons([*before, *rows])
        body += "".join(render.html_small(note) for note in self.notes)
        body += render.html_fold(
            "the same, to paste into a terminal", render.html_code(self.script.splitlines())
        )
        where = "in a container" if self.backend == "container" else "natively, without isolation"
        side = render.html_muted("nothing was started")
        return render.html_card(f"{self.name}: how it would be started {where}", body, side=side, wide=True)


def _said_once(flags: tuple[Flag, ...]) -> list[tuple[Flag, str]]:
    """Each part and its reason, which of several alike has the first one only."""
    before = ("", *(flag.why for flag in flags))
    return [(flag, "" if flag.why == last else flag.why) for flag, last in zip(flags, before, strict=False)]


def _quoted(word: str) -> str:
    """A word as a shell reads it, in one line where the word is one."""
    return word if _UNQUOTED.fullmatch(word) else shlex.quote(word)
