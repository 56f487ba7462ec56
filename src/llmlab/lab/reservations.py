"""GPU memory that servers were promised and do not hold yet.

A start decides while it holds a lock, and writes down what its server will take; it
lets go of that when the server is ready. Then the server's record says what it was
predicted to take, and the driver what it holds.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from llmlab import backends, nvml, runtime
from llmlab.errors import MALFORMED, LabError
from llmlab.lab import holding
from llmlab.specs import Process, Record, to_dict, value_of

_MIB = 1024 * 1024
_PATTERN = ".gpus-*.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a start has taken for its server.

    Attributes:
        server: The server's name, or its model's until it has one.
        mib: A GPU's id → its memory.
        process: Who starts it; a promise ends with it.
    """

    server: str
    mib: dict[str, int]
    process: Process


class Booking:
    """What one start takes for itself, until its server is ready."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._path: Path | None = None
        self._promise: Promise | None = None

    @contextmanager
    def deciding(self, *, gpus: bool) -> Iterator[None]:
        """Let no other start decide at the same time.

        Args:
            gpus: Whether it may get any: others have nothing to wait for.
        """
        with runtime.locked(runtime.runtime_dir() / ".lock") if gpus else nullcontext():
            yield

    def take(self, server: str, ids: Sequence[str], vram_mib: int | None) -> None:
        """Write down what a server will take of some GPUs.

        Args:
            server: Its name.
            ids: What the GPUs are known by.
            vram_mib: What it is predicted to take of all of them.
        """
        process = runtime.process(os.getpid())
        if not ids or process is None:
            return
        self._promise = Promise(server=server, mib=_shared(ids, vram_mib or 0), process=process)
        self._path = runtime.runtime_dir() / _PATTERN.replace("*", uuid.uuid4().hex)
        self._write()

    def name(self, server: str) -> None:
        """Tell the name that the server has got."""
        if self._promise and self._promise.server != server:
            self._promise = replace(self._promise, server=server)
            self._write()

    def release(self) -> None:
        """Let go of it."""
        if self._path:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._path and self._promise:
            draft = self._path.with_suffix(".new")
            draft.write_text(json.dumps(to_dict(self._promise)), encoding="utf-8")
            draft.replace(self._path)


@contextmanager
def booking() -> Iterator[Booking]:
    """A booking that is let go of at the end."""
    made = Booking()
    try:
        yield made
    finally:
        made.release()


def outstanding() -> dict[str, dict[str, int]]:
    """A GPU's id → server → memory that it was promised and does not hold yet, in MiB."""
    found: dict[str, dict[str, int]] = {}
    records = {record.name: record for record in _with_gpus()}
    promises = {promise.server: promise for promise in _promises()}
    for name, promise in promises.items():
        for gpu, mib in promise.mib.items():
            held = _held_mib(records[name], gpu) if name in records else None
            found.setdefault(gpu, {})[name] = max(0, mib - (held or 0))
    for name in records.keys() - promises.keys():
        record = records[name]
        for gpu, mib in _shared(record.gpus.ids if record.gpus else (), _predicted(record)).items():
            # What the driver does not tell of a server that is ready, it counts as no longer free.
            if (held := _held_mib(record, gpu)) is not None and held < mib:
                found.setdefault(gpu, {})[name] = mib - held
    return found


def users() -> dict[str, list[str]]:
    """A GPU's id → the servers that have it, or are about to."""
    found: dict[str, list[str]] = {}
    promises = {promise.server: tuple(promise.mib) for promise in _promises()}
    for record in _with_gpus():
        if record.name not in promises and backends.backend(record.backend).look(record).running:
            promises[record.name] = record.gpus.ids if record.gpus else ()
    for name, ids in promises.items():
        for gpu in ids:
            found.setdefault(gpu, []).append(name)
    return found


def _with_gpus() -> list[Record]:
    """The servers of this machine that were given GPUs, with what they were predicted to take."""
    # Of GPUs of another machine nobody knows which they are.
    found = (record for name in backends.backend_names() for record in backends.backend(name).find())
    return [record for record in found if record.gpus and record.gpus.ids]


def _promises() -> list[Promise]:
    found = []
    for path in runtime.runtime_dir().glob(_PATTERN):
        with suppress(OSError, *MALFORMED):
            promise = value_of(Promise, json.loads(path.read_text(encoding="utf-8")))
            if runtime.has_ended(promise.process):
                path.unlink(missing_ok=True)
            else:
                found.append(promise)
    return found


def _shared(ids: Sequence[str], vram_mib: int) -> dict[str, int]:
    """What each of some GPUs gets of a model: llama.cpp's share goes by their memory, which is mostly the same."""
    return {gpu: -(-vram_mib // len(ids)) for gpu in ids}


def _predicted(record: Record) -> int:
    return (record.predicted.vram_mib if record.predicted else None) or 0


def _held_mib(record: Record, gpu: str) -> int | None:
    """What a server's processes hold on a GPU; None if that is not told."""
    with suppress(LabError, nvml.GpuGoneError, psutil.Error):
        pid = holding.server_pid(record)
        if pid is None or not nvml.hold():
            return None
        try:
            family = {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
            handle = nvml.handle_of(nvml.Device(0, uuid=gpu))
            listed = nvml.query("nvmlDeviceGetComputeRunningProcesses", handle)
            if listed is None:
                return None
            held = [each.usedGpuMemory for each in listed if each.pid in family]
            if None in held or not (held or holding.counts_as_the_driver()):
                return None
            return int(sum(held)) // _MIB
        finally:
            nvml.release()
    return None
