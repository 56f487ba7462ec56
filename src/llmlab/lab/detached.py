"""Processes of llmlab's own that go on when whoever started them has ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llmlab import runtime
from llmlab.specs import Process

_SHELL = 'log=$1; shift; "$@" >>"$log" 2>&1 </dev/null & echo $!'


def spawn(module: str, *words: str, log: Path) -> Process | None:
    """Run a module of llmlab's; a shell stands between, so that it is nobody's child. None if it has ended.

    Args:
        module: Its name.
        words: Its arguments, which all users can read.
        log: Where its output is appended.
    """
    told = subprocess.run(
        ["/bin/sh", "-c", _SHELL, "sh", str(log), sys.executable, "-m", module, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        check=True,
    )
    return runtime.process(int(told.stdout))
