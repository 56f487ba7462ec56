"""Run the benchmarks: `python -m bench`, or those named, such as `python -m bench imports`."""

from __future__ import annotations

import os
import sys
import tempfile

import llmlab
from bench import (
    answering,
    auditing,
    classroom,
    cluster,
    common,
    fitting,
    headers,
    imports,
    instruments,
    learners,
    live,
    panel,
    sampling,
    simulating,
    starting,
    streaming,
    synthetic,
    transports,
)
from llmlab.backends import backend

_ALL = {
    "imports": imports.run,
    "streaming": streaming.run,
    "starting": starting.run,
    "headers": headers.run,
    "synthetic": synthetic.run,
    "fitting": fitting.run,
    "transports": transports.run,
    "auditing": auditing.run,
    "sampling": sampling.run,
    "instruments": instruments.run,
    "live": live.run,
    "panel": panel.run,
    "answering": answering.run,
    "learners": learners.run,
    "classroom": classroom.run,
    "simulating": simulating.run,
    "cluster": cluster.run,
}
_CONTAINERS = {"starting", "transports", "auditing"}


def main() -> int:
    """Run those that are named, or all."""
    names = sys.argv[1:] or list(_ALL)
    if unknown := [name for name in names if name not in _ALL]:
        print(f"no benchmark {unknown[0]!r}; there are: {', '.join(_ALL)}", file=sys.stderr)
        return 2
    # Servers of the benchmarks' own; the user's are left alone.
    with tempfile.TemporaryDirectory(prefix="llm-") as folder, tempfile.TemporaryDirectory() as state:
        os.environ["LLMLAB_RUNTIME_DIR"] = folder
        os.environ["LLMLAB_STATE_DIR"] = state
        try:
            for name in names:
                print(name, flush=True)
                if name in _CONTAINERS and (problem := backend("container").unavailable()):
                    print(f"  not measured: {problem.message}")
                    continue
                common.write(name, _ALL[name]())
        finally:
            llmlab.stop(all=True, grace_s=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
