"""New keys on paper: a table, or a page of cards to cut out."""

from __future__ import annotations

from html import escape
from pathlib import Path

from llmlab.classrooms.places import write_private
from llmlab.errors import UsageError

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Keys</title>
<style>
body {{ font: 11pt/1.4 sans-serif; margin: 10mm; display: grid; grid-template-columns: 1fr 1fr; gap: 4mm }}
section {{ border: 1px dashed #777; padding: 4mm; break-inside: avoid }}
h2 {{ font-size: 13pt; margin: 0 0 2mm }}
code {{ font: 9pt monospace; overflow-wrap: anywhere }}
</style>
{cards}
</html>
"""


def hand_out(path: Path, keys: dict[str, str], address: str) -> None:
    """Write keys to a file that only the teacher can read: `.csv`, or `.html` with cards.

    Args:
        path: The file; it must not be there yet.
        keys: Learner → key.
        address: The room's, "" if it is not open yet.

    Raises:
        UsageError: If it cannot be written.
    """
    text = _table(keys, address) if path.suffix == ".csv" else _cards(keys, address)
    try:
        write_private(path, text)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint="choose another place for --cards"
        ) from error


def check(path: Path) -> None:
    """Refuse a file before there are keys for it.

    Raises:
        UsageError: If it is there, or of another kind.
    """
    if path.suffix not in {".csv", ".html"}:
        raise UsageError(f"{path} is neither .csv nor .html", hint="name the file for --cards so")
    if path.exists() or not path.parent.is_dir():
        what = "is there already" if path.exists() else "lies in no folder"
        raise UsageError(f"{path} {what}", hint="choose another place for --cards")


def _table(keys: dict[str, str], address: str) -> str:
    def cell(text: str) -> str:
        quoted = text.replace('"', '""')
        return f'"{quoted}"'

    rows = [("learner", "address", "key"), *((name, address, key) for name, key in keys.items())]
    return "".join(",".join(map(cell, row)) + "\r\n" for row in rows)


def _cards(keys: dict[str, str], address: str) -> str:
    where = f"<div>Room: <code>{escape(address)}</code></div>" if address else ""
    cards = "\n".join(
        f"<section><h2>{escape(name)}</h2>{where}<div>Key: <code>{escape(key)}</code></div></section>"
        for name, key in keys.items()
    )
    return _PAGE.format(cards=cards)
