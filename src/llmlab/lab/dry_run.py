"""What a start would do, as a command to paste; nothing is started or claimed."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace

from llmlab.backends import container, docker_api, native
from llmlab.backends.base import Starting
from llmlab.errors import NameTakenError, UsageError
from llmlab.isolation.docker_run import Part, docker_run
from llmlab.isolation.filters import filter_file
from llmlab.isolation.podman import adapted
from llmlab.isolation.reasons import BENCHMARK, reason
from llmlab.lab import by_hand, launch, registry
from llmlab.lab.planning import Wish
from llmlab.results_dry_run import DryRun, Flag
from llmlab.runtime import Claim


def dry_run(wish: Wish) -> DryRun:
    """The command that starts what is wished for.

    Raises:
        UsageError: If it takes more than one container.
        LabError: As `llmlab.start`.
    """
    if wish.expose is not None or wish.transport not in {None, "socket", "port"}:
        raise _several()
    decided = launch.decide(wish, fetch=False)
    if decided.place.NAME not in {"native", "container"}:
        raise UsageError(
            f"what backend {decided.place.NAME!r} would do cannot be shown", hint="leave --dry-run out"
        )
    name = _name(wish.name, decided.spec.model.name)
    # What is started by hand belongs to nobody: it is kept until it is stopped.
    starting = decided.starting(wish, by_hand.claim(name), owner=None)
    found = _native(starting) if decided.place.NAME == "native" else _container(starting)
    return replace(found, notes=(*found.notes, *decided.notes))


def _container(starting: Starting) -> DryRun:
    if starting.profile.expose:
        raise _several()
    prepared = container.prepare(starting)
    if prepared.sidecars or prepared.volume:
        raise _several()
    api = docker_api.connect()
    program, request = (
        ("podman", adapted(prepared.request)) if api.is_podman else ("docker", prepared.request)
    )
    parts = docker_run(
        prepared.name, request, program=program, keep_filter=lambda text: str(filter_file(text))
    )
    before: list[tuple[str, ...]] = []
    after: list[str] = []
    if prepared.record.endpoint.socket:
        folder = starting.claim.socket_dir
        # Without -p, so that a second one does not take the first one's place.
        before = [("mkdir", "-p", str(folder.parent)), ("mkdir", "-m", "700", str(folder))]
        user = prepared.user
        if os.getuid() == 0 and not api.is_rootless() and user.uid is not None:
            owner = str(user.uid) if user.gid is None else f"{user.uid}:{user.gid}"
            before.append(("chown", owner, str(folder)))
        after = _taken_back(starting.claim)
    notes = [
        f"{(prepared.record.image or '').partition('@')[0]} is on this machine; the command needs it.",
        f"Started this way, llmlab sees it: ask, inspect and stop {starting.claim.name} work.",
        f"CIS: numbers of the {BENCHMARK}.",
        *prepared.record.notes,
    ]
    return DryRun(
        name=starting.claim.name,
        backend="container",
        before=tuple(before),
        flags=tuple(_flag(part) for part in parts),
        after=tuple(after),
        notes=tuple(notes),
    )


def _taken_back(claim: Claim) -> list[str]:
    """What a start does when the socket is there: the directory is the container's no longer."""
    folder, door = shlex.quote(str(claim.socket_dir)), shlex.quote(str(claim.socket))
    steps = ["chown 0 " + folder, "chmod 710 " + folder] if os.getuid() == 0 else ["chmod 500 " + folder]
    return [f"for i in $(seq 300); do test -S {door} && break; sleep 0.1; done", *steps]


def _native(starting: Starting) -> DryRun:
    prepared = native.prepare(starting)
    folder = str(starting.claim.socket_dir)
    before = (
        ("mkdir", "-p", str(prepared.scratch)),
        ("mkdir", "-m", "700", folder),
    )
    flags = [Flag(words=("env", "-i"), why="Nothing of your environment but this goes in.")]
    flags += [
        Flag(words=(f"{name}={value}",), why=reason("environment").why)
        for name, value in prepared.environment.items()
    ]
    flags.append(
        Flag(words=tuple(prepared.argv), why="The engine, as a process of yours: it may do what you may.")
    )
    notes = (
        "There is nothing here that isolates.",
        "It runs until Ctrl-C, and llmlab does not see it: nobody has written it down.",
    )
    return DryRun(name=starting.claim.name, backend="native", before=before, flags=tuple(flags), notes=notes)


def _flag(part: Part) -> Flag:
    found = reason(part.control)
    return Flag(words=part.words, why=found.why, cis=found.cis)


def _name(wished: str | None, model_name: str) -> str:
    taken = {record.name for record in registry.find_all()}
    name = launch.candidate_names(wished, model_name, taken)[0]
    if name in taken:
        raise NameTakenError(
            f"a server named {name!r} runs already",
            hint=f"choose another --name, or stop it first: stop {name}",
        )
    return name


def _several() -> UsageError:
    return UsageError(
        "this is more than one container, and no single command starts it",
        hint="leave --dry-run out, or --expose, --transport and the profile exposed",
    )
