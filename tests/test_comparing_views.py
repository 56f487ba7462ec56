"""What a comparison looks like: nothing claimed that was not found, nothing hostile, nothing lost without drawings."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llmlab import render
from llmlab.comparing import statistics, views
from llmlab.comparing.card import Inequality, from_dict
from llmlab.comparing.figure import figure
from llmlab.comparing.metrics import BY_KEY, MAIN, MAIN_BY_CLIENT, METRICS
from llmlab.comparing.results import Comparison
from llmlab.comparing.views import forest, numbers, timeline
from llmlab.comparing.views.drawing import scaled
from llmlab.comparing.views.rows import Row, seen
from llmlab.errors import UsageError
from tests import comparing_examples as examples
from tests.test_results import EVIL
from tests.test_views import Page

ALL = (
    examples.equivalent, examples.negligible, examples.different, examples.quota, examples.page_cache,
    examples.way_there, examples.inconclusive, examples.not_comparable, examples.interrupted,
    examples.one_block, examples.nothing, examples.unknown_metrics, examples.with_outlier, examples.everything,
    examples.two_engines,
)  # fmt: skip


class Card(Page):
    """A card: what each drawing consists of, and the words around the drawings."""

    TAGS = Page.TAGS | {"figure", "figcaption", "svg", "path", "g", "text", "title", "b"}
    ATTRIBUTES = Page.ATTRIBUTES | {
        "width", "height", "viewbox", "d", "x", "y", "stroke", "stroke-width", "stroke-dasharray",
        "stroke-linecap", "text-anchor", "font-size", "font-weight", "fill", "opacity", "pointer-events",
        "cellpadding",
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.drawings: list[dict[str, Any]] = []
        self.words: list[str] = []
        self._drawing: dict[str, Any] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        given = {name: value or "" for name, value in attrs}
        if tag == "svg":
            self._drawing = {
                "label": given.get("aria-label", ""),
                "box": given["viewbox"],
                "paths": [],
                "texts": [],
            }
            # Who does not see it is told of it, or that there is nothing to be told.
            assert given.get("role") == "img" or given.get("aria-hidden") == "true"
            assert bool(self._drawing["label"]) == (given.get("role") == "img")
            self.drawings.append(self._drawing)
        elif tag == "path":
            assert self._drawing
            self._drawing["paths"].append(given)

    def handle_endtag(self, tag: str) -> None:
        super().handle_endtag(tag)
        if tag == "svg":
            self._drawing = None

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        # A page that does not trust a notebook takes drawings away, with what is in them.
        if "svg" not in self.open:
            self.words.append(data)
        elif self.open[-1] == "text":
            assert self._drawing
            self._drawing["texts"].append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())

    def labelled(self, beginning: str) -> dict[str, Any]:
        (found,) = [each for each in self.drawings if each["label"].startswith(beginning)]
        return found


def page(html: str) -> Card:
    found = Card()
    found.feed(html)
    found.close()
    assert found.open == []
    return found


def plain(text: str) -> str:
    return " ".join(text.split())


# The paragraph


def test_the_verdict_is_a_paragraph_with_its_method():
    compared = examples.equivalent()
    found, floor = compared.findings[MAIN], compared.floors[MAIN]
    assert views.verdict(compared) == (
        "The generation rate of container is equivalent to that of native within ±3 %: ratio"
        f" {numbers.ratio(found)}, 95 % interval {numbers.interval(found.low, found.high)}, 8 blocks."
        f" The same against itself gives {floor.ratio:.3f} ± {100 * floor.half_width:.1f} % (6 blocks), so this"
        " machine can tell 3 % apart. Besides what is compared (backend, image), no difference of the arms was"
        " found. Method: 8 blocks of fresh starts of both, ABBA or BAAB by coin; 2 requests of 128 tokens after a"
        " prompt of 512 per arm and block; the block is the sample; t interval on logarithms; TOST at ±3 %."
    )


@pytest.mark.parametrize(
    ("compared", "words"),
    [
        (examples.different(), "44.7 % lower than that of container: ratio 0.55"),
        (examples.quota(), "is 2.2 % of that of native: ratio 0.022"),
        (examples.comparison({"generated": 1.2}), "% higher than that of native: ratio 1.2"),
        (examples.comparison({"generated": 3.1}), "times that of native: ratio 3.1"),
        (examples.negligible(), "% lower than that of native, which is within ±3 %"),
        (examples.inconclusive(), "It cannot be told at ±3 % whether container differs from native"),
    ],
)
def test_an_outcome_is_said_with_its_size(compared, words):
    assert words in views.verdict(compared)


def test_who_cannot_tell_is_told_how_many_blocks_another_run_would_need():
    compared = examples.inconclusive()
    found = compared.findings[MAIN]
    assert found.more_blocks
    assert f"A new run would need about {found.n + found.more_blocks} blocks." in views.verdict(compared)


def test_the_machine_s_floor_is_said_as_it_was_found():
    noisy = views.verdict(examples.inconclusive())
    assert "which does not hold ±3 %, so it is not shown that this machine can tell 3 % apart" in noisy
    none = views.verdict(examples.equivalent(aa=0))
    assert "It is not known what this machine can tell apart: native was not measured against itself." in none
    assert "against itself in 2 blocks only" in views.verdict(examples.equivalent(aa=2))
    whole = examples.card()
    shifted = tuple(
        replace(
            block,
            requests=tuple(
                replace(each, values={MAIN: (each.values[MAIN] or 0) * (1.2 if each.arm == "b" else 1)})
                for each in block.requests
            ),
        )
        for block in whole.aa
    )
    assert "it differs from itself, so something besides the arms" in views.verdict(
        Comparison(card=replace(whole, aa=shifted))
    )


@pytest.mark.parametrize(
    ("compared", "words"),
    [
        (
            examples.different(),
            "Meanwhile container cpus 4 was held back in 62 % of its periods (container: 0 %), which points",
        ),
        (examples.quota(), "held back in 83 % of its periods (native: unknown), which points to the CPU quota"),
        (
            examples.page_cache(),
            "container read 41\u00a0230 pages from disk in a request (native: 3), which points to the page cache",
        ),
        (examples.way_there(), "longer, which points to the way between client and engine"),
        (examples.different(evidence={}), "were not counted, so no cause can be named"),
        (
            examples.different(evidence={"a": {"throttled": 0.0, "faults": 0.0}, "b": {"throttled": 0.0, "faults": 0.0}}),
            "No cause was seen: what was counted does not point to a quota or page faults.",
        ),
    ],
)  # fmt: skip
def test_a_difference_is_put_down_to_what_was_counted(compared, words):
    assert words in views.verdict(compared)


@pytest.mark.parametrize("compared", [examples.equivalent(), examples.inconclusive(), examples.negligible()])
def test_where_there_is_no_difference_nothing_is_blamed(compared):
    assert "points to" not in views.verdict(compared)
    assert "No cause" not in views.verdict(compared)


def test_where_the_engine_reads_slower_the_way_there_is_not_blamed():
    said = views.verdict(examples.comparison({"prompt": 0.7, "ttft_s": 1.4, "total_s": 1.2}))
    assert "equivalent" in said
    assert "points to" not in said


def test_what_holds_back_both_explains_no_difference():
    both = {"throttled": 40.0, "faults": 5000.0}
    assert "points to the" not in views.verdict(examples.different(evidence={"a": both, "b": both}))


def test_the_slower_one_is_blamed_whichever_it_is():
    evidence = {"a": {"throttled": 50.0}, "b": {"throttled": 0.0}}
    said = views.verdict(examples.comparison({"generated": 2.5}, evidence=evidence))
    assert "Meanwhile native was held back in 50 %" in said


def test_what_is_not_comparable_begins_with_the_reason_and_concludes_nothing():
    said = views.verdict(examples.not_comparable())
    assert said.startswith(
        "Not comparable: the arms differ in engine's files (native: 4c1d0e5f4c1d…, container: 77aa77aa77aa…)."
        " Nothing can be concluded from their figures."
    )
    for word in ("equivalent", "lower", "ratio", "points to"):
        assert word not in said
    assert "the arms differ in context (native: 2048, container: 4096)" in said


def test_of_too_few_blocks_nothing_is_said():
    said = views.verdict(examples.one_block())
    assert "Nothing can be said about the generation rate of container against native" in said
    assert "1 of the 8 planned blocks is complete, and it takes at least 3" in said
    assert "0 of the 8 planned blocks are complete" in views.verdict(examples.nothing())
    assert "it is known of both in fewer than 3 of 8 complete blocks" in views.verdict(
        examples.unknown_metrics()
    )


def test_an_interrupted_comparison_says_how_far_it_came():
    assert "3 of the 8 planned blocks" in views.verdict(examples.interrupted())


@pytest.mark.parametrize("make", ALL)
def test_a_verdict_is_one_paragraph(make):
    said = views.verdict(make())
    assert "\n" not in said
    assert "  " not in said
    assert said.endswith(".")
    assert ".." not in said
    assert "Method: " in said


def test_where_ranks_say_something_else_it_is_said():
    compared = examples.with_outlier()
    assert compared.findings[MAIN].robust_agrees is False
    assert "does not lead to the same verdict" in views.verdict(compared)
    assert "signed-rank" not in views.verdict(examples.equivalent())


def test_arms_of_the_same_name_are_told_apart():
    said = views.verdict(examples.comparison(titles=("native", "native")))
    assert "native (b)" in said
    assert "native (a)" in said


# Text


@pytest.mark.parametrize("form", [str, lambda compared: page(compared.to_html()).said])
def test_what_was_not_wanted_stands_above_the_verdict(form):
    said = form(examples.not_comparable())
    first, second = said.lower().index("not comparable"), said.lower().index("not equal")
    assert first < second < said.index("Nothing can be concluded")
    # What is compared is no inequality to be warned of.
    assert "backend" not in said[:second]


def test_what_makes_figures_meaningless_is_told_even_if_it_was_wanted():
    wanted = Inequality(what="model", a="tiny", b="big", wanted=True, fatal=True)
    compared = examples.equivalent(inequalities=(wanted,))
    assert str(compared).startswith("NOT COMPARABLE: model (native: tiny, container: big)")
    assert "Besides" not in views.verdict(compared)


def test_text_has_a_line_for_each_metric_with_its_figures():
    compared = examples.everything()
    lines = str(compared).splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("METRIC")) :]
    shown = [metric for metric in METRICS if metric.key in compared.findings]
    assert len(shown) == len(METRICS) - 2, "all but what is by the client's clock"
    for metric, line in zip(shown, table[1:], strict=False):
        found = compared.findings[metric.key]
        assert line.startswith(metric.title)
        for figure_ in (numbers.ratio(found), numbers.interval(found.low, found.high), found.verdict):
            assert figure_ in line
        assert f"{compared.floors[metric.key].ratio:.3f} ±" in line


def test_text_says_how_it_was_made_and_what_went_wrong():
    text = plain(str(examples.with_outlier()))
    assert (
        "Block 5 lies far from the others: other virtual machines took 11 % of the CPUs; the machine slept"
        in text
    )
    assert "drawn from seed 11" in text
    assert "Made 2026-01-01 12:00 UTC on Some CPU at 3 GHz." in text
    orders = [block.order for block in examples.with_outlier().card.blocks]
    assert f"Orders: {' '.join(orders)}," in text
    text = plain(str(examples.interrupted()))
    assert "Block 4 is not complete: the server has ended" in text
    assert "interrupted after 4 of 8 blocks" in text


def test_what_others_have_written_is_shown_whole():
    plan = "6 blocks spread by 1.5 % (at worst 2.2 %): " + "a reason that is not short, " * 8
    note = "2 blocks failed one after the other: " + "and here is why, " * 8
    compared = examples.equivalent(plan=plan, notes=(note,))
    for said in (plain(str(compared)), page(compared.to_html()).said):
        assert plan.strip() in said
        assert note.strip() in said


def test_text_fits_a_terminal_but_for_its_table():
    for make in ALL:
        lines = str(make()).splitlines()
        assert max(map(render.columns_of, lines)) <= 130
        assert max(map(len, str(views.against(make(), make())).splitlines())) <= 150


def test_a_card_that_was_read_says_from_where():
    compared = Comparison(card=examples.card(), replayed="old.json")
    assert "Read from old.json, made 2026-01-01 12:00 UTC" in str(compared)
    assert "RUN CARD" in page(compared.to_html()).said
    assert "RUN CARD" not in page(examples.equivalent().to_html()).said


# Numbers


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0, "0"), (4.7, "4.70"), (41.23, "41.2"), (212.4, "212"), (0.8876, "0.888"), (41230.0, "41\u00a0230"),
     (math.nan, "nan"), (math.inf, "inf"), (1e300, "1e+300"), (1e-9, "1e-09")],
)  # fmt: skip
def test_what_was_measured_has_three_digits(value, shown):
    assert numbers.measured(value) == shown


def test_values_side_by_side_have_one_unit():
    assert numbers.unit(BY_KEY["ttft_s"], (0.9, 0.2)) == ("ms", 1000.0)
    assert numbers.unit(BY_KEY["ttft_s"], (0.9, 2.0)) == ("s", 1.0)
    assert numbers.unit(BY_KEY["memory_mib"], (None, 2048.0)) == ("GiB", 1 / 1024)
    assert numbers.unit(BY_KEY["generated"], (None, None)) == ("tokens/s", 1.0)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(0.9876, 1.0123, "0.988 … 1.012"), (44.0, 45.1, "44.00 … 45.10"), (0.02197, 0.02253, "0.02197 … 0.02253"),
     (None, None, "–"), (1.0, 1.0, "1.000 … 1.000"), (101.2, 140.9, "101 … 141")],
)  # fmt: skip
def test_intervals_have_as_many_digits_as_they_are_exact(low, high, shown):
    assert numbers.interval(low, high) == shown


# The card


@pytest.mark.parametrize("make", ALL)
def test_every_card_is_well_formed_and_shows_its_verdict_as_a_word(make):
    compared = make()
    found = page(compared.to_html())
    assert compared.verdict in found.said
    assert "nan" not in compared.to_html()


@pytest.mark.parametrize("make", ALL)
def test_without_drawings_all_figures_are_there(make):
    compared = make()
    said = page(re.sub(r"<svg.*?</svg>", "", compared.to_html(), flags=re.DOTALL)).said
    for key, found in compared.findings.items():
        assert BY_KEY[key].title in said
        assert f"{numbers.ratio(found)} {numbers.interval(found.low, found.high)}" in said
    for floor in compared.floors.values():
        assert f"A/A {numbers.floor_text(floor)}" in said
    outcome = views.verdict(compared).partition(" Method")[0]
    assert outcome.partition(". ")[0] in said


def test_each_drawing_tells_its_figures_to_who_does_not_see_it():
    compared = examples.with_outlier()
    found = page(compared.to_html())
    finding = compared.findings["ttft_s"]
    strip = found.labelled("time to first token")
    assert numbers.interval(finding.low, finding.high) in strip["label"]
    assert numbers.interval(finding.equivalence_low, finding.equivalence_high) in strip["label"]
    assert "equivalent" in strip["label"]
    assert "b is better to the left" in strip["label"]
    assert "b is better to the right" in found.labelled("generation rate: b over a")["label"]
    pairs = found.labelled("generation rate of a and b")["label"]
    assert len(re.findall(r"\d+: [\d.]+ and [\d.]+", pairs)) == 12
    assert "far from the others: 5" in pairs
    assert "of 72 requests over 11 min" in found.labelled("generation rate of 72")["label"]


def rows_of(compared: Comparison) -> dict[str, Row]:
    return {row.metric.key: row for row in seen(compared).rows}


def strip_of(compared: Comparison, key: str) -> tuple[dict[str, Any], forest.Axis]:
    on = forest.axis(seen(compared))
    (drawing,) = page(forest.strip(rows_of(compared)[key], on)).drawings
    return drawing, on


def test_a_strip_shows_both_intervals_the_margin_and_the_floor_to_scale():
    compared = examples.equivalent()
    found, floor = compared.findings[MAIN], compared.floors[MAIN]
    drawing, on = strip_of(compared, MAIN)
    band, _, middle, hollow, wide, narrow, dot = drawing["paths"]
    width = int(drawing["box"].split()[2])

    def at(ratio: float) -> int:
        left, right = on.ends
        share = math.log(ratio) / math.log(on.most)
        return round(width / 2 + share * (right - left) / 2)

    assert re.match(rf"M{at(1 / 1.03)} 0H{at(1.03)}V", band["d"])
    assert middle["d"].startswith(f"M{width // 2} ")
    assert re.match(rf"M{at(found.low)} \d+H{at(found.high)}$", wide["d"])
    assert re.match(rf"M{at(found.equivalence_low)} \d+H{at(found.equivalence_high)}$", narrow["d"])
    assert float(narrow["stroke-width"]) > float(wide["stroke-width"])
    assert dot["d"].startswith(f"M{at(found.ratio)} ")
    low, high = floor.ratio / (1 + floor.half_width), floor.ratio * (1 + floor.half_width)
    assert re.match(rf"M{at(low)} \d+H{at(high)}v", hollow["d"])
    # Hollow, and above the line.
    assert hollow["fill"] == "none"
    assert int(hollow["d"].split()[1].partition("H")[0]) < int(wide["d"].split()[1].partition("H")[0])


def test_what_leaves_the_axis_ends_in_an_arrow_with_its_value():
    compared = examples.equivalent()
    drawing, on = strip_of(compared, "start_s")
    found = compared.findings["start_s"]
    assert found.low > on.most
    assert f"{found.ratio:.{numbers.decimals(found.low, found.high)}f}" in drawing["texts"]
    # No dot where the ratio is not, and nothing beyond the drawing.
    assert not [path for path in drawing["paths"] if path.get("stroke-linecap")]
    inside, _ = strip_of(compared, MAIN)
    assert inside["texts"] == ["b better ▸"]
    assert drawing["texts"][0] == "◂ b better"


def test_the_axis_has_round_labels_that_do_not_touch():
    for most in forest._HALF_RANGES:
        on = forest.Axis(most=float(most), margin=0.03)
        labels = [forest.label(each) for each in on.ticks]
        assert "1" in labels
        assert len(labels) == len(set(labels)) >= 3
        assert max(map(len, labels)) <= 5
        places = [on.x(each) for each in on.ticks]
        # Eleven half pixels a character at the most.
        for (one, a), (other, b) in pairwise(zip(places, labels, strict=True)):
            assert other - one > 11 * (len(a) + len(b)) / 2
        assert on.ends[0] - 1 <= places[0]
        assert places[-1] <= on.ends[1] + 1


def test_the_axis_fits_the_main_interval_whatever_it_is():
    for make in (examples.equivalent, examples.quota, examples.inconclusive, examples.different):
        compared = make()
        on, found = forest.axis(seen(compared)), compared.findings[MAIN]
        assert 1 / on.most <= found.low <= found.high <= on.most


def test_blocks_are_pairs_of_dots_with_the_same_against_itself_apart():
    compared = examples.with_outlier()
    drawing = page(compared.to_html()).labelled("generation rate of a and b")
    dots = [
        path for path in drawing["paths"] if path.get("stroke-linecap") and float(path["stroke-width"]) >= 8
    ]
    by_look = {
        (path["stroke-linecap"], "opacity" in path): [float(x) for x in re.findall(r"M([\d.]+) ", path["d"])]
        for path in dots
    }
    a, b, again = by_look["round", False], by_look["square", False], by_look["round", True]
    assert (len(a), len(b), len(again)) == (6 + 12, 12, 6)
    # Block by block from left to right: a, then b.
    assert all(x < y for x, y in zip(a[6:], b, strict=True))
    assert a == sorted(a)
    # A gap wider than between two blocks.
    assert a[6] - again[5] > 1.5 * (a[7] - b[0])
    colours = {path["stroke"] for path in dots}
    assert colours == set(render.SERIES_COLOURS[:2])


def test_only_flagged_blocks_have_a_ring_and_failed_ones_a_cross():
    def rings(compared: Comparison) -> int:
        drawing = page(compared.to_html()).labelled("generation rate of a and b")
        return sum(path["d"].count("a") // 2 for path in drawing["paths"] if path.get("stroke-dasharray"))

    assert rings(examples.with_outlier()) == 1
    assert rings(examples.equivalent()) == 0
    failed = page(examples.interrupted().to_html())
    assert failed.labelled("generation rate of a and b")["texts"].count("✖") == 1
    assert "Block 4 is not complete: the server has ended" in failed.said


def test_requests_are_dots_over_the_time_since_the_beginning():
    compared = examples.equivalent()
    found = timeline.spots(seen(compared))
    assert len(found) == (6 + 8) * 4
    assert (found[0].itself, found[0].time_s) == (True, 6.0)
    assert found[-1].time_s == 38.0 * 13 + 6.0 + 3 * 6.5
    drawing = page(compared.to_html()).labelled("generation rate of 56")
    assert sum(path["d"].count("h0") for path in drawing["paths"]) == 56


def test_where_the_times_cannot_be_read_there_is_no_time_line():
    whole = examples.card()
    naive = replace(whole.blocks[0], began="2026-01-01T12:00:00")
    for blocks in ((replace(whole.blocks[0], began="yesterday"),), (naive, *whole.blocks[1:])):
        html = Comparison(card=replace(whole, blocks=blocks)).to_html()
        assert "Requests over time" not in page(html).said
        assert "in each block" in page(html).said


def test_folds_have_facts_definitions_and_every_value():
    compared = examples.equivalent()
    found = page(compared.to_html())
    assert "llama-server" in found.said
    assert examples.SHA not in found.said
    assert examples.SHA in found.titles
    assert "9f3c2b7a9f3c…" in found.said
    assert "Some CPU at 3 GHz" in found.said
    for row in seen(compared).rows:
        assert row.metric.definition in found.said
    block = compared.card.blocks[3]
    values = [numbers.measured(each.values[MAIN]) for each in block.requests if each.arm == "b"]
    assert f"4 {block.order} b {' · '.join(values)}" in found.said


def test_many_requests_in_a_block_are_one_figure_in_the_table_of_values():
    whole = examples.card(blocks=3, aa=0)
    many = tuple(replace(block, requests=block.requests * 4) for block in whole.blocks)
    assert "(median of 8)" in page(Comparison(card=replace(whole, blocks=many)).to_html()).said


def test_a_card_of_twelve_blocks_and_all_metrics_is_small():
    html = examples.everything().to_html()
    assert len(html.encode()) < 60_000
    assert len(examples.with_outlier().to_html().encode()) < 60_000


def test_a_card_of_a_thousand_blocks_does_not_burst_a_notebook():
    compared = examples.comparison(blocks=1000, aa=4, usual={"generated": (40.0, 0.02)})
    html = compared.to_html()
    assert len(html.encode()) < 300_000
    assert "the first 60 are shown" in page(html).said
    drawing = page(html).labelled("generation rate of a and b")
    assert float(drawing["box"].split()[2]) < 3200


def test_figures_of_what_is_not_comparable_carry_no_verdict():
    found = page(examples.not_comparable().to_html())
    assert "equivalent" not in found.said.partition("Requests over time")[0].replace(
        "what counts as equivalent", ""
    )
    assert "inconclusive" not in found.said
    assert "different" not in found.said.partition("Requests over time")[0]


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_nothing_hostile_becomes_markup_or_reaches_a_terminal(text):
    compared = examples.hostile(text)
    fatal = Inequality(what=text, a=text, b=text, fatal=True)
    for each in (compared, replace(compared, card=replace(compared.card, inequalities=(fatal,)))):
        page(each.to_html())
        against = views.against(each, examples.equivalent())
        page(against.to_html())
        for shown in (each._repr_mimebundle_()["text/plain"], against._repr_mimebundle_()["text/plain"]):
            assert not [c for c in shown if not c.isprintable() and c not in "\n\t\u00a0\u200d"]
            shown.encode()
        views.verdict(each).encode()
        assert len(each.to_html().encode()) < 80_000
        drawn = figure(each).to_plotly_json()
        texts = [trace.get("name", "") for trace in drawn["data"]]
        texts += [line for trace in drawn["data"] for line in trace.get("text", ())]
        texts.append(drawn["layout"]["title"]["text"])
        assert not [line for line in texts if "<" in line]


level = st.none() | st.floats(1e-3, 1e6)


@given(st.lists(st.tuples(level, level, level, level), min_size=0, max_size=7))
def test_any_values_can_be_drawn(blocks):
    whole = examples.card(blocks=0, aa=3, usual={"generated": (1.0, 0.0)})
    made = tuple(
        replace(
            examples.block(number, examples.dice_of(1), {}, usual={"generated": (1.0, 0.0)}),
            requests=tuple(
                replace(request, values={MAIN: value})
                for request, value in zip(whole.aa[0].requests, values, strict=True)
            ),
        )
        for number, values in enumerate(blocks, start=1)
    )
    compared = Comparison(card=replace(whole, blocks=made))
    str(compared)
    for drawing in page(compared.to_html()).drawings:
        width, height = map(float, drawing["box"].split()[2:])
        for path in drawing["paths"]:
            assert "nan" not in path["d"]
            for x, y in re.findall(r"M(-?[\d.e+]+) (-?[\d.e+]+)", path["d"]):
                assert 0 <= float(x) <= width
                assert 0 <= float(y) <= height


@given(st.lists(st.floats(1e-5, 1e9), min_size=1, max_size=9))
def test_an_axis_of_values_goes_around_them_in_round_steps(values):
    on = scaled(values, 150)
    assert 0 <= on.low <= min(values) <= max(values) <= on.high
    assert 1 < (on.high - on.low) / on.step < 8


# Two comparisons


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_the_difference_of_two_comparisons_is_welch_s(level):
    rng = np.random.default_rng(4)
    one, other = rng.normal(0.01, 0.02, 8), rng.normal(-0.05, 0.05, 13)
    found = statistics.two(one.tolist(), other.tolist(), level)
    theirs = stats.ttest_ind(other, one, equal_var=False).confidence_interval(level)
    assert found.log == pytest.approx(other.mean() - one.mean())
    assert (found.low, found.high) == pytest.approx((math.exp(theirs.low), math.exp(theirs.high)))
    assert found.ratio == pytest.approx(math.exp(found.log))


def test_two_comparisons_without_any_spread_have_an_interval_of_no_width():
    found = statistics.two([0.1] * 3, [0.3] * 4)
    assert found.low == found.high == pytest.approx(math.exp(0.2))
    tiny = statistics.two([0.0, 1e-170, 0.0], [0.0, 0.0, 1e-170])
    assert (tiny.low, tiny.high) == (1.0, 1.0)
    one_sided = statistics.two([0.1] * 3, [0.29, 0.3, 0.31])
    half = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert one_sided.high == pytest.approx(math.exp(0.2 + half))


@pytest.mark.parametrize(("one", "other"), [([0.1] * 2, [0.1] * 3), ([0.1] * 3, [0.1, math.nan, 0.1])])
def test_two_comparisons_of_too_few_blocks_are_refused(one, other):
    with pytest.raises(ValueError, match=r"too few|finite"):
        statistics.two(one, other)
    with pytest.raises(ValueError, match="level"):
        statistics.two([0.1] * 3, [0.1] * 3, 0.3)


def test_intervals_that_overlap_may_differ_all_the_same():
    one, other = [-0.01, 0.0, 0.01, 0.0, -0.01, 0.01] * 2, [0.0, 0.01, 0.02, 0.01, 0.0, 0.02] * 2
    first, second = statistics.compare(one), statistics.compare(other)
    assert first.high > second.low
    assert (statistics.two(one, other).low or 0) > 1


def test_two_cards_lie_side_by_side():
    first, second = examples.equivalent(), examples.different(blocks=9, machine={"cpu": "Another CPU"})
    both = views.against(first, second)
    change = {each.metric.key: each for each in both.changes}[MAIN].change
    assert change
    expected = statistics.two(
        list(first.differences(BY_KEY[MAIN]).values()), list(second.differences(BY_KEY[MAIN]).values())
    )
    assert change == expected
    for said in (plain(str(both)), page(both.to_html()).said):
        for found in (first.findings[MAIN], second.findings[MAIN], change):
            assert f"{numbers.ratio(found)} {numbers.interval(found.low, found.high)}" in said
        assert "the difference of the two log ratios with a 95 % Welch interval" in said
        assert "the machine's cpu (first: Some CPU at 3 GHz, second: Another CPU)" in said
        assert "not comparable" not in said
    data = json.loads(json.dumps(both.to_dict()))
    assert {each["metric"]: each["verdict"] for each in data["changes"]}[MAIN] == "different"
    assert {"what": "the machine's cpu", "first": "Some CPU at 3 GHz", "second": "Another CPU"} in data[
        "unequal"
    ]


def test_a_comparison_against_itself_shows_no_difference():
    both = views.against(examples.equivalent(), examples.equivalent())
    assert {each.word for each in both.changes} == {"no difference shown"}
    assert {each.change.ratio for each in both.changes if each.change} == {1.0}
    assert both.unequal == ()


def test_of_too_few_blocks_there_is_no_change():
    both = views.against(examples.equivalent(), examples.one_block())
    assert {each.word for each in both.changes} == {"too few blocks"}
    for form in (str(both), page(both.to_html()).said):
        assert "too few blocks" in form
    neither = views.against(examples.nothing(), examples.one_block())
    assert "Neither has three complete blocks" in str(neither)
    assert "Neither has three complete blocks" in page(neither.to_html()).said


def test_a_card_that_is_not_comparable_is_not_made_so_by_another():
    both = views.against(examples.equivalent(), examples.not_comparable())
    for form in (plain(str(both)), page(both.to_html()).said):
        assert "The arms of the second are not comparable" in form


# Two engines, one of which tells no times


def test_where_an_engine_tells_no_times_the_verdict_is_about_what_the_client_measures():
    compared = examples.two_engines()
    assert compared.card.clock == compared.card.to_dict()["clock"] == "client"
    assert compared.main.key == MAIN_BY_CLIENT
    assert compared.verdict == compared.findings[MAIN_BY_CLIENT].verdict == "different"
    for said in (plain(str(compared)), page(compared.to_html()).said, views.verdict(compared)):
        assert "The output rate of llama-cpp-python is 3" in said
        assert "% of that of llama-server" in said
        assert "rates by the client's clock, because llama-cpp-python tells no times" in said
        assert "engine's own rates" not in said, "one clock cannot tell the engine from the way to it"
    assert "client's clock" not in views.verdict(examples.equivalent())
    assert examples.equivalent().card.to_dict()["clock"] == "engine"


def test_what_one_arm_does_not_tell_is_unknown_and_not_a_lack_of_blocks():
    compared = examples.two_engines()
    assert "generated" not in compared.findings
    (line,) = [line for line in str(compared).splitlines() if line.startswith("generation rate ")]
    assert f" {render.UNKNOWN} " in line
    assert "unknown of b" in line
    assert "too few blocks" not in line
    assert "unknown of b" in page(compared.to_html()).said


def test_pictures_show_the_rate_that_the_verdict_is_about():
    compared = examples.two_engines()
    labels = [drawing["label"] for drawing in page(compared.to_html()).drawings]
    assert any(label.startswith("output rate of a and b in tokens/s, block by block") for label in labels)
    assert any(label.startswith("output rate of 56 requests over") for label in labels)
    assert "output rate, tokens/s" in str(figure(compared).to_dict()["layout"]["yaxis2"])
    assert len(timeline.spots(seen(compared))) == 56


def test_a_difference_of_engines_is_not_put_down_to_nothing():
    assert "The engines themselves differ: what was counted does not point to" in views.verdict(
        examples.two_engines(
            blocks=tuple(
                replace(
                    block,
                    requests=tuple(replace(each, evidence={"faults": 0.0}) for each in block.requests),
                )
                for block in examples.two_engines().card.blocks
            )
        )
    )


def test_cards_by_two_clocks_say_so_and_share_no_rate():
    both = views.against(examples.equivalent(), examples.two_engines())
    words = {each.metric.key: each.word for each in both.changes}
    assert words["generated"] == words["output"] == "too few blocks"
    assert words["total_s"] == "different"
    assert "clock of the rates (first: the engine's, second: the client's)" in plain(str(both))


# The figure


def test_a_figure_has_the_ratios_above_and_the_blocks_below():
    compared = examples.with_outlier()
    drawn = figure(compared)
    inner, ratios, floors = (trace for trace in drawn.data if trace.yaxis == "y")
    findings, found_floors = compared.findings, compared.floors
    assert list(ratios.x) == [each.ratio for each in findings.values()]
    assert [x + more for x, more in zip(ratios.x, ratios.error_x.array, strict=True)] == pytest.approx(
        [each.high for each in findings.values()]
    )
    assert [x for x in inner.x if x is not None][:2] == [
        findings[MAIN].equivalence_low, findings[MAIN].equivalence_high,
    ]  # fmt: skip
    assert list(floors.x) == [each.ratio for each in found_floors.values()]
    assert [x - less for x, less in zip(floors.x, floors.error_x.arrayminus, strict=True)] == pytest.approx(
        [each.ratio / (1 + each.half_width) for each in found_floors.values()]
    )
    assert drawn.layout.xaxis.type == "log"
    assert drawn.layout.paper_bgcolor == drawn.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert drawn.layout.yaxis2.domain[1] < drawn.layout.yaxis.domain[0]
    band = drawn.layout.shapes[0]
    assert (band.x0, band.x1) == (1 / 1.03, 1.03)
    labels = drawn.layout.yaxis.ticktext
    assert labels[0].startswith("generation rate")
    assert "b better ▸" in labels[0]
    assert "◂ b better" in labels[2]


def test_a_figure_marks_the_blocks_that_are_flagged():
    drawn = figure(examples.with_outlier())
    dots = {trace.name: trace for trace in drawn.data if trace.yaxis == "y2" and trace.mode == "markers"}
    assert set(dots) == {"native against itself", "native", "container"}
    assert list(dots["native"].x) == [str(number) for number in range(1, 13)]
    assert [
        where
        for where, width in zip(dots["container"].x, dots["container"].marker.line.width, strict=True)
        if width
    ] == ["5"]
    assert "the machine slept" in dots["container"].text[4]
    assert dots["native"].marker.symbol != dots["container"].marker.symbol


@pytest.mark.parametrize("make", ALL)
def test_every_comparison_has_a_figure(make):
    drawn = figure(make())
    json.loads(drawn.to_json())
    if make is examples.nothing:
        assert "nothing could be measured" in drawn.to_json()


def test_a_figure_needs_plotly(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(UsageError, match="needs plotly") as caught:
        figure(examples.equivalent())
    assert caught.value.hint == "pip install plotly"


# In a browser, and through a file


def test_a_card_that_went_through_a_file_looks_the_same():
    compared = examples.everything()
    again = Comparison(card=from_dict(json.loads(json.dumps(compared.card.to_dict()))))
    assert again.to_html() == compared.to_html()
    assert str(again) == str(compared)


@pytest.mark.parametrize("colour", ["#ffffff", "#111111"])
def test_a_card_fits_its_cell_and_its_strips_join(colour, require_browser, artifacts):
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where there is a browser

    ink = "#ffffff" if colour == "#111111" else "#111111"
    style = f"background:{colour};color:{ink};--jp-ui-font-color2:{ink};margin:0;font:13px sans-serif"
    # As JupyterLab has tables.
    rules = (
        ".c td,.c th,.c tr{padding:.5em;line-height:normal;white-space:normal;border:none;text-align:right}"
    )
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=require_browser, args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page(viewport={"width": 1100, "height": 800})
        html = examples.with_outlier().to_html()
        tab.set_content(f'<style>{rules}</style><body style="{style}"><div class="c">{html}</div></body>')
        tab.screenshot(path=str(artifacts / f"comparing-{colour[1:]}.png"), full_page=True)
        strips = tab.locator("td svg[role=img]")
        boxes = [strips.nth(i).bounding_box() for i in range(strips.count())]
        assert len(boxes) == 8
        # Margin and axis go through all rows: no strip leaves a gap to the next.
        for above, below in pairwise(boxes):
            assert above
            assert below
            assert abs(above["y"] + above["height"] - below["y"]) < 1
            assert above["x"] == below["x"]
        # In a usual cell nothing has to be scrolled.
        for wide in tab.locator("div[style*=overflow-x]").all()[:2]:
            assert wide.evaluate("e => e.scrollWidth <= e.clientWidth")
        tab.set_viewport_size({"width": 420, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 420
        browser.close()
