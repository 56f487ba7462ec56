"""Kernels are killed, interrupted, and in each other's way; what was started outlives them, or is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

import llmlab
from llmlab.lab import registry
from tests.conftest import eventually, inventory, kill
from tests.faults.contract import promise
from tests.faults.kernels import DIE, await_end, pid_of, place, revive, started, warmed_up  # noqa: F401 - fixtures
from tests.test_kernel import kernel, running_kernel  # noqa: F401 - a fixture

IN_MID_ANSWER = "reporter().text = lambda piece: die({})"
AT_STAGE = """
shown = reporter().stage
def stage(name, detail=""):
    shown(name, detail)
    if name == {!r}:
        die()
reporter().stage = stage
"""
STAGES = {"native": ("engine", "model", "load"), "container": ("engine", "image", "model", "load")}
WAIT_AT_STAGE = """
import time, pathlib
from llmlab.reporting import reporter
shown = reporter().stage
def stage(name, detail=""):
    shown(name, detail)
    if name == {!r}:
        pathlib.Path({!r}).touch()
        time.sleep(60)
reporter().stage = stage
"""


def at_each_stage(*wanted: str) -> pytest.MarkDecorator:
    """In both places, those of these stages that a start has there."""
    cases = [(where, stage) for where, stages in STAGES.items() for stage in stages if stage in wanted]
    return pytest.mark.parametrize(("place", "stage"), cases, indirect=["place"])


@promise(
    part="Notebooks and kernels",
    fault="The kernel is killed (SIGKILL), with servers at rest or in the middle of an answer",
    sees="The front-end says that the kernel has died; in the next one `ps` shows the servers as ready",
    keeps="The servers; what the cell had shown of the answer",
    cleans="The server stops generating by itself, since nobody reads",
    within_s=30,
)
@pytest.mark.parametrize("moment", ["at rest", "in mid-answer"])
def test_a_killed_kernel_leaves_its_servers_to_the_next_one(kernel, place, moment, bound):  # noqa: F811
    server = started(kernel, place)
    before = server.record
    kernel.run(DIE)
    if moment == "in mid-answer":
        kernel.run(IN_MID_ANSWER.format(""))
    kernel.begin("die()" if moment == "at rest" else '%llm ask k "Tell me everything about containers"')
    await_end(kernel)
    assert server.status.state == "ready"
    eventually(lambda: registry.client(before).busy_slots() == 0, bound)
    revive(kernel)
    (table,) = kernel.run("%llm ps").texts("execute_result")
    assert "ready" in table
    assert kernel.run('%llm ask k "What is a GPU?"').ok
    assert llmlab.attach("k").record == before
    assert kernel.run("%llm stop k").ok


@promise(
    part="Notebooks and kernels",
    fault="The kernel and its server are both killed in the middle of an answer",
    sees="In the next kernel, `ps` and the error of `ask` say that the server was killed",
    keeps="The server's log; what the cell had shown of the answer",
    cleans="`stop` removes what is left; a start under the same name does, too",
    within_s=30,
)
def test_the_kernel_and_its_server_killed_in_mid_answer(kernel, place, bound):  # noqa: F811
    server = started(kernel, place)
    kernel.run(DIE)
    kernel.run(IN_MID_ANSWER.format(pid_of(server)))
    kernel.begin('%llm ask k "Tell me everything about containers"')
    await_end(kernel)
    eventually(lambda: server.status.state == "exited", bound)
    revive(kernel)
    (table,) = kernel.run("%llm ps").texts("execute_result")
    assert "exited" in table
    asked = kernel.run('%llm ask k "What is a GPU?"')
    assert asked.reply["ename"] == "ServerStoppedError"
    assert "killed" in asked.reply["evalue"]
    started(kernel, place)
    assert kernel.run('%llm ask k "What is a GPU?"').ok
    assert kernel.run("%llm stop k").ok


@promise(
    part="Notebooks and kernels",
    fault="The kernel is killed in the middle of `start`, before the engine loads the model",
    sees="In the next kernel, `ps` does not show the server, and says that what a dead start had left was removed",
    keeps="The other servers; an image that has been made",
    cleans="The next `ps` or `start` removes process or container, socket and directory",
    within_s=30,
)
@at_each_stage("engine", "image", "model")
def test_a_kernel_killed_while_it_starts_a_server(kernel, place, stage, isolated_runtime, bound):  # noqa: F811
    kernel.run(DIE)
    kernel.run(AT_STAGE.format(stage))
    kernel.begin(f"%llm start tiny --{place} --name k")
    await_end(kernel)
    revive(kernel)
    listed = kernel.run("%llm ps")
    (table,) = listed.texts("execute_result")
    assert len(table.splitlines()) == 1, table
    assert "removed k: what started it has ended" in str(listed.outputs)
    eventually(lambda: inventory(isolated_runtime) == [], bound)
    started(kernel, place)
    assert kernel.run("%llm stop k").ok


@promise(
    part="Notebooks and kernels",
    fault="The kernel is killed in the middle of `start`, while the engine loads the model",
    sees="In the next kernel, `ps` shows the server as loading, then as ready",
    keeps="The server: it goes on loading, and is isolated like one whose start was not broken off",
    cleans="Nothing is to be cleaned; `stop` works",
    within_s=30,
)
@at_each_stage("load")
def test_a_kernel_killed_while_a_model_is_loaded(kernel, place, stage, bound):  # noqa: F811
    whole = started(kernel, place, name="whole")
    kernel.run(DIE)
    kernel.run(AT_STAGE.format(stage))
    kernel.begin(f"%llm start tiny --{place} --name k")
    await_end(kernel)
    revive(kernel)
    server = llmlab.attach("k")
    eventually(lambda: server.status.state == "ready", bound)
    adopted, own = (Path(each.record.endpoint.socket or "").parent.stat() for each in (server, whole))
    assert (adopted.st_mode, adopted.st_uid) == (own.st_mode, own.st_uid)
    assert kernel.run('%llm ask k "What is a GPU?"').ok
    assert kernel.run("%llm stop --all").ok


@promise(
    part="Notebooks and kernels",
    fault="The stop button (the kernel's interrupt), at whatever stage of `start`",
    sees="One line, `Interrupted: start`, and no traceback; the kernel goes on",
    keeps="The other servers; an image that has been made",
    cleans="Everything that was begun, before the cell ends",
    within_s=30,
)
@at_each_stage("engine", "image", "model", "load")
def test_a_start_interrupted_through_the_kernel(kernel, place, stage, isolated_runtime, tmp_path, bound):  # noqa: F811
    kernel.run(WAIT_AT_STAGE.format(stage, str(tmp_path / "here")))
    number = kernel.begin(f"%llm start tiny --{place} --name k")
    eventually((tmp_path / "here").exists)
    time.sleep(0.2)  # it waits by now
    began = time.monotonic()
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(number)
    assert time.monotonic() - began < bound
    assert not cell.ok
    (error,) = [output for output in cell.outputs if output["kind"] == "error"]
    assert error["traceback"] == ["Interrupted: start"]
    assert inventory(isolated_runtime) == []
    kernel.run("reporter().stage = shown")
    started(kernel, place)
    assert kernel.run("%llm stop k").ok


@promise(
    part="Notebooks and kernels",
    fault="Two kernels start a server under the same name at the same moment",
    sees="One gets it; the other is told that the name is taken, and how to choose another or stop it",
    keeps="The server of the one that came first",
    cleans="Nothing of the other's is left",
    within_s=60,
)
def test_two_kernels_take_one_name_at_once(kernel, place, bound):  # noqa: F811
    source = f"%llm start tiny --{place} --name k"
    with running_kernel() as other:
        for _ in range(3):
            numbers = [(each, each.begin(source)) for each in (kernel, other)]
            cells = [each.finish(number) for each, number in numbers]
            assert sorted(cell.ok for cell in cells) == [False, True]
            (lost,) = [cell for cell in cells if not cell.ok]
            (line,) = lost.texts("stream")
            assert "a server named 'k'" in line
            assert "choose another --name, or stop it first" in line
            assert [row.name for row in llmlab.ps()] == ["k"]
            for each in (kernel, other):
                assert each.run('%llm ask k "What is a GPU?"').ok
            began = time.monotonic()
            assert kernel.run("%llm stop k").ok
            assert time.monotonic() - began < bound


@promise(
    part="Notebooks and kernels",
    fault="One kernel stops a server while another starts it",
    sees="`stop` waits for the start and then stops it, or says that there is no such server",
    keeps="The server, if `stop` came before there was one",
    cleans="Otherwise everything of it",
    within_s=60,
)
def test_one_kernel_stops_what_another_is_starting(kernel, place, isolated_runtime):  # noqa: F811
    with running_kernel() as other:
        for pause_s in (0.0, 0.05, 0.1, 0.2, 0.4):
            number = kernel.begin(f"%llm start tiny --{place} --name k")
            time.sleep(pause_s)
            stopped = other.run("%llm stop k")
            cell = kernel.finish(number)
            assert cell.ok, cell.outputs
            if stopped.ok:
                assert len(llmlab.ps()) == 0
            else:
                assert "no server 'k'" in stopped.texts("stream")[0]
                assert other.run("%llm stop k").ok
            assert inventory(isolated_runtime) == []


NOTEBOOK_SERVER = """
import sys, time
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
print(client.execute_interactive(sys.argv[1])["content"]["status"], flush=True)
time.sleep(600)
"""


@promise(
    part="Notebooks and kernels",
    fault="The notebook server is killed (SIGKILL) while its kernels run",
    sees="The page loses its connection; the next `ps` says which servers were removed, and why",
    keeps="Servers that were started with `--keep`, or from a terminal",
    cleans="The kernel ends by itself; the next `ps` or `start`, of any process, removes the servers",
    within_s=30,
)
def test_servers_of_a_killed_notebook_server_are_removed(place, isolated_runtime, tmp_path, bound):  # noqa: F811
    code = textwrap.dedent(f"""
        import llmlab
        llmlab.start("tiny", name="orphan", backend="{place}")
        llmlab.start("tiny", name="kept", keep=True, backend="{place}")
    """)
    command = [sys.executable, "-c", NOTEBOOK_SERVER, code]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # of Jupyter's own files some are left
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline().endswith("ok\n")
            (running,) = psutil.Process(process.pid).children()
        finally:
            kill(process.pid)
    eventually(lambda: not running.is_running(), bound)
    assert [row.name for row in llmlab.ps()] == ["kept"]
    assert llmlab.stop("kept").names == ("kept",)
    assert inventory(isolated_runtime) == []
