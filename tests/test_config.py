"""`%config LLMLab` in a real IPython shell."""

from __future__ import annotations

import functools

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from llmlab import lab, verbs
from llmlab.errors import StartError
from llmlab.results import Stopped


@pytest.fixture
def made():
    """Makes a shell that has loaded llmlab."""

    def make(**given):
        config = Config({"LLMLab": given})
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        InteractiveShell.clear_instance()
        shell = InteractiveShell.instance(config=config)
        shell.run_cell("%load_ext llmlab").raise_error()
        return shell

    yield make
    InteractiveShell.instance().run_cell("%unload_ext llmlab")
    InteractiveShell.clear_instance()


@pytest.fixture
def shell(made):
    return made()


@pytest.fixture
def started(monkeypatch):
    """The arguments that `start` and `ask` were called with; nothing is started for it."""
    calls = []
    for name in ("start", "ask"):

        @functools.wraps(getattr(lab, name))
        def called(**arguments):
            calls.append(arguments)
            return Stopped(names=())

        monkeypatch.setattr(lab, name, called)
    monkeypatch.setattr(verbs, "VERBS", {name: verbs.Verb(name) for name in verbs.VERBS})
    return calls


def run(shell, source):
    outcome = shell.run_cell(source)
    outcome.raise_error()
    return outcome.result


def test_what_is_set_is_taken_where_nothing_else_is_typed(shell, started):
    run(shell, "%llm start tiny")
    run(shell, "%config LLMLab.context = 512")
    run(shell, "%config LLMLab.backend = 'container'\n%config LLMLab.profile = 'gpu'")
    run(shell, "%config LLMLab.timeout_s = 9.5")
    run(shell, "%llm start tiny")
    run(shell, "%llm start tiny --context 64 --profile none --timeout 3")
    run(shell, "%llm ask hello")
    run(shell, "%config LLMLab.context = None")
    run(shell, "%llm start tiny")
    everything = {"backend": "container", "profile": "gpu", "context": 512, "timeout_s": 9.5}
    typed = {"context": 64, "profile": "none", "timeout_s": 3.0}
    assert started == [
        {"model": "tiny"},
        {"model": "tiny", **everything},
        {"model": "tiny", **everything, **typed},
        {"prompt": "hello", "timeout_s": 9.5},
        {"model": "tiny", **{key: value for key, value in everything.items() if key != "context"}},
    ]


def test_other_verbs_take_nothing_of_it(shell):
    run(shell, "%config LLMLab.backend = 'native'\n%config LLMLab.timeout_s = 9")
    assert len(run(shell, "%llm ps")) == 0
    with pytest.raises(UsageError, match="nobody"):
        run(shell, "%llm stop nobody")


def test_the_python_line_shows_what_is_taken(shell, started, monkeypatch):
    shown = []
    from llmlab.notebook.reporters import TerminalReporter  # noqa: PLC0415 - beside its one use

    monkeypatch.setattr(TerminalReporter, "announce", lambda _, line: shown.append(line))
    run(shell, "%config LLMLab.context = 512\n%config LLMLab.backend = 'native'")
    run(shell, "%llm start tiny --context 64")
    assert shown == ["llmlab.start('tiny', backend='native', context=64)", ""]
    assert verbs.parse(["start", "tiny"]).arguments == {"model": "tiny"}, (
        "the command line takes nothing of it"
    )


def test_a_profile_does_not_stand_in_the_way_of_a_native_server(shell, started):
    run(shell, "%config LLMLab.profile = 'sealed'")
    run(shell, "%llm start --native")
    run(shell, "%config LLMLab.backend = 'native'")
    run(shell, "%llm start")
    run(shell, "%llm start --container")
    assert started == [
        {"backend": "native"},
        {"backend": "native"},
        {"backend": "container", "profile": "sealed"},
    ]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("backend = 'nativ'", "no backend 'nativ' (did you mean 'native'?)"),
        ("profile = 'seeled'", "no profile 'seeled' (did you mean 'sealed'?)"),
        ("profile = 7", "profile"),
        ("context = 0", "context is 0: it must be 1 or more"),
        ("context = '2k'", "context"),
        ("timeout_s = 0", "must be more than 0 s"),
        ("timeout_s = float('nan')", "must be more than 0 s"),
        ("contxt = 3", "Did you mean `context`"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_set(shell, started, capsys, setting, says, caplog):
    capsys.readouterr()
    shell.run_cell(f"%config LLMLab.{setting}")
    printed = capsys.readouterr()
    assert says in printed.out + printed.err + caplog.text
    run(shell, "%llm start tiny")
    assert started == [{"model": "tiny"}], "it is as it was"


def test_a_profile_of_ipython_can_set_it(made, started):
    shell = made(context=256)
    run(shell, "%llm start tiny")
    assert started == [{"model": "tiny", "context": 256}]


def test_help_says_what_is_set(shell, capsys):
    capsys.readouterr()
    run(shell, "%llm start --help")
    assert "%config" not in capsys.readouterr().out
    run(shell, "%config LLMLab.backend = 'native'\n%config LLMLab.timeout_s = 20")
    capsys.readouterr()
    run(shell, "%llm start --help")
    assert (
        capsys.readouterr()
        .out.rstrip()
        .endswith("set by %config LLMLab, where nothing else is typed:\n  --native\n  --timeout 20.0")
    )
    run(shell, "%llm ask --help")
    assert capsys.readouterr().out.rstrip().endswith("nothing else is typed:\n  --timeout 20.0")
    run(shell, "%llm ps --help")
    assert "%config" not in capsys.readouterr().out


def test_the_settings_explain_themselves(shell, capsys):
    run(shell, "%config LLMLab.context = 512")
    capsys.readouterr()
    run(shell, "%config LLMLab")
    shown = capsys.readouterr().out
    assert "LLMLab.context=<Int>" in shown
    assert "Current: 512" in shown
    assert "native or container" in shown


def test_an_error_says_what_was_set_and_not_typed(shell, monkeypatch, started, capsys):
    run(shell, "%config LLMLab.backend = 'native'")
    monkeypatch.undo()
    with pytest.raises(UsageError) as caught:
        run(shell, "%llm start tiny --memory 1g")
    assert "backend is 'native', set by %config LLMLab" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError) as caught:
        run(shell, "%llm start tiny --native --memory 1g")
    assert "%config" not in str(caught.value)


def test_an_error_of_a_start_says_it_too(shell, monkeypatch, started):
    @functools.wraps(lab.start)
    def start(**_):
        raise StartError("it did not come up", hint="look at the log")

    monkeypatch.setattr(lab, "start", start)
    run(shell, "%config LLMLab.context = 3")
    with pytest.raises(StartError) as caught:
        run(shell, "%llm start tiny")
    assert caught.value.hint == "look at the log; context is 3, set by %config LLMLab"


def test_unloading_takes_it_away_and_what_was_set_is_there_again_with_loading(shell, started):
    run(shell, "%config LLMLab.context = 512")
    run(shell, "%unload_ext llmlab")
    with pytest.raises(UsageError, match="LLMLab"):
        run(shell, "%config LLMLab")
    run(shell, "%load_ext llmlab\n%llm start tiny")
    assert started == [{"model": "tiny", "context": 512}]


def test_a_server_is_started_as_it_is_set(shell, require_engine):
    run(shell, "%config LLMLab.backend = 'native'\n%config LLMLab.context = 256")
    server = run(shell, "%llm start tiny")
    assert (server.record.backend, server.record.spec.context) == ("native", 256)
    server.stop()
