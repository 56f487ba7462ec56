"""A conversation in a cell: an anywidget."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from importlib import resources
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import traitlets
from anywidget import AnyWidget
from IPython.display import DisplayHandle, display

from llmlab import render
from llmlab.chatting import Chat, Exchange, Reply
from llmlab.errors import AskInterrupted, LabError, UsageError
from llmlab.render import markdown
from llmlab.reporting import Repainter, Reporter, reporting_to

_VIEW = "application/vnd.jupyter.widget-view+json"
_PAUSE_S = 0.1
_STATIC = resources.files("llmlab.notebook") / "static"
_SETTINGS = ("system", "temperature", "top_p", "max_tokens", "seed", "probabilities")


class ChatView(AnyWidget):
    """What the page knows of a conversation; a widget that can stand in others.

    Any number of views of one `Chat` agree with each other, and with `chat.say()`.

    Args:
        chat: The conversation.

    Attributes:
        spec: Whom with, how it is asked, whether an answer is being written.
        items: All exchanges so far; up to date whenever a page asks for the state.
        pages: How often a page has loaded it since it was shown.
    """

    # Texts and not paths: the instances of a widget of paths are never freed.
    _esm = "\n".join((_STATIC / name).read_text(encoding="utf-8") for name in ("chat_reply.js", "chat.js"))
    _css = (_STATIC / "chat.css").read_text(encoding="utf-8")
    spec = traitlets.Dict().tag(sync=True)
    items: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._key = uuid4().hex
        self._transcripts: list[DisplayHandle] = []
        self._written = 0
        self.pages = 0
        self._told: list[tuple[Exchange, list[tuple[str, int]]]] = []  # of each reply: state and length
        super().__init__(spec=self._spec())
        self._turn = threading.Lock()  # of who tells the page
        self._painter = Repainter(self._tell, pause_s=_PAUSE_S, tick_s=3600.0, owner=threading.main_thread())
        self._leave = chat.listen(self._painter.changed)
        self.on_msg(self._heard)
        self._painter.changed()

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - as ipywidgets has it
        """The state for a page that loads it: with all that was said until now."""
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        if "items" in state:
            state["items"] = [_exchange(each) for each in self._chat.exchanges]
        return state

    def show(self) -> None:
        """Show it in the present cell, above what a reader of the file sees: the conversation as it stands."""
        # The page hides that as long as it has the view.
        handle = display(self._transcript(), raw=True, display_id=True)
        if handle is not None:
            self._transcripts.append(handle)
        self.pages = 0
        words = f"The chat with {' and '.join(self._chat.names)} goes on in a notebook with a kernel."
        view = {_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.model_id}}
        display({**render.bundle(words, render.html_small(words)), **view}, raw=True)

    def close(self) -> None:
        """Take it out of the page; the conversation stays."""
        if not self._painter_closed():
            self._leave()
            self._painter.close()
        super().close()

    def _painter_closed(self) -> bool:
        return not hasattr(self, "_painter") or self.comm is None

    def _transcript(self) -> dict[str, str]:
        html = f'<div data-llmlab-chat="{self._key}">{self._chat.to_html()}</div>'
        return render.bundle(str(self._chat), html)

    def _spec(self) -> dict[str, Any]:
        settings = asdict(self._chat.settings)
        servers = [
            {"name": server.name, "model": server.record.spec.model.reference}
            for server in self._chat.servers
        ]
        return {
            "key": self._key,
            "servers": servers,
            "settings": {name: settings[name] for name in _SETTINGS},
            "busy": self._chat.busy,
            "markdown": markdown.available(),
            # No update reaches an output of a page that was loaded anew.
            "unsaved": bool(self._transcripts) and self.pages > 1,
        }

    def _tell(self) -> None:
        """Tell the page what is new; in a thread of its own, ten times a second at most."""
        with self._turn:
            exchanges = self._chat.exchanges
            if [each for each, _ in self._told] != list(exchanges[: len(self._told)]):
                self._told = [(each, _lengths(each)) for each in exchanges]
                self.send({"t": "items", "items": [_exchange(each) for each in exchanges]})
            for number, exchange in enumerate(exchanges):
                if number == len(self._told):
                    self._told.append((exchange, _lengths(exchange)))
                    self.send({"t": "began", "n": number, "item": _exchange(exchange)})
                else:
                    self._tell_replies(number, exchange)
            self.spec = self._spec()
            over = sum(exchange.over for exchange in exchanges)
            if over != self._written and not self._chat.busy:
                self._written = over
                for handle in self._transcripts:
                    handle.update(self._transcript(), raw=True)

    def _tell_replies(self, number: int, exchange: Exchange) -> None:
        told = self._told[number][1]
        for column, reply in enumerate(exchange.replies):
            before, length = told[column]
            state, text = reply.state, reply.text
            if state != before:
                told[column] = (state, len(text))
                self.send({"t": "reply", "n": number, "c": column, "reply": _reply(reply)})
            elif len(text) > length and not reply.over:
                told[column] = (state, len(text))
                piece = render.plain(text[length:])
                self.send({"t": "append", "n": number, "c": column, "text": piece})

    def _heard(self, _: Any, content: Mapping[str, Any], __: Any) -> None:
        """A button, or the page itself; returns at once."""
        try:
            match content.get("t"):
                case "hello" | "need" as asked:
                    self.pages += asked == "hello"
                    self._painter.changed()
                    self.send({"t": "items", "items": [_exchange(each) for each in self._chat.exchanges]})
                case "say":
                    if self._chat.busy:
                        raise UsageError("an answer is still being written", hint="wait for it, or stop it")
                    say = partial(self._say, str(content.get("text", "")))
                    threading.Thread(target=say, name="llmlab chat", daemon=True).start()
                case "stop":
                    self._chat.stop()
                case "clear":
                    self._chat.clear()
                case "set":
                    changes = dict(content.get("settings") or {})
                    self._chat.set(**{name: changes[name] for name in _SETTINGS if name in changes})
                case "export":
                    self._export(str(content.get("as")))
        except LabError as error:
            self.send({"t": "refused", "text": str(error)})

    def _say(self, text: str) -> None:
        try:
            with reporting_to(Reporter()):
                self._chat.say(text)
        except (LabError, AskInterrupted) as error:
            # What has become of an answer stands in the answer.
            if isinstance(error, UsageError):
                self.send({"t": "refused", "text": str(error)})

    def _export(self, kind: str) -> None:
        """Hand the conversation to the page, which offers it as a file."""
        import json  # noqa: PLC0415

        text = self._chat.to_markdown() if kind == "md" else json.dumps(self._chat.to_dict(), indent=1)
        name = f"chat-{'-'.join(self._chat.names)}-{time.strftime('%Y%m%d-%H%M%S')}.{kind}"
        self.send({"t": "exported", "name": name, "text": text})


def _lengths(exchange: Exchange) -> list[tuple[str, int]]:
    return [(reply.state, len(reply.text)) for reply in exchange.replies]


def _exchange(exchange: Exchange) -> dict[str, Any]:
    return {"prompt": render.plain(exchange.prompt), "replies": [_reply(reply) for reply in exchange.replies]}


def _reply(reply: Reply) -> dict[str, Any]:
    """All that the page needs of a reply. Its HTML is safe; everything else is text."""
    text, more = render.capped(reply.shown())
    found: dict[str, Any] = {
        "server": reply.server,
        "state": reply.state,
        "text": f"{text}\n{more}" if more else text,
        "note": render.plain(reply.note),
        "seen": reply.seen_stopped,
    }
    if not reply.over:
        return found
    tokens = (reply.answer and reply.answer.tokens) or ()
    return found | {
        "html": _html(reply),
        "chips": [chip for chip in reply.chips() if chip[0] != "server"],
        "tokens": [
            [render.plain(each.text), each.probability, [[render.plain(t), p] for t, p in each.likeliest]]
            for each in tokens
        ],
    }


def _html(reply: Reply) -> str:
    noise = reply.answer is not None and reply.answer.synthetic
    return markdown.safe_markdown(reply.shown() if noise else reply.text).html if markdown.available() else ""


_views: WeakKeyDictionary[Chat, ChatView] = WeakKeyDictionary()


def show(chat: Chat) -> None:
    """Show a conversation in the present cell; in a second cell it is the same.

    Args:
        chat: The conversation.
    """
    view = _views.get(chat)
    if view is None:
        view = _views[chat] = ChatView(chat)
    view.show()
