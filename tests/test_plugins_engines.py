"""Engines and backends that other packages bring, found as any installed package's entry points are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import llmlab
from llmlab import backends, engines
from llmlab.backends.base import GROUP as BACKENDS
from llmlab.engines.base import GROUP as ENGINES
from llmlab.errors import BackendError, EngineError, StartError, UnknownNameError, UsageError
from llmlab.notebook import completion
from llmlab.verbs import Verb
from tests.conftest import run_cli

BUILT_IN = ("llama-server", "llama-cpp-python", "ollama", "vllm")
PAGE = Path(__file__).parent.parent / "docs" / "plugins.md"

# A backend as short as can be: native processes that give way to others.
POLITE = """
import os
from dataclasses import replace
from llmlab import runtime
from llmlab.backends import native
from llmlab.backends.native import *
from llmlab.backends.native import (  # what it has not of its own
    controls, log, look, opener, remove_abandoned, remove_orphans, resident_mib, settle, stop, unavailable, verify)

NAME = "polite"

def start(starting):
    record = native.start(starting)
    os.setpriority(os.PRIO_PROCESS, record.process.pid, 7)
    return replace(record, backend=NAME)

def find():
    return [record for record in runtime.records() if record.backend == NAME]
"""


def example() -> str:
    """The engine of the documentation."""
    return PAGE.read_text().split("```python\n# llmlab_parrot.py\n")[1].split("```")[0]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Puts a distribution with an engine or a backend where Python looks for packages."""
    before = set(sys.modules)
    folder = tmp_path / "packages"
    folder.mkdir()

    def installed(code: str, name: str = "parrot", group: str = ENGINES, package: str = "") -> Path:
        package = package or f"llmlab_{name.replace('-', '_')}"
        sys.modules.pop(package, None)  # another test's
        (folder / f"{package}.py").write_text(code)
        about = folder / f"{package}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {package}\n")
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
        return folder

    yield installed
    for module in set(sys.modules) - before:
        if module.startswith("llmlab_"):
            del sys.modules[module]


def test_without_plug_ins_there_are_the_built_in_ones():
    assert engines.engine_names() == BUILT_IN
    assert backends.backend_names() == ("native", "container")


def test_an_engine_of_another_package_is_started_asked_and_stopped(install):
    install(example())
    with llmlab.start("tiny", engine="parrot", backend="native", name="polly") as server:
        assert server.record.spec.engine == "parrot"
        assert server.record.build == {}, "nothing of llama.cpp's is in it"
        answer = server.ask("Who is a pretty bird?")
        assert answer.text == "Who is a pretty bird?"
        assert answer.completion_tokens == 5
        assert answer.tokens_per_s is None, "this engine does not tell"
        (row,) = llmlab.ps()
        assert (row.engine, row.state) == ("parrot", "ready")
        assert "parrot" in str(server.inspect())
        assert any("listening" in line for line in server.logs().lines)
    assert len(llmlab.ps()) == 0


def test_the_doors_of_other_tools_lead_to_it(install):
    install(example())
    with llmlab.start("tiny", engine="parrot", backend="native") as server, server.http_client() as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"


def test_without_a_backend_it_runs_natively_and_says_so(install, require_docker):
    install(example())
    with llmlab.start("tiny", engine="parrot") as server:
        assert server.record.backend == "native"
        assert "parrot runs natively only: not isolated" in " ".join(server.record.notes)


def test_what_its_log_means_is_its_own_business(install):
    install(example().replace("server.serve_forever()", 'raise SystemExit("no seeds left")'))
    with pytest.raises(StartError, match="the parrot is hungry") as caught:
        llmlab.start("tiny", engine="parrot", backend="native")
    assert "no seeds left" in " ".join(caught.value.log_tail)


def test_the_command_line_starts_it_offers_it_and_names_what_is_nearest(install):
    install(example())
    run_cli("start", "tiny", "--engine", "parrot", "--native", "--name", "polly")
    assert run_cli("ask", "polly", "hello there").stdout == "hello there\n"
    assert "parrot" in run_cli("start", "--help").stdout
    failed = run_cli("start", "--engine", "parot", check=False)
    assert "did you mean 'parrot'?" in failed.stderr


def test_completion_offers_it(install, monkeypatch):
    install(example())
    monkeypatch.setattr("llmlab.verbs.VERBS", {"start": Verb("start")})
    assert completion.candidates(["start", "--engine"], "") == [*BUILT_IN, "parrot"]


def test_a_backend_of_another_package_starts_servers_and_finds_them(install, require_engine):
    install(POLITE, "polite", BACKENDS)
    assert backends.backend_names() == ("native", "container", "polite")
    with llmlab.start("tiny", backend="polite", name="calm") as server:
        process = server.record.process
        assert process is not None
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 7
        assert server.ask("What is a container?").text
        assert [(row.name, row.backend, row.state) for row in llmlab.ps()] == [("calm", "polite", "ready")]
        assert llmlab.attach("calm").record == server.record
    assert len(llmlab.ps()) == 0
    run_cli("start", "tiny", "--polite", "--name", "calm")
    assert "polite" in run_cli("ps").stdout
    llmlab.stop("calm")


def test_what_is_built_in_cannot_be_replaced(install):
    install("raise SystemExit", "llama-server", package="usurper")
    install("raise SystemExit", "native", BACKENDS, package="pretender")
    assert engines.engine_names() == BUILT_IN
    assert engines.engine("llama-server").__name__ == "llmlab.engines.llama_server"  # type: ignore[attr-defined]
    assert backends.backend("native").__name__ == "llmlab.backends.native"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("METRICS =", "OTHER =", "cannot be used: it lacks METRICS"),
        ("def explain(", "def other(", "it lacks explain"),
        ("def explain(log)", "def explain()", "it needs explain(log"),
        ("def argv(spec, paths)", "def argv(spec)", "it needs argv(spec"),
        ('NAME = "parrot"', 'NAME = "polly"', "its NAME is 'polly'"),
        ('NAME = "parrot"', "import no_such_thing", "cannot be loaded: ModuleNotFoundError: No module named"),
        ('NAME = "parrot"', "raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
        ('{"native"}', '{"native", "container"}', "whose images hold llama-server only"),
    ],
)
def test_an_engine_that_cannot_be_used_is_named_with_what_is_missing(install, before, after, says):
    assert before in example()
    install(example().replace(before, after))
    with pytest.raises(EngineError) as caught:
        llmlab.start("tiny", engine="parrot", backend="native")
    assert says in caught.value.message
    assert "'parrot'" in caught.value.message
    if "images" not in says:
        assert "of the package llmlab_parrot" in caught.value.message
        assert "pip uninstall llmlab_parrot" in caught.value.hint
    assert len(llmlab.ps()) == 0, "the rest goes on"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (POLITE.replace("settle,", "").replace("native import *", "native import NAME"), "it lacks settle"),
        (POLITE.replace("def find()", "def find(whose)"), "it needs find()"),
        (POLITE + "\ndef stop(record, grace_s): pass", ""),
        (POLITE + "\ndef stop(record): pass", "it needs stop(record"),
        ("raise OSError('no cluster')", "cannot be loaded: OSError: no cluster"),
    ],
)
def test_a_backend_that_cannot_be_used_stands_in_nobodys_way(install, code, says, require_engine):
    install(code, "polite", BACKENDS)
    with llmlab.start("tiny", backend="native", name="other"):
        assert [row.name for row in llmlab.ps()] == ["other"]
        if says:
            with pytest.raises(BackendError, match="of the package llmlab_polite") as caught:
                llmlab.start("tiny", backend="polite")
            assert says in caught.value.message
            assert backends.backend_names() == ("native", "container")
        else:
            assert backends.backend_names() == ("native", "container", "polite")


def test_two_packages_with_one_name_are_both_named(install):
    install(example(), package="first")
    install(example(), package="second")
    with pytest.raises(EngineError, match="of the package first and second comes more than once"):
        engines.engine("parrot")


@pytest.mark.parametrize("name", ["Parrot", "par rot", "--parrot"])
def test_what_cannot_be_typed_as_an_option_is_passed_over(install, name):
    install(example(), name, package="llmlab_odd")
    assert engines.engine_names() == BUILT_IN


def test_a_backend_called_as_an_option_is_does_not_break_the_options(install):
    install(POLITE.replace('"polite"', '"keep"'), "keep", BACKENDS)
    assert run_cli("start", "--help").stdout.count("--keep") >= 1
    assert backends.backend_names() == ("native", "container", "keep")


def test_an_unknown_name_is_told_with_the_nearest(install):
    install(example())
    with pytest.raises(UnknownNameError, match="did you mean 'parrot'"):
        engines.engine("parot")
    with pytest.raises(UnknownNameError, match="did you mean 'native'"):
        backends.backend("nativ")


def test_importing_llmlab_looks_for_none_of_them(install):
    install(example())
    code = (
        "import sys, llmlab, llmlab.lab; from llmlab import engines;"
        "engines.engine('llama-server');"
        "print('llmlab_parrot' in sys.modules, engines.plugins._points.cache_info().misses)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False 0\n"


def test_a_dry_run_of_a_backend_that_shows_none_says_so(install, require_engine):
    install(POLITE, "polite", BACKENDS)
    with pytest.raises(UsageError, match="'polite' would do cannot be shown"):
        llmlab.start("tiny", backend="polite", dry_run=True)
