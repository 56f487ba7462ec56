"""The tree of errors: drawn as it is, with hints, and foreign exceptions mapped to it."""

from __future__ import annotations

import ast
import gc
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmlab
from llmlab import errors
from llmlab.backends import backend, docker_api, docker_trouble
from llmlab.errors import (
    AskInterrupted,
    DaemonError,
    DaemonPermissionError,
    LabError,
    UnknownNameError,
    UsageError,
    suggest,
)
from tests.test_results import answer

SOURCE = Path(llmlab.__file__).parent


# The tree


def drawn() -> dict[str, str]:
    """Class → base class, from the drawing in the module's docstring."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│ ]*(?:[├└]── )?)(\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            parents[found[2]] = path[depth - 1] if depth else "Exception"
    return parents


def test_tree_is_drawn_as_it_is():
    classes = {
        name: found.__mro__[1].__name__
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, LabError)
    }
    assert drawn() == classes


def test_interruption_stands_beside_the_tree():
    assert issubclass(AskInterrupted, KeyboardInterrupt)
    assert not issubclass(AskInterrupted, Exception)
    found = AskInterrupted(answer(completion_tokens=3), "it stopped")
    assert str(found) == "it stopped"
    assert found._render_traceback_() == ["Interrupted after 3 tokens: it stopped"]


def raises() -> Iterator[tuple[str, ast.Call]]:
    """Every construction of one of our errors in the package."""
    names = set(drawn())
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node


# The user can do nothing about these but see them.
WITHOUT_HINT = {"RequestError", "BackendError", "ImageError", "StartError", "BuildError", "UnknownNameError"}


@pytest.mark.parametrize(("where", "call"), [pytest.param(*found, id=found[0]) for found in raises()])
def test_error_says_what_to_do_next(where, call):
    named = {keyword.arg for keyword in call.keywords}
    says_it = "not both" in ast.unparse(call)
    assert call.func.id in WITHOUT_HINT or says_it or "hint" in named


@pytest.mark.parametrize(("where", "call"), [pytest.param(*found, id=found[0]) for found in raises()])
def test_message_is_one_sentence(where, call):
    text = call.args[0] if call.args else None
    literal = text.values[-1] if isinstance(text, ast.JoinedStr) and text.values else text
    if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
        assert not literal.value.endswith((".", "!", "\n"))


# How they show themselves


def test_an_error_shows_message_log_and_hint():
    error = LabError("it failed", hint="try again", log_tail=["one", "two"])
    assert str(error) == "it failed\nThe engine's last lines:\n  | one\n  | two\n→ try again"
    assert error._render_traceback_() == [f"LabError: {error}"]
    assert error.to_dict() == {
        "type": "LabError",
        "message": "it failed",
        "hint": "try again",
        "log_tail": ["one", "two"],
    }
    assert LabError("bare").to_dict() == {"type": "LabError", "message": "bare"}
    assert str(LabError("bare")) == "bare"


def test_a_usage_error_is_one_line():
    assert str(UsageError("does not fit", hint="do this")) == "does not fit (do this)"
    assert "\n" not in str(UnknownNameError("model", "a\nb", ["tiny"]))


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("tinny", ["tiny", "other"], "did you mean 'tiny'?"),
        ("TINY", ["tiny"], "did you mean 'tiny'?"),
        ("zzz", ["b", "a", "a"], "known: a, b"),
        ("", ["a"], "known: a"),
        ("a", [], "there is none"),
    ],
)
def test_nearest_match(name, known, hint):
    assert suggest(name, known) == hint


# Foreign exceptions: container engines that are not there, refuse, or hang


def problem() -> LabError:
    found = backend("container").unavailable()
    assert found is not None
    return found


@pytest.fixture
def unix_path(isolated_runtime: Path) -> Iterator[Path]:
    path = isolated_runtime / "d.sock"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def real_engine_afterwards(isolated_runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test sets for itself is gone before its leftovers are looked for."""
    yield
    monkeypatch.undo()
    os.environ["LLMLAB_RUNTIME_DIR"] = str(isolated_runtime)


@pytest.mark.parametrize(
    "host", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:1", "http://127.0.0.1:1", "nonsense://x", "unix://", "%"]
)  # fmt: skip
def test_no_engine(monkeypatch, host):
    monkeypatch.setenv("DOCKER_HOST", host)
    found = problem()
    assert type(found) is DaemonError
    assert host in found.message
    assert "apt install docker.io" in found.hint


def test_without_an_engine_there_are_no_containers(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    assert backend("container").find() == []
    assert list(llmlab.ps()) == []
    with pytest.raises(DaemonError):
        llmlab.start("tiny", backend="container")


def test_no_engine_behind_a_file(monkeypatch, unix_path):
    unix_path.touch()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{unix_path}")
    assert type(problem()) is DaemonError


def test_damaged_docker_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    (tmp_path / "config.json").write_text("{")
    assert isinstance(problem(), DaemonError)


def test_socket_without_permission(unix_path, isolated_runtime):
    # Root may use every socket: the process gives that up before it connects.
    code = (
        "import os, sys\nimport docker\nfrom llmlab.backends import backend, container\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "found = backend('container').unavailable()\n"
        "print(type(found).__name__, '|', found.hint)\n"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(unix_path))
        listener.listen()
        unix_path.chmod(0)
        isolated_runtime.chmod(0o755)
        environment = {**os.environ, "DOCKER_HOST": f"unix://{unix_path}"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
    isolated_runtime.chmod(0o700)
    assert done.stdout.startswith("DaemonPermissionError | ")
    assert "usermod -aG docker" in done.stdout


def serve(path: Path, reply: bytes, *, hang: bool = False) -> threading.Thread:
    """A container engine that answers everything with the same bytes, or with silence."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(5)

    def run() -> None:
        kept = []
        with listener:
            try:
                while True:
                    connection, _ = listener.accept()
                    kept.append(connection)
                    if not hang:
                        connection.settimeout(5)
                        while connection.recv(65536):
                            connection.sendall(reply)
            except (TimeoutError, OSError):
                pass
            for connection in kept:
                connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_engine_that_hangs(monkeypatch, unix_path):
    monkeypatch.setattr(docker_trouble, "TIMEOUT_S", 0.3)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{unix_path}")
    thread = serve(unix_path, b"", hang=True)
    found = problem()
    assert type(found) is DaemonError
    assert "did not answer within" in found.message
    monkeypatch.undo()
    thread.join()


@pytest.mark.parametrize(
    "reply",
    [
        b'HTTP/1.1 500 Internal Server Error\r\nContent-Length: 15\r\n\r\n{"message":"x"}',
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot JSON!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"SSH-2.0-OpenSSH\r\n",
    ],
    ids=["500", "no JSON", "empty JSON", "no HTTP"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_what_is_no_container_engine(monkeypatch, unix_path, reply):
    monkeypatch.setattr(docker_trouble, "TIMEOUT_S", 2)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{unix_path}")
    thread = serve(unix_path, reply)
    found = problem()
    assert isinstance(found, errors.BackendError)
    assert not isinstance(found, DaemonPermissionError)
    monkeypatch.undo()
    thread.join()
    # The docker package does not close a socket that is refused: here, where that is known.
    del found
    gc.collect()


def test_refusal_of_the_engine_is_passed_on(require_docker):
    api = docker_api.connect()
    with pytest.raises(errors.BackendError, match="refused"):
        api.create("llmlab-test-never", {"Image": "sha256:" + "0" * 64})
    assert api.container("no-such-container") is None
    assert api.log("no-such-container", 5) == []
    api.stop("no-such-container", 1)
    assert api.image_id("llmlab/no-such-image:never") is None
