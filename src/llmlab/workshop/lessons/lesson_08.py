"""Lesson 08: a server on another machine, and three behind one address; one is drained, one is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab import render
from llmlab.errors import UsageError
from llmlab.workshop import cluster_judges, judges, looking
from llmlab.workshop.tasks import Given, Lesson, Task, Verdict, failed, passed

_COUNT, _MANAGERS = 3, 3
_HERE, _ALL, _NET = "this machine only", "all three machines", "everybody in the local network"
_NONE, _CLUSTERS, _BRIDGE = "no network", "the cluster's network", "the internet"
_ENDED, _CUT, _ANEW = "they are answered to the end", "they are cut off", "another replica begins anew"
_AGAIN, _FEW, _NOTHING = "image and model again", "some kilobytes", "nothing"
_FEW_BYTES = 1_000_000
_FACTOR, _TIME_FACTOR, _FEWEST = 2.0, 3.0, 10
_OURS = ("guest", "one", "trio")


def _quorum(given: Given) -> Verdict:
    facts = _facts(given.value, "managers", "a cluster's status", 'llmlab.cluster("status")')
    managers, answering = int(facts["managers"]), int(facts["answering"])
    if managers != _MANAGERS:
        raise UsageError(
            f"that cluster has {managers} managers, not {_MANAGERS}", hint="the others join with --manager"
        )
    needed = managers // 2 + 1
    text = f"{answering} of {managers} managers answer, and {needed} are needed"
    if given.predicted == managers - needed:
        more = "" if facts["quorum"] else " Just now they are choosing a leader."
        return passed(f"{text}: {managers - needed} may be lost.{more}")
    return failed(
        f"{text}. You predicted that {given.predicted:g} may be lost.",
        "more than half must agree, or two halves that do not see each other could both decide",
    )


def _sent(given: Given) -> Verdict:
    facts = _facts(given.value, "nbytes", "a count of bytes", "wire.counting(there) as again")
    if facts["nbytes"] is None:
        raise UsageError("the block has not ended", hint="run the cell above to its end")
    nbytes = int(facts["nbytes"])
    held = _NOTHING if nbytes == 0 else _FEW if nbytes < _FEW_BYTES else _AGAIN
    text = f"{render.bytes_text(nbytes)} were sent to {facts['node']}. You predicted: {given.predicted}."
    if given.predicted == held:
        return passed(f"{text} The machine says what it has, by its hash, and is told what to start.")
    return failed(
        text,
        "the first start has left image and model there. What is still to be said, and how long is that? "
        "Where other programs use the same network, count again",
    )


def _address(given: Given) -> Verdict:
    facts = _facts(given.value, "listens", "a view of replicas", 'replicas.look("trio")')
    where = str(facts["listens"])
    local = where.startswith(("unix:", "http://127.", "through"))
    text = f"It is reached at {where}"
    if given.predicted == (_HERE if local else _NET):
        return passed(f"{text}: nobody else can come in there. Others come by a room, which asks for keys.")
    return failed(
        f"{text}. You predicted {given.predicted!r}.",
        "read the line 'reached at': a unix socket is a file, and a file is on one machine",
    )


def _network(given: Given) -> Verdict:
    facts = _facts(given.value, "replicas", "a view of replicas", 'replicas.look("trio")')
    seen = {str(each["network"]) for each in facts["replicas"]}
    text = f"Network of the replicas: {', '.join(sorted(seen))}. You predicted: {given.predicted}."
    if given.predicted == (_NONE if seen == {"none"} else _CLUSTERS):
        return passed(f"{text} The door beside each of them is in the cluster's network, and holds no model.")
    return failed(
        text, "the column 'network' is that of the replica itself; what stands beside it is another container"
    )


def _spread(given: Given) -> Verdict:
    return cluster_judges.spread(given.value, count=_COUNT)


def _gain(given: Given) -> Verdict:
    if len(given.values) != 2:  # noqa: PLR2004 - one replica and three
        raise UsageError("two loads are wanted", hint='lesson.check("gain", one, three)')
    guess = judges.number(given.predicted, "the prediction")
    one, three = (_rate(value) for value in given.values)
    ratio = three / one
    # Three cannot do more than three times the work; fewer than one does nobody any harm but by what else runs.
    limits = min(max(ratio, 1.0), float(_COUNT))
    text = f"{one:.0f} tokens/s with one replica, {three:.0f} with three: {ratio:.1f} times. You predicted {guess:g}."
    if limits != ratio:
        text += f" That is outside 1 to {_COUNT}, so other programs disturbed one of the two: measure again."
    if limits / _FACTOR <= guess <= min(limits * _FACTOR, _COUNT):
        return passed(text)
    return failed(
        text,
        "three replicas do three times the work at best, and only if each has processors of its own, "
        "and none ever waits for a request. Predict again",
    )


def _underway(given: Given) -> Verdict:
    facts = _asked(given.value)
    text = f"{facts['asked']} questions while the machine was drained, {facts['failed']} failed."
    if facts["failed"]:
        text += " Draining makes none fail: the reasons stand below the table; measure again."
    if given.predicted == _ENDED:
        return passed(text)
    return failed(
        f"{text} You predicted: {given.predicted}.",
        "a drained machine gets nothing new. Its replica goes when it has answered what it was asked: "
        "how many have failed?",
    )


def _lost(given: Given) -> Verdict:
    facts = _asked(given.value)
    guess = judges.number(given.predicted, "the prediction")
    under_way = int(facts["learners"])
    seen = min(int(facts["failed"]), under_way)
    text = (
        f"{facts['asked']} questions, {facts['failed']} failed; the longest wait was {facts['longest_s']:.1f} s. "
        f"You predicted {guess:g}."
    )
    if facts["failed"] > under_way:
        text += f" No more than {under_way} were under way at a time, so something else was wrong, too."
    if guess >= 0 and abs(guess - seen) <= under_way:
        return passed(text)
    return failed(
        text,
        f"only what was under way on the lost machine can fail, and {under_way} ask at a time; "
        "what comes later goes to the others",
    )


def _failover(given: Given) -> Verdict:
    facts = _facts(given.value, "seconds", "a time", 'replicas.moved("trio", off=far)')
    guess, seen = judges.number(given.predicted, "the prediction"), float(facts["seconds"])
    text = f"Three replicas were ready again after {seen:.0f} s. You predicted {guess:g} s."
    if seen / _TIME_FACTOR <= guess <= seen * _TIME_FACTOR:
        return passed(text)
    return failed(
        text,
        "a machine that is silent may only be slow: first it is waited for, then asked once more, "
        "and then a replica is started as any server is. Predict again",
    )


def _returned(given: Given) -> Verdict:
    if len(given.values) != 2:  # noqa: PLR2004 - a machine and a server
        raise UsageError("a machine and a server are wanted", hint='lesson.check("returned", far, "trio")')
    return cluster_judges.swept(*given.values)


def _gone(given: Given) -> Verdict:
    return cluster_judges.nothing_left(_OURS, cluster=given.mode.cluster)


def _facts(value: Any, key: str, what: str, how: str) -> Mapping[str, Any]:
    """The data of a result or a recording that has such an entry."""
    facts = looking.facts_of(value)
    if key not in facts:
        raise UsageError(f"that is not {what}", hint=f"give what {how} has returned")
    return facts


def _asked(value: Any) -> Mapping[str, Any]:
    """What became of questions, if there were enough of them."""
    facts = _facts(value, "asked", "what became of questions", "asking.seen")
    if facts["asked"] < _FEWEST:
        raise UsageError(
            f"only {facts['asked']} questions were asked", hint="measure again, in the cell above"
        )
    return facts


def _rate(value: Any) -> float:
    """The tokens per second of a load's last level."""
    facts = _facts(value, "levels", "a load", "loading.load(…)")
    rate = facts["levels"][-1]["tokens_per_s"]
    if not rate:
        raise UsageError("the server did not count its tokens", hint="take llama-server")
    return float(rate)


LESSON = Lesson(
    number="08",
    title="Outgrowing one machine",
    minutes=40,
    tasks=(
        Task(
            id="sent",
            title="What a second start sends",
            judge=_sent,
            key="Some kilobytes, about 35: the request, and looking whether the image and the model are there. The usual "
            "mistake is that a model must travel with each start.",
            choices=(_AGAIN, _FEW, _NOTHING),
            predicts=True,
            answer=repr(_FEW),
            wrong=repr(_AGAIN),
        ),
        Task(
            id="address",
            title="Who reaches the gateway",
            judge=_address,
            key="This machine only: a unix socket in the learner's own directory. The usual mistake is to take the "
            "cluster's network for an open one: nothing is published on any machine.",
            choices=(_HERE, _ALL, _NET),
            predicts=True,
            answer=repr(_HERE),
            wrong=repr(_NET),
        ),
        Task(
            id="network",
            title="The network that a replica has",
            judge=_network,
            key="None. Beside each replica stands a door, a container with one static program, which is in the cluster's "
            "network and passes connections on to the replica's unix socket.",
            choices=(_NONE, _CLUSTERS, _BRIDGE),
            predicts=True,
            answer=repr(_NONE),
            wrong=repr(_CLUSTERS),
        ),
        Task(
            id="spread",
            title="Three replicas on three machines, sealed",
            judge=_spread,
            key="trio. The usual mistake is to name one of its replicas, trio.1, which is a server of its own. Judged on "
            "the running server.",
            needs="cluster",
            answer='"trio"',
            wrong='"trio.2"',
        ),
        Task(
            id="gain",
            title="Three replicas against one, predicted",
            judge=_gain,
            key="At most 3. Where the three machines are namespaces of one computer, 1.5 to 2.6 on two processors: the "
            "learners and the gateway need them, too. A factor of 2 either way passes, and more than 3 never does.",
            unit="times",
            predicts=True,
            answer="2.0",
            wrong="9.0",
        ),
        Task(
            id="underway",
            title="Requests under way on a machine that is drained",
            judge=_underway,
            key="They are answered to the end: draining is told to the gateway, which sends nothing new there.",
            choices=(_ENDED, _CUT, _ANEW),
            predicts=True,
            answer=repr(_ENDED),
            wrong=repr(_CUT),
        ),
        Task(
            id="lost",
            title="Answers that are lost with a machine",
            judge=_lost,
            key="None to two: only what was under way there can be lost, and two learners ask. Usually none fails and one "
            "waits for a second, since most of the time nothing is under way. Who reckons a third of all has "
            "forgotten that the gateway notices.",
            unit="answers",
            predicts=True,
            answer="1",
            wrong="30",
        ),
        Task(
            id="failover",
            title="The time until all replicas are ready again",
            judge=_failover,
            key="15 to 60 s, most of it spent on making sure that the machine is lost; the start itself takes some seconds. "
            "A factor of 3 either way passes.",
            unit="s",
            predicts=True,
            answer="35",
            wrong="0.5",
        ),
        Task(
            id="quorum",
            title="How many of three managers may be lost",
            judge=_quorum,
            key="1: two of three are more than half. The usual mistake is 2, 'as long as one is left'.",
            unit="managers",
            predicts=True,
            answer="1",
            wrong="2",
        ),
        Task(
            id="returned",
            title="Nothing is left on the machine that is back",
            judge=_returned,
            key="The keeper notes what it gives up, by the container's id, and removes it when the machine answers.",
            needs="cluster",
        ),
        Task(
            id="gone",
            title="Nothing is left behind",
            judge=_gone,
            key="guest, one and trio are stopped, and the three machines are in no cluster.",
        ),
    ),
)
