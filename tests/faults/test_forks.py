"""Processes that have servers and watches are forked; what a child does at its end is not its parent's."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import eventually
from tests.faults.contract import promise
from tests.faults.kernels import place, started, warmed_up  # noqa: F401 - fixtures
from tests.test_kernel import kernel  # noqa: F401 - a fixture

LOOKS = "len(seen['the machine', 'memory'].values)"
FORKS = """
import multiprocessing
def work():
    llmlab.ps()
    raise SystemExit(llmlab.attach("k").ask("What is a GPU?", max_tokens=5).text == "")
context = multiprocessing.get_context("fork")
codes = []
for _ in range(10):
    child = context.Process(target=work)
    child.start()
    child.join(30)
    codes.append(child.exitcode)
    child.kill()
print(codes)
"""


@promise(
    part="Notebooks and kernels",
    fault="The kernel forks (`multiprocessing`, `os.fork`), also while it is watching; the child ends",
    sees="Nothing; in the child every verb works",
    keeps="The servers, and what the kernel watches: a child's end is not the kernel's",
    cleans="Nothing is to be cleaned: the child takes nothing with it and waits for none of our threads",
    within_s=60,
)
def test_the_kernel_forks_while_it_watches(kernel, place):  # noqa: F811
    started(kernel, place)
    assert kernel.run("seen = llmlab.monitor(hz=20)").ok
    forked = kernel.run(FORKS)
    assert forked.texts("stream")[-1] == f"{[0] * 10}\n", forked.outputs
    looks = kernel.value(LOOKS)
    eventually(lambda: kernel.value(LOOKS) > looks + 5)
    assert kernel.value("seen.running")
    assert kernel.run('%llm ask k "What is a GPU?"').ok
    assert kernel.run("seen.stop(); llmlab.stop('k')").ok


FORKING_SCRIPT = """
import os, sys, llmlab
with llmlab.start("tiny", name="k", backend=sys.argv[1]) as server, llmlab.monitor(hz=20) as seen:
    server.ask("What is a GPU?", max_tokens=5)
    for _ in range(30):
        if not (child := os.fork()):
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert seen.running
    assert server.ask("What is a GPU?", max_tokens=5).text
"""


@promise(
    part="Notebooks and kernels",
    fault="A script forks, and its child ends as Python ends: `with` blocks are left, exit functions run",
    sees="Nothing",
    keeps="The servers and the watch of the parent",
    cleans="Nothing is to be cleaned",
    within_s=60,
)
def test_a_child_that_ends_as_python_does_stops_nothing_of_its_parents(place, bound):  # noqa: F811
    done = subprocess.run(
        [sys.executable, "-c", FORKING_SCRIPT, place],
        capture_output=True,
        text=True,
        timeout=bound,
        check=False,
    )
    assert done.returncode == 0, done.stderr


HELD_SCRIPT = """
import os, signal, sys, threading, llmlab
from llmlab.monitoring.shared import SHARED
held, over = threading.Event(), threading.Event()
def hold():
    with SHARED._guard:
        held.set()
        over.wait()
with llmlab.monitor() as seen:
    threading.Thread(target=hold).start()
    held.wait()
    if not (child := os.fork()):
        signal.alarm(20)
        sys.exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    over.set()
sys.exit(code)
"""


def test_a_child_waits_for_no_lock_that_its_parent_held(isolated_runtime):
    done = subprocess.run(
        [sys.executable, "-c", HELD_SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr or done.returncode
