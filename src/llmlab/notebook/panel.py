"""The control panel: an anywidget that shows what the registry says, and begins what is clicked.

It owns nothing. One thread reads the registry while a page shows the panel, and is the
only one that tells the page; what is clicked runs in a thread of its own (`panel_jobs`).
A kernel has one panel, which may be shown in several cells.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import asdict
from functools import partial
from importlib import resources
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
import traitlets
from anywidget import AnyWidget
from IPython.core.getipython import get_ipython
from IPython.display import DisplayHandle, display

from llmlab import lab, render
from llmlab.errors import LabError, UsageError
from llmlab.notebook.panel_desk import VERBS_OF_SERVERS, Desk
from llmlab.notebook.panel_reading import Reading
from llmlab.paneling import Form, Panel, saved

_VIEW = "application/vnd.jupyter.widget-view+json"
_STATIC = resources.files("llmlab.notebook") / "static"
_TICK_S = 1.0
_REGISTRY_EVERY = 2  # ticks
_QUIET_EVERY = 5  # ticks: where there is nothing to tell, that it goes on
_PAUSE_S = 0.1  # the page is told of news at most so often
# A page that shows it says so every 5 s; one that was closed or has gone to sleep says nothing.
_SILENT_S = 16.0


def _script() -> str:
    names = (*(f"panel_{part}" for part in ("parts", "start", "running", "results")), "panel")
    return "\n".join((_STATIC / f"{name}.js").read_text(encoding="utf-8") for name in names)


class PanelView(AnyWidget):
    """What the page knows.

    Attributes:
        token: Marks the static forms of it in the file, which the page hides while it lives.
        known: Models, and the condition of this machine.
        servers: The servers, as the registry has them.
        starting: The start that goes on, or the last one; {} if there is none.
        results: What was asked for by click, newest first.
        remarks: What happened without anybody's click here.
        trouble: Why the servers cannot be listed, "" if they can.
        area: Where the widgets of others are shown: chats.
        box: Both together.
    """

    # Texts and not paths: the instances of a widget of paths are never freed.
    _esm = _script()
    _css = (_STATIC / "panel.css").read_text(encoding="utf-8")
    token = traitlets.Unicode().tag(sync=True)
    known = traitlets.Dict().tag(sync=True)
    servers: traitlets.List[Any] = traitlets.List().tag(sync=True)
    starting = traitlets.Dict().tag(sync=True)
    results: traitlets.List[Any] = traitlets.List().tag(sync=True)
    remarks: traitlets.List[Any] = traitlets.List().tag(sync=True)
    trouble = traitlets.Unicode().tag(sync=True)

    def __init__(self) -> None:
        super().__init__(token=secrets.token_hex(4))
        self.area = ipywidgets.VBox([], layout={"width": "100%"})
        self.box = ipywidgets.VBox([self, self.area], layout={"width": "100%"})
        self._chats: dict[str, Any] = {}  # server → its block in the area
        self._news = threading.Event()
        self._reading = Reading()
        self._desk = Desk(self._news.set)
        self._pages: dict[str, float] = {}  # view → when it last said that it is seen
        self._checks: dict[str, int] = {}  # view → number of its newest form
        self._busy = False
        self._guard = threading.RLock()
        self._thread: threading.Thread | None = None
        self._context = copy_context()
        self._unsaved: list[Context] = []  # of cells that have no static form yet
        self._handles: list[DisplayHandle] = []
        self.on_msg(self._heard)

    def show(self) -> None:
        """Show it in the present cell."""
        self._context = copy_context()
        self._unsaved.append(copy_context())
        view = {_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}}
        text = "llmlab's control panel; in a running notebook, %llm panel shows it."
        display({"text/plain": text, **view}, raw=True)

    # What the page says. Every answer comes at once: long work is done in threads.

    def _heard(self, _: Any, content: Mapping[str, Any], __: Any) -> None:
        what, view, name = (str(content.get(key, "")) for key in ("t", "view", "server"))
        if what == "seen":
            self._seen(view, on=bool(content.get("on")), new=bool(content.get("new")))
            return
        if what in VERBS_OF_SERVERS:
            self._begin(what, name)
        elif what in {"cancel", "close"}:
            getattr(self._desk, what)(content.get("id"))
        elif what == "dismiss":
            self._desk.dismiss(str(content.get("text")))
        elif what == "look":
            self._apart(self._reading.read_machine)
        elif what == "chat":
            self._apart(partial(self._chat, name))
        elif what == "start":
            self._desk.start(_form(content))
        elif what == "form":
            self._checks[view] = int(content.get("n", 0))
            self._apart(partial(self._check, view, self._checks[view], _form(content)))
        self.send({"t": "heard", "view": view, "what": what, "server": name})
        self._news.set()

    def _seen(self, view: str, *, on: bool, new: bool) -> None:
        """A page shows it, or does so no more."""
        with self._guard:
            if on:
                self._pages[view] = time.monotonic()
            else:
                self._pages.pop(view, None)
            if on and (self._thread is None or not self._thread.is_alive()):
                run = partial(self._context.copy().run, self._run)
                self._thread = threading.Thread(target=run, name="llmlab panel", daemon=True)
                self._thread.start()
        if new:
            self.send(self._reading.history())

    def _begin(self, verb: str, name: str) -> None:
        server = next((each for each in self._reading.servers if each["name"] == name), None)
        if server is None:
            self._desk.remark(f"{name} is not running any more.")
        else:
            self._desk.run(verb, server)

    def _apart(self, work: Callable[[], None]) -> None:
        """Do something in a thread; what goes wrong is shown."""

        def run() -> None:
            try:
                work()
            except LabError as error:
                self._desk.remark(f"{error.message}. {error.hint}".strip())
            except Exception as error:  # noqa: BLE001 - a thread has nobody else to tell
                self._desk.remark(f"{type(error).__name__}: {error}")
            self._news.set()

        context = self._context.copy()
        threading.Thread(target=partial(context.run, run), name="llmlab panel", daemon=True).start()

    def _check(self, view: str, number: int, form: Form) -> None:
        """Tell a form's lines at once, and then whether it would go."""
        found: dict[str, Any] = {"t": "checked", "view": view, "n": number, "magic": "", "python": ""}
        with suppress(UsageError):
            call = form.call()
            found |= {"magic": call.magic(), "python": call.python()}
            self.send({**found, "verdict": "…"})
        if self._checks.get(view) == number:  # else it was changed meanwhile
            checked = form.check()
            self.send({**found, **asdict(checked)})

    def _chat(self, name: str) -> None:
        """Open a chat with a server below the panel; the one that is open comes to the top."""
        from llmlab.chatting import Chat  # noqa: PLC0415 - only for who asks for it
        from llmlab.notebook.chat import ChatView  # noqa: PLC0415 - likewise

        with self._guard:
            block = self._chats.get(name)
            if block is None:
                chat = ChatView(Chat(lab.attach(name)))
                close = ipywidgets.Button(
                    description="Close chat",
                    tooltip=f"Close the chat with {name}; the server goes on",
                    layout={"width": "auto"},
                )
                bar = ipywidgets.HBox([close], layout={"justify_content": "flex-end"})
                block = self._chats[name] = ipywidgets.VBox([bar, chat], layout={"width": "100%"})
                close.on_click(partial(self._close_chat, name, (block, bar, close, chat)))
            self.area.children = (block, *(each for each in self.area.children if each is not block))

    def _close_chat(self, name: str, widgets: tuple[ipywidgets.Widget, ...], _: Any) -> None:
        with self._guard:
            self._chats.pop(name, None)
            self.area.children = tuple(each for each in self.area.children if each is not widgets[0])
        # All of them: a page that loads one whose part is gone shows no widget at all.
        for widget in widgets:
            widget.close()

    # What the page is told, by one thread as long as it is seen.

    def _run(self) -> None:
        tick = 0
        with _following(self._follow):
            while self._shown():
                if tick == 0:
                    self._apart(self._reading.read_machine)
                self._read(tick)
                self._tell()
                self._wait()
                tick += 1
            self._reading.close()

    def _shown(self) -> bool:
        """Whether a page shows it; while a cell runs, what pages say is not heard."""
        with self._guard:
            now = time.monotonic()
            if self._busy:
                self._pages = dict.fromkeys(self._pages, now)
            self._pages = {view: at for view, at in self._pages.items() if now - at < _SILENT_S}
            if self._pages and self.comm is not None:
                return True
            self._thread = None  # the next page begins another one
            return False

    def _follow(self, busy: bool) -> None:  # noqa: FBT001 - the state of the kernel
        with self._guard:
            self._busy = busy
            self._pages = dict.fromkeys(self._pages, time.monotonic())

    def _read(self, tick: int) -> None:
        if self._desk.measuring:
            self._reading.close()
            return
        if tick % _REGISTRY_EVERY == 0:
            gone, changed = self._reading.read_servers()
            for server in gone:
                self._desk.gone(server)
            if changed:
                self._apart(self._reading.read_models)
            if self._reading.known and (changed or self._unsaved):
                self._save()
        if figures := self._reading.figures():
            self.send(figures)
        elif tick % _QUIET_EVERY == 0:
            self.send({"t": "alive"})

    def _tell(self) -> None:
        """Send what has changed; traits that are equal send nothing."""
        shown = self._desk.shown()
        stopping = shown.pop("stopping")
        reading = self._reading
        self.known, self.trouble = reading.known, reading.trouble
        self.servers = [{**each, "stopping": each["name"] in stopping} for each in reading.servers]
        for name, value in shown.items():
            setattr(self, name, value)

    def _wait(self) -> None:
        """Until the next look, telling meanwhile what the jobs report."""
        end = time.monotonic() + _TICK_S
        over = self._desk.over
        while (left := end - time.monotonic()) > 0:
            if self._news.wait(left):
                self._news.clear()
                time.sleep(_PAUSE_S)
                if self._desk.over - over:
                    over = self._desk.over
                    self._read(_REGISTRY_EVERY)  # a server may have come or gone
                self._tell()

    def _save(self) -> None:
        """Leave what runs in the file, in an output of its own: the page hides it while the panel lives."""
        with self._guard:
            contexts, self._unsaved = self._unsaved, []
        text, html = saved(lab.ps(), self._reading.conditions, time.time())
        bundle = render.bundle(text, f'<div class="llmlab-panel-saved-{self.token}">{html}</div>')
        for handle in self._handles:
            handle.update(bundle, raw=True)
        for context in contexts:
            handle = context.run(partial(display, bundle, raw=True, display_id=True))
            if handle is not None:
                self._handles.append(handle)


def _form(content: Mapping[str, Any]) -> Form:
    return Form({str(name): str(value) for name, value in dict(content.get("values") or {}).items()})


@contextmanager
def _following(told: Callable[[bool], None]) -> Iterator[None]:
    """Tell whether the kernel runs a cell."""
    shell: Any = get_ipython()
    events = {"pre_execute": partial(told, True), "post_execute": partial(told, False)}
    for name, event in events.items():
        shell.events.register(name, event)
    try:
        yield
    finally:
        for name, event in events.items():
            shell.events.unregister(name, event)


_panel: PanelView | None = None


def show(_: Panel) -> None:
    """Show the panel of this kernel."""
    global _panel  # noqa: PLW0603 - a kernel has one
    if _panel is None or _panel.comm is None:
        _panel = PanelView()
    _panel.show()
