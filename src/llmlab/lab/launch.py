"""From a wish to a server that has answered: plan, check, start, wait."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from llmlab import backends, engines, runtime, weights
from llmlab.backends import Backend, Starting
from llmlab.builds import find_build
from llmlab.client import ChatRequest, Client
from llmlab.engines import gpu_trouble
from llmlab.errors import (
    MALFORMED,
    EngineMissingError,
    LabError,
    NameTakenError,
    RequestError,
    ServerStoppedError,
    StartError,
    UsageError,
)
from llmlab.lab import engine_gpus, ledger, placing, planning, registry, reservations, verdict
from llmlab.lab.planning import Plan, Wish
from llmlab.lab.reservations import Booking
from llmlab.reporting import reporter
from llmlab.specs import GpuVerdict, Process, Record, ServeSpec
from llmlab.weights import anatomy

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_LOG_LINES = 15
_LONG = 80
# Looking at the process costs the container engine a call, asking for health does not.
_LOOK_S = 0.2
_FIRST_POLL_S, _LAST_POLL_S = 0.005, 0.1
# Each look through a relay runs a program in the container.
_RELAY_POLL_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What is known before a start.

    Attributes:
        engine: The program that serves.
        place: Where it runs.
        spec: What it serves.
        plan: Limits, isolation, prediction.
        notes: What the user should know.
    """

    engine: engines.Engine
    place: Backend
    spec: ServeSpec
    plan: Plan
    notes: tuple[str, ...]

    def starting(self, wish: Wish, claim: runtime.Claim, *, owner: Process | None) -> Starting:
        """What a backend is asked to start."""
        return Starting(
            claim=claim,
            spec=self.spec,
            limits=self.plan.limits,
            profile=self.plan.profile,
            transport=wish.transport,
            expose=wish.expose,
            owner=owner,
            image=wish.image,
            gpus=self.plan.gpus,
            gpu_ids=self.plan.gpu_ids,
            restarts=planning.parse_restart(wish.restart),
            node=wish.on,
            overlay=wish.overlay,
            replica_of=wish.replica_of,
        )


def decide(wish: Wish, *, fetch: bool = True, booking: Booking | None = None) -> Decided:
    """Choose engine and place, find the model, check that it fits.

    Args:
        wish: The arguments of `start`.
        fetch: Bring the model here if it is not.
        booking: Where what it will take of a GPU is written down; None if nothing is to be started.

    Raises:
        LabError: As `llmlab.start`.
    """
    engine, choice = _engine(wish)
    place, notes = _place(wish, engine)
    node = placing.machine_of(place.NAME, wish.on)
    # Before anything large is fetched or written, if it can be told by then.
    planning.plan(wish, wish.model, weights.foresee(wish.model), engine.NAME, place.NAME, node)
    model = weights.resolve(wish.model, fetch=fetch)
    made_of = anatomy.of_file(model.path)
    with booking.deciding(gpus=planning.may_use_gpus(wish, place.NAME, node)) if booking else nullcontext():
        plan = planning.plan(wish, model.name, made_of, engine.NAME, place.NAME, node)
        if booking:
            booking.take(wish.name or model.name, plan.gpu_ids, plan.prediction.vram_mib)
    spec = planning.spec(wish, model, plan.setting, node.cpus if node else None)
    return Decided(
        engine=engine,
        place=place,
        spec=replace(
            spec,
            # What another machine's GPUs have is not known here.
            gpu_share=None
            if node
            else engine_gpus.share(engine, gpus=plan.profile.gpus, vram_mib=plan.prediction.vram_mib),
        ),
        plan=plan,
        notes=(*choice, *notes, *plan.notes),
    )


def launch(wish: Wish, *, timeout_s: float) -> Record:
    """Start what is wished for; returns its record once it has answered.

    Raises:
        LabError: As `llmlab.start`. Nothing of the server is left then.
    """
    with reservations.booking() as booking:
        return _launched(wish, booking, timeout_s)


def _launched(wish: Wish, booking: Booking, timeout_s: float) -> Record:
    decided = decide(wish, booking=booking)
    engine, place, plan = decided.engine, decided.place, decided.plan
    model, notes = decided.spec.model, decided.notes
    for note in notes:
        reporter().note(note)
    with claimed(wish.name, model.name) as claim:
        booking.name(claim.name)
        starting = decided.starting(wish, claim, owner=None if wish.keep else runtime.default_owner())
        record: Record | None = None
        # Ctrl-C as well: what was begun is taken back.
        with runtime.undone(lambda: _take_back(place, claim, record)):
            record = place.start(starting)
            for note in record.notes:
                reporter().note(note)
            record = replace(record, notes=(*record.notes, *notes), predicted=plan.prediction)
            claim.write(record)
            reporter().stage("load", model.name)
            await_ready(record, place, engine, timeout_s)
            place.settle(record)
            there = _version(record, engine)
            seen = _on_gpu(record, place, engine)
            for note in (*there, *([str(seen)] if seen else [])):
                reporter().note(note)
            record = replace(
                record,
                observed_mib=place.resident_mib(record),
                notes=(*record.notes, *there),
                verdict=seen,
            )
            claim.write(record)
            ledger.started(record)
            reporter().stage("ready", f"{record.name} answers at {record.endpoint}")
    return record


def _take_back(place: Backend, claim: runtime.Claim, record: Record | None) -> None:
    """Remove what was begun."""
    with suppress(LabError):
        if record:
            place.stop(record, grace_s=0)
        else:
            place.remove_abandoned(claim)


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
        place = backends.backend(wish.backend)
        if place.NAME == "native" and "native" not in engine.BACKENDS:
            raise UsageError(
                f"{engine.NAME} runs in a container only", hint="use --container, or --engine llama-server"
            )
        return place, []
    if "container" not in engine.BACKENDS:
        return backends.backend("native"), [f"{engine.NAME} runs natively only: not isolated"]
    container = backends.backend("container")
    problem = container.unavailable()
    if problem is None:
        return container, []
    if wish.container_only() or "native" not in engine.BACKENDS:
        raise problem
    note = f"{problem.message}: started natively, not isolated. To get a container: {problem.hint}"
    return backends.backend("native"), [note]


def candidate_names(wished: str | None, model_name: str, taken: Collection[str]) -> list[str]:
    """The names that a server may get, the first one first.

    Raises:
        UsageError: If the wished one cannot be a name.
    """
    if wished is None:
        numbered = (f"{model_name[:36]}-{n}" for n in range(2, 1000))
        return [name for name in (model_name, *numbered) if name not in taken]
    if not _NAME.fullmatch(wished):
        raise UsageError(
            f"{wished!r} cannot be a name",
            hint="letters, digits, dot, dash and underscore, at most 40, beginning with a letter or digit",
        )
    return [wished]


@contextmanager
def claimed(wished: str | None, model_name: str) -> Iterator[runtime.Claim]:
    """The directory of a server to be started; one that has ended leaves its name to the next.

    Raises:
        NameTakenError: If a running server has the name that is wished for.
    """
    taken = {record.name: record for record in registry.find_all()}
    candidates = candidate_names(wished, model_name, taken)
    if wished is not None and (record := taken.get(wished)):
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


def await_ready(record: Record, place: Backend, engine: engines.Engine, timeout_s: float) -> None:
    """Wait for its health and one real token.

    Raises:
        StartError: If it ends, or takes longer than `timeout_s`.
    """
    client = registry.client(record)
    began = looked = time.monotonic()
    pause, longest = _FIRST_POLL_S, _LAST_POLL_S
    if record.transport == "relay":
        pause = longest = _RELAY_POLL_S
    while not client.healthy(path=engine.HEALTH_PATH):
        now = time.monotonic()
        if now - looked > _LOOK_S:
            looked = now
            found = place.look(record)
            # One that is started anew before it was ever ready would end like that again and again.
            if not found.running or found.held == "restarting" or found.restarts:
                raise _failed(record, place, engine, found.detail or "it ended before it was ready")
        if now - began > timeout_s:
            raise _failed(record, place, engine, f"it did not become ready within {timeout_s:g} s")
        time.sleep(pause)
        pause = min(pause * 1.5, longest)
    try:
        _first_token(client, timeout_s)
    except (ServerStoppedError, RequestError) as error:
        found = place.look(record)
        raise _failed(record, place, engine, error.message if found.running else found.detail) from None


def _on_gpu(record: Record, place: Backend, engine: engines.Engine) -> GpuVerdict | None:
    """Whether it computes on the GPU; None if it was to use none."""
    log = place.log(record) if record.spec.gpu_layers else []
    return verdict.look(record, engine, log, registry.client(record))


def _version(record: Record, engine: engines.Engine) -> tuple[str, ...]:
    """What a server out of a published image says of its version."""
    image = engines.image_of(engine)
    if image is None or image.version is None:
        return ()
    with suppress(LabError, *MALFORMED):
        told = str(registry.client(record).get_json(image.version)["version"])[:_LONG]
        return (f"{engine.NAME} says: version {told}",)
    return ()


def _first_token(client: Client, timeout_s: float) -> None:
    request = ChatRequest(prompt="Hello", max_tokens=1, temperature=0.0, timeout_s=timeout_s)
    answer = client.chat(request, lambda _: None)
    if not answer.text and not answer.completion_tokens:
        raise RequestError("it answered without a single token")


def _failed(record: Record, place: Backend, engine: engines.Engine, what: str) -> StartError:
    log: list[str] = []
    with suppress(LabError):
        log = place.log(record)
    trouble = gpu_trouble.told(log) if record.spec.gpu_layers else None
    known = (trouble.cause, trouble.remedy) if trouble and not trouble.blind else engine.explain(log)
    reason, hint = known or ("", "see the log lines above" if log else "")
    return StartError(
        f"{record.name} did not start: {reason or what}" + (f" ({what})" if reason else ""),
        hint=hint,
        log_tail=log[-_LOG_LINES:],
    )
