"""What `start` decides before anything is started."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import llmlab
from llmlab.errors import EngineMissingError, UsageError
from llmlab.lab import planning
from llmlab.reporting import reporting_to
from tests.behaviour import Recorder


@pytest.mark.parametrize(
    ("size", "mib"),
    [("512", 512), (512, 512), ("512m", 512), ("2g", 2048), ("1.5 GiB", 1536), ("2048k", 2), ("1T", 1 << 20)],
)
def test_sizes(size, mib):
    assert planning.parse_size_mib(size) == mib


@pytest.mark.parametrize("size", ["", "g", "-1g", "1p", "0", "0.1k", "1e3", "9" * 400, "½g"])
def test_what_is_no_size(size):
    with pytest.raises(UsageError, match="not a size"):
        planning.parse_size_mib(size)


@pytest.fixture
def no_llama_server(monkeypatch, tmp_path):
    """A machine on which no llama.cpp was ever compiled."""
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("LLMLAB_LLAMA_SERVER", raising=False)


def test_without_any_engine_the_way_to_one_is_told(no_llama_server, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for place in ("native", "container", None):
        with pytest.raises(EngineMissingError, match=r"no llama\.cpp") as caught:
            llmlab.start("tiny", backend=place)
        assert "llmlab build" in caught.value.hint


def test_a_wheel_of_the_python_engine_serves_where_it_is_all_there_is(
    no_llama_server, monkeypatch, require_engine, require_llama_cpp, tmp_path
):
    """A wheel has its libraries inside; here they are the build's, at the place of a wheel's."""
    found = importlib.util.find_spec("llama_cpp")
    assert found
    assert found.submodule_search_locations
    libraries = Path(found.submodule_search_locations[0]) / "lib"
    if libraries.exists():
        pytest.skip("llama-cpp-python has libraries of its own already")
    libraries.symlink_to(require_engine.library_dir)
    try:
        with reporting_to(Recorder()) as seen, llmlab.start("tiny") as server:
            assert server.record.spec.engine == "llama-cpp-python"
            assert server.record.backend == "native"
            assert server.ask("What is a GPU?", max_tokens=5).text
    finally:
        libraries.unlink()
    assert "llama-cpp-python serves" in seen.notes[0]
    assert "not isolated" in seen.notes[1]
