"""The page of promises has a row for each promise that a test proves, and no other."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from tools import reliability

from tests.faults.contract import PARTS

PAGE = reliability.PAGE.read_text(encoding="utf-8")
# The faults that must be among them, by what their rows say.
FAULTS = {
    "a server is killed": r"A server dies \(SIGKILL",
    "a server is killed in mid-stream": r"A server is killed \(SIGKILL\) in the middle of an answer",
    "the kernel is killed": r"The kernel is killed \(SIGKILL\)",
    "both are killed in mid-stream": r"kernel and its server are both killed in the middle of an answer",
    "no memory in the container": r"A container has no memory left",
    "no memory natively": r"native server because there is no memory",
    "the engine is killed": r"The engine is killed while a server runs",
    "the engine is restarted": r"The engine is stopped and started again",
    "the engine is restarted with live-restore": r"The engine is killed or restarted, and has `--live-restore`",
    "the engine hangs": r"The engine hangs",
    "the disk is full at a download": r"disk fills up in the middle of a download",
    "the disk is full at an image's build": r"disk of the container engine is full when the image is made",
    "the disk is full at the log": r"disk fills up under .* log",
    "a model is truncated": r"model file is truncated",
    "a model's bit is flipped": r"bit of a model .* is flipped",
    "the image is removed": r"The image is removed",
    "the socket becomes a link": r"replaces a socket by a symbolic link",
    "the directory is removed": r"server's directory is removed",
    "two kernels take one name": r"Two kernels start a server under the same name",
    "a server is paused": r"A server is halted: SIGSTOP, or `docker pause`",
    "stopped by another tool": r"Another tool stops or restarts",
    "a slow server": r"A server is slow",
    "a silent server": r"A server falls silent",
    "a client that does not read": r"Clients .* read nothing",
    "an interrupt of start": r"Ctrl-C at any stage of `start`",
    "an interrupt of start through the kernel": r"The stop button .* at whatever stage of `start`",
    "an interrupt of ask before it is sent": r"Ctrl-C in a question before it is sent",
    "an interrupt of ask while it waits": r"Ctrl-C while the first token is waited for",
    "an interrupt of ask in mid-stream": r"Ctrl-C in the middle of an answer",
    "an interrupt of ask at its end": r"Ctrl-C at the last word of an answer",
    "the clock jumps": r"clock is set",
    "a fork in the kernel": r"The kernel forks",
    "200 starts and stops": r"started, asked and stopped 200 times",
    "a state file is damaged": r"state file is empty, damaged",
    "a state file is newer": r"state file was written by a newer llmlab",
    "NVML is lost": r"A GPU is lost in the middle",
    "a page is loaded anew in mid-stream": r"page is loaded anew .* in the middle of a chat's answer",
}


def test_the_rows_are_the_promises_that_tests_prove():
    command = [sys.executable, "-m", "tools.reliability", "--check"]
    done = subprocess.run(command, cwd=reliability.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_rows_and_a_title(part):
    assert f"\n## {part}\n" in PAGE
    assert len(reliability.block(PAGE, part).splitlines()) > 2


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_that_has_to_be_survived_is_promised(fault):
    rows = [line for part in PARTS for line in reliability.block(PAGE, part).splitlines()[2:]]
    assert any(re.search(FAULTS[fault], row.split(" | ")[0]) for row in rows), fault


def test_all_rows_were_tried_when_the_page_was_made():
    rows = [line for part in PARTS for line in reliability.block(PAGE, part).splitlines()[2:]]
    assert reliability.block(PAGE, "run").startswith(f"{len(rows)} promises, tested on ")
