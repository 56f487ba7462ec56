"""One server of one arm, started anew, and its requests with what they took."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias

from llmlab import lab
from llmlab.client import Completion
from llmlab.comparing.asking import Asking, Setting, by_client, rate, ttft_s
from llmlab.comparing.card import Arm, Request
from llmlab.errors import BackendError
from llmlab.lab import Server, holding, registry
from llmlab.telemetry.cgroup import CgroupSource
from llmlab.telemetry.gpu_share import GpuShare
from llmlab.telemetry.host import HostSource
from llmlab.telemetry.metrics import Source
from llmlab.telemetry.nvml import GpuSource, gpu_sources
from llmlab.telemetry.process import ProcessSource
from llmlab.telemetry.rapl import rapl_sources

__all__ = ["Running", "Setting", "Started", "Starter", "started"]

# Counters of energy move in steps: of less time no figure is given.
_ENERGY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What has been started to be measured, however that was done.

    Attributes:
        record: What it is.
        client: Asks it: `complete` of `llmlab.client.Client`.
        pid: Its process on this machine, or None.
        stop: Ends it, given the seconds that it may take to end by itself.
        start_s: What the start took.
        seen: What else was seen at the start, by name.
    """

    record: Any
    client: Any
    pid: int | None
    stop: Callable[[float], object]
    start_s: float
    seen: Mapping[str, float | None] = field(default_factory=dict)


Starter: TypeAlias = Callable[[str, float], Started]
"""Starts something under a name, given the longest wait in seconds."""


def started(start: Callable[[], Server]) -> Started:
    """Start a server, and take the time.

    Raises:
        LabError: As `llmlab.start`.
    """
    began = time.perf_counter()
    server = start()
    seconds = time.perf_counter() - began
    try:
        return Started(
            record=server.record,
            client=registry.client(server.record),
            pid=holding.server_pid(server.record),
            stop=lambda grace_s: server.stop(grace_s=grace_s),
            start_s=seconds,
        )
    except BaseException:
        server.stop(grace_s=0)
        raise


@dataclass(slots=True)
class _Energy:
    """Joules, tokens and seconds of the measured requests; None from the first that nobody could count."""

    joules: float | None = 0.0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Running:
    """A server of an arm; a context manager that stops it.

    Args:
        arm: How it is started.
        name: Its name.
        timeout_s: Longest wait for it.
        starter: Starts it; None for `llmlab.start` with the arm's options.
    """

    arm: Arm
    name: str
    timeout_s: float
    starter: Starter | None = None
    start_s: float = 0.0
    cold_ttft_s: float | None = None
    _started: Any = None
    _client: Any = None
    _instruments: dict[str, Source] = field(default_factory=dict)
    _gpus: list[Source] = field(default_factory=list)
    _energy: _Energy = field(default_factory=_Energy)

    def __enter__(self) -> Running:  # noqa: PYI034 - typing.Self needs Python 3.11
        """Start it.

        Raises:
            LabError: As `llmlab.start`.
        """
        made = (self.starter or self._start)(self.name, self.timeout_s)
        self._started, self._client, self.start_s = made, made.client, made.start_s
        try:
            self._attach(made.pid, container=made.record.backend == "container")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        """Stop it."""
        for source in (*self._instruments.values(), *self._gpus):
            source.close()
        with suppress(BackendError):
            self._started.stop(2.0)

    @property
    def record(self) -> Any:
        """What was written down when it was started."""
        return self._started.record

    def setting(self, prompt_tokens: int, tokens: int | None, seconds: float) -> Setting:
        """Prompt and length of the answers: see `Asking.setting`."""
        return self._asking.setting(prompt_tokens, tokens, seconds)

    def agreed(self, setting: Setting) -> Setting:
        """Another server's setting, so that this one can do the same: see `Asking.agreed`."""
        return self._asking.agreed(setting)

    def warm(self, setting: Setting) -> None:
        """The first request, which is not counted but for its time to first token."""
        self.cold_ttft_s = ttft_s(self._complete(setting), setting)

    def measure(self, setting: Setting, began: float) -> Request:
        """One request.

        Args:
            setting: What it is.
            began: `time.monotonic()` of the block's beginning.

        Raises:
            ServerError: If it does not answer.
        """
        before, start = self._read(), time.monotonic()
        done = self._complete(setting)
        end, after = time.monotonic(), self._read()
        seconds = after["now"] - before["now"]
        cpu = _times(after.get("process.cpu"), seconds)
        count = done.generated or len(done.tokens) or setting.tokens
        self._count(before, after, count, end - start)
        # Of text that was not complete, a stream names the last token only: that is no answer to compare.
        told = done.tokens if setting.clock == "engine" or len(done.tokens) == count else ()
        busy, own = after.get("host.cpu"), after.get("process.cpu")
        return Request(
            arm=self.arm.key,
            began_s=start - began,
            values={
                **(by_client(done, count) if setting.clock == "client" else {}),
                "generated": rate(count - 1, done.generated_s),
                "prompt": rate(done.prompt_tokens, done.prompt_s),
                "ttft_s": ttft_s(done, setting),
                "total_s": done.total_s,
                "cpu_s": cpu or None,
            },
            evidence={
                "throttled": after.get("cgroup.throttled"),
                "faults": _times(after.get("process.faults"), seconds),
                "steal": after.get("host.steal"),
                "others_cpus": None if busy is None or own is None else max(0.0, busy - own),
            },
            answer=hashlib.sha256(repr(told).encode()).hexdigest() if told else "",
            tokens=count,
        )

    def at_the_end(self) -> dict[str, float | None]:
        """What is measured once for each start."""
        seen = self._read()
        energy = self._energy
        known = energy.joules and energy.tokens and energy.seconds >= _ENERGY_S
        return {
            **self._started.seen,
            "start_s": self.start_s,
            "cold_ttft_s": self.cold_ttft_s,
            "memory_mib": seen.get("process.anonymous"),
            "gpu_memory_mib": seen.get("share.gpu_memory") or None,
            "joules_per_token": (energy.joules or 0.0) / energy.tokens if known else None,
        }

    def _start(self, name: str, timeout_s: float) -> Started:
        return started(lambda: lab.start(name=name, timeout_s=timeout_s, **self.arm.options))

    @property
    def _asking(self) -> Asking:
        spec = self.record.spec
        return Asking(
            name=self.name,
            client=self._client,
            engine=spec.engine,
            context=spec.context,
            timeout_s=self.timeout_s,
        )

    def _complete(self, setting: Setting) -> Completion:
        return self._asking.complete(setting)

    def _attach(self, pid: int | None, *, container: bool) -> None:
        self._instruments["host"] = HostSource()
        for number, source in enumerate(rapl_sources()):
            self._instruments[f"rapl{number}"] = source
        if pid is None:
            return
        self._instruments["process"] = ProcessSource(self.name, pid)
        if container:
            self._instruments["cgroup"] = CgroupSource(self.name, pid)
        self._gpus = gpu_sources()
        if whole := [gpu for gpu in self._gpus if isinstance(gpu, GpuSource) and " mig " not in gpu.subject]:
            self._instruments["share"] = GpuShare(self.name, pid, whole)

    def _read(self) -> dict[str, Any]:
        """All instruments; rates are since the last time."""
        now = time.monotonic()
        for gpu in self._gpus:
            gpu.read(now)
        found: dict[str, Any] = {"now": now}
        for name, source in self._instruments.items():
            found |= {f"{name}.{key}": value for key, value in source.read(now).items()}
        return found

    def _count(
        self, before: Mapping[str, Any], after: Mapping[str, Any], tokens: int, seconds: float
    ) -> None:
        """Add a request's energy: of the GPUs that it is on, else of the CPU packages."""
        key = "share.gpu_energy" if after.get("share.gpu_memory") else "rapl0.energy_j"
        first, last = before.get(key), after.get(key)
        energy = self._energy
        if first is None or last is None or energy.joules is None:
            energy.joules = None
        else:
            energy.joules += last - first
        energy.tokens += tokens
        energy.seconds += seconds


def _times(rate: float | None, seconds: float) -> float | None:
    return None if rate is None else rate * seconds
