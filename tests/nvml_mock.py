"""GPUs where there are none: the genuine pynvml on a libnvidia-ml of our own (nvml_mock.c).

The library takes its values at each call from a file of lines "KEY VALUE", so that a
test can change them while it looks. What has no line is not supported. The keys, for
GPU 0 and its MIG device 1:

    gpus 2                            how many there are
    driver 535.104.05                 the driver's version
    cuda 12020                        the newest CUDA that it knows: 12.2
    0.name, 0.memory.total (MiB)      and so on, as in `A_GPU`; absent: not supported
    0.field.186 95000                 a numbered field
    0.field.186.error 15              the error that it has, although the call succeeds
    0.processes.compute 12:500,13:na  process id and MiB; "na" is NVML's not available
    0.mig 7                           MIG is on, with room for so many devices
    0.1.memory.total 4096             one of them; it is there if this line is
    error.nvmlDeviceGetName 4         what a function answers, of every GPU
    0.error.nvmlDeviceGetName 4       the same of one; of nvmlDeviceGetHandleByIndex and …ByUUID:
                                      the driver counts it, and does not open it
    0.error.* 15                      the GPU has fallen off the bus
    error.* 9                         the driver is gone (all but starting and stopping fails)
    sleep.nvmlDeviceGetName 2.5       how long a call hangs, in seconds; 0.sleep.… of one GPU
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
_REPOSITORY = Path(__file__).parent.parent
CONTROL = "LLMLAB_NVML_MOCK"
_FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread")

A_GPU: dict[str, Any] = {
    "name": "Mock",
    "capability": "9.0",
    "memory.total": 16384,
    "memory.used": 1000,
    "utilisation": 42,
    "power": 120500,
    "energy": 5_000_000,
    "clock.sm": 1400,
    "clock.sm.most": 1980,
    "clock.memory": 2600,
    "clock.memory.most": 2619,
    "bus.width": 5120,
    "temperature": 51,
    "reasons": 4,
    "processes.compute": "",
    "processes.graphics": "",
}


def build(folder: Path) -> Path:
    """Compile the library into a folder, and tell the folder; skips where no compiler is."""
    from tests.conftest import missing  # noqa: PLC0415 - the children import this module, and not that

    if sys.platform != "linux":
        missing("compiler", "pynvml looks for a library of that name on Linux only")
    if not (compiler := shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        missing("compiler", "no cc, gcc or clang on PATH")
    source = Path(__file__).with_name("nvml_mock.c")
    command: list[str | Path] = [compiler, *_FLAGS, "-o", folder / LIBRARY, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Control:
    """What the library tells."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or Path(os.environ[CONTROL])
        self._values: dict[str, Any] = {}
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self._values = dict(line.split(" ", 1) for line in lines)

    def set(self, values: dict[str, Any]) -> None:
        """Change some values; None takes one away."""
        self._values |= values
        lines = [f"{key} {value}\n" for key, value in self._values.items() if value is not None]
        draft = self._path.with_suffix(".draft")
        draft.write_text("".join(lines), encoding="utf-8")
        draft.replace(self._path)  # at once: the library may be reading it

    def gpu(self, index: int, **other: Any) -> None:
        """Have a GPU, and those before it; other values than those of `A_GPU` by key with _ for a dot."""
        values = A_GPU | {key.replace("_", "."): value for key, value in other.items()}
        count = max(index + 1, int(self._values.get("gpus", 0)))
        self.set({"gpus": count} | {f"{index}.{key}": value for key, value in values.items()})


def references() -> int:
    """How often the library was started more than stopped; in a child."""
    return int(ctypes.CDLL(LIBRARY).nvml_mock_references())


def starts() -> int:
    """How often it has really been started; in a child."""
    return int(ctypes.CDLL(LIBRARY).nvml_mock_starts())


def in_child(library: Path, control: Path, code: str) -> Any:
    """Run code in a Python that finds the library.

    It has `control`, a `Control`, and gives what it finds to `tell`, once.
    """
    prelude = (
        "import json, threading, time\n"
        "from llmlab import machine, nvml\n"
        "from llmlab.telemetry.nvml import gpu_sources, reasons\n"
        "from tests.nvml_mock import Control, references, starts\n"
        "control = Control()\n"
        "tell = lambda found: print('\\n' + json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", prelude + code],
        cwd=_REPOSITORY,
        env={**os.environ, "LD_LIBRARY_PATH": str(library), CONTROL: str(control)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
