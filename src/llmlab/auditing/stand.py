"""The audit's containers while they run: each is read to its end, and all of them are removed."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llmlab import runtime
from llmlab.backends.docker_api import DockerApi
from llmlab.errors import BackendError, LabError
from llmlab.specs import Process

LABEL = "llmlab.audit"
PATIENCE_S = 60.0
"""Longest wait for one container: a slow engine is no failure, one that hangs is."""
_TICK_S = 0.01
_OWNER = "owner"
# Stands of this process that are in use; what its others have left may go.
_in_use: set[str] = set()


class Run:
    """One container of the audit: what it prints, line by line, read in a thread.

    Attributes:
        lines: What it has printed so far.
        id: The container's id, once it is created.
        started: Whether the engine has answered that it is started.
        error: What went wrong, or None.
        seconds: How long it took from creating to its end.
    """

    def __init__(
        self, api: DockerApi, name: str, request: dict[str, Any], files: Mapping[str, bytes]
    ) -> None:
        self._files = files
        self.lines: list[dict[str, Any]] = []
        self.id: str | None = None
        self.started = False
        self.error: Exception | None = None
        self.seconds = 0.0
        self._api, self._name, self._request = api, name, request
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether its output has come to an end."""
        return not self._thread.is_alive()

    @property
    def complete(self) -> bool:
        """Whether the probe has said that it is through."""
        return any(line.get("done") for line in self.lines)

    def await_line(self, wanted: Callable[[dict[str, Any]], bool], within_s: float) -> bool:
        """Wait until it has printed such a line; whether it has.

        Raises:
            LabError: If it could not be run.
        """
        deadline = time.monotonic() + within_s
        while not any(wanted(line) for line in self.lines):
            ended = self.ended
            self._check()
            if ended or time.monotonic() > deadline:
                return any(wanted(line) for line in self.lines)
            time.sleep(_TICK_S)
        return True

    def await_end(self) -> Run:
        """Wait until it has ended.

        Raises:
            LabError: If it could not be run, or does not end.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not self.ended:
            # In small steps, so that Ctrl-C is heard.
            self._thread.join(_TICK_S)
            if time.monotonic() > deadline:
                raise BackendError(
                    f"a container of the audit did not end within {PATIENCE_S:g} s",
                    hint="is the container engine well? docker info",
                )
        self._check()
        return self

    def _check(self) -> None:
        if isinstance(self.error, LabError):
            raise self.error
        if self.error:
            raise BackendError(f"a container of the audit could not be read: {self.error}") from self.error

    def _live(self) -> None:
        began = time.monotonic()
        try:
            self.id = self._api.create(self._name, self._request)
            if self._files:
                self._api.send(self.id, "/", iter([_tar(self._files)]))
            with self._api.attached(self.id) as output:
                self._api.start(self.id)
                self.started = True
                self._read(output)
        except Exception as error:  # noqa: BLE001 - of a thread: told by who waits for it
            self.error = error
        finally:
            self.seconds = time.monotonic() - began

    def _read(self, output: Iterator[bytes]) -> None:
        rest = b""
        for piece in output:
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                # What a hostile engine slips in is no line of the probe's.
                with suppress(ValueError):
                    found = json.loads(line)
                    if isinstance(found, dict):
                        self.lines.append(found)


def _tar(files: Mapping[str, bytes]) -> bytes:
    """Small files as an archive."""
    with io.BytesIO() as made, tarfile.open(fileobj=made, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size = len(content)
            entry.mode = 0o666
            archive.addfile(entry, io.BytesIO(content))
        archive.close()
        return made.getvalue()


class Stand:
    """What one audit has set up; `opened` makes it and takes it down.

    Args:
        api: The container engine.
        folder: A directory of this audit's own.
        owner: This process, as it stands in the labels.
    """

    def __init__(self, api: DockerApi, folder: Path, owner: str) -> None:
        self.api, self.folder = api, folder
        self.id = os.urandom(4).hex()
        self._label = f"{owner}#{self.id}"
        self._runs: list[Run] = []

    def run(self, name: str, request: dict[str, Any], files: Mapping[str, bytes] | None = None) -> Run:
        """Start a container; it is removed when it ends, or with the stand.

        Args:
            name: What it is for.
            request: The engine API's own JSON.
            files: Path in it → what is put there before it starts.
        """
        labelled = {**request, "Labels": {LABEL: self._label}}
        title = f"llmlab-audit-{self.id}-{len(self._runs)}-{name}"

        def begun() -> Run:
            self._runs.append(Run(self.api, title, labelled, files or {}))
            return self._runs[-1]

        # Ctrl-C between the thread's start and the list would leave a container that nobody knows.
        return runtime.uninterrupted(begun, undo=lambda _: None)

    def folder_like(self, path: Path) -> Path:
        """An empty directory with another's owner and mode."""
        made = Path(tempfile.mkdtemp(dir=self.folder))
        with suppress(OSError):
            info = path.stat()
            os.chown(made, info.st_uid, info.st_gid)
            made.chmod(info.st_mode & 0o7777)
        return made

    def end(self) -> None:
        """Remove every container; those whose start is under way are waited for.

        A Docker Engine that is told to remove a container while it starts it may
        do neither: the container runs on, and its removal is "in progress" for good.

        Raises:
            LabError: If the container engine does not answer.
        """
        trouble: LabError | None = None
        for run in self._runs:
            deadline = time.monotonic() + PATIENCE_S
            while not run.ended and time.monotonic() < deadline:
                if run.id and run.started:
                    try:
                        self.api.stop(run.id, 0)
                    except LabError as error:
                        trouble = error
                        break
                time.sleep(_TICK_S)
            if run.error and run.id and not trouble:
                # It was created and perhaps never started: nobody else removes it.
                with suppress(LabError):
                    self.api.stop(run.id, 0)
        if trouble:
            raise trouble


@contextmanager
def opened(api: DockerApi) -> Iterator[Stand]:
    """A stand; whatever was set up is taken down, after an error and after Ctrl-C, too."""
    owner = _owner()
    sweep(api)
    root = runtime.cache_dir() / "audit"
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root))
    # The containers' users have to get through it, to what is theirs.
    folder.chmod(0o711)
    (folder / _OWNER).write_text(owner, encoding="ascii")
    stand = Stand(api, folder, owner)
    _in_use.add(stand.id)
    try:
        yield stand
    except BaseException:
        # The first error is the one to be told.
        with suppress(LabError):
            stand.end()
        raise
    else:
        stand.end()
    finally:
        _in_use.discard(stand.id)
        shutil.rmtree(folder, ignore_errors=True)


def sweep(api: DockerApi) -> None:
    """Remove what audits have left that have ended, such as one whose engine went away."""
    for entry in api.containers(LABEL):
        if _has_ended(str((entry.get("Labels") or {}).get(LABEL, ""))):
            # One that the engine cannot remove keeps nobody from auditing.
            with suppress(LabError):
                api.stop(str(entry["Id"]), 0)
    root = runtime.cache_dir() / "audit"
    for folder in root.iterdir() if root.is_dir() else ():
        with suppress(OSError):
            if _has_ended((folder / _OWNER).read_text(encoding="ascii")):
                shutil.rmtree(folder, ignore_errors=True)


def _owner() -> str:
    here = runtime.process(os.getpid())
    return f"{here.pid}:{here.start}" if here else f"{os.getpid()}:"


def _has_ended(label: str) -> bool:
    owner, _, stand = label.partition("#")
    if stand and owner == _owner():
        return stand not in _in_use
    pid, _, start = owner.partition(":")
    return pid.isdigit() and runtime.has_ended(Process(pid=int(pid), start=start))
