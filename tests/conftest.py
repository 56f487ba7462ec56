"""What the tests share. Engines, containers and browsers are real.

A missing container engine or browser skips with the reason; where
`LLMLAB_REQUIRE` names it (in CI), it fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest

import llmlab
from llmlab import runtime
from llmlab.backends import backend, docker_api, labels
from llmlab.builds import find_build, source
from llmlab.errors import BuildError, EngineError
from llmlab.runtime import cache_dir, processes
from tests.faults.contract import promise_of

# Machines are noisy: a slow example is no failure.
hypothesis.settings.register_profile("llmlab", deadline=None)
hypothesis.settings.load_profile("llmlab")

REPOSITORY = Path(__file__).parent.parent

# What measures the machine, or looks for what all of llmlab has left on it, has it to itself.
ALONE = frozenset(
    f"test_{name}.py"
    for name in (
        *("audit", "comparing", "comparing_progress", "container_stats", "energy", "kernel", "ladder"),
        *("gpu_containers", "lesson_03", "lesson_05", "load"),
        *("monitoring", "newer_docker", "podman", "predict_browser", "predicting", "probe", "rates"),
        *("roofline", "sampler_faults", "telemetry", "telemetry_sources", "usage", "watch"),
    )
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the files that are run by themselves; `make test` runs the others two at a time."""
    for item in items:
        if item.path.name in ALONE:
            item.add_marker(pytest.mark.alone)


# Started in the background of a script, Ctrl-C is ignored, also by what is started from here;
# but tests interrupt themselves and others.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def missing(what: str, reason: str) -> NoReturn:
    """Skip, or fail where the tests are told that it must be there."""
    if what in os.environ.get("LLMLAB_REQUIRE", "").split(","):
        pytest.fail(f"{what} is required here: {reason}", pytrace=False)
    pytest.skip(f"no {what}: {reason}")


@pytest.fixture(autouse=True)
def isolated_runtime(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A runtime directory of the test's own; nothing may be left in it."""
    # Short, because a unix socket's path has at most 103 bytes.
    folder = Path(tempfile.mkdtemp(prefix="llm-"))
    monkeypatch.setenv("LLMLAB_RUNTIME_DIR", str(folder))
    # What tests predict and observe is none of the user's experience.
    monkeypatch.setenv("LLMLAB_STATE_DIR", str(tmp_path_factory.mktemp("state")))
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    # A test that calls the command line within this process makes that one for good.
    monkeypatch.setattr(processes, "_kept", False)
    yield folder
    llmlab.stop(all=True, grace_s=1)
    left = inventory(folder)
    shutil.rmtree(folder, ignore_errors=True)
    assert left == [], f"left behind: {left}"


def inventory(folder: Path) -> list[str]:
    """Servers' directories, processes and containers that belong to a runtime directory."""
    found = [str(path) for path in folder.iterdir() if path.name != ".lock"]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        words = [word.decode(errors="replace") for word in command]
        if any(str(folder) in word for word in words) and "pytest" not in " ".join(words):
            found.append(f"process {process.name}: {' '.join(words)[:200]}")
    if backend("container").unavailable() is None:
        listed = docker_api.connect().containers(f"{labels.USER}={runtime.scope()}")
        found += [f"container {' '.join(entry['Names'])}" for entry in listed]
    return found


def long_ones_slow(notebooks: Sequence[Path]) -> list[Any]:
    """Notebooks as parameters; those that take half a minute are run by `make test-slow` only."""
    marks = {"03": pytest.mark.slow, "05": pytest.mark.slow}
    return [
        pytest.param(path, marks=[marks[path.stem[:2]]] if path.stem[:2] in marks else [], id=path.stem)
        for path in notebooks
    ]


@pytest.fixture
def bound(request: pytest.FixtureRequest) -> float:
    """The time within which the test's promise holds, in seconds."""
    made = promise_of(request.node)
    assert made is not None, "only a test with a promise has a bound"
    return made.within_s


@pytest.fixture(scope="session")
def require_docker() -> None:
    """A container engine that works."""
    if problem := backend("container").unavailable():
        missing("docker", str(problem))


def other_engines(kind: str) -> list[str]:
    """Where the engines of `tools/other_engines.py` answer that are of a kind: "docker", "podman"."""
    tool = REPOSITORY / "tools" / "other_engines.py"
    listed = subprocess.run([sys.executable, tool, "list"], capture_output=True, text=True, check=False)
    rows = (line.split() for line in listed.stdout.splitlines())
    return [f"unix://{row[-1]}" for row in rows if row[0].startswith(kind) and row[1] == "answers"]


@pytest.fixture(scope="session")
def require_browser() -> str:
    """Path of a Chromium."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        missing("browser", "no chromium on PATH")
    return str(found)


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Where screenshots are left."""
    folder = Path(os.environ.get("LLMLAB_ARTIFACTS", tmp_path / "artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def require_engine() -> Any:
    """A verified llama.cpp."""
    try:
        return find_build()
    except EngineError as error:
        missing("engine", str(error))


@pytest.fixture(scope="session")
def require_llama_cpp() -> None:
    """The Python package of llama.cpp, with its server."""
    for name in ("llama_cpp", "uvicorn", "fastapi"):
        if not __import__("importlib.util").util.find_spec(name):
            missing("llama-cpp-python", f"no module {name}")


@pytest.fixture(scope="session")
def vocabularies() -> Path:
    """A directory of llama.cpp's own vocabularies, GGUF files; fetched once with its source."""
    folder = cache_dir() / "sources" / f"vocabularies-{source.VERSION}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            archive = source.fetch(folder.parent)
        except BuildError as error:
            missing("vocabularies", str(error))
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        partial.mkdir()
        with tarfile.open(archive) as tar:
            for member in tar:
                if fnmatch(member.name, "*/models/ggml-vocab-*.gguf") and (stream := tar.extractfile(member)):
                    (partial / Path(member.name).name).write_bytes(stream.read())
        partial.rename(folder)
        archive.unlink()
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of the test's own."""

    def written(data: bytes, name: str = "m.gguf") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return written


def run_cli(*words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `llmlab` in a process of its own."""
    command = [sys.executable, "-m", "llmlab", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, **options)
    if check and done.returncode:
        raise AssertionError(f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def eventually(condition: Callable[[], Any], within_s: float = 20.0) -> Any:
    """Wait until a condition holds; the bound is generous, machines are noisy."""
    deadline = time.monotonic() + within_s
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def kill(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)


__all__ = ["eventually", "inventory", "kill", "missing", "other_engines", "run_cli"]
