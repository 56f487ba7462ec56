"""What a comparison looks like: a paragraph for a report, text for terminals, a card with pictures."""

from llmlab.comparing.views.against import Against, against
from llmlab.comparing.views.card import html
from llmlab.comparing.views.terminal import text
from llmlab.comparing.views.words import verdict

__all__ = ["Against", "against", "html", "text", "verdict"]
