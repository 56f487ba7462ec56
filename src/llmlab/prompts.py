"""Prompts as text: what a user typed must not act as a control token."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Anything between <| and |> is a control token in some model's vocabulary.
_CONTROL = re.compile(r"<\|[^|\s]{1,64}\|>")
# An invisible character behind the first one keeps the text readable and makes the tokenizer
# see ordinary text. The others are for vocabularies that have the first in a control token.
_BREAKS = ("\u2060", "\u200b", "\u200c", "\u200d", "\ufeff", "\u2061", "\u2062", "\u2063", "\u2064")


def looks_like_control(text: str) -> bool:
    """Whether a text is a control token of some model's, as its form `<|…|>` says."""
    return _CONTROL.fullmatch(text) is not None


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
    tokens = [token for token in control_tokens if len(token) > 1]
    # With one that stands in a token, breaking could make another of it without an end.
    separator = next((each for each in _BREAKS if not any(each in token for token in tokens)), " ")
    # Where a vocabulary has them all, tokens with the last resort in them stay as they are.
    tokens = [token for token in tokens if separator not in token]

    def broken(match: re.Match[str]) -> str:
        found.append(match[0])
        return match[0][0] + separator + match[0][1:]

    text = _CONTROL.sub(broken, text)
    # One character cannot be broken, and is no text that stands for something else.
    if tokens:
        known, changed = re.compile("|".join(map(re.escape, tokens))), 1
        while changed:  # again, since they may overlap
            text, changed = known.subn(broken, text)
    return text, tuple(found)
