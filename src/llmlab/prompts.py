"""Prompts as text: what a user typed must not act as a control token."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Anything between <| and |> is a control token in some model's vocabulary.
_CONTROL = re.compile(r"<\|[^|\s]{1,64}\|>")
# An invisible character behind the first one keeps the text readable and
# makes the tokenizer see ordinary text.
_BREAK = "\u2060"


def neutralise(text: str, control_tokens: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Make control tokens in a user's text harmless.

    Servers parse a typed `<|im_end|>` as the end of the message, so that a
    prompt could speak as the system or the assistant.

    Args:
        text: The user's text.
        control_tokens: Tokens of the vocabulary that do not look like `<|…|>`.

    Returns:
        The text with an invisible character inside each of them, and those found.
    """
    found: list[str] = []

    def broken(match: re.Match[str]) -> str:
        found.append(match[0])
        return match[0][0] + _BREAK + match[0][1:]

    text = _CONTROL.sub(broken, text)
    # One character cannot be broken, and is no text that stands for something else.
    if words := [re.escape(token) for token in control_tokens if len(token) > 1]:
        known, changed = re.compile("|".join(words)), 1
        while changed:  # again, since they may overlap
            text, changed = known.subn(broken, text)
    return text, tuple(found)
