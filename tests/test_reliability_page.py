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
    "a server is killed": r"server is killed \(SIGKILL\)|server dies \(SIGKILL",
    "the kernel is killed": r"kernel is killed \(SIGKILL\)",
    "both are killed in mid-stream": r"kernel and (its |the )?server are (both )?killed.*middle",
    "no memory in the container": r"container .*memory",
    "no memory natively": r"native server .*memory",
    "dockerd is killed": r"(dockerd|engine) is killed",
    "dockerd is restarted": r"engine is (stopped and started again|restarted)",
    "with live-restore": r"live-restore",
    "dockerd hangs": r"(dockerd|engine) (hangs|is hung|is halted|does not answer)",
    "the disk is full at a download": r"disk (is full|fills up).*download",
    "the disk is full at an image's build": r"disk .*(is full|fills up).*image",
    "the disk is full at the log": r"disk (is full|fills up).*log",
    "a model is truncated": r"model.* truncated",
    "a model's bits are flipped": r"bit of a model.* flipped",
    "the image is removed": r"image is removed",
    "the socket becomes a link": r"symlink|symbolic link|socket.* link",
    "the directory is removed": r"directory .*removed|removed.*directory",
    "two kernels take one name": r"[Tt]wo kernels .*same name",
    "a server is paused": r"halted|paused",
    "stopped by another tool": r"[Aa]nother tool",
    "a slow server": r"slow",
    "a silent server": r"silent|nothing (comes|has come)|says nothing",
    "a client that does not read": r"reads? nothing|not read",
    "an interrupt of start": r"(Ctrl-C|interrupt).*start",
    "an interrupt of ask": r"(Ctrl-C|interrupt).*(ask|answer|question)",
    "the clock jumps": r"clock",
    "a fork in the kernel": r"fork",
    "200 starts and stops": r"200 ",
    "a state file is corrupt": r"(record|state file|file).*(corrupt|unreadable|damaged|cannot be read)|corrupt",
    "a state file is newer": r"newer",
    "NVML is lost": r"NVML|driver|graphics card",
    "a browser is loaded anew": r"(page|browser).*(loaded anew|reload)",
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
