"""The verbs, as Python functions.

Their signatures and docstrings are the command line and the magic as well:
parser, help and completion are derived from them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, cast

from llmlab import runtime
from llmlab.arguments import Arg
from llmlab.backends import backend_names
from llmlab.engines import engine_names
from llmlab.errors import UsageError
from llmlab.lab import dry_run as dry
from llmlab.lab import launch, placing, registry
from llmlab.lab import replicas as several
from llmlab.lab import usage as measured
from llmlab.lab.planning import Wish
from llmlab.lab.server import Server, check_timeout
from llmlab.profiles import Network, ProfileName, Transport
from llmlab.reporting import STAGES, reporter
from llmlab.results import Answer, Logs, ServerList, Stopped
from llmlab.results_isolation import Inspection
from llmlab.specs import BackendName, EngineName, KvType

__all__ = ["Server", "ask", "attach", "inspect", "logs", "ps", "start", "stop"]


def start(  # noqa: PLR0913 - each is an option of the command line
    model: Annotated[str, Arg(completes="model")] = "tiny",
    *,
    backend: Annotated[BackendName | None, Arg(choices_as_flags=True, choices=backend_names)] = None,
    name: str | None = None,
    engine: Annotated[EngineName | None, Arg(choices=engine_names)] = None,
    context: int | None = None,
    slots: int = 4,
    threads: int | None = None,
    kv_type: KvType = "f16",
    memory: Annotated[str | int | None, Arg(metavar="SIZE")] = None,
    cpus: float | None = None,
    profile: ProfileName | None = None,
    pids: int | None = None,
    gpus: Annotated[str | None, Arg(metavar="N|all|device=0,1|amd|intel")] = None,
    gpu_layers: Annotated[str | None, Arg(metavar="all|N")] = None,
    root: Annotated[Literal["read-only", "writable"] | None, Arg(choices_as_flags=True)] = None,
    network: Network | None = None,
    user: Annotated[str | None, Arg(metavar="UID[:GID]")] = None,
    expose: Annotated[int | None, Arg(metavar="PORT")] = None,
    transport: Transport | None = None,
    image: str | None = None,
    restart: Annotated[str | None, Arg(metavar="no|on-failure[:N]")] = None,
    on: Annotated[str | None, Arg(metavar="NODE|any", completes="node")] = None,
    replicas: int | None = None,
    keep: bool = False,
    force: bool = False,
    dry_run: bool = False,
    timeout_s: float = 300.0,
) -> Server:
    """Start a model and return when it has answered.

    In a container, if a container engine is there: without network, with a
    read-only root, reached through a unix socket. Otherwise natively, and it
    says so.

    Args:
        model: `tiny`, the built-in teaching model; a name of the catalog
            (`models` lists it); the path of a GGUF file, or of a directory of safetensors,
            which vllm serves; `hf:owner/repo[:QUANT]`, fetched if it is not here; `ollama:name`; or `synthetic:SHAPE[:QUANT]`,
            random weights in the shape of a model, for measuring.
        backend: Run it in a container, or natively, as a process of yours
            without isolation. Unset: in a container where that is possible.
        name: What to call the server. Unset: the model's name, with a number
            if that is taken.
        engine: The program that serves it. Unset: llama-server, or
            llama-cpp-python where only that is installed. ollama and vllm run in
            containers only, from their published images.
        context: Tokens of context for each request. Unset: what the model was
            trained with, at most 4096.
        slots: Requests answered at the same time; llama-cpp-python has one.
        threads: Compute threads. Unset: one for very small models, else one
            for each CPU, at most 8.
        kv_type: Type of the numbers in the KV cache; q8_0 takes about half the
            memory of f16.
        memory: Memory limit of a container, such as 2g or 512m; a bare number
            is in MiB. Unset: what the model needs, with room to spare.
        cpus: CPU limit of a container. Unset: one more than threads.
        profile: The isolation of a container: sealed (no network, nothing to
            write but a scratch directory; unset means this), gpu (sealed, with
            one GPU), exposed (sealed, with an endpoint for other tools), video
            (the flags that tutorials have one type) or none (plain `docker
            run`). The last two are for comparing: they leave the network open.
        pids: Limit of processes and threads of a container.
        gpus: GPUs that it may use, as docker has it: a number of them (those with the most
            memory left), all, device=0,1, a UUID or a MIG slice (device=0:1); amd or amd=0,
            intel or intel=0. Unset: a container gets none, a native server the one with the
            most memory left, if llama.cpp here was compiled for GPUs.
        gpu_layers: How many of the model's layers go onto a GPU: all, or a number; 0 uses
            no GPU. Unset: as many as fit on the GPUs that it may use.
        root: Whether a container's root file system can be written.
        network: A container's network; none means that nothing goes out.
        user: The user that the engine runs as in a container.
        expose: Make an endpoint for other tools at this port of 127.0.0.1, with
            a generated key; 0 takes any port that is free.
        transport: How a container is reached: a unix socket, a relay through
            the container engine's API, a sidecar container, or a published
            port. Unset: the tightest that works here.
        image: Use this container image in place of the one that is made from
            the native engine's files, or of the engine's published one. official, or
            official:VARIANT, is the llama.cpp project's own: cpu, cuda, cuda13, rocm,
            vulkan or intel; unset, the GPU decides. Another one must have /app/llama-server.
        restart: What the container engine does when the server dies: no (unset means this),
            or on-failure, which starts it anew up to 3 times, or N.
        on: Start it on another machine's container engine: a node that `nodes` lists, an
            address such as ssh://user@host, or any, the least loaded of them.
        replicas: Start so many on the nodes of a cluster, behind one address; those that
            are lost are replaced.
        keep: Keep the server when the notebook server or script that started
            it has ended. Servers started from a terminal are always kept.
        force: Start it even if it is predicted not to fit into memory. That can
            freeze the machine.
        dry_run: Start nothing: show the command that would, with a reason for
            each part of it. Pasted into a terminal, it starts the same server.
        timeout_s: Longest wait until it answers, in seconds.

    Raises:
        UsageError: An argument does not fit.
        MemoryFitError: It would not fit into memory.
        ModelError: The model cannot be used.
        BackendError: The container engine does not do it.
        StartError: It did not come up; the error has the log's last lines.
    """
    check_timeout(timeout_s)
    report = reporter()
    report.begin(f"start {model}", () if dry_run else STAGES)
    failed = True
    try:
        registry.sweep()
        if replicas is not None and on == placing.ANY:
            on = None  # a cluster's nodes are what there is to choose from
        with placing.placed(on, native=backend == "native", gpus=gpus is not None) as node:
            wish = Wish(
                model=model,
                backend=backend or ("container" if node else None),
                name=name,
                engine=engine,
                context=context,
                slots=slots,
                threads=threads,
                kv_type=kv_type,
                memory=memory,
                cpus=cpus,
                pids=pids,
                gpus=None if gpus is None else str(gpus),
                gpu_layers=None if gpu_layers is None else str(gpu_layers),
                profile=profile,
                root=root,
                network=network,
                user=user,
                expose=expose,
                transport=transport,
                image=image,
                restart=restart,
                on=node,
                keep=keep,
                force=force,
            )
            # Who asks for a dry run knows what comes: no handle. The signature is that of
            # everybody else's call; overloads would say all of it three times.
            if dry_run and replicas is not None:
                raise UsageError("there is no single command for replicas", hint="leave --dry-run out")
            started = (
                dry.dry_run(wish)
                if dry_run
                else Server(launch.launch(wish, timeout_s=timeout_s))
                if replicas is None
                else Server(several.start(wish, replicas, timeout_s=timeout_s))
            )
        failed = False
        return cast("Server", started)
    finally:
        report.end(failed=failed)


def stop(
    name: Annotated[str | None, Arg(completes="server")] = None,
    *,
    all: bool = False,  # noqa: A002 - docker's and ollama's word
    grace_s: float = 5.0,
    forget: bool = False,
) -> Stopped:
    """Stop a server and remove everything that belongs to it.

    A classroom that was joined is left: its address and key are forgotten here, and nothing
    is stopped there.

    Args:
        name: The server. Unset: the only one there is.
        all: Stop all of your servers.
        grace_s: Seconds it may take to end by itself before it is killed.
        forget: If its container engine does not answer, give the server up; what it left on
            that node is removed by `nodes` when the node is back.

    Raises:
        UsageError: No such server, or several and none named.
        DaemonError: Its container engine does not answer.
        ServerBusyError: Another process is starting or stopping it.
    """
    if all and name:
        raise UsageError("a name and --all do not go together", hint="leave one of them out")
    swept = registry.sweep()
    if all:
        return Stopped(names=(*swept, *registry.stop_all(grace_s=grace_s, forget=forget)))
    if name is None and not registry.find_all():
        return Stopped(names=swept)
    record = registry.select(name, newest=False)
    several.refuse(record)
    return Stopped(names=(record.name,) if registry.stop(record, grace_s=grace_s, forget=forget) else ())


def ps(*, usage: bool = False) -> ServerList:
    """List your servers, newest first, whoever started them.

    Servers whose notebook server or script has ended are removed first.

    Args:
        usage: Add what each takes now: CPU, memory, tokens/s; takes half a second.
    """
    registry.sweep()
    for name in runtime.newer():
        reporter().note(
            f"{name} was started by a newer llmlab and is left alone: use that one, or update this"
        )
    records = registry.find_all()
    rows = [registry.status(record) for record in records]
    taken = measured.of(records) if usage else {}
    return ServerList(tuple(replace(row, usage=taken.get(row.name)) for row in rows))


def inspect(name: Annotated[str | None, Arg(completes="server")] = None) -> Inspection:
    """Show everything about a server, and whether its isolation is in force.

    Args:
        name: The server. Unset: the newest.

    Raises:
        UsageError: No such server.
    """
    return Server(registry.select(name)).inspect()


def logs(name: Annotated[str | None, Arg(completes="server")] = None, *, tail: int | None = 50) -> Logs:
    """Show the last lines of a server's log.

    Args:
        name: The server. Unset: the newest.
        tail: Number of lines.

    Raises:
        UsageError: No such server.
    """
    server = Server(registry.select(name))
    shown = server.logs(tail=tail)
    if detail := server.status.detail:
        reporter().note(f"{server.name}: {detail}")
    return shown


def ask(
    prompt: str,
    *,
    server: Annotated[str | None, Arg(positional=True, completes="server")] = None,
    system: str = "",
    max_tokens: int | None = None,
    temperature: float = 0.2,
    seed: int | None = None,
    timeout_s: float = 300.0,
) -> Answer:
    """Ask a server, and see the answer as it is written.

    Args:
        prompt: The question. Taken as it is: braces and dollars mean nothing.
        server: The server to ask. Unset: the newest.
        system: Instructions that stand before the question.
        max_tokens: Most tokens to generate. Unset: 512, or 64 from synthetic weights.
        temperature: 0 picks the likeliest token each time; higher is more varied.
        seed: Seed of the random choice. Unset: another one each time.
        timeout_s: Longest wait for the next piece of the answer, in seconds.

    Raises:
        UsageError: No such server, or a setting out of range.
        ServerStoppedError: It is not running, or died meanwhile.
        ContextError: The prompt is longer than the context.
        AskInterrupted: Ctrl-C; carries the answer as far as it came.
    """
    if server is None and prompt in {record.name for record in registry.find_all()}:
        raise UsageError(f"what is the question for server {prompt!r}?", hint=f'ask {prompt} "…"')
    return Server(registry.select(server)).ask(
        prompt,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        timeout_s=timeout_s,
    )


def attach(name: str | None = None) -> Server:
    """A handle on a server that runs already, whoever started it.

    Args:
        name: The server. Unset: the newest.

    Raises:
        UsageError: No such server.
    """
    return Server(registry.select(name))
