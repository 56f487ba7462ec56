"""Static programs for containers: compiled once, by whatever compiler there is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llmlab.builds import static
from llmlab.errors import BuildError, EngineMissingError
from tests.conftest import REPOSITORY

TOOLS = REPOSITORY / "src/llmlab/isolation/tools"
MACHINE = os.uname().machine

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="the compilers of other systems make no Linux programs"
)


@linux
@pytest.mark.parametrize("name", static._TOOLS)
def test_the_sources_compile_without_a_warning(name, tmp_path):
    units = [TOOLS / file for file in static._TOOLS[name] if file.endswith(".c")]
    command = ["gcc", *static._FLAGS, "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "made", *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_source_is_compiled():
    known = {file for files in static._TOOLS.values() for file in files}
    assert {path.name for path in TOOLS.iterdir()} == known


@linux
def test_a_program_is_compiled_once(monkeypatch):
    probe = static.program("probe", machine=MACHINE)
    monkeypatch.setattr(static, "_compile", lambda *_: pytest.fail("it is compiled again"))
    assert static.program("probe", machine=MACHINE) == probe
    assert static.program("probe", machine={"x86_64": "amd64", "aarch64": "arm64"}[MACHINE]) == probe
    header = probe.read_bytes()[:4096]
    assert header.startswith(b"\x7fELF")
    assert b"/ld-" not in header


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EngineMissingError, match="needs a C compiler") as caught:
        static.program("probe")
    assert "pip install ziglang" in caught.value.hint
    assert list((tmp_path / "tools").iterdir()) == []


@linux
def test_a_compiler_that_cannot_link_is_passed_over(monkeypatch, tmp_path):
    """What it said is told if no other can either."""
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path / "cache"))
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'cannot find -lc'\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BuildError, match="could not be compiled") as caught:
        static.program("probe", machine=MACHINE)
    assert caught.value.log_tail == ("cannot find -lc",)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert static.program("probe", machine=MACHINE).is_file()


def test_zig_compiles_for_either_architecture(monkeypatch, tmp_path):
    """What serves where there is no compiler, and macOS."""
    pytest.importorskip("ziglang")
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(static, "_COMPILERS", ())
    for machine, number in {"x86_64": 62, "aarch64": 183}.items():
        header = static.program("probe", machine=machine).read_bytes()[:20]
        assert header.startswith(b"\x7fELF")
        assert header[18] == number
