"""The compiled engine, what compiles it, and other engines of this machine."""

from __future__ import annotations

import re

from llmlab.checkup.checks.base import (
    Check,
    Finding,
    absent,
    assessed,
    fail,
    first_line,
    ok,
    unknown,
    warning,
)
from llmlab.checkup.facts import Facts

_COMPILERS = ("c++ --version", "g++ --version", "clang++ --version")
_LEAST_CMAKE = (3, 26)


def _build(facts: Facts) -> Finding:
    seen = facts.build
    if error := seen.get("error"):
        return fail(f"{seen.get('server')}: {error}", "unset LLMLAB_LLAMA_SERVER", "llmlab build")
    if not seen.get("server"):
        return warning(
            "there is none yet",
            "llmlab build",
            why="the first start would compile it, about 5 minutes on 2 cores",
        )
    version = str(seen.get("version") or "of an unknown version")
    what = f"{version}, {seen['server']}"
    accelerators = seen.get("accelerators")
    if accelerators == [] and facts.has_nvidia:
        return warning(
            f"{what}, compiled for the CPU only",
            "llmlab build --gpu cuda",
            why="natively, models run on the CPU beside a GPU",
        )
    if accelerators:
        what += f", compiled for {' and '.join(accelerators)}, too"
    number = re.search(r"\bb(\d{4,})\b|^(\d{4,})\b|build (\d{4,})", version)
    if not number:
        # llmlab's own is compiled from a source package, which has no number of the sort.
        return ok(what)
    digits = next(group for group in number.groups() if group)
    return assessed("llama.cpp", f"b{digits}", "llmlab build", seen=what)


def _compiler(facts: Facts) -> Finding:
    for command in _COMPILERS:
        if text := facts.outputs.get(command):
            return ok(first_line(text))
    return _wanted(facts, "no C++ compiler", _compiler_fix(facts))


def _compiler_fix(facts: Facts) -> str:
    if facts.system == "Darwin":
        return "xcode-select --install"
    if re.search(r"^ID(_LIKE)?=.*(fedora|rhel)", facts.texts.get("/etc/os-release", ""), re.MULTILINE):
        return "sudo dnf install gcc-c++"
    return "sudo apt-get install g++"


def _tools(facts: Facts) -> Finding:
    found = {name: first_line(facts.outputs.get(f"{name} --version", "")) for name in ("cmake", "ninja")}
    missing = [name for name, text in found.items() if not text]
    if missing:
        return _wanted(facts, f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    cmake = re.search(r"(\d+)\.(\d+)", found["cmake"])
    seen = f"{found['cmake']}, ninja {found['ninja']}"
    # Debian 12 has 3.25, which compiles llama.cpp all the same.
    if cmake and (int(cmake[1]), int(cmake[2])) < _LEAST_CMAKE:
        seen += "; the extra llmlab[build] would bring a newer one"
    return ok(seen)


def _static(facts: Facts) -> Finding:
    if facts.system != "Linux":
        return absent(f"not needed on {facts.system}")
    path = facts.outputs.get("cc -print-file-name=libc.a", "")
    if not path:
        return _wanted(facts, "no C compiler to ask for it", "sudo apt-get install gcc libc6-dev")
    # A compiler that does not find it prints its name as it is.
    if "/" not in path:
        return _wanted(facts, "the C library's static part is missing", "sudo apt-get install libc6-dev")
    return ok(path)


def _wanted(facts: Facts, seen: str, fix: str) -> Finding:
    """Something that is needed for compiling: urgent only where nothing is compiled yet."""
    if facts.build.get("server") and not facts.build.get("error"):
        return absent(f"{seen}; llama.cpp is compiled already ({fix})")
    return warning(seen, fix)


def _ollama(facts: Facts) -> Finding:
    text = facts.outputs.get("ollama --version")
    if text is None:
        if refusal := facts.refusals.get("ollama --version"):
            return unknown(first_line(refusal))
        return absent("not installed")
    found = re.search(r"version is (\d[\w.-]*)|client version is (\d[\w.-]*)", text)
    if not found:
        return unknown(first_line(text))
    version = found[1] or found[2]
    return assessed("ollama", version, "curl -fsSL https://ollama.com/install.sh | sh", seen=first_line(text))


CHECKS = (
    Check("llama.cpp", "it serves the models", _build, ("build",)),
    Check("C++ compiler", "`llmlab build` compiles llama.cpp with it", _compiler),
    Check("cmake and ninja", "`llmlab build` compiles llama.cpp with them", _tools),
    Check("static C library", "the audit's probe is one static program", _static),
    Check("Ollama", "", _ollama),
)
