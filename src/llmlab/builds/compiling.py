"""One CMake build of llama.cpp, with its progress shown and its log kept."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from llmlab.builds import toolchain
from llmlab.errors import BuildError
from llmlab.reporting import reporter

_PROGRESS = re.compile(r"\[(\d+)/(\d+)\] ")
# What CMake misses stands on a line of its own, after the one with the word.
_TROUBLE = re.compile(
    r"\b(error|fatal|FAILED|Killed|undefined reference|No space left|was not found)\b|^\s+\w+::\w+$",
    re.IGNORECASE,
)
_TAIL = 12
_GRACE_S = 10
# A rate is worth a forecast only after this many steps.
_FORECAST_AFTER = 12


def compile_tree(
    source: Path, build: Path, log: Path, *, lock: int, gpu: toolchain.GpuKind | None = None
) -> Path:
    """Configure and compile `source` in `build`, going on where an earlier run was interrupted.

    Args:
        source: llama.cpp's tree.
        build: CMake's directory.
        log: Where the tools' output goes.
        lock: Descriptor of the build lock, which the compilers inherit.
        gpu: What to compile for besides the CPU.

    Returns:
        The directory with the programs and the libraries.

    Raises:
        BuildError: If a step fails; it carries the compiler's error lines.
        EngineMissingError: If a tool is missing.
    """
    tools = toolchain.find_tools(gpu)
    with log.open("w", encoding="utf-8", errors="replace", buffering=1) as output:
        reporter().stage("engine", "configuring llama.cpp")
        configure = [tools.cmake, "-S", str(source), "-B", str(build), "-G", "Ninja"]
        configure += [f"-DCMAKE_MAKE_PROGRAM={tools.ninja}", *toolchain.flags(gpu)]
        _run(configure, output, log, lock)
        compiling = [tools.cmake, "--build", str(build), "--parallel", str(toolchain.jobs())]
        compiling += ["--target", *toolchain.TARGETS]
        _run(compiling, output, log, lock)
    return build / "bin"


def install(binaries: Path, source: Path, target: Path) -> None:
    """Copy programs, libraries and the licence to `target`, in one flat directory."""
    target.mkdir(parents=True)
    wanted = [binaries / name for name in toolchain.TARGETS]
    wanted += [*binaries.glob("lib*.so*"), *binaries.glob("lib*.dylib")]
    for path in wanted:
        shutil.copy2(path, target / path.name, follow_symlinks=False)
    shutil.copy2(source / "LICENSE", target / "LICENSE")


def _run(command: Sequence[str], output: IO[str], log: Path, lock: int) -> None:
    """Run one tool with its lines in the log and its progress reported."""
    environment = {**os.environ, "NINJA_STATUS": "[%f/%t] ", "LC_ALL": "C"}
    # Its own process group: an interrupt ends the compilers, too, and only once.
    process = subprocess.Popen(
        [*_low_priority(), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
        pass_fds=(lock,),
    )
    lines: list[str] = []
    started = time.monotonic()
    try:
        for line in process.stdout or ():
            output.write(line)
            lines.append(line.rstrip())
            if match := _PROGRESS.match(line):
                done, total = int(match[1]), int(match[2])
                reporter().stage("engine", progress(done, total, time.monotonic() - started))
        code = process.wait()
    except BaseException:
        _end(process)
        raise
    finally:
        if process.stdout:
            process.stdout.close()
    if code:
        output.flush()
        raise BuildError(
            _failure(code, lines), hint=f"the whole log is in {log}", log_tail=error_lines(lines)
        )


def progress(done: int, total: int, elapsed_s: float) -> str:
    """One line on how far the compilers are."""
    text = f"compiling llama.cpp {100 * done // total} % ({done} of {total}"
    if done >= min(_FORECAST_AFTER, total):
        minutes = math.ceil(elapsed_s / done * (total - done) / 60)
        text += f", about {minutes} min left" if minutes > 1 else ", a minute left at most"
    return text + ")"


def error_lines(lines: Sequence[str]) -> list[str]:
    """The lines that say what went wrong: those with an error, else the last ones."""
    telling = [line for line in lines if _TROUBLE.search(line) and "CMAKE_" not in line]
    # Ninja repeats the whole command of a failed step on one line.
    return [line[:300] for line in (telling or [line for line in lines if line])[-_TAIL:]]


def _failure(code: int, lines: Sequence[str]) -> str:
    text = "\n".join(lines[-200:])
    if "No space left" in text:
        return "llama.cpp could not be compiled: the disk is full"
    if "Killed signal" in text or "cannot allocate memory" in text.lower():
        return (
            "llama.cpp could not be compiled: out of memory "
            "(CMAKE_BUILD_PARALLEL_LEVEL=1 compiles one file at a time)"
        )
    return f"llama.cpp could not be compiled (exit code {code})"


def _low_priority() -> list[str]:
    """Compiling takes minutes; the notebook beside it stays usable."""
    nice = shutil.which("nice")
    return [nice, "-n", "5"] if nice else []


def _end(process: subprocess.Popen[str]) -> None:
    """End the process group: politely, so that ninja removes half-written files."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        break
