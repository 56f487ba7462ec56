"""What lesson 08 shows on three machines, gone through once on three engines of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from tools.three_engines import ThreeEngines

import llmlab
from llmlab.lab.node_views import NodeList
from llmlab.results import Result
from llmlab.workshop import cables, loading, meanwhile, replicas, wire
from llmlab.workshop.recordings import Recording

NAMES = (
    *("08-nodes", "08-sent", "08-guest", "08-audit", "08-cluster", "08-replicas", "08-one", "08-three"),
    *("08-drained", "08-cut", "08-failover", "08-without", "08-returned"),
)
_NEAR, _FAR = "n2", "n3"
_ON = "three container engines on it, made by tools.three_engines"
# Name, command, result → recording.
Recorder = Callable[[str, str, Result], Recording]


@cache
def lesson(recorded: Recorder) -> dict[str, Recording]:
    """Everything of it, by its name.

    Args:
        recorded: Makes a recording of a result.
    """
    with (
        TemporaryDirectory(prefix="llm-") as folder,
        ThreeEngines(name="llmrecord", say=lambda _: None) as engines,
        mock.patch.dict(os.environ, _environment(engines, folder)),
    ):
        os.environ.pop("DOCKER_HOST", None)
        os.environ.pop("DOCKER_CONTEXT", None)
        made: dict[str, Recording] = {}

        def keep(name: str, command: str, result: Result) -> None:
            made[name] = _placeless(recorded(name, command, result), folder, str(engines.folder))

        _start(keep)
        _lose_machines(keep)
        llmlab.stop("trio")
        llmlab.cluster("leave", f"{_NEAR},{_FAR},n1")
    return made


Keep = Callable[[str, str, Result], None]


def _start(keep: Keep) -> None:
    """From three machines to replicas that are asked."""
    others = f"{_NEAR},{_FAR}"
    known = NodeList(tuple(each for each in llmlab.nodes() if each.name != "default"))
    keep("08-nodes", "%llm nodes", known)
    llmlab.start("tiny", name="guest", on=_NEAR)
    llmlab.stop("guest")
    with wire.counting(_NEAR) as again:
        llmlab.start("tiny", name="guest", on=_NEAR)
    keep("08-sent", f'wire.counting("{_NEAR}")', again)
    keep("08-guest", "%llm inspect guest", llmlab.inspect("guest"))
    keep("08-audit", "%llm audit guest", llmlab.audit("guest"))
    llmlab.stop("guest")
    llmlab.cluster("init")
    keep("08-cluster", f"%llm cluster join {others} --manager", llmlab.cluster("join", others, manager=True))
    llmlab.start("tiny", name="trio", replicas=3, cpus=0.4)
    keep("08-replicas", 'replicas.look("trio")', replicas.look("trio"))
    llmlab.start("tiny", name="one", replicas=1, cpus=0.4)
    for name, server in (("08-one", "one"), ("08-three", "trio")):
        command = f'loading.load("{server}", learners=(6,), requests=60)'
        keep(name, command, loading.load(server, learners=(6,), requests=60))
    llmlab.stop("one")


def _lose_machines(keep: Keep) -> None:
    """One is drained, one is cut off and comes back."""
    with meanwhile.asking("trio") as asking:
        llmlab.cluster("drain", _NEAR)
        replicas.moved("trio", off=_NEAR)
    keep("08-drained", 'meanwhile.asking("trio")', asking.seen)
    llmlab.cluster("activate", _NEAR)
    with meanwhile.asking("trio") as asking:
        cables.pull(_FAR)
        failover = replicas.moved("trio", off=_FAR)
        without = llmlab.cluster("status")
    keep("08-cut", 'meanwhile.asking("trio")', asking.seen)
    keep("08-failover", f'replicas.moved("trio", off="{_FAR}")', failover)
    keep("08-without", "%llm cluster status", without)
    cables.plug(_FAR)
    keep("08-returned", "replicas.swept()", replicas.swept())


def _environment(engines: ThreeEngines, folder: str) -> dict[str, str]:
    own = {"LLMLAB_RUNTIME_DIR": f"{folder}/r", "LLMLAB_STATE_DIR": f"{folder}/s"}
    for path in own.values():
        Path(path).mkdir(mode=0o700)
    return {**engines.env(), **own}


def _placeless(recording: Recording, *folders: str) -> Recording:
    """A recording without where files have lain for it, and as whom ssh was used."""
    text = json.dumps(asdict(recording), ensure_ascii=False).replace("ssh://root@", "ssh://…@")
    for folder in (*folders, str(Path(llmlab.__file__).parent), str(Path.home())):
        text = text.replace(folder, "…")
    made = Recording(**json.loads(text))
    return replace(made, machine=f"{made.machine}, {_ON}")
