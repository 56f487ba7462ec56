"""The two sides of a comparison: how each is started, what came of it, and in what they differ."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from llmlab import engines, lab
from llmlab.comparing.card import Arm, Inequality
from llmlab.errors import UnknownNameError, UsageError
from llmlab.specs import Record

# One that died and came back would be measured as if nothing had been.
_NOT_FOR_ARMS = {"name", "dry_run", "keep", "force", "timeout_s", "slots", "expose", "restart"}
_CONTAINER_ONLY = {"cpus", "memory", "profile", "pids", "root", "network", "user", "transport", "image"}
# What follows from where a server runs, and what is asked for with each option: these are
# compared, not unequal by mistake.
_FOLLOWS = {"image", "isolation", "transport", "CPU limit", "memory limit"}
_OF_OPTION = {
    "model": {"model", "weights sha256"},
    "threads": {"threads"},
    "context": {"context"},
    "kv_type": {"KV cache"},
    "gpu_layers": {"GPU layers"},
    "gpus": {"GPU layers"},
    "cpus": {"CPU limit"},
    "memory": {"memory limit"},
    "profile": {"isolation"},
    "transport": {"transport", "way there"},
    "image": {"image", "engine's files"},
    # Not the files: both engines load the same libraries, and differ in what is around them.
    "engine": {"engine"},
    "backend": _FOLLOWS | {"backend"},
}
# Where these differ without having been asked for, the figures say nothing.
_FATAL = {"weights sha256", "engine's files", "threads", "context", "KV cache", "GPU layers", "way there"}


def options(text: str) -> dict[str, Any]:
    """The options of an arm as they are typed: `backend=container,cpus=1`.

    Raises:
        UsageError: If one is not known, or has no such value.
    """
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = part.partition("=")
        if not sign:
            raise UsageError(f"{part!r} is no option of an arm", hint="write it as backend=container,cpus=1")
        found[name.strip().replace("-", "_")] = value.strip()
    return checked(found)


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `start`, each with a value of its type.

    Raises:
        UsageError: If one is not known, has no such value, or cannot be with another.
    """
    hints = typing.get_type_hints(lab.start)
    known = [name for name in inspect.signature(lab.start).parameters if name not in _NOT_FOR_ARMS]
    found = {}
    for name, value in given.items():
        if name not in known:
            raise UnknownNameError("option of an arm", name, known)
        found[name] = _value(name, value, hints[name])
    _check_place(found.get("engine"), found.get("backend"))
    return found


def _check_place(engine: str | None, backend: str | None) -> None:
    if engine and backend and backend not in (places := engines.engine(engine).BACKENDS):
        raise UsageError(
            f"engine {engine} does not run with backend={backend}",
            hint=f"write backend={' or '.join(sorted(places))}, or take another engine, such as llama-server",
        )


def _value(name: str, value: Any, hint: Any) -> Any:
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    if isinstance(value, str):
        for kind in (int, float):
            if kind in kinds and str not in kinds:
                try:
                    return kind(value)
                except ValueError:
                    raise UsageError(f"{name} is {value!r}", hint="it must be a number") from None
    choices = [choice for kind in kinds for choice in typing.get_args(kind) if isinstance(choice, str)]
    choices += [kind for kind in kinds if isinstance(kind, str)]
    if choices and value not in choices:
        raise UnknownNameError(name, str(value), choices)
    return value


def pair(
    model: str, common: Mapping[str, Any], a: Mapping[str, Any] | None, b: Mapping[str, Any] | None
) -> tuple[Arm, Arm]:
    """The arms: native and in a container, unless something else is said of either.

    Args:
        model: The model of both, where an arm does not name another.
        common: Options of both; what natively means nothing goes to containers only.
        a: Options of the first.
        b: Options of the second.

    Raises:
        UsageError: If an option is not known, or has no such value.
    """
    firsts = {"backend": "native"} if a is None else checked(a)
    seconds = {"backend": "container"} if b is None else checked(b)
    if "engine" in {**firsts, **seconds}:
        # Said of one, it is meant to be compared with the usual one, whatever else is here.
        firsts, seconds = ({"engine": "llama-server", **own} for own in (firsts, seconds))
    made = []
    for key, own in (("a", firsts), ("b", seconds)):
        found = {"model": model, "backend": "native", "slots": 1, **common, **own}
        if found["backend"] == "native":
            if wrong := sorted(_CONTAINER_ONLY & set(own)):
                raise UsageError(
                    f"{wrong[0]} means nothing natively",
                    hint=f"leave it out, or run arm {key} in a container: backend=container",
                )
            found = {name: value for name, value in found.items() if name not in _CONTAINER_ONLY}
        made.append((key, found))
    (_, first), (_, second) = made
    return (
        Arm(key="a", title=_title(first, second, "a"), options=first),
        Arm(key="b", title=_title(second, first, "b"), options=second),
    )


def _title(own: Mapping[str, Any], other: Mapping[str, Any], key: str) -> str:
    """What sets it apart: where it runs, and the options in which they differ."""
    parts = [str(own["backend"])] if own["backend"] != other["backend"] else []
    for name, value in own.items():
        if name != "backend" and other.get(name) != value:
            parts.append(str(value) if name in {"model", "engine"} else f"{name.replace('_', ' ')} {value}")
    return " ".join(parts) or f"{own['backend']} ({key})"


def facts(record: Record) -> dict[str, str]:
    """What a server turned out to be: all in which arms may differ, as words."""
    spec, limits = record.spec, record.limits
    return {
        "model": spec.model.name,
        "weights sha256": spec.model.sha256 or "unknown",
        "engine": spec.engine,
        "engine's files": " ".join(sorted(set(record.build.values()))) or "unknown",
        "backend": record.backend,
        "threads": str(spec.threads),
        "context": str(spec.context),
        "KV cache": spec.kv_type,
        "GPU layers": str(spec.gpu_layers or "none"),
        "way there": "unix socket" if record.endpoint.socket else "TCP" if record.endpoint.port else "relay",
        "transport": str(record.transport or "none"),
        "isolation": record.profile.label if record.profile else "none",
        "CPU limit": f"{limits.cpus:g}" if limits else "none",
        "memory limit": f"{limits.memory_mib} MiB" if limits else "none",
        "image": record.image or "none",
    }


def inequalities(a: Arm, b: Arm) -> tuple[Inequality, ...]:
    """In what the arms differ, what was wanted first."""
    changed = {name for name in {*a.options, *b.options} if a.options.get(name) != b.options.get(name)}
    wanted = {what for name in changed for what in _OF_OPTION.get(name, ())}
    found = [
        Inequality(
            what=what,
            a=str(a.facts[what]),
            b=str(b.facts[what]),
            wanted=what in wanted,
            fatal=what in _FATAL - wanted,
        )
        for what in a.facts
        if a.facts[what] != b.facts.get(what)
    ]
    return tuple(sorted(found, key=lambda each: not each.wanted))


def answers(a: Arm, b: Arm, hashes: Mapping[str, Iterable[str]]) -> Inequality | None:
    """Whether both have generated the same tokens; None if they have, or nobody told.

    Args:
        a: One arm.
        b: The other.
        hashes: Arm → hashes of its answers.
    """
    told = {arm: {each for each in found if each} for arm, found in hashes.items()}
    if not told.get("a") or not told.get("b") or (told["a"] == told["b"] and len(told["a"]) == 1):
        return None
    # Other weights, another number of threads or a GPU round otherwise; the same work is done all the same.
    rounding = ("weights sha256", "engine's files", "threads", "GPU layers")
    same = all(a.facts.get(what) == b.facts.get(what) for what in rounding)
    engines_differ = a.facts.get("engine") != b.facts.get("engine")
    words = {
        arm: f"{len(each)} different answers" if len(each) > 1 else next(iter(each))[:12]
        for arm, each in told.items()
    }
    # Another engine may add up in another order: that is told, and makes nothing meaningless.
    fatal = same and not engines_differ
    return Inequality(what="generated tokens", a=words["a"], b=words["b"], wanted=not same, fatal=fatal)
