"""What was measured, where it is not the live widget: as text, as a card of HTML, in a terminal."""

from llmlab.monitoring.views.card import html
from llmlab.monitoring.views.terminal import live_block
from llmlab.monitoring.views.words import live, number, spark, text, top

__all__ = ["html", "live", "live_block", "number", "spark", "text", "top"]
