"""One small request through each way of reaching a container, against native loopback TCP."""

from __future__ import annotations

import http.client
import math
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import PurePosixPath
from typing import Any

import llmlab
from bench import common
from llmlab import engines
from llmlab.builds import find_build
from llmlab.lab import registry
from llmlab.specs import Record

_ROUNDS, _WARM_UP = 300, 20
# A relay that waits for the next request takes about 0.1 s to be made.
_PAUSE_S, _PAUSED_ROUNDS = 0.3, 40
_STARTS: dict[str, dict[str, Any]] = {
    "native, unix socket": {"backend": "native"},
    "socket": {"backend": "container"},
    "sidecar": {"backend": "container", "transport": "sidecar"},
    "port": {"backend": "container", "profile": "none"},
    "relay": {"backend": "container", "transport": "relay"},
}
_BASE = "native, loopback TCP"


def run() -> dict[str, Any]:
    """Measure all of them in turns."""
    with ExitStack() as stack:
        ways: dict[str, Callable[[], None]] = {}
        for number, (name, options) in enumerate(_STARTS.items()):
            server = stack.enter_context(llmlab.start("tiny", name=f"bench-{number}", slots=1, **options))
            ways[name] = _through_client(server.record)
        exposed = stack.enter_context(llmlab.start("tiny", name="bench-exposed", slots=1, expose=0))
        ways["exposed, with the key"] = _through_gate(exposed.record)
        ways[_BASE] = stack.enter_context(_loopback(server.record))
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(_ROUNDS + _WARM_UP):
            for name, way in ways.items():
                elapsed = _timed(way)
                if number >= _WARM_UP:
                    taken[name].append(elapsed)
        paused = []
        for _ in range(_PAUSED_ROUNDS):
            time.sleep(_PAUSE_S)
            paused.append((_timed(ways["relay"]), _timed(ways[_BASE])))
    base = taken[_BASE]
    results = {name: _row(name, values, base) for name, values in taken.items()}
    relay, base = ([pair[side] for pair in paused] for side in (0, 1))
    results["relay, one that waited"] = _row("relay, one that waited", relay, base)
    return {
        "definition": "a new connection, its peer checked where that can be, GET /health, the answer read; "
        "in turns with all the others",
        "baseline": _BASE,
        "ways": results,
    }


def _row(name: str, values: list[float], base: list[float]) -> dict[str, Any]:
    ratios = [value / other for value, other in zip(values, base, strict=True)]
    found = common.spread(ratios, 2)
    del found["values"]
    us = {f"p{p}_us": round(common.percentile(values, p) * 1e6) for p in (50, 99)}
    print(
        f"  {name:<26} p50 {us['p50_us']:>7} µs   p99 {us['p99_us']:>7} µs   "
        f"{found['median']:>7g} × loopback (quartiles {found['quartiles'][0]:g} … {found['quartiles'][1]:g})",
        flush=True,
    )
    return {**us, "ratio": found, "geometric_mean_ratio": round(_mean(ratios), 2)}


def _mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _timed(way: Callable[[], None]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def _through_client(record: Record) -> Callable[[], None]:
    client = registry.client(record)

    def request() -> None:
        assert client.healthy(timeout_s=10), f"{record.name} did not answer"

    return request


def _through_gate(record: Record) -> Callable[[], None]:
    port, key_file = record.endpoint.exposed_port, record.endpoint.key_file
    assert port is not None
    assert key_file is not None
    key = key_file.read_text(encoding="ascii").strip()
    return lambda: _http(port, {"Authorization": f"Bearer {key}"})


@contextmanager
def _loopback(like: Record) -> Iterator[Callable[[], None]]:
    """The same engine and model as a process of ours, on a loopback port."""
    build = find_build()
    port = _free_port()
    paths = engines.Paths(
        program=PurePosixPath(build.server),
        model=PurePosixPath(like.spec.model.path),
        host="127.0.0.1",
        port=port,
        scratch=PurePosixPath("/nonexistent"),
        library_dir=PurePosixPath(build.library_dir) if build.library_dir else None,
    )
    engine = engines.engine("llama-server")
    with subprocess.Popen(
        engine.argv(like.spec, paths),
        env=engine.environment(like.spec, paths),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            for _ in range(500):
                try:
                    _http(port, {})
                    break
                except (OSError, AssertionError):
                    time.sleep(0.02)
            yield lambda: _http(port, {})
        finally:
            process.terminate()


def _http(port: int, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health", headers={"Connection": "close", **headers})
        response = connection.getresponse()
        response.read()
        assert response.status == http.HTTPStatus.OK, response.status
    finally:
        connection.close()


def _free_port() -> int:

    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])
