"""Kernels for the tests of their faults, and servers that they have started."""

from __future__ import annotations

import pytest

import llmlab
from llmlab import backends
from tests.conftest import eventually
from tests.test_kernel import PATIENCE_S, Kernel, running_kernel

# From inside, at a known moment: a signal from outside would come before or after it as often as not.
DIE = """
import os, signal
from llmlab.reporting import reporter
def die(*processes):
    for pid in (*processes, os.getpid()):
        os.kill(pid, signal.SIGKILL)
"""


@pytest.fixture(scope="module", autouse=True)
def warmed_up() -> None:
    """What jupyter_client keeps open once it has been used is none of ours."""
    with running_kernel():
        pass


@pytest.fixture(params=["native", "container"])
def place(request, require_engine):
    """Where the server runs."""
    if request.param == "container":
        request.getfixturevalue("require_docker")
    return request.param


def started(running: Kernel, place: str, name: str = "k") -> llmlab.Server:
    """A server that a kernel has started."""
    cell = running.run(f"%llm start tiny --{place} --name {name}")
    assert cell.ok, cell
    return llmlab.attach(name)


def await_end(running: Kernel) -> None:
    """Wait for a kernel's end."""
    eventually(lambda: not running.manager.is_alive(), PATIENCE_S)


def revive(running: Kernel) -> None:
    """Start a kernel anew in the place of one that has ended, as a notebook server does."""
    running.manager.restart_kernel(now=True)
    running.client.wait_for_ready(timeout=PATIENCE_S)
    assert running.run("%load_ext llmlab\nimport llmlab").ok


def pid_of(server: llmlab.Server) -> int:
    """The engine's process."""
    found = backends.backend(server.record.backend).look(server.record).pid
    assert found
    return found
