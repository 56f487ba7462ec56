"""A user's servers and files for a reset: what runs, what it has left, what was learnt and fetched."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from llmlab import backends, library, render, runtime
from llmlab.builds import places
from llmlab.errors import BuildError, LabError
from llmlab.lab import registry
from llmlab.runtime import Claim
from llmlab.specs import Record
from llmlab.weights import store
from llmlab.weights.store import Stored
from llmlab.workshop.resetting.images import has_ended
from llmlab.workshop.resetting.items import Found, files, kept, removable, remove_files

_GRACE_S = 5.0
_WAIT_S = 2.0
_BY_HAND = ".hand"
# Entry of the cache → what it is, and the option that removes it; "" for always.
_CACHE = {
    "seccomp": ("cache", "filters for containers, written anew when needed", ""),
    "links": ("cache", "links for container engines", ""),
    "tools": ("engine", "the audit's and the relay's programs; a C compiler makes them anew", "--builds"),
    "sources": ("engine", "sources to compile from", "--builds"),
    "headers": ("cache", "what is known of models of the hub", "--downloads"),
    "sha256.json": ("cache", "hashes of models", "--downloads"),
}
_ELSEWHERE = {"audit", "engines", "synthetic", "volumes"}  # they have functions of their own here
_STATE = {
    "predictions.jsonl": ("note", "what was predicted of servers, and what came of it", ""),
    "rates.json": ("note", "how fast this machine was measured to be, in about a minute", "--builds"),
    "rooms.json": ("note", "classrooms that you have joined, with your keys", ""),
    "workshop": ("note", "your progress in the workshop's lessons", "--progress"),
}


def servers(records: Collection[Record]) -> Iterator[Found]:
    """Servers, whoever started them; each is stopped."""
    for record in records:
        held: int | None = None
        with suppress(LabError):
            held = backends.backend(record.backend).resident_mib(record)
        memory = f", holds {render.mib_text(held)} of memory" if held else ""
        words = {"container": "in a container", "room": "in a classroom, which goes on"}
        where = words.get(record.backend, record.backend)
        yield removable(
            "server",
            record.name,
            partial(registry.stop, record, grace_s=_GRACE_S),
            detail=f"{record.spec.model.name}, {where}{memory}",
        )


def leftovers(names: Collection[str]) -> Iterator[Found]:
    """Directories of servers that are no more, with their sockets.

    Args:
        names: Servers that have a directory because they are there.
    """
    root = runtime.runtime_dir()
    for path in sorted(root.iterdir()):
        # Nothing else is touched: the directory may have been chosen, and hold other things.
        ours = (path / "lock").is_file() and not path.is_symlink()
        if ours and path.name not in names and not path.name.startswith("."):
            yield removable(
                "directory", str(path), partial(_remove_leftover, path), detail="left by a start that died"
            )
    with suppress(OSError):
        for path in sorted((root / _BY_HAND).iterdir()):
            if path.name in names:
                continue
            if _answers(Claim(path).socket):
                yield kept(
                    "server", path.name, "started by hand and not written down: end it in its terminal"
                )
            else:
                yield removable(
                    "directory",
                    str(path),
                    partial(_remove_by_hand, path),
                    detail="of a server started by hand",
                )


def _remove_leftover(path: Path) -> None:
    with runtime.hold(path.name, wait_s=_WAIT_S) as claim:
        if claim:
            for place in backends.backend_names():
                backends.backend(place).remove_abandoned(claim)
            claim.remove()


def _remove_by_hand(path: Path) -> None:
    Claim(path).remove()
    with suppress(OSError):
        path.parent.rmdir()  # the last one takes the directory of all with it


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(_WAIT_S)
        try:
            door.connect(str(path))
        except OSError:
            return False
    return True


def audits() -> Iterator[Found]:
    """What audits have left in the cache."""
    root = runtime.cache_dir() / "audit"
    with suppress(OSError):
        for path in sorted(root.iterdir()):
            owner = ""
            with suppress(OSError):
                owner = (path / "owner").read_text(encoding="ascii", errors="replace")
            if has_ended(owner):
                # Directories there may belong to the users of its containers.
                yield removable(
                    "directory", str(path), partial(remove_files, path), detail="left by an audit"
                )
            else:
                why = (
                    "an audit is under way, and removes it"
                    if owner
                    else "it does not say which audit left it"
                )
                yield kept("directory", str(path), why)


def cache(*, downloads: bool, builds: bool) -> Iterator[Found]:
    """What is in llmlab's cache besides models."""
    given = {"", *(["--downloads"] if downloads else []), *(["--builds"] if builds else [])}
    yield from _engines(builds=builds)
    yield from _listed(runtime.cache_dir(), _CACHE, given, _ELSEWHERE)


def state(*, builds: bool, progress: bool) -> Iterator[Found]:
    """What llmlab has learnt of this machine, and the learner's progress."""
    given = {"", *(["--progress"] if progress else []), *(["--builds"] if builds else [])}
    yield from _listed(runtime.state_dir(), _STATE, given, set())


def _listed(
    root: Path, known: dict[str, tuple[str, str, str]], given: Collection[str], elsewhere: Collection[str]
) -> Iterator[Found]:
    with suppress(OSError):
        for path in sorted(root.iterdir()):
            if path.name in elsewhere or path.name.startswith("."):
                continue
            if path.name not in known:
                yield kept(
                    "other", str(path), "not known to this llmlab: remove it by hand if nobody needs it"
                )
                continue
            kind, detail, option = known[path.name]
            if not option or any(path.iterdir() if path.is_dir() else (path,)):
                yield files(kind, path, wanted=option in given, detail=detail, option=option)


def _engines(*, builds: bool) -> Iterator[Found]:
    root = places.engines_dir()
    with suppress(OSError):
        for path in sorted(root.iterdir()):
            if path.name.startswith("."):
                continue
            detail = "verified llama.cpp; compiling it takes about 5 minutes"
            if path.name == "found":
                detail = "notes on engines that were found on this machine"
            found = files("engine", path, wanted=builds, detail=detail, option="--builds")
            yield Found(found.item, partial(_remove_engine, path) if found.remove else None)


def _remove_engine(path: Path) -> None:
    """Remove an engine's directory, unless somebody compiles it just now.

    Raises:
        BuildError: If somebody does.
    """
    lock = path.with_name(f".{path.name}.lock")
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_files(path)
    except BlockingIOError:
        raise BuildError("another process compiles it just now", hint="wait for it, or end it") from None
    finally:
        os.close(handle)


def models(*, downloads: bool) -> Iterator[Found]:
    """Models that were fetched or written, as far as it is llmlab that brought or used them."""
    for each in store.stored():
        if each.source == "synthetic" or (each.source == "hub" and not each.shared):
            yield _model(each, downloads=downloads)


def _model(model: Stored, *, downloads: bool) -> Found:
    name, size = model.reference, model.file_bytes
    if any(path.stat().st_uid != os.getuid() for path in model.files):
        return kept("model", name, "another user's file", size=size)
    if model.source == "hub" and not any(store.known_sha256(path) for path in model.files):
        # The hub's cache is other programs', too.
        detail = "in the hub's cache, and llmlab has neither fetched nor used it"
        return kept("model", name, detail, size=size, how=f"llmlab rm {name}")
    if not downloads:
        return kept("model", name, "", size=size, how="llmlab reset --downloads")
    return removable("model", name, lambda: library.rm(name), size=size)
