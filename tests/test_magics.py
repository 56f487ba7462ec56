"""`%llm` and `%%llm` in a real IPython shell."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from llmlab import lab, render, reporting, verbs
from llmlab.errors import StartError
from llmlab.lab import registry
from llmlab.notebook import cards, completion
from llmlab.results import Answer
from llmlab.weights import catalog, store


@pytest.fixture
def shell():
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=config)
    shell.run_cell("%load_ext llmlab")
    yield shell
    shell.run_cell("%unload_ext llmlab")
    InteractiveShell.clear_instance()


def an_answer(text="It is.", **figures):
    given = {
        "ttft_s": 0.01,
        "total_s": 0.1,
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "tokens_per_s": 200.0,
    }
    return Answer(text=text, server="a", finish_reason="stop", **{**given, **figures})


@pytest.fixture
def asked(monkeypatch):
    """The arguments that `ask` was called with; nothing is started for it."""
    calls = []

    @functools.wraps(lab.ask)
    def ask(**arguments):
        calls.append(arguments)
        answer = an_answer()
        report = reporting.reporter()
        report.asked(arguments["prompt"], "a")
        for piece in ("It ", "is."):
            report.text(piece)
        report.answered(answer)
        return answer

    monkeypatch.setattr(lab, "ask", ask)
    monkeypatch.setattr(verbs, "VERBS", {name: verbs.Verb(name) for name in verbs.VERBS})
    return calls


def run(shell, source):
    """Run a cell that works; returns its value."""
    outcome = shell.run_cell(source, store_history=True)
    outcome.raise_error()
    return outcome.result


def fails(shell, source, capsys):
    """Run a cell that fails; returns the error and what was printed for it."""
    capsys.readouterr()
    outcome = shell.run_cell(source, store_history=True)
    assert not outcome.success
    printed = capsys.readouterr()
    return outcome.error_in_exec, printed.out + printed.err


PROMPTS = [
    "What is a container?",
    "a {brace}, {x}, {{ + }}, {x!r:>3}",
    "$HOME costs $5",
    "it's",
    "50 % of 100 % -- --server",
    "tab\tand é 日本 🙂",
    "?",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_arrives_as_it_was_typed(shell, asked, prompt):
    shell.user_ns["x"] = "WRONG"
    run(shell, f'%llm ask "{prompt}"')
    run(shell, f'a = %llm ask "{prompt}"')
    run(shell, f"%%llm ask\n{prompt}\n")
    assert [call["prompt"] for call in asked] == [prompt] * 3


def test_a_cell_body_may_have_quotes_and_many_lines(shell, asked):
    body = "--server\n\"double\" 'single' \\n {\n\n    $x\n% 100"
    run(shell, f"%%llm ask box\n{body}")
    assert asked == [{"prompt": body, "server": "box"}]


def test_a_large_prompt_arrives_whole(shell, asked):
    prompt = "word {x} $y " * 10_000
    run(shell, f"%%llm ask\n{prompt}")
    assert asked[0]["prompt"].strip() == prompt.strip()


@pytest.mark.parametrize(
    ("typed", "arrives"),
    [
        ("{{topic}}", "a box"),
        ("on {{ topic }}s", "on a boxs"),
        (r"\{{topic}} and {{topic}}", "{{topic}} and a box"),
        ("{{option}}", "--system"),
        ("{{nested}}", "{{other}} {{n}}"),
        ("{{n}} times", "3 times"),
        ("{{a.b}} {{}} {{1}}", "{{a.b}} {{}} {{1}}"),
    ],
)
def test_double_braces_are_variables(shell, asked, typed, arrives):
    shell.user_ns.update(topic="a box", option="--system", nested="{{other}} {{n}}", other="s3", n=3)
    run(shell, f'%llm ask "{typed}"')
    run(shell, f"%%llm ask\n{typed}")
    assert [call["prompt"] for call in asked] == [arrives, arrives]


def test_a_number_can_be_a_variable_in_an_option_and_a_name_in_a_function(shell, asked):
    run(
        shell,
        "def f(topic):\n    n = 7\n    return get_ipython().run_line_magic('llm', 'ask \"{{topic}}\" --max-tokens {{n}}')",
    )
    run(shell, "x = f('local')")
    assert asked == [{"prompt": "local", "max_tokens": 7}]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("%llm strat tiny", "did you mean 'start'?"),
        ("%llm ask hi --sytem x", "--system"),
        ("%llm ask what's up", "double quotes"),
        ("%llm ask What is this?", "quotes"),
        ("a = %llm ask What is this?", "quotes"),
        ("%llm start tniy --native", "did you mean 'tiny'?"),
        ("%llm start tiny --engine llama-servr", "llama-server"),
        ("%llm stop nobody", "nobody"),
        ("%llm ask hello", "no server"),
        ('%llm ask "{{topik}}"', "did you mean 'topic'?"),
        ('%llm ask "{{zzzzzz}}"', r"\{{zzzzzz}}"),
        ("%%llm start tiny\nbody", "body"),
        ("%llm start --nativ", "did you mean '--native'?"),
        ("%llm start --profile seeled", "did you mean 'sealed'?"),
        ("%llm inspect nobody", "nobody"),
        ("%llm logs nobody --tial 3", "did you mean '--tail'?"),
        ("%llm models qwen2.5-0.5", "did you mean 'qwen2.5-0.5b'?"),
        ("%llm pull qwn2.5-0.5b", "did you mean 'qwen2.5-0.5b'?"),
        ("%llm verify tniy", "did you mean 'tiny'?"),
        ("%llm rm tniy", "did you mean 'tiny'?"),
        ("%llm audit nobody", "nobody"),
        ("%llm monitor nobody", "nobody"),
        ("%llm ask nobody hello", "nobody"),
        ("%llm chat nobody", "nobody"),
    ],
)
def test_a_usage_error_is_one_line_and_the_cell_fails(shell, source, says, capsys, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/docker.sock")
    shell.user_ns["topic"] = "x"
    error, printed = fails(shell, source, capsys)
    assert type(error) is UsageError, "a subclass would show a traceback"
    assert printed.startswith("UsageError: ")
    assert printed.count("\n") == 1, printed
    assert says in printed


def test_another_error_shows_its_message_and_hint_without_a_traceback(shell, capsys, monkeypatch, asked):
    @functools.wraps(lab.ask)
    def ask(**_):
        raise StartError("it did not come up", hint="look at the log", log_tail=["line one"])

    monkeypatch.setattr(lab, "ask", ask)
    error, printed = fails(shell, '%llm ask "x"', capsys)
    assert isinstance(error, StartError)
    assert "it did not come up" in printed
    assert "| line one" in printed
    assert "→ look at the log" in printed
    assert "Traceback" not in printed


def test_help_is_printed_and_lists_what_there_is(shell, capsys):
    capsys.readouterr()
    run(shell, "%llm")
    overview = capsys.readouterr().out
    run(shell, "%llm --help")
    assert capsys.readouterr().out == overview
    assert all(f"  {name}" in overview for name in verbs.VERBS)
    for name in verbs.VERBS:
        assert run(shell, f"%llm {name} --help") is None
        shown = capsys.readouterr().out
        assert f"%llm {name}" in shown
        assert "-o NAME, --out NAME" in shown
        for parameter in verbs.VERBS[name].parameters:
            assert parameter.help, f"{name}: {parameter.name} is not explained"
            assert all(flag in shown for flag in parameter.flags)
        assert run(shell, f"%llm {name} -h") is None
        assert capsys.readouterr().out == shown


def test_the_docstring_is_what_a_question_mark_shows(shell, capsys):
    capsys.readouterr()
    run(shell, "%llm?")
    shown = capsys.readouterr().out
    assert "%llm start tiny" in shown
    assert r"\{{name}}" in shown
    assert "-o server" in shown
    assert "%config LLMLab" in shown


def test_a_question_mark_does_not_turn_a_question_into_a_request_for_help(shell, asked, capsys):
    run(shell, "if True:\n    a = %llm ask box Why?")
    assert asked == [{"prompt": "Why?", "server": "box"}]
    run(shell, "%%llm ask\nwhy?\n%llm ask what is this?")
    assert asked[1]["prompt"] == "why?\n%llm ask what is this?"
    capsys.readouterr()
    run(shell, "x = 1\n%llm?")
    assert "%llm start tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    "source",
    [
        '%llm ask "x" -o kept',
        '%llm ask -o kept "x"',
        '%llm ask "x" --out kept',
        '%llm ask "x" --out=kept',
        "%%llm ask -o kept\nx",
        "%%llm ask box -o kept\nx",
        'other = %llm ask "x" -o kept',
    ],
)
def test_o_keeps_the_result_in_a_variable(shell, asked, source):
    value = run(shell, source)
    assert shell.user_ns["kept"].text == "It is."
    assert asked[0]["prompt"] == "x"
    assert (shell.user_ns["other"] if value is None else value) is shell.user_ns["kept"]


@pytest.mark.parametrize("verb", ["ps", "models", "doctor", "stop --all", "ps --json"])
def test_o_is_for_every_verb(shell, verb):
    value = run(shell, f"%llm {verb} -o kept")
    assert value is shell.user_ns["kept"]
    assert isinstance(value, dict) == ("--json" in verb)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ('%llm ask "x" -o 2x', "'2x' is no name for a variable (such as -o answer)"),
        ('%llm ask "x" -o a.b', "'a.b' is no name"),
        ('%llm ask "x" --out=class', "'class' is no name"),
        ('%llm ask "x" --out', "--out needs a variable's name"),
        ("%%llm ask -o\nx", "-o needs a variable's name (such as -o answer)"),
    ],
)
def test_o_wants_the_name_of_a_variable_before_anything_is_done(shell, asked, source, says, capsys):
    error, printed = fails(shell, source, capsys)
    assert type(error) is UsageError
    assert says in printed
    assert asked == []


def test_o_in_a_prompt_is_a_part_of_it(shell, asked):
    run(shell, '%llm ask "-o is an option, --out=x too"')
    run(shell, "%llm ask -- -o")
    run(shell, "%%llm ask\n-o answer")
    assert [call["prompt"] for call in asked] == ["-o is an option, --out=x too", "-o", "-o answer"]


def test_a_result_that_did_not_come_keeps_what_was_there(shell, asked, capsys):
    shell.user_ns["kept"] = "before"
    fails(shell, "%llm stop nobody -o kept", capsys)
    assert shell.user_ns["kept"] == "before"


def test_ctrl_c_in_any_verb_is_one_line(shell, asked, monkeypatch, capsys):
    @functools.wraps(lab.ask)
    def ask(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(lab, "ask", ask)
    error, printed = fails(shell, '%llm ask "x"', capsys)
    assert isinstance(error, KeyboardInterrupt)
    assert printed.strip() == "Interrupted: ask"


def test_json_is_data_and_shows_nothing_else(shell, asked, capsys):
    capsys.readouterr()
    assert run(shell, 'd = %llm ask "x" --json') is None
    assert capsys.readouterr().out == ""
    assert shell.user_ns["d"]["text"] == "It is."
    assert {"ttft_s", "tokens_per_s", "prompt_tokens"} <= set(shell.user_ns["d"])


def test_an_answer_is_printed_once_and_shown_again_when_asked_for(shell, asked, capsys):
    for source in ('%llm ask "x"', 'import llmlab\nllmlab.ask(prompt="x")'):
        capsys.readouterr()
        run(shell, source)
        assert capsys.readouterr().out.count("It is.") == 1
    run(shell, 'a = %llm ask "x"')
    capsys.readouterr()
    run(shell, "a")
    assert capsys.readouterr().out.count("It is.") == 1
    run(shell, "display(a)")
    assert capsys.readouterr().out.count("It is.") == 1


def test_unloading_takes_everything_away_and_loading_again_brings_it_back(shell, asked, capsys):
    run(shell, "%unload_ext llmlab")
    assert type(reporting.reporter()) is reporting.Reporter
    assert shell.find_line_magic("llm") is None
    assert shell.find_cell_magic("llm") is None
    assert completions(shell, "%llm sta") == []
    run(shell, "%load_ext llmlab")
    run(shell, '%llm ask "x"')
    assert len(asked) == 1


def test_loading_is_light():
    code = (
        "import sys; from IPython.core.interactiveshell import InteractiveShell as S; s = S();"
        "s.run_line_magic('load_ext', 'llmlab');"
        "heavy = {'docker', 'requests', 'llama_cpp', 'plotly', 'ipywidgets', 'numpy', 'pandas'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def completions(shell, line):
    with provisionalcompleter():
        return [found.text for found in shell.Completer.completions(line, len(line))]


@pytest.fixture
def two_servers():
    records = [SimpleNamespace(name="boxed"), SimpleNamespace(name="plain")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "find_all", lambda: records)
        yield


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%llm sta", ["start"]),
        ("%%llm as", ["ask"]),
        ("s = %llm ins", ["inspect"]),
        ("%llm start --na", ["--native", "--name"]),
        ("%llm start --engine llama-s", ["llama-server"]),
        ("%llm start ti", ["tiny"]),
        ("%llm stop bo", ["boxed"]),
        ("%llm ask pl", ["plain"]),
        ("%%llm ask bo", ["boxed"]),
        ("%%llm ask boxed --sy", ["--system"]),
        ("%llm ps --o", ["--out"]),
        ("%llm ps -o mine_", ["mine_a", "mine_b"]),
        ("%%llm ask --out mine_b", ["mine_b"]),
        ("x = %llm ps -o _mi", []),
    ],
)
def test_completion(shell, two_servers, line, expected):
    shell.user_ns.update(mine_a=1, mine_b=2, _mine=3)
    assert sorted(completions(shell, line)) == sorted(expected)


def test_completion_in_the_first_line_of_a_cell_and_not_in_its_body(shell, two_servers):
    cell = "%%llm ask bo\n%llm sta"
    with provisionalcompleter():
        first = [found.text for found in shell.Completer.completions(cell, len("%%llm ask bo"))]
        body = [found.text for found in shell.Completer.completions(cell, len(cell))]
    assert first == ["boxed"]
    assert "start" not in body
    assert completion.candidates([], "", cell=True) == ["ask"], "which alone takes a body"


def test_completion_of_a_models_path(shell, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small.gguf").touch()
    (tmp_path / "models" / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert completions(shell, "%llm start ./mo") == ["./models/"]
    assert completions(shell, "%llm start ./models/") == ["./models/small.gguf"]


def test_completion_of_models(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "synthetic" / "llama-3.2-1b-Q8_0.gguf").touch()
    assert "qwen2.5-0.5b" in completions(shell, "%llm pull qw")
    stored = "synthetic:llama-3.2-1b:Q8_0"
    assert completions(shell, "%llm start synth") == ["synthetic:", stored], "shapes when they are wanted"
    # A token of Python's begins after the colon.
    shapes = completions(shell, "m = %llm start synthetic:llama-3.2")
    assert any(name.endswith("llama-3.2-1b") for name in shapes)
    assert any(name.endswith("llama-3.2-1b:Q8_0") for name in shapes), "and what is on this machine"


def test_completion_offers_what_one_source_knows_when_the_others_fail(shell, monkeypatch):
    def broken():
        raise OSError

    monkeypatch.setattr(store, "stored", broken)
    monkeypatch.setattr(catalog, "entries", broken)
    assert completions(shell, "%llm start ti") == ["tiny"]


def test_completion_does_not_wait_for_a_disk_that_hangs(shell, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(store, "stored", lambda: release.wait(60))
    try:
        assert completions(shell, "%llm start ti") == ["tiny"]
        assert not release.is_set()
    finally:
        release.set()


@pytest.mark.parametrize(
    "line", ["%llm", "%llm ", "%llm nothing ", '%llm ask "open ', "%llm stop ", "%llm start --name "]
)
def test_completion_never_fails(shell, line):
    def broken():
        raise RuntimeError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "find_all", broken)
        completions(shell, line)


def test_what_a_model_writes_is_text():
    evil = "<script>alert(1)</script> **bold** ![x](http://example.org/x.png) \x1b[2J\x1b]0;title\x07"
    reply = cards.Reply("a")
    reply.add(evil)
    for bundle in (reply.bundle(), cards.answer_bundle(an_answer(evil)), cards.note_bundle(evil)):
        assert "<script" not in bundle["text/html"]
        assert "<img" not in bundle["text/html"]
        assert "\x1b" not in bundle["text/plain"]
        assert set(bundle) == {"text/plain", "text/html"}, "no Markdown"


def test_progress_shows_its_stages_and_what_failed():
    progress = cards.Progress("start tiny", "llmlab.start('tiny')", reporting.STAGES)
    progress.stage("engine", "")
    progress.stage("load", "2 of 3 <layers>")
    running = progress.bundle()
    assert "○" in running["text/html"], "what is ahead is drawn as well"
    assert "image" not in running["text/plain"], "a stage that was left out is not shown"
    assert "2 of 3 <layers>" in running["text/plain"]
    assert "&lt;layers&gt;" in running["text/html"]
    progress.end(failed=True)
    assert progress.bundle()["text/plain"].startswith("✗ start tiny")
    assert "○" not in progress.bundle()["text/html"]
    assert "llmlab.start" in progress.bundle()["text/plain"]


def test_emoji_stay_whole_in_plain_text():
    family = "👩‍👧"
    assert render.plain(family) == family


def test_a_server_is_started_asked_and_stopped(shell, require_engine, capsys):
    run(shell, "server = %llm start tiny --native --name shelled")
    assert "llmlab.start('tiny', backend='native', name='shelled')" in capsys.readouterr().out
    run(shell, 'answer = %llm ask shelled "What is a container?"')
    assert shell.user_ns["answer"].text.strip() in capsys.readouterr().out
    run(shell, "again = server.ask('What is a GPU?')")
    assert shell.user_ns["again"].text.strip() in capsys.readouterr().out
    assert run(shell, "%llm stop shelled").names == ("shelled",)
    assert len(run(shell, "%llm ps")) == 0
