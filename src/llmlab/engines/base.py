"""What every engine is: a spec becomes a command line, and a log a reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any, Protocol, cast

from llmlab.engines import plugins
from llmlab.errors import EngineError, UnknownNameError
from llmlab.specs import BackendName, EngineName, ServeSpec

_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")

GROUP = "llmlab.engines"
"""Entry points of other packages' engines: name → a module with the names of `Engine`."""

# Name → module. To add an engine: write its module, name it here and in
# `specs.EngineName`.
_ENGINES = {
    "llama-server": "llama_server",
    "llama-cpp-python": "llama_cpp_python",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where things are from the engine's point of view, native or in a container.

    Attributes:
        program: The engine's program: llama-server, or the Python interpreter.
        model: The model's file.
        scratch: A writable directory.
        socket: The unix socket to listen on; None to listen on TCP.
        host: The address to listen on then.
        port: The port.
        library_dir: Directory of the llama.cpp libraries, or None if the
            program finds its own.
    """

    program: PurePosixPath
    model: PurePosixPath
    scratch: PurePosixPath
    socket: PurePosixPath | None = None
    host: str = "127.0.0.1"
    port: int = 0
    library_dir: PurePosixPath | None = None


class Engine(Protocol):
    """An engine as a module: these names at its top level."""

    NAME: EngineName
    BACKENDS: frozenset[BackendName]
    UNIX_SOCKETS: bool
    HEALTH_PATH: str
    METRICS: bool
    """Whether it has llama-server's `/metrics` and `/slots`."""

    def argv(self, spec: ServeSpec, paths: Paths) -> list[str]:
        """The command line, program first."""

    def environment(self, spec: ServeSpec, paths: Paths) -> dict[str, str]:
        """Environment variables; nothing else of the caller's is passed on."""

    def offloaded(self, log: Sequence[str]) -> tuple[int, int] | None:
        """Layers it has put onto a GPU, and how many there are, read from the log; None if it does not say."""

    def explain(self, log: Sequence[str]) -> tuple[str, str] | None:
        """Why a start failed, read from the log: (reason, hint), or None."""


def offloaded(log: Sequence[str]) -> tuple[int, int] | None:
    """What llama.cpp says of its layers in its log: put onto a GPU, and in all."""
    found = [match for line in log if (match := _OFFLOADED.search(line))]
    return (int(found[-1][1]), int(found[-1][2])) if found else None


def engine_names() -> tuple[str, ...]:
    """All engines, those of other packages last."""
    return (*_ENGINES, *plugins.names(GROUP, _ENGINES))


def is_built_in(name: str) -> bool:
    """Whether an engine is one of llmlab's own, which run llama.cpp."""
    return name in _ENGINES


def engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UnknownNameError: If there is none.
        EngineError: If another package brings it, and it cannot be used.
    """
    if name in _ENGINES:
        return cast("Engine", import_module(f"llmlab.engines.{_ENGINES[name]}"))
    if name not in plugins.names(GROUP, _ENGINES):
        raise UnknownNameError("engine", name, engine_names())
    found: Any = plugins.load(GROUP, name, Engine, EngineError)
    if "container" in found.BACKENDS:
        raise EngineError(
            f"engine {name!r} cannot be used: its BACKENDS names container, whose images hold llama-server only",
            hint="an engine of another package runs natively, or on a backend that it brings along",
        )
    return cast("Engine", found)
