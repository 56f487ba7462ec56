"""The live view's module in a page of its own: a model that speaks the protocol, and what to show in it.

The page is no JupyterLab: it has its variables, and a model with get, set, on, off and send in the
place of the widgets' one. What the kernel would send is encoded here, by the protocol.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parents[1] / "src" / "llmlab" / "notebook" / "static"
SCRIPTS = (
    "uPlot.iife.min.js",
    "live_data.js",
    "live_chart.js",
    "live_panel.js",
    "live_input.js",
    "live_controls.js",
    "live_view.js",
    "live.js",
)
STYLES = ("uPlot.min.css", "live.css")
# JupyterLab's own values.
THEMES = """
body { margin: 0; padding: 12px; background: var(--jp-layout-color0); font-size: 13px;
  --jp-ui-font-family: system-ui, "DejaVu Sans", sans-serif; --jp-ui-font-color1: rgba(0, 0, 0, .87);
  --jp-ui-font-color2: rgba(0, 0, 0, .54); --jp-border-color1: #bdbdbd; --jp-border-color2: #e0e0e0; --jp-border-color3: #eee;
  --jp-layout-color0: white; --jp-layout-color1: white; --jp-layout-color2: #eee; --jp-brand-color1: #1976d2;
  --jp-success-color1: #388e3c; --jp-warn-color1: #f57c00; }
body[data-jp-theme-light=false] { --jp-ui-font-color1: rgba(255, 255, 255, .87);
  --jp-ui-font-color2: rgba(255, 255, 255, .54); --jp-border-color1: #616161; --jp-border-color2: #424242; --jp-border-color3: #212121;
  --jp-layout-color0: #111; --jp-layout-color1: #212121; --jp-layout-color2: #424242; --jp-brand-color1: #2196f3;
  --jp-success-color1: #4caf50; --jp-warn-color1: #ff9800; }
"""
# The page's side of these tests: the model, and what puts a view into the page.
HARNESS = """
const bytes = text => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
class Model {
    constructor(state) {
        this.state = { ...state, hist: state.hist === null ? null : bytes(state.hist) };
        this.sent = [];
        this.listeners = [];
    }
    get(name) { return this.state[name]; }
    set(name, value) { this.state[name] = value; this.emit(`change:${name}`); }
    save_changes() {}
    on(event, listener) { this.listeners.push([event, listener]); }
    off(event, listener) { this.listeners = this.listeners.filter(([e, l]) => e !== event || l !== listener); }
    send(message) { this.sent.push(message); }
    emit(event, ...values) { for (const [e, l] of [...this.listeners]) if (e === event) l(...values); }
    message(message, buffer) { this.emit('msg:custom', message, buffer === undefined ? [] : [bytes(buffer)]); }
}
window.errors = [];
window.addEventListener('error', event => errors.push(event.message));
window.show = async (state, views) => {
    window.cleanup?.();
    const source = new Blob([document.getElementById('module').textContent], { type: 'text/javascript' });
    const address = URL.createObjectURL(source);
    const { default: widget } = await import(address);
    URL.revokeObjectURL(address);
    window.model = new Model(state);
    const { initialize, render } = widget();
    const cleanups = [initialize({ model })];
    const place = document.getElementById('place');
    for (let i = 0; i < views; i++) {
        const el = document.createElement('div');
        place.append(el);
        cleanups.unshift(render({ model, el }));
    }
    window.cleanup = () => { for (const each of cleanups) each(); place.replaceChildren(); };
};
// Pixels of a panel's plot (red, green, blue, opacity, row by row), and its size.
window.pixels = panel => {
    const canvas = panel.querySelector('canvas'), over = panel.querySelector('.u-over');
    const [a, b] = [canvas.getBoundingClientRect(), over.getBoundingClientRect()];
    const scale = canvas.width / a.width;
    const [left, top] = [(b.left - a.left) * scale, (b.top - a.top) * scale].map(Math.round);
    const [width, height] = [b.width * scale, b.height * scale].map(Math.round);
    // A line at zero lies half below the plot: three more rows.
    const { data } = canvas.getContext('2d').getImageData(left, top, width, height + 3);
    return { data, width, height };
};
// Shares of a part of a plot that have any ink, and that have ink like a colour. The part: shares of width and height.
window.ink = (panel, [x0, x1, y0, y1], rgb) => {
    const { data, width, height } = pixels(panel);
    let all = 0, some = 0, like = 0;
    for (let y = Math.floor(y0 * height); y < y1 * height; y++)
        for (let x = Math.floor(x0 * width); x < x1 * width; x++) {
            const at = 4 * (y * width + x);
            all++;
            if (data[at + 3] > 20) some++;
            if (rgb && data[at + 3] > 120 && rgb.every((c, i) => Math.abs(c - data[at + i]) < 40)) like++;
        }
    return { some: some / all, like: like / all };
};
"""


def html() -> str:
    """The page: nothing is fetched."""
    module = "\n".join((STATIC / name).read_text() for name in SCRIPTS)
    style = "\n".join((STATIC / name).read_text() for name in STYLES)
    # A script of another type is only text; it must not hold what would end it.
    assert "</script" not in module
    return (
        f'<!doctype html><meta charset="utf-8"><style>{style}\n{THEMES}</style>'
        f'<body data-jp-theme-light="true"><div id="place"></div>'
        f'<script type="text/plain" id="module">{module}</script><script>{HARNESS}</script>'
    )


def history(version: int, seq: int, looks: Sequence[Sequence[float | None]], rows: int) -> str:
    """A `hist` buffer, in base64. Each look is its time and a value for each row."""
    head = struct.pack("<4I", version, seq, rows, len(looks))
    times = struct.pack(f"<{len(looks)}d", *(look[0] or 0.0 for look in looks))
    columns = [_number(look[1 + row]) for row in range(rows) for look in looks]
    return _base64(head + times + struct.pack(f"<{len(columns)}f", *columns))


def append(looks: Sequence[Sequence[float | None]]) -> str:
    """The buffer of an "append" message, in base64."""
    times = struct.pack(f"<{len(looks)}d", *(look[0] or 0.0 for look in looks))
    values = [_number(value) for look in looks for value in look[1:]]
    return _base64(times + struct.pack(f"<{len(values)}f", *values))


def spec(
    servers: Sequence[str] = ("tiny",),
    gpus: int = 0,
    *,
    machine: bool = False,
    without: Sequence[tuple[str, str]] = (),
    **changes: Any,
) -> dict[str, Any]:
    """What is measured of some servers and GPUs.

    Args:
        servers: Their names.
        gpus: How many there are.
        machine: Whether the machine is watched, too.
        without: Subject and key of rows that are left out.
        changes: What to change of it.
    """
    subjects = [{"name": name, "group": "servers", "colour": i} for i, name in enumerate(servers)]
    subjects += [{"name": f"gpu {i}", "group": "gpus", "colour": i} for i in range(gpus)]
    subjects += [{"name": "the machine", "group": "machine", "colour": 0}] if machine else []
    rows: list[dict[str, Any]] = []
    panels: list[dict[str, Any]] = []
    for group, key, title, unit, first, rest in _METRICS:
        members = [subject["name"] for subject in subjects if subject["group"] == group]
        at = len(rows)
        rows += [
            {"interval_s": None, "most": None, "error": None}
            | {"subject": name, "key": key, "title": title, "unit": unit}
            | {"method": f"{title} of {name}, as its source tells"}
            | rest
            for name in members
            if (name, key) not in without
        ]
        if len(rows) > at:
            indices = list(range(at, len(rows)))
            panels.append({"group": group, "title": title, "unit": unit, "rows": indices, "first": first})
    made = {
        "version": 1,
        "title": ", ".join(servers),
        "hz": 4.0,
        "state": "live",
        "why": "",
        "epoch_s": 1_790_000_000.0,
        "recording": "",
        "compact": False,
        "subjects": subjects,
        "rows": rows,
        "panels": panels,
        "notes": [],
    }
    return made | changes


_METRICS: tuple[tuple[str, str, str, str, bool, dict[str, Any]], ...] = (
    ("servers", "generated", "generated", "tokens/s", True, {}),
    ("servers", "cpu", "CPU", "CPUs", True, {"most": 4.0}),
    ("servers", "memory", "memory", "MiB", True, {"most": 2048.0}),
    ("servers", "gpu_memory", "GPU memory", "MiB", True, {}),
    ("servers", "waiting", "waiting", "", False, {}),
    ("servers", "throttled", "throttled", "%", False, {"most": 100.0}),
    ("gpus", "utilisation", "utilisation", "%", True, {"most": 100.0, "interval_s": 1.0}),
    ("gpus", "power", "power", "W", True, {"most": 700.0, "error": [0.13, 0.08], "interval_s": 1.0}),
    ("machine", "cpu", "CPU", "CPUs", True, {"most": 64.0}),
    ("machine", "memory", "memory", "MiB", True, {"most": 24105.0}),
)
_SCALES = {
    "generated": 48.0,
    "cpu": 1.7,
    "memory": 900.0,
    "gpu_memory": 5200.0,
    "waiting": 1.0,
    "throttled": 9.0,
    "utilisation": 93.0,
    "power": 520.0,
}


def looks(what: dict[str, Any], seconds: float, *, since: float = 0.0) -> list[list[float | None]]:
    """A plausible course: busy for some seconds, idle for some, each row a little apart."""
    count = round(seconds * what["hz"])
    return [_look(what, since + i / what["hz"]) for i in range(count)]


def _look(what: dict[str, Any], time: float) -> list[float | None]:
    values: list[float | None] = [time]
    for i, row in enumerate(what["rows"]):
        phase = time + 4.1 * what["subjects"].index(_subject(what, row["subject"]))
        busy = 0.5 + 0.5 * math.tanh(6 * math.sin(phase / 4.3))
        if row["key"] in ("memory", "gpu_memory"):
            busy = 0.7 + 0.08 * busy
        noise = 0.05 * math.sin(7.3 * time + i) * math.sin(3.1 * time + 2 * i)
        values.append(max(0.0, _SCALES[row["key"]] * (busy * (0.85 + 0.02 * (i % 7)) + noise * busy)))
    return values


def _subject(what: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in what["subjects"] if each["name"] == name)


def request(subject: str, began_s: float, total_s: float, **changes: Any) -> dict[str, Any]:
    """A request that was answered: a tenth of the time in the queue, two tenths of it prefill."""
    made = {
        "subject": subject,
        "began_s": began_s,
        "total_s": total_s,
        "ttft_s": total_s * 0.3,
        "prefill_s": total_s * 0.2,
        "queue_s": total_s * 0.1,
        "tokens": 64,
        "tokens_per_s": 48.2,
        "outcome": "stop",
        "joules_per_token": None,
        "energy_note": "no energy: nothing here counts it",
    }
    return made | changes


def state(what: dict[str, Any], seen: Sequence[Sequence[float | None]], *requests: Any) -> str:
    """The traits of a model, as JSON."""
    hist = history(what["version"], len(seen), seen, len(what["rows"]))
    return json.dumps({"spec": what, "hist": hist, "requests": list(requests)})


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
