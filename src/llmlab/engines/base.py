"""What every engine is: a spec becomes a command line, and a log a reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, cast

from llmlab.engines import plugins
from llmlab.errors import EngineError, UnknownNameError, UsageError
from llmlab.specs import BackendName, EngineName, ServeSpec
from llmlab.weights.anatomy import Form

_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")

GROUP = "llmlab.engines"
"""Entry points of other packages' engines: name → a module with the names of `Engine`."""

# Name → module. To add an engine: write its module, name it here and in
# `specs.EngineName`.
_ENGINES = {
    "llama-server": "llama_server",
    "llama-cpp-python": "llama_cpp_python",
    "ollama": "ollama",
    "vllm": "vllm",
}
# Those that load llama.cpp's libraries as they are built or found here.
_LLAMA_CPP = frozenset({"llama-server", "llama-cpp-python"})


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The published image of an engine that llmlab makes none of, and what it needs of its container.

    Attributes:
        name: Repository and tag.
        program: Its program there: a path, or a name that is looked for on the image's PATH.
        banner: Pattern of what the program says when it is asked for its `--version`; None
            where asking takes as long as a start.
        version: Where its server tells its version, as JSON.
        needs_gpu: Whether this image computes on GPUs only.
        without_gpu: What to do where there is none.
        loopback: Whether its processes talk to each other through the internet family.
        pids: Least limit of processes and threads.
        open_files: Least limit of open files.
        scratch_mib: Least size of the scratch directory.
        scratch_exec: Whether it loads code from there that it has compiled.
        shm_mib: Size of its shared memory; None for the container engine's own.
    """

    name: str
    program: str
    banner: str | None = None
    version: str | None = None
    needs_gpu: bool = False
    without_gpu: str = ""
    loopback: bool = False
    pids: int = 0
    open_files: int = 0
    scratch_mib: int = 0
    scratch_exec: bool = False
    shm_mib: int | None = None


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that an engine looks for among its models.

    Attributes:
        target: Its path below the directory of the models.
        source: The file, or its bytes.
    """

    target: str
    source: Path | bytes


class Engine(Protocol):
    """An engine as a module: these names at its top level.

    llmlab's own may also have `IMAGE`, an `Image`; `model_files(spec)`, where a model is more
    than its file; `notes(spec)`, what the user should know; `PARALLEL`, if it answers
    several requests at the same time; and `FORMS`, the forms of models that it serves, if that
    is not GGUF alone.
    """

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


def runs_llama_cpp(name: str) -> bool:
    """Whether an engine is one of llmlab's own that load llama.cpp's libraries themselves."""
    return name in _LLAMA_CPP


def image_of(engine: Engine) -> Image | None:
    """The published image of an engine; None if llmlab makes its image, or it has none."""
    found: Image | None = getattr(engine, "IMAGE", None)
    return found


def is_parallel(engine: Engine) -> bool:
    """Whether an engine answers several requests at the same time."""
    return bool(getattr(engine, "PARALLEL", False))


def require_form(engine: Engine, form: Form, name: str) -> None:
    """Refuse a model in a form that an engine does not serve.

    Args:
        engine: The engine.
        form: The form of the model's files.
        name: The model's name.

    Raises:
        UsageError: With an engine that serves it, and how to convert it.
    """
    if form not in getattr(engine, "FORMS", ("gguf",)):
        raise UsageError(
            f"{engine.NAME} serves GGUF files, and {name} is a directory of {form}",
            hint="--engine vllm serves it as it is; llama.cpp's convert_hf_to_gguf.py makes a GGUF file of it",
        )


def model_files(engine: Engine, spec: ServeSpec) -> tuple[ModelFile, ...]:
    """What an engine finds in the directory of the models.

    Raises:
        LabError: If it cannot serve that model.
    """
    if found := getattr(engine, "model_files", None):
        return tuple(found(spec))
    # A model may be a link into a store, so that its name and its place differ.
    return tuple(ModelFile(path.name, path) for path in spec.model.files)


def notes(engine: Engine, spec: ServeSpec) -> tuple[str, ...]:
    """What the user should know about how an engine serves a model."""
    found = getattr(engine, "notes", None)
    return tuple(found(spec)) if found else ()


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
