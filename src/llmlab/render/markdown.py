"""What a model wrote, as Markdown: made into HTML that can do nothing.

Markup of a model's own is never taken over. markdown-it-py only finds out what is a
heading and what is a list; the HTML is written here, of a few tags without any
attribute that the model could fill, but for the address of a link, and that is checked.

- HTML stays text.
- An image is not loaded, from nowhere: its words and its address are shown.
- A link goes to http, https or mailto, and its address is spelled out beside it.
  Every other one is text.
- Control characters and those that turn the direction of writing are made visible.
- MathJax, which knows links and scripts of its own, leaves it alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from llmlab.render.markup import html_note, html_untrusted
from llmlab.render.style import LINE, MUTED
from llmlab.render.texts import UNTYPESET, capped, plain

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MOST = 50_000
"""Characters that are shown; some texts take a parser of Markdown a second for so many already."""

_MOST_HTML = 2_000_000
_MOST_LISTED = 20
_DEEPEST = 20
# What a host may be made of: letters of other alphabets can look like those of this one.
_WEB = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?([/?#][!#-;=?-\[\]_a-z~]*)?", re.IGNORECASE | re.ASCII)
_MAIL = re.compile(r"mailto:[!#-;=?-\[\]_a-z~]+", re.IGNORECASE | re.ASCII)
# All that may stand in an address is left; quote() takes care of the rest.
_RESERVED = "%:/?#[]@!$&'()*+,;=~\\"
_CODE = "font-family:var(--jp-code-font-family, monospace);font-size:92%;overflow-wrap:anywhere"
_BOX = f"{_CODE};border:1px solid {LINE};border-radius:3px;padding:0 4px"
_CELL = f"border:1px solid {LINE};padding:3px 10px;text-align:left;vertical-align:top;white-space:normal"
# Each kind of token that has a tag, and nothing of the model's in it.
_TAGS = {
    "paragraph": ("p", "margin:0 0 8px;white-space:pre-wrap"),
    "bullet_list": ("ul", "margin:0 0 8px;padding-left:24px"),
    "ordered_list": ("ol", "margin:0 0 8px;padding-left:28px"),
    "list_item": ("li", "margin:2px 0"),
    "blockquote": ("blockquote", f"margin:0 0 8px;padding:0 0 0 12px;border-left:2px solid {LINE};{MUTED}"),
    "em": ("em", ""),
    "strong": ("strong", ""),
    "s": ("s", ""),
    "table": ("table", "border-collapse:collapse;margin:0 0 8px"),
    "thead": ("thead", ""),
    "tbody": ("tbody", ""),
    "tr": ("tr", "background:none"),
    "th": ("th", f"{_CELL};font-weight:600"),
    "td": ("td", _CELL),
}
_TIGHT = ("span", "white-space:pre-wrap")
_SIZES = ("130%", "120%", "110%", "105%", "100%", "100%")


@dataclass(frozen=True, slots=True)
class Blocked:
    """Something that a model wrote and that is not done.

    Attributes:
        kind: "image" or "link".
        address: Where it would have led.
    """

    kind: Literal["image", "link"]
    address: str


@dataclass(frozen=True, slots=True)
class Safe:
    """HTML that can be shown, whatever it was made of.

    Attributes:
        html: The HTML; a note at its end says what was blocked and left out.
        blocked: What was blocked, in its order.
    """

    html: str
    blocked: tuple[Blocked, ...] = ()

    @property
    def note(self) -> str:
        """What was blocked in a few words, such as "2 images, 1 link"; "" for nothing."""
        kinds = [each.kind for each in self.blocked]
        counts = [(kind, kinds.count(kind)) for kind in dict.fromkeys(kinds)]
        return ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts)


def available() -> bool:
    """Whether Markdown can be shown; text always can."""
    return _parser() is not None


def safe_markdown(text: str) -> Safe:
    """Make what a model wrote into HTML that runs nothing and loads nothing.

    Args:
        text: Markdown; not trusted. Of a very long one the beginning is shown.

    Returns:
        The HTML and what was blocked. Without markdown-it-py, the text as it is.
    """
    shown, more = capped(text.replace("\r\n", "\n"), MOST)
    parser = _parser()
    blocked: list[Blocked] = []
    html = ""
    if parser is not None:
        html = "".join(_written(parser.parse(shown), blocked))
    if parser is None or len(html) > _MOST_HTML:
        blocked.clear()
        html = f'<div style="white-space:pre-wrap">{_text(shown)}</div>'
    found = Safe(html_untrusted(html), tuple(blocked))
    notes = _list(found) if blocked else ""
    if parser is None:
        notes += html_note("shown as text: Markdown needs the package markdown-it-py")
    if more:
        notes += html_note(more)
    return Safe(found.html + notes, found.blocked)


@cache
def _parser() -> MarkdownIt | None:
    """The parser; None if the library is not there."""
    try:
        from markdown_it import MarkdownIt  # noqa: PLC0415 - only where Markdown is shown
    except ImportError:
        return None
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": _DEEPEST})
    parser.enable(["table", "strikethrough"])
    # Addresses are judged where they are written, so that none is passed over in silence.
    parser.validateLink = lambda url: True  # type: ignore[method-assign]  # noqa: ARG005 - called by that name
    parser.normalizeLink = lambda url: url  # type: ignore[method-assign]
    parser.normalizeLinkText = lambda link: link  # type: ignore[method-assign]
    return parser


def _written(tokens: Sequence[Token], blocked: list[Blocked]) -> Iterator[str]:
    """The HTML of blocks, piece by piece."""
    for token in tokens:
        if token.type == "inline":
            yield from _inline(token.children or (), blocked)
        elif token.type in {"fence", "code_block"}:
            yield f'<pre style="{_CODE};white-space:pre-wrap;margin:0 0 8px;padding:6px 10px;border:1px solid {LINE};border-radius:4px;background:none;color:inherit">{_text(token.content)}</pre>'
        elif token.type == "hr":
            yield f'<hr style="border:0;border-top:1px solid {LINE};margin:8px 0">'
        elif token.type == "heading_open":
            level = int(token.tag[1:])
            # No heading of the notebook's: those make its table of contents.
            yield f'<div role="heading" aria-level="{level}" style="font-weight:600;font-size:{_SIZES[level - 1]};margin:10px 0 4px">'
        elif token.type == "heading_close":
            yield "</div>"
        else:
            yield _tag(token)


def _inline(tokens: Sequence[Token], blocked: list[Blocked]) -> Iterator[str]:
    """The HTML of what stands within a block."""
    links: list[Callable[[], str]] = []
    for place, token in enumerate(tokens):
        if token.type == "image":
            yield _image(token, blocked)
        elif token.type == "link_open":
            address = str(token.attrs.get("href", ""))
            words = _words(tokens[place + 1 :])
            opened, closing = _link(address, words, blocked)
            links.append(closing)
            yield opened
        elif token.type == "link_close":
            yield links.pop()() if links else ""
        elif token.type in {"softbreak", "hardbreak"}:
            yield "<br>" if token.type == "hardbreak" else "\n"
        elif token.type == "code_inline":
            yield f'<span style="{_CODE};border-radius:3px;padding:0 3px;background:var(--jp-layout-color2, rgba(128, 128, 128, 0.18))">{_text(token.content)}</span>'
        elif token.nesting:
            yield _tag(token)
        else:
            yield _text(token.content)


def _tag(token: Token) -> str:
    """A tag without anything that the model could fill; the content as text where it has none."""
    kind = token.type.removesuffix("_open").removesuffix("_close")
    if kind not in _TAGS or not token.nesting:
        return _text(token.content)
    name, style = _TIGHT if token.hidden else _TAGS[kind]
    if token.nesting < 0:
        return f"</{name}>"
    start = token.attrs.get("start") if kind == "ordered_list" else None
    first = f' start="{start}"' if isinstance(start, int) else ""
    return f'<{name}{first} style="{style}">' if style else f"<{name}{first}>"


def _link(address: str, words: str, blocked: list[Blocked]) -> tuple[str, Callable[[], str]]:
    """What stands before a link's words, and what after them."""
    spelled = "" if words == address else f' <span style="{_CODE};{MUTED}">({_text(address)})</span>'
    target = quote(address, safe=_RESERVED)
    if not (_WEB.fullmatch(target) or _MAIL.fullmatch(target)):
        blocked.append(Blocked("link", address))
        return "<span>", lambda: f"</span>{spelled}"
    opened = f'<a href="{escape(target)}" rel="noopener noreferrer nofollow" referrerpolicy="no-referrer" target="_blank">'
    return opened, lambda: f"</a>{spelled}"


def _image(token: Token, blocked: list[Blocked]) -> str:
    address = str(token.attrs.get("src", ""))
    blocked.append(Blocked("image", address))
    words = _words(token.children or ())
    said = f"{_text(words)} " if words else ""
    return (
        f'<span role="note" style="{_BOX}"><span style="{MUTED}">image not loaded:</span> '
        f'{said}<span style="{MUTED}">{_text(address)}</span></span>'
    )


def _words(tokens: Sequence[Token]) -> str:
    """The text of tokens up to the end of the link that they stand in."""
    found = []
    for token in tokens:
        if token.type == "link_close":
            break
        found.append(_words(token.children or ()) if token.type == "image" else token.content)
    return "".join(found)


def _text(text: str) -> str:
    # Each dollar in an element of its own: who typesets formulas does not look beyond one.
    return escape(plain(text)).replace("$", "<span>$</span>")


def _list(found: Safe) -> str:
    """What was blocked, to be shown below."""
    listed = [f"{each.kind}: {plain(each.address)[:300]}" for each in found.blocked[:_MOST_LISTED]]
    if (left := len(found.blocked) - _MOST_LISTED) > 0:
        listed.append(f"and {left} more")
    items = "".join(f'<li style="{_CODE}">{_text(line)}</li>' for line in listed)
    return (
        f'<details class="{UNTYPESET}" style="{MUTED};font-size:90%;margin:2px 0"><summary style="cursor:pointer">'
        f'Blocked: {found.note}</summary><ul style="margin:2px 0">{items}</ul></details>'
    )
