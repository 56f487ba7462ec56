"""A build is trusted after it has generated text, not before.

Compilers have made llama-servers that start, answer `/health` and die at the
first quantised matrix. So the proof is a real generation with Q8_0 weights.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.client.connection import Connection, open_socket
from llmlab.errors import BuildError, ServerStoppedError
from llmlab.specs import Endpoint

TOKENS = 16
_TIMEOUT_S = 90.0
_POLL_S = 0.02
_END_S = 5
_TAIL = 8
_HINT = "`llmlab build --force` compiles it anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a verified server generated.

    Attributes:
        version: What the server says of itself.
        tokens: Number of generated tokens.
        text: The generated text.
        seconds: From starting the server to the last token.
    """

    version: str
    tokens: int
    text: str
    seconds: float


def verify(server: Path, model: Path, *, timeout_s: float = _TIMEOUT_S) -> Proof:
    """Start the server on a unix socket and let it generate.

    Raises:
        BuildError: If it does not start, dies, hangs or answers nonsense;
            the message names the cause.
    """
    started = time.monotonic()
    deadline = started + timeout_s
    version = version_of(server)
    with _running(server, model) as (process, address, log):
        try:
            _wait_ready(process, address, deadline)
            answer = _complete(address, max(1.0, deadline - time.monotonic()))
            text = _check(answer)
        except (_WrongError, ServerStoppedError, OSError, http.client.HTTPException, ValueError) as error:
            raise _explained(server, process, error, log, timeout_s) from error
    return Proof(version=version, tokens=TOKENS, text=text, seconds=time.monotonic() - started)


def version_of(server: Path) -> str:
    """What the server says of its version, in a few words.

    Raises:
        BuildError: If it cannot even be asked.
    """
    try:
        done = subprocess.run(
            [server, "--version"],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=30,
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{server} hangs when it is asked for its version", hint=_HINT) from None
    except OSError as error:
        raise BuildError(f"{server} cannot be started: {error.strerror}", hint=_HINT) from error
    if done.returncode:
        raise BuildError(
            f"{server} {_ending(done.returncode)} when it is asked for its version",
            hint=_HINT,
            log_tail=done.stdout.splitlines()[-_TAIL:],
        )
    for line in done.stdout.splitlines():
        if line.startswith("version:"):
            return "llama.cpp " + line.removeprefix("version:").strip()
    return "llama.cpp of unknown version"


class _WrongError(Exception):
    """The server is up, but what it does is wrong."""


@contextmanager
def _running(server: Path, model: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """The server, its socket and its log; all gone at the end."""
    # Not under $TMPDIR: a socket's path may have some 100 bytes only.
    with tempfile.TemporaryDirectory(prefix="llmlab-", dir="/tmp") as directory:
        address = f"{directory}/v.sock"
        log = Path(directory, "log")
        command = [str(server), "--host", address, "--model", str(model), "--ctx-size", "512"]
        command += ["--parallel", "1", "--threads", "2"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )
        try:
            yield process, address, log
        finally:
            _end(process)


def _environment() -> dict[str, str]:
    """The user's environment without settings for llama-server."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LLAMA_ARG_")}
    return {**kept, "OMP_WAIT_POLICY": "passive"}


def _wait_ready(process: subprocess.Popen[bytes], address: str, deadline: float) -> None:
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _WrongError("ended before it answered")
        try:
            status, _ = _request(address, "GET", "/health", None, max(0.1, deadline - time.monotonic()))
        except (ServerStoppedError, ConnectionError):
            status = 0
        if status == http.client.OK:
            return
        time.sleep(_POLL_S)
    raise TimeoutError


def _complete(address: str, timeout_s: float) -> Any:
    body = {
        "prompt": "What is a container?",
        "n_predict": TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "n_probs": 1,
    }
    status, data = _request(address, "POST", "/completion", json.dumps(body), timeout_s)
    if status != http.client.OK:
        raise _WrongError(f"refused to generate (HTTP {status})")
    return json.loads(data)


def _check(answer: Any) -> str:
    """The generated text, once it is seen to be one.

    Weights or arithmetic gone wrong show as NaN, which has no JSON number.
    """
    try:
        text, tokens = answer["content"], answer["tokens_predicted"]
        logprobs = [item["logprob"] for item in answer["completion_probabilities"]]
    except (KeyError, TypeError):
        raise _WrongError("answered something that is no completion") from None
    if not isinstance(text, str) or not text.strip() or tokens != TOKENS:
        raise _WrongError(f"generated {tokens!r} tokens and the text {text!r} instead of {TOKENS} tokens")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in logprobs):
        raise _WrongError("computes probabilities that are not numbers")
    return text


def _request(address: str, method: str, path: str, body: str | None, timeout_s: float) -> tuple[int, bytes]:
    opened = open_socket("on trial", Endpoint(socket=Path(address)), None, timeout_s)
    with Connection(opened, timeout_s) as connection:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            return response.status, response.read()


def _explained(
    server: Path, process: subprocess.Popen[bytes], error: Exception, log: Path, timeout_s: float
) -> BuildError:
    """The failure in words: how the process ended says more than the broken connection."""
    try:
        code = process.wait(0.5)
    except subprocess.TimeoutExpired:
        code = None
    if code is not None:
        cause = _ending(code)
    elif isinstance(error, TimeoutError):
        cause = f"gave no answer in {timeout_s:.0f} s"
    elif isinstance(error, _WrongError):
        cause = str(error)
    else:
        cause = f"answered something that is no completion ({type(error).__name__}: {error})"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return BuildError(
        f"{server} does not work: in a trial with {TOKENS} tokens it {cause}",
        hint=_HINT,
        log_tail=lines[-_TAIL:],
    )


def _ending(code: int) -> str:
    """How a process ended; a shell reports a signal as 128 + its number."""
    number = -code if code < 0 else code - 128
    if number == signal.SIGILL:
        return "died of SIGILL: it uses an instruction that this CPU does not have, or was compiled wrongly"
    if 0 < number < signal.NSIG:
        with suppress(ValueError):
            return f"died of {signal.Signals(number).name}"
    return f"ended with exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server's process group and wait for it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            continue
        break
    process.wait()
