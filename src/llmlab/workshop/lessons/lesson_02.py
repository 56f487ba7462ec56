"""Lesson 02: what a container keeps a model from, predicted, read off, attempted, and what it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.errors import UsageError
from llmlab.workshop import isolation_judges, judges, looking
from llmlab.workshop.tasks import Given, Lesson, Task, Verdict, failed, passed

_STRONG, _WEAK = "boxed", "leaky"
_NOWHERE, _SCRATCH, _ANYWHERE = "nowhere", "one directory in memory", "everywhere"
_STOPPED, _SWAPS, _TOLD = "it is stopped", "it gets slow", "it gets an error"
_PROCESSES, _CLOCK, _KERNEL = "process numbers", "the clock", "the kernel"
_GROUPS = ("network", "files", "privileges", "resources", "devices", "access", "integrity")
_OURS = ("plain", "boxed", "leaky", "mine")
_MEMORY_MIB, _CPUS = 384, 1.5


def _write(given: Given) -> Verdict:
    cells = _cells(given.value, _STRONG)
    root, scratch = cells.get("root file system", ""), cells.get("scratch", "none")
    held = _NOWHERE if scratch == "none" else _SCRATCH
    seen = held if root == "read-only" else _ANYWHERE
    text = f"Root file system of {_STRONG}: {root}; scratch: {scratch}. You predicted {given.predicted!r}."
    if given.predicted == seen:
        return passed(text)
    return failed(
        text,
        f"two lines of the receipt are about writing: read both in the column {_STRONG}, and predict again",
    )


def _capabilities(given: Given) -> Verdict:
    if len(given.values) != 2:  # noqa: PLR2004 - names and receipts
        raise UsageError(
            "names and receipts are wanted", hint='lesson.check("capabilities", ["plain"], seen)'
        )
    named, seen = _words(given.values[0], "names of servers"), given.values[1]
    servers = looking.facts_of(seen).get("cells", {})
    if unknown := sorted(named - set(servers)):
        raise UsageError(
            f"{', '.join(unknown)}: not in the receipts", hint=f"they are of {', '.join(servers)}"
        )
    none = {name for name in servers if _cells(seen, name).get("capabilities") == "none"}
    if named == none:
        return passed(f"None of root's powers: {', '.join(sorted(none)) or 'no server'}.")
    if wrong := sorted(named - none):
        return failed(
            f"{wrong[0]} has some, or can get some: {_cells(seen, wrong[0]).get('capabilities', 'unknown')}.",
            "look for the word 'none' in the line 'capabilities'; 'bounding' are those that can still be had",
        )
    return failed(
        "Those have none, but they are not all.",
        "read the line 'capabilities' to its end: a server that is weak in one line can be strong in another",
    )


def _sealed(given: Given) -> Verdict:
    return isolation_judges.sealed(given.value)


def _fails(given: Given) -> Verdict:
    """The groups in which the weak server fails and the strong one does not."""
    predicted = _words(given.predicted, "names of groups")
    if unknown := sorted(predicted - set(_GROUPS)):
        raise UsageError(f"{unknown[0]!r} is no group of checks", hint=f"they are {', '.join(_GROUPS)}")
    failing = _failed(given.value, _WEAK)
    more = {group for check, group in failing.items() if check not in _failed(given.value, _STRONG)}
    text = f"{_WEAK} fails {', '.join(failing) or 'nothing'}. You predicted {', '.join(sorted(predicted))}."
    if predicted == more:
        return passed(text)
    over, under = sorted(predicted - more), sorted(more - predicted)
    hints = []
    if over:
        hints.append(f"nothing more fails in {', '.join(over)}: what was loosened does not touch that")
    if under:
        hints.append("there are groups that you left out: compare the two columns, group by group")
    return failed(text, "; ".join(hints))


def _door(given: Given) -> Verdict:
    found = looking.finding(given.value, _WEAK, "N9")
    seen = "yes" if found["verdict"] == "fail" else "no"
    text = f"N9 {found['title']}: {found['verdict']} ({found['observed']})."
    if given.predicted == seen:
        return passed(f"{text} You predicted {seen}: way out and way in are two things.")
    return failed(
        text,
        "a network lets a program out; to be let in from elsewhere takes a published port. "
        "Which line of the receipt is about those?",
    )


def _memory(given: Given) -> Verdict:
    found = looking.finding(given.value, _STRONG, "R1")
    observed = str(found["observed"])
    if found["verdict"] != "pass" and given.predicted == _STOPPED:
        # Such an engine takes the limit and does nothing: the prediction is right all the same.
        return passed(
            f"Where the limit holds, it is stopped. This engine does not hold it, says R1: {found['verdict']} "
            f"({observed}). `%llm doctor` says more, in the rows 'limits' and 'control groups'."
        )
    seen = _TOLD if found["verdict"] == "pass" and "SIGKILL" not in observed else _STOPPED
    if given.predicted == seen:
        return passed(f"R1 {found['title']}: {observed}.")
    return failed(
        f"R1 {found['title']}: {observed}. You predicted {given.predicted!r}.",
        "a limit without swap leaves the kernel one way to keep it: what does SIGKILL do to a program?",
    )


def _evidence(given: Given) -> Verdict:
    if len(given.values) != 2:  # noqa: PLR2004 - a word and the audit
        raise UsageError("a word and the audit are wanted", hint='lesson.check("evidence", "…", found)')
    word, audit = str(given.values[0]).strip().upper(), given.values[1]
    found = looking.finding(audit, _STRONG, "F1")
    words = {str(each["observed"]).split(":")[0].split(" ")[0] for each in found["attempts"]}
    if word in words:
        return passed(f"{found['observed']}. In the control, the same worked.")
    if any(
        word in str(each["observed"]).upper() for other in ("N1", "P4", "F3") for each in _tried(audit, other)
    ):
        return failed(
            f"{word} is what another check has met.",
            "F1 is about writing, and a file system gives another reason than a filter of system calls",
        )
    return failed(
        f"{word} does not stand in the evidence of F1.",
        "the middle column of the table above: the word in capitals before the colon, which names the kernel's error",
    )


def _apart(given: Given) -> Verdict:
    parts = looking.facts_of(given.value).get("parts")
    if not isinstance(parts, Mapping):
        raise UsageError("that is no view of what is kept apart", hint='kept_apart("boxed")')
    if parts.get("pid") == "shared":
        raise UsageError("that server runs natively: it has nothing for itself", hint='kept_apart("boxed")')
    if given.predicted == _PROCESSES:
        how = "cannot be seen from here" if parts.get("pid") == "unknown" else f"are {parts.get('pid')}"
        return passed(
            f"Its process numbers {how}; the clock is {parts.get('time')}. The kernel is everybody's."
        )
    return failed(
        f"Not {given.predicted}: in the table it is not the server's own.",
        "a namespace is a list that the kernel keeps separately for a group of programs: "
        "the table says which lists there are. The kernel itself is no list",
    )


def _limits(given: Given) -> Verdict:
    return isolation_judges.limits(given.value, memory_mib=_MEMORY_MIB, cpus=_CPUS)


def _gone(_: Given) -> Verdict:
    verdict = judges.nothing_left(_OURS)
    if verdict.outcome == "passed":
        return passed(f"{', '.join(_OURS)}: none of them is left, and no container of theirs.")
    return failed(verdict.text, "run the cell above, which stops them by name")


def _cells(receipts: Any, server: str) -> dict[str, str]:
    """Control → what is in force on a server."""
    cells = looking.facts_of(receipts).get("cells")
    if not isinstance(cells, Mapping) or server not in cells:
        raise UsageError(f"no receipt of {server} is there", hint='receipts("plain", "boxed", "leaky")')
    return {name: str(cell["seen"]) for name, cell in cells[server].items()}


def _failed(audit: Any, server: str) -> dict[str, str]:
    """Id → group of the checks that a server fails."""
    for one in looking.audits(audit):
        if one["server"] == server:
            return {each["id"]: each["group"] for each in one["findings"] if each["verdict"] == "fail"}
    raise UsageError(
        f"the audit has no server {server!r}", hint="give the audit with both servers side by side"
    )


def _tried(audit: Any, check: str) -> Sequence[Mapping[str, Any]]:
    return list(looking.finding(audit, _STRONG, check)["attempts"])


def _words(value: Any, what: str) -> set[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{value!r} is no list of {what}", hint='in brackets and quotes, such as ["a", "b"]')
    return {one.strip() for one in value}


LESSON = Lesson(
    number="02",
    title="What is isolated?",
    minutes=30,
    tasks=(
        Task(
            id="write",
            title="Where a program in boxed can write",
            judge=_write,
            key="One directory in memory: /tmp, 64 MiB, from which no program can be run. Who says nowhere has read "
            "the line 'root file system' and not the line 'scratch'.",
            choices=(_NOWHERE, _SCRATCH, _ANYWHERE),
            predicts=True,
            answer=repr(_SCRATCH),
            wrong=repr(_ANYWHERE),
        ),
        Task(
            id="capabilities",
            title="Which servers have none of root's powers",
            judge=_capabilities,
            key="boxed and leaky: the controls are independent, and leaky was loosened in two others. "
            "The usual mistake is to name boxed alone.",
            answer='["boxed", "leaky"]',
            wrong='["boxed"]',
        ),
        Task(
            id="sealed",
            title="The server that is kept in on all four sides",
            judge=_sealed,
            key="boxed. leaky has a network and a writable root; plain has everything. Judged on the running server, "
            "so it fails, too, where somebody has started boxed with other options.",
            needs="container",
            answer='"boxed"',
            wrong='"leaky"',
        ),
        Task(
            id="fails",
            title="What the audit will find of leaky",
            judge=_fails,
            key="network and files: N1 to N8 by the bridge (and the filter that comes with it), F1 by the writable root. "
            "Judged by what leaky fails and boxed does not, so that a gap of the engine itself does not count.",
            predicts=True,
            answer='["network", "files"]',
            wrong='["network", "privileges"]',
        ),
        Task(
            id="door",
            title="Whether others can ask leaky's model",
            judge=_door,
            key="no: nothing is published, and the model listens on a unix socket. A bridge is a way out. With --profile "
            "none it would be yes, N9 fails there.",
            choices=("yes", "no"),
            predicts=True,
            answer="'no'",
            wrong="'yes'",
        ),
        Task(
            id="memory",
            title="What happens above the memory limit",
            judge=_memory,
            key="It is stopped: without swap, the kernel ends a process of the container. The usual mistake is 'it gets "
            "slow', which is what a machine with swap and without a limit does.",
            choices=(_STOPPED, _SWAPS, _TOLD),
            predicts=True,
            answer=repr(_STOPPED),
            wrong=repr(_SWAPS),
        ),
        Task(
            id="evidence",
            title="The kernel's reason, read off the evidence",
            judge=_evidence,
            key="EROFS, read-only file system. EPERM is what the filter of system calls gives (N1, P4), EACCES what "
            "permissions give (F3): three different walls.",
            answer='"EROFS"',
            wrong='"EPERM"',
        ),
        Task(
            id="apart",
            title="What a container has for itself",
            judge=_apart,
            key="Process numbers. Clock and kernel are shared with the machine (with Docker Desktop: with its virtual "
            "machine), so a fault of the kernel is a way out of every container.",
            choices=(_PROCESSES, _CLOCK, _KERNEL),
            predicts=True,
            answer=repr(_PROCESSES),
            wrong=repr(_KERNEL),
        ),
        Task(
            id="limits",
            title="A server with limits of your own, in force",
            judge=_limits,
            key="%llm start tiny --name mine --memory 384m --cpus 1.5. Usual mistakes: --threads in place of --cpus, "
            "and 384 MB from memory as 0.384g, which is 393 MiB.",
            needs="container",
            answer='lesson.here.container and llmlab.start("tiny", name="mine", memory="384m", cpus=1.5)',
            wrong='"boxed"',
        ),
        Task(
            id="gone",
            title="Nothing is left behind",
            judge=_gone,
            key="plain, boxed, leaky and mine are stopped.",
        ),
    ),
)
