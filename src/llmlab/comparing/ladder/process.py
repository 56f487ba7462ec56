"""The lowest rung's other end: starts the child process and is asked like a server's client."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from llmlab import engines, runtime
from llmlab.client import Completion
from llmlab.errors import ServerBusyError, ServerStoppedError, StartError
from llmlab.specs import ServeSpec

_LOG_LINES = 15
_HINT = "try the model alone: llmlab start MODEL --engine llama-cpp-python"
_PROGRAM = Path(__file__).with_name("child.py")
# By path and not as a module: of llmlab it needs nothing, and nothing of it should be in its memory.
_RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
# Of the caller's environment, what Python needs to find its packages.
_KEPT = ("PATH", "PYTHONPATH", "HOME")
_ENGINE = ("OMP_WAIT_POLICY", "LANG", "LD_LIBRARY_PATH")


def importable() -> bool:
    """Whether llama-cpp-python is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


@dataclass(slots=True)
class Child:
    """A model in a child process; asked like a client, `complete` alone.

    Args:
        spec: What to load.
        library_dir: Where the libraries are that llama-server uses.
        timeout_s: Longest wait for it.

    Attributes:
        start_s: Seconds to load the model and generate a first token; not to start Python.
        libraries: The sha256 of each llama.cpp library in its memory.

    Raises:
        StartError: If it cannot load the model.
    """

    spec: ServeSpec
    library_dir: Path
    timeout_s: float
    start_s: float = 0.0
    libraries: tuple[str, ...] = ()
    _log: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    _child: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._child = runtime.uninterrupted(self._spawned, undo=lambda made: made.kill())
        spec = self.spec
        try:
            self._send(
                model=str(spec.model.path), context=spec.context, threads=spec.threads, kv_type=spec.kv_type
            )
            loaded = self._reply(self.timeout_s)
        except ServerStoppedError as error:
            log = self._tail()
            self.stop(0)
            raise StartError(
                f"the model was not loaded in a process of its own: {error.message}", log_tail=log
            ) from None
        except BaseException:
            self.stop(0)
            raise
        self.start_s, self.libraries = float(loaded["start_s"]), tuple(loaded["libraries"])

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def complete(
        self,
        prompt: Sequence[int],
        *,
        tokens: int,
        seed: int = 1,  # noqa: ARG002 - as of a server's client; there is no chance in it
        timeout_s: float = 300.0,
    ) -> Completion:
        """As `Client.complete`; all times are the child's own, the pipe is not in them.

        Args:
            prompt: Token ids.
            tokens: How many to generate.
            seed: Not used.
            timeout_s: Longest wait for all of it, seconds.

        Raises:
            ServerBusyError: If it takes longer.
            ServerStoppedError: If it has ended.
        """
        self._send(prompt=list(prompt), tokens=tokens)
        done = self._reply(timeout_s)
        return Completion(
            tokens=tuple(done["tokens"]),
            pieces=len(done["tokens"]),
            ttft_s=done["ttft_s"],
            total_s=done["total_s"],
            prompt_tokens=len(prompt),
            prompt_s=done["ttft_s"],
            generated_s=done["total_s"] - done["ttft_s"],
        )

    def stop(self, grace_s: float) -> None:
        """End it: its input ends, and if that does not do, by force."""
        child = self._child
        with suppress(OSError):
            if child.stdin:
                child.stdin.close()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout:
            child.stdout.close()
        self._log.close()

    def _spawned(self) -> subprocess.Popen[bytes]:
        paths = engines.Paths(
            program=PurePosixPath(sys.executable),
            model=PurePosixPath(self.spec.model.path),
            scratch=PurePosixPath("/"),
            library_dir=PurePosixPath(self.library_dir),
        )
        of_engine = engines.engine("llama-server").environment(self.spec, paths)
        return subprocess.Popen(
            [sys.executable, "-c", _RUN, str(_PROGRAM)],
            env={
                **{name: os.environ[name] for name in _KEPT if name in os.environ},
                **{name: of_engine[name] for name in _ENGINE if name in of_engine},
                "LLAMA_CPP_LIB_PATH": str(self.library_dir),
            },
            # Ctrl-C is meant for who measures, who then ends this.
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd="/",
        )

    def _send(self, **said: Any) -> None:
        assert self._child.stdin  # noqa: S101 - it is a pipe
        try:
            self._child.stdin.write(json.dumps(said).encode() + b"\n")
            self._child.stdin.flush()
        except OSError:
            raise self._ended() from None

    def _reply(self, timeout_s: float) -> Any:
        assert self._child.stdout  # noqa: S101 - as above
        deadline = time.monotonic() + timeout_s
        if not select.select([self._child.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise ServerBusyError(
                f"the model in a process of its own said nothing for {timeout_s:g} s", hint=_HINT
            )
        try:
            return json.loads(self._child.stdout.readline())
        except ValueError:
            raise self._ended() from None

    def _ended(self) -> ServerStoppedError:
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(1.0)
        lines = self._tail()
        return ServerStoppedError(
            f"it has ended ({'still running' if self._child.returncode is None else f'exit code {self._child.returncode}'})",
            hint=_HINT,
            log_tail=lines,
        )

    def _tail(self) -> list[str]:
        self._log.seek(0)
        return self._log.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
