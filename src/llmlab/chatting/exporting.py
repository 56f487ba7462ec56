"""A conversation as a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.errors import LabError, UsageError

if TYPE_CHECKING:
    from llmlab.chatting.conversation import Chat
    from llmlab.chatting.turns import Reply


def write(chat: Chat, path: Path) -> Path:
    """Write a conversation into a new file; see `Chat.export`."""
    if path.suffix not in {".md", ".json"}:
        raise UsageError(f"{path.name!r} ends in neither .md nor .json", hint="export chat.md, or chat.json")
    text = markdown(chat) if path.suffix == ".md" else json.dumps(chat.to_dict(), indent=1)
    try:
        # Never over something that is there.
        with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")
    except FileExistsError:
        raise UsageError(f"{path} is there already", hint="choose another name") from None
    except OSError as error:
        raise LabError(f"{path} cannot be written: {error.strerror}", hint="choose another folder") from error
    return path


def markdown(chat: Chat) -> str:
    """A conversation as Markdown, in which nothing that was typed or written is markup."""
    settings = chat.settings
    told = [f"temperature {settings.temperature:g}"]
    told += [
        f"{name} {value:g}"
        for name, value in (
            ("top_p", settings.top_p),
            ("max tokens", settings.max_tokens),
            ("seed", settings.seed),
        )
        if value is not None
    ]
    models = ", ".join(f"{server.name} ({server.record.spec.model.reference})" for server in chat.servers)
    parts = ["# Chat", f"With {models}; {', '.join(told)}."]
    if settings.system:
        parts += ["System prompt:", _fenced(settings.system)]
    for exchange in chat.exchanges:
        parts += ["## You", _fenced(exchange.prompt)]
        for reply in exchange.replies:
            parts += [f"## {reply.server}", _fenced(reply.shown()), *_notes(reply)]
    return "\n\n".join(parts)


def _notes(reply: Reply) -> list[str]:
    figures = " · ".join(f"{label} {value}" for label, value, _ in reply.chips() if label != "server")
    return [_fenced(render.plain(f"note: {reply.note}"))] * bool(reply.note) + [figures] * bool(figures)


def _fenced(text: str) -> str:
    """Text that no reader of Markdown takes for markup: its fence is longer than any in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{render.plain(text)}\n{fence}"
