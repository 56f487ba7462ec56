"""From a wish to a server that has answered: plan, check, start, wait."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from llmlab import backends, engines, machine, runtime, weights
from llmlab.backends import Backend, Starting
from llmlab.builds import find_build
from llmlab.client import ChatRequest, Client
from llmlab.errors import (
    EngineMissingError,
    LabError,
    MemoryFitError,
    NameTakenError,
    RequestError,
    ServerStoppedError,
    StartError,
    UnknownNameError,
    UsageError,
)
from llmlab.lab import ledger, registry
from llmlab.machine import Machine
from llmlab.reporting import reporter
from llmlab.specs import (
    BackendName,
    EngineName,
    KvType,
    Limits,
    Model,
    Prediction,
    Record,
    ServeSpec,
)
from llmlab.weights import anatomy, fit, rates
from llmlab.weights.anatomy import Anatomy

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNIT_MIB = {"": 1.0, "k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0 * 1024}
_MIB = 1024 * 1024
_MAX_THREADS = 8
_MAX_CONTEXT = 4096
# Below this size one thread is quickest: more spend their time waiting for each other.
_SMALL_MODEL_BYTES = 64 * _MIB
_LOG_LINES = 15
# Looking at the process costs the container engine a call, asking for health does not.
_LOOK_S = 0.2
_FIRST_POLL_S, _LAST_POLL_S = 0.005, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The arguments of `start`; see there."""

    model: str
    backend: BackendName | None
    name: str | None
    engine: EngineName | None
    context: int | None
    slots: int
    threads: int | None
    kv_type: KvType
    memory: str | int | None
    cpus: float | None
    image: str | None
    keep: bool
    force: bool


def launch(wish: Wish, *, timeout_s: float) -> Record:
    """Start what is wished for; returns its record once it has answered.

    Raises:
        LabError: As `llmlab.start`. Nothing of the server is left then.
    """
    engine, choice = _engine(wish)
    place, notes = _place(wish, engine)
    notes = [*choice, *notes]
    # Before anything large is fetched or written, if it can be told by then.
    _plan(wish, wish.model, weights.foresee(wish.model), engine.NAME, place.NAME)
    model = weights.resolve(wish.model)
    plan = _plan(wish, model.name, anatomy.of_file(model.path), engine.NAME, place.NAME)
    spec = _spec(wish, model, plan.setting)
    notes += plan.notes
    for note in notes:
        reporter().note(note)
    with _claim(wish.name, model.name) as claim:
        starting = Starting(
            claim=claim,
            spec=spec,
            limits=plan.limits,
            owner=None if wish.keep else runtime.default_owner(),
            image=wish.image,
        )
        record: Record | None = None
        try:
            record = place.start(starting)
            record = replace(record, notes=(*record.notes, *notes), predicted=plan.prediction)
            claim.write(record)
            reporter().stage("load", model.name)
            _await_ready(record, place, engine, timeout_s)
            record = replace(record, observed_mib=place.resident_mib(record))
            claim.write(record)
        except BaseException:
            # Ctrl-C as well: what was begun is taken back.
            with suppress(LabError):
                if record:
                    place.stop(record, grace_s=0)
                else:
                    place.remove_abandoned(claim)
            raise
    ledger.started(record)
    reporter().stage("ready", f"{record.name} answers at {record.endpoint}")
    return record


def parse_size_mib(size: str | int) -> int:
    """A size such as "2g", "512m", "1.5 GiB" or 512 as MiB.

    Raises:
        UsageError: If it is not a size.
    """
    match = _SIZE.fullmatch(str(size).strip())
    if not match or not (mib := round(float(match[1]) * _UNIT_MIB[match[2].lower()])):
        raise UsageError(f"{size!r} is not a size", hint="write 512m, 2g, or a number of MiB")
    return mib


def _engine(wish: Wish) -> tuple[engines.Engine, list[str]]:
    """The engine, and what to say about the choice."""
    if wish.engine:
        return engines.engine(wish.engine), []
    default = engines.engine("llama-server")
    if wish.image or wish.backend == "container":
        return default, []
    try:
        find_build()
    except EngineMissingError as error:
        if not _python_engine_is_whole():
            raise
        note = f"there is no llama-server here, so llama-cpp-python serves. For llama-server: {error.hint}"
        return engines.engine("llama-cpp-python"), [note]
    return default, []


def _python_engine_is_whole() -> bool:
    """Whether llama-cpp-python is installed with libraries of its own, as its wheels are."""
    found = importlib.util.find_spec("llama_cpp")
    places = (found.submodule_search_locations or []) if found else []
    return any(path for place in places for path in Path(place).glob("lib/libllama.*"))


def _place(wish: Wish, engine: engines.Engine) -> tuple[Backend, list[str]]:
    """The backend, and what to say about the choice. Never a silent downgrade."""
    if wish.backend:
        return backends.backend(wish.backend), []
    if "container" not in engine.BACKENDS:
        return backends.backend("native"), [f"{engine.NAME} runs natively only: not isolated"]
    container = backends.backend("container")
    problem = container.unavailable()
    if problem is None:
        return container, []
    if wish.image or wish.memory or wish.cpus:
        raise problem
    note = f"{problem.message}: started natively, not isolated. To get a container: {problem.hint}"
    return backends.backend("native"), [note]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What was decided before a start.

    Attributes:
        setting: What memory depends on.
        limits: The share of the machine that a container gets.
        prediction: What it is predicted to take.
        notes: What the user should know.
    """

    setting: fit.Setting
    limits: Limits
    prediction: Prediction
    notes: tuple[str, ...]


def _plan(wish: Wish, name: str, model: Anatomy, engine: EngineName, place: BackendName) -> _Plan:
    """Decide on the setting, and whether it fits.

    Raises:
        UsageError: If an argument does not fit.
        MemoryFitError: If there is not enough memory.
    """
    for argument, value in (("context", wish.context), ("slots", wish.slots), ("threads", wish.threads)):
        if value is not None and value < 1:
            raise UsageError(f"{argument} is {value}", hint="it must be 1 or more")
    if wish.kv_type not in get_args(KvType):
        raise UnknownNameError("type of the KV cache", wish.kv_type, get_args(KvType))
    setting = fit.Setting(
        context=wish.context or default_context(model),
        slots=wish.slots if engine == "llama-server" else 1,
        kv_type=wish.kv_type,
        engine=engine,
    )
    needed = fit.need(model, setting)
    threads = wish.threads or default_threads(model.file_bytes)
    here = machine.look()
    limits = _limits(wish, needed, threads, here)
    notes = []
    if model.context_train and setting.context > model.context_train:
        notes.append(
            f"{name} was trained with a context of {model.context_train} tokens, not {setting.context}"
        )
    room, what = _room(wish, limits, here) if place == "container" else _machine_room(here)
    notes += _check_fit(name, model, setting, room, what, force=wish.force)
    measured = rates.load(threads)
    pace = rates.predict(model, measured) if measured else None
    prediction = Prediction(
        required_mib=needed.required_mib,
        resident_mib=needed.resident_mib,
        ready_mib=needed.ready_mib,
        decode_tokens_per_s=pace.decode_tokens_per_s if pace else None,
        prefill_tokens_per_s=pace.prefill_tokens_per_s if pace else None,
        context_token_s=pace.context_token_s if pace else None,
    )
    return _Plan(setting=setting, limits=limits, prediction=prediction, notes=tuple(notes))


def default_context(model: Anatomy) -> int:
    """Tokens of context for each slot: what the model was trained with, at most 4096."""
    return min(model.context_train or _MAX_CONTEXT, _MAX_CONTEXT)


def default_threads(file_bytes: int) -> int:
    """Compute threads for a model of that size: one for a very small one, else one per CPU, at most 8."""
    return 1 if file_bytes < _SMALL_MODEL_BYTES else min(machine.cpus(), _MAX_THREADS)


def _spec(wish: Wish, model: Model, setting: fit.Setting) -> ServeSpec:
    return ServeSpec(
        model=model,
        engine=setting.engine,
        context=setting.context,
        slots=setting.slots,
        threads=wish.threads or default_threads(model.file_bytes),
        kv_type=setting.kv_type,
    )


def _limits(wish: Wish, needed: fit.Need, threads: int, here: Machine) -> Limits:
    if wish.backend == "native" and (wish.memory or wish.cpus or wish.image):
        raise UsageError(
            "a native server has no limits and no image",
            hint="--memory, --cpus and --image go with --container",
        )
    memory = (
        min(fit.default_limit_mib(needed), here.total_mib)
        if wish.memory is None
        else parse_size_mib(wish.memory)
    )
    cpus = wish.cpus if wish.cpus is not None else float(min(threads + 1, here.cpus))
    if not 0 < cpus <= here.cpus:
        raise UsageError(f"cpus is {cpus:g}", hint=f"this machine has {here.cpus}")
    return Limits(memory_mib=memory, cpus=cpus)


def _machine_room(here: Machine) -> tuple[int, str]:
    """Memory there is for a server, in MiB, and how to say so."""
    return here.usable_mib, f"this machine can give {here.usable_mib} MiB of its {here.total_mib} MiB now"


def _room(wish: Wish, limits: Limits, here: Machine) -> tuple[int, str]:
    """The same for a container; a limit that was asked for bounds it.

    Raises:
        MemoryFitError: If that is more than the machine has.
    """
    if wish.memory is None:
        return _machine_room(here)
    if limits.memory_mib > here.total_mib:
        raise MemoryFitError(
            f"a limit of {limits.memory_mib} MiB is more than this machine has ({here.total_mib} MiB)",
            hint="give less --memory",
        )
    if limits.memory_mib < here.usable_mib:
        return limits.memory_mib, f"the limit is {limits.memory_mib} MiB"
    return _machine_room(here)


def _check_fit(
    name: str, model: Anatomy, setting: fit.Setting, room: int, what: str, *, force: bool
) -> list[str]:
    """Refuse what would not fit; what to say if it does so just about.

    Raises:
        MemoryFitError: With the figures, and with what would fit.
    """
    needed = fit.need(model, setting)
    verdict = needed.verdict(room)
    if verdict == "fits":
        return []
    if verdict == "tight":
        spare = needed.resident_mib - needed.required_mib
        note = f"{name} holds up to {needed.resident_mib} MiB, and {what}: it goes, because {spare} MiB"
        return [f"{note} of that can be given up, but it loads slowly"]
    message = (
        f"{name} with {setting.options()} needs {needed.required_mib} MiB ("
        + ", ".join(f"{part} {size}" for part, size in needed.parts.items() if size)
        + f"), and {what}"
    )
    if force:
        return [f"{message}; started because of --force"]
    fitting = fit.advise(model, setting, room)
    hint = (
        f"{fitting.options()} would fit" if fitting else "use a smaller model: llmlab models --fit shows them"
    )
    raise MemoryFitError(message, hint=f"{hint}; --force starts it all the same")


@contextmanager
def _claim(wished: str | None, model_name: str) -> Iterator[runtime.Claim]:
    if wished is not None and not _NAME.fullmatch(wished):
        raise UsageError(
            f"{wished!r} cannot be a name",
            hint="letters, digits, dot, dash and underscore, at most 40, beginning with a letter or digit",
        )
    taken = {record.name: record for record in registry.find_all()}
    if wished is None:
        numbered = (f"{model_name[:36]}-{n}" for n in range(2, 1000))
        candidates = [name for name in (model_name, *numbered) if name not in taken]
    else:
        candidates = [wished]
        if record := taken.get(wished):
            # One that died leaves its name to the next.
            running = backends.backend(record.backend).look(record).running
            if running or not registry.remove_ended(record):
                raise NameTakenError(
                    f"a server named {wished!r} runs already",
                    hint=f"choose another --name, or stop it first: stop {wished}",
                )
    with ExitStack() as stack:
        for candidate in candidates:
            # Another process may be taking the same name at this moment.
            with suppress(NameTakenError) if wished is None else nullcontext():
                claim = stack.enter_context(runtime.claim(candidate))
                break
        yield claim


def _await_ready(record: Record, place: Backend, engine: engines.Engine, timeout_s: float) -> None:
    """Wait for its health and one real token.

    Raises:
        StartError: If it ends, or takes longer than `timeout_s`.
    """
    client = registry.client(record)
    began = looked = time.monotonic()
    pause = _FIRST_POLL_S
    while not client.healthy(path=engine.HEALTH_PATH):
        now = time.monotonic()
        if now - looked > _LOOK_S:
            looked = now
            found = place.look(record)
            if not found.running:
                raise _failed(record, place, engine, found.detail)
        if now - began > timeout_s:
            raise _failed(record, place, engine, f"it did not become ready within {timeout_s:g} s")
        time.sleep(pause)
        pause = min(pause * 1.5, _LAST_POLL_S)
    try:
        _first_token(client, timeout_s)
    except (ServerStoppedError, RequestError) as error:
        found = place.look(record)
        raise _failed(record, place, engine, error.message if found.running else found.detail) from None


def _first_token(client: Client, timeout_s: float) -> None:
    request = ChatRequest(prompt="Hello", max_tokens=1, temperature=0.0, timeout_s=timeout_s)
    answer = client.chat(request, lambda _: None)
    if not answer.text and not answer.completion_tokens:
        raise RequestError("it answered without a single token")


def _failed(record: Record, place: Backend, engine: engines.Engine, what: str) -> StartError:
    log: list[str] = []
    with suppress(LabError):
        log = place.log(record)
    reason, hint = engine.explain(log) or ("", "see the log lines above" if log else "")
    return StartError(
        f"{record.name} did not start: {reason or what}" + (f" ({what})" if reason else ""),
        hint=hint,
        log_tail=log[-_LOG_LINES:],
    )
