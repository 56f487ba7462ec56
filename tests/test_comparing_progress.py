"""A comparison while it is measured: what is shown between blocks, and that within them nothing is."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from queue import Empty
from typing import Any

import pytest

import llmlab
from llmlab.comparing import ladder as ladders
from llmlab.comparing import protocol
from llmlab.comparing.card import Block
from llmlab.comparing.ladder import rungs
from llmlab.comparing.progress import ComparisonSoFar, LadderSoFar, RungSoFar
from llmlab.reporting import Course, Reporter, reporting_to
from tests.comparing_examples import arm, block, dice_of
from tests.test_kernel import PATIENCE_S, Kernel, kernel
from tests.test_progress import in_terminal

__all__ = ["kernel"]  # a fixture

# What no view may hold before the plan has ended.
VERDICTS = re.compile(
    r"equivalent|different|inconclusive|negligible|interval|±|95 %|b/a (?!\d)", re.IGNORECASE
)
NATIVE = "a='backend=native,threads=1', b='backend=native,threads=1,kv-type=q8_0'"


def blocks(count: int) -> tuple[Block, ...]:
    dice = dice_of(3)
    return tuple(block(number, dice, {"generated": 0.9}) for number in range(1, count + 1))


def so_far(done: int, planned: int | None = 9, **changes: Any) -> ComparisonSoFar:
    values: dict[str, Any] = {
        "arms": (arm("a", "native"), arm("b", "container")),
        "stage": "blocks",
        "aa": blocks(4),
        "aa_planned": 4,
        "blocks": blocks(done),
        "planned": planned,
        "left_s": 48.0,
    }
    return ComparisonSoFar(**{**values, **changes})


def climbing(done: int, **changes: Any) -> LadderSoFar:
    def measured(number: int) -> Block:
        return block(number, dice_of(number), {})

    values: dict[str, Any] = {
        "stage": "blocks",
        "rungs": {
            "a": RungSoFar(title="native TCP", state="done"),
            "b": RungSoFar(title="container, sealed", state="done"),
            "cold": RungSoFar(title="cold page cache", state="left out", why="another server has it mapped"),
        },
        "warmed": True,
        "blocks": tuple(measured(number) for number in range(1, done + 1)),
        "planned": 6,
        "left_s": 200.0,
    }
    return LadderSoFar(**{**values, **changes})


# What is shown


def test_done_blocks_are_drawn_and_those_to_come_have_empty_places():
    for done in (0, 3, 9):
        picture = so_far(done).to_html()
        assert picture.count("<rect") == 9 - done
        assert picture.count("stroke-dasharray") == (done < 9), "the one that is measured now is outlined"
        assert picture.count("<title>") == 4 + done
    assert so_far(0, aa=(), stage="start").to_html().count("stroke-dasharray") == 0
    assert so_far(0, aa=(), stage="start").to_html().count("<rect") == 4 + 9
    unknown = so_far(0, None, aa=blocks(1), stage="A/A").to_html()
    assert unknown.count("<rect") == 3
    assert "is decided by the spread" in unknown


def test_what_is_done_and_how_long_it_will_take_is_said():
    assert so_far(3).detail == "block 4 of 9, about 48 s left"
    assert so_far(3, left_s=301.0).detail == "block 4 of 9, about 5 min left"
    assert so_far(0, left_s=None).detail == "block 1 of 9"
    assert so_far(9).detail == "9 of 9 blocks"
    assert so_far(0, None, aa=blocks(1), stage="A/A").detail == "block 2 of 4, about 48 s left of A/A"
    assert so_far(0, aa=blocks(1), stage="A/A").detail == "block 2 of 4, about 48 s left", "of all"
    assert climbing(2).detail == "block 3 of 6, about 3 min left"
    assert climbing(0, warmed=False).detail == "warm-up"


@pytest.mark.parametrize("course", [so_far(0), so_far(4), so_far(9), climbing(0), climbing(6)])
def test_there_is_no_verdict_and_no_interval_before_the_end(course: Course):
    for shown in (course.to_html(), "\n".join(course.lines(100))):
        assert not VERDICTS.search(shown), shown
        assert re.search(r"come.? with the last block\.", shown)


def test_lines_have_a_character_for_each_block_and_fit():
    stage, head, a, b, scale, sentence = so_far(3).lines(100)
    assert stage == "blocks: block 4 of 9, about 48 s left"
    assert "generation rate" in head
    for line, name in ((a, "a native"), (b, "b container")):
        assert re.fullmatch(rf"  {name} +[▁-█]{{4}}  [▁-█]{{3}}·{{6}}", line)
    assert "tokens/s" in scale
    assert sentence.strip().startswith("The verdict comes with the last block.")
    hostile = (arm("a", "x\x1b[2J" * 20), arm("b", "宽" * 90))
    for columns in (20, 60, 100):
        for course in (so_far(3), so_far(600, 1000), so_far(3, arms=hostile), climbing(3)):
            assert all(len(line) <= columns and line.isprintable() for line in course.lines(columns))


def test_a_failed_block_is_seen_as_failed():
    failed = Block(number=2, order="ABBA", began="", trouble="it died")
    course = so_far(2, blocks=(*blocks(1), failed))
    assert re.search("[▁-█]✖·{7}$", course.lines(100)[2])
    assert "✖" in course.to_html()


def test_a_ladder_shows_each_rung_with_its_rate_and_places_for_its_blocks():
    _, tcp, sealed, cold, _ = climbing(2).lines(100)
    assert re.fullmatch(r"  ● native TCP +4\d\.\d tokens/s  [▁-█]{2}·{4}", tcp)
    assert re.fullmatch(r"  ● container, sealed +4\d\.\d tokens/s  [▁-█]{2}·{4}", sealed)
    assert re.fullmatch(r"  ✗ cold page cache +left out: another server has it mapped", cold)
    picture = climbing(2).to_html()
    assert picture.count("<rect") == 2 * 4
    assert "another server has it mapped" in picture
    trying = climbing(
        0, stage="rungs", planned=None, warmed=False,
        rungs={key: RungSoFar(title=key, state=key) for key in ("done", "now", "ahead")},
    )  # fmt: skip
    assert [line.split()[0] for line in trying.lines(80)[1:4]] == ["✓", "●", "○"]
    assert trying.detail == "now"


# As it goes on


class Following(Reporter):
    """Keeps what it is shown, and when."""

    def __init__(self) -> None:
        self.courses: list[Any] = []
        self.times: list[float] = []

    def course(self, course: Course) -> None:
        self.courses.append(course)
        self.times.append(time.time())


def began(each: Block) -> float:
    return datetime.fromisoformat(each.began).timestamp()


def requests(measured: Sequence[Block]) -> list[tuple[float, float]]:
    """Beginning and end of each measured request, in seconds since 1970; a clock that is set is not seen."""
    return [
        (began(each) + request.began_s, began(each) + request.began_s + (request.values["total_s"] or 0.0))
        for each in measured
        for request in each.requests
    ]


def inside(moments: Sequence[float], measured: Sequence[Block]) -> list[float]:
    """Moments that fall into a measured request; a block's beginning is noted to a millisecond."""
    found = requests(measured)
    return [moment for moment in moments if any(start + 0.001 < moment < end - 0.001 for start, end in found)]


def test_it_is_told_between_blocks_and_never_within_a_request(require_engine, monkeypatch):
    monkeypatch.setattr(protocol, "AA_BLOCKS", 3)
    with reporting_to(Following()) as report:
        seen = llmlab.compare("tiny", a="backend=native", b="backend=native", blocks=4, tokens=64)
    told = [(each.stage, len(each.aa), len(each.blocks)) for each in report.courses]
    assert told == [
        ("start", 0, 0),
        *(("A/A", done, 0) for done in range(3)),
        *(("blocks", 3, done) for done in range(4)),
    ]
    assert report.courses[-1].blocks == seen.card.blocks[:3], "the same as in the card"
    assert all(each.planned == 4 for each in report.courses), "it was asked for"
    assert [each.left_s is None for each in report.courses] == [True, True, *[False] * 6]
    # Of the first block against itself and the third, with all four that follow.
    assert report.courses[2].left_s > report.courses[-1].left_s
    assert inside(report.times, (*seen.card.aa, *seen.card.blocks)) == []


def test_a_ladder_tells_each_rung_and_each_block(require_engine, monkeypatch):
    known = rungs.candidates
    monkeypatch.setattr(
        rungs, "candidates", lambda *given: [each for each in known(*given) if each.key in {"tcp", "socket"}]
    )
    with reporting_to(Following()) as report:
        found = ladders.ladder("tiny", blocks=3, tokens=16, seed=1)
    told = [
        (each.stage, *(rung.state for rung in each.rungs.values()), each.warmed, len(each.blocks))
        for each in report.courses
    ]
    assert told == [
        ("rungs", "now", "ahead", False, 0),
        ("rungs", "done", "now", False, 0),
        ("blocks", "done", "done", False, 0),
        *(("blocks", "done", "done", True, done) for done in range(3)),
    ]
    assert "tokens/s" in "\n".join(report.courses[-1].lines(100))
    assert found.warm_up
    assert inside(report.times, (found.warm_up, *found.blocks)) == []


# In a kernel: what really reaches the front-end, and when

MEASURE = f"seen = llmlab.compare('tiny', {NATIVE}, blocks=3, tokens=200)"
THREADS = """
import threading
from llmlab.comparing import protocol, running
protocol.AA_BLOCKS = 3
measured, names = running.Running._complete, []
def complete(self, setting):
    names.append([each.name for each in threading.enumerate()])
    return measured(self, setting)
running.Running._complete = complete
"""
# As any other verb shows its stages.
TICKING = """
from llmlab.notebook.reporters import KernelReporter
from llmlab.reporting import Reporter
KernelReporter.course = Reporter.course
"""


def messages(kernel: Kernel, code: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What a cell shows: each message with the moment at which the kernel has made it; and its reply."""
    sent = kernel.begin(code)
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + 4 * PATIENCE_S
    while time.monotonic() < deadline:
        try:
            message = kernel.client.get_iopub_msg(timeout=1)
        except Empty:
            continue
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != sent or kind == "execute_input":
            continue
        if kind == "status":
            if content["execution_state"] == "idle":
                return found, kernel.reply(sent)
            continue
        when = message["header"]["date"].astimezone(timezone.utc).timestamp()
        found.append({"kind": kind, "when": when, "content": content})
    raise AssertionError("the cell did not end")


def told(kernel: Kernel) -> tuple[Block, ...]:
    """The blocks of the card that the kernel has."""
    from llmlab.comparing import card  # noqa: PLC0415 - only here

    made = card.from_dict(json.loads(kernel.value("__import__('json').dumps(seen.card.to_dict())")))
    return (*made.aa, *made.blocks)


def test_in_a_kernel_nothing_is_sent_and_no_thread_paints_within_a_measured_request(kernel, require_engine):
    kernel.run(THREADS)
    shown, reply = messages(kernel, f"{MEASURE}; seen")
    assert reply["status"] == "ok", reply
    measured = told(kernel)
    assert len(requests(measured)) >= 6 * 4
    assert len(shown) >= 1 + 3 + 3 + 1 + 1, "it was shown before each block, at the end, and then the result"
    assert inside([each["when"] for each in shown], measured) == []
    threads = kernel.value("names")
    assert len(threads) > 6 * 4
    assert not any({"llmlab-output", "llmlab view"} & set(names) for names in threads), "none of them draws"


@pytest.mark.slow
def test_that_would_be_noticed(kernel, require_engine):
    """The same with a view whose clock ticks: so many messages fall into requests that none cannot be chance."""
    kernel.run(THREADS + TICKING)
    shown, reply = messages(kernel, MEASURE)
    assert reply["status"] == "ok", reply
    assert inside([each["when"] for each in shown], told(kernel))
    assert any("llmlab-output" in names for names in kernel.value("names"))


def test_in_a_kernel_the_picture_grows_and_gives_way_to_the_result(kernel, require_engine):
    kernel.run(THREADS)
    shown, _ = messages(
        kernel, "%llm compare tiny --a backend=native --b backend=native,threads=2 --blocks 3 --tokens 16"
    )
    live = [each["content"]["data"] for each in shown if "display_data" in each["kind"]]
    assert (
        len({each["content"]["transient"]["display_id"] for each in shown if "display_data" in each["kind"]})
        == 1
    )
    drawn = [data["text/html"].count("<title>") for data in live]
    assert drawn == [*sorted(drawn[:-1]), 0], "one block more each time, and at the end none"
    assert drawn[-2] == 3 + 2
    for data in live[:-1]:
        assert not VERDICTS.search(data["text/html"])
        assert "The verdict comes with the last block." in data["text/plain"]
    assert re.match(r"✓ compare native .*threads 2 .*A/A .*blocks ", live[-1]["text/plain"])
    assert "llmlab.compare('tiny'" in live[-1]["text/plain"]
    (result,) = [each["content"]["data"] for each in shown if each["kind"] == "execute_result"]
    assert "<svg" in result["text/html"]
    assert "verdict" in result["text/plain"].lower()


INTERRUPT = """
import os, signal
from llmlab.notebook.reporters import KernelReporter
shows = KernelReporter.course
def course(self, course):
    shows(self, course)
    if len(course.blocks) == 2:
        os.kill(os.getpid(), signal.SIGINT)
KernelReporter.course = course
"""


def test_ctrl_c_keeps_the_finished_blocks_and_takes_the_picture_away(kernel, require_engine):
    kernel.run(THREADS + INTERRUPT)
    shown, reply = messages(kernel, f"seen = llmlab.compare('tiny', {NATIVE}, blocks=9, tokens=16); seen")
    assert reply["status"] == "ok", reply
    assert kernel.value("len(seen.card.blocks)") == 2
    last = [each["content"]["data"] for each in shown if "display_data" in each["kind"]][-1]
    assert "<svg" not in last["text/html"]
    (result,) = [each["content"]["data"] for each in shown if each["kind"] == "execute_result"]
    assert "interrupted after 2 of 9 blocks" in result["text/plain"]


# In terminals


def test_in_a_terminal_lines_are_written_over_and_the_result_stays(require_engine):
    command = [
        sys.executable, "-m", "llmlab", "compare", "tiny", "--a", "backend=native", "--b", "backend=native,threads=2",
        "--blocks", "3", "--tokens", "8",
    ]  # fmt: skip
    shown = in_terminal(command, 90)
    pictures = re.split(r"\x1b\[6A", shown)
    assert len(pictures) > 3 + 3
    assert re.search(r"a native .*? [▁-█]{4}  [▁-█]{2}·\r", pictures[-2])
    end = pictures[-1]
    assert end.startswith("\x1b[J"), "taken away"
    assert "come with the last block" not in end
    assert re.search("a = native.*, b = threads 2", end)


def test_in_an_ipython_terminal_too(tmp_path, require_engine):
    source = tmp_path / "compare.ipy"
    options = "--a backend=native --b backend=native,threads=2 --blocks 3 --tokens 8"
    source.write_text(f"%load_ext llmlab\n%llm compare tiny {options}\n")
    command = [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", str(source)]
    pictures = re.split(r"\x1b\[6A", in_terminal(command, 90))
    assert len(pictures) > 3 + 3
    assert re.search(r"a native .*? [▁-█]{4}  [▁-█]{2}·\r", pictures[-2])
    assert pictures[-1].startswith("\x1b[J  done")
