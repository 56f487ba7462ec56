"""Makes the container image of a stand-in, from files of this machine and without a registry.

    python -m llmlab.testing.stand_ins.image ollama --llama-server PATH | docker import - NAME

The image has a Python (the interpreter that makes it, with as much of its library as the
stand-in imports), llama-server with its libraries, and the stand-in where its engine's
program would be; vLLM's has llmlab's built-in model as well.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Literal, get_args

Kind = Literal["ollama", "vllm"]

LABEL = "llmlab.stand-in"
_PROGRAMS: dict[Kind, str] = {"ollama": "/bin/ollama", "vllm": "/usr/local/bin/vllm"}
_CODE = "/opt/stand-in"
# Serves in place of weights that llama-server cannot load.
_BUILT_IN = Path(__file__).resolve().parents[2] / "weights" / "builtin" / "tiny.gguf"
_LLAMA = "/opt/llama.cpp"
_EMPTY = ("llmlab/__init__.py", "llmlab/testing/__init__.py")
_FOLDERS = ("tmp", "models", "run", "run/llmlab", "etc", "proc", "sys", "dev", "var", "var/tmp")
_OPEN = ("tmp", "var/tmp")
_LIBRARY = re.compile(r"^\s*(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
# What a running stand-in has loaded; the codecs are loaded when a name of one is first met.
_LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
from llmlab.testing.stand_ins import ollama, vllm
import encodings.idna, encodings.latin_1, encodings.ascii, html, email.charset, email.quoprimime, textwrap
print(*(found for module in list(sys.modules.values()) if (found := getattr(module, "__file__", None))), sep="\\n")
"""


def pack(kind: Kind, llama_server: Path, file: IO[bytes]) -> None:
    """Write a stand-in's image as a tar of its root file system, as `docker import` takes it.

    Args:
        kind: Which engine's.
        llama_server: A llama-server, its libraries beside it or where the loader finds them.
        file: Where the tar goes.
    """
    python = Path(sys.executable).resolve()
    files: dict[str, Path] = {}
    for path in _loaded_modules():
        if "stand_ins" in path.parts:
            files[f"{_CODE}/llmlab/testing/stand_ins/{path.name}"] = path
        else:
            files[str(path)] = path
    files[str(python)] = python
    if kind == "vllm":
        files[f"{_CODE}/{_BUILT_IN.name}"] = _BUILT_IN
    binaries = [python, *(path for path in files.values() if path.suffix == ".so")]
    server = llama_server.resolve()
    # Some builds load what fits the CPU by themselves when they run.
    beside = [server, *server.parent.glob("libggml-*.so")]
    files |= {f"{_LLAMA}/{path.name}": path.resolve() for path in beside}
    for name, path in _libraries([*binaries, *beside]):
        ours = path.parent.resolve() == server.parent
        files[f"{_LLAMA}/{path.name}" if ours else name if name.startswith("/") else str(path)] = (
            path.resolve()
        )
    texts = {f"{_CODE}/{name}": b"" for name in _EMPTY}
    texts[_PROGRAMS[kind]] = _starter(kind, python).encode()
    _write(files, texts, file)


def _starter(kind: Kind, python: Path) -> str:
    return (
        f"#!{python} -IS\n"
        f'import sys\nsys.path.insert(0, "{_CODE}")\n'
        f"from llmlab.testing.stand_ins.{kind} import main\nmain()\n"
    )


def _loaded_modules() -> list[Path]:
    """The files of all modules that a stand-in imports."""
    source = Path(__file__).resolve().parents[3]
    # An interpreter of its own, so that nothing is counted that only this one has loaded.
    script = _LOADED.replace("from llmlab.testing.stand_ins import ollama, vllm", _imports())
    command = [str(Path(sys.executable).resolve()), "-IS", "-c", script, str(source)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [Path(line) for line in done.stdout.splitlines()]


def _imports() -> str:
    """The stand-ins' modules, without llmlab itself, which the image does not have."""
    return (
        "import types, os\n"
        "for name in ('llmlab', 'llmlab.testing'):\n"
        "    made = sys.modules[name] = types.ModuleType(name)\n"
        "    made.__path__ = [os.path.join(sys.argv[1], *name.split('.'))]\n"
        "from llmlab.testing.stand_ins import ollama, vllm"
    )


def _libraries(binaries: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Name and file of everything that these load."""
    ldd = shutil.which("ldd")
    if ldd is None:
        raise FileNotFoundError("ldd is missing: what a program loads cannot be listed")
    for binary in binaries:
        done = subprocess.run([ldd, str(binary)], check=False, capture_output=True, text=True)
        for match in _LIBRARY.finditer(done.stdout):
            yield match["name"] or match["path"], Path(match["path"])


def _write(files: dict[str, Path], texts: dict[str, bytes], file: IO[bytes]) -> None:
    parents = {
        str(parent).lstrip("/")
        for name in (*files, *texts)
        for parent in PurePosixPath(name).parents
        if parent.name
    }
    with tarfile.open(fileobj=file, mode="w|") as archive:
        for folder in sorted({*_FOLDERS, *parents}):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if folder in _OPEN else 0o755
            archive.addfile(entry)
        for name, path in sorted(files.items()):
            _add(archive, name, path.read_bytes())
        for name, content in sorted(texts.items()):
            _add(archive, name, content)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name.lstrip("/"))
    entry.mode = 0o755
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def main() -> None:
    """Write the tar to standard output."""
    parser = argparse.ArgumentParser(description="Write a stand-in's image, for docker import.")
    parser.add_argument("kind", choices=get_args(Kind))
    parser.add_argument("--llama-server", type=Path, required=True, help="path of a llama-server")
    options = parser.parse_args()
    pack(options.kind, options.llama_server, sys.stdout.buffer)


if __name__ == "__main__":
    main()
