"""The live view of a watch, and of a recording: an anywidget that draws with uPlot."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextvars import copy_context
from functools import partial
from importlib import resources
from typing import Any
from weakref import WeakKeyDictionary

import traitlets
from anywidget import AnyWidget
from IPython.display import DisplayHandle, display

from llmlab import render
from llmlab.monitoring import Monitoring, Seen, Watch
from llmlab.notebook.feeds import Feed, RecordingFeed, WatchFeed

_VIEW = "application/vnd.jupyter.widget-view+json"
# The page is told of news at most so often; more nobody can see.
_PAUSE_S = 0.25
_WAIT_S = 1.0
_STATIC = resources.files("llmlab.notebook") / "static"


def _together(*names: str) -> str:
    return "\n".join((_STATIC / name).read_text(encoding="utf-8") for name in names)


class LiveView(AnyWidget):
    """What the page knows.

    Attributes:
        spec: What is drawn: series, charts, words.
        hist: All looks so far; up to date whenever a page asks for the state.
        requests: The newest requests; likewise.
        pages: How often a page has loaded it.
    """

    # Texts and not paths: the instances of a widget of paths are never freed.
    _esm = _together(
        "uPlot.iife.min.js",
        *(f"live_{part}.js" for part in ("data", "chart", "panel", "input", "controls", "view")),
        "live.js",
    )
    _css = _together("uPlot.min.css", "live.css")
    spec = traitlets.Dict().tag(sync=True)
    hist = traitlets.Bytes().tag(sync=True)
    requests: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def __init__(self, seen: Seen, feed: Feed) -> None:
        self.pages = 0
        self._seen = seen
        self._feed = feed
        self._handles: list[DisplayHandle] = []
        super().__init__(spec=feed.spec())
        self.on_msg(self._heard)

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - as ipywidgets has it
        """The state for a page that loads it: with all that was seen until now."""
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        if "hist" in state:
            state["hist"] = memoryview(self._feed.history())
        if "requests" in state:
            state["requests"] = self._feed.requests()
        return state

    def show(self) -> None:
        """Show it in the present cell."""
        # Where there is no kernel any more, readers of the file take what stands beside the view.
        view = {_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.model_id}}
        handle = display({**_picture(self._seen), **view}, raw=True, display_id=True)
        if handle is not None:
            self._handles.append(handle)

    def run(self, watch: Watch, feed: WatchFeed) -> None:
        """Tell the page what is new until the watch is over; in a thread of its own."""
        looks = 0
        while watch.running and self.comm is not None:
            looks = watch.wait(looks, _WAIT_S)
            if feed.grown():
                self.spec = feed.spec()
                self.send({"t": "history"}, [feed.history()])
            elif news := feed.news():
                self.send(news[0], [news[1]])
            if asked := feed.new_requests():
                self.send({"t": "requests", "items": asked})
            time.sleep(_PAUSE_S)

    def finish(self) -> None:
        """It is over: put the picture in the place of the view, in the page and in the file."""
        self.spec = self._feed.spec()
        self.send({"t": "history"}, [self._feed.history()])
        for handle in self._handles:
            handle.update(_picture(self._seen), raw=True)
        if self.pages <= 1:
            self.close()
        # Else a page was loaded anew, which no update reaches: it keeps the view, with what it holds.

    def _heard(self, _: Any, content: Mapping[str, Any], __: Any) -> None:
        match content.get("t"):
            case "hello":
                self.pages += 1
            case "need":
                self.send({"t": "history"}, [self._feed.history()])
            case "stop" if isinstance(self._seen, Watch):
                self._seen.lost("stopped")


_views: WeakKeyDictionary[Watch, LiveView] = WeakKeyDictionary()


def show(seen: Watch | Monitoring) -> None:
    """Show a watch that goes on, or a recording; the same watch in two cells is one view.

    Args:
        seen: What to show.
    """
    if isinstance(seen, Monitoring):
        LiveView(seen, RecordingFeed(seen)).show()
        return
    view = _views.get(seen)
    if view is None:
        feed = WatchFeed(seen)
        view = _views[seen] = LiveView(seen, feed)
        # With the context of this cell: what a thread sends belongs to a cell, too.
        run = partial(copy_context().run, view.run, seen, feed)
        threading.Thread(target=run, name="llmlab view", daemon=True).start()
        view.show()
        seen.when_over(partial(_finish, seen))
    else:
        view.show()


def _finish(watch: Watch) -> None:
    if view := _views.pop(watch, None):
        view.finish()


def _picture(seen: Seen) -> dict[str, str]:
    """What is seen without the view; of a watch that goes on, that it did when the file was written."""
    if isinstance(seen, Watch) and seen.running:
        words = "It was still going on when this was saved; stopping it leaves a picture here."
        return render.bundle(f"{seen!r}\n{words}", render.html_card("monitor", render.html_text(words)))
    return render.bundle(str(seen), seen.to_html())
