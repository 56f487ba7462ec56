"""What is asked for, as frozen values. Units stand in the names (_s, _mib, _bytes)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from llmlab.errors import MALFORMED
from llmlab.profiles import Profile, Transport
from llmlab.specs.plain import to_dict, value_of

__all__ = [
    "BackendName",
    "Endpoint",
    "EngineName",
    "GivenGpus",
    "GpuVerdict",
    "KvType",
    "Limits",
    "Model",
    "Prediction",
    "Process",
    "Record",
    "ServeSpec",
    "Sign",
    "record_from_dict",
    "to_dict",
    "value_of",
]

# The built-in names, which a command line offers, or one that another package brings.
EngineName = Literal["llama-server", "llama-cpp-python", "ollama", "vllm"] | str  # noqa: PYI051 - see above
BackendName = Literal["native", "container"] | str  # noqa: PYI051 - see above
KvType = Literal["f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A weights file, known well enough to serve it.

    Attributes:
        reference: What the user typed: `tiny`, `./file.gguf`, `hf:owner/repo`.
        name: A short name for tables and server names.
        path: The file on this machine; of a split model, the first; of a room's model, only its name.
        files: All its files; `path` first; none if they are not on this machine.
        file_bytes: Their size.
        sha256: The hash of the first file, hexadecimal.
        architecture: `general.architecture` of the file, such as `llama`.
        parameters: Number of parameters.
        quantisation: Such as "Q4_K_M".
        synthetic: Whether its weights are random: its text means nothing.
        n_vocab: Size of the vocabulary.
        context_train: The context length the model was trained with, in tokens.
        control_tokens: Texts that the tokenizer turns into control tokens and
            that do not look like `<|…|>`.
    """

    reference: str
    name: str
    path: Path
    files: tuple[Path, ...]
    file_bytes: int
    sha256: str
    architecture: str
    parameters: int
    quantisation: str
    synthetic: bool
    n_vocab: int
    context_train: int
    control_tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a start is predicted to take; compared with what is seen.

    Attributes:
        required_mib: Memory it cannot do without.
        resident_mib: Memory it holds at most.
        ready_mib: Memory it holds when it has just started.
        vram_mib: GPU memory it takes; None if it is to use no GPU.
        decode_tokens_per_s: Rate of generation for one request; None if this
            machine has not been measured.
        prefill_tokens_per_s: Rate of reading a prompt of 512 tokens; likewise.
        context_token_s: Seconds that each token in the context adds to the
            time of a generated token; likewise.
    """

    required_mib: int
    resident_mib: int
    ready_mib: int
    vram_mib: int | None = None
    decode_tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    context_token_s: float | None = None

    def decode_at(self, depth: float) -> float | None:
        """The rate of generation with so many tokens in the context."""
        if self.decode_tokens_per_s is None:
            return None
        return 1 / (1 / self.decode_tokens_per_s + depth * (self.context_token_s or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The share of the machine that a container gets.

    Attributes:
        memory_mib: Memory, swap included; files in tmpfs count against it.
            None for no limit.
        cpus: CPU time per second of wall time; None for no limit.
        pids: Number of processes and threads; None for no limit.
    """

    memory_mib: int | None
    cpus: float | None
    pids: int | None = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSpec:
    """What an engine is asked to serve; the same value on every backend.

    Attributes:
        model: The model.
        engine: The program that serves it.
        context: Tokens of context for each slot.
        slots: Number of requests answered at the same time.
        threads: Number of compute threads.
        kv_type: Type of the KV cache.
        gpu_layers: Layers whose weights and cache lie in a GPU's memory, counted from
            the last; one more than the model has takes the output matrix along. 0: no GPU is used.
        gpu_share: The share of a GPU's memory that an engine may take which takes a share of
            it; None for its own choice.
    """

    model: Model
    engine: EngineName
    context: int
    slots: int
    threads: int
    kv_type: KvType = "f16"
    gpu_layers: int = 0
    gpu_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How a server is reached: a unix socket, loopback TCP, an address, or by a backend's own way.

    Attributes:
        socket: Path of the unix socket, or None.
        port: Port on 127.0.0.1, or None.
        key_file: File with the API key, or None where no key is asked for.
        exposed_port: Port on 127.0.0.1 for other tools, which asks for the key, or None.
        url: Address of a room that was joined, its certificate's fingerprint after the # sign, or None.
    """

    socket: Path | None = None
    port: int | None = None
    key_file: Path | None = None
    exposed_port: int | None = None
    url: str | None = None

    @property
    def host(self) -> str:
        """What a request to it names as its host."""
        return urlsplit(self.url).netloc if self.url else "localhost"

    def __str__(self) -> str:
        """The endpoint as a person writes it."""
        if self.socket:
            return f"unix:{self.socket}"
        if self.url:
            return self.url.partition("#")[0].rstrip("/")
        return f"http://127.0.0.1:{self.port}" if self.port else "through the container engine"


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
class GivenGpus:
    """The GPUs that a server was given.

    Attributes:
        ids: What they are known by on that machine: UUIDs where the driver tells them, or numbers.
        asked: How the container engine was asked for them, as the receipt has it; none natively.
        nodes: Device files in its container that were named one by one.
        groups: Further groups of the server's, to which their device files belong.
        exceptions: What it has for them beyond the sealed profile, each with its reason.
    """

    ids: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    exceptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """One of the signs that a server computes on a GPU.

    Attributes:
        shown: Whether it shows; None if that cannot be known.
        text: What was seen, or why nothing was.
    """

    shown: bool | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuVerdict:
    """Whether a server that was to compute on a GPU does so, by three signs that were looked for when it was ready.

    Attributes:
        memory: NVML shows the server's own process with memory on a GPU.
        layers: The engine reports layers that it has put there.
        rate: It generates faster than its CPU threads could.
        cause: The likely cause of what is missing, from the log and the machine; "" if nothing tells.
        remedy: What to do about that; "" if nothing is known.
    """

    memory: Sign
    layers: Sign
    rate: Sign
    cause: str = ""
    remedy: str = ""

    @property
    def on_gpu(self) -> bool | None:
        """Whether it computes there; None if that is not known. A rate that cannot tell does not count."""
        if self.memory.shown is False or self.layers.shown is False:
            return False
        known = self.memory.shown and self.layers.shown
        return True if known and self.rate.shown is not False else None

    @property
    def missing(self) -> tuple[str, ...]:
        """The signs that do not show, by name."""
        return tuple(name for name in ("memory", "layers", "rate") if not getattr(self, name).shown)

    def __str__(self) -> str:
        """The verdict in one sentence or two."""
        signs = [self.layers, self.memory, self.rate]
        told = "; ".join(sign.text for sign in signs)
        if self.on_gpu:
            return f"on the GPU: {told}"
        doubt = "not on the GPU" if self.on_gpu is False else "not known to run on the GPU"
        cause = f". The likely cause: {self.cause}" if self.cause else ""
        return f"{doubt}, though that was asked for: {told}{cause}" + (
            f". {self.remedy}" if self.remedy else ""
        )


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
        container_engine: Where the container engine listens that has it, as in `DOCKER_HOST`.
        node: The name of the node that it was started on, or None if none was asked for.
        overlay: The network that spans a cluster's nodes and from which it is reached, or None.
        replica_of: The name of the server that it is a replica of, or None.
        replicas: The names of its replicas, of a server that passes requests on to them.
        build: Identity of the engine's files: name → sha256.
        image: Image id and tag of a container, or None.
        user: The `uid:gid` that was asked for in a container, or None.
        argv: The engine's command line.
        limits: The container's share of the machine, or None (native).
        profile: The isolation that was asked for, or None (native).
        transport: How it is reached in its container, or None (native).
        gpus: The GPUs that it was given, or None for none.
        notes: What the user should know about how it was started.
        predicted: What it was predicted to take.
        observed_mib: Memory its process held when it was ready; None if that
            could not be seen.
        verdict: Whether it computes on the GPU that was asked for; None if none was.
    """

    name: str
    backend: BackendName
    spec: ServeSpec
    endpoint: Endpoint
    created: float
    owner: Process | None = None
    process: Process | None = None
    container_id: str | None = None
    container_engine: str | None = None
    node: str | None = None
    overlay: str | None = None
    replica_of: str | None = None
    replicas: tuple[str, ...] = ()
    build: dict[str, str] = field(default_factory=dict)
    image: str | None = None
    user: str | None = None
    argv: tuple[str, ...] = ()
    limits: Limits | None = None
    profile: Profile | None = None
    transport: Transport | None = None
    gpus: GivenGpus | None = None
    notes: tuple[str, ...] = ()
    predicted: Prediction | None = None
    observed_mib: int | None = None
    verdict: GpuVerdict | None = None


def record_from_dict(data: dict[str, Any]) -> Record:
    """The inverse of `to_dict` for a `Record`; what stands in a file or a label may be anything.

    Raises:
        ValueError: If the data is not a record of this version.
    """
    try:
        known = {each.name for each in fields(Record)}
        record = value_of(Record, {key: value for key, value in data.items() if key in known})
    except MALFORMED as error:
        raise ValueError(f"not a server record: {error}") from error
    # It becomes the name of a directory that is removed with the server.
    if record.name != Path(record.name).name or record.name.startswith("."):
        raise ValueError(f"not a server's name: {record.name!r}")
    return record
