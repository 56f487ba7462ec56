"""What a server's keeper is told, and how it is started."""

from __future__ import annotations

import subprocess
import sys

from llmlab import runtime
from llmlab.specs import Process, Record

WISH = "wish.json"
"""What a server's replicas are started with, in its directory."""
LOG = "keeper.log"
_SHELL = 'log=$1; shift; "$@" >>"$log" 2>&1 </dev/null & echo $!'


def spawn(record: Record) -> Process | None:
    """Start the keeper of a server; a shell stands between, so that it is nobody's child."""
    log = runtime.runtime_dir() / record.name / LOG
    command = [sys.executable, "-m", "llmlab.clusters.keeping", record.name]
    told = subprocess.run(
        ["/bin/sh", "-c", _SHELL, "sh", str(log), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        check=True,
    )
    return runtime.process(int(told.stdout))
