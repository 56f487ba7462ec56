"""Make the recording that comes with llmlab: two servers, native and in a container, asked in turns and at once.

    .venv/bin/python tools/record_example.py [FILE]

The weights are random, the work is real. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import llmlab
from llmlab.telemetry import recording

_FILE = Path(__file__).parents[1] / "src/llmlab/monitoring/example.jsonl.gz"
_MODEL = "synthetic:llama-3.2-1b:Q4_0"
_PAUSE_S = 2.0
_LONG = "Compare a container with a virtual machine, a sandbox and a chroot, one after the other. " * 12


def main() -> None:
    """Start, watch, ask, save."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else _FILE
    with (
        llmlab.start(_MODEL, name="native", backend="native", context=2048) as native,
        llmlab.start(_MODEL, name="container", backend="container", context=2048) as container,
        llmlab.monitor(hz=2) as watch,
    ):
        _ask(native, container)
        seen = watch.stop()
    notes = (
        f"Two servers of the same model ({_MODEL}: random weights, real work), one native, one in a container",
    )
    recording.write(replace(seen.recorded, notes=(*notes, *seen.recorded.notes)), path)
    print(
        f"{path}: {seen.seconds:.0f} s, {len(seen.series)} series, {len(seen.requests)} requests, "
        f"{path.stat().st_size / 1000:.1f} kB"
    )


def _ask(native: llmlab.Server, container: llmlab.Server) -> None:
    time.sleep(_PAUSE_S)
    for server in (native, container):
        server.ask("What is a container?", max_tokens=60)
        time.sleep(_PAUSE_S)
    container.ask(_LONG, max_tokens=40)
    time.sleep(_PAUSE_S)
    both = [
        threading.Thread(target=server.ask, args=("What is a GPU?",), kwargs={"max_tokens": 60})
        for server in (native, container)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    time.sleep(_PAUSE_S)


if __name__ == "__main__":
    main()
