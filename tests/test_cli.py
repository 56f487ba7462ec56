"""The command line in processes of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llmlab
from llmlab import runtime
from llmlab.backends import labels
from tests.conftest import eventually, run_cli

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON document on standard output."""
    assert done.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def failed(status: int, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    done = run_cli(*words, check=False, **options)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done


def in_environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}


# Without a server


def test_version():
    done = run_cli("--version")
    assert done.stdout == f"llmlab {llmlab.__version__}\n"
    script = Path(sys.executable).parent / "llmlab"
    if script.exists():
        assert (
            subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout
            == done.stdout
        )


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"], ["start", "--help"], ["ask", "x", "-h"]])
def test_help(words):
    done = run_cli(*words)
    assert done.stdout.startswith("usage: llmlab")
    assert done.stderr == ""


def test_nothing_there():
    assert run_cli("ps").stdout.startswith("NAME ")
    assert document(run_cli("ps", "--json")) == {"servers": []}
    assert run_cli("stop", "--all").stdout == "nothing to stop\n"
    assert document(run_cli("stop", "--json")) == {"names": []}


USAGE = [
    (["strat"], "did you mean 'start'?"),
    (["ps", "--jsn"], "did you mean '--json'?"),
    (["start", "tinny"], "did you mean 'tiny'?"),
    (["start", "--engine", "llama-serve"], "did you mean 'llama-server'?"),
    (["start", "--native", "--container"], "not allowed with"),
    (["start", "--native", "--memory", "1g"], "no limits"),
    (["start", "--memory", "lots"], "is not a size"),
    (["start", "--native", "--context", "0"], "context is 0"),
    (["start", "--native", "--name", "../x"], "cannot be a name"),
    (["ask"], "needs PROMPT"),
    (["ask", "hello"], "no server is running"),
    (["ask", "a", "hello"], "no server 'a'"),
    (["stop", "a"], "no server 'a'"),
    (["stop", "a", "--all"], "do not go together"),
    (["inspect"], "no server is running"),
    (["logs", "b"], "no server 'b'"),
]


@pytest.mark.parametrize(
    ("words", "message"), USAGE, ids=lambda item: " ".join(item) if isinstance(item, list) else ""
)
def test_usage_error(words, message):
    plain = failed(2, *words)
    assert message in plain.stderr
    assert plain.stderr.startswith("llmlab: ")
    assert plain.stderr.count("\n") == 1
    assert plain.stdout == ""
    error = document(failed(2, *words, "--json"))["error"]
    assert message in error["message"] + error.get("hint", "")
    assert set(error) <= {"type", "message", "hint"}


FAILURES = [
    (["start", "/nonexistent/m.gguf"], "there is no file", "ModelNotFoundError"),
    (["start", "/etc/passwd/m.gguf"], "Not a directory", "ModelNotFoundError"),
    (["start", "/"], "is a directory", "ModelNotFoundError"),
    (["start", "x" * 5000], "too long", "ModelNotFoundError"),
    (["start", "~nobody-of-this-name/m.gguf"], "home", "ModelNotFoundError"),
    (["start", "--native", "--context", "9" * 15], "this machine can give", "MemoryFitError"),
]


@pytest.mark.parametrize(("words", "message", "kind"), FAILURES, ids=range(len(FAILURES)))
def test_failure(words, message, kind):
    plain = failed(1, *words)
    assert message in plain.stderr
    assert "→" in plain.stderr
    assert plain.stdout == ""
    error = document(failed(1, *words, "--json"))["error"]
    assert error["type"] == kind
    assert message in error["message"]
    assert error["hint"]


def test_runtime_directory_that_cannot_be():
    for directory in ("/proc/nothing", "/dev/null"):
        environment = in_environment(LLMLAB_RUNTIME_DIR=directory)
        assert directory in failed(1, "ps", env=environment).stderr
        assert document(failed(1, "ps", "--json", env=environment))["error"]["message"]


def test_control_characters_are_made_visible():
    done = failed(1, "start", "\x1b]0;title\x07\x1b[31m\x9b.gguf")
    assert not CONTROL.search(done.stderr)
    assert "\\x1b]0;title\\x07" in done.stderr
    assert "\\x9b" in done.stderr


def test_words_that_are_not_utf8():
    words = [os.fsencode(sys.executable), b"-m", b"llmlab", b"start", b"\xff\xfe.gguf"]
    for more in ([], [b"--json"]):
        done = subprocess.run([*words, *more], capture_output=True, check=False)
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr
        if more:
            assert "\udcff\udcfe.gguf" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_terminals_of_any_encoding(encoding):
    environment = in_environment(PYTHONIOENCODING=encoding)
    words = [sys.executable, "-m", "llmlab", "start", "机器-ü.gguf"]
    done = subprocess.run([*words, "--json"], capture_output=True, check=False, env=environment)
    assert "机器-ü.gguf" in json.loads(done.stdout.decode(encoding))["error"]["message"]
    done = subprocess.run(words, capture_output=True, check=False, env=environment)
    assert b"Traceback" not in done.stderr


def test_reader_that_goes_away():
    """`llmlab … | head` ends without a complaint."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "llmlab", "ps"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_disk_that_is_full():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llmlab", "ps"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


# The main job, end to end

PLACES = [pytest.param("native", id="native"), pytest.param("container", id="container")]


@pytest.fixture
def place(request: pytest.FixtureRequest, require_engine: Any) -> str:
    if request.param == "container":
        request.getfixturevalue("require_docker")
    return str(request.param)


def ours(*more: str) -> list[str]:
    """Ids of the containers with this user's label."""
    command = ["docker", "ps", "-aq", "--filter", f"label={labels.USER}={runtime.scope()}", *more]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_the_main_job(require_engine, require_docker):
    started = document(run_cli("start", "tiny", "--container", "--name", "a", "--json"))
    assert (started["name"], started["backend"], started["state"]) == ("a", "container", "ready")
    assert started["isolation"] == "sealed"
    started = document(run_cli("start", "tiny", "--native", "--name", "b", "--json"))
    assert (started["name"], started["backend"], started["isolation"]) == ("b", "native", "not isolated")

    for name in ("a", "b"):
        found = document(run_cli("ask", name, "What is a container?", "--json"))
        assert found["server"] == name
        assert len(found["text"]) > 20
        assert found["ttft_s"] > 0
        assert found["prompt_tokens"] > 5
        assert found["completion_tokens"] > 5
        # Unknown where the whole answer was read at once.
        assert found["client_tokens_per_s"] is None or found["client_tokens_per_s"] > 0
        assert found["tokens_per_s"] > 0

    servers = document(run_cli("ps", "--json"))["servers"]
    assert [(server["name"], server["state"]) for server in servers] == [("b", "ready"), ("a", "ready")]
    assert [server.name for server in llmlab.ps()] == ["b", "a"]

    inspected = document(run_cli("inspect", "a", "--json"))
    assert [control["name"] for control in inspected["isolation"] if not control["agrees"]] == []
    assert {control["name"] for control in inspected["isolation"]} >= {
        "network",
        "models",
        "memory",
        "transport",
    }

    (container,) = ours()
    facts = json.loads(
        subprocess.run(["docker", "inspect", container], capture_output=True, check=True).stdout
    )[0]
    assert facts["HostConfig"]["NetworkMode"] == "none"
    assert facts["HostConfig"]["ReadonlyRootfs"] is True
    assert facts["HostConfig"]["CapDrop"] == ["ALL"]
    assert not facts["HostConfig"]["CapAdd"]
    assert not facts["HostConfig"]["PortBindings"]
    assert not facts["NetworkSettings"]["Ports"]
    assert facts["HostConfig"]["Privileged"] is False

    assert set(document(run_cli("stop", "--all", "--json"))["names"]) == {"a", "b"}
    assert ours() == []
    assert document(run_cli("ps", "--json")) == {"servers": []}


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_as_a_person_uses_it(place):
    started = run_cli("start", "tiny", f"--{place}", "--name", "a")
    assert "load: tiny" in started.stderr
    assert re.search(r"^a +tiny +" + place, started.stdout, re.MULTILINE)

    asked = run_cli("ask", "What is a container?", "--temperature", "0")
    assert len(asked.stdout) > 20
    assert re.search(r"^\[server a · TTFT .* · generated \d+ tokens.*\]$", asked.stderr, re.MULTILINE)
    assert asked.stdout.strip() not in asked.stderr

    shown = run_cli("inspect", "a").stdout
    assert "model sha256" in shown
    assert "DIFFERS" not in shown
    assert "llama" in run_cli("logs", "a", "--tail", "500").stdout
    assert run_cli("logs", "--tail", "0").stdout.strip() == ""
    assert len(document(run_cli("logs", "--tail", "2", "--json"))["lines"]) == 2

    assert (
        "exists already" in (again := failed(2, "start", "--name", "a", f"--{place}").stderr)
        or "runs already" in again
    )
    assert "what is the question" in failed(2, "ask", "a").stderr
    assert run_cli("stop", "a").stdout == "stopped a\n"
    assert "no server 'a'" in failed(2, "stop", "a").stderr


def test_prompts_arrive_as_they_are(require_engine):
    run_cli("start", "--native", "--name", "a")
    for prompt in (
        "{braces} $HOME `id` \"q\" 'q' \\n",
        "line\nline",
        "naïve 🦙",
        "<|im_end|>",
        "%s %(prog)s",
    ):
        found = document(run_cli("ask", "a", "--max-tokens", "2", "--json", prompt))
        assert found["completion_tokens"] <= 2
    assert found["neutralised"] == []
    found = document(run_cli("ask", "a", "--max-tokens", "2", "--json", "x<|im_end|>y"))
    assert found["neutralised"] == ["<|im_end|>"]
    found = document(run_cli("ask", "a", "--max-tokens", "2", "--json", "--", "--help"))
    assert found["text"]


def test_prompt_that_is_too_long(require_engine):
    run_cli("start", "--native")
    error = document(failed(1, "ask", "word " * 20_000, "--json"))["error"]
    assert error["type"] == "ContextError"
    assert re.search(r"\d+ tokens, and the context has \d+", error["message"])


def test_start_that_fails_shows_why_and_leaves_nothing(require_engine, tmp_path, isolated_runtime):
    path = tmp_path / "m.gguf"
    # A header that is in order, and no model behind it.
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16) + bytes(64))
    error = document(failed(1, "start", str(path), "--native", "--json"))["error"]
    assert error["type"] == "StartError"
    assert error["log_tail"]
    assert error["hint"]
    plain = failed(1, "start", str(path), "--native").stderr
    assert "The engine's last lines:" in plain
    assert [entry.name for entry in isolated_runtime.iterdir() if entry.name != ".lock"] == []


def interrupt(*words: str, until: str, stream: str) -> subprocess.CompletedProcess[str]:
    """Run `llmlab`, and press Ctrl-C when something has been written."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "llmlab", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    read = getattr(process, stream)
    seen = read.read(1)
    while until not in seen:
        more = read.read(1)
        assert more, (seen, process.communicate())
        seen += more
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    out, err = (seen + out, err) if stream == "stdout" else (out, seen + err)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def test_interrupted_start_leaves_nothing(require_engine, isolated_runtime):
    done = interrupt("start", "--native", "--context", "1024", until="engine:", stream="stderr")
    if done.returncode == 0:
        pytest.skip("it was ready before the interruption came")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "interrupted" in done.stderr
    eventually(lambda: [entry for entry in isolated_runtime.iterdir() if entry.name != ".lock"] == [])


# Nonsense makes the model ramble until max_tokens.
RAMBLING = "x" * 300


def test_interrupted_answer(require_engine):
    run_cli("start", "--native", "--name", "a")
    words = ["ask", "a", RAMBLING, "--temperature", "0", "--max-tokens", "700"]
    for _ in range(5):
        done = interrupt(*words, until="", stream="stdout")
        if done.returncode != 0:  # 0: the answer was complete before the interruption came
            break
    else:
        pytest.skip("this machine is too quick for an interruption")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "llmlab: " in done.stderr
