"""What every engine is: a spec becomes a command line, and a log a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any, Protocol

from llmlab.errors import UnknownNameError
from llmlab.specs import BackendName, EngineName, ServeSpec

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

    def explain(self, log: Sequence[str]) -> tuple[str, str] | None:
        """Why a start failed, read from the log: (reason, hint), or None."""


def engine_names() -> tuple[str, ...]:
    """All engines."""
    return tuple(_ENGINES)


def engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in _ENGINES:
        raise UnknownNameError("engine", name, _ENGINES)
    module: Any = import_module(f"llmlab.engines.{_ENGINES[name]}")
    checked: Engine = module
    return checked
