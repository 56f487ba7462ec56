"""Lesson 08: its judges on results and recordings, its notebook without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.rehearsal import rehearse, shown

import llmlab
from llmlab import workshop
from llmlab.clusters import ClusterStatus
from llmlab.errors import UsageError
from llmlab.workshop import cluster_judges, meanwhile, recordings, replicas, wire
from llmlab.workshop.lessons import lesson_08
from llmlab.workshop.modes import Mode
from llmlab.workshop.sitting import Sitting
from llmlab.workshop.tasks import Given

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "08-outgrowing-one-machine.ipynb"
RECORDED = (
    *("08-nodes", "08-sent", "08-guest", "08-audit", "08-cluster", "08-replicas", "08-one", "08-three"),
    *("08-drained", "08-cut", "08-failover", "08-without", "08-returned"),
)
ALONE = Mode(container=False, no_container="none answers", gpus=(), binder=False, nodes=())


@pytest.fixture
def lesson():
    return Sitting(lesson_08.LESSON, ALONE)


@pytest.fixture
def server(require_engine):
    with llmlab.start("tiny", backend="native", name="one") as started:
        yield started


def said(checked):
    return checked.verdict.outcome, f"{checked.verdict.text} → {checked.verdict.hint}"


def asked(*failed: bool, learners: int = 2, took_s: float = 0.1) -> meanwhile.Asked:
    questions = tuple(
        meanwhile.Question(at_s=number / 4, took_s=took_s, failed="it was lost" if each else "")
        for number, each in enumerate(failed)
    )
    return meanwhile.Asked(server="trio", learners=learners, questions=questions)


def seen(*networks: str, listens: str = "unix:/run/trio.sock") -> replicas.Replicas:
    found = tuple(
        replicas.Replica(name=f"trio.{i}", node=f"n{i}", state="ready", network=network, answered=1)
        for i, network in enumerate(networks, start=1)
    )
    return replicas.Replicas(server="trio", listens=listens, network="trio-net", replicas=found)


def judged(task: str, predicted, *values):
    """What a judge says, wherever it is asked."""
    found = lesson_08.LESSON.task(task)
    assert found
    return found.judge(Given(values=values, predicted=predicted, mode=ALONE))


# The notebook where there are no three machines


def test_without_three_machines_recordings_are_shown(require_engine):
    run, notebook = rehearse(NOTEBOOK, "native", "answered")
    assert run.ok, run.problem
    assert set(run.not_here) == {"spread", "returned"}
    cells = {cell.id: shown(cell) for cell in notebook.cells if cell.cell_type == "code"}
    for name in (
        "list-nodes",
        "start-again",
        "inspect-guest",
        "audit-guest",
        "make-cluster",
        "look",
        "load-one",
        "load-trio",
        "drain-node",
        "cut",
        "plug",
    ):
        assert cells[name].startswith("RECORDING"), name
    assert "The servers are gone" in cells["check-gone"]


def test_wrong_answers_are_refused_with_a_hint_where_recordings_are_shown(require_engine):
    run, _ = rehearse(NOTEBOOK, "native", "answered wrongly")
    assert run.ok, run.problem
    assert set(run.open) == set(workshop.wrong_answers("08")) - set(run.not_here)


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_is_of_three_engines_and_names_no_place_of_theirs(name):
    recording = recordings.load(name)
    assert "three container engines on it" in str(recording)
    text = f"{recording.text} {recording.html} {recording.data}"
    # The audit's own words are of the container's /tmp.
    places = ("/tmp/", "/root", "/home")  # noqa: S108 - looked for
    assert not any(place in text for place in places)


def test_the_recordings_bear_out_what_the_notebook_says():
    cut, drained = recordings.load("08-cut"), recordings.load("08-drained")
    assert drained["failed"] == 0
    assert cut["failed"] <= cut["learners"]
    assert recordings.load("08-without")["answering"] == 2
    assert recordings.load("08-without")["quorum"]
    rates = [recordings.load(name)["levels"][-1]["tokens_per_s"] for name in ("08-one", "08-three")]
    assert 1 < rates[1] / rates[0] < 3
    assert {each["network"] for each in recordings.load("08-replicas")["replicas"]} == {"none"}
    assert 0 < recordings.load("08-sent")["nbytes"] < 1_000_000
    assert "as recorded" in recordings.load("08-guest").text
    assert not [each for each in recordings.load("08-audit")["findings"] if each["verdict"] == "fail"]


# The checks


def test_the_gateway_is_reached_from_this_machine_only(lesson):
    found = seen("none", "none", "none")
    assert judged("address", "this machine only", found).outcome == "passed"
    for wrong in ("all three machines", "everybody in the local network"):
        verdict = judged("address", wrong, found)
        assert verdict.outcome == "failed"
        assert "unix socket" in verdict.hint
    open_to_all = seen("none", listens="http://192.0.2.7:8000")
    assert judged("address", "this machine only", open_to_all).outcome == "failed"


def test_the_network_of_replicas_is_judged_by_what_was_seen():
    assert judged("network", "no network", seen("none", "none")).outcome == "passed"
    assert judged("network", "the cluster's network", seen("none", "none")).outcome == "failed"
    assert judged("network", "no network", seen("none", "trio-net")).outcome == "failed"


def test_a_single_server_has_no_replicas_to_look_at(server):
    with pytest.raises(UsageError, match="single server"):
        replicas.look("one")
    verdict = cluster_judges.spread("one", count=3)
    assert verdict.outcome == "failed"
    assert "single server" in verdict.text


def test_a_gain_is_judged_within_a_factor_and_never_above_three():
    one, three = recordings.load("08-one"), recordings.load("08-three")
    for guess, outcome in (
        (2.0, "passed"),
        (3.0, "passed"),
        (0.5, "failed"),
        (3.5, "failed"),
        (9.0, "failed"),
    ):
        assert judged("gain", guess, one, three).outcome == outcome, guess
    disturbed = judged("gain", 1.5, three, one)
    assert disturbed.outcome == "passed"
    assert "measure again" in disturbed.text
    for values in ((one,), (one, seen("none"))):
        with pytest.raises(UsageError):
            judged("gain", 2.0, *values)


def test_draining_loses_nothing_and_what_failed_all_the_same_is_told():
    fine = asked(*[False] * 20)
    assert judged("underway", "they are answered to the end", fine).outcome == "passed"
    for wrong in ("they are cut off", "another replica begins anew"):
        assert judged("underway", wrong, fine).outcome == "failed"
    disturbed = judged("underway", "they are answered to the end", asked(*[False] * 19, True))
    assert "1 failed" in disturbed.text
    assert "measure again" in disturbed.text


def test_lost_answers_are_judged_by_how_many_can_be_under_way():
    none, two, many = (
        asked(*[False] * 50),
        asked(True, True, *[False] * 48),
        asked(*[True] * 30, *[False] * 20),
    )
    for guess, found, outcome in (
        (0, none, "passed"),
        (2, none, "passed"),
        (3, none, "failed"),
        (-1, none, "failed"),
        (4, two, "passed"),
        (30, two, "failed"),
        (30, many, "failed"),
    ):
        assert judged("lost", guess, found).outcome == outcome, (guess, found.failed)
    assert "something else was wrong" in judged("lost", 1, many).text
    with pytest.raises(UsageError, match="only 3"):
        judged("lost", 1, asked(False, False, False))


def test_a_failover_is_judged_within_a_factor_of_three():
    waited = replicas.Waited(what="ready", seconds=30.0)
    for guess, outcome in ((10, "passed"), (35, "passed"), (90, "passed"), (5, "failed"), (120, "failed")):
        assert judged("failover", guess, waited).outcome == outcome, guess


def test_of_three_managers_one_may_be_lost():
    without = recordings.load("08-without")
    assert judged("quorum", 1, without).outcome == "passed"
    assert "more than half" in judged("quorum", 2, without).hint
    choosing = ClusterStatus(id=None, managers=3, answering=3, quorum=False)
    assert "choosing a leader" in judged("quorum", 1, choosing).text
    with pytest.raises(UsageError, match="1 managers"):
        judged("quorum", 1, ClusterStatus(id="x", managers=1, answering=1, quorum=True))


def test_what_a_second_start_sends_is_judged_by_its_size():
    for nbytes, right in ((0, "nothing"), (35_000, "some kilobytes"), (26_000_000, "image and model again")):
        seen = wire.Sent(node="n2", interface="eth0", nbytes=nbytes)
        for choice in ("image and model again", "some kilobytes", "nothing"):
            assert (judged("sent", choice, seen).outcome == "passed") == (choice == right)
    with pytest.raises(UsageError, match="has not ended"):
        judged("sent", "nothing", wire.Sent(node="n2", interface="eth0"))


@pytest.mark.parametrize(
    "task", ["address", "gain", "underway", "lost", "failover", "quorum", "sent", "returned"]
)
def test_what_is_no_result_is_told_with_a_hint(lesson, task):
    found = lesson_08.LESSON.task(task)
    assert found
    if found.predicts:
        lesson.predict(task, found.choices[0] if found.choices else 1)
    for values in ((), ("seen",), (1, 2), (recordings.load("08-nodes"),)):
        outcome, text = said(lesson.check(task, *values))
        assert outcome == ("not here" if task == "returned" else "failed")
        assert outcome == "not here" or not text.endswith("→ ")


def test_what_is_left_running_is_told(server, lesson):
    outcome, text = said(lesson.check("gone"))
    assert outcome == "failed"
    assert "%llm stop one" in text
    server.stop()
    assert lesson.check("gone").passed


def test_on_one_machine_what_needs_three_does_not_count(lesson):
    assert lesson.check("spread", "trio").verdict.outcome == "not here"
    assert set(lesson.progress.not_here) == {"spread", "returned"}
