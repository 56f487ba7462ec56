"""One question of a conversation to one server, with as much of what was said before as fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmlab.chatting.turns import Exchange, Reply
from llmlab.client import Cancel
from llmlab.errors import ContextError
from llmlab.lab import Server
from llmlab.results import Answer

_ALTERNATIVES = 4

Pair = tuple[tuple[str, str], tuple[str, str]]
"""A question and its answer: ("user", text), ("assistant", text)."""


def history(column: int, exchanges: Iterable[Exchange]) -> list[Pair]:
    """Questions and one server's answers to them; those that nothing came of are left out."""
    return [
        (("user", each.prompt), ("assistant", each.replies[column].text))
        for each in exchanges
        if each.replies[column].over and each.replies[column].text
    ]


def answer(
    server: Server,
    exchange: Exchange,
    reply: Reply,
    pairs: list[Pair],
    heard: Callable[[str], None],
    cancel: Cancel,
) -> Answer:
    """Ask, and note on the reply what did not fit.

    Args:
        server: Whom.
        exchange: The question and its settings.
        reply: What gets the notes.
        pairs: What was said before; the oldest are left out until the rest fits.
        heard: Called with each piece of the answer.
        cancel: Ends it from another thread.

    Raises:
        UsageError, AskInterrupted, ServerError: As `Server.request` and `Server.send`.
    """
    settings, context = exchange.settings, server.record.spec.context
    for left_out in range(len(pairs) + 1):
        request = server.request(
            exchange.prompt,
            system=settings.system,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
            timeout_s=settings.timeout_s,
            history=tuple(message for pair in pairs[left_out:] for message in pair),
            top_p=settings.top_p,
            alternatives=_ALTERNATIVES if settings.probabilities else 0,
        )
        try:
            found = server.send(request, heard, cancel)
        except ContextError:
            if left_out == len(pairs):
                raise
            continue
        if left_out:
            reply.add_note(
                f"the context of {context} tokens is full: of {len(pairs)} earlier exchanges, "
                f"the oldest {left_out} {'was' if left_out == 1 else 'were'} not sent"
            )
        written = found.completion_tokens
        if found.finish_reason == "length" and written is not None and written < request.max_tokens:
            reply.add_note(f"the context of {context} tokens is full: the answer was cut off")
        if settings.probabilities and found.tokens is None and not found.synthetic:
            reply.add_note("this engine does not tell the probabilities")
        return found
    raise AssertionError  # the loop returns or raises
