"""Results as text and as HTML, with everything in them hostile."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab import render
from llmlab.results import Answer, Logs, Result, ServerList, ServerStatus, Stopped
from llmlab.results_dry_run import DryRun, Flag
from llmlab.results_isolation import Control, Inspection, Traffic
from llmlab.specs import to_dict
from tests import examples

EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></div></table><svg onload=alert(1)>",
    "&lt;b&gt; &amp; &#x3c;i>",
    "\x1b[2J\x1b]0;title\x07\x1b]52;c;Y29weQ==\x07",
    "\x9b31m C1 \x00\x08\x7f\r overwritten",
    "\u202eright to left\u2066 \ufeff \u200b",
    "lone \udcff surrogate",
    "naïve 机器 🦙 e\u0301",
    "two\nlines\ttab",
    "`code` **bold** ![image](http://x) $math$ {braces}",
    "",
    "x" * 100_000,
]  # fmt: skip


def answer(text: str = "A container.", **changes: Any) -> Answer:
    values: dict[str, Any] = {
        "text": text,
        "server": "a",
        "finish_reason": "stop",
        "ttft_s": 0.012,
        "total_s": 0.5,
        "prompt_tokens": 21,
        "completion_tokens": 9,
        "tokens_per_s": 1234.5,
    }
    return Answer(**{**values, **changes})


def status(text: str = "a", **changes: Any) -> ServerStatus:
    values: dict[str, Any] = {
        "name": text,
        "model": text,
        "engine": text,
        "backend": text,
        "state": "ready",
        "detail": text,
        "uptime_s": 61.0,
        "endpoint": text,
        "context": 1024,
        "slots": 4,
        "isolation": text,
    }
    return ServerStatus(**{**values, **changes})


def inspection(text: str = "a") -> Inspection:
    control = Control(name=text, asked=text, recorded=text, in_force=None, agrees=False)
    return Inspection(
        status=status(text),
        record=to_dict(examples.record(name=text, spec=examples.spec(model=examples.model(sha256=text)))),
        command=(text, "--model", text),
        isolation=(control, replace(control, recorded=None, agrees=None), replace(control, agrees=True)),
        facts={text or "label": text},
    )


def all_results(text: str) -> list[Result]:
    return [
        answer(text, server=text, finish_reason=text, neutralised=(text, text)),
        status(text),
        ServerList((status(text), status())),
        ServerList(()),
        inspection(text),
        Stopped(names=(text, "b")),
        Stopped(names=()),
        Logs(name=text, lines=(text, "", text)),
        Control(name=text, asked=text, recorded=None, in_force=None, agrees=None),
        Traffic(unknown=text),
        DryRun(
            name=text,
            backend=text,
            before=((text, "x"),),
            flags=(Flag(words=("run", text), why=text, cis=text), Flag(words=(text,), why=text)),
            after=(text,),
            notes=(text,),
        ),
    ]


class Strict(HTMLParser):
    """Collects what a browser would see, and refuses what llmlab never writes."""

    TAGS = frozenset(
        [
            "div",
            "span",
            "strong",
            "small",
            "table",
            "caption",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "pre",
            "code",
            "details",
            "summary",
        ]
    )
    ATTRIBUTES = frozenset({"style", "scope", "title", "aria-hidden", "class"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[str] = []
        self.titles: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.TAGS
        assert {name for name, _ in attrs} <= self.ATTRIBUTES
        self.titles += [value or "" for name, value in attrs if name == "title"]
        for name, value in attrs:
            assert name != "style" or "url(" not in (value or "")
            assert name != "class" or value == render.UNTYPESET
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)


def seen(html: str) -> str:
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return "".join(parser.texts)


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_nothing_hostile_becomes_markup(text):
    for result in all_results(text):
        seen(result.to_html())
    assert render.plain(text) in seen(answer(text).to_html())


@given(st.text() | st.text("<>&\"'/=!-abc[]? ").map("<".__add__))
def test_any_text_is_only_text(text):
    for result in all_results(text):
        seen(result.to_html())
    assert seen(render.html_text(text)) == text
    chips = [(text, text, text)]
    assert seen(render.html_answer(text, chips, busy=True)).startswith(render.plain(text))
    seen(render.html_card(text, render.html_pairs([(text, text)]), side=render.html_state(text)))
    seen(render.html_table((text, "state"), [(text, text)], caption=text))
    seen(render.html_progress(("now", text, text), [("failed", text, text, text)], notes=[text], python=text))


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_terminals_get_no_control_characters(text):
    for result in all_results(text):
        shown = result._repr_mimebundle_()["text/plain"]
        assert not [c for c in shown if not c.isprintable() and c not in "\n\t\u00a0\u200d"]
        shown.encode()


@given(st.text())
def test_plain_text_is_harmless_and_stays_so(text):
    shown = render.plain(text)
    assert all(c.isprintable() or c in "\n\t\u00a0\u200d" for c in shown)
    assert render.plain(shown) == shown


@pytest.mark.parametrize("text", ["plain", "naïve 机器 🦙 👩\u200d🔬", "two\nlines\ttab", "a\u00a0b", ""])
def test_plain_text_leaves_text_alone(text):
    assert render.plain(text) == text


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_results_are_json(text):
    for result in all_results(text):
        assert isinstance(json.loads(json.dumps(result.to_dict())), dict)


def test_logs_make_control_characters_visible():
    logs = Logs(name="a", lines=("\x1b[31mred", "next"))
    assert str(logs) == "\\x1b[31mred\nnext"


def test_table_rows_stay_rows():
    text = render.text_table(("name", "state"), [("a\nb", "x\r\n y"), ("c", "z")])
    assert text == "NAME   STATE\na b    x y\nc      z"
    assert render.text_table(("name",), []) == "NAME"


# Figures


UNKNOWN: dict[str, Any] = {
    "ttft_s": None,
    "prompt_tokens": None,
    "completion_tokens": None,
    "tokens_per_s": None,
    "client_tokens_per_s": None,
    "prompt_tokens_per_s": None,
    "cached_tokens": None,
}


def test_unknown_is_never_zero():
    found = answer(**UNKNOWN)
    assert found.summary() == "server a"
    assert "0" not in seen(found.to_html())
    assert "None" not in found.to_html()
    data = found.to_dict()
    assert {name: data[name] for name in UNKNOWN} == UNKNOWN


def test_unknown_controls_are_not_seen():
    html, text = seen(inspection().to_html()), str(inspection())
    for shown in (html, text):
        assert "unknown" in shown
        assert "DIFFERS" in shown
        assert "as recorded" in shown
        assert "None" not in shown


def test_figures_of_an_answer():
    found = answer(cached_tokens=5, neutralised=("<|im_end|>",), finish_reason="length")
    assert found.summary() == (
        "server a · TTFT 12 ms · generated 9 tokens, 1234 tokens/s · prompt 21 tokens, 5 cached"
        " · ended length · neutralised <|im_end|>"
    )
    assert str(found) == "A container."
    assert all(meaning for _, _, meaning in found.chips())


def test_tokens_without_a_rate():
    assert "generated 9 tokens ·" in answer(tokens_per_s=None).summary()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90_000, "25 h 0 min")]
)  # fmt: skip
def test_uptime(seconds, text):
    assert text in str(status(uptime_s=seconds))


def test_list_of_servers():
    servers = ServerList((status("b"), status("a")))
    assert [server.name for server in servers] == ["b", "a"]
    assert servers[0].name == "b"
    assert len(servers) == 2
    assert "llm start tiny" in seen(ServerList(()).to_html())
    assert str(ServerList(())).startswith("NAME")


def test_what_was_stopped():
    assert str(Stopped(names=("a", "b"))) == "stopped a, b"
    assert str(Stopped(names=())) == "nothing to stop"
