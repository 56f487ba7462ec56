"""A conversation by lines, on standard input and output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llmlab import render
from llmlab.errors import AskInterrupted, LabError, ServerStoppedError, UsageError

if TYPE_CHECKING:
    from llmlab.chatting.conversation import Chat

_HELP = """\
/system TEXT         instructions that stand before everything; without a text, none
/temperature NUMBER  0 picks the likeliest token each time, 2 is the most varied
/clear               begin anew
/export FILE         write the conversation into a new file, .md or .json
/help                show this
/bye                 end; so does Ctrl-D. Ctrl-C stops an answer"""
_FAILED = 1


def converse(chat: Chat, write_json: Callable[[Any], None] | None = None) -> int:
    """Talk until the input ends.

    Args:
        chat: The conversation.
        write_json: Each line is a question then, and this is called with each answer;
            otherwise a line that begins with a slash is a command.

    Returns:
        The exit status: 1 if a server has gone.
    """
    return _answer_lines(chat, write_json) if write_json else _talk(chat)


def _answer_lines(chat: Chat, write_json: Callable[[Any], None]) -> int:
    for line in sys.stdin:
        if not line.strip():
            continue
        error = _said(chat, line.rstrip("\r\n"))
        if error:
            write_json({"error": error.to_dict()})
        # What had come before an error is told as well.
        if not isinstance(error, UsageError):
            for reply in chat.exchanges[-1].replies:
                if reply.answer:
                    write_json({"prompt": chat.exchanges[-1].prompt, **reply.to_dict()})
        sys.stdout.flush()
        if isinstance(error, ServerStoppedError):
            return _FAILED
    return 0


def _said(chat: Chat, line: str) -> LabError | None:
    try:
        chat.say(line)
    except LabError as error:
        return error
    return None


def _talk(chat: Chat) -> int:
    _say(f"chat with {' and '.join(chat.names)}; /help lists the commands, /bye ends")
    for line in _lines():
        status = _heard(chat, line)
        if status is not None:
            return status
    return 0


def _heard(chat: Chat, line: str) -> int | None:
    """Do what a line asks for; the exit status if that was the end."""
    try:
        if line.startswith("/"):
            return None if _command(chat, line) else 0
        if line.strip():
            for reply in chat.say(line).replies:
                if reply.note:
                    _say(f"note: {reply.note}")
    except AskInterrupted as interrupted:
        _say(f"stopped: {interrupted.note}")
    except LabError as error:
        _say(str(error))
        if isinstance(error, ServerStoppedError):
            return _FAILED
    return None


def _command(chat: Chat, line: str) -> bool:
    """Do what a line with a slash says; returns whether the conversation goes on."""
    name, _, value = line[1:].partition(" ")
    value = value.strip()
    if name in {"bye", "exit", "quit"}:
        return False
    if name == "system":
        chat.set(system=value)
        _say("system prompt set" if value else "no system prompt")
    elif name == "temperature":
        try:
            number = float(value)
        except ValueError:
            raise UsageError(f"temperature is {value!r}", hint="it must be a number, 0 to 2") from None
        _say(f"temperature {chat.set(temperature=number).temperature:g}")
    elif name == "clear":
        chat.clear()
        _say("a new conversation")
    elif name == "export":
        _say(f"written: {chat.export(value or 'chat.md')}")
    elif name == "help":
        _say(_HELP)
    else:
        raise UsageError(f"no command /{name}", hint="/help lists them")
    return True


def _lines() -> Iterator[str]:
    """What is typed, line by line; Ctrl-C at the prompt only begins a new one."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - makes lines that can be edited
    while (line := _typed()) is not None:
        yield line


def _typed() -> str | None:
    try:
        return input("> ")
    except EOFError:
        _say("")
        return None
    except KeyboardInterrupt:
        _say("\n(/bye or Ctrl-D ends)")
        return ""


def _say(text: str) -> None:
    """To standard error, so that standard output is what the models write."""
    sys.stdout.flush()
    sys.stderr.write(f"{render.plain(text)}\n")
    sys.stderr.flush()
