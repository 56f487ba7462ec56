"""What a model writes is text: it runs nothing, loads nothing, and moves no terminal's cursor."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab import cli, render
from llmlab.errors import RequestError, StartError, UsageError
from llmlab.notebook import cards
from llmlab.render import markdown
from llmlab.render.markdown import Blocked, safe_markdown
from llmlab.results import Answer, Logs
from tests.hostile import corpus

CANARY = "http://127.0.0.1:9"
HOSTILE = corpus(CANARY)
TAGS = frozenset(
    [
        "div",
        "span",
        "p",
        "br",
        "ul",
        "ol",
        "li",
        "blockquote",
        "em",
        "strong",
        "s",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "pre",
        "hr",
        "a",
        "details",
        "summary",
    ]
)
ATTRIBUTES = frozenset(
    [
        "style",
        "class",
        "role",
        "aria-level",
        "aria-hidden",
        "start",
        "href",
        "rel",
        "referrerpolicy",
        "target",
        "title",
    ]
)


def answer(text: str) -> Answer:
    return Answer(
        text=text,
        server="a",
        finish_reason="stop",
        ttft_s=0.1,
        total_s=1.0,
        prompt_tokens=3,
        completion_tokens=5,
        tokens_per_s=10.0,
    )


class Browser(HTMLParser):
    """What a browser would make of it; refuses every tag and attribute that could do something."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.starts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        given = {name: value or "" for name, value in attrs}
        assert set(given) <= ATTRIBUTES, given
        assert "url(" not in given.get("style", "")
        assert given.get("class", render.UNTYPESET) == render.UNTYPESET
        if tag == "a":
            assert given["target"] == "_blank"
            assert {"noopener", "noreferrer", "nofollow"} <= set(given["rel"].split())
            self.links.append(given["href"])
        if tag not in {"br", "hr"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        assert not [c for c in data if not c.isprintable() and c not in "\n\t\u00a0\u200d"]
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(data)


def seen(html: str) -> Browser:
    browser = Browser()
    browser.feed(html)
    browser.close()
    assert browser.open == []
    return browser


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_hostile_becomes_markup_as_markdown_or_as_text(name):
    text = HOSTILE[name]
    for html in (safe_markdown(text).html, answer(text).markdown().to_html(), answer(text).to_html()):
        for link in seen(html).links:
            assert urlsplit(link).scheme in {"http", "https", "mailto"}
            assert urlsplit(link).scheme == "mailto" or urlsplit(link).hostname
        assert len(html) < 3_000_000


@given(st.text(alphabet="[]()!<>`*_#-|:\n \\&;\"'$ahtp./1\t") | st.text())
def test_no_text_whatever_becomes_markup(text):
    for link in seen(safe_markdown(text).html).links:
        assert link.startswith(("http", "HTTP", "mailto", "Http")) or urlsplit(link).scheme in {
            "http",
            "https",
            "mailto",
        }


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if name.startswith(("image,", "many images")) and "HTML" not in name]
)
def test_an_image_is_not_loaded_but_told(name):
    found = safe_markdown(HOSTILE[name])
    assert any(each.kind == "image" for each in found.blocked)
    page = "".join(seen(found.html).texts)
    assert "image not loaded:" in page
    assert f"Blocked: {found.note}" in page
    for each in found.blocked[:20]:
        assert render.plain(each.address) in page, "its address is shown"


def test_what_is_blocked_is_counted_by_kind():
    found = safe_markdown("![a](x.png) ![b](y.png) [c](javascript:d) [e](https://example.org)")
    assert found.note == "2 images, 1 link"
    assert found.blocked == (
        Blocked("image", "x.png"),
        Blocked("image", "y.png"),
        Blocked("link", "javascript:d"),
    )
    assert safe_markdown("nothing").note == ""
    assert "Blocked" not in safe_markdown("nothing").html


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "/api/shutdown", "//evil.example/x",
        "vbscript:x", "ftp://example.org/", "#here", "https://bank.example@evil.example/", "https:evil.example",
        "https://bänk.example/", "https://evil.example\\@bank.example", "http:///x", "blob:https://a.b/c",
    ],
)  # fmt: skip
def test_a_link_that_could_do_something_else_is_text(address):
    found = safe_markdown(f"[words](<{address}>)")
    page = seen(found.html)
    assert page.links == []
    assert found.note == "1 link"
    assert "words" in "".join(page.texts)


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("https://example.org/a?b=c&d=e#f", "https://example.org/a?b=c&d=e#f"),
        ("http://127.0.0.1:80/x", "http://127.0.0.1:80/x"),
        ("mailto:me@example.org?subject=x", "mailto:me@example.org?subject=x"),
        ("https://example.org/Öl", "https://example.org/%C3%96l"),
    ],
)
def test_a_link_to_the_web_shows_where_it_leads(address, target):
    found = safe_markdown(f"[words](<{address}>)")
    page = seen(found.html)
    assert page.links == [target]
    assert "".join(page.texts) == f"words ({address})"
    assert found.blocked == ()


def test_a_link_that_says_where_it_leads_says_it_once():
    assert "".join(seen(safe_markdown("<https://example.org/>").html).texts) == "https://example.org/"


def test_what_markdown_is_for_is_shown():
    html = safe_markdown(
        "# Title\n\nA **bold** *word*, `code`.\n\n1. one\n2. two\n\n|a|b|\n|-|-|\n|1|2|\n"
    ).html
    assert 'role="heading" aria-level="1"' in html
    for tag in ("<strong>", "<em>", "<ol", "<li", "<table", "<th", "<td"):
        assert tag in html
    assert "<h1" not in html, "it is not a heading of the notebook"


def test_a_very_long_text_is_cut_with_a_note_on_the_rest():
    for html in (safe_markdown("x" * 1_250_000).html, answer("x" * 1_400_000).to_html()):
        text = "".join(seen(html).texts)
        assert "… 1.2 MB more" in text
        assert len(text) < 300_000
    assert " more" not in safe_markdown("x" * 100).html


def test_formulas_are_left_alone_by_mathjax_2_and_3():
    shown = answer(r"$\href{javascript:alert(1)}{x}$")
    for bundle in (
        shown._repr_mimebundle_(),
        shown.markdown()._repr_mimebundle_(),
        cards.answer_bundle(shown),
    ):
        assert bundle["text/html"].startswith('<div class="tex2jax_ignore mathjax_ignore">')
    assert "$\\" not in shown.markdown().to_html(), "and no dollar stands beside another in one text"


def test_without_the_library_the_text_is_shown_as_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    markdown._parser.cache_clear()
    try:
        assert not markdown.available()
        found = safe_markdown("**bold** <script>alert(1)</script>")
    finally:
        markdown._parser.cache_clear()
    text = "".join(seen(found.html).texts)
    assert text.startswith("**bold** <script>")
    assert "markdown-it-py" in text


def test_markdown_is_not_imported_before_it_is_shown():
    code = "import sys, llmlab.results; print('markdown_it' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_that_is_printed_moves_a_terminal(name, capsys):
    text = HOSTILE[name]
    said = answer(text)
    logs = Logs(name="a", lines=tuple(text.split("\n")))
    reply = cards.Reply("a")
    reply.add(text)
    shown = [
        str(said),
        str(said.markdown()),
        said._repr_mimebundle_()["text/plain"],
        cards.answer_bundle(said)["text/plain"],
        reply.bundle()["text/plain"],
        str(logs),
        logs._repr_mimebundle_()["text/plain"],
        repr(said),
        *RequestError(text)._render_traceback_(),
        *StartError("it did not come up", log_tail=text.split("\n"))._render_traceback_(),
        str(UsageError(text, hint=text)),
    ]
    reporter = cli.TerminalReporter(quiet=False)
    reporter.text(text.replace("\ud800", ""))
    printed = capsys.readouterr().out
    cli._print_json({"text": text})
    data = capsys.readouterr().out
    assert json.loads(data)["text"] == text
    for each in (*shown, printed, data):
        assert not [c for c in each if not c.isprintable() and c not in "\n\t\u00a0\u200d"]


def test_the_text_itself_stays_what_the_model_wrote():
    assert answer("\x1b[31m$x$").text == "\x1b[31m$x$"
    assert answer("![a](b)").markdown().to_dict()["blocked"] == [{"kind": "image", "address": "b"}]
