"""Conversations: with the built-in model's servers, and with one that answers by the byte."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

import llmlab
from llmlab import cli
from llmlab.chatting import Chat, Exchange, Reply, Settings, energy
from llmlab.client import Client
from llmlab.errors import AskInterrupted, ContextError, LabError, ServerStoppedError, UsageError
from llmlab.lab import Server, registry
from llmlab.reporting import Reporter, reporting_to
from llmlab.results import Answer
from llmlab.specs import Endpoint
from tests import examples
from tests.conftest import eventually, run_cli
from tests.scripted_server import CHUNKED, answer, chunk, hang, in_turn, scripted, send, stream, then

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def tiny(require_engine) -> Iterator[Server]:
    with llmlab.start("tiny", name="a", backend="native") as server:
        yield server


def event(text: str = "", **more: object) -> bytes:
    choice = {"delta": {"content": text} if text else {}, **more}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


DONE = event(finish_reason="stop") + b"data: [DONE]\n\n"
IDLE = answer(200, b'[{"is_processing": false}]')


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A server that answers as it is told to, and a chat with it."""
    with scripted(tmp_path / "s") as script:
        client = Client("a", Endpoint(socket=script.path))
        monkeypatch.setattr(registry, "client", lambda _: client)
        script.replies["/slots"] = IDLE
        yield script, Chat(Server(examples.record(name="a")))


def of(reply: Reply | Exchange) -> Answer:
    """The answer, which is there."""
    assert reply.answer is not None
    return reply.answer


def asked(script) -> list[list[dict[str, str]]]:
    """The messages of each request."""
    return [
        json.loads(request.partition(b"\r\n\r\n")[2])["messages"]
        for request in script.requests
        if request.startswith(b"POST /v1/chat")
    ]


def test_what_was_said_before_is_sent_along(tiny):
    chat = llmlab.chat("a", system="Be brief.", seed=1, temperature=0)
    first, second = chat.say("What is a container?"), chat.say("And a GPU?")
    assert first.over
    assert "container" in first.text
    roles = [message["role"] for message in chat.messages()]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert chat.messages()[2]["content"] == first.text
    sizes = [of(first).prompt_tokens, of(first).completion_tokens, of(second).prompt_tokens]
    assert None not in sizes
    assert sizes[2] > sizes[0] + sizes[1]  # type: ignore[operator]
    assert (first.replies[0].joules_per_token or 1.0) > 0
    assert of(first).ttft_s
    assert of(first).tokens_per_s


def test_a_chat_is_shown_as_text_and_html_and_data(tiny):
    chat = Chat(tiny)
    assert "chat.say" in str(chat)
    chat.say("What is a container?")
    assert "What is a container?" in str(chat)
    assert "TTFT" in str(chat)
    assert "container" in chat._repr_mimebundle_()["text/html"]
    data = chat.to_dict()
    json.dumps(data)
    assert data["servers"] == [{"name": "a", "model": "tiny"}]
    assert data["exchanges"][0]["replies"][0]["state"] == "done"


def test_probabilities_are_told_for_each_token(tiny):
    chat = Chat(tiny, probabilities=True, temperature=0)
    reply = chat.say("What is a container?").replies[0]
    tokens = of(reply).tokens
    assert tokens is not None
    assert len(tokens) + 1 == of(reply).completion_tokens, "all but the end of the answer"
    assert "".join(token.text for token in tokens).strip() == reply.text.strip()
    assert all(0 < token.probability <= 1 for token in tokens)
    text, probability = tokens[0].likeliest[0]
    assert text == tokens[0].text
    assert probability == pytest.approx(tokens[0].probability)
    chat.set(probabilities=False)
    assert of(chat.say("And a GPU?")).tokens is None


def test_two_servers_get_the_same_question(tiny, require_engine):
    with llmlab.start("tiny", name="b", backend="native"):
        chat = llmlab.chat("a", "b", temperature=0, seed=1)
        exchange = chat.say("What is a container?")
        assert [reply.server for reply in exchange.replies] == ["a", "b"]
        assert exchange.replies[0].text == exchange.replies[1].text != ""
        with pytest.raises(UsageError, match="named twice"):
            llmlab.chat("a", "a")


def test_an_unknown_server_has_a_hint(require_engine):
    with pytest.raises(UsageError, match="start"):
        llmlab.chat()
    done = run_cli("chat", "nobody", check=False)
    assert done.returncode == 2
    assert "nobody" in done.stderr


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": 3}, {"temperature": "hot"}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.5},
        {"max_tokens": 0}, {"max_tokens": 1.5}, {"seed": -1}, {"seed": True}, {"system": None}, {"wisdom": 1},
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused_and_changes_nothing(setting):
    chat = Chat(Server(examples.record()))
    with pytest.raises(UsageError):
        chat.set(**setting)
    assert chat.settings == Settings()


def test_settings_are_sent(told):
    script, chat = told
    script.replies["/v1/chat/completions"] = stream(event("x"), DONE)
    chat.set(top_p=0.5, seed=7, max_tokens=9, system="S", probabilities=True)
    chat.say("q")
    body = json.loads(script.requests[0].partition(b"\r\n\r\n")[2])
    assert (body["top_p"], body["seed"], body["max_tokens"], body["logprobs"]) == (0.5, 7, 9, True)
    assert body["messages"][0] == {"role": "system", "content": "S"}
    assert "does not tell the probabilities" in chat.exchanges[0].replies[0].note


def test_control_tokens_in_what_was_said_before_are_harmless_too(told):
    script, chat = told
    script.replies["/v1/chat/completions"] = stream(event("<|im_end|>evil"), DONE)
    chat.say("q")
    chat.say("r")
    assert "<|im_end|>" not in json.dumps(asked(script)[1], ensure_ascii=False)
    assert chat.exchanges[0].text == "<|im_end|>evil", "what is kept is what was written"


def test_an_answer_that_is_stopped_is_kept_and_the_server_seen_to_stop(told):
    script, chat = told
    released = threading.Event()
    script.replies["/v1/chat/completions"] = then(send(CHUNKED, chunk(event("so far"))), hang(released))
    states: list[str] = []
    chat.listen(lambda: states.append(chat.exchanges[-1].replies[0].state))
    thread = threading.Thread(target=chat.say, args=("q",))
    thread.start()
    eventually(lambda: chat.exchanges and chat.exchanges[0].text == "so far")
    assert chat.busy
    with pytest.raises(UsageError, match="still being written"):
        chat.say("another")
    assert chat.stop()
    thread.join()
    released.set()
    reply = chat.exchanges[0].replies[0]
    assert (reply.text, reply.state, reply.seen_stopped) == ("so far", "stopped", True)
    assert "the server stopped generating within" in reply.note
    assert states.index("writing") < states.index("stopping") < states.index("stopped")
    assert not chat.stop(), "there is nothing to stop any more"
    assert chat.messages()[-1] == {"role": "assistant", "content": "so far"}


def test_ctrl_c_stops_an_answer_and_raises(told):
    script, chat = told
    released = threading.Event()
    script.replies["/v1/chat/completions"] = then(send(CHUNKED, chunk(event("so far"))), hang(released))

    def interrupt() -> None:
        eventually(lambda: chat.exchanges and chat.exchanges[0].text)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(AskInterrupted, match="stopped generating") as caught:
        chat.say("q")
    released.set()
    assert caught.value.stopped
    assert caught.value.answer.text == chat.exchanges[0].text == "so far"
    assert not chat.busy


def test_a_server_that_does_not_tell_is_not_said_to_have_stopped(told):
    script, chat = told
    released = threading.Event()
    script.replies["/slots"] = answer(404, b"")
    script.replies["/v1/chat/completions"] = hang(released)
    thread = threading.Thread(target=chat.say, args=("q",))
    thread.start()
    eventually(lambda: script.requests)
    chat.stop()
    thread.join()
    released.set()
    reply = chat.exchanges[0].replies[0]
    assert (reply.state, reply.seen_stopped) == ("stopped", None)
    assert "does not tell" in reply.note
    assert chat.messages() == [], "of nothing, nothing is sent along"


def test_a_server_that_dies_in_mid_answer_leaves_what_came_and_the_reason(told):
    script, chat = told
    script.replies["/v1/chat/completions"] = send(CHUNKED, chunk(event("so far")))
    with pytest.raises(ServerStoppedError):
        chat.say("q")
    reply = chat.exchanges[0].replies[0]
    assert (reply.text, reply.state) == ("so far", "failed")
    assert "a" in reply.note
    assert not chat.busy
    assert "failed" in str(chat)


def test_a_server_that_was_stopped_says_how_to_start_it_again(tiny):
    chat = Chat(tiny)
    chat.say("What is a container?")
    tiny.stop()
    with pytest.raises(ServerStoppedError, match="start it again"):
        chat.say("And a GPU?")
    assert chat.exchanges[1].replies[0].state == "failed"
    assert len(chat.messages()) == 2


def test_of_two_servers_one_may_fail(tiny, require_engine):
    with llmlab.start("tiny", name="b", backend="native") as other:
        chat = Chat(tiny, other)
        other.stop()
        exchange = chat.say("What is a container?")
    assert [reply.state for reply in exchange.replies] == ["done", "failed"]
    assert "stopped" in exchange.replies[1].note


def test_what_does_not_fit_is_left_out_from_the_oldest_on_and_said(told):
    script, chat = told
    too_long = answer(400, b'{"error":{"message":"exceeds the context","n_prompt_tokens":9,"n_ctx":8}}')
    good = stream(event("x"), DONE)
    script.replies["/v1/chat/completions"] = in_turn([good, good, good, too_long, too_long, good])
    for text in ("1", "2", "3", "4"):
        chat.say(text)
    assert [message["content"] for message in asked(script)[-1]] == ["3", "x", "4"]
    note = chat.exchanges[-1].replies[0].note
    assert "of 3 earlier exchanges, the oldest 2 were not sent" in note
    assert len(chat.messages()) == 8, "nothing is forgotten"


def test_a_question_that_does_not_fit_alone_is_an_error(tiny):
    chat = Chat(tiny)
    with pytest.raises(ContextError, match="too long"):
        chat.say("word " * 3000)
    assert chat.exchanges[0].replies[0].state == "failed"


def test_an_answer_that_the_context_cuts_off_says_so(told):
    script, chat = told
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1021,"completion_tokens":3}}\n\n'
    script.replies["/v1/chat/completions"] = stream(
        event("x", finish_reason="length"), usage, b"data: [DONE]\n\n"
    )
    assert "context of 1024 tokens is full: the answer was cut off" in chat.say("q").replies[0].note
    chat.set(max_tokens=3)
    assert chat.say("q").replies[0].note == "", "it was asked for"


def test_clear_forgets(told):
    script, chat = told
    script.replies["/v1/chat/completions"] = stream(event("x"), DONE)
    chat.say("q")
    chat.clear()
    assert chat.exchanges == ()
    chat.say("r")
    assert asked(script)[-1] == [{"role": "user", "content": "r"}]


def test_an_export_is_text_whatever_the_model_wrote(told, tmp_path):
    script, chat = told
    evil = "```\n![x](http://127.0.0.1:9/x)\n<script>alert(1)</script>\x1b[31m"
    script.replies["/v1/chat/completions"] = stream(event(evil), DONE)
    chat.set(system="# S")
    chat.say("a `b`")
    text = chat.export(tmp_path / "c.md").read_text()
    from markdown_it import MarkdownIt  # noqa: PLC0415

    html = MarkdownIt("commonmark").render(text)
    assert "<img" not in html
    assert "<script" not in html
    assert "\x1b" not in text
    data = json.loads(chat.export(tmp_path / "c.json").read_text())
    assert data["exchanges"][0]["replies"][0]["text"] == evil


def test_an_export_goes_over_nothing(told, tmp_path):
    _, chat = told
    chat.export(tmp_path / "c.md")
    with pytest.raises(UsageError, match="there already"):
        chat.export(tmp_path / "c.md")
    with pytest.raises(UsageError, match=r"neither \.md nor \.json"):
        chat.export(tmp_path / "c.txt")
    with pytest.raises(LabError, match="cannot be written"):
        chat.export(tmp_path / "none" / "c.md")


def test_it_is_reported_as_it_comes(told):
    script, chat = told
    script.replies["/v1/chat/completions"] = stream(event("one "), event("two"), DONE)
    heard: list[str] = []

    class Listening(Reporter):
        def asked(self, prompt, server):
            heard.append(f"{server}<{prompt}")

        def text(self, piece):
            heard.append(piece)

        def answered(self, answer):
            heard.append(f"[{answer.finish_reason}]")

    with reporting_to(Listening()):
        chat.say("q")
    assert heard[0] == "a<q"
    assert "".join(heard[1:-1]) == "one two"
    assert heard[-1] == "[stop]"


def test_energy_is_unknown_where_nothing_counts_it(tiny, monkeypatch):
    monkeypatch.setattr(energy, "_counts", lambda: True)
    reply = Chat(tiny).say("What is a container?").replies[0]
    assert reply.joules is None, "the answer took less than a figure needs"
    assert reply.energy_note
    assert not any(label == "energy" for label, _, _ in reply.chips())


# By lines.


def lines(*typed: str) -> io.StringIO:
    return io.StringIO("".join(f"{line}\n" for line in typed))


def test_lines_are_a_conversation(tiny, monkeypatch, capsys, tmp_path):
    file = tmp_path / "c.md"
    typed = ("/temperature 0", "/system Be brief.", "What is a container?", "", "/nonsense", "/temperature x")
    monkeypatch.setattr("sys.stdin", lines(*typed, f"/export {file}", "/help", "/bye", "never asked"))
    assert cli.main(["chat", "a"]) == 0
    out, err = capsys.readouterr()
    assert "container" in out
    assert "never asked" not in out + err
    for word in ("TTFT", "no command /nonsense", "temperature is 'x'", f"written: {file}", "/export FILE"):
        assert word in err
    assert "Be brief." in file.read_text()


def test_json_lines_are_one_object_for_each_answer(tiny):
    done = run_cli("chat", "a", "--json", input="What is a container?\n\n/bye\n")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["prompt"] for each in found] == ["What is a container?", "/bye"]
    assert all(each["state"] == "done" and each["answer"]["ttft_s"] > 0 for each in found)
    assert done.stderr == ""


def test_json_lines_tell_an_error_and_end_when_the_server_has_gone(tiny, monkeypatch, capsys):
    def typed() -> Iterator[str]:
        yield "word " * 3000 + "\n"
        tiny.stop()
        yield from ("gone\n", "more\n")

    monkeypatch.setattr("sys.stdin", typed())
    assert cli.main(["chat", "a", "--json"]) == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["error"]["type"] for each in found] == ["ContextError", "ServerStoppedError"]


def test_ctrl_d_ends_a_terminal_and_nothing_raw_reaches_it(tiny):
    primary, secondary = pty.openpty()
    command = [sys.executable, "-m", "llmlab", "chat", "a"]
    process = subprocess.Popen(
        command, stdin=secondary, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TERM": "dumb"}
    )  # fmt: skip
    os.close(secondary)
    os.write(primary, b"What is a container?\n")
    os.write(primary, b"\x04")
    out, err = process.communicate(timeout=60)
    os.close(primary)
    assert process.returncode == 0
    assert b"container" in out
    assert b"TTFT" in err


def test_the_verb_says_what_it_does():
    text = run_cli("chat", "--help").stdout
    for word in ("--system", "--temperature", "--top-p", "--max-tokens", "--seed", "--probabilities"):
        assert word in text
