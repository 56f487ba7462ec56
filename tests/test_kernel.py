"""`%llm` in a real kernel: streaming, interrupts, restarts, as a front-end sees them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

import pytest
from jupyter_client.manager import KernelManager, start_new_kernel

import llmlab
from llmlab.testing.hub import Fault, Hub
from llmlab.weights import store
from tests import test_builds
from tests.conftest import eventually
from tests.faults.contract import promise
from tests.test_audit import left_of_audits

PATIENCE_S = 60

# The kernel interrupts itself at a known piece of the answer: a signal from
# outside would come before or after it as often as not.
INTERRUPT_AT_PIECE_5 = """
import os, signal
from llmlab.reporting import reporter
shown, pieces = reporter().text, []
def text(piece):
    shown(piece)
    pieces.append(piece)
    if len(pieces) == 5:
        os.kill(os.getpid(), signal.SIGINT)
reporter().text = text
"""


@dataclass
class Cell:
    """What a cell sent: outputs in their final state, and the messages that led there."""

    reply: dict[str, Any] = field(default_factory=dict)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    updates: int = 0
    displays: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return bool(self.reply["status"] == "ok")

    def texts(self, kind: str) -> list[str]:
        """The texts of all outputs of a kind."""
        found = [output for output in self.outputs if output["kind"] == kind]
        return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in found]


class Kernel:
    """A kernel and a blocking client."""

    def __init__(self, manager: KernelManager, client: Any) -> None:
        self.manager, self.client = manager, client

    def begin(self, code: str) -> str:
        """Send a cell; returns its message id."""
        return str(self.client.execute(code))

    def finish(self, message_id: str, cell: Cell | None = None, *, until: Any = None) -> Cell:
        """Collect what a cell sends until the kernel is idle, or until a condition holds."""
        cell = cell or Cell()
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                cell.reply = self.reply(message_id)
                return cell
            display_id = content.get("transient", {}).get("display_id", "")
            if kind == "update_display_data":
                cell.updates += 1
                # It may belong to an earlier cell, such as a live view.
                cell.displays.setdefault(display_id, {}).update(content)
            elif kind in {"stream", "display_data", "execute_result", "error"}:
                output = {"kind": kind, **content}
                cell.outputs.append(output)
                cell.displays[display_id] = output
            if until and until(cell):
                return cell
        raise AssertionError("the cell did not end")

    def reply(self, message_id: str) -> dict[str, Any]:
        """The reply to a request; late ones to earlier requests are passed over."""
        while True:
            message = self.client.get_shell_msg(timeout=PATIENCE_S)
            if message["parent_header"].get("msg_id") == message_id:
                return dict(message["content"])

    def run(self, code: str) -> Cell:
        """Run a cell to its end."""
        return self.finish(self.begin(code))

    def value(self, expression: str) -> Any:
        """The value of an expression."""
        cell = self.run(f"print(repr({expression}))")
        assert cell.ok, cell.reply
        return eval(cell.texts("stream")[0])  # noqa: S307 - what this test has printed


@contextmanager
def running_kernel() -> Iterator[Kernel]:
    """A kernel of its own with the magic loaded."""
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        kernel = Kernel(manager, client)
        loaded = kernel.run("%load_ext llmlab\nimport llmlab")
        assert loaded.ok, loaded.reply
        assert loaded.outputs == []
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@pytest.fixture
def kernel(isolated_runtime) -> Iterator[Kernel]:
    with running_kernel() as kernel:
        yield kernel


@pytest.fixture
def server(kernel, require_engine):
    started = kernel.run("%llm start tiny --native --name k")
    assert started.ok, started.reply
    return started


def test_starting_shows_one_line_and_the_server(server):
    (line,) = server.texts("display_data")
    assert line.startswith("✓ start tiny")
    assert "llmlab.start('tiny', backend='native', name='k')" in line
    (shown,) = server.texts("execute_result")
    assert "k" in shown


@pytest.mark.parametrize("source", ['%llm ask "What is a container?"', 'llmlab.ask("What is a container?")'])
def test_an_answer_streams_into_one_output_and_is_not_echoed(kernel, server, source):
    asked = kernel.run(source)
    assert asked.ok
    assert len(asked.outputs) == 1
    (text,) = asked.texts("display_data")
    assert kernel.value("_.text") in text
    assert "TTFT" in text
    assert asked.outputs[0]["data"].keys() == {"text/plain", "text/html"}
    assert asked.updates >= 1, "it was updated in place"


def test_an_answer_can_be_assigned_and_shown_again(kernel, server):
    asked = kernel.run('answer = %llm ask k "What is a GPU?"')
    assert len(asked.outputs) == 1
    assert kernel.value("type(answer).__name__") == "Answer"
    again = kernel.run("answer")
    (text,) = again.texts("execute_result")
    assert text.startswith(kernel.value("answer.text"))
    assert "TTFT" in text, "with its figures"
    both = kernel.run('b = %llm ask k "What is a GPU?"\ndisplay(b)\nb')
    assert len(both.texts("display_data")) == 2, "streamed, and displayed because that was asked for"
    assert both.texts("execute_result") == []


def test_a_servers_own_ask_streams_as_well_also_from_threads(kernel, server):
    asked = kernel.run("s = llmlab.lab.attach('k')\na = s.ask('What is a container?')")
    assert len(asked.texts("display_data")) == 1
    threads = kernel.run(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(3) as pool:\n"
        "    answers = list(pool.map(s.ask, ['What is a container?', 'What is a GPU?', 'What is isolation?']))"
    )
    assert threads.ok
    shown = threads.texts("display_data")
    assert len(shown) == 3
    for text in kernel.value("[a.text for a in answers]"):
        assert sum(text in output for output in shown) == 1, "answers are not mixed up"


@pytest.mark.parametrize(
    "prompt", ["{braces} and {x!r}", "$dollars and ${HOME}", "'quotes' and it's", "a # b % c"]
)
def test_a_prompt_reaches_the_server_as_typed(kernel, server, prompt):
    asked = kernel.run(f'%llm ask "{prompt}"')
    assert asked.ok, asked.outputs
    body = kernel.run(f"%%llm ask\n{prompt}\n\nline {{two}} \"\"\" '''")
    assert body.ok, body.outputs


def test_a_usage_error_fails_the_cell_in_one_line(kernel):
    failed = kernel.run("%llm strat tiny")
    assert failed.reply["status"] == "error"
    assert failed.reply["ename"] == "UsageError"
    assert [output["kind"] for output in failed.outputs] == ["stream"]
    (line,) = failed.texts("stream")
    assert line.strip() == "UsageError: no verb 'strat' (did you mean 'start'?)"


def test_o_keeps_the_answer_and_shows_it_once(kernel, server):
    asked = kernel.run('%llm ask k "What is a GPU?" -o answer')
    assert len(asked.outputs) == 1
    assert kernel.value("answer.text") in asked.texts("display_data")[0]
    body = kernel.run("%%llm ask k -o other\nWhat is a GPU?")
    assert len(body.outputs) == 1
    assert kernel.value("type(other).__name__") == "Answer"


def test_what_is_set_for_the_notebook_stands_in_the_python_line(kernel, require_engine):
    kernel.run("%config LLMLab.backend = 'native'\n%config LLMLab.context = 256")
    started = kernel.run("%llm start tiny --name k")
    (line,) = started.texts("display_data")
    assert "llmlab.start('tiny', backend='native', name='k', context=256)" in line


def test_another_error_fails_the_cell_without_a_traceback(kernel):
    failed = kernel.run("%llm start ./no-such-file.gguf")
    assert failed.reply["status"] == "error"
    (error,) = [output for output in failed.outputs if output["kind"] == "error"]
    assert error["ename"] == "ModelNotFoundError"
    assert len(error["traceback"]) == 1
    assert "→" in error["traceback"][0]
    assert 'File "' not in error["traceback"][0]


def test_an_interrupt_keeps_the_partial_answer_and_stops_the_server(kernel, server):
    kernel.run(INTERRUPT_AT_PIECE_5)
    failed = kernel.run('%llm ask k "What is a container?" --temperature 0')
    assert failed.reply["status"] == "error"
    assert failed.reply["ename"] == "AskInterrupted"
    (text,) = failed.texts("display_data")
    assert "ended interrupted" in text
    assert text.startswith(kernel.value("''.join(pieces)"))
    assert kernel.value("len(pieces)") < 20, "it did not wait for the rest"
    (error,) = [output for output in failed.outputs if output["kind"] == "error"]
    assert len(error["traceback"]) == 1
    assert error["traceback"][0].startswith("Interrupted after")
    assert "\n" not in error["traceback"][0]
    assert "stopped generating" in error["traceback"][0]
    kernel.run("reporter().text = shown")
    assert kernel.run('%llm ask k "What is a GPU?"').ok, "the server answers again"


def test_the_stop_button_ends_a_wait_for_a_server_that_hangs(kernel, server):
    process = llmlab.lab.attach("k").record.process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        asking = kernel.begin('%llm ask k "What is a container?"')
        waiting = kernel.finish(asking, until=lambda cell: cell.texts("display_data"))
        kernel.manager.interrupt_kernel()
        failed = kernel.finish(asking, waiting)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert failed.reply["status"] == "error"
    # The last, if it came before the question was on its way.
    assert failed.reply["ename"] in {"AskInterrupted", "KeyboardInterrupt", "Interrupted"}
    assert kernel.run('%llm ask k "What is a GPU?"').ok


@promise(
    part="Notebooks and kernels",
    fault="The kernel is restarted",
    sees="`ps` in the new kernel shows the servers as ready",
    keeps="The servers: the new kernel asks and stops them as if they were its own",
    cleans="Nothing is to be cleaned",
    within_s=60,
)
def test_a_restarted_kernel_adopts_the_server(kernel, server):
    before = llmlab.lab.attach("k").record
    kernel.manager.restart_kernel(now=True)
    kernel.client.wait_for_ready(timeout=PATIENCE_S)
    assert kernel.run("%load_ext llmlab").ok
    (table,) = kernel.run("%llm ps").texts("execute_result")
    assert "ready" in table
    assert kernel.run('%llm ask k "What is a container?"').ok
    assert llmlab.lab.attach("k").record == before
    (stopped,) = kernel.run("%llm stop k").texts("execute_result")
    assert stopped == "stopped k"


def test_completion_reaches_the_front_end(kernel, server):
    def complete(code: str) -> list[str]:
        return list(kernel.reply(kernel.client.complete(code, len(code)))["matches"])

    assert complete("%llm sta") == ["start"]
    assert complete("x = %llm stop ") == ["k"]
    assert complete("%llm start --nat") == ["--native"]
    kernel.run("kept_before = 1")
    assert complete("%llm ps -o kept") == ["kept_before"]
    cell = "%%llm ask \nWhat is it?"
    found = kernel.reply(kernel.client.complete(cell, len("%%llm ask ")))["matches"]
    assert "k" in found


def test_an_interrupted_start_says_so_and_leaves_nothing(kernel, require_engine):
    kernel.run(
        "import os, signal\n"
        "from llmlab.reporting import reporter\n"
        "shown = reporter().stage\n"
        "def stage(name, detail=''):\n"
        "    shown(name, detail)\n"
        "    if name == 'load':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "reporter().stage = stage\n"
    )
    failed = kernel.run("%llm start tiny --native --name k")
    assert says_interrupted(failed, "start")
    (line,) = failed.texts("display_data")
    assert line.startswith("✗ start tiny")
    assert len(llmlab.ps()) == 0


# The stop button, pressed once


def says_interrupted(cell: Cell, verb: str) -> bool:
    """Whether a cell has failed with one line that says so, and no traceback."""
    (error,) = [output for output in cell.outputs if output["kind"] == "error"]
    return bool(cell.reply["status"] == "error" and error["traceback"] == [f"Interrupted: {verb}"])


def stopped_at(kernel: Kernel, source: str, shown: str, after_s: float = 0.0) -> Cell:
    """Run a cell, and press stop when it shows something, or a while later."""

    def shows(cell: Cell) -> bool:
        return any(shown in text for text in cell.texts("display_data"))

    message = kernel.begin(source)
    cell = kernel.finish(message, until=shows)
    time.sleep(after_s)
    kernel.manager.interrupt_kernel()
    return kernel.finish(message, cell)


def test_a_doctor_who_is_stopped_says_so(kernel):
    assert says_interrupted(stopped_at(kernel, "%llm doctor", "doctor"), "doctor")
    assert kernel.run("%llm ps").ok


@pytest.mark.parametrize("after_s", [0.0, 0.5])
def test_an_audit_that_is_stopped_leaves_nothing(kernel, require_engine, require_docker, after_s):
    assert kernel.run("%llm start tiny --container --name k").ok
    assert says_interrupted(stopped_at(kernel, "%llm audit k", "audit", after_s), "audit")
    eventually(lambda: not left_of_audits())
    assert [server.name for server in llmlab.ps()] == ["k"]
    assert kernel.run('%llm ask k "What is a GPU?"').ok


@pytest.mark.parametrize(("shown", "after_s"), [("start", 0.0), ("start", 1.0), ("block", 0.5)])
def test_a_comparison_that_is_stopped_keeps_what_it_has_and_leaves_no_server(
    kernel, require_engine, shown, after_s
):
    source = "%llm compare tiny --a backend=native --b backend=native --blocks 30 --tokens 50 -o seen"
    cell = stopped_at(kernel, source, shown, after_s)
    if cell.ok:
        assert "interrupted after" in kernel.value("str(seen)")
    else:
        assert says_interrupted(cell, "compare")
    assert len(llmlab.ps()) == 0


def test_a_pull_that_is_stopped_goes_on_where_it_was(kernel, tmp_path):
    folder = tmp_path / "served" / "teach" / "tiny-GGUF"
    folder.mkdir(parents=True)
    (folder / "tiny-Q4_0.gguf").write_bytes(store.builtin_path().read_bytes())
    hub = Hub(tmp_path / "served")
    hub.faults.append(Fault("slow", times=1, bytes_per_s=100_000))
    with hub.serving() as running:
        kernel.run(
            f"import os\nos.environ.update(HF_ENDPOINT={running.endpoint!r}, HF_HOME={str(tmp_path / 'home')!r},"
            f" LLMLAB_CACHE_DIR={str(tmp_path / 'cache')!r})"
        )
        cell = stopped_at(kernel, "%llm pull hf:teach/tiny-GGUF", "pull", after_s=1.0)
        assert says_interrupted(cell, "pull")
        assert any("goes on from there" in text for text in cell.texts("display_data"))
        assert kernel.run("%llm pull hf:teach/tiny-GGUF -o whole").ok
        assert kernel.value("whole.downloaded_bytes < whole.file_bytes")


def test_a_build_that_is_stopped_goes_on_where_it_was(kernel, require_engine, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path / "cache"))
    started, go = tmp_path / "started", tmp_path / "go"
    wait = f"touch '{started}'; while [ ! -e '{go}' ]; do sleep 0.05; done"
    test_builds._project(test_builds._work() / "source", f'exec "{require_engine.server}" "$@"', before=wait)
    kernel.run(
        f"import os\nos.environ['LLMLAB_CACHE_DIR'] = {os.environ['LLMLAB_CACHE_DIR']!r}\n"
        f"os.environ['PATH'] = {test_builds._path_without('llama-server')!r}"
    )
    message = kernel.begin("%llm build")
    eventually(started.exists, within_s=60)
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(message)
    assert says_interrupted(cell, "build")
    assert any("goes on from there" in text for text in cell.texts("display_data"))
    go.touch()
    assert kernel.run("%llm build -o built").ok
    assert kernel.value("built.compiled_s is not None")
