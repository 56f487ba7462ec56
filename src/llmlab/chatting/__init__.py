"""Conversations with one server, or with two at the same time.

The package is not called as its verb is: `llmlab.chat` would be the package
as soon as it is imported.
"""

from __future__ import annotations

from typing import Annotated

from llmlab.arguments import Arg
from llmlab.chatting.conversation import Chat
from llmlab.chatting.turns import Exchange, Reply, Settings
from llmlab.errors import UsageError
from llmlab.lab import attach

__all__ = ["Chat", "Exchange", "Reply", "Settings", "chat"]


def chat(
    name: Annotated[str | None, Arg(completes="server")] = None,
    other: Annotated[str | None, Arg(completes="server")] = None,
    *,
    system: str = "",
    temperature: float = 0.2,
    top_p: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    probabilities: bool = False,
    timeout_s: float = 300.0,
) -> Chat:
    """Talk with a server, or with two side by side.

    What was said before is sent along with each question. In a notebook this is a
    window to type in, in a terminal a conversation by lines; `say()` asks from Python.
    What a model writes is text, or Markdown that loads and runs nothing.

    Args:
        name: The server. Unset: the newest.
        other: A second server, which gets the same questions.
        system: Instructions that stand before everything else.
        temperature: 0 picks the likeliest token each time; higher is more varied.
        top_p: Choose only from the likeliest tokens that together have this
            probability. Unset: the engine's own, mostly 0.95.
        max_tokens: Most tokens of an answer. Unset: 512, or 64 from synthetic weights.
        seed: Seed of the random choice. Unset: another one each time.
        probabilities: Show how likely each token was.
        timeout_s: Longest wait for the next piece of an answer, in seconds.

    Raises:
        UsageError: No such server, the same one twice, or a setting out of range.
    """
    servers = [attach(name)]
    if other is not None:
        servers.append(attach(other))
        if servers[0].name == servers[1].name:
            raise UsageError(f"{other!r} is named twice", hint="name two servers: chat A B")
    return Chat(
        *servers,
        system=system,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        seed=seed,
        probabilities=probabilities,
        timeout_s=timeout_s,
    )
