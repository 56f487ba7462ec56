"""One verb, three doors: the command line is the function's signature."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import llmlab
from llmlab import verbs
from llmlab.errors import LabError, UnknownNameError, UsageError
from llmlab.verbs import VERBS, Call, HelpShown, parse

NASTY = [
    "{braces} {{name}} {0}",
    "$dollars ${HOME} $(id) `id`",
    "\"double\" 'single' \\back\\slash",
    "two\nlines\n\nand\ttabs",
    "naïve 机器学习 🦙 e\u0301 \u202e right to left",
    "--looks-like-an-option",
    "-h",
    "--help",
    "--",
    "-- behind a marker",
    "-5",
    "- a list item",
    "@file",
    "100 % %s %(prog)s %d",
    "<|im_end|>",
    " leading and trailing ",
    "x" * 100_000,
]
PARAMETERS = [(verb, parameter) for verb in VERBS.values() for parameter in verb.parameters]


def one_line(error: LabError) -> str:
    assert "\n" not in str(error)
    return str(error)


def refused(*words: str, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        parse(words, **options)
    return one_line(caught.value)


def required(verb: verbs.Verb) -> list[str]:
    return ["x" for p in verb.positionals if p.default is inspect.Parameter.empty]


# Signature and parser


def test_every_verb_is_exported():
    for name in VERBS:
        assert getattr(llmlab, name) is VERBS[name].function


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_every_parameter_can_be_typed(verb):
    assert [p.name for p in verb.parameters] == list(inspect.signature(verb.function).parameters)


@pytest.mark.parametrize(("verb", "parameter"), PARAMETERS, ids=lambda item: item.name)
def test_parameter_is_explained(verb, parameter):
    assert len(parameter.help) > 10
    shown = " ".join(verb.help_text("llmlab").split())
    assert parameter.help.replace("%%", "%") in shown


@pytest.mark.parametrize(("verb", "parameter"), PARAMETERS, ids=lambda item: item.name)
def test_parameter_arrives(verb, parameter):
    rest = required(verb)
    if parameter.values:
        for flag, value in zip(parameter.flags, parameter.values, strict=True):
            assert parse([verb.name, flag, *rest]).arguments[parameter.name] == value
        return
    if not parameter.takes_value:
        assert parse([verb.name, *parameter.flags, *rest]).arguments[parameter.name] is True
        return
    for typed in parameter.choices or ("3",):
        words = [*parameter.flags, typed, *rest]
        if not parameter.flags:
            # Optional positionals stand before the required ones, each behind those before it.
            place = verb.positionals.index(parameter)
            optional = parameter.default is not inspect.Parameter.empty
            after = rest if optional else rest[place + 1 :]
            words = [*["other"] * place, typed, *after]
        value = parse([verb.name, *words]).arguments[parameter.name]
        assert value == (parameter.type or str)(typed)
        assert type(value) is (parameter.type or str)


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_what_is_not_typed_is_left_to_the_function(verb):
    assert set(parse([verb.name, *required(verb)]).arguments) == {
        p.name for p in verb.parameters if p.default is inspect.Parameter.empty
    }


def test_units_are_not_typed():
    flags = {flag for _, parameter in PARAMETERS for flag in parameter.flags}
    assert "--timeout" in flags
    assert not [flag for flag in flags if flag.endswith(("-s", "_s"))]


def test_choices_that_are_flags_exclude_each_other():
    assert parse(["start", "--native"]).arguments == {"backend": "native"}
    assert parse(["start", "--container"]).arguments == {"backend": "container"}
    assert "--native" in refused("start", "--container", "--native")


@pytest.mark.parametrize(
    ("words", "arguments", "json"),
    [
        (["ask", "prompt"], {"prompt": "prompt"}, False),
        (["ask", "a", "prompt"], {"prompt": "prompt", "server": "a"}, False),
        (["ask", "a", "--json", "prompt"], {"prompt": "prompt", "server": "a"}, True),
        (["ask", "--json", "a", "--seed", "7", "prompt"], {"prompt": "prompt", "server": "a", "seed": 7}, True),
        (["ask", "prompt", "--max-tokens=5"], {"prompt": "prompt", "max_tokens": 5}, False),
        (["ask", "a", "--", "-h"], {"prompt": "-h", "server": "a"}, False),
        (["ask", "--", "--json"], {"prompt": "--json"}, False),
        (["ask", "--seed", "-1", "p"], {"prompt": "p", "seed": -1}, False),
        (["ask", ""], {"prompt": ""}, False),
        (["start", "--native", "tiny"], {"model": "tiny", "backend": "native"}, False),
        (["start", "tiny", "--container", "--name", "a"], {"model": "tiny", "backend": "container", "name": "a"}, False),
        (["start", "--memory", "2g", "--cpus", "1.5", "--keep"], {"memory": "2g", "cpus": 1.5, "keep": True}, False),
        (["stop", "--all"], {"all": True}, False),
        (["logs", "--tail", "5", "a"], {"name": "a", "tail": 5}, False),
        (["ps", "--json"], {}, True),
    ],
)  # fmt: skip
def test_words_become_arguments(words, arguments, json):
    call = parse(words)
    assert call.arguments == arguments
    assert call.json is json


def test_arguments_come_in_the_order_of_the_signature():
    assert list(parse(["ask", "--seed", "1", "a", "--system", "s", "p"]).arguments) == [
        "prompt",
        "server",
        "system",
        "seed",
    ]


# Prompts


@pytest.mark.parametrize("prompt", NASTY, ids=lambda text: text[:12])
def test_prompt_arrives_unchanged(prompt):
    assert parse(["ask", "--", prompt]).arguments["prompt"] == prompt
    assert parse(["ask", "a", "--", prompt]).arguments == {"server": "a", "prompt": prompt}
    assert parse(["ask", "a"], body=prompt).arguments == {"server": "a", "prompt": prompt}
    if not prompt.startswith("-"):
        assert parse(["ask", prompt, "--json"]).arguments["prompt"] == prompt


def test_cell_body_is_the_prompt():
    call = parse(["ask", "--seed", "1", "--json"], body="two\nlines\n")
    assert call.arguments == {"prompt": "two\nlines", "seed": 1}
    assert call.json


def test_only_ask_takes_a_cell_body():
    assert "no cell body" in refused("start", body="tiny")


def test_cell_body_is_nobodys_value():
    assert "--system" in refused("ask", "a", "--system", body="the question")
    assert "--seed" in refused("ask", "--seed", "--", "5")


def test_cell_body_and_prompt_are_too_many():
    assert "too many" in refused("ask", "a", "prompt", body="another")


@given(st.text(), st.sampled_from([[], ["a"], ["--json"], ["--seed", "1", "a"]]))
def test_any_body_is_taken_as_it_is(body, words):
    assert parse(["ask", *words], body=body).arguments["prompt"] == body.rstrip("\n")


# Errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strat"], "no verb 'strat' (did you mean 'start'?)"),
        (["ASK", "x"], "no verb 'ASK' (did you mean 'ask'?)"),
        (["zzz"], "known: "),
        ([""], "no verb ''"),
        (["--jsn"], "no verb"),
        (["start", "--enginee", "x"], "start has no option --enginee (did you mean '--engine'?)"),
        (["start", "--contianer"], "did you mean '--container'?"),
        (["start", "--cont"], "start has no option --cont (did you mean"),
        (["start", "--nam=a"], "no option --nam (did you mean '--name'?)"),
        (["start", "--engine", "llama-serve"], "no engine 'llama-serve' (did you mean 'llama-server'?)"),
        (["start", "tiny", "tiny"], "one word too many: 'tiny'"),
        (["ask"], "ask needs PROMPT"),
        (["ask", "what", "is", "this"], "too many"),
        (["ask", "a", "b", ""], "too many: ''"),
        (["ask", "--seed", "x", "p"], "invalid int value: 'x'"),
        (["ask", "--temperature", "nan", "p"], "'nan'"),
        (["start", "--cpus", "inf"], "'inf'"),
        (["start", "--name"], "expected one argument"),
        (["ps", "--json=1"], "--json"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(words, message):
    assert message in refused(*words)


def test_unknown_names_know_the_known_ones():
    with pytest.raises(UnknownNameError) as caught:
        parse(["strat"])
    assert caught.value.known == tuple(VERBS)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_overview(words):
    with pytest.raises(HelpShown) as caught:
        parse(words, prog="%llm")
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.summary)}$", caught.value.text, re.MULTILINE)
    assert "%llm VERB --help" in caught.value.text


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_a_verb(verb, flag):
    with pytest.raises(HelpShown) as caught:
        parse([verb.name, "--no-such-option", flag])
    text = caught.value.text
    assert text.startswith(f"usage: llmlab {verb.name}")
    assert verb.summary in text
    assert "Args:" not in text
    assert "SUPPRESS" not in text
    for parameter in verb.options:
        assert all(flag in text for flag in parameter.flags)


# The Python line that does the same


def evaluated(line: str) -> tuple[str, inspect.BoundArguments]:
    """What a Python line calls, and with what, bound to the verb's signature."""
    calls: list[tuple[str, inspect.BoundArguments]] = []

    class Recording:
        def __getattr__(self, name: str) -> Any:
            signature = inspect.signature(VERBS[name].function)
            return lambda *words, **named: calls.append((name, signature.bind(*words, **named)))

    eval(line, {"llmlab": Recording(), "__builtins__": {}})  # noqa: S307 - that it can be evaluated is the point
    (call,) = calls
    return call


@pytest.mark.parametrize("prompt", NASTY, ids=lambda text: text[:12])
def test_python_line_keeps_the_prompt(prompt):
    call = parse(["ask", "a", "--seed", "1", "--", prompt])
    name, bound = evaluated(call.python())
    assert name == "ask"
    assert bound.arguments == call.arguments


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["start", "--native", "tiny"], "llmlab.start('tiny', backend='native')"),
        (["start", "--slots", "2"], "llmlab.start(slots=2)"),
        (["ask", "a", "hi"], "llmlab.ask('hi', server='a')"),
        (["stop", "--all", "--json"], "llmlab.stop(all=True)"),
        (["ps"], "llmlab.ps()"),
    ],
)
def test_python_line(words, line):
    assert parse(words).python() == line


@given(st.data())
def test_python_line_does_the_same(data):
    verb = data.draw(st.sampled_from(list(VERBS.values())))
    words = [verb.name]
    for parameter in verb.options:
        if not data.draw(st.booleans()):
            continue
        if parameter.values:
            words.append(data.draw(st.sampled_from(parameter.flags)))
        elif not parameter.takes_value:
            words.append(parameter.flags[0])
        else:
            number = parameter.type in {int, float}
            value = st.integers().map(str) if number else st.sampled_from(parameter.choices or ("a'\"\n", ""))
            words.append(f"{parameter.flags[0]}={data.draw(value)}")
    count = data.draw(st.integers(len(required(verb)), len(verb.positionals)))
    texts = data.draw(st.lists(st.text(), min_size=count, max_size=count))
    call = parse([*words, "--", *texts])
    name, bound = evaluated(call.python())
    assert name == verb.name
    assert bound.arguments == call.arguments


# Anything at all

WORDS = st.one_of(
    st.sampled_from([*VERBS, "--", "-", "-h", "--json", "", "tiny"]),
    st.sampled_from([flag for _, parameter in PARAMETERS for flag in parameter.flags]),
    st.sampled_from(["--engine=llama-server", "--slots=x", "--seed=1", "--seed=", "-1", "--all=1", "-1 2"]),
    st.text(max_size=8),
    st.text("-=abh '\"%\n", max_size=6),
)


@given(st.lists(WORDS, max_size=7), st.none() | st.text(max_size=8))
@example(["ask", "--"], "--")
@example(["ask", "%(prog)s", "%"], None)
@example(["start", "--engine", "it's 'x' (choose from y)"], None)
def test_nothing_else_ever_comes_out(argv, body):
    try:
        call = parse(argv, body=body)
    except UsageError as error:
        one_line(error)
    except HelpShown:
        pass
    else:
        assert isinstance(call, Call)
        call.python()


def test_parsing_needs_no_container_engine():
    code = (
        "import sys; from llmlab import verbs; verbs.parse(['start', 'tiny']); print('docker' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
