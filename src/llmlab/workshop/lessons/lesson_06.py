"""Lesson 06: what is left of a server that breaks, and how to tell from that what broke it."""

from __future__ import annotations

from functools import partial

from llmlab import lab
from llmlab.errors import UsageError
from llmlab.workshop import faults, judges
from llmlab.workshop.tasks import Given, Lesson, Task, Verdict, failed, passed

_READY, _EXITED, _GONE = "ready", "exited", "gone"
_MINE = "mine"
_REFUSED = ("no-image", "no-room", "half")

# What tells each, and where it stands: the hint after a wrong diagnosis.
_TELLS = {
    faults.MEMORY: "the state says who has killed it, and at which limit; compare that limit with "
    "'memory at most' of inspect",
    faults.KILLED: "read the exit code: 128 and the number of a signal. Was it short of memory? Compare "
    "'memory at most' of inspect with the line 'memory' of its limits. And does its log end with a farewell?",
    faults.PAUSED: "it has not ended: look at the word in brackets behind its state. What does it say lets it go on?",
    faults.TOLD: "an exit code of 0 is no crash. The last line of its log says what it was doing when it ended",
    faults.CUT: "inspect has a line about the model's file that the others do not have; what does the exit code say "
    "about files?",
}
_WHY = {
    faults.MEMORY: "Its limit was enough to start, and not for a long question: the kernel killed it.",
    faults.KILLED: "It was sent SIGKILL, which no program can refuse: no farewell in its log, and memory was not short.",
    faults.PAUSED: "It is there and holds its memory, and gets no time: whoever asks waits until the time-out.",
    faults.TOLD: "It was sent SIGTERM, cleaned up and left with exit code 0: as `docker stop` or `kill` do it.",
    faults.CUT: "Its model's file was cut while it had it mapped; at the next question it read where nothing was left.",
}


def _after_kill(given: Given) -> Verdict:
    name = getattr(given.value, "name", given.value)
    found = [one for one in lab.ps() if one.name == name]
    seen = found[0].state if found else _GONE
    if seen == _READY:
        raise UsageError(
            f"{name} is ready: nobody has killed it", hint=f'faults.kill("{name}"), in a cell above'
        )
    text = f"ps says of {name}: {seen}{f', {found[0].detail}' if found else ''}."
    if given.predicted == seen:
        return passed(text)
    return failed(
        text,
        "its record stays until it is stopped, so that you can still see why it ended: run %llm ps once more",
    )


def _traces(given: Given) -> Verdict:
    if not given.values or not all(isinstance(name, str) for name in given.values):
        raise UsageError(
            "the names of the three are wanted",
            hint=f'lesson.check("traces", {", ".join(map(repr, _REFUSED))})',
        )
    left = [one.name for one in lab.ps() if one.name in given.values]
    text = f"Of {', '.join(given.values)} {len(left)} are in the list."
    if given.predicted == len(left):
        return passed(f"{text} What does not come up is taken back whole.")
    return failed(text, "a start that fails takes back what it had begun; %llm ps lists what there is")


def _diagnosis(name: str, given: Given) -> Verdict:
    if given.value not in faults.CHOICES:
        choices = ", ".join(map(repr, faults.CHOICES))
        raise UsageError(f"{given.value!r} is none of the diagnoses", hint=f"they are {choices}")
    right = faults.truth(name)
    if given.value == right:
        return passed(f"{right}. {_WHY[right]}")
    if given.value in {faults.DISK, faults.IMAGE}:
        text = f"Not {given.value!r}: that keeps a server from starting, and {name} had started and answered."
    else:
        text = f"Not {given.value!r}."
    return failed(text, f"%llm ps, %llm inspect {name}, %llm logs {name}: {_TELLS[right]}")


def _mended(given: Given) -> Verdict:
    name = getattr(given.value, "name", given.value)
    if name not in faults.NAMES:
        raise UsageError(f"{name!r} is none of the three", hint=f"one of {', '.join(faults.NAMES)} is wanted")
    status = judges.server(name)
    return passed(f"{status.name} answers again. It was: {faults.truth(status.name)}.")


def _gone(_: Given) -> Verdict:
    return judges.nothing_left((_MINE, *_REFUSED, *faults.NAMES))


def _patient(number: int) -> Task:
    name = faults.NAMES[number]
    return Task(
        id=name,
        title=f"You found out what ails {name}",
        judge=partial(_diagnosis, name),
        answer=f'faults.truth("{name}")',
        wrong=f'"{faults.DISK}"',
        key=f"faults.truth('{name}') tells it; seed(1) does the same to everybody, another number something else. "
        "Out of memory: state and limit. Killed: exit code 137, log without a farewell. Paused: state. Told to stop: exit "
        "code 0, log says 'cleaning up'. Model cut short: exit code 135, and the line 'model file' of inspect.",
    )


LESSON = Lesson(
    number="06",
    title="Breaking things",
    minutes=25,
    tasks=(
        Task(
            id="after-kill",
            title="You predicted what is left of a killed server",
            judge=_after_kill,
            choices=(_READY, _EXITED, _GONE),
            predicts=True,
            answer=f'"{_EXITED}"',
            wrong=f'"{_GONE}"',
            key="'exited', with exit code 137: record and log stay until it is stopped or its name is taken again. Usual "
            "mistake: to take what has ended for gone.",
        ),
        Task(
            id="traces",
            title="You predicted what three failed starts leave",
            judge=_traces,
            unit="servers",
            predicts=True,
            answer="0",
            wrong="3",
            key="None: a start that fails removes what it had begun, so there is nothing to inspect; the error carries the "
            "reason and the last lines of the log.",
        ),
        *(_patient(number) for number in range(len(faults.NAMES))),
        Task(
            id="mended",
            title="You brought one of the three back",
            judge=_mended,
            answer='(llmlab.stop("fault-1"), llmlab.start("tiny", name="fault-1"))[1]',
            wrong='"fault-2"',
            key="A paused one can go on (docker unpause, kill -CONT); all others are stopped and started anew, the cut model "
            "from a whole file, the starved one with a larger --memory.",
        ),
        Task(
            id="gone",
            title="Nothing is left behind",
            judge=_gone,
            key="mine and the three are stopped; faults.clear() removes what was made besides.",
        ),
    ),
)
