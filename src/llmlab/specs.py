"""What is asked for, as frozen values. Units stand in the names (_s, _mib, _bytes)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

EngineName = Literal["llama-server", "llama-cpp-python"]
BackendName = Literal["native", "container"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A weights file, known well enough to serve it.

    Attributes:
        reference: What the user typed: `tiny`, `./file.gguf`.
        name: A short name for tables and server names.
        path: The file on this machine.
        file_bytes: Its size.
        sha256: Its hash, hexadecimal.
        architecture: `general.architecture` of the file, such as `llama`.
        n_layers: Number of transformer blocks.
        n_kv_heads: Number of key/value heads per layer.
        head_dim: Elements of one key (and value) head.
        n_vocab: Size of the vocabulary.
        context_train: The context length the model was trained with, in tokens.
        control_tokens: Texts that the tokenizer turns into control tokens and
            that do not look like `<|…|>`.
    """

    reference: str
    name: str
    path: Path
    file_bytes: int
    sha256: str
    architecture: str
    n_layers: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int
    context_train: int
    control_tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The share of the machine that a container gets.

    Attributes:
        memory_mib: Memory, swap included; files in tmpfs count against it.
        cpus: CPU time per second of wall time.
        pids: Number of processes and threads.
    """

    memory_mib: int
    cpus: float
    pids: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSpec:
    """What an engine is asked to serve; the same value on every backend.

    Attributes:
        model: The model.
        engine: The program that serves it.
        context: Tokens of context for each slot.
        slots: Number of requests answered at the same time.
        threads: Number of compute threads.
    """

    model: Model
    engine: EngineName
    context: int
    slots: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How a server is reached: a unix socket, or loopback TCP.

    Attributes:
        socket: Path of the unix socket, or None.
        port: Port on 127.0.0.1, or None.
        key_file: File with the API key, or None where no key is asked for.
    """

    socket: Path | None = None
    port: int | None = None
    key_file: Path | None = None

    def __str__(self) -> str:
        """The endpoint as a person writes it."""
        return f"unix:{self.socket}" if self.socket else f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process, told apart from a later one with the same pid.

    Attributes:
        pid: Process id, as this machine counts.
        start: When and where it started; on Linux
            `<boot id>:<pid namespace>:<clock ticks>`.
    """

    pid: int
    start: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A server as it is written down: in container labels or in a state file.

    Attributes:
        name: The server's name, unique for this user.
        backend: Where it runs.
        spec: What it serves.
        endpoint: How it is reached.
        created: When it was started, seconds since the epoch.
        owner: The process whose end makes the server an orphan; None keeps it
            until it is stopped.
        process: The server's own process (native), or None.
        container_id: The container's id, or None.
        build: Identity of the engine's files: name → sha256.
        image: Image id and tag of a container, or None.
        user: The `uid:gid` that was asked for in a container, or None.
        argv: The engine's command line.
        limits: The container's share of the machine, or None (native).
        notes: What the user should know about how it was started.
    """

    name: str
    backend: BackendName
    spec: ServeSpec
    endpoint: Endpoint
    created: float
    owner: Process | None = None
    process: Process | None = None
    container_id: str | None = None
    build: dict[str, str] = field(default_factory=dict)
    image: str | None = None
    user: str | None = None
    argv: tuple[str, ...] = ()
    limits: Limits | None = None
    notes: tuple[str, ...] = ()


def to_dict(value: Any) -> Any:
    """A frozen value as plain JSON data: paths become strings, tuples lists."""
    return _plain(asdict(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def record_from_dict(data: dict[str, Any]) -> Record:
    """The inverse of `to_dict` for a `Record`.

    Raises:
        ValueError: If the data is not a record of this version.
    """
    try:
        spec = dict(data["spec"])
        model = dict(spec["model"])
        model["path"] = Path(model["path"])
        model["control_tokens"] = tuple(model["control_tokens"])
        spec["model"] = Model(**model)
        endpoint = dict(data["endpoint"])
        for name in ("socket", "key_file"):
            endpoint[name] = Path(endpoint[name]) if endpoint[name] else None
        known = {f.name for f in fields(Record)}
        rest = {key: value for key, value in data.items() if key in known}
        rest["spec"] = ServeSpec(**spec)
        rest["endpoint"] = Endpoint(**endpoint)
        for name in ("owner", "process"):
            rest[name] = Process(**data[name]) if data[name] else None
        rest["limits"] = Limits(**data["limits"]) if data["limits"] else None
        rest["argv"] = tuple(data["argv"])
        rest["notes"] = tuple(data["notes"])
        return Record(**rest)
    except (KeyError, TypeError, AttributeError) as error:
        msg = f"not a server record: {error}"
        raise ValueError(msg) from error
