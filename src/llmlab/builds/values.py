"""A llama.cpp build as a frozen value."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmlab.builds import devices

Origin = Literal["built", "path", "environment"]
"""built: compiled by llmlab. path: found on PATH. environment: named by LLMLAB_LLAMA_SERVER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFile:
    """One file that the engine needs to run.

    Attributes:
        source: The file on this machine, symbolic links resolved.
        target: Its absolute path inside an image.
        sha256: Its hash, hexadecimal.
    """

    source: Path
    target: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBuild:
    """A llama-server that has generated text on this machine.

    Attributes:
        server: The llama-server to start on this machine.
        library_dir: Directory of the `libllama` of the same build, for
            `LLAMA_CPP_LIB_PATH`; None where the libraries are not known to
            fit the Python package (only our own build is).
        files: The server and everything it loads, the loader included: what
            an image needs. Empty where that cannot be told: outside Linux,
            or when the server is a script.
        version: What was built, or what `--version` says.
        origin: Where it comes from.
    """

    server: Path
    library_dir: Path | None
    files: tuple[EngineFile, ...]
    version: str
    origin: Origin

    @property
    def accelerators(self) -> tuple[str, ...]:
        """What it was compiled for besides the CPU, such as "cuda" or "metal", by its libraries' names."""
        names = {Path(file.target).name for file in self.files}
        if not names:
            names = {path.name for path in self.server.resolve().parent.glob("libggml-*")}
        return devices.kinds(names)

    @property
    def identity(self) -> str:
        """A short hash over the files' places and contents; it names the image."""
        lines = sorted(f"{file.target} {file.sha256}" for file in self.files)
        if not lines:
            lines = [f"{self.server} {self.version}"]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
