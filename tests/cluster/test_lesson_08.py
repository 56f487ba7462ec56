"""Lesson 08 on three engines: its notebook as it is committed, answered, and answered wrongly; its tools and checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.answers import Variant
from tools.rehearsal import Run, rehearse, shown
from tools.three_engines import NODES, ThreeEngines

import llmlab
from llmlab import workshop
from llmlab.backends import labels
from llmlab.errors import LabError
from llmlab.workshop import cables, lessons, loading, meanwhile, replicas
from tests.cluster.conftest import UNCLOSED, docker, engine, made

pytestmark = [pytest.mark.cluster, UNCLOSED, pytest.mark.timeout(600)]

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "08-outgrowing-one-machine.ipynb"
TASKS = [task.id for task in lessons.load("08").tasks]


@pytest.fixture
def engines(three: ThreeEngines, require_engine: Any, monkeypatch: pytest.MonkeyPatch) -> ThreeEngines:
    """The engines; an ssh connection is kept for as long as the runner waits for what has been left."""
    words = three.env().get("LLMLAB_SSH")
    if words:
        monkeypatch.setenv("LLMLAB_SSH", f"{words} -o ControlPersist=2")
    return three


def rehearsed(variant: Variant) -> tuple[Run, dict[str, str]]:
    """A run, and what its cells show."""
    run, notebook = rehearse(NOTEBOOK, "container", variant)
    return run, {cell.id: shown(cell) for cell in notebook.cells if cell.cell_type == "code"}


def nothing_left(three: ThreeEngines) -> bool:
    """Whether the engines are as they were: no containers, in no swarm."""
    containers = [docker(three, node, "ps", "--all", "--quiet") for node in NODES]
    swarms = {docker(three, node, "info", "--format", "{{.Swarm.LocalNodeState}}") for node in NODES}
    return not any(containers) and swarms == {"inactive"}


def test_the_notebook_as_it_is_committed_runs_to_its_end_and_leaves_nothing(engines: ThreeEngines):
    run, cells = rehearsed("as committed")
    assert run.ok, run.problem
    assert not run.not_here
    assert not [name for name, text in cells.items() if "RECORDING" in text]
    for name, text in {
        "list-nodes": "tcp://",
        "start-again": "sent to n",
        "inspect-guest": "as recorded",
        "audit-guest": "pass",
        "make-cluster": "3 of 3 managers answer",
        "look": "trio.3",
        "load-trio": "12 slots",
        "drain-node": "questions of 2 learners",
        "cut": "questions of 2 learners",
        "without": "2 of 3 managers answer",
        "plug": "given up, and is removed",
        "check-returned": "✓ passed",
        "check-gone": "✓ passed",
    }.items():
        assert text in cells[name], (name, cells[name])
    assert cells["check-lost"].startswith("○"), "nothing was predicted"
    assert nothing_left(engines)


def test_the_instructors_answers_pass_every_task(engines: ThreeEngines):
    run, cells = rehearsed("answered")
    assert run.ok, run.problem
    assert set(run.passed) == set(TASKS)
    assert "on n1" in cells["check-spread"]
    assert nothing_left(engines)


def test_each_wrong_answer_is_refused_with_a_hint(engines: ThreeEngines):
    run, cells = rehearsed("answered wrongly")
    assert run.ok, run.problem
    assert set(run.open) == set(workshop.wrong_answers("08"))
    assert set(run.passed) == set(TASKS) - set(workshop.wrong_answers("08"))
    assert "stands behind trio" in cells["check-spread"]
    assert nothing_left(engines)


@pytest.fixture
def trio(engines: ThreeEngines) -> Iterator[llmlab.Server]:
    """A server with three replicas in a cluster that n1 manages."""
    made()
    yield llmlab.start("tiny", name="trio", replicas=3)
    for node in NODES:
        engines.mend(node)
    llmlab.stop("trio", forget=True)
    llmlab.nodes()


def test_the_checks_of_a_running_server_see_what_is_missing(engines: ThreeEngines, trio: llmlab.Server):
    lesson = workshop.lesson("08")
    assert lesson.here.cluster
    assert lesson.check("spread", trio).passed
    seen = replicas.look(trio)
    assert {each.node for each in seen.replicas} == set(NODES)
    assert {each.network for each in seen.replicas} == {"none"}
    assert "together" in str(loading.load(trio, learners=(2,), requests=6)).lower()
    llmlab.cluster("drain", "n2")
    with pytest.raises(LabError, match="after 0 s it is not so"):
        replicas.moved(trio, off="n2", within_s=0)
    moved = replicas.moved(trio, off="n2")
    assert moved.seconds > 0
    verdict = lesson.check("spread", trio).verdict
    assert verdict.outcome == "failed"
    assert "on 2 machines" in verdict.text
    assert "Still there: trio" in lesson.check("gone").verdict.text


def test_a_pulled_cable_is_seen_by_the_check_until_all_is_removed(engines: ThreeEngines, trio: llmlab.Server):
    lesson = workshop.lesson("08")
    with meanwhile.asking(trio) as asking:
        cables.pull("n2")
        replicas.moved(trio, off="n2")
    assert asking.seen.failed <= 2
    assert lesson.check("returned", "n2", "trio").verdict.outcome == "failed"
    cables.plug("n2")
    replicas.swept()
    assert lesson.check("returned", "n2", "trio").passed


def test_a_load_counts_the_passes_of_all_replicas(trio: llmlab.Server):
    level = loading.load(trio, learners=(3,), requests=12).at(3)
    assert level.together is not None
    assert 1 <= level.together <= 3


def test_a_network_that_was_left_does_not_keep_a_server_of_its_name_from_starting(engines: ThreeEngines):
    made()
    name = labels.container_name("trio")
    engine(engines, "n1").make_overlay(name, labels.mine(SERVER="trio"), encrypted=False)
    with llmlab.start("tiny", name="trio", replicas=2) as server:
        assert server.ask("What is a GPU?", max_tokens=4).completion_tokens == 4
