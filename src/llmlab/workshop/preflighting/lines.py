"""The doctor's facts and rows as the handful of lines that a learner needs before a workshop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llmlab import render
from llmlab.checkup.facts import Facts
from llmlab.checkup.rows import Row

LineState = Literal["ok", "to do", "advice", "none", "skipped", "unknown"]
"""ok: as it should be. to do: something of the workshop does not work before that is done.
advice: it works, and could be better. none: there is none, and none is needed. skipped: it was
not tried. unknown: it could not be looked at."""
Way = Literal["native", "container"]
BOTH: tuple[Way, ...] = ("native", "container")

_MOST_COMMAND = 160  # characters; a longer one is not read before it is pasted
_DOCTOR = "llmlab doctor"
_NOTEBOOKS = ("jupyterlab", "notebook")
_WIDGETS = ("widgets", "anywidget")
_UNSAFE = ("access", "engine version", "container runtime", "limits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the preflight.

    Attributes:
        name: What was looked at.
        state: How it is.
        seen: What was seen.
        fix: The one command that mends it; "" where there is nothing to mend.
        topic: What is to be mended, in the words that a room's are counted by; "" likewise.
        blocks: The ways to run a model that do not work because of it.
    """

    name: str
    state: LineState
    seen: str
    fix: str = ""
    topic: str = ""
    blocks: tuple[Way, ...] = ()


def one_command(fix: Sequence[str]) -> str:
    """Several commands as one to copy; the doctor's where that is more than commands, or too long to read."""
    if any(part.startswith("#") and part.endswith("then:") for part in fix):
        return _DOCTOR
    commands = [part.partition("   #")[0] for part in fix if not part.startswith("#")]
    joined = " && ".join(commands)
    return joined if joined and len(joined) <= _MOST_COMMAND else _DOCTOR * bool(fix)


def machine(rows: Mapping[str, Row]) -> Line:
    """The system and the place for servers."""
    for name, topic in (("platform", "the platform"), ("servers' directory", "the servers' directory")):
        if rows[name].state == "fail":
            return _todo("Machine", rows[name], topic)
    platform = rows["platform"]
    if platform.state == "warning" and not platform.fix[0].startswith("llmlab start"):
        fix = one_command(platform.fix)
        return Line(name="Machine", state="advice", seen=platform.seen, fix=fix, topic="the platform")
    state: LineState = "unknown" if platform.state == "unknown" else "ok"
    return Line(name="Machine", state=state, seen=platform.seen)


def later() -> tuple[Line, Line]:
    """Engine and containers, where the machine itself has to be put right first."""
    seen = "looked at when the machine is as it should be"
    return Line(name="Engine", state="skipped", seen=seen), Line(
        name="Containers", state="skipped", seen=seen
    )


def python(facts: Facts, rows: Mapping[str, Row]) -> Line:
    """Python, and what the notebook is made of."""
    for name, topic in (("Python", "the Python version"), ("packages", "Python packages")):
        if rows[name].state == "fail":
            return _todo("Python", rows[name], topic)
    known = facts.packages
    there = [f"{name} {known[name]}" for name in (*_NOTEBOOKS, "ipywidgets", "anywidget") if name in known]
    seen = (
        f"Python {facts.python.get('version', 'of an unknown version')}, {', '.join(there) or 'no Jupyter'}"
    )
    hosted = bool(facts.hosted or facts.python.get("kernel") or facts.python.get("server"))
    missing = [] if "ipykernel" in known else ["ipykernel"]
    if not hosted and not any(name in known for name in _NOTEBOOKS):
        missing.append("jupyterlab")
    if missing and "packages" not in facts.failed:
        return Line(
            name="Python",
            state="to do",
            seen=f"{seen}; missing for the notebook: {', '.join(missing)}",
            fix=f"pip install {' '.join(missing)}",
            topic="Python packages",
            blocks=BOTH,
        )
    if missing := [name for name in ("ipywidgets", "anywidget") if name not in known]:
        return Line(
            name="Python",
            state="advice",
            seen=f"{seen}; without {' and '.join(missing)}, text stands where widgets would",
            fix=f"pip install {' '.join(missing)}",
            topic="the widgets",
        )
    for name in _WIDGETS:
        if rows[name].state == "fail":
            return Line(
                name="Python",
                state="advice",
                seen=rows[name].seen,
                fix=one_command(rows[name].fix),
                topic="the widgets",
            )
    return Line(name="Python", state="ok", seen=seen)


def engine(facts: Facts, rows: Mapping[str, Row]) -> Line:
    """The program that serves models."""
    build, row = facts.build, rows["llama.cpp"]
    if row.state == "fail":
        return _todo("Engine", row, "the engine")
    if build.get("server"):
        where = {"own": "compiled here", "PATH": "found on this machine"}.get(str(build.get("origin")), "")
        version = str(build.get("version") or "llama.cpp").partition(" (")[0]
        seen = version if "llama" in version else f"llama.cpp {version}"
        return Line(name="Engine", state="ok", seen=f"{seen}, {where}" if where else seen)
    if wheel := facts.packages.get("llama-cpp-python"):
        return Line(
            name="Engine",
            state="to do",
            seen=f"the wheel llama-cpp-python {wheel}: runs natively; for containers llama.cpp is compiled, once, "
            "in about 5 minutes",
            fix=_compile(rows),
            topic="compiling the engine",
            blocks=("container",),
        )
    return Line(
        name="Engine",
        state="to do",
        seen="llama.cpp is not compiled yet: about 5 minutes on 2 cores, once",
        fix=_compile(rows),
        topic="compiling the engine",
        blocks=BOTH,
    )


def _compile(rows: Mapping[str, Row]) -> str:
    tools = [one_command(rows[name].fix) for name in ("C++ compiler", "cmake and ninja") if rows[name].fix]
    return one_command((*tools, "llmlab build"))


def containers(facts: Facts, rows: Mapping[str, Row]) -> Line:
    """Whether a container engine works for this user."""
    if facts.info:
        return _answering(rows)
    row = rows["engine"]
    if facts.hosted or row.state == "not applicable":
        return Line(name="Containers", state="none", seen=row.seen, blocks=("container",))
    if row.state == "unknown":
        return Line(name="Containers", state="unknown", seen=row.seen, fix=_DOCTOR, blocks=("container",))
    error = facts.engine.get("error")
    if error == "permission":
        seen = "a container engine is here and does not let you in: you are not in its group"
        return Line(
            name="Containers",
            state="to do",
            seen=seen,
            fix=one_command(rows["access"].fix),
            topic="the Docker group",
            blocks=("container",),
        )
    topic = "the container engine hangs" if error == "hangs" else "no container engine"
    return Line(
        name="Containers",
        state="to do",
        seen="none answers" if error in {"missing", "refused"} else row.seen,
        fix=one_command(row.fix),
        topic=topic,
        blocks=("container",),
    )


def _answering(rows: Mapping[str, Row]) -> Line:
    seen = f"{rows['engine'].seen.partition(' at ')[0]} answers you"
    if rows["clients"].state == "fail":
        fix = one_command(rows["clients"].fix)
        return Line(
            name="Containers",
            state="to do",
            seen=f"{seen}; Python's docker package is missing",
            fix=fix,
            topic="Python packages",
            blocks=("container",),
        )
    for name in _UNSAFE:
        if rows[name].state == "fail":
            return Line(
                name="Containers",
                state="advice",
                seen=f"{seen}; {name}: {rows[name].seen}",
                fix=one_command(rows[name].fix),
                topic="the container engine's safety",
            )
    return Line(name="Containers", state="ok", seen=seen)


def gpu(facts: Facts, rows: Mapping[str, Row]) -> tuple[Line, str]:
    """The GPU and its way into containers, and the same in a few words."""
    driver = rows["NVIDIA driver"]
    if driver.state in {"fail", "warning", "unknown"}:
        line = Line(
            name="GPU",
            state="unknown" if driver.state == "unknown" else "advice",
            seen=f"{driver.seen}: models run on the CPU",
            fix=one_command(driver.fix),
            topic="the GPU's driver" if driver.fix else "",
        )
        return line, "no GPU in use"
    if not facts.has_nvidia:
        other = rows["other GPUs"]
        if other.state == "ok":
            return Line(name="GPU", state="ok", seen=other.seen), "GPU natively only"
        idle, sign, _ = other.seen.partition(":")
        seen = f" ({idle} is not used)" if sign else ""
        return Line(name="GPU", state="none", seen=f"models run on the CPU{seen}"), "no GPU"
    return _nvidia(facts, rows)


def _nvidia(facts: Facts, rows: Mapping[str, Row]) -> tuple[Line, str]:
    names = ", ".join(gpu_names(facts)) or "an NVIDIA GPU"
    if facts.build.get("server") and facts.build.get("accelerators") == []:
        line = Line(
            name="GPU",
            state="advice",
            seen=f"{names}; the engine is compiled for the CPU only",
            fix="llmlab build --gpu cuda",
            topic="compiling the engine for the GPU",
        )
        return line, "GPU not in use"
    if not facts.info:
        return Line(name="GPU", state="ok", seen=names), "GPU"
    way = rows["GPU in containers"]
    if way.state in {"fail", "warning"}:
        toolkit = rows["NVIDIA toolkit"]
        fix = toolkit.fix if toolkit.state == "warning" and "not installed" in toolkit.seen else way.fix
        line = Line(
            name="GPU",
            state="advice",
            seen=f"{names}; {way.seen}",
            fix=one_command(fix),
            topic="the GPU's container toolkit",
        )
        return line, "GPU natively only"
    return Line(name="GPU", state="ok", seen=f"{names}, for containers too"), "GPU"


def gpu_names(facts: Facts) -> tuple[str, ...]:
    """Names of the NVIDIA GPUs, with their memory."""
    if facts.gpus:
        return tuple(f"{gpu['name']} ({render.mib_text(gpu['total_mib'])})" for gpu in facts.gpus)
    lines = [text for line, text in facts.outputs.items() if line.startswith("nvidia-smi")]
    return tuple(line.partition(",")[0] for text in lines for line in text.splitlines() if line.strip())


def _todo(name: str, row: Row, topic: str) -> Line:
    return Line(name=name, state="to do", seen=row.seen, fix=one_command(row.fix), topic=topic, blocks=BOTH)
