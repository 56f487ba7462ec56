"""An answer of 1000 pieces at 100 a second in JupyterLab in Chromium: `%llm ask` and the chat, against `print`.

A server of this process sends the pieces, numbered, evenly and over a unix socket. Each side runs in a
page and a kernel of its own, in turns with and without something in the page that notes which pieces
it has. All three read the answer by `Server.send`; `print` is `print(piece, end="", flush=True)`, and
`idle` is a cell that sleeps as long.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import examples, scripted_server
from tests.jupyterlab import RUN_CELL, jupyterlab, notebook, opened

from bench import common
from bench.live import _metrics
from llmlab import runtime
from llmlab.specs import Endpoint

_PIECES = int(os.environ.get("LLMLAB_BENCH_ANSWERING_PIECES", "1000"))
_RATE = 100.0
_ROUNDS = 3
_WARM_PIECES = 30
_NAME = "paced"

# The kernel notes when each piece came, before anybody is told of it.
_BEFORE = f"""
%load_ext llmlab
import json, os, time, llmlab
from pathlib import Path
server, send = llmlab.attach("{_NAME}"), llmlab.Server.send
def noted(self, request, on_text, cancel=None):
    arrived = []
    def piece(text):
        arrived.append(time.time())
        on_text(text)
    answer = send(self, request, piece, cancel)
    Path("arrived.json").write_text(json.dumps(arrived))
    return answer
llmlab.Server.send = noted
"""
_RUNS = 2 * _ROUNDS + 1  # the first one is short and warms up
_SIDES = {
    "ask": [_BEFORE, *[f'%llm ask {_NAME} "Go on"'] * _RUNS],
    "chat": [f"{_BEFORE}%llm chat {_NAME}"],
    "print": [
        _BEFORE,
        *['server.send(server.request("Go on"), lambda text: print(text, end="", flush=True));'] * _RUNS,
    ],
    "idle": [_BEFORE, *[f"time.sleep({_PIECES / _RATE})"] * _RUNS],
}
# Notes which piece is the last one in the page, in each frame that draws another.
_OBSERVE = """place => {
    const root = [...document.querySelectorAll(place)].at(-1);
    const seen = window.seen = [];
    let waiting = false;
    const look = now => {
        waiting = false;
        const body = [...root.querySelectorAll('.llmlab-c-body')].at(-1) ?? root; // of a chat, the last answer
        const text = body.textContent, at = text.lastIndexOf('#');
        if (at >= 0) seen.push([performance.timeOrigin + performance.now(), Number(text.slice(at + 1, at + 5))]);
    };
    const changed = () => { if (!waiting) { waiting = true; requestAnimationFrame(look); } };
    window.observer?.disconnect();
    window.observer = new MutationObserver(changed);
    window.observer.observe(root, {childList: true, subtree: true, characterData: true});
}"""
_SAY = """count => new Promise(resolve => {
    const view = document.querySelector('.llmlab-chat');
    const input = view.querySelector('.llmlab-c-input');
    input.value = 'Go on';
    input.dispatchEvent(new Event('input'));
    const observer = new MutationObserver(() => {
        if (view.querySelectorAll(".llmlab-c-reply[data-state='done']").length < count) return;
        observer.disconnect();
        resolve('ran');
    });
    observer.observe(view, {subtree: true, childList: true, attributeFilter: ['data-state']});
    view.querySelector('.llmlab-c-send').click();
})"""


def run() -> dict[str, Any]:
    """Measure each side."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("  not measured: no chromium on PATH")
        return {"not_measured": "no chromium"}
    with _paced():
        found: dict[str, Any] = {side: _measured(browser, side) for side in _SIDES}
    for side in ("ask", "chat"):
        ratios = {
            key: round(found[side][key]["median"] / found["print"][key]["median"], 3)
            for key in ("messages", "bytes", "main_percent", "late_ms_median", "late_ms_p95")
        }
        found[f"{side} over print"] = ratios
        print(f"  {side} over print: {ratios}", flush=True)
    return {
        "pieces": _PIECES,
        "pieces_per_s": _RATE,
        "definitions": {
            "messages": "frames of the page's WebSockets that came while the answer did, all of them",
            "bytes": "the bytes of those frames",
            "main_percent": "the page's TaskDuration over the time of the answer, with nothing that observes",
            "late_ms": "of each piece, from its arrival in the kernel to the frame of the page that draws it",
        },
        **found,
    }


def _events(count: int) -> Iterator[bytes]:
    """An answer as an engine streams it; each piece has its number."""
    for number in range(count):
        event = {"choices": [{"index": 0, "delta": {"content": f" #{number:04d}"}, "finish_reason": None}]}
        yield f"data: {json.dumps(event)}\n\n".encode()
    last = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": count},
    }
    yield f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode()


def _evenly(count: int) -> scripted_server.Reply:
    """One piece after the other, each at its moment, however late the one before it was."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(scripted_server.CHUNKED)
        began = time.monotonic()
        for number, event in enumerate(_events(count)):
            time.sleep(max(0.0, began + number / _RATE - time.monotonic()))
            connection.sendall(scripted_server.chunk(event))
        connection.sendall(scripted_server.END)

    return reply


@contextmanager
def _paced() -> Iterator[None]:
    """A server that is in the registry, as a native one of this process."""
    with runtime.claim(_NAME) as claim:
        claim.socket.parent.mkdir(mode=0o700, exist_ok=True)
        with scripted_server.scripted(claim.socket) as script:
            script.replies = defaultdict(lambda: scripted_server.answer(404, b"{}"))
            script.replies["/health"] = scripted_server.answer(200, b'{"status":"ok"}')
            script.replies["/slots"] = scripted_server.answer(200, b"[]")
            answers = [_evenly(_WARM_PIECES), *[_evenly(_PIECES)] * (_RUNS - 1)]
            script.replies["/v1/chat/completions"] = scripted_server.in_turn(answers * (len(_SIDES) - 1))
            process = runtime.process(os.getpid())
            record = examples.record(
                name=_NAME, endpoint=Endpoint(socket=claim.socket), process=process, created=time.time()
            )
            claim.write(record)
            try:
                yield
            finally:
                # Before anybody stops what is in the registry: that is this process.
                claim.remove()


def _measured(browser: str, side: str) -> dict[str, Any]:
    """One side in a page and a kernel of its own."""
    cells = _SIDES[side]
    place = ".llmlab-c-log" if side == "chat" else ".jp-CodeCell .jp-OutputArea"
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answering.ipynb"
        path.write_text(notebook("\n---\n".join(cells)))
        with (
            jupyterlab(Path(folder), theme="Light") as address,
            opened(address, path.name, browser, cells=len(cells)) as page,
        ):
            received: list[int] = []
            session = page.context.new_cdp_session(page)
            session.send("Network.enable")
            session.on("Network.webSocketFrameReceived", lambda event: received.append(_size(event)))
            session.send("Performance.enable")
            page.locator(".jp-Notebook .jp-Cell").first.click()
            page.evaluate(RUN_CELL, 60_000)
            for number in range(_RUNS):
                page.wait_for_timeout(1500)
                observed = number % 2 == 1 and side != "idle"
                if observed:
                    page.evaluate(_OBSERVE, _nth(place, number + 1) if side != "chat" else place)
                before, sizes = _metrics(session), len(received)
                done = page.evaluate(_SAY, number + 1) if side == "chat" else page.evaluate(RUN_CELL, 60_000)
                after, sizes_of = _metrics(session), received[sizes:]
                errors = page.locator("[data-mime-type*=stderr], [data-mime-type*=error]").all_inner_texts()
                assert (done, errors) == ("ran", []), f"{side}: {done} {errors}"
                if number == 0:
                    continue
                elapsed = after["Timestamp"] - before["Timestamp"]
                one = {
                    "messages": len(sizes_of),
                    "bytes": sum(sizes_of),
                    "main_percent": 100 * (after["TaskDuration"] - before["TaskDuration"]) / elapsed,
                    "seconds": elapsed,
                }
                if observed:
                    page.wait_for_timeout(500)
                    late = _late(
                        json.loads((Path(folder) / "arrived.json").read_text()), page.evaluate("window.seen")
                    )
                    one = {
                        "late_ms_median": statistics.median(late),
                        "late_ms_p95": common.percentile(late, 95),
                    }
                    page.evaluate("window.observer.disconnect()")
                runs.append(one)
    keys = dict.fromkeys(key for one in runs for key in one)
    found = {key: common.spread([one[key] for one in runs if key in one], 1) for key in keys}
    print(f"  {side}: { {key: each['median'] for key, each in found.items()} }", flush=True)
    return found


def _nth(place: str, number: int) -> str:
    """The same of one cell."""
    return place.replace(".jp-CodeCell", f".jp-Cell:nth-child({number + 1})")


def _late(arrived: list[float], seen: list[list[float]]) -> list[float]:
    """How long after its arrival each piece was drawn, in milliseconds."""
    late: list[float] = []
    looks = iter(seen)
    at, last = next(looks)
    for number, moment in enumerate(arrived):
        while last < number:
            at, last = next(looks)
        late.append(at - 1000 * moment)
    return late


def _size(event: Any) -> int:
    response = event["response"]
    payload = response["payloadData"]
    # Binary frames come as base64.
    return len(payload) * 3 // 4 if response["opcode"] == 2 else len(payload)  # noqa: PLR2004 - binary
