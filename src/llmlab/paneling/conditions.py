"""What this machine has to run models with, each in one word, with the fix that the doctor names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmlab import checkup
from llmlab.checkup import Facts, Row
from llmlab.checkup.rows import RowState
from llmlab.reporting import Reporter, reporting_to

_WAITS = "hangs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that servers need, or could use.

    Attributes:
        name: "container engine", "GPU" or "llama.cpp".
        state: How it is, as the doctor has it.
        word: The same in a word or two, such as "ready", "no engine", "no GPU".
        seen: What was seen. May hold text of other programs: untrusted.
        why: What follows from it; "" if all is well.
        fix: Commands that mend it.
    """

    name: str
    state: RowState
    word: str
    seen: str
    why: str = ""
    fix: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The condition as plain JSON data."""
        return {**asdict(self), "fix": list(self.fix)}

    def __str__(self) -> str:
        """One line, and one for each command that mends it."""
        lines = [f"{self.name}: {self.word} ({self.seen})" if self.seen else f"{self.name}: {self.word}"]
        if self.why:
            lines.append(f"  {self.why}")
        return "\n".join([*lines, *(f"  → {command}" for command in self.fix)])


def conditions() -> tuple[Condition, ...]:
    """The container engine, llama.cpp and the GPUs of this machine, as the doctor sees them now."""
    with reporting_to(Reporter()):  # nobody has asked for the doctor's own progress
        diagnosis = checkup.doctor()
    rows = {(row.group, row.name): row for row in diagnosis.rows}
    return (_engine(rows, diagnosis.facts), _program(rows, diagnosis.facts), _gpus(rows, diagnosis.facts))


def _engine(rows: Mapping[tuple[str, str], Row], facts: Facts) -> Condition:
    answers, access = (rows["Container engine", name] for name in ("engine", "access"))
    if answers.state == "ok":
        return Condition(name="container engine", state="ok", word="ready", seen=answers.seen)
    row, word = answers, "no engine"
    if facts.engine.get("error") == "permission":
        row, word = access, "no access"
    elif facts.engine.get("error") == _WAITS:
        word = "does not answer"
    return Condition(
        name="container engine",
        state=row.state,
        word=word,
        seen=row.seen,
        why="models run natively until there is one, and nothing keeps them in",
        fix=row.fix,
    )


def _program(rows: Mapping[tuple[str, str], Row], facts: Facts) -> Condition:
    row = rows["Engines and build tools", "llama.cpp"]
    well = row.state == "ok"
    return Condition(
        name="llama.cpp",
        state=row.state,
        word="ready" if well else "does not work" if facts.build.get("server") else "missing",
        seen=row.seen,
        why="" if well else row.why,
        fix=row.fix,
    )


def _gpus(rows: Mapping[tuple[str, str], Row], facts: Facts) -> Condition:
    driver, inside = (rows["GPU", name] for name in ("NVIDIA driver", "GPU in containers"))
    if not facts.gpus:
        return Condition(
            name="GPU",
            state=driver.state,
            word="no GPU" if driver.state == "not applicable" else "no driver",
            seen=driver.seen if driver.seen != "none" else "",
            why="models compute on the CPU",
            fix=driver.fix,
        )
    count = f"{len(facts.gpus)} GPU{'s' if len(facts.gpus) > 1 else ''}"
    if inside.state in {"warning", "fail"}:
        return Condition(
            name="GPU",
            state=inside.state,
            word=f"{count}, not in containers",
            seen=f"{driver.seen}; {inside.seen}",
            why=inside.why,
            fix=inside.fix,
        )
    return Condition(name="GPU", state="ok", word=count, seen=driver.seen)
