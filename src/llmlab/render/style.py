"""What HTML is drawn with: JupyterLab's colours, with fallbacks where they are missing."""

from __future__ import annotations

from typing import Literal

Step = Literal["done", "now", "ahead", "failed"]
Finding = Literal["good", "plain", "open", "bad"]
# A colour never stands alone: the word beside it says the same.
STATE_COLOURS = {
    "ready": "var(--jp-success-color1, #2e7d32)",
    "loading": "var(--jp-warn-color1, #b26a00)",
    "paused": "var(--jp-warn-color1, #b26a00)",
    "restarting": "var(--jp-warn-color1, #b26a00)",
    "stopped": "var(--jp-ui-font-color2, #757575)",
    "here": "var(--jp-success-color1, #2e7d32)",
    "built-in": "var(--jp-success-color1, #2e7d32)",
    "fits": "var(--jp-success-color1, #2e7d32)",
    "tight": "var(--jp-warn-color1, #b26a00)",
    "too big": "var(--jp-error-color1, #c62828)",
    "closed": "var(--jp-ui-font-color2, #757575)",
    "over": "var(--jp-warn-color1, #b26a00)",
    "refused": "var(--jp-error-color1, #c62828)",
    "unreachable": "var(--jp-error-color1, #c62828)",
    "exited": "var(--jp-error-color1, #c62828)",
    "lost": "var(--jp-error-color1, #c62828)",
}
HATCHED = f"background:repeating-linear-gradient(135deg,{STATE_COLOURS['too big']} 0 2px,transparent 2px 6px)"
FONT = "font-family:var(--jp-ui-font-family, system-ui, sans-serif)"
MUTED = "color:var(--jp-ui-font-color2, #6b6b6b)"
LINE = "var(--jp-border-color2, #d0d0d0)"
ACCENT = "var(--jp-brand-color1, #1976d2)"
# Without JupyterLab's stripes: on them, muted text would be too faint.
ROW = '<tr style="background:none">'
FIGURES = "font-variant-numeric:tabular-nums;white-space:nowrap"
SMALL = "font-size:var(--jp-ui-font-size1, 13px)"

# Of several series in one chart. Each has at least three times the luminance of a dark page (#111) and a
# third of a white one's, and they stay apart for those who see no red or no green.
SERIES_COLOURS = ("#4b62e4", "#f3650e", "#01a962", "#a479fb", "#c11f68", "#546a09", "#9140ad", "#c06aa5")
# Not as many as colours, so that the two together name forty series. Lengths in pixels,
# for lines with round ends; "" is a whole line.
SERIES_DASHES = ("", "6 5", "1 4", "9 5 1 5", "15 5")
