"""Lesson 00: what this machine can do, and what that means for the lessons that follow."""

from __future__ import annotations

from typing import Any

from llmlab.checkup import Diagnosis
from llmlab.errors import UsageError
from llmlab.machine import Machine
from llmlab.workshop import judges
from llmlab.workshop.tasks import Given, Lesson, Task, Verdict, failed, passed, unanswered

_GIB = 1024
# A reason that is shorter than this says nothing.
_REASON = 10
_PLACES = {"container": "in a container", "native": "natively"}
_WHY = {
    "a": "a container engine answers",
    "b": "no container engine answers",
    "c": "the model is small",
    "d": "there is no GPU",
}


def _cpus(given: Given) -> Verdict:
    seen = _machine(given.value).cpus
    guess = judges.number(given.predicted, "the prediction")
    text = f"You predicted {guess:g}; a program here may use {seen}."
    if guess == seen:
        return passed(text)
    return failed(
        text,
        "what the CPU's maker counts is not always what you may use: a container, a virtual machine or a service "
        "such as Binder can give you fewer, and a core with two hardware threads counts twice. "
        "Predict again with what you see now",
    )


def _memory(given: Given) -> Verdict:
    return judges.near(
        given.predicted,
        round(_machine(given.value).available_mib / _GIB, 1),
        share=0.4,
        unit="GiB",
        hint="free is what is left when all other programs have theirs: less than the machine has, and "
        "in WSL2 or Docker Desktop less again. Predict again with what you see now",
    )


def _machine(value: Any) -> Machine:
    if not isinstance(value, Machine):
        raise UsageError(f"{value!r} is no measurement", hint="give what machine.look() has returned")
    return value


def _backend(given: Given) -> Verdict:
    status = judges.server(given.value)
    text = (
        f"{status.name} runs {_PLACES.get(status.backend, status.backend)}. You predicted {given.predicted}."
    )
    if given.predicted == status.backend:
        return passed(text)
    return failed(
        text,
        "look at the card at the top, line 'models run', and at the doctor's group 'Container engine': "
        "a container is taken where an engine answers",
    )


def _why(given: Given) -> Verdict:
    chosen = str(given.value).strip().lower()
    if chosen not in _WHY:
        raise UsageError(f"{given.value!r} is none of the four", hint="give one letter: 'a', 'b', 'c' or 'd'")
    if chosen == ("a" if given.mode.container else "b"):
        return passed(f"So it is: {_WHY[chosen]}.")
    if chosen in ("c", "d"):
        return failed(
            f"That {_WHY[chosen]} may be so, and it decides nothing about the place.",
            "containers hold small and large models, with a GPU and without: "
            "which group of the doctor's is the place about?",
        )
    return failed(
        f"That {_WHY[chosen]} is not so here.",
        "the doctor's group 'Container engine', row 'engine', and the card at the top say it",
    )


def _rows(given: Given) -> Verdict:
    """Every failing row of the doctor's has a reason of the learner's."""
    reasons, report = _pair(given)
    failing = [row.name for row in report.rows if row.state == "fail"]
    if extra := sorted(set(reasons) - set(failing)):
        return failed(
            f"No failing row is called {', '.join(map(repr, extra))}.",
            "what is to be explained carries ✗ in the report: copy the row's name. Without any ✗, write {}",
        )
    if not failing:
        return passed(f"No row fails: {report.summary()}.")
    missing = [name for name in failing if name not in reasons]
    if missing:
        return failed(
            f"Not explained yet: {', '.join(missing)}.",
            f'either do what stands behind the arrow, or say why it may stay: {{"{missing[0]}": "…"}}',
        )
    if any(reasons[name] is ... for name in failing):
        return unanswered("A reason is still open.", "put a sentence in place of the three dots")
    if short := [name for name in failing if len(str(reasons[name]).strip()) < _REASON]:
        return failed(
            f"That says nothing about {', '.join(short)}.",
            "a reason is a sentence: what is missing here, and what it means for what you want to do",
        )
    return passed(f"Explained: {', '.join(failing)}. The report: {report.summary()}.")


def _pair(given: Given) -> tuple[dict[str, Any], Diagnosis]:
    if len(given.values) != 2:  # noqa: PLR2004 - reasons and report
        raise UsageError("reasons and a report are wanted", hint='lesson.check("rows", {}, report)')
    reasons, report = given.values
    # A preflight carries the doctor's report within it.
    report = getattr(report, "diagnosis", report)
    if not isinstance(report, Diagnosis):
        raise UsageError(f"{type(report).__name__} is no report", hint="report = llmlab.doctor()")
    if not isinstance(reasons, dict):
        raise UsageError(
            f"{reasons!r} gives no reasons",
            hint='name of a row and reason, such as {"engine": "I may not install anything here"}; '
            "{} if no row fails",
        )
    return reasons, report


def _gone(_: Given) -> Verdict:
    verdict = judges.nothing_left(("first",))
    return (
        passed("first is gone.") if verdict.outcome == "passed" else failed(verdict.text, "%llm stop first")
    )


LESSON = Lesson(
    number="00",
    title="Preflight",
    minutes=10,
    tasks=(
        Task(
            id="cpus",
            title="How many CPUs a program may use here",
            judge=_cpus,
            key="The figure of machine.look(): affinity and quota, so that it is 1 or 2 on Binder. The usual "
            "mistake is the number on the box. A second prediction is welcome: what counts is to have compared.",
            unit="CPUs",
            predicts=True,
            answer="machine.cpus()",
            wrong="4096",
        ),
        Task(
            id="memory",
            title="How much memory is free, within 40 %",
            judge=_memory,
            key="available_mib of machine.look(), in GiB. Most predict what the machine has; what counts is "
            "what is left, and inside of a limit (Binder, a container, WSL2) that is less.",
            unit="GiB",
            predicts=True,
            answer="round(machine.look().available_mib / 1024, 1)",
            wrong="100000",
        ),
        Task(
            id="rows",
            title="Every row is green, or explained",
            judge=_rows,
            key="{} where nothing fails. Otherwise a reason for each ✗; let them read it to their neighbour. "
            "Warnings (▲) need none. The usual mistake is to explain a warning.",
            answer="{row.name: 'not on this machine, so I go on without' for row in report.rows if row.state == 'fail'}",
            wrong="{'the weather': 'it rains, which explains nothing here'}",
        ),
        Task(
            id="backend",
            title="Where a model runs on this machine",
            judge=_backend,
            key="container where an engine answers, native elsewhere. Who expected the other has not read the card.",
            choices=("container", "native"),
            predicts=True,
            answer="lesson.here.backend",
            wrong="'native' if lesson.here.container else 'container'",
        ),
        Task(
            id="why",
            title="Why it runs there",
            judge=_why,
            key="a with a container engine, b without. Neither size nor GPU decides it.",
            answer="'a' if lesson.here.container else 'b'",
            wrong="'c'",
        ),
        Task(
            id="gone",
            title="Nothing is left behind",
            judge=_gone,
            key="`first` is stopped. A server goes on when its notebook is closed.",
        ),
    ),
)
