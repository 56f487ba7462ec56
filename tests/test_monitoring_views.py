"""What was measured as text, as a card, in a terminal and as a figure: nothing invented, nothing hostile."""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from dataclasses import replace
from itertools import combinations, pairwise, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab import render
from llmlab.errors import UsageError
from llmlab.monitoring import views
from llmlab.monitoring.figure import figure
from llmlab.monitoring.results import Monitoring
from llmlab.telemetry import recording
from llmlab.telemetry.bands import Band
from llmlab.telemetry.history import Series
from llmlab.telemetry.metrics import HOST, Metric
from llmlab.telemetry.recording import Recording
from tests.test_results import EVIL
from tests.test_views import Page

_DATA = re.compile(r"data:application/gzip;base64,([A-Za-z0-9+/=]+)")


class Chart(Page):
    """A card: what each drawing consists of, and the words around them."""

    TAGS = Page.TAGS | {"figure", "figcaption", "svg", "path", "g", "text", "b", "a"}
    ATTRIBUTES = Page.ATTRIBUTES | {
        "width", "height", "viewbox", "d", "x", "y", "stroke", "stroke-width", "stroke-dasharray",
        "stroke-linejoin", "stroke-linecap", "text-anchor", "font-size", "fill", "opacity",
        "letter-spacing", "cellpadding", "href", "download",
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.charts: list[dict[str, Any]] = []
        self.words: list[str] = []
        self.data = b""
        self._drawing = False
        self._group: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        given = {name: value or "" for name, value in attrs}
        if tag == "svg":
            self._drawing = "role" in given
            if self._drawing:
                self.charts.append({"label": given["aria-label"], "paths": [], "lines": []})
        elif tag == "path" and self._drawing:
            inside = "lines" if self.open[-2] == "g" and self._group.get("fill") == "none" else "paths"
            self.charts[-1][inside].append({**self._group, **given} if self.open[-2] == "g" else given)
        elif tag == "g":
            self._group = given
        elif tag == "a":
            match = _DATA.fullmatch(given["href"])
            assert match
            self.data = base64.b64decode(match[1])

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        # A page that does not trust a notebook takes drawings away, with what is in them.
        if "svg" not in self.open:
            self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(html: str) -> Chart:
    found = Chart()
    found.feed(html)
    found.close()
    assert found.open == []
    return found


def series(*values: float | None, subject: str = "a", step_s: float = 0.5, **metric: Any) -> Series:
    given = {"key": "cpu", "title": "CPU", "unit": "CPUs", "method": "counted", **metric}
    times = tuple(step_s * i for i in range(len(values)))
    return Series(subject=subject, metric=Metric(**given), times_s=times, values=values)


def monitoring(
    *found: Series,
    replayed: str | None = None,
    notes: tuple[str, ...] = (),
    requests: tuple[Band, ...] = (),
) -> Monitoring:
    recorded = Recording(
        began="2026-01-01T00:00:00+00:00",
        machine={"cpu": "one"},
        series=found,
        notes=notes,
        requests=requests,
    )
    return Monitoring(recorded=recorded, seconds=3.0, replayed=replayed)


def band(**changes: Any) -> Band:
    values: dict[str, Any] = {
        "subject": "a", "began_s": 0.2, "total_s": 0.6, "ttft_s": 0.2, "prefill_s": 0.15, "tokens": 9,
        "tokens_per_s": 20.0, "outcome": "stop",
    }  # fmt: skip
    return Band(**{**values, **changes})


def points(line: dict[str, Any]) -> list[list[tuple[int, int]]]:
    """The pieces of a course, as places in the drawing."""
    pieces: list[list[tuple[int, int]]] = []
    for word, x, y in re.findall(r"([Mlh])(-?\d+)(?: ?(-?\d+))?", line["d"]):
        if word == "M":
            pieces.append([(int(x), int(y))])
        else:
            before = pieces[-1][-1]
            pieces[-1].append((before[0] + int(x), before[1] + int(y or 0)))
    return pieces


# Words and numbers


@pytest.mark.parametrize(
    ("values", "most", "shown"),
    [
        ((0.0, 1.0, 2.0), 2.0, "▁▅█"),
        ((None, 1.0, None), 1.0, "·█·"),
        ((0.0, 0.0), 0.0, "▁▁"),
        ((5.0,), 1.0, "█"),
        ((), 1.0, ""),
        (tuple(float(i) for i in range(64)), 64.0, "▁▁▁▁▂▂▂▂"),
    ],
)
def test_a_course_as_text(values, most, shown):
    assert views.spark(values, most, 32)[:8] == shown


def test_the_present_in_one_line():
    now = {(HOST, "cpu"): 1.0, (HOST, "load1"): 3.0, ("a", "memory"): 33.21, ("a", "generated"): None}
    assert views.live(now) == "the machine: 1 CPUs · a: 33.2 MiB"
    assert views.live({("a", "faults"): 1.0}) == ""


def test_an_axis_ends_where_something_is_seen():
    assert views.top(series(0.1, 0.2, most=2.0)) == 0.2
    assert views.top(series(0.1, 1.2, most=2.0)) == 2.0
    assert views.top(series(0.0, 0.0)) == 1.0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0"),
        (1.23456, "1.23"),
        (250.4, "250"),
        (1234567.0, "1\u00a0234\u00a0567"),
        (3.0, "3"),
    ],
)
def test_numbers_are_short(value, shown):
    assert views.number(value) == shown


@pytest.mark.parametrize(
    ("value", "beside", "shown"), [(0.02134, 1.9, "0.02"), (7244.3, 16000.0, "7244"), (0.1, 0.1, "0.1")]
)
def test_what_is_small_beside_others_has_fewer_digits(value, beside, shown):
    assert views.number(value, beside) == shown


def test_nothing_at_all_is_said():
    assert "nothing could be measured" in str(monitoring())
    assert "nothing could be measured" in page(monitoring().to_html()).said


# The card


def test_servers_share_a_chart_and_each_has_a_line_of_its_own():
    seen = monitoring(*(series(1.0, n, subject=name) for n, name in enumerate("abc", start=2)))
    found = page(seen.to_html())
    (chart,) = found.charts
    assert len(chart["lines"]) == 3
    # Nobody has to tell colours apart.
    assert len({line["stroke"] for line in chart["lines"]}) == 3
    assert len({line.get("stroke-dasharray") for line in chart["lines"]}) == 3
    assert "a 2 1 … 2 b 3 1 … 3 c 4 1 … 4" in found.said


def test_what_is_unknown_is_a_gap_and_no_zero():
    html = monitoring(series(1.0, None, None, 2.0, 3.0)).to_html()
    (chart,) = page(html).charts
    first, second = points(chart["lines"][0])
    assert first[0][0] == first[-1][0] == 0
    assert second[0][0] > 250
    # One hatched rectangle: its ground, and its lines; besides them, the axes.
    assert len([path for path in chart["paths"] if path.get("fill") == "currentColor"]) == 1
    assert "unknown" in page(html).said
    assert "·" in str(monitoring(series(1.0, None, None, 2.0)))
    assert "unknown" not in page(monitoring(series(1.0, 2.0)).to_html()).said


def test_what_is_unknown_of_one_server_is_a_strip_in_its_colour():
    seen = monitoring(series(1.0, 1.0, 1.0), series(2.0, None, 2.0, subject="b"))
    (chart,) = page(seen.to_html()).charts
    colour = chart["lines"][1]["stroke"]
    strips = [path for path in chart["paths"] if path.get("stroke") == colour]
    assert len(strips) == 1
    assert not [path for path in chart["paths"] if path.get("fill") == "currentColor"]


def test_a_pause_in_which_nobody_looked_is_a_gap():
    each = series(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    each = replace(each, times_s=(0.0, 0.5, 1.0, 6.0, 6.5, 7.0))
    html = monitoring(each).to_html()
    assert len(points(page(html).charts[0]["lines"][0])) == 2
    assert "unknown" in page(html).said


def test_a_single_value_between_unknown_ones_is_a_dot():
    (chart,) = page(monitoring(series(None, 1.0, None)).to_html()).charts
    (piece,) = points(chart["lines"][0])
    assert len(piece) == 2
    assert piece[0] == piece[1]


def test_a_long_course_is_drawn_with_its_peaks_and_stays_small():
    values = [1.0] * 7200
    values[3333] = 50.0
    html = monitoring(series(*values)).to_html()
    assert len(_DATA.sub("", html)) < 10_000
    (line,) = page(html).charts[0]["lines"]
    (piece,) = points(line)
    heights = [y for _, y in piece]
    assert min(heights) < 15
    assert max(heights) > 170
    assert piece[-1][0] == 258 * 2


def test_what_is_0_throughout_is_a_word_and_no_chart():
    html = monitoring(series(0.0, 0.0, key="faults", title="faults"), series(0.0, 1.0)).to_html()
    assert len(page(html).charts) == 1
    assert "0 throughout: faults" in page(html).said


def test_of_several_servers_it_is_said_which_are_0():
    seen = monitoring(
        series(1.0, 2.0),
        series(1.0, 2.0, subject="b"),
        series(0.0, 0.0, subject="b", key="faults", title="faults"),
    )
    assert "0 throughout: faults (b)" in page(seen.to_html()).said


def test_what_says_most_is_shown_and_the_rest_is_under_a_fold():
    more = [series(1.0, 2.0, key=f"other{i}", title=f"other {i}") for i in range(3)]
    html = monitoring(series(1.0, 2.0), *more).to_html()
    shown, folded, rest = html.partition("<details")
    assert len(page(html).charts) == 4
    assert shown.count("<figure") == 1
    assert "More charts (3)" in (folded + rest)
    # Where there is nothing else, it is not hidden.
    alone = monitoring(*more).to_html()
    assert alone.partition("<details")[0].count("<figure") == 3


def test_a_replay_says_so_wherever_it_is_drawn():
    seen = monitoring(series(1.0, 2.0), series(1.0, 2.0, key="memory"), replayed="run.gz", notes=("cut",))
    html = seen.to_html()
    # In each chart, and before them.
    assert html.count("RECORDING") == 3
    for text in (page(html).said, str(seen)):
        assert "not what happens now" in text
        assert "cut" in text
    assert "RECORDING" not in replace(seen, replayed=None).to_html()
    assert views.live_block(seen, 80, 10)[0].startswith("RECORDING")


def test_requests_are_bands_behind_the_course():
    requests = (band(), band(began_s=-5.0))
    seen = monitoring(series(1.0, 2.0, 3.0), series(1.0, 2.0, 3.0, subject=HOST), requests=requests)
    html = seen.to_html()
    servers, machine = page(html).charts
    for chart in (servers, machine):
        bands = [path for path in chart["paths"] if float(path.get("stroke-width", 0)) > 20]
        # Queue, prefill and decode of the one that is in the picture; the queue is hatched, the prefill darkest.
        assert len(bands) == 3
        assert ["stroke-dasharray" in path for path in bands].count(True) == 1
        assert all(path["d"].count("m") == 1 for path in bands)
    for text in (page(html).said, str(seen)):
        assert "2 requests, TTFT 200 ms, of it in the queue 50 ms, rate 20 tokens/s (medians)" in text
    for word in ("in the queue", "the prompt is read", "the answer is written"):
        assert word in page(html).said


def test_each_server_s_requests_have_a_lane_of_their_own():
    seen = monitoring(
        series(1.0, 2.0, 3.0), series(1.0, 2.0, 3.0, subject="b"), requests=(band(), band(subject="b"))
    )
    (chart,) = page(seen.to_html()).charts
    lanes = {
        path["d"].partition("m")[0] for path in chart["paths"] if float(path.get("stroke-width", 0)) > 20
    }
    assert len(lanes) == 2


def test_an_engine_that_does_not_tell_how_long_it_read_gets_one_shade_until_the_first_token():
    html = monitoring(series(1.0, 2.0, 3.0), requests=(band(prefill_s=None),)).to_html()
    assert "until the first token" in page(html).said
    assert "the prompt is read" not in page(html).said


def test_the_newest_requests_are_in_a_table():
    requests = tuple(band(began_s=0.01 * i, tokens=1000 + i, outcome="length") for i in range(50))
    with_energy = band(began_s=9.0, tokens=10, joules=5.0, ttft_s=None, prefill_s=None)
    unknown = band(began_s=8.0, joules=None, energy_note="another server was at work", outcome="")
    said = page(monitoring(series(1.0), requests=(*requests, with_energy, unknown)).to_html()).said
    assert "the newest 20 of 52" in said
    assert "a 9.0 s – – 10 20 0.5 stop" in said
    assert "a 8.0 s 200 ms 50 ms 9 20 – –" in said
    assert "J/token: another server was at work" in said
    assert "1049" in said
    assert "1031" not in said


def test_how_each_is_measured_is_said_with_its_sensor_and_its_error():
    power: dict[str, Any] = {
        "key": "power",
        "title": "power",
        "unit": "W",
        "interval_s": 0.1,
        "error": (0.13, 0.08),
    }
    seen = monitoring(
        series(1.0, subject="gpu 0", **power, most=700.0),
        series(1.0, subject="gpu 1", **power, most=300.0),
        series(1.0, interval_s=2.0),
        series(1.0, key="memory"),
    )
    said = page(seen.to_html()).said
    # Two that differ in their limit only are measured alike.
    assert "gpu 0, gpu 1 power W counted one value per 100 ms −13 … +8 %" in said
    assert "a CPU CPUs counted one value per 2 s –" in said
    assert "new at each look" in said


def test_the_data_go_with_the_picture_where_they_are_few(tmp_path):
    seen = monitoring(series(1.0, None, 2.5), series(1.0, 2.0, 3.0, subject="b"), requests=(band(),))
    html = seen.to_html()
    found = page(html)
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(found.data)
    assert recording.read(path) == seen.recorded
    assert "data (" in found.said
    # The same twice is the same file: a notebook that is run again does not change.
    assert seen.to_html() == html


def test_where_there_are_many_data_it_is_said_how_to_keep_them():
    values = [math.sin(i * i) * 1.123456 for i in range(40_000)]
    many = page(monitoring(series(*values)).to_html())
    assert many.data == b""
    assert ".save(FILE)" in many.said
    lots = page(monitoring(*(series(*[1.0] * 40_000, subject=f"s{i}") for i in range(10))).to_html())
    assert lots.data == b""
    assert ".save(FILE)" in lots.said


def test_without_the_drawings_words_and_figures_say_what_was_seen():
    seen = monitoring(
        series(0.25, None, 1.5, most=2.0),
        series(100.0, 300.0, None, key="memory", title="memory", unit="MiB"),
        series(5.0, 7.0, 6.0, subject=HOST, key="memory", title="memory", unit="MiB", most=99.0),
        requests=(band(),),
    )
    html = re.sub(r"<svg.*?</svg>", "", seen.to_html(), flags=re.DOTALL)
    said = page(html).said
    assert "CPU 1.5 of 2 CPUs" in said
    assert "between 0.25 and 1.5" in said
    assert "memory – MiB" in said
    assert "between 100 and 300" in said
    assert "memory 6 of 99 MiB" in said
    assert "TTFT 200 ms" in said


def metrics(group: str) -> list[dict[str, Any]]:
    keys = {
        "servers": ("generated", "cpu", "memory", "gpu_memory", *(f"more{i}" for i in range(6))),
        "gpus": ("utilisation", "memory", "power", "temperature", *(f"more{i}" for i in range(5))),
        "machine": ("cpu", "memory", "load1", "frequency"),
    }[group]
    method = "what a counter of the kernel's has grown by since the last look, in some file under /proc"
    return [{"key": key, "title": f"the {key}", "unit": "MiB", "method": f"{key}: {method}"} for key in keys]


def at_work(servers: int, gpus: int, looks: int, hz: float = 2.0) -> Monitoring:
    """A machine at work: a third of all values is never the same, a third grows; requests one after the other."""
    subjects = [
        *((f"server-{i}", "servers") for i in range(servers)),
        *((f"gpu {i}", "gpus") for i in range(gpus)),
        (HOST, "machine"),
    ]
    courses = [
        [50 + 50 * math.sin(i * i) for i in range(looks)],
        [100.0 + i // 7 for i in range(looks)],
        [312.0] * looks,
    ]
    found = [
        series(*courses[place % 3], subject=subject, step_s=1 / hz, **metric)
        for place, (subject, metric) in enumerate(
            (subject, metric) for subject, group in subjects for metric in metrics(group)
        )
    ]
    requests = tuple(
        band(subject=f"server-{i}", began_s=t * 5.0 + i, ttft_s=0.9, prefill_s=0.5, total_s=3.1)
        for t in range(int(looks / hz / 5))
        for i in range(servers)
    )
    return monitoring(*found, requests=requests)


def test_a_card_of_two_servers_and_a_gpu_is_small():
    html = at_work(servers=2, gpus=1, looks=120).to_html()
    assert len(page(html).charts) == 10 + 9 + 4
    link = len(_DATA.search(html)[1])  # type: ignore[index]
    assert link < 60_000
    assert len(html.encode()) - link < 80_000


def test_a_card_of_many_servers_and_gpus_over_an_hour_is_not_large():
    html = at_work(servers=10, gpus=8, looks=7200).to_html()
    assert len(html.encode()) < 400_000
    assert len(page(html).charts) == 10 + 9 + 4


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_each_colour_is_seen_on_a_white_page_and_on_a_dark_one():
    assert len(set(render.SERIES_COLOURS)) >= 8
    for colour in render.SERIES_COLOURS:
        assert 1.05 / (luminance(colour) + 0.05) >= 3
        assert (luminance(colour) + 0.05) / (luminance("#111111") + 0.05) >= 3


# How the three kinds of colour blindness mix red, green and blue (Machado et al. 2009, severity 1).
BLIND = {
    "protan": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deutan": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "tritan": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
    "none": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}


@pytest.mark.parametrize("eye", BLIND)
def test_colours_stay_apart_for_every_eye(eye):
    def seen(colour: str) -> tuple[float, ...]:
        parts = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
        mixed = [max(sum(a * b for a, b in zip(row, parts, strict=True)), 0.0) for row in BLIND[eye]]
        return tuple(part ** (1 / 2.2) * 255 for part in mixed)

    for one, other in combinations(render.SERIES_COLOURS, 2):
        assert math.dist(seen(one), seen(other)) > 30, (one, other)


def test_forty_subjects_look_different():
    seen = monitoring(*(series(1.0, 2.0, subject=f"s{i}") for i in range(40)))
    (chart,) = page(seen.to_html()).charts
    assert len({(line["stroke"], line.get("stroke-dasharray")) for line in chart["lines"]}) == 40


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_nothing_hostile_becomes_markup_or_reaches_a_terminal(text):
    requests = (band(subject=text, outcome=text, energy_note=text), band(subject="b", energy_note=text))
    seen = monitoring(
        series(1.0, 2.0, subject=text, title=text, unit=text, method=text),
        series(1.0, None, 2.0, subject="b", title=text, unit=text, method=text),
        series(0.0, 0.0, subject="b", key=text, title=text, unit=text),
        replayed=text,
        notes=(text,),
        requests=requests,
    )
    seen = replace(seen, recorded=replace(seen.recorded, series=tuple(same_times(seen.series))))
    page(seen.to_html())
    shown = [seen._repr_mimebundle_()["text/plain"], "\n".join(views.live_block(seen, 100, 30))]
    for each in shown:
        assert not [c for c in each if not c.isprintable() and c not in "\n\t\u00a0\u200d"]
    for line in views.live_block(seen, 60, 30):
        assert "\n" not in line
        assert render.columns_of(line) <= 60
    drawn = figure(seen, everything=True).to_plotly_json()
    for trace in drawn["data"]:
        assert "<" not in trace["name"]
        assert "<" not in trace["hovertemplate"]
    texts = [each["text"] for each in drawn["layout"]["annotations"]]
    assert not [each for each in [*texts, drawn["layout"].get("title", {}).get("text", "")] if "<" in each]


def same_times(found: tuple[Series, ...]) -> list[Series]:
    count = max(len(each.values) for each in found)
    return [
        replace(
            each,
            times_s=tuple(float(i) for i in range(count)),
            values=(*each.values, *[None] * (count - len(each.values))),
        )
        for each in found
    ]


values = st.lists(st.none() | st.floats(-1e9, 1e12), min_size=1, max_size=30)


@given(values, values)
def test_any_values_can_be_drawn(one, other):
    count = min(len(one), len(other))
    seen = monitoring(series(*one[:count]), series(*other[:count], subject="b"))
    found = page(seen.to_html())
    for chart in found.charts:
        for line in chart["lines"]:
            assert "nan" not in line["d"]
            for piece in points(line):
                assert all(0 <= x <= 258 * 2 and 0 <= y <= 90 * 2 for x, y in piece)
    assert all(render.columns_of(line) <= 80 for line in views.live_block(seen, 80, 24))


# In a terminal


def watched() -> Monitoring:
    looks = 240
    found = []
    for name, rate in (("tiny", 41.0), ("a-longer-name", 8.0)):
        found += [
            series(*[rate] * looks, subject=name, key="generated", title="generated", unit="tokens/s"),
            series(*[*[0.0] * 120, *[1.9] * 120], subject=name),
            series(*[312.0] * looks, subject=name, key="memory", title="memory", unit="MiB"),
            series(*[1.0] * looks, subject=name, key="threads", title="threads", unit=""),
        ]
    gpu: dict[str, Any] = {
        "subject": "gpu 0",
        "key": "utilisation",
        "title": "GPU utilisation",
        "unit": "%",
        "most": 100.0,
    }
    found += [series(*[90.0] * looks, **gpu), series(*[1.0] * looks, subject=HOST)]
    return monitoring(*found, requests=(band(began_s=3.0, subject="tiny"), band(began_s=1.0)))


def test_a_terminal_shows_a_line_a_server_then_gpus_then_the_machine_then_the_newest_request():
    lines = views.live_block(watched(), 140, 24)
    assert [line.split()[0] for line in lines] == ["tiny", "a-longer-name", "gpu", "the", "newest"]
    assert lines[-1] == "newest request: tiny, TTFT 200 ms, 20 tokens/s, stop"
    tiny, other = lines[:2]
    assert "generated ████████████████ 41 tokens/s" in tiny
    assert "memory ████████████████ 312 MiB" in tiny
    # The last minute only, in which it was at work.
    assert "CPU ████████████████ 1.9" in tiny
    assert "threads" not in tiny
    for word in ("generated", "CPU", "memory"):
        assert tiny.index(word) == other.index(word)


@pytest.mark.parametrize(
    ("columns", "rows"), list(product((1, 5, 20, 40, 60, 80, 100, 200), (1, 2, 3, 4, 30)))
)
def test_a_terminal_of_any_size_is_not_overrun(columns, rows):
    lines = views.live_block(watched(), columns, rows)
    assert 1 <= len(lines) <= rows
    assert all(render.columns_of(line) <= max(columns, 2) for line in lines)


def test_a_narrow_terminal_shows_less_of_each():
    wide, narrow, narrower = (views.live_block(watched(), columns, 24)[0] for columns in (140, 84, 44))
    assert len(re.findall("█+", narrow)) == 3
    assert max(map(len, re.findall("█+", narrow))) < max(map(len, re.findall("█+", wide)))
    assert len(re.findall("█+", narrower)) == 1


def test_a_low_terminal_says_how_many_are_left_out():
    lines = views.live_block(watched(), 140, 3)
    assert lines[1] == "… and 3 more"
    assert lines[-1].startswith("newest request")


def test_large_numbers_are_readable_wherever_they_are_shown():
    seen = monitoring(series(1.0, 81559.0, key="memory", title="memory", unit="MiB"))
    for text in (views.live_block(seen, 80, 3)[0], seen._repr_mimebundle_()["text/plain"], seen.to_html()):
        assert "81 559" in text.replace("\u00a0", " ")


def test_what_is_unknown_now_is_said_in_a_terminal():
    (line,) = views.live_block(monitoring(series(1.0, None)), 60, 5)
    assert line == "a   CPU               █· –"
    assert views.live_block(monitoring(), 60, 5) == ["nothing could be measured so far"]


# The figure


def test_a_figure_has_a_row_for_each_first_chart_and_one_time_axis():
    seen = watched()
    drawn = figure(seen)
    rows = {trace.yaxis for trace in drawn.data}
    assert len(rows) == 3 + 1 + 1
    assert {trace.xaxis for trace in drawn.data} == {"x"}
    assert len({trace.yaxis for trace in figure(seen, everything=True).data}) == 3 + 1 + 1 + 1
    assert drawn.layout.yaxis.title.text == "tokens/s"
    assert drawn.layout.hovermode == "x unified"
    assert drawn.layout.height > figure(monitoring(series(1.0))).layout.height
    assert drawn.layout.paper_bgcolor == drawn.layout.plot_bgcolor == "rgba(0,0,0,0)"
    # Rows do not overlap.
    domains = sorted(drawn.layout[f"yaxis{i or ''}"].domain for i in (0, 2, 3, 4, 5))
    assert all(below[1] < above[0] for below, above in pairwise(domains))


def test_the_legend_names_each_subject_once():
    drawn = figure(watched())
    named = [trace.name for trace in drawn.data if trace.showlegend]
    assert sorted(named) == ["a-longer-name", "gpu 0", HOST, "tiny"]
    assert all(trace.legendgroup == trace.name for trace in drawn.data)
    colours = {trace.name: trace.line.color for trace in drawn.data}
    assert len(set(colours.values())) == 4


def test_a_figure_has_gaps_where_nothing_is_known():
    (trace,) = figure(monitoring(series(1.0, None, 3.0))).data
    assert trace.connectgaps is False
    assert list(trace.y) == [1.0, None, 3.0]
    # Single values would not be seen as lines.
    assert trace.mode == "lines+markers"
    (whole,) = figure(monitoring(series(1.0, 2.0))).data
    assert whole.mode == "lines"


def test_a_figure_has_requests_behind_it():
    drawn = figure(monitoring(series(1.0, 2.0, 3.0), requests=(band(), band(began_s=-5.0))))
    edges = [(shape.x0, shape.x1) for shape in drawn.layout.shapes]
    assert edges == [
        pytest.approx((0.2, 0.25)), pytest.approx((0.25, 0.4)), pytest.approx((0.4, 0.8)),
    ]  # fmt: skip
    assert {shape.layer for shape in drawn.layout.shapes} == {"below"}


def test_a_figure_of_a_recording_says_so():
    seen = monitoring(series(1.0, 2.0), replayed="run.gz")
    assert "RECORDING" in [each.text for each in figure(seen).layout.annotations]
    assert "not what happens now" in figure(seen).layout.title.text
    assert "RECORDING" not in figure(replace(seen, replayed=None)).to_json()


def test_a_figure_of_a_long_watch_stays_light_and_keeps_its_peaks():
    values = [1.0] * 100_000
    values[77_777] = 50.0
    (trace,) = figure(monitoring(series(*values))).data
    assert len(trace.y) <= 2001
    assert max(trace.y) == 50.0


def test_a_figure_of_nothing_says_so():
    assert "nothing could be measured" in figure(monitoring()).to_json()


def test_a_figure_needs_plotly(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(UsageError, match="needs plotly") as caught:
        figure(monitoring(series(1.0)))
    assert caught.value.hint == "pip install plotly"


# In a browser


@pytest.mark.parametrize("page_colour", ["#ffffff", "#111111"])
def test_a_card_fits_its_cell_and_is_readable_in_both_themes(
    page_colour, require_browser, artifacts, tmp_path
):
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where there is a browser

    seen = replace(watched(), replayed="run.jsonl.gz")
    ink = "#ffffff" if page_colour == "#111111" else "#111111"
    style = f"background:{page_colour};color:{ink};--jp-ui-font-color2:{ink};margin:0;font:13px sans-serif"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=require_browser, args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page(viewport={"width": 420, "height": 600}, accept_downloads=True)
        tab.set_content(f'<body style="{style}">{seen.to_html()}</body>')
        tab.screenshot(path=str(artifacts / f"monitoring-{page_colour[1:]}.png"), full_page=True)
        # Nothing sticks out of a narrow cell, and a drawing is as high as it should be.
        assert tab.evaluate("document.documentElement.scrollWidth") <= 420
        box = tab.locator("svg[role=img]").first.bounding_box()
        assert box is not None
        assert 80 <= box["height"] <= 95
        assert tab.locator("svg[role=img] text").first.text_content() == "RECORDING"
        with tab.expect_download() as download:
            tab.get_by_role("link").click()
        download.value.save_as(tmp_path / "got.gz")
        browser.close()
    assert recording.read(tmp_path / "got.gz") == seen.recorded


def test_everything_in_a_card_is_plain_data_too():
    data = json.loads(json.dumps(watched().to_dict()))
    assert {each["subject"] for each in data["series"]} >= {"tiny", "gpu 0", HOST}
