"""The inventory sees what is left, of every kind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import llmlab
from tests.faults import inventory


@contextmanager
def _file(folder: Path, _: Path) -> Iterator[str]:
    (folder / "left").write_text("x")
    yield "file"
    (folder / "left").unlink()


@contextmanager
def _temporary(_: Path, temporary: Path) -> Iterator[str]:
    (temporary / "left").write_text("x")
    yield "file"
    (temporary / "left").unlink()


@contextmanager
def _socket(folder: Path, _: Path) -> Iterator[str]:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "left"))
        (folder / "left").unlink()
        yield "socket"


@contextmanager
def _process(folder: Path, _: Path) -> Iterator[str]:
    command = [sys.executable, "-c", "input()"]
    environment = {**os.environ, "LLMLAB_RUNTIME_DIR": str(folder)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as child:
        yield "process"
        assert child.stdin
        child.stdin.close()
        child.wait()


@contextmanager
def _thread(_: Path, __: Path) -> Iterator[str]:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield "thread"
    end.set()
    thread.join()


@contextmanager
def _descriptor(_: Path, __: Path) -> Iterator[str]:
    both = os.pipe()
    yield "descriptor"
    for end in both:
        os.close(end)


@contextmanager
def _container(folder: Path, _: Path) -> Iterator[str]:
    with llmlab.start("tiny", backend="container"):
        yield "container"


@pytest.mark.parametrize("leave", [_file, _temporary, _socket, _process, _thread, _descriptor, _container])
def test_what_is_left_is_named(leave, isolated_runtime, temporary, request):
    if leave is _container:
        request.getfixturevalue("require_docker")
        request.getfixturevalue("require_engine")
    before = inventory.take(isolated_runtime, temporary)
    with leave(isolated_runtime, temporary) as kind:
        left = inventory.left(isolated_runtime, temporary, before, within_s=0.2)
        assert [line for line in left if line.startswith(kind)], left
    assert inventory.left(isolated_runtime, temporary, before) == []
