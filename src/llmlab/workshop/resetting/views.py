"""What a reset removed and kept, as text and as a card."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path

from llmlab import render
from llmlab.results import Result
from llmlab.workshop.preflighting.views import html_mark
from llmlab.workshop.resetting.items import Item, Outcome

_TITLES: dict[Outcome, str] = {
    "removed": "Removed",
    "would be removed": "Would be removed",
    "failed": "Could not be removed",
    "kept": "Kept",
}
_HEADER = ("what", "name", "size", "more")
_PLURALS = {"directory": "directories"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(Result):
    """What a reset came to.

    Attributes:
        items: Each thing of llmlab's, and what became of it.
        unseen: What could not be looked at, and why.
        dry_run: Whether nothing was removed on purpose.
    """

    items: tuple[Item, ...]
    unseen: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def exit_status(self) -> int:
        """1 if something could not be removed, or not be looked at."""
        return int(bool(self.unseen) or any(item.outcome == "failed" for item in self.items))

    def summary(self) -> str:
        """It in one sentence."""
        gone = [item for item in self.items if item.outcome in {"removed", "would be removed"}]
        if not gone:
            return "nothing to remove"
        counted = Counter(item.kind for item in gone)
        parts = [f"{n} {kind if n == 1 else _PLURALS.get(kind, f'{kind}s')}" for kind, n in counted.items()]
        size = sum(item.size_bytes or 0 for item in gone)
        verb = "would remove" if self.dry_run else "removed"
        freed = f"; {render.bytes_text(size)} of disk" if size else ""
        return f"{verb} {', '.join(parts)}{freed}"

    def _sections(self) -> list[tuple[str, list[Item]]]:
        """Title and things; what is kept, by the command that removes it."""
        found: dict[str, list[Item]] = {}
        for outcome, title in _TITLES.items():
            for item in sorted(
                (i for i in self.items if i.outcome == outcome), key=lambda item: not item.how
            ):
                found.setdefault(f"{title}. To remove it: {item.how}" if item.how else title, []).append(item)
        return list(found.items())

    def _tail(self) -> str:
        if self.dry_run:
            return "Nothing was removed: this was a dry run."
        return "Nothing that is not llmlab's, or that is another user's, was touched."

    def __str__(self) -> str:
        """The summary, and each thing with its size."""
        parts = [self.summary()]
        for title, items in self._sections():
            parts += ["", title]
            table = render.text_table(_HEADER, [_row(item) for item in items], gap=2)
            parts += [f"  {line}" for line in table.splitlines()[1:]]
        if self.unseen:
            parts += ["", "Could not be looked at"]
            parts += [f"  ✗ {render.plain(each)}" for each in self.unseen]
        return "\n".join([*parts, "", self._tail()])

    def to_html(self) -> str:
        """The same as a card."""
        parts = [f'<div style="font-weight:600;margin:2px 0 4px">{escape(self.summary())}</div>']
        for title, items in self._sections():
            parts.append(render.html_section(title, "".join(_html_item(item) for item in items)))
        if self.unseen:
            lines = "".join(f"<div>{html_mark('to do')}{escape(each)}</div>" for each in self.unseen)
            parts.append(render.html_section("Could not be looked at", lines))
        parts.append(f'<div style="margin-top:8px">{render.html_small(self._tail())}</div>')
        return render.html_card("Reset", "".join(parts), wide=True)


def _row(item: Item) -> list[str]:
    cells = (item.kind, _home(item.name), render.bytes_text(item.size_bytes), item.detail)
    return [render.plain(cell) for cell in cells]


def _html_item(item: Item) -> str:
    kind, name, size, detail = (escape(cell) for cell in _row(item))
    # The same columns in every section, so that figures stand below each other.
    return (
        '<div style="display:grid;grid-template-columns:6em minmax(10em,3fr) 5em minmax(8em,3fr);gap:0 12px;'
        f'padding:2px 0;line-height:1.4;overflow-wrap:anywhere"><span style="{render.MUTED}">{kind}</span><span>{name}</span>'
        f'<span style="text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap">{size}</span>'
        f'<span style="{render.MUTED}">{detail}</span></div>'
    )


def _home(name: str) -> str:
    """A path with ~ for the home directory."""
    path, home = Path(name), Path.home()
    return f"~/{path.relative_to(home)}" if path.is_absolute() and path.is_relative_to(home) else name
