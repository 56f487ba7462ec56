"""`ps --usage`: what each server takes now, of real servers."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

import llmlab
from llmlab.errors import BackendError
from llmlab.lab import sources, usage
from llmlab.results import ServerList, Usage
from tests.conftest import eventually, run_cli
from tests.test_results import EVIL, seen, status


def taken() -> dict[str, Usage]:
    found = {}
    for row in llmlab.ps(usage=True):
        assert row.usage is not None
        found[row.name] = row.usage
    return found


def shown(rows: ServerList) -> list[str]:
    return str(rows).splitlines()


@pytest.mark.parametrize("place", ["native", "container"])
def test_a_server_at_work_takes_cpu_and_memory_and_writes(place, require_engine, request):
    if place == "container":
        request.getfixturevalue("require_docker")
    server = llmlab.start("tiny", name="a", backend=place)
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            server.ask("What is a GPU?", max_tokens=200)

    thread = threading.Thread(target=ask)
    thread.start()
    before = threading.active_count()
    try:
        # A busy machine may leave the engine no time for an answer to us; it may at the next try.
        found: list[Usage] = []

        def told() -> bool:
            found.append(taken()["a"])
            return (found[-1].tokens_per_s or 0) > 0

        eventually(told, within_s=30)
        (listed,) = json.loads(run_cli("ps", "--usage", "--json").stdout)["servers"]
    finally:
        done.set()
        thread.join()
    assert found[-1].cpus is not None
    assert found[-1].cpus > 0.01
    assert found[-1].memory_mib is not None
    assert 5 < found[-1].memory_mib < 500
    assert listed["usage"]["memory_mib"] > 5
    # All sources are closed, and none left a thread behind.
    eventually(lambda: threading.active_count() <= before)


def test_without_being_asked_nothing_is_measured(require_engine, monkeypatch):
    llmlab.start("tiny", name="a", backend="native")

    def never(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(usage, "of", never)
    (row,) = llmlab.ps()
    assert row.usage is None
    assert row.to_dict()["usage"] is None
    assert "MEMORY" not in str(llmlab.ps())


def test_a_server_of_which_nothing_can_be_seen_is_listed_all_the_same(require_engine, monkeypatch):
    for name in ("a", "b"):
        llmlab.start("tiny", name=name, backend="native")
    real = sources.of_server

    def refused(record: Any, gpus: Any) -> Any:
        if record.name == "a":
            raise BackendError("the container engine does not answer")
        return real(record, gpus)

    with monkeypatch.context() as patch:
        patch.setattr(sources, "of_server", refused)
        rows = taken()
    assert rows["a"] == Usage(cpus=None, memory_mib=None, gpu_memory_mib=None, tokens_per_s=None)
    assert (rows["b"].memory_mib or 0) > 1


def test_an_engine_without_metrics_is_measured_from_outside(require_engine, require_llama_cpp):
    llmlab.start("tiny", name="a", engine="llama-cpp-python", backend="native")
    found = taken()["a"]
    assert (found.memory_mib or 0) > 1
    assert found.tokens_per_s is None


def test_no_server_takes_nothing():
    assert list(llmlab.ps(usage=True)) == []


# As it is shown


def rows(**changes: Any) -> ServerList:
    known: dict[str, Any] = {
        "cpus": 1.872,
        "memory_mib": 2048.0,
        "gpu_memory_mib": None,
        "tokens_per_s": 41.3,
    }
    nothing = Usage(cpus=None, memory_mib=None, gpu_memory_mib=None, tokens_per_s=None)
    used = Usage(**{**known, **changes})
    return ServerList((status(detail="", usage=used), status("b", detail="", usage=nothing)))


def test_the_table_has_a_column_for_each_and_unknown_is_no_zero():
    head, first, second = shown(rows())
    assert head.split()[-4:] == ["CPU", "MEMORY", "TOKENS/S", "ENDPOINT"]
    assert first.split()[-5:] == ["1.87", "2.0", "GiB", "41", "a"]
    assert second.split()[-4:] == ["–", "–", "–", "b"]
    html = seen(rows().to_html())
    for word in ("CPU", "1.87", "2.0 GiB", "tokens/s", "41"):
        assert word in html
    assert "GPU memory" not in html


def test_gpu_memory_is_shown_where_there_is_a_gpu():
    head, first, second = shown(rows(gpu_memory_mib=512.0))
    assert "GPU MEMORY" in head
    assert "512 MiB" in first
    assert second.split()[-5:] == ["–", "–", "–", "–", "b"]
    # None of it, on a machine that has one, is a figure.
    assert "0 MiB" in shown(rows(gpu_memory_mib=0.0))[1]


def test_without_usage_the_table_is_as_it_was():
    assert shown(ServerList((status(),)))[0].split()[-1] == "ENDPOINT"
    assert "CPU" not in str(ServerList((status(),)))
    assert str(rows()[0]).splitlines()[0].split()[-2] == "TOKENS/S"


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_names_stay_harmless_beside_figures(text):
    used = Usage(cpus=0.0, memory_mib=0.0, gpu_memory_mib=1.0, tokens_per_s=0.0)
    found = ServerList((status(text, usage=used),))
    seen(found.to_html())
    text_plain = found._repr_mimebundle_()["text/plain"]
    assert not [c for c in text_plain if not c.isprintable() and c not in "\n\t\u00a0\u200d"]
